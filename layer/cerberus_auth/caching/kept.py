"""What is kept: a value that is fresh, then due, then overdue, then gone."""

from __future__ import annotations

import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..deadline import Moment

FRESH, DUE, OVERDUE, GONE = range(4)


class Lifetime:
    """The ages, in seconds, at which a value stops being fresh, becomes overdue, and is gone."""

    __slots__ = ("due", "fresh", "gone")

    def __init__(self, fresh: float, due: float, gone: float) -> None:
        self.fresh, self.due, self.gone = fresh, due, gone


class Kept:
    """A value, the moment just before it was requested, its lifetime, its size in bytes, and what copies it."""

    __slots__ = ("asked", "copy", "fetch", "fresh", "fresh_wall", "lifetime", "size", "used", "value")

    def __init__(self, value: Any, asked: Moment, lifetime: Lifetime, size: int = 0, copy: Any = None) -> None:
        self.value, self.asked, self.lifetime, self.size, self.copy = value, asked, lifetime, size, copy
        self.used = asked.monotonic
        self.fetch: Any = None  # what brought it, for an extension to refresh it
        # Moments and not an age: the warm path reads each clock once.
        self.fresh = asked.monotonic + lifetime.fresh
        self.fresh_wall = asked.wall + lifetime.fresh

    def __reduce__(self) -> str:
        raise TypeError("a kept value is never written anywhere: read it where it is needed")

    def stage(self, lifetime: Lifetime | None = None) -> int:
        """Return ``FRESH``, ``DUE``, ``OVERDUE`` or ``GONE``, by its own lifetime or another."""
        age, lasts = self.asked.age(), lifetime or self.lifetime
        return (age >= lasts.fresh) + (age >= lasts.due) + (age >= lasts.gone)


class Terms:
    """What a caller accepts: a value by its age, or by a rule for which age does not count."""

    __slots__ = ("accepts", "lifetime")

    def __init__(self, lifetime: Lifetime | None = None, accepts: Callable[[Kept], bool] | None = None) -> None:
        self.lifetime, self.accepts = lifetime, accepts

    @property
    def gone(self) -> float:
        """The age that no value may have; infinite by default, 0 if age does not count."""
        if self.accepts is not None:
            return 0.0
        return self.lifetime.gone if self.lifetime is not None else math.inf

    def stage(self, kept: Kept | None) -> int:
        """Return the stage of a value for this caller."""
        if kept is None:
            return GONE
        if self.accepts is None:
            return kept.stage(self.lifetime)
        return FRESH if self.accepts(kept) else GONE
