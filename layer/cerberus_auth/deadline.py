"""Time as this package counts it: deadlines on the monotonic clock, in seconds, and jitter."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

from .errors import CerberusError, DeadlineExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


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
    """

    __slots__ = ("_end", "seconds", "steps")

    def __init__(self, seconds: float, steps: list[Step] | None = None) -> None:
        self.seconds = seconds
        self.steps: list[Step] = [] if steps is None else steps
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left; negative when the time is up."""
        return self._end - time.monotonic()

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and one in so many seconds; its steps are this one's."""
        return Deadline(min(seconds, self.remaining()), self.steps)

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
