"""The items that a store holds for the containers of one role, and the failures of a store."""

from __future__ import annotations

import logging
import os

from ..deadline import Pause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from ..deadline import Deadline, Moment

    class Store(Protocol):
        """Reads and writes one item. Its methods raise ``StoreFailure``."""

        def get(self) -> Item | None:
            """Return the stored item; None if there is none."""

        def swap(self, seen: Item | None, new: Item) -> Item | None:
            """Replace ``seen`` with ``new`` if ``seen`` is still stored. Return the item that is stored now."""


FORMAT = 2  # version of the item format; version 1 had no format, pause and failure fields
SKEW_SECONDS = 1.0  # maximum difference between the clocks of two containers
MAX_PAUSE_SECONDS = 60.0
EMPTY_TTL_SECONDS = 3600.0  # TTL of an item without a ciphertext
SUSPENSION_SECONDS = 60.0  # time until a failed store is used again
UNSHARED = "Unshared"  # marks an item whose value cannot be shared, so that no container waits for it
_MAX_CLAIM_SECONDS = 31.0  # not the own read timeout: functions of one role can have different ones
_MAX_TIME = 1e11  # seconds since the epoch; a later time is read as 0
_MAX_FAILURE_LENGTH = 64

_logger = logging.getLogger("cerberus_auth")


class StoreFailure(Exception):
    """A store cannot be used. The text says why and what to do. It does not leave the package."""


class StoreBusy(StoreFailure):
    """The store throttles requests."""


class StoreSlow(StoreFailure):
    """The store did not answer in time."""


class SealFailure(StoreFailure):
    """The KMS key cannot be used; the store can."""


class Item:
    """A stored item. An attacker can have written it, so a field of an unexpected type is ignored.

    Parameters
    ----------
    response
        Ciphertext in base64; empty if there is none.
    asked
        Time of the request, in seconds since the epoch.
    expires
        End of use, in seconds since the epoch. It is the TTL of the table.
    claimed_until
        End of the claim of the container that fetches a new value, in seconds since the epoch.
    paused_until
        End of the pause after failures, in seconds since the epoch.
    failures
        Number of failures in a row.
    failure
        Class of the last failure, or ``UNSHARED``. In the breaker's item: the path that failed with 5xx.
    version
        Unique for each written item. By default it is created.
    """

    __slots__ = (
        "asked",
        "claimed_until",
        "expires",
        "failure",
        "failures",
        "format",
        "paused_until",
        "response",
        "version",
    )

    def __init__(
        self,
        response: str = "",
        asked: float = 0,
        expires: float = 0,
        claimed_until: float = 0,
        version: object = None,
        *,
        paused_until: float = 0,
        failures: int = 0,
        failure: str = "",
    ) -> None:
        self.response = response
        self.asked = asked
        self.expires = expires
        self.claimed_until = claimed_until
        self.paused_until = paused_until
        self.failures = failures
        self.failure = failure
        self.format = FORMAT
        self.version = version or os.urandom(8).hex()

    @classmethod
    def read(cls, fields: Mapping[str, object]) -> Item:
        """Return the item with the fields of a store."""
        response, failure = fields.get("response"), fields.get("failure")
        asked, expires, claimed, paused = (
            _time(fields.get(name)) for name in ("asked", "expires", "claimed_until", "paused_until")
        )
        item = cls(response if isinstance(response, str) else "", asked, expires, claimed)
        item.paused_until = paused
        item.failures = int(min(_time(fields.get("failures")), 100))
        item.failure = (
            failure if isinstance(failure, str) and failure.isalnum() and len(failure) <= _MAX_FAILURE_LENGTH else ""
        )
        item.format = int(min(_time(fields.get("format")), 1000)) or 1
        item.version = fields.get("version")  # None if an attacker wrote the item without one
        return item

    @classmethod
    def unshareable(cls, asked: Moment) -> Item:
        """Return the item for a value that cannot be shared."""
        return cls(asked=asked.wall, expires=asked.wall + EMPTY_TTL_SECONDS, failure=UNSHARED)

    def fields(self) -> dict[str, object]:
        """Return the fields to store, by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def replaced(self, **fields: object) -> Item:
        """Return a copy with these fields replaced and a new version."""
        item = Item()
        for name in ("response", "asked", "expires", "claimed_until", "paused_until", "failures", "failure"):
            setattr(item, name, fields.get(name, getattr(self, name)))
        return item

    def is_usable(self, now: float) -> bool:
        """Return whether the item has a ciphertext and has not expired."""
        return bool(self.response) and self.version is not None and self.asked > 0 and now < self.expires

    def is_claimed(self, now: float, longest: float) -> bool:
        """Return whether a container has a claim. A claim longer than any container makes is invalid."""
        return now < self.claimed_until <= now + max(longest, _MAX_CLAIM_SECONDS) + SKEW_SECONDS

    def is_unshareable(self, now: float) -> bool:
        """Return whether the value cannot be shared, so that each container fetches it."""
        return self.failure == UNSHARED and now < self.expires

    def pause_left(self, now: float) -> float:
        """Return the rest of the pause, in seconds. A pause longer than any container makes is invalid and counts as 0."""
        left = self.paused_until - now
        return left if 0 < left <= MAX_PAUSE_SECONDS + SKEW_SECONDS else 0.0

    def __repr__(self) -> str:
        return f"<Item requested at {self.asked:.3f}, claimed until {self.claimed_until:.3f}>"


class StoreState:
    """A kind of store, or the key: how to open it, and whether it is suspended after a failure."""

    def __init__(self, name: str, store: Callable[[str, str, Deadline], Store] | None = None) -> None:
        self.name = name
        self.store = store
        self._suspension = Pause(0)
        self._has_warned = False

    def is_suspended(self) -> bool:
        """Return whether the store is not used for now."""
        return self._suspension.lasts()

    def suspend(self, failure: StoreFailure) -> None:
        """Stop using the store for a minute. Log the first failure."""
        self._suspension = Pause(SUSPENSION_SECONDS)
        if not self._has_warned:
            self._has_warned = True
            _logger.warning("%s cannot be used, sending requests to Cerberus instead. %s", self.name, failure)


def _time(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < _MAX_TIME else 0.0
