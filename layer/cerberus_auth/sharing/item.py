"""What a store holds for the containers of one role, and what can be wrong with a store."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    class Store(Protocol):
        """Where one item is. Calls raise ``StoreFailure``."""

        def get(self) -> Item | None:
            """Return the item; None if there is none."""

        def swap(self, seen: Item | None, new: Item) -> Item | None:
            """Replace ``seen`` by ``new`` if it is still there. Return what is there now."""


FORMAT = 2  # of items; 1 had no such field, and neither a pause nor failures
SKEW_SECONDS = 1.0  # by which the clocks of two containers may differ
LONGEST_PAUSE_SECONDS = 60.0
UNSHARED = "Unshared"  # in place of a failure: what was fetched cannot be shared, so nobody waits for it
_LONGEST_CLAIM_SECONDS = 31.0  # functions of one role can have read timeouts of their own
_LAST_SECOND = 1e11  # since the epoch: a later moment is taken for 0
_LONGEST_NAME = 64


class StoreFailure(Exception):
    """A store cannot be used. The text says why, and what to do. Stays inside the package."""


class StoreBusy(StoreFailure):
    """The store throttles requests for now."""


class StoreSlow(StoreFailure):
    """The store did not answer in time."""


class SealFailure(StoreFailure):
    """The key that seals what is shared cannot be used; the store can."""


class Item:
    """What is stored. An attacker may have written it: a field of another type counts as absent.

    Parameters
    ----------
    response
        The ciphertext, in base64; empty if there is none.
    asked
        When it was requested, in seconds since the epoch.
    expires
        When it is of no more use, in seconds since the epoch: the table's TTL.
    claimed_until
        Until when a container fetches a new one, in seconds since the epoch.
    paused_until
        Until when no container tries again, after failures.
    failures
        The failures in a row.
    failure
        What the last one was, or ``UNSHARED``; of the breaker's item, the path that was answered with 5xx.
    version
        Different for each item ever written; by default a new one.
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
        """Make an item of the fields in a store."""
        response, failure = fields.get("response"), fields.get("failure")
        asked, expires, claimed, paused = (
            _moment(fields.get(name)) for name in ("asked", "expires", "claimed_until", "paused_until")
        )
        item = cls(response if isinstance(response, str) else "", asked, expires, claimed)
        item.paused_until = paused
        item.failures = int(min(_moment(fields.get("failures")), 100))
        item.failure = (
            failure if isinstance(failure, str) and failure.isalnum() and len(failure) <= _LONGEST_NAME else ""
        )
        item.format = int(min(_moment(fields.get("format")), 1000)) or 1
        item.version = fields.get("version")  # None: it has none
        return item

    def fields(self) -> dict[str, object]:
        """Return what a store keeps, by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def changed(self, **fields: object) -> Item:
        """Return the same with other fields and a new version."""
        item = Item()
        for name in ("response", "asked", "expires", "claimed_until", "paused_until", "failures", "failure"):
            setattr(item, name, fields.get(name, getattr(self, name)))
        return item

    def is_offered(self, now: float) -> bool:
        """Tell whether it has a ciphertext that, by its own account, is of use."""
        return bool(self.response) and self.version is not None and self.asked > 0 and now < self.expires

    def is_claimed(self, now: float, longest: float) -> bool:
        """Tell whether a container fetches a new one. A claim for longer than any container makes is none."""
        return now < self.claimed_until <= now + max(longest, _LONGEST_CLAIM_SECONDS) + SKEW_SECONDS

    def is_unshared(self, now: float) -> bool:
        """Tell whether each container has to ask Cerberus itself."""
        return self.failure == UNSHARED and now < self.expires

    def pause_at(self, now: float) -> float:
        """Return the seconds that no container tries. A longer pause than any container makes is none."""
        left = self.paused_until - now
        return left if 0 < left <= LONGEST_PAUSE_SECONDS + SKEW_SECONDS else 0.0

    def __repr__(self) -> str:
        return f"<Item requested at {self.asked:.3f}, claimed until {self.claimed_until:.3f}>"


def _moment(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < _LAST_SECOND else 0.0
