"""Encrypts STS tokens and secrets with a KMS key of the function's account, so that they can be shared."""

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
_MAX_DOCUMENT_BYTES = 1 << 16  # a larger document is neither compressed nor decompressed
# Errors of KMS for a ciphertext of another key or encryption context.
_NOT_SEALED_HERE = ("InvalidCiphertextException", "IncorrectKeyException", "ValidationException")

_logger = logging.getLogger("cerberus_auth")


def pack(value: Any, asked: Moment, status: int) -> bytes | None:
    """Return an answer of Cerberus as compressed JSON, with the time of its request; None if it is too large for KMS.

    Parameters
    ----------
    value
        A JSON value or bytes.
    asked
        The moment of the request.
    status
        HTTP status of the answer.
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
    """Return the value, the moment of its request, its size in bytes and its status.

    Raises
    ------
    InvalidResponse
        ``pack`` did not write the document, or its request time is in the future.
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
    raise InvalidResponse("The sealed document has an unknown format. Check who can use the key to encrypt.")


class Seal:
    """Encrypt and decrypt for one principal, Cerberus and name. All three are in the encryption context."""

    def __init__(self, settings: Settings, aws: Aws, principal: str, deadline: Deadline, name: str = "") -> None:
        self._key_arn = settings.shared_cache_key
        self._context = {"url": settings.url, "principal": principal} | ({"path": name} if name else {})
        self._aws = aws
        self._name = name or "the token"
        self._deadline = deadline

    def close(self, plaintext: bytes) -> str:
        """Return the ciphertext in base64.

        Raises
        ------
        SealFailure
            KMS did not encrypt.
        """
        return self._call("encrypt", lambda deadline: self._aws.seal(plaintext, self._key_arn, self._context, deadline))

    def warn_of_size(self) -> None:
        """Log that the value is too large to share."""
        _logger.warning(
            "Value not shared: %s has more than %d bytes after compression. Each container reads it from Cerberus",
            self._name,
            _MAX_PLAINTEXT_BYTES,
        )

    def open(self, sealed: str) -> bytes:
        """Return the plaintext.

        Raises
        ------
        InvalidResponse
            It was not encrypted with this key for this principal, Cerberus and name.
        SealFailure
            KMS did not decrypt.
        """
        try:
            a2b_base64(sealed, strict_mode=True)
        except ValueError:
            raise InvalidResponse("The ciphertext is not base64. Check who can write to the table.") from None
        return self._call("decrypt", lambda deadline: self._aws.unseal(sealed, self._key_arn, self._context, deadline))

    @staticmethod
    def request_time(document: str) -> float:
        """Return the time of the request inside a decrypted STS response, in seconds since the epoch.

        Raises
        ------
        InvalidResponse
            The document has none.
        """
        try:
            return float((json_object(document.encode()) or {})["asked"])
        except (ValueError, TypeError, LookupError):
            pass
        raise InvalidResponse("The sealed document has no request time. Check who can use the key to encrypt.")

    def _call(self, action: str, call: Callable[[Deadline], T]) -> T:
        try:
            with self._deadline.step("shared cache"):
                return call(Deadline(_CALL_SECONDS))
        except AwsRefusal as refusal:
            if refusal.code in _NOT_SEALED_HERE:
                raise InvalidResponse(
                    f"The ciphertext is for another principal, path or key ({refusal.code}). Check who can write to the table."
                ) from None
            raise SealFailure(
                f"{refusal.service} refused to {action} ({refusal.code}). Check that the policies of key and role allow "
                f"kms:Encrypt and kms:Decrypt with the principal as encryption context."
            ) from None
        except CerberusError as error:
            raise SealFailure(f"{type(error).__name__}: {error}") from None
