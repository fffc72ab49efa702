"""What a store keeps for those who share, and what can be wrong with a store."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    class Store(Protocol):
        """Where the item of one principal, service and region is kept. Calls raise ``StoreFailure``."""

        def get(self) -> Item | None:
            """The item; None where there is none."""

        def swap(self, seen: Item | None, new: Item) -> Item | None:
            """Put ``new`` in the place of ``seen``, if that is still there. Gives what is there now."""


CLAIM_SECONDS = 2.0  # an authentication takes tenths of a second; a crashed claimer holds the others up for this long
SKEW_SECONDS = 1.0  # by which the clocks of two containers may differ
_LAST_SECOND = 1e11  # since the epoch: what is later is no time


class StoreFailure(Exception):
    """A store cannot be used; says why and what to do. Stays inside the package."""


class StoreBusy(StoreFailure):
    """For now: too many come at once."""


class StoreSlow(StoreFailure):
    """It did not answer in its time. Once that may be a herd's doing."""


class Item:
    """What is stored. Whoever may write to the store may write anything: what is not of its type is taken for absent.

    Parameters
    ----------
    response
        The encrypted auth response, in base64; empty where there is none yet.
    asked
        When it was asked for, in seconds since the epoch.
    expires
        When its lease is over, likewise.
    claimed_until
        Until when somebody is about to authenticate, likewise.
    version
        Another one for each item that was ever written; by default a new one.
    """

    __slots__ = ("asked", "claimed_until", "expires", "response", "version")

    def __init__(
        self, response: str, asked: float, expires: float, claimed_until: float = 0, version: object = None
    ) -> None:
        self.response = response
        self.asked = asked
        self.expires = expires
        self.claimed_until = claimed_until
        self.version = version or os.urandom(8).hex()

    @classmethod
    def read(cls, fields: Mapping[str, object]) -> Item:
        """The item that these fields, from a store, are."""
        response = fields.get("response")
        asked, expires, claimed_until = (_moment(fields.get(name)) for name in ("asked", "expires", "claimed_until"))
        item = cls(response if isinstance(response, str) else "", asked, expires, claimed_until)
        item.version = fields.get("version")  # None: it has none
        return item

    def fields(self) -> dict[str, object]:
        """What a store keeps of it, by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def claim(self, until: float) -> Item:
        """The same, claimed until then."""
        return Item(self.response, self.asked, self.expires, until)

    def is_offered(self, now: float) -> bool:
        """Whether it has a response that, for all that it says, is not over."""
        return bool(self.response) and self.asked > 0 and now < self.expires

    def is_claimed(self, now: float) -> bool:
        """Whether somebody is at it. A claim longer than anybody would make is none."""
        return now < self.claimed_until <= now + CLAIM_SECONDS + SKEW_SECONDS

    def __repr__(self) -> str:
        return f"<Item asked for at {self.asked:.3f}, claimed until {self.claimed_until:.3f}>"


def _moment(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < _LAST_SECOND else 0.0
