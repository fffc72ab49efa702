"""The SDK lane: the same calls by boto3, for environments that only botocore understands."""

from __future__ import annotations

import logging
import threading
from base64 import b64decode, b64encode
from contextlib import contextmanager
from urllib.parse import urlsplit

from .. import errors
from ..http.retry import NoAnswer, with_retries
from ..settings import is_loopback
from .calls import THROTTLED, AwsRefusal, Credentials, Decrypted, credentials_refused, environment_credentials
from .temporary import ROLE_SESSION_NAME, Temporary, assuming

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, TypeVar

    from botocore.client import BaseClient

    from ..deadline import Deadline
    from ..settings import Settings

    T = TypeVar("T")

_NAMES = {"kms": "KMS", "sts": "STS", "lambda": "Lambda", "dynamodb": "DynamoDB"}
_ITEM_ACTIONS = {"GetItem": "get_item", "PutItem": "put_item"}
_NO_CREDENTIALS = "boto3 finds no AWS credentials: see AWS_PROFILE, or run `aws sts get-caller-identity`"
_OTHER_SHAPE = (TypeError, LookupError, AttributeError)  # what botocore's parsers, and _of, make of unexpected JSON
_CLIENTS = 16  # kept: services x regions x the few timeouts that a deadline leaves x credentials that rotate


