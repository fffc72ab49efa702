"""One fetch under way, in a thread of its own. Callers only wait on it."""

from __future__ import annotations

import threading
from _contextvars import copy_context  # of contextvars, whose own module costs an import

from ..deadline import Deadline, Moment
from .kept import Terms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..errors import CerberusError
    from .kept import Kept

_SLACK_SECONDS = 1.0  # a flight is abandoned when it is past its time by more than this
_ANY = Terms()


class Flight:
    """A fetch under way, and its outcome once it has landed."""

    def __init__(self, seconds: float, attempts: int | None = None, terms: Terms = _ANY) -> None:
        self.began = Moment()
        self.deadline = Deadline(seconds, attempts=attempts)
        self.terms = terms  # of those who started it
        self.patience = 0.0  # seconds from its start that a caller with a usable value waits for it
        self.keep: Callable[[Kept], None] | None = None  # keeps what is offered; None if nothing may be shared
        self.is_trial = False  # whether it finds out for the breaker if Cerberus is back
        self.outage: CerberusError | None = None  # during which it started: it looks at what is shared, and asks nobody
        self.era = 0  # of the cache; what a flight of an earlier one brings is not kept
        self.after: list[Callable[[], Any]] = []  # called when it has landed: what publishes the value
        self.landed = False
        self.value: Kept | None = None
        self.error: CerberusError | None = None
        self.landing = threading.Event()
        self.signal = threading.Event()  # set when it has landed, and replaced at each offer
        self.ended: threading.Event | None = None  # set when its thread has; None without one of its own

    def is_abandoned(self) -> bool:
        """Tell whether it is past its time by either clock, for example because Lambda froze it."""
        return self.began.age() > self.deadline.seconds + _SLACK_SECONDS

    def start(self, work: Callable[[], Any]) -> None:
        """Work in a daemon thread with the caller's context variables; in this one if none can be started."""
        ended = self.ended = threading.Event()

        def run() -> None:
            try:
                work()
                for each in self.after:
                    each()
            finally:
                ended.set()

        thread = threading.Thread(target=copy_context().run, args=(run,), name="cerberus-auth", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is about to exit
            run()

    def check_outage(self) -> None:
        """Stop before a request to Cerberus.

        Raises
        ------
        CerberusError
            The breaker was open when this flight started.
        """
        if self.outage is not None:
            raise self.outage.fresh()

    def land(self, value: Kept | None, error: CerberusError | None) -> None:
        """Note the outcome and wake the callers."""
        self.value, self.error, self.landed = value, error, True
        self.landing.set()
        self.signal.set()

    def offer(self, value: Kept) -> None:
        """Give the callers a value that is not fresh, to fall back on while one attempt is made for a new one."""
        if self.keep is not None:
            self.keep(value)
        self.deadline.attempts = 1
        signal, self.signal = self.signal, threading.Event()
        signal.set()

    def wait_for_publication(self, seconds: float) -> None:
        """Wait until its thread has ended."""
        if self.ended is not None:
            self.ended.wait(max(0.0, seconds))
