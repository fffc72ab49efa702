"""Calls to AWS: KMS, STS, Lambda and DynamoDB, in one of two lanes with the same results and the same errors.

``signed`` signs by hand and goes over our transport: the quick lane of a standard Lambda environment. ``sdk`` is boto3, for
all that only botocore knows: profiles, SSO, FIPS and dual-stack endpoints. ``connect`` chooses.
"""

from __future__ import annotations

import os

from ..errors import ConfigurationError, InvalidResponse
from ..settings import partition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Protocol

    from ..deadline import Deadline
    from ..http.transport import Transport
    from ..settings import Settings

    class Aws(Protocol):
        """The calls that the package makes. Each raises ``AwsRefusal``, ``CerberusUnavailable``, ``InvalidResponse``,
        ``ConfigurationError`` (no credentials) or ``DeadlineExceeded``.

        Where AWS refuses credentials that are not the environment's own, a call fetches others and is made once more."""

        def close(self) -> None:
            """Forget credentials, and whatever holds some: no live object refers to them any more. What comes next starts
            anew."""

        def credentials(self, region: str, deadline: Deadline) -> Credentials:
            """The credentials of this moment: the environment's, or with ``CERBERUS_ASSUME_ROLE_ARN`` those of that
            role, asked of STS in the region when there are none."""

        def forget_credentials(self) -> None:
            """Fetch temporary credentials anew the next time: these were refused."""

        def decrypt(
            self, ciphertext: str, region: str, deadline: Deadline, *, repeat_timeouts: bool = True
        ) -> Decrypted:
            """kms:Decrypt of a base64 ciphertext, without encryption context."""

        def caller_identity(self, region: str, deadline: Deadline) -> str:
            """sts:GetCallerIdentity: the ARN of the caller."""

        def function_role(self, function_name: str, region: str, deadline: Deadline) -> str:
            """lambda:GetFunctionConfiguration: the ARN of the function's execution role."""

        def seal(self, plaintext: bytes, key_arn: str, context: Mapping[str, str], deadline: Deadline) -> str:
            """kms:Encrypt under a key of the function's own account, in the key's region: a base64
            ciphertext, which only a caller with the same encryption context can open."""

        def unseal(self, ciphertext: str, key_arn: str, context: Mapping[str, str], deadline: Deadline) -> bytes:
            """kms:Decrypt of what ``seal`` gave; raises ``InvalidResponse`` if another key opened it."""

        def item(self, action: str, request: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
            """A call of DynamoDB about one item, in its own terms (API reference), in the function's region. Throttling is
            a refusal too: the policy of sharing decides how long to wait."""


class AwsRefusal(Exception):
    """An AWS service refuses a request. Stays inside the package: its message is AWS's and could quote a signature.

    ``item``: with DynamoDB's refusal of a conditional write, the item as it is, in attribute values.
    """

    def __init__(self, service: str, code: str, message: str, item: object = None) -> None:
        super().__init__(code)
        self.service = service
        self.code = code
        self.message = message
        self.item = item

    def __reduce__(self) -> str:
        raise TypeError("AWS's words stay inside the package")


class Credentials:
    """AWS credentials, masked."""

    __slots__ = ("access_key", "secret_key", "session_token")

    def __init__(self, access_key: str, secret_key: str, session_token: str | None) -> None:
        self.access_key = access_key
        self.secret_key = secret_key
        self.session_token = session_token

    def __reduce__(self) -> str:
        raise TypeError("credentials are not written anywhere")

    def __repr__(self) -> str:
        return f"<Credentials {self.access_key[:4]}***>"


class Decrypted:
    """The answer of kms:Decrypt: the plaintext, and the ARN of the key. Its repr shows no plaintext."""

    __slots__ = ("key_arn", "plaintext")

    def __init__(self, plaintext: bytes, key_arn: str) -> None:
        self.plaintext = plaintext
        self.key_arn = key_arn

    def __reduce__(self) -> str:
        raise TypeError("a plaintext is not written anywhere")

    def __repr__(self) -> str:
        return f"<Decrypted by {self.key_arn}>"


def host(service: str, region: str) -> str:
    """The public host of a service in a region of partition ``aws`` or ``aws-cn``."""
    return f"{service}.{region}.amazonaws.com{'.cn' if partition(region) == 'aws-cn' else ''}"


def opened(decrypted: Decrypted, key_arn: str) -> bytes:
    """Return the plaintext of a seal.

    Raises
    ------
    InvalidResponse
        KMS names another key.
    """
    if decrypted.key_arn != key_arn:
        raise InvalidResponse("KMS opened the seal with another key. Check AWS_ENDPOINT_URL_KMS")
    return decrypted.plaintext


def environment_credentials() -> Credentials | None:
    """The keys in the environment, read anew each time: they may rotate."""
    access_key, secret_key = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key:
        return None
    return Credentials(access_key, secret_key, os.environ.get("AWS_SESSION_TOKEN") or None)


def error_code(given: object) -> str:
    """The code of a refusal as errors may quote it: without namespace and URI, ``unknown`` where it is no name of AWS' kind.

    It comes over the wire: a text of any other kind could forge a line of a log, or repeat a signature.
    """
    code = str(given or "").rpartition("#")[2].partition(":")[0]
    return code if not code or (code.isascii() and code.isalpha() and len(code) <= _MAX_CODE) else "unknown"


_MAX_CODE = 64

# Refused for now: what is worth another attempt, of the services called here (as botocore retries).
THROTTLED = frozenset(
    {
        "DependencyTimeoutException",
        "InternalFailure",
        "KMSInternalException",
        "KeyUnavailableException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "ServiceUnavailable",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_CREDENTIALS = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)


def credentials_refused(refusal: AwsRefusal) -> ConfigurationError | None:
    """The error for a refusal that concerns the credentials themselves, whatever the call was; None for any other."""
    if refusal.code not in _CREDENTIALS:
        return None
    return ConfigurationError(
        f"{refusal.service} does not accept the AWS credentials of this environment ({refusal.code}): see that "
        f"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN are of one current session, and the clock is right"
    )


def connect(settings: Settings, transport: Transport) -> Aws:
    """The lane that the settings and the environment call for.

    Raises
    ------
    ConfigurationError
        The environment needs the SDK and boto3 is not installed.
    """
    if settings.aws_client == "signed" or (settings.aws_client == "auto" and _standard(settings)):
        from .signed import SignedAws

        return SignedAws(settings, transport)
    from .sdk import SdkAws

    return SdkAws(settings, transport)


def _standard(settings: Settings) -> bool:
    """Whether the environment is Lambda's own kind, which the quick lane serves whole."""
    env = os.environ
    special = settings.profile or any(
        env.get(name, "").lower() == "true" for name in ("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT")
    )
    return not special and (environment_credentials() is not None or "AWS_CONTAINER_CREDENTIALS_FULL_URI" in env)
