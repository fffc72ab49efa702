"""Deadlines, pauses and jitter. All times are in seconds."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

from .errors import CerberusError, DeadlineExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_PAUSES = 1024


class Moment:
    """Record the current time by the monotonic and the wall clock.

    Both are needed: the monotonic clock stops while Lambda freezes a container, and an adjustment can set the wall clock back.
    """

    __slots__ = ("is_local", "monotonic", "wall")

    def __init__(self) -> None:
        self.monotonic = time.monotonic()
        self.wall = time.time()
        self.is_local = True  # this process recorded it: the monotonic clocks of processes do not compare

    @classmethod
    def at(cls, wall: float) -> Moment:
        """Return a moment that another process recorded.

        Parameters
        ----------
        wall : float
            Seconds since the epoch. A time in the future counts as now.
        """
        moment = cls()
        moment.monotonic -= max(0.0, moment.wall - wall)
        moment.wall = min(moment.wall, wall)
        moment.is_local = False
        return moment

    def age(self) -> float:
        """Return the seconds since this moment, by the clock that shows more."""
        return max(time.monotonic() - self.monotonic, time.time() - self.wall)

    def is_before(self, other: Moment) -> bool:
        """Return whether this moment is earlier than another one.

        The monotonic clock decides if this process recorded both moments, else the wall clock.
        """
        if self.is_local and other.is_local:
            return self.monotonic < other.monotonic
        return self.wall < other.wall


class Pause:
    """A number of seconds that starts now and ends as soon as one of the two clocks says so.

    Parameters
    ----------
    seconds : float
        The length of the pause.
    """

    __slots__ = ("began", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began = Moment()

    def lasts(self) -> bool:
        """Return whether the pause is not over yet."""
        return self.began.age() < self.seconds


class Pauses:
    """A pause for each key. If there are too many, all of them end."""

    __slots__ = ("_pauses",)

    def __init__(self) -> None:
        self._pauses: dict[str, Pause] = {}

    def lasts(self, key: str) -> bool:
        """Return whether the pause of a key has started and is not over yet."""
        pause = self._pauses.get(key)
        return pause is not None and pause.lasts()

    def start(self, key: str, seconds: float) -> None:
        """Start a pause for a key. It replaces an earlier one."""
        if len(self._pauses) >= _MAX_PAUSES:
            self._pauses.clear()
        self._pauses[key] = Pause(seconds)


class Step:
    """A part of an authentication and the time it took.

    Parameters
    ----------
    name : str
        For example ``kms:Decrypt``.
    began : float
        The start, in seconds since the epoch.
    seconds : float
        The duration.
    """

    __slots__ = ("began", "name", "seconds")

    def __init__(self, name: str, began: float, seconds: float) -> None:
        self.name = name
        self.began = began
        self.seconds = seconds

    def __repr__(self) -> str:
        return f"<Step {self.name}, {self.seconds:.3f} s>"


class Deadline:
    """The end of a caller's time limit, and the steps that the time was spent on.

    Parameters
    ----------
    seconds : float
        The time limit, from now.
    steps : list of Step, optional
        The list that receives the steps. A new list by default.
    attempts : int, optional
        The maximum number of times that one request is sent. ``CERBERUS_MAX_ATTEMPTS`` by default.
    """

    __slots__ = ("_end", "attempts", "before_attempt", "seconds", "steps")

    def __init__(self, seconds: float, steps: list[Step] | None = None, *, attempts: int | None = None) -> None:
        self.seconds = seconds
        self.steps: list[Step] = [] if steps is None else steps
        self.attempts = attempts
        self.before_attempt: Callable[[], object] | None = None  # called before each request is sent
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds left. Negative after the deadline."""
        return self._end - time.monotonic()

    def within(self, seconds: float) -> Deadline:
        """Return a deadline in ``seconds`` from now, or this one if it is earlier. Both share steps and attempts."""
        return Deadline(min(seconds, self.remaining()), self.steps, attempts=self.attempts)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record the time of a step, and set ``step`` of a ``CerberusError`` unless an inner step has set it."""
        began, since = time.time(), time.monotonic()
        try:
            yield
        except CerberusError as error:
            error.step = error.step or name
            raise
        finally:
            self.steps.append(Step(name, began, time.monotonic() - since))

    def check(self, activity: str) -> float:
        """Return the seconds left, and fail after the deadline.

        Parameters
        ----------
        activity : str
            What the caller does now, for the text of the error, such as ``connecting to Cerberus``.

        Returns
        -------
        float
            The seconds left, more than 0.

        Raises
        ------
        DeadlineExceeded
            The deadline has passed.
        """
        left = self.remaining()
        if left <= 0:
            raise DeadlineExceeded(
                f"The timeout of {self.seconds:.3g} s expired while {activity}. Increase CERBERUS_TIMEOUT, timeout= or the "
                f"timeout of the function, or check why the service is slow."
            )
        return left


def jitter() -> float:
    """Return a random number in [0, 1).

    It comes from the operating system, because a snapshot or a fork copies the seed of ``random``.
    """
    return int.from_bytes(os.urandom(4), "big") / 2**32
