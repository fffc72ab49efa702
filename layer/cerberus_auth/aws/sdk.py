"""The SDK lane: the same calls by boto3, for environments that only botocore understands."""

from __future__ import annotations

import threading
from base64 import b64decode

from .. import errors
from ..transport import NoAnswer, with_retries
from . import THROTTLED, AwsRefusal, Credentials, Decrypted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from botocore.client import BaseClient

    from ..clock import Deadline
    from ..settings import Settings

_NAMES = {"kms": "KMS", "sts": "STS", "lambda": "Lambda"}
_NO_CREDENTIALS = "boto3 finds no AWS credentials: see AWS_PROFILE, or run `aws sts get-caller-identity`"
_CLIENTS = 16  # kept: services x regions x the few timeouts that a deadline leaves


class SdkAws:
    """See ``Aws`` for what each call does and raises.

    botocore has no deadline for a whole call, so each attempt is one call of its own, with timeouts cut to what is left.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            import boto3
            from cachetools import LRUCache
        except ImportError:
            raise errors.ConfigurationError(
                "this environment needs boto3 (CERBERUS_AWS_CLIENT=sdk, a profile, FIPS or dual-stack endpoints, or no "
                "credentials in the environment): install boto3, which Lambda's runtime has by itself"
            ) from None
        self._settings = settings
        self._session = boto3.Session()
        self._clients: LRUCache[tuple[str, str, int], BaseClient] = LRUCache(_CLIENTS)
        self._lock = threading.Lock()

    def load(self) -> None:
        self._client("kms", self._settings.region, self._settings.read_timeout)

    def credentials(self, deadline: Deadline) -> Credentials:
        from botocore.exceptions import BotoCoreError

        try:
            held = self._session.get_credentials()
            if held is not None:
                frozen = held.get_frozen_credentials()
                if frozen.access_key and frozen.secret_key:
                    return Credentials(frozen.access_key, frozen.secret_key, frozen.token)
        except BotoCoreError as error:
            raise errors.ConfigurationError(f"boto3 cannot get the AWS credentials ({type(error).__name__})") from None
        raise errors.ConfigurationError(_NO_CREDENTIALS)

    def decrypt(self, ciphertext: str, region: str, deadline: Deadline, *, repeat_timeouts: bool = True) -> Decrypted:
        blob = b64decode(ciphertext)
        answer = self._call(
            "kms", region, deadline, lambda client: client.decrypt(CiphertextBlob=blob), repeat_timeouts
        )
        return Decrypted(answer["Plaintext"], answer["KeyId"])

    def caller_identity(self, region: str, deadline: Deadline) -> str:
        return str(self._call("sts", region, deadline, lambda client: client.get_caller_identity())["Arn"])

    def function_role(self, function_name: str, region: str, deadline: Deadline) -> str:
        def ask(client: Any) -> Any:
            return client.get_function_configuration(FunctionName=function_name)

        return str(self._call("lambda", region, deadline, ask)["Role"])

    def _call(
        self, service: str, region: str, deadline: Deadline, call: Callable[[Any], Any], repeat_timeouts: bool = True
    ) -> Any:
        from botocore import exceptions

        name = f"{_NAMES[service]} in {region}"

        def once() -> Any:
            left = deadline.check(f"asking {name}")
            try:
                return call(self._client(service, region, min(self._settings.read_timeout, left)))
            except exceptions.ClientError as error:
                refused = error.response["Error"]
                code, status = refused.get("Code", ""), error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
                if code in THROTTLED or status == 429 or status >= 500:
                    raise NoAnswer(f"it answered {code or status}") from None
                raise AwsRefusal(name, code, refused.get("Message", "")) from None
            except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound):
                raise errors.ConfigurationError(_NO_CREDENTIALS) from None
            except exceptions.ReadTimeoutError:
                raise NoAnswer("no answer within its time", timed_out=True) from None
            except exceptions.SSLError:
                raise errors.CerberusUnavailable(
                    f"the certificate of {name} is not trusted: for a private authority set AWS_CA_BUNDLE to its certificate"
                ) from None
            except exceptions.HTTPClientError as error:
                raise NoAnswer(f"no connection ({type(error).__name__})") from None
            except (exceptions.BotoCoreError, ValueError) as error:
                raise errors.InvalidResponse(f"{name} does not answer as AWS does ({type(error).__name__})") from None

        return with_retries(once, name, self._settings.max_attempts, deadline, repeat_timeouts)

    def _client(self, service: str, region: str, seconds: float) -> BaseClient:
        from botocore.config import Config

        tenths = max(1, int(seconds * 10))  # clients are costly: share one among calls with about the same time left
        key = (service, region, tenths)
        with self._lock:
            client: BaseClient | None = self._clients.get(key)
            if client is None:
                config = Config(
                    connect_timeout=min(self._settings.connect_timeout, tenths / 10),
                    read_timeout=tenths / 10,
                    retries={"total_max_attempts": 1},
                )
                client = self._clients[key] = self._session.client(
                    service,  # type: ignore[call-overload]  # its stubs know each service by a literal
                    region_name=region,
                    endpoint_url=self._settings.endpoint(service),
                    verify=self._settings.ca_bundles[0] if self._settings.ca_bundles else None,
                    config=config,
                )
            return client
