"""The token of Cerberus and its lease."""

from __future__ import annotations

from ..errors import InvalidResponse
from ..http.transport import json_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from ..deadline import Deadline, Moment
    from ..errors import CerberusError

    class TokenSharing(Protocol):
        """Shares tokens between the containers of one role."""

        def token(
            self,
            method: str,
            principal: str,
            region: str,
            deadline: Deadline,
            request: TokenRequest,
            open_response: Callable[[str, Moment], Token],
            fetch: Callable[[], tuple[Token, str]],
        ) -> Token:
            """Return the token of another container, or call ``fetch`` and share the response."""


MAX_LEASE_SECONDS = 366 * 24 * 3600  # a longer lease is not plausible: the answer is invalid
_MAX_TOKEN_LENGTH = 16_384  # characters; Cerberus allows 16,000 for a JWT


class TokenRequest:
    """State which token a caller accepts.

    Parameters
    ----------
    refused
        A token that Cerberus rejected with 401. The new token must differ.
    newer_than
        Request time of the last token here, in seconds since the epoch. A shared token must be newer.
    publications
        Receives the functions that publish the token. The flight calls them after the callers have the token.
    outage
        The error of an outage: only a shared token is accepted, and Cerberus is not asked.
    """

    __slots__ = ("newer_than", "outage", "publications", "refused")

    def __init__(
        self,
        refused: str | None = None,
        newer_than: float = 0,
        publications: list[Callable[[], object]] | None = None,
        outage: CerberusError | None = None,
    ) -> None:
        self.refused = refused
        self.newer_than = newer_than
        self.outage = outage
        self.publications: list[Callable[[], object]] = [] if publications is None else publications

    def __reduce__(self) -> str:
        raise TypeError("TokenRequest cannot be pickled: it can hold a token")

    def check_outage(self) -> None:
        """Raise the error of the outage, if there is one, instead of a request to Cerberus."""
        if self.outage is not None:
            raise self.outage.fresh()


ANY_TOKEN = TokenRequest()


class Token:
    """Hold a token. Immutable. ``repr`` and ``str`` do not show its value, and it cannot be pickled."""

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
        raise AttributeError("A Token is immutable. Create another one.")

    def __reduce__(self) -> str:
        raise TypeError("A Token cannot be pickled. Authenticate where you need it.")

    def __repr__(self) -> str:
        return f"<Token of {self.principal} in {self.region}, {self.lease_seconds} s>"


def usable_seconds(lease_seconds: int, margin: float) -> float:
    """Return for how many seconds a token is used: the lease less the margin, which is at most a tenth of the lease."""
    return lease_seconds - min(margin, lease_seconds / 10)


def parse(document: bytes, asked: Moment, principal: str, region: str, source: str) -> Token:
    """Read the token from a JSON document.

    Only ``client_token`` and ``lease_duration`` are used: Cerberus truncates the metadata when the document is too long.

    Parameters
    ----------
    source
        Names the document in errors, such as ``answer of Cerberus``.

    Raises
    ------
    InvalidResponse
        The document is not JSON, or the token or lease is missing, has another type or is out of bounds.
    """
    fields = json_object(document)
    if fields is None:
        raise InvalidResponse(f"The {source} is not a JSON object. {_ADVICE}")
    value, lease = fields.get("client_token"), fields.get("lease_duration")
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TOKEN_LENGTH:
        raise InvalidResponse(f"The {source} has no client_token. {_ADVICE}")
    if not all("!" <= character <= "~" for character in value):
        raise InvalidResponse(
            f"The client_token in the {source} has characters that are invalid in a header. {_ADVICE}"
        )
    if type(lease) is not int or not 0 < lease <= MAX_LEASE_SECONDS:
        raise InvalidResponse(
            f"The lease_duration in the {source} is not an integer from 1 to {MAX_LEASE_SECONDS} seconds. {_ADVICE}"
        )
    return Token(value, lease, asked, principal, region)


def principal_of(document: bytes) -> str | None:
    """Return the ARN of the principal in a decrypted auth response.

    None: Cerberus truncated the metadata. An empty string: the metadata names no principal.
    """
    metadata = (json_object(document) or {}).get("metadata")
    if not isinstance(metadata, dict):
        return ""
    if metadata.get("_truncated") == "true":
        return None
    if role := metadata.get("aws_iam_role_name"):
        return f"arn:aws:iam::{metadata.get('aws_account_id')}:role/{role}"
    return str(metadata.get("aws_iam_principal_arn") or "")


_ADVICE = "Check that CERBERUS_URL is Cerberus and not a proxy or another service."
