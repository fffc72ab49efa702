"""Time as this package counts it: deadlines on the monotonic clock, in seconds, and jitter."""

from __future__ import annotations

import os
import time

from .errors import DeadlineExceeded


class Deadline:
    """The moment a caller's time is up."""

    __slots__ = ("_end", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left; negative when the time is up."""
        return self._end - time.monotonic()

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and one in so many seconds."""
        return Deadline(min(seconds, self.remaining()))

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
