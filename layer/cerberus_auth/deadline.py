"""Time as this package counts it: deadlines on the monotonic clock, in seconds, and jitter."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

from .errors import CerberusError, DeadlineExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Moment:
    """When a request was sent, by both clocks: a frozen container stops the monotonic one, an adjustment can set the wall
    clock back."""

    __slots__ = ("is_own", "monotonic", "wall")

    def __init__(self) -> None:
        self.monotonic = time.monotonic()
        self.wall = time.time()
        self.is_own = True  # not another process's

    @classmethod
    def at(cls, wall: float) -> Moment:
        """Return a moment that another process noted by its wall clock, in seconds since the epoch; now, if it is to come."""
        moment = cls()
        moment.monotonic -= max(0.0, moment.wall - wall)
        moment.wall = min(moment.wall, wall)
        moment.is_own = False
        return moment

    def age(self) -> float:
        """Return the seconds since then, by the clock that counted more."""
        return max(time.monotonic() - self.monotonic, time.time() - self.wall)

    def is_before(self, other: Moment) -> bool:
        """Tell whether it was earlier: by the clock that nobody sets, if this process noted both."""
        if self.is_own and other.is_own:
            return self.monotonic < other.monotonic
        return self.wall < other.wall


class Pause:
    """A number of seconds from now, over as soon as either clock says so."""

    __slots__ = ("began", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began = Moment()

    def lasts(self) -> bool:
        """Tell whether it is not over."""
        return self.began.age() < self.seconds


class Step:
    """A part of an authentication: its name, when it began in seconds since the epoch, and the seconds it took."""

    __slots__ = ("began", "name", "seconds")

    def __init__(self, name: str, began: float, seconds: float) -> None:
        self.name = name
        self.began = began
        self.seconds = seconds

    def __repr__(self) -> str:
        return f"<Step {self.name}, {self.seconds:.3f} s>"


class Deadline:
    """The moment a caller's time is up, and what the time until then was spent on.

    Parameters
    ----------
    steps
        Where to note them; a list of its own by default.
    attempts
        How often one request may be sent; by default as often as ``CERBERUS_MAX_ATTEMPTS`` says.
    """

    __slots__ = ("_end", "attempts", "before_attempt", "seconds", "steps")

    def __init__(self, seconds: float, steps: list[Step] | None = None, *, attempts: int | None = None) -> None:
        self.seconds = seconds
        self.steps: list[Step] = [] if steps is None else steps
        self.attempts = attempts
        self.before_attempt: Callable[[], object] | None = None  # called before each request is sent
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left; negative when the time is up."""
        return self._end - time.monotonic()

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and one in so many seconds; its steps and attempts are this one's."""
        return Deadline(min(seconds, self.remaining()), self.steps, attempts=self.attempts)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Note the time that a step takes, and name it in an error that comes from it, unless a step within it has."""
        began, since = time.time(), time.monotonic()
        try:
            yield
        except CerberusError as error:
            error.step = error.step or name
            raise
        finally:
            self.steps.append(Step(name, began, time.monotonic() - since))

    def check(self, doing: str) -> float:
        """Seconds left, always positive.

        Raises
        ------
        DeadlineExceeded
            The time is up; the text says what was being done.
        """
        left = self.remaining()
        if left <= 0:
            raise DeadlineExceeded(
                f"the {self.seconds:.3g} s allowed were over while {doing}. Allow more (CERBERUS_TIMEOUT, timeout=, or the "
                f"function's own timeout), or see whether that service is slow or out of reach"
            )
        return left


def jitter() -> float:
    """A random fraction in [0, 1). From the system: the seed of ``random`` is copied with a snapshot and by a fork."""
    return int.from_bytes(os.urandom(4), "big") / 2**32
