"""A cached value, which is first fresh, then due, then overdue, then gone."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..deadline import Moment

FRESH, DUE, OVERDUE, GONE = range(4)


class Lifetime:
    """The ages in seconds at which a value becomes due, overdue and gone."""

    __slots__ = ("due", "fresh", "gone")

    def __init__(self, fresh: float, due: float, gone: float) -> None:
        self.fresh, self.due, self.gone = fresh, due, gone


class Kept:
    """A value, the moment before its request, its lifetime, its size in bytes, and the function that copies it."""

    __slots__ = ("asked", "copy", "fetch", "fresh", "fresh_wall", "lifetime", "size", "used", "value")

    def __init__(self, value: Any, asked: Moment, lifetime: Lifetime, size: int = 0, copy: Any = None) -> None:
        self.value, self.asked, self.lifetime, self.size, self.copy = value, asked, lifetime, size, copy
        self.used = asked.monotonic
        self.fetch: Any = None  # with which the extension refreshes it
        # As points in time: the warm path reads each clock once.
        self.fresh = asked.monotonic + lifetime.fresh
        self.fresh_wall = asked.wall + lifetime.fresh

    def __reduce__(self) -> str:
        raise TypeError("A cached value cannot be pickled. Read the secret where you need it.")

    def stage(self, lifetime: Lifetime | None = None) -> int:
        """Return ``FRESH``, ``DUE``, ``OVERDUE`` or ``GONE``, by its own lifetime or the given one."""
        age, lasts = self.asked.age(), lifetime or self.lifetime
        return (age >= lasts.fresh) + (age >= lasts.due) + (age >= lasts.gone)


class Terms:
    """What a caller accepts: values of a certain age, or values that a function accepts at any age."""

    __slots__ = ("accepts", "lifetime")

    def __init__(self, lifetime: Lifetime | None = None, accepts: Callable[[Kept], bool] | None = None) -> None:
        self.lifetime, self.accepts = lifetime, accepts

    def stage(self, kept: Kept | None) -> int:
        """Return the stage of a value for this caller."""
        if kept is None:
            return GONE
        if self.accepts is None:
            return kept.stage(self.lifetime)
        return FRESH if self.accepts(kept) else GONE
