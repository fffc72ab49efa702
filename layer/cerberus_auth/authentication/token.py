"""A Cerberus token and its lease."""

from __future__ import annotations

from ..errors import InvalidResponse
from ..http.transport import json_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from ..deadline import Deadline, Moment
    from ..errors import CerberusError

    class Shared(Protocol):
        """What the containers of one role share."""

        def token(
            self,
            method: str,
            principal: str,
            region: str,
            deadline: Deadline,
            wanted: Wanted,
            open_response: Callable[[str, Moment], Token],
            request: Callable[[], tuple[Token, str]],
        ) -> Token:
            """Return the token of another container, or the one that ``request`` brings, with the response to share."""


MAX_LEASE_SECONDS = 366 * 24 * 3600  # longer than any operator sets; beyond it, an answer is taken for broken
_MAX_TOKEN_LENGTH = 16_384  # characters; the service allows a JWT 16,000


class Wanted:
    """What a new token is wanted for.

    Parameters
    ----------
    refused
        A token that Cerberus refused: another one is needed.
    since
        When the last token here was requested, in seconds since the epoch: of shared tokens only a newer one is accepted.
    after
        Takes what is to be called when the callers have the token: it publishes the token.
    outage
        The error of an outage: a shared token is accepted, and Cerberus is not asked.
    """

    __slots__ = ("after", "outage", "refused", "since")

    def __init__(
        self,
        refused: str | None = None,
        since: float = 0,
        after: list[Callable[[], object]] | None = None,
        outage: CerberusError | None = None,
    ) -> None:
        self.refused = refused
        self.since = since
        self.outage = outage
        self.after: list[Callable[[], object]] = [] if after is None else after

    def check_outage(self) -> None:
        """Stop before a request to Cerberus.

        Raises
        ------
        CerberusError
            That of the outage.
        """
        if self.outage is not None:
            raise self.outage.fresh()


ANY = Wanted()


class Token:
    """What an authentication yields. Immutable; its value shows in neither repr nor str, and it cannot be pickled."""

    __slots__ = ("asked", "lease_seconds", "principal", "region", "value")

    value: str
    lease_seconds: int
    asked: Moment
    principal: str
    region: str

    def __init__(self, value: str, lease_seconds: int, asked: Moment, principal: str, region: str) -> None:
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
    """Return how long a token is handed out: its lease less the margin, which is at most a tenth of the lease."""
    return lease_seconds - min(margin, lease_seconds / 10)


def parse(document: bytes, asked: Moment, principal: str, region: str, source: str) -> Token:
    """Read the token out of the JSON that holds it (contract page, "KMS authentication").

    Only ``client_token`` and ``lease_duration`` are relied on: the service truncates the rest when it grows too long.

    Raises
    ------
    InvalidResponse
        The document is not JSON, or its token or lease is missing, of another type or out of bounds.
    """
    fields = json_object(document)
    if fields is None:
        raise InvalidResponse(f"{source} is not JSON, or not a JSON object. {_ADVICE}")
    value, lease = fields.get("client_token"), fields.get("lease_duration")
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TOKEN_LENGTH:
        raise InvalidResponse(f"{source} has no client_token. {_ADVICE}")
    if not all("!" <= character <= "~" for character in value):
        raise InvalidResponse(f"The client_token in {source} has characters that no header can carry. {_ADVICE}")
    if type(lease) is not int or not 0 < lease <= MAX_LEASE_SECONDS:
        raise InvalidResponse(
            f"The lease_duration in {source} is not an integer from 1 to {MAX_LEASE_SECONDS} (seconds). {_ADVICE}"
        )
    return Token(value, lease, asked, principal, region)


def principal_of(document: bytes) -> str | None:
    """Return the principal that a decrypted auth response names; None where the service truncated the metadata.

    ``""``: it names no principal (contract page, both KMS endpoints).
    """
    metadata = (json_object(document) or {}).get("metadata")
    if not isinstance(metadata, dict):
        return ""
    if metadata.get("_truncated") == "true":
        return None
    if role := metadata.get("aws_iam_role_name"):
        return f"arn:aws:iam::{metadata.get('aws_account_id')}:role/{role}"
    return str(metadata.get("aws_iam_principal_arn") or "")


_ADVICE = "Check that CERBERUS_URL is Cerberus itself and not a proxy or another service"
