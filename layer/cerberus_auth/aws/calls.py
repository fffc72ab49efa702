"""The contract of the AWS clients, and what both of them need: credentials, error codes and the choice of a client.

Two clients call KMS, STS, Lambda and DynamoDB with the same results and errors. The signed client (``signed``) signs requests
itself and suits a standard Lambda environment. The SDK client (``sdk``) uses boto3, which supports profiles, SSO, FIPS and
dual-stack endpoints.
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
        """The AWS calls of this package.

        If AWS rejects temporary credentials that the client fetched itself, the client fetches new ones and repeats the call
        once.

        Raises
        ------
        AwsRefusal
            AWS refused the request.
        CerberusUnavailable
            AWS did not respond, or responded with a server error.
        InvalidResponse
            The response is not a valid AWS response.
        ConfigurationError
            There are no credentials, or they are unusable.
        DeadlineExceeded
            The time is up.
        """

        def close(self) -> None:
            """Drop every object that holds credentials. The next call fetches credentials again."""

        def credentials(self, region: str, deadline: Deadline) -> Credentials:
            """Return the current credentials.

            These are the environment's own, or with ``CERBERUS_ASSUME_ROLE_ARN`` those of that role. If there are none yet,
            STS in ``region`` provides them.
            """

        def forget_credentials(self) -> None:
            """Drop the temporary credentials after AWS rejected them, so that the next call fetches new ones."""

        def decrypt(
            self, ciphertext: str, region: str, deadline: Deadline, *, repeat_timeouts: bool = True
        ) -> Decrypted:
            """Decrypt a base64 ciphertext with kms:Decrypt, without an encryption context.

            Parameters
            ----------
            repeat_timeouts
                Whether to retry after a timeout.
            """

        def caller_identity(self, region: str, deadline: Deadline) -> str:
            """Return the ARN of the caller (sts:GetCallerIdentity)."""

        def function_role(self, function_name: str, region: str, deadline: Deadline) -> str:
            """Return the ARN of the function's execution role (lambda:GetFunctionConfiguration)."""

        def seal(self, plaintext: bytes, key_arn: str, context: Mapping[str, str], deadline: Deadline) -> str:
            """Encrypt with kms:Encrypt, in the region of the key.

            Returns
            -------
            str
                The ciphertext in base64. Decrypting it requires the same encryption context.
            """

        def unseal(self, ciphertext: str, key_arn: str, context: Mapping[str, str], deadline: Deadline) -> bytes:
            """Decrypt with kms:Decrypt what ``seal`` returned.

            Raises
            ------
            InvalidResponse
                KMS decrypted it with another key.
            """

        def item(self, action: str, request: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
            """Call DynamoDB for one item, in the function's region.

            Throttling raises ``AwsRefusal`` too: the sharing policy decides how long to wait.

            Parameters
            ----------
            action
                ``GetItem`` or ``PutItem``.
            request
                The request as in DynamoDB's API reference.
            """


class AwsRefusal(Exception):
    """An AWS service refused a request.

    It never leaves the package: AWS wrote its message, which can quote a signature.

    Attributes
    ----------
    service
        The service and its region, for example ``KMS in us-west-2``.
    code
        The error code.
    message
        The error message.
    item
        The current item in attribute values, if DynamoDB refused a conditional write.
    """

    def __init__(self, service: str, code: str, message: str, item: object = None) -> None:
        super().__init__(code)
        self.service = service
        self.code = code
        self.message = message
        self.item = item

    def __reduce__(self) -> str:
        raise TypeError("AwsRefusal cannot be pickled: its message can contain a signature.")


class Credentials:
    """AWS credentials. The repr masks them."""

    __slots__ = ("access_key", "secret_key", "session_token")

    def __init__(self, access_key: str, secret_key: str, session_token: str | None) -> None:
        self.access_key = access_key
        self.secret_key = secret_key
        self.session_token = session_token

    def __reduce__(self) -> str:
        raise TypeError("Credentials cannot be pickled: they are secret.")

    def __repr__(self) -> str:
        return f"<Credentials {self.access_key[:4]}***>"


class Decrypted:
    """The result of kms:Decrypt: the plaintext and the ARN of the key. The repr omits the plaintext."""

    __slots__ = ("key_arn", "plaintext")

    def __init__(self, plaintext: bytes, key_arn: str) -> None:
        self.plaintext = plaintext
        self.key_arn = key_arn

    def __reduce__(self) -> str:
        raise TypeError("Decrypted cannot be pickled: its plaintext is secret.")

    def __repr__(self) -> str:
        return f"<Decrypted by {self.key_arn}>"


def host(service: str, region: str) -> str:
    """Return the public host of a service in a region of partition ``aws`` or ``aws-cn``.

    Parameters
    ----------
    service
        The prefix of the host, for example ``kms``.
    region
        The name of the region.
    """
    return f"{service}.{region}.amazonaws.com{'.cn' if partition(region) == 'aws-cn' else ''}"


def opened(decrypted: Decrypted, key_arn: str) -> bytes:
    """Return the plaintext if the expected key decrypted it.

    Parameters
    ----------
    decrypted
        The result of kms:Decrypt.
    key_arn
        The ARN of the expected key.

    Raises
    ------
    InvalidResponse
        KMS used another key.
    """
    if decrypted.key_arn != key_arn:
        raise InvalidResponse(f"KMS decrypted with another key than {key_arn}. Check AWS_ENDPOINT_URL_KMS.")
    return decrypted.plaintext


def environment_credentials() -> Credentials | None:
    """Return the credentials in the environment variables, or None. Each call reads them again, because they can rotate."""
    access_key, secret_key = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key:
        return None
    return Credentials(access_key, secret_key, os.environ.get("AWS_SESSION_TOKEN") or None)


def error_code(given: object) -> str:
    """Return an error code in a form that is safe to log.

    The code comes from the network: other text could forge a log line or repeat a signature.

    Parameters
    ----------
    given
        The code as received, possibly with a namespace or a URI.

    Returns
    -------
    str
        At most 64 letters; ``unknown`` for any other text.
    """
    code = str(given or "").rpartition("#")[2].partition(":")[0]
    return code if not code or (code.isascii() and code.isalpha() and len(code) <= _MAX_CODE) else "unknown"


_MAX_CODE = 64

# Codes worth a retry, for the services called here: those that botocore retries.
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
    """Return an error if AWS rejected the credentials themselves, else None.

    Parameters
    ----------
    refusal
        What AWS refused.
    """
    if refusal.code not in _CREDENTIALS:
        return None
    return ConfigurationError(
        f"{refusal.service} rejected the AWS credentials of this environment ({refusal.code}). Check that AWS_ACCESS_KEY_ID, "
        f"AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN belong to one session that has not expired, and check the system clock."
    )


def connect(settings: Settings, transport: Transport) -> Aws:
    """Return the AWS client that suits the settings and the environment.

    Parameters
    ----------
    settings
        The settings; ``CERBERUS_AWS_CLIENT`` selects a client.
    transport
        Sends the requests.

    Raises
    ------
    ConfigurationError
        The environment requires boto3, and boto3 is not installed.
    """
    if settings.aws_client == "signed" or (settings.aws_client == "auto" and _standard(settings)):
        from .signed import SignedAws

        return SignedAws(settings, transport)
    from .sdk import SdkAws

    return SdkAws(settings, transport)


def _standard(settings: Settings) -> bool:
    """Return whether the signed client supports everything that this environment asks for."""
    env = os.environ
    special = settings.profile or any(
        env.get(name, "").lower() == "true" for name in ("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT")
    )
    return not special and (environment_credentials() is not None or "AWS_CONTAINER_CREDENTIALS_FULL_URI" in env)
