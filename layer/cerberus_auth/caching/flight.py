"""A fetch in its own thread, which callers wait for."""

from __future__ import annotations

import threading
from _contextvars import copy_context  # importing contextvars costs another module

from ..deadline import Deadline, Moment
from .kept import Terms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..errors import CerberusError
    from .kept import Kept

_SLACK_SECONDS = 1.0  # after its timeout, before a flight counts as abandoned
_ANY = Terms()


class Flight:
    """A running fetch, and its result once it has landed."""

    def __init__(self, seconds: float, attempts: int | None = None, terms: Terms = _ANY) -> None:
        self.began = Moment()
        self.deadline = Deadline(seconds, attempts=attempts)
        self.terms = terms  # what the caller that started it accepts
        self.max_wait = 0.0  # seconds after its start for which callers with a usable value wait
        self.keep: Callable[[Kept], None] | None = None  # caches an offered value; None if nothing is shared
        self.is_trial = False  # whether it tests for the breaker if Cerberus is available again
        self.outage: CerberusError | None = None  # the error of an outage: look for a shared value only
        self.generation = 0  # of the cache: results of an earlier generation are dropped
        self.publications: list[Callable[[], Any]] = []  # called after it has landed, to share the value
        self.landed = False
        self.value: Kept | None = None
        self.error: CerberusError | None = None
        self.landing = threading.Event()
        self.signal = threading.Event()  # set by landing, and set and replaced by each offer
        self.ended: threading.Event | None = None  # set when its thread ends; None without a thread

    def is_abandoned(self) -> bool:
        """Return whether its time is over by either clock, for example because Lambda froze the process."""
        return self.began.age() > self.deadline.seconds + _SLACK_SECONDS

    def start(self, work: Callable[[], Any]) -> None:
        """Run ``work`` in a daemon thread with the caller's context variables, or in this thread if none can be started."""
        ended = self.ended = threading.Event()

        def run() -> None:
            try:
                work()
                for each in self.publications:
                    each()
            finally:
                ended.set()

        thread = threading.Thread(target=copy_context().run, args=(run,), name="cerberus-auth", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter exits
            run()

    def check_outage(self) -> None:
        """Raise the error of the outage, if there is one, instead of a request to Cerberus."""
        if self.outage is not None:
            raise self.outage.fresh()

    def land(self, value: Kept | None, error: CerberusError | None) -> None:
        """Set the result and wake the callers."""
        self.value, self.error, self.landed = value, error, True
        self.landing.set()
        self.signal.set()

    def offer(self, value: Kept) -> None:
        """Give callers a stale value to fall back on, and limit the fetch to one attempt."""
        if self.keep is not None:
            self.keep(value)
        self.deadline.attempts = 1
        signal, self.signal = self.signal, threading.Event()
        signal.set()

    def wait_for_publication(self, seconds: float) -> None:
        """Wait until its thread ends, for ``seconds`` at most."""
        if self.ended is not None:
            self.ended.wait(max(0.0, seconds))
