"""The seal on what Cerberus answered in plaintext, so that it can be shared: a KMS key of the function's own account."""

from __future__ import annotations

import json
import logging
import time
import zlib
from binascii import a2b_base64, b2a_base64

from ..aws.calls import AwsRefusal
from ..deadline import Deadline, Moment
from ..errors import CerberusError, InvalidResponse
from ..http.transport import json_object
from .item import SKEW_SECONDS, SealFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from ..aws.calls import Aws
    from ..settings import Settings

    T = TypeVar("T")

_CALL_SECONDS = 1.5
_MAX_PLAINTEXT_BYTES = 4096  # KMS API reference, Encrypt
_MAX_DOCUMENT_BYTES = 1 << 16  # what is larger is not worth compressing, and is not inflated
# KMS finds that it is not what was sealed with this key in this context.
_NOT_SEALED_HERE = ("InvalidCiphertextException", "IncorrectKeyException", "ValidationException")

_logger = logging.getLogger("cerberus_auth")


def pack(value: Any, asked: Moment, status: int) -> bytes | None:
    """Return an answer of Cerberus as compressed JSON: its value (JSON or bytes), when it was requested, its status.

    None if it has more than KMS seals.
    """
    fields: dict[str, Any] = {"asked": asked.wall, "status": status}
    if isinstance(value, bytes):
        fields["content"] = b2a_base64(value, newline=False).decode()
    else:
        fields["value"] = value
    document = json.dumps(fields, separators=(",", ":")).encode()
    packed = zlib.compress(document, 9) if len(document) <= _MAX_DOCUMENT_BYTES else document
    return packed if len(packed) <= _MAX_PLAINTEXT_BYTES else None


def unpack(packed: bytes) -> tuple[Any, Moment, int, int]:
    """Return the value, the moment of its request, its bytes and its status.

    Raises
    ------
    InvalidResponse
        It is not what ``pack`` makes, or requested in the future.
    """
    try:
        inflated = zlib.decompressobj()
        document = inflated.decompress(packed, _MAX_DOCUMENT_BYTES)
        fields = json_object(document) or {}
        value = a2b_base64(fields["content"]) if "content" in fields else fields["value"]
        asked, status = float(fields["asked"]), int(fields["status"])
        if inflated.eof and 0 < asked <= time.time() + SKEW_SECONDS:
            return value, Moment.at(asked), len(document), status
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError, zlib.error):
        pass
    raise InvalidResponse("it is not what this layer seals")


class Seal:
    """Seals and opens for one principal at one Cerberus, and for one name: the encryption context has all of them."""

    def __init__(self, settings: Settings, aws: Aws, principal: str, deadline: Deadline, name: str = "") -> None:
        self._key_arn = settings.shared_cache_key
        self._context = {"url": settings.url, "principal": principal} | ({"path": name} if name else {})
        self._aws = aws
        self._what = name or "the token"
        self._deadline = deadline

    def close(self, plaintext: bytes) -> str:
        """Return the plaintext sealed.

        Raises
        ------
        SealFailure
            KMS cannot be used for this.
        """
        return self._call("seal", lambda deadline: self._aws.seal(plaintext, self._key_arn, self._context, deadline))

    def warn_of_size(self) -> None:
        """Log that what was read cannot be sealed."""
        _logger.warning(
            "Not shared: %s has more than the %d bytes, compressed, that KMS seals. Each container reads it from Cerberus",
            self._what,
            _MAX_PLAINTEXT_BYTES,
        )

    def open(self, sealed: str) -> bytes:
        """Return what was sealed.

        Raises
        ------
        InvalidResponse
            It was not sealed with this key, for this principal, this Cerberus and this name.
        SealFailure
            KMS cannot be used for this.
        """
        try:
            a2b_base64(sealed, strict_mode=True)
        except ValueError:
            raise InvalidResponse("it is not base64") from None
        return self._call("open", lambda deadline: self._aws.unseal(sealed, self._key_arn, self._context, deadline))

    def _call(self, what: str, call: Callable[[Deadline], T]) -> T:
        try:
            with self._deadline.step("shared cache"):
                return call(Deadline(_CALL_SECONDS))
        except AwsRefusal as refusal:
            if refusal.code in _NOT_SEALED_HERE:
                raise InvalidResponse(f"it was not sealed for this principal and path ({refusal.code})") from None
            raise SealFailure(
                f"{refusal.service} refuses to {what} ({refusal.code}). Check that the policies of the key and the role allow "
                f"kms:Encrypt and kms:Decrypt with the principal as encryption context"
            ) from None
        except CerberusError as error:
            raise SealFailure(f"{type(error).__name__}: {error}") from None
