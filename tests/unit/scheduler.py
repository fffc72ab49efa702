"""Threads on virtual time: one runs at a time, and the clocks stand still while any can run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

MAX_TURNS = 5000
"""At one moment of virtual time; some threads at some steps each need a few dozen."""


class _EndedError(BaseException):
    """Ends a thread that is no longer wanted, wherever it waits."""


def _signal() -> threading.Lock:
    """Who acquires it waits for the one release: several times as cheap as a semaphore."""
    signal = threading.Lock()
    signal.acquire()
    return signal


class Task:
    """One thread of a scheduler."""

    def __init__(self, scheduler: Scheduler, work: Callable[[], object]) -> None:
        self.done = False
        self.error: BaseException | None = None
        self.until: float | None = None  # by the monotonic clock; while it waits
        self.ready: Callable[[], bool] = lambda: True
        self.ended = False
        self.go = _signal()
        self._scheduler = scheduler
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.go.acquire()
        try:
            if not self.ended:
                self._work()
        except _EndedError:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.done = True
            self._scheduler._baton.release()

    def end(self) -> None:
        self.ended = True
        while not self.done:
            self._scheduler._resume(self)
        self._thread.join()


class Scheduler:
    """Runs tasks in an order that ``choose`` decides, and moves two clocks.

    :param choose: given a number, chooses one below it.
    """

    def __init__(self, choose: Callable[[int], int]) -> None:
        self.monotonic = 1000.0
        self.wall = 1_700_000_000.0
        self.current: Task | None = None
        self.on_set: Callable[[], None] = lambda: None
        self.can_start = True  # threads; not when the interpreter is about to exit
        self._choose = choose
        self._tasks: list[Task] = []
        self._baton = _signal()
        # What the code under test gets in place of the modules of these names.
        self.time = SimpleNamespace(monotonic=lambda: self.monotonic, time=lambda: self.wall)
        self.threading = SimpleNamespace(
            Lock=lambda: _Lock(self),
            RLock=lambda: _Lock(self),
            Event=lambda: Event(self),
            Thread=self._thread,
            local=threading.local,
        )

    def spawn(self, work: Callable[[], object]) -> Task:
        task = Task(self, work)
        self._tasks.append(task)
        return task

    def _thread(self, target: Callable[..., object], args: tuple[Any, ...], **_: object) -> SimpleNamespace:
        def start() -> None:
            if not self.can_start:
                raise RuntimeError("can't start new thread")
            self.spawn(lambda: target(*args))

        return SimpleNamespace(start=start)

    def run(self, turns: int | None = None) -> None:
        """Until nobody can run, or for so many turns. The clocks stand still."""
        for _ in range(MAX_TURNS if turns is None else turns):
            able = [task for task in self._tasks if self._due(task) or task.ready()]
            if not able:
                return
            self._resume(able[self._choose(len(able))])
        assert turns is not None, "the threads go round in circles"

    def advance(self, seconds: float, *, wall: bool = True) -> None:
        """Move the monotonic clock, and with it the wall clock or not; whoever has waited long enough runs on the way."""
        end = self.monotonic + seconds
        self.run()
        while True:
            dues = [task.until for task in self._tasks if task.until is not None]
            due = max(self.monotonic, min([end, *dues]))
            self.wall += due - self.monotonic if wall else 0
            self.monotonic = due
            if not any(self._due(task) for task in self._tasks):
                break
            self.run()
        self.monotonic = end

    def wait(self, ready: Callable[[], bool], seconds: float | None = None) -> bool:
        """Let others run, and go on when ``ready`` says so (true) or the time is over (false)."""
        task = self.current
        if task is None:
            assert ready(), "the test's own thread would wait for ever"
            return True
        task.ready = ready
        task.until = None if seconds is None else self.monotonic + seconds
        self._baton.release()
        task.go.acquire()
        if task.ended:
            raise _EndedError
        return ready()

    def forget(self) -> None:
        """No task runs on, as in the child of a fork."""
        for task in list(self._tasks):
            task.end()
        self._tasks.clear()

    @property
    def alive(self) -> int:
        return len(self._tasks)

    def _due(self, task: Task) -> bool:
        return task.until is not None and task.until <= self.monotonic

    def _resume(self, task: Task) -> None:
        self.current, task.until, task.ready = task, None, lambda: True
        task.go.release()
        self._baton.acquire()
        self.current = None
        if task.done and task in self._tasks:
            self._tasks.remove(task)
        if task.error is not None:
            raise task.error


class _Lock:
    """Re-entrant, so that code which holds it for too long is seen to do so, and does not merely stop."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._owner: object = None
        self._depth = 0

    def __enter__(self) -> None:
        me = self._scheduler.current
        if self._depth and self._owner is me:
            self._depth += 1
            return
        self._scheduler.wait(lambda: self._depth == 0)
        self._owner, self._depth = me, 1
        self._scheduler.wait(lambda: True)  # the system can stop a thread here too

    def __exit__(self, *_: object) -> None:
        self._depth -= 1


class Event:
    """As ``threading.Event``; the scheduler's ``on_set`` hears of every one that is set."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._set = False

    def set(self) -> None:
        self._set = True
        self._scheduler.on_set()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        return self._set or self._scheduler.wait(lambda: self._set, timeout)
