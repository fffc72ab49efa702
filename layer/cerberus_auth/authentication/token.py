"""A Cerberus token and its lease."""

from __future__ import annotations

import json
import time

from ..errors import InvalidResponse

MAX_LEASE_SECONDS = 366 * 24 * 3600  # longer than any operator sets; beyond it, an answer is taken for broken
_MAX_TOKEN_LENGTH = 4096  # characters; the token must go into a header line


class Asked:
    """When an authentication was sent, by both clocks: leases count from here, before the network took its time."""

    __slots__ = ("monotonic", "wall")

    def __init__(self) -> None:
        self.monotonic = time.monotonic()
        self.wall = time.time()

    @classmethod
    def at(cls, wall: float) -> Asked:
        """A moment that another process noted by its wall clock, in seconds since the epoch; now, if that is to come."""
        asked = cls()
        asked.monotonic -= max(0.0, asked.wall - wall)
        asked.wall = min(asked.wall, wall)
        return asked


class Wanted:
    """What a new token is wanted for.

    Parameters
    ----------
    refused
        A token that Cerberus has refused: it will not do.
    since
        When the last token had here was asked for, in seconds since the epoch: of shared ones only a newer one will do.
    early
        A token is held that serves for a while: nobody need wait for another container's renewal.
    """

    __slots__ = ("early", "refused", "since")

    def __init__(self, refused: str | None = None, since: float = 0, early: bool = False) -> None:
        self.refused = refused
        self.since = since
        self.early = early


ANY = Wanted()


class Token:
    """What an authentication yields. Immutable; its value shows in neither repr nor str, and it cannot be pickled."""

    __slots__ = ("asked", "lease_seconds", "principal", "region", "value")

    value: str
    lease_seconds: int
    asked: Asked
    principal: str
    region: str

    def __init__(self, value: str, lease_seconds: int, asked: Asked, principal: str, region: str) -> None:
        fields = (value, lease_seconds, asked, principal, region)
        for name, field in zip(("value", "lease_seconds", "asked", "principal", "region"), fields, strict=True):
            object.__setattr__(self, name, field)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Token is immutable")

    def __reduce__(self) -> str:
        raise TypeError("a Token is not written anywhere: authenticate where it is needed")

    def __repr__(self) -> str:
        return f"<Token of {self.principal} in {self.region}, {self.lease_seconds} s>"


def usable_seconds(lease_seconds: int, margin: float) -> float:
    """How much of a lease a token is handed out for: all but the margin, or nine tenths where it is too short for that."""
    return lease_seconds - margin if lease_seconds > margin else lease_seconds * 0.9


def parse(document: bytes, asked: Asked, principal: str, region: str, source: str) -> Token:
    """Read the token out of the decrypted JSON of an auth response (contract page, "KMS authentication").

    Only ``client_token`` and ``lease_duration`` are relied on: the service truncates the rest when it grows too long.

    Raises
    ------
    InvalidResponse
        The document is not JSON, or its token or lease is missing, of another type or out of bounds.
    """
    try:
        fields = json.loads(document)
    except (ValueError, RecursionError):
        raise InvalidResponse(f"{source} is not JSON; {_ADVICE}") from None
    if not isinstance(fields, dict):
        raise InvalidResponse(f"{source} is not a JSON object; {_ADVICE}")
    value, lease = fields.get("client_token"), fields.get("lease_duration")
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TOKEN_LENGTH:
        raise InvalidResponse(f"{source} has no client_token; {_ADVICE}")
    if not all("!" <= character <= "~" for character in value):
        raise InvalidResponse(f"the client_token in {source} has characters that no header may carry; {_ADVICE}")
    if type(lease) is not int or not 0 < lease <= MAX_LEASE_SECONDS:
        raise InvalidResponse(
            f"the lease_duration in {source} is no number of seconds from 1 to {MAX_LEASE_SECONDS}; {_ADVICE}"
        )
    return Token(value, lease, asked, principal, region)


def principal_of(document: bytes) -> str | None:
    """The principal that an auth response, decrypted, says it was made for; None where the service left that out to save room.

    ``""``: it says nothing of a principal (contract page, both KMS endpoints).
    """
    try:
        metadata = json.loads(document)["metadata"]
        if metadata.get("_truncated") == "true":
            return None
        if role := metadata.get("aws_iam_role_name"):
            return f"arn:aws:iam::{metadata.get('aws_account_id')}:role/{role}"
        return str(metadata.get("aws_iam_principal_arn") or "")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return ""


_ADVICE = "check that CERBERUS_URL is Cerberus itself and not a proxy or another service"
