"""The signed client: AWS calls that it signs itself, for a standard Lambda environment."""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from datetime import datetime
from functools import cached_property
from urllib.parse import quote, urlencode, urlsplit

from .. import errors
from ..http.transport import host_header, overloaded
from ..settings import is_loopback
from .calls import THROTTLED, AwsRefusal, Credentials, Decrypted, environment_credentials, error_code, host, opened
from .sigv4 import sign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from ..deadline import Deadline
    from ..http.transport import Response, Transport
    from ..settings import Settings
    from .temporary import Temporary

_NAMES = {"kms": "KMS", "sts": "STS", "lambda": "Lambda", "dynamodb": "DynamoDB"}
_FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", "Accept": "application/json"}
# Besides loopback, botocore requests credentials only from these addresses (ECS and EKS).
_CONTAINER_HOSTS = ("169.254.170.2", "169.254.170.23", "fd00:ec2::23")


class SignedAws:
    """Call AWS with requests that this class signs. ``Aws`` documents the methods.

    Parameters
    ----------
    settings
        The settings.
    transport
        Sends the requests.
    """

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self._settings = settings
        self._transport = transport

    @cached_property
    def _container(self) -> Temporary:
        from .temporary import Temporary  # not needed with keys in the environment

        return Temporary(self._fetch_container)

    @cached_property
    def _assumed(self) -> Temporary:
        from .temporary import Temporary  # not needed without a role to assume

        return Temporary(self._assume)

    def close(self) -> None:
        self.forget_credentials()  # the transport belongs to the caller

    def credentials(self, region: str, deadline: Deadline) -> Credentials:
        return (self._assumed.get if self._settings.assume_role_arn else self._own)(region, deadline)

    def forget_credentials(self) -> None:
        for name in ("_container", "_assumed"):
            if name in vars(self):
                getattr(self, name).forget()

    def _own(self, region: str, deadline: Deadline) -> Credentials:
        keys = environment_credentials()
        if keys is not None:
            return keys
        if "AWS_CONTAINER_CREDENTIALS_FULL_URI" in os.environ:
            return self._container.get(region, deadline)
        raise errors.ConfigurationError(
            "The environment has no AWS credentials. Outside Lambda, set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
            "AWS_SESSION_TOKEN, or set CERBERUS_AWS_CLIENT=sdk to use boto3's credential sources."
        )

    def decrypt(self, ciphertext: str, region: str, deadline: Deadline, *, repeat_timeouts: bool = True) -> Decrypted:
        headers, body = _json("kms", "Decrypt", {"CiphertextBlob": ciphertext})
        return _decrypted(self._call("kms", "POST", "/", region, headers, body, deadline, repeat_timeouts))

    def caller_identity(self, region: str, deadline: Deadline) -> str:
        body = b"Action=GetCallerIdentity&Version=2011-06-15"
        answer = self._call("sts", "POST", "/", region, _FORM, body, deadline)
        try:
            arn = answer["GetCallerIdentityResponse"]["GetCallerIdentityResult"]["Arn"]
        except (KeyError, TypeError):
            arn = None
        return _text(arn, "STS returned a caller identity without an ARN. Check AWS_ENDPOINT_URL_STS.")

    def function_role(self, function_name: str, region: str, deadline: Deadline) -> str:
        path = f"/2015-03-31/functions/{quote(function_name, safe='')}/configuration"
        answer = self._call("lambda", "GET", path, region, {}, b"", deadline)
        return _text(
            answer.get("Role"),
            "Lambda returned a function configuration without a role. Check AWS_ENDPOINT_URL_LAMBDA.",
        )

    def seal(self, plaintext: bytes, key_arn: str, context: Mapping[str, str], deadline: Deadline) -> str:
        fields = {"KeyId": key_arn, "Plaintext": b64encode(plaintext).decode(), "EncryptionContext": context}
        headers, body = _json("kms", "Encrypt", fields)
        answer = self._call("kms", "POST", "/", key_arn.split(":")[3], headers, body, deadline)
        return _text(
            answer.get("CiphertextBlob"), "KMS returned no ciphertext for kms:Encrypt. Check AWS_ENDPOINT_URL_KMS."
        )

    def unseal(self, ciphertext: str, key_arn: str, context: Mapping[str, str], deadline: Deadline) -> bytes:
        fields = {"KeyId": key_arn, "CiphertextBlob": ciphertext, "EncryptionContext": context}
        headers, body = _json("kms", "Decrypt", fields)
        answer = self._call("kms", "POST", "/", key_arn.split(":")[3], headers, body, deadline)
        return opened(_decrypted(answer), key_arn)

    def item(self, action: str, request: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        headers, body = _json("dynamodb", action, request)
        region = self._settings.aws_region
        return self._call("dynamodb", "POST", "/", region, headers, body, deadline, transient=overloaded)

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
        *,
        own: bool = False,
        transient: Callable[[Response], str] | None = None,
    ) -> dict[str, Any]:
        endpoint = (self._settings.endpoint(service) or f"https://{host(service, region)}").rstrip("/")
        url = endpoint + path
        credentials = self._own if own else self.credentials

        def signed() -> dict[str, str]:
            return sign(
                method,
                host_header(url),
                urlsplit(url).path,
                headers,
                body,
                service=service,
                region=region,
                credentials=credentials(region, deadline),
            )

        name = f"{_NAMES[service]} in {region}"

        def send() -> dict[str, Any]:
            response = self._transport.request(
                name,
                method,
                url,
                deadline,
                headers=signed,
                body=body or None,
                transient=transient or _transient,
                repeat_timeouts=repeat_timeouts,
            )
            return _parsed(response, service, name)

        source = self._source(own)
        if source is None:
            return send()
        from .temporary import renewing

        return renewing(source, send)

    def _source(self, own: bool) -> Temporary | None:
        """Return the source that can fetch new credentials, or None if they are in the environment variables."""
        if self._settings.assume_role_arn and not own:
            return self._assumed
        return None if environment_credentials() else self._container

    def _assume(self, region: str, deadline: Deadline) -> tuple[Credentials, float]:
        role_arn = self._settings.assume_role_arn
        fields = {
            "Action": "AssumeRole",
            "Version": "2011-06-15",
            "RoleArn": role_arn,
            "RoleSessionName": "cerberus-auth",
        }
        from .temporary import assuming

        with assuming(role_arn, deadline):
            answer = self._call("sts", "POST", "/", region, _FORM, urlencode(fields).encode(), deadline, own=True)
            try:
                given = answer["AssumeRoleResponse"]["AssumeRoleResult"]["Credentials"]
                keys = (str(given[name]) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken"))
                return Credentials(*keys), float(given["Expiration"])
            except (KeyError, TypeError, ValueError):
                pass
            raise errors.InvalidResponse("STS returned no credentials for sts:AssumeRole. Check AWS_ENDPOINT_URL_STS.")

    def _fetch_container(self, region: str, deadline: Deadline) -> tuple[Credentials, float]:
        url = os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        parts = urlsplit(url)
        name = parts.hostname or ""
        if parts.scheme != "https" and not (parts.scheme == "http" and (is_loopback(name) or name in _CONTAINER_HOSTS)):
            raise errors.ConfigurationError(
                f"AWS_CONTAINER_CREDENTIALS_FULL_URI names {parts.scheme}://{name}, which is not allowed. Set an https URL, or "
                f"plain http with a loopback host or one of {', '.join(_CONTAINER_HOSTS)}."
            )

        def headers() -> dict[str, str]:
            token = os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
            if path := os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
                try:
                    with open(path, encoding="ascii") as file:
                        token = file.read().strip()
                except (OSError, ValueError):
                    raise errors.ConfigurationError(
                        f"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: {path} cannot be read. Check the path and its permissions."
                    ) from None
            return {"Authorization": token} if token else {}

        source = "The container credentials endpoint"
        response = self._transport.request(source, "GET", url, deadline, headers=headers, direct=True)
        answer = response.json_object() or {}
        access_key, secret_key, session_token = (answer.get(key) for key in ("AccessKeyId", "SecretAccessKey", "Token"))
        if response.status != 200 or not (isinstance(access_key, str) and isinstance(secret_key, str)):
            raise errors.InvalidResponse(
                f"{source} returned no credentials ({response.status}). Check AWS_CONTAINER_CREDENTIALS_FULL_URI."
            )
        try:
            end = datetime.fromisoformat(f"{str(answer.get('Expiration'))[:19]}+00:00").timestamp()
        except ValueError:
            end = 0  # no expiration: fetch again for the next call
        return Credentials(access_key, secret_key, session_token if isinstance(session_token, str) else None), end


# The target prefix and the JSON version of each service, from AWS's service models.
_TARGETS = {"kms": ("TrentService", "1.1"), "dynamodb": ("DynamoDB_20120810", "1.0")}


def _json(service: str, action: str, fields: Mapping[str, Any]) -> tuple[dict[str, str], bytes]:
    target, version = _TARGETS[service]
    headers = {"Content-Type": f"application/x-amz-json-{version}", "X-Amz-Target": f"{target}.{action}"}
    return headers, json.dumps(fields).encode()


def _decrypted(answer: Mapping[str, Any]) -> Decrypted:
    plaintext, key_arn = answer.get("Plaintext"), answer.get("KeyId")
    if not isinstance(plaintext, str) or not isinstance(key_arn, str):
        raise errors.InvalidResponse(
            "KMS returned a response without plaintext or key for kms:Decrypt. Check AWS_ENDPOINT_URL_KMS."
        )
    try:
        return Decrypted(b64decode(plaintext, validate=True), key_arn)
    except ValueError:
        raise errors.InvalidResponse(
            "KMS returned a plaintext that is not base64. Check AWS_ENDPOINT_URL_KMS."
        ) from None


def _parsed(response: Response, service: str, name: str) -> dict[str, Any]:
    answer = response.json_object()
    if response.status == 200 and answer is not None:
        return answer
    if code := _error_code(response, answer):
        message = (answer or {}).get("message") or (answer or {}).get("Message") or ""
        raise AwsRefusal(name, code, str(message), (answer or {}).get("Item"))
    raise errors.InvalidResponse(
        f"{name} returned a response that is not from AWS ({response.status}). Check proxies, and "
        f"AWS_ENDPOINT_URL_{service.upper()}."
    )


def _transient(response: Response) -> str:
    code = _error_code(response, response.json_object())
    return f"it answered {code or response.status}" if code in THROTTLED or overloaded(response) else ""


def _error_code(response: Response, answer: dict[str, Any] | None) -> str:
    """Return the error code: ``__type`` in the JSON protocol, a header in REST, ``Error.Code`` in the query protocol."""
    if response.status == 200 or answer is None:
        return ""
    nested = answer.get("Error")
    return error_code(
        answer.get("__type")
        or response.headers.get("x-amzn-errortype")
        or (nested.get("Code") if isinstance(nested, dict) else "")
    )


def _text(value: Any, message: str) -> str:
    if not isinstance(value, str) or not value:
        raise errors.InvalidResponse(message)
    return value