class SdkAws:
    """See ``Aws`` for what each call does and raises.

    botocore has no deadline for a whole call, so each attempt is one call of its own, with timeouts cut to what is left.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            import boto3
            from botocore.exceptions import BotoCoreError
            from cachetools import LRUCache
        except ImportError:
            raise errors.ConfigurationError(
                "this environment needs boto3 (CERBERUS_AWS_CLIENT=sdk, a profile, FIPS or dual-stack endpoints, or no "
                "credentials in the environment): install boto3, which Lambda's runtime has by itself"
            ) from None
        self._settings = settings
        try:
            self._session = boto3.Session()
        except BotoCoreError as error:
            raise errors.ConfigurationError(
                f"boto3 cannot start ({type(error).__name__}): see AWS_PROFILE and ~/.aws/config"
            ) from None
        self._clients: LRUCache[tuple[str, str, int, str], BaseClient] = LRUCache(_CLIENTS)
        self._assumed = Temporary(self._assume)
        self._lock = threading.Lock()
        # botocore reads its models with the first client: here, at initialisation. Other credentials may need the network.
        keys = environment_credentials() or Credentials("unknown", "unknown", None)
        self._client("kms", settings.region, settings.read_timeout, keys)

    def close(self) -> None:
        with self._lock:
            clients = list(self._clients.values())
            self._clients.clear()
        for client in clients:
            client.close()

    def credentials(self, region: str, deadline: Deadline) -> Credentials:
        return self._assumed.get(region, deadline) if self._settings.assume_role_arn else self._own()

    def forget_credentials(self) -> None:
        self._assumed.forget()  # botocore's own look after themselves

    def _own(self) -> Credentials:
        from botocore.exceptions import BotoCoreError

        if keys := environment_credentials():  # as botocore's first choice, which would keep them for good
            return keys
        try:
            with _quiet.here():
                held = self._session.get_credentials()
                frozen = held.get_frozen_credentials() if held is not None else None
            if frozen is not None and frozen.access_key and frozen.secret_key:
                return Credentials(frozen.access_key, frozen.secret_key, frozen.token)
        except BotoCoreError as error:
            raise errors.ConfigurationError(f"boto3 cannot get the AWS credentials ({type(error).__name__})") from None
        raise errors.ConfigurationError(_NO_CREDENTIALS)

    def decrypt(self, ciphertext: str, region: str, deadline: Deadline, *, repeat_timeouts: bool = True) -> Decrypted:
        blob = b64decode(ciphertext)

        def ask(client: Any) -> Decrypted:
            answer = client.decrypt(CiphertextBlob=blob)
            return Decrypted(_of(bytes, answer, "Plaintext"), _of(str, answer, "KeyId"))

        return self._call("kms", region, deadline, ask, repeat_timeouts)

    def caller_identity(self, region: str, deadline: Deadline) -> str:
        return self._call("sts", region, deadline, lambda client: _of(str, client.get_caller_identity(), "Arn"))

    def function_role(self, function_name: str, region: str, deadline: Deadline) -> str:
        def ask(client: Any) -> str:
            return _of(str, client.get_function_configuration(FunctionName=function_name), "Role")

        return self._call("lambda", region, deadline, ask)

    def seal(self, plaintext: bytes, key_arn: str, context: Mapping[str, str], deadline: Deadline) -> str:
        def ask(client: Any) -> str:
            answer = client.encrypt(KeyId=key_arn, Plaintext=plaintext, EncryptionContext=context)
            return b64encode(_of(bytes, answer, "CiphertextBlob")).decode()

        return self._call("kms", key_arn.split(":")[3], deadline, ask, own=True)

    def unseal(self, ciphertext: str, key_arn: str, context: Mapping[str, str], deadline: Deadline) -> bytes:
        blob = b64decode(ciphertext)

        def ask(client: Any) -> bytes:
            answer = client.decrypt(KeyId=key_arn, CiphertextBlob=blob, EncryptionContext=context)
            return _of(bytes, answer, "Plaintext")

        return self._call("kms", key_arn.split(":")[3], deadline, ask, own=True)

    def item(self, action: str, request: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        def ask(client: Any) -> dict[str, Any]:
            answer: dict[str, Any] = getattr(client, _ITEM_ACTIONS[action])(**request)
            return answer

        return self._call("dynamodb", self._settings.aws_region, deadline, ask, own=True)

    def _assume(self, region: str, deadline: Deadline) -> tuple[Credentials, float]:
        role_arn = self._settings.assume_role_arn

        def ask(client: Any) -> tuple[Credentials, float]:
            given = client.assume_role(RoleArn=role_arn, RoleSessionName=ROLE_SESSION_NAME)["Credentials"]
            keys = (_of(str, given, name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken"))
            return Credentials(*keys), given["Expiration"].timestamp()

        with assuming(role_arn, deadline):
            return self._call("sts", region, deadline, ask, own=True)

    def _call(
        self,
        service: str,
        region: str,
        deadline: Deadline,
        call: Callable[[Any], T],
        repeat_timeouts: bool = True,
        *,
        own: bool = False,
    ) -> T:
        from botocore import exceptions
        from botocore.parsers import ResponseParserError

        name = f"{_NAMES[service]} in {region}"

        def once() -> T:
            keys = self._own() if own else self.credentials(region, deadline)
            left = deadline.check(f"asking {name}")
            try:
                with _quiet.here():
                    return call(self._client(service, region, min(self._settings.read_timeout, left), keys))
            except exceptions.ClientError as error:
                refused = error.response.get("Error", {})  # none in a page of some proxy
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
                code = refused.get("Code", "")
                if (code in THROTTLED and service != "dynamodb") or status == 429 or status >= 500:
                    raise NoAnswer(f"it answered {code or status}") from None
                refusal = AwsRefusal(name, code, refused.get("Message", ""), error.response.get("Item"))
                if credentials_refused(refusal):
                    self.forget_credentials()
                raise refusal from None
            except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound):
                raise errors.ConfigurationError(_NO_CREDENTIALS) from None
            except exceptions.ReadTimeoutError:
                raise NoAnswer("no answer within its time", timed_out=True) from None
            except exceptions.SSLError:
                raise errors.CerberusUnavailable(
                    f"the certificate of {name} is not trusted: for a private authority set AWS_CA_BUNDLE to its certificate"
                ) from None
            except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
                raise NoAnswer(f"no connection ({type(error).__name__})") from None
            except (exceptions.BotoCoreError, ResponseParserError, ValueError, *_OTHER_SHAPE) as error:
                raise errors.InvalidResponse(f"{name} does not answer as AWS does ({type(error).__name__})") from None

        return with_retries(once, name, self._settings.max_attempts, deadline, repeat_timeouts)

    def _client(self, service: str, region: str, seconds: float, keys: Credentials) -> BaseClient:
        from botocore.config import Config

        tenths = max(1, int(seconds * 10))  # clients are costly: share one among calls with about the same time left
        key = (service, region, tenths, keys.access_key)
        endpoint = self._settings.endpoint(service)
        with self._lock:
            client: BaseClient | None = self._clients.get(key)
            if client is None:
                config = Config(
                    connect_timeout=min(self._settings.connect_timeout, tenths / 10),
                    read_timeout=tenths / 10,
                    retries={"total_max_attempts": 1},
                    # HTTPS_PROXY and NO_PROXY are read by botocore itself, which knows no exception for loopback.
                    proxies={} if endpoint and is_loopback(urlsplit(endpoint).hostname or "") else None,
                )
                make: Any = self._session.client  # its stubs know each service by a literal
                client = self._clients[key] = make(
                    service,
                    region_name=region,
                    endpoint_url=endpoint,
                    aws_access_key_id=keys.access_key,
                    aws_secret_access_key=keys.secret_key,
                    aws_session_token=keys.session_token,
                    verify=self._settings.ca_bundles[0] if self._settings.ca_bundles else None,
                    config=config,
                )
            return client


class _Quiet(logging.Filter):
    """Keeps the calls of this package out of botocore's debug log, in which whole requests and answers stand. Other threads,
    and other users of botocore, have theirs."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()

    @contextmanager
    def here(self) -> Iterator[None]:
        """Until the end of the block, in this thread."""
        for name in list(
            logging.root.manager.loggerDict
        ):  # a filter serves the logger that it is added to, and no other
            if name.startswith("botocore"):
                logging.getLogger(name).addFilter(self)
        self._thread.quiet = True
        try:
            yield
        finally:
            self._thread.quiet = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may pass."""
        return record.levelno > logging.DEBUG or not getattr(self._thread, "quiet", False)


_quiet = _Quiet()


def _of(kind: type[T], answer: dict[str, Any], name: str) -> T:
    value = answer[name]
    if not isinstance(value, kind):
        raise TypeError(name)
    return value
