"""The quick lane: AWS calls signed by hand, over our transport. For a standard Lambda environment."""

from __future__ import annotations

import calendar
import json
import os
import time
from base64 import b64decode
from urllib.parse import quote, urlsplit

from .. import errors
from ..settings import is_loopback
from ..transport import host_header
from . import THROTTLED, AwsRefusal, Credentials, Decrypted
from .sigv4 import sign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..clock import Deadline
    from ..settings import Settings
    from ..transport import Response, Transport

_NAMES = {"kms": "KMS", "sts": "STS", "lambda": "Lambda"}
_RENEW_SECONDS = 300  # container credentials are fetched anew this long before their end
# Hosts that credentials may be asked of: loopback, and the addresses of ECS and EKS (botocore's own list).
_CONTAINER_HOSTS = ("169.254.170.2", "169.254.170.23", "fd00:ec2::23")


def host(service: str, region: str) -> str:
    """The regional host of a service, of the region's partition (``aws`` or ``aws-cn``)."""
    return f"{service}.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


class SignedAws:
    """See ``Aws`` for what each call does and raises."""

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self._settings = settings
        self._transport = transport
        self._container_credentials: tuple[Credentials, float] | None = None  # with their end, by the wall clock

    def load(self) -> None:
        self._transport.load()

    def credentials(self, deadline: Deadline) -> Credentials:
        env = os.environ
        access_key, secret_key = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
        if access_key and secret_key:
            return Credentials(access_key, secret_key, env.get("AWS_SESSION_TOKEN") or None)
        if url := env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
            held = self._container_credentials
            if held is None or time.time() > held[1] - _RENEW_SECONDS:
                held = self._container_credentials = self._ask_container(url, deadline)
            return held[0]
        raise errors.ConfigurationError(
            "no AWS credentials in the environment: Lambda sets them by itself; elsewhere export AWS_ACCESS_KEY_ID and its "
            "fellows, or use boto3's ways with CERBERUS_AWS_CLIENT=sdk"
        )

    def decrypt(self, ciphertext: str, region: str, deadline: Deadline, *, repeat_timeouts: bool = True) -> Decrypted:
        body = json.dumps({"CiphertextBlob": ciphertext}).encode()
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "TrentService.Decrypt"}
        answer = self._call("kms", "POST", "/", region, headers, body, deadline, repeat_timeouts)
        plaintext, key_arn = answer.get("Plaintext"), answer.get("KeyId")
        if not isinstance(plaintext, str) or not isinstance(key_arn, str):
            raise errors.InvalidResponse("KMS answers a Decrypt without plaintext or key: see AWS_ENDPOINT_URL_KMS")
        try:
            return Decrypted(b64decode(plaintext, validate=True), key_arn)
        except ValueError:
            raise errors.InvalidResponse(
                "KMS answers a plaintext that is not base64: see AWS_ENDPOINT_URL_KMS"
            ) from None

    def caller_identity(self, region: str, deadline: Deadline) -> str:
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", "Accept": "application/json"}
        answer = self._call(
            "sts", "POST", "/", region, headers, b"Action=GetCallerIdentity&Version=2011-06-15", deadline
        )
        try:
            arn = answer["GetCallerIdentityResponse"]["GetCallerIdentityResult"]["Arn"]
        except (KeyError, TypeError):
            arn = None
        return _text(arn, "STS answers GetCallerIdentity without an ARN: see AWS_ENDPOINT_URL_STS")

    def function_role(self, function_name: str, region: str, deadline: Deadline) -> str:
        path = f"/2015-03-31/functions/{quote(function_name, safe='')}/configuration"
        answer = self._call("lambda", "GET", path, region, {}, b"", deadline)
        return _text(
            answer.get("Role"), "Lambda answers a function's configuration without a role: see AWS_ENDPOINT_URL_LAMBDA"
        )

    def _call(
        self,
        service: str,
        method: str,
        path: str,
        region: str,
        headers: dict[str, str],
        body: bytes,
        deadline: Deadline,
        repeat_timeouts: bool = True,
    ) -> dict[str, Any]:
        endpoint = (self._settings.endpoint(service) or f"https://{host(service, region)}").rstrip("/")
        url = endpoint + path

        def signed() -> dict[str, str]:
            return sign(
                method,
                host_header(url),
                urlsplit(url).path,
                headers,
                body,
                service=service,
                region=region,
                credentials=self.credentials(deadline),
            )

        response = self._transport.request(
            f"{_NAMES[service]} in {region}",
            method,
            url,
            deadline,
            headers=signed,
            body=body or None,
            transient=_transient,
            repeat_timeouts=repeat_timeouts,
        )
        answer = _json(response)
        if response.status == 200 and answer is not None:
            return answer
        code = _error_code(response, answer)
        if code:
            message = (answer or {}).get("message") or (answer or {}).get("Message") or ""
            raise AwsRefusal(f"{_NAMES[service]} in {region}", code, str(message))
        raise errors.InvalidResponse(
            f"{_NAMES[service]} in {region} answers {response.status} with something that is not AWS's JSON: see what stands "
            f"between (a proxy, AWS_ENDPOINT_URL_{service.upper()})"
        )

    def _ask_container(self, url: str, deadline: Deadline) -> tuple[Credentials, float]:
        parts = urlsplit(url)
        name = parts.hostname or ""
        if parts.scheme != "https" and not (parts.scheme == "http" and (is_loopback(name) or name in _CONTAINER_HOSTS)):
            raise errors.ConfigurationError(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI must be https, or a loopback or link-local host"
            )

        def headers() -> dict[str, str]:
            token = os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
            if path := os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
                try:
                    with open(path, encoding="ascii") as file:
                        token = file.read().strip()
                except (OSError, ValueError):
                    raise errors.ConfigurationError("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE cannot be read") from None
            return {"Authorization": token} if token else {}

        source = "the container credentials endpoint"
        response = self._transport.request(source, "GET", url, deadline, headers=headers, direct=True)
        answer = _json(response) or {}
        access_key, secret_key, session_token = (answer.get(key) for key in ("AccessKeyId", "SecretAccessKey", "Token"))
        if response.status != 200 or not (isinstance(access_key, str) and isinstance(secret_key, str)):
            raise errors.InvalidResponse(f"{source} answers {response.status} without credentials")
        try:
            end = calendar.timegm(time.strptime(str(answer.get("Expiration"))[:19], "%Y-%m-%dT%H:%M:%S"))
        except ValueError:
            end = 0  # no end given: ask again next time
        return Credentials(access_key, secret_key, session_token if isinstance(session_token, str) else None), end


def _transient(response: Response) -> bool:
    return response.status == 429 or response.status >= 500 or _error_code(response, _json(response)) in THROTTLED


def _json(response: Response) -> dict[str, Any] | None:
    try:
        answer = json.loads(response.body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _error_code(response: Response, answer: dict[str, Any] | None) -> str:
    """The code of a refusal, as each protocol spells it: ``__type`` (JSON), a header (REST), ``Error.Code`` (query)."""
    if response.status == 200 or answer is None:
        return ""
    nested = answer.get("Error")
    code = (
        answer.get("__type")
        or response.headers.get("x-amzn-ErrorType")
        or (nested.get("Code") if isinstance(nested, dict) else "")
    )
    return str(code or "").rpartition("#")[2].partition(":")[0][:80]


def _text(value: Any, otherwise: str) -> str:
    if not isinstance(value, str) or not value:
        raise errors.InvalidResponse(otherwise)
    return value
