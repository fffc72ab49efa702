"""A seal on what STS authentication gives in clear, so that it can be shared: a KMS key of the function's own account."""

from __future__ import annotations

import json
import logging
from binascii import a2b_base64

from ..authentication.principal import is_for
from ..aws.calls import AwsRefusal
from ..deadline import Deadline
from ..errors import CerberusError, InvalidResponse
from .item import StoreFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..aws.calls import Aws
    from ..settings import Settings

_CALL_SECONDS = 1.0
# KMS finds that it is not what was sealed with this key in this context.
_NOT_SEALED_HERE = ("InvalidCiphertextException", "IncorrectKeyException", "ValidationException")

_logger = logging.getLogger("cerberus_auth")


class Seal:
    """Closes and opens for one principal at one Cerberus: the encryption context names both."""

    def __init__(self, settings: Settings, aws: Aws, principal: str, deadline: Deadline) -> None:
        self._key_arn = settings.shared_cache_key
        self._context = {"url": settings.url, "principal": principal}
        self._aws = aws
        self._principal = principal
        self._deadline = deadline

    def close(self, document: bytes) -> str | None:
        """The answer of Cerberus, sealed; None where that cannot be done, which is logged."""
        if not is_for(self._principal, document):
            _logger.warning("the token is not shared: Cerberus gave it to another than %s", self._principal)
            return None
        fields = json.loads(document)
        needed = {
            name: fields[name] for name in ("client_token", "lease_duration")
        }  # KMS takes no more than 4,096 bytes
        needed["metadata"] = {"aws_iam_principal_arn": self._principal}
        try:
            with self._deadline.step("shared cache"):
                return self._aws.seal(json.dumps(needed).encode(), self._key_arn, self._context, self._limit())
        except AwsRefusal as refusal:
            _logger.warning("the token is not shared: %s refuses to seal it (%s)", refusal.service, refusal.code)
        except CerberusError as error:
            _logger.warning("the token is not shared. %s: %s", type(error).__name__, error)
        return None

    def open(self, sealed: str) -> bytes:
        """What was sealed.

        Raises
        ------
        InvalidResponse
            It was not sealed with this key, for this principal and this Cerberus.
        StoreFailure
            KMS cannot be used for this.
        """
        try:
            a2b_base64(sealed, strict_mode=True)
            with self._deadline.step("shared cache"):
                document = self._aws.unseal(sealed, self._key_arn, self._context, self._limit())
        except ValueError:
            raise InvalidResponse("it is not base64") from None
        except AwsRefusal as refusal:
            if refusal.code in _NOT_SEALED_HERE:
                raise InvalidResponse(f"it was not sealed for {self._principal} ({refusal.code})") from None
            raise StoreFailure(f"{refusal.service} refuses to open the seal ({refusal.code})") from None
        except CerberusError as error:
            raise StoreFailure(f"{type(error).__name__}: {error}") from None
        if not is_for(self._principal, document):
            raise InvalidResponse(f"it is not that of {self._principal}")
        return document

    def _limit(self) -> Deadline:
        return Deadline(min(_CALL_SECONDS, self._deadline.remaining() / 2))
