"""The SDK client: AWS calls by boto3, for environments that only botocore supports."""

from __future__ import annotations

import logging
import threading
from base64 import b64decode, b64encode
from contextlib import contextmanager
from urllib.parse import urlsplit

from .. import errors
from ..deadline import Deadline
from ..http.retry import NoAnswer, retry_after, with_retries
from ..http.transport import too_deep
from ..settings import is_loopback
from .calls import THROTTLED, AwsRefusal, Credentials, Decrypted, environment_credentials, error_code, opened
from .temporary import ROLE_SESSION_NAME, Temporary, assuming, renewing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, TypeVar

    from boto3.session import Session
    from botocore.awsrequest import AWSPreparedRequest
    from botocore.client import BaseClient

    from ..http.transport import Transport
    from ..settings import Settings

    T = TypeVar("T")

_NAMES = {"kms": "KMS", "sts": "STS", "lambda": "Lambda", "dynamodb": "DynamoDB"}
_ITEM_ACTIONS = {"GetItem": "get_item", "PutItem": "put_item"}
_NO_CREDENTIALS = "boto3 found no AWS credentials. Check AWS_PROFILE, and run `aws sts get-caller-identity`."
_UNEXPECTED_JSON = (TypeError, LookupError, AttributeError)  # raised by botocore's parsers, and by _field
_MAX_CLIENTS = 16  # one for each service, region and access key; access keys rotate


class SdkAws:
    """Call AWS by boto3. ``Aws`` documents the methods.

    botocore provides endpoints, credentials, serialization and signatures. The package's transport sends the requests, because
    it limits the time and the size of each response. botocore's own retries are off.

    Parameters
    ----------
    settings
        The settings.
    transport
        Sends the requests.

    Raises
    ------
    ConfigurationError
        boto3 is not installed.
    """

    def __init__(self, settings: Settings, transport: Transport) -> None:
        try:
            import boto3  # noqa: F401  (fails here, not in the first call)
            from cachetools import LRUCache
        except ImportError:
            raise errors.ConfigurationError(
                "boto3 is not installed. CERBERUS_AWS_CLIENT=sdk, AWS_PROFILE, FIPS and dual-stack endpoints, and an "
                "environment without AWS credentials require it. Install boto3, or set the AWS credential variables."
            ) from None
        self._settings = settings
        self._transport = transport
        self._session: Session | None = None
        self._clients: LRUCache[tuple[str, str, str], BaseClient] = LRUCache(_MAX_CLIENTS)
        self._assumed = Temporary(self._assume)
        self._lock = threading.RLock()
        self._current = threading.local()
        errors.without_inner_frames(self._load)

    def _load(self) -> None:
        """Create a client, so that botocore loads its models during initialization."""
        # Without keys in the environment, made-up ones do: fetching credentials can need the network.
        self._client("kms", self._settings.region, environment_credentials() or Credentials("unknown", "unknown", None))

    def close(self) -> None:
        self._assumed.forget()
        self.forget()

    def forget(self) -> None:
        """Drop botocore's credentials, and the clients that hold them."""
        with self._lock:
            clients = list(self._clients.values())
            self._clients.clear()
            self._session = None
        for client in clients:
            client.close()

    def credentials(self, region: str, deadline: Deadline) -> Credentials:
        return self._assumed.get(region, deadline) if self._settings.assume_role_arn else self._own(region, deadline)

    def forget_credentials(self) -> None:
        self.close()

    def _source(self, own: bool) -> Temporary | SdkAws | None:
        """Return the source that can fetch new credentials, or None if they are in the environment variables."""
        if self._settings.assume_role_arn and not own:
            return self._assumed
        return None if environment_credentials() else self

    def _own(self, region: str, deadline: Deadline) -> Credentials:
        from botocore.exceptions import BotoCoreError, ClientError

        keys = environment_credentials()
        if keys is not None:  # botocore would read these once and never again
            return keys
        try:
            with self._sending("The source of the AWS credentials", deadline):
                held = self._boto3().get_credentials()
                frozen = held.get_frozen_credentials() if held is not None else None
        except NoAnswer as failure:
            raise errors.CerberusUnavailable(
                f"boto3 cannot get AWS credentials: {failure.reason}. Check AWS_PROFILE, and the network path to their source."
            ) from None
        except (BotoCoreError, ClientError, OSError, ValueError, *_UNEXPECTED_JSON) as error:
            raise errors.ConfigurationError(
                f"boto3 cannot get AWS credentials ({type(error).__name__}). Check AWS_PROFILE and ~/.aws/config."
            ) from None
        if frozen is not None and frozen.access_key and frozen.secret_key:
            return Credentials(frozen.access_key, frozen.secret_key, frozen.token)
        raise errors.ConfigurationError(_NO_CREDENTIALS)

    def decrypt(self, ciphertext: str, region: str, deadline: Deadline, *, repeat_timeouts: bool = True) -> Decrypted:
        blob = b64decode(ciphertext)

        def send(client: Any) -> Decrypted:
            response = client.decrypt(CiphertextBlob=blob)
            return Decrypted(_field(bytes, response, "Plaintext"), _field(str, response, "KeyId"))

        return self._call("kms", region, deadline, send, repeat_timeouts)

    def caller_identity(self, region: str, deadline: Deadline) -> str:
        return self._call("sts", region, deadline, lambda client: _field(str, client.get_caller_identity(), "Arn"))

    def function_role(self, function_name: str, region: str, deadline: Deadline) -> str:
        def send(client: Any) -> str:
            return _field(str, client.get_function_configuration(FunctionName=function_name), "Role")

        return self._call("lambda", region, deadline, send)

    def seal(self, plaintext: bytes, key_arn: str, context: Mapping[str, str], deadline: Deadline) -> str:
        def send(client: Any) -> str:
            response = client.encrypt(KeyId=key_arn, Plaintext=plaintext, EncryptionContext=context)
            return b64encode(_field(bytes, response, "CiphertextBlob")).decode()

        return self._call("kms", key_arn.split(":")[3], deadline, send)

    def unseal(self, ciphertext: str, key_arn: str, context: Mapping[str, str], deadline: Deadline) -> bytes:
        blob = b64decode(ciphertext)

        def send(client: Any) -> bytes:
            response = client.decrypt(KeyId=key_arn, CiphertextBlob=blob, EncryptionContext=context)
            return opened(Decrypted(_field(bytes, response, "Plaintext"), _field(str, response, "KeyId")), key_arn)

        return self._call("kms", key_arn.split(":")[3], deadline, send)

    def item(self, action: str, request: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        def send(client: Any) -> dict[str, Any]:
            response: dict[str, Any] = getattr(client, _ITEM_ACTIONS[action])(**request)
            return response

        return self._call("dynamodb", self._settings.aws_region, deadline, send)

    def _assume(self, region: str, deadline: Deadline) -> tuple[Credentials, float]:
        role_arn = self._settings.assume_role_arn

        def send(client: Any) -> tuple[Credentials, float]:
            given = client.assume_role(RoleArn=role_arn, RoleSessionName=ROLE_SESSION_NAME)["Credentials"]
            keys = (_field(str, given, name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken"))
            return Credentials(*keys), given["Expiration"].timestamp()

        with assuming(role_arn, deadline):
            return self._call("sts", region, deadline, send, own=True)

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
            client = self._client(service, region, (self._own if own else self.credentials)(region, deadline))
            try:
                with self._sending(name, deadline):
                    return call(client)
            except exceptions.ClientError as error:
                refused = error.response.get("Error", {})  # missing from a proxy's own page
                metadata: Any = error.response.get("ResponseMetadata", {})
                status, code = metadata.get("HTTPStatusCode", 0), str(refused.get("Code", ""))
                if (code in THROTTLED and service != "dynamodb") or status == 429 or status >= 500:
                    after = retry_after(metadata.get("HTTPHeaders", {}).get("retry-after", ""))
                    what = code if code in THROTTLED else status
                    raise NoAnswer(f"it answered {what}", status=status, retry_after=after) from None
                if not code or code.isdigit():  # a proxy's page: botocore uses the status as the code
                    raise errors.InvalidResponse(_not_aws(name, service, str(status))) from None
                message, item = refused.get("Message", ""), error.response.get("Item")
                raise AwsRefusal(name, error_code(code), message, item) from None
            except (ResponseParserError, exceptions.ChecksumError, ValueError, *_UNEXPECTED_JSON) as error:
                raise errors.InvalidResponse(_not_aws(name, service, type(error).__name__)) from None
            except exceptions.BotoCoreError as error:
                raise _misconfigured(error) from None

        def attempts() -> T:
            return with_retries(once, name, self._settings.max_attempts, deadline, repeat_timeouts)

        return renewing(self._source(own), attempts)

    def _boto3(self) -> Session:
        import boto3
        from botocore.exceptions import BotoCoreError

        with self._lock:
            if self._session is None:
                try:
                    session = boto3.Session()
                except (BotoCoreError, ValueError, *_UNEXPECTED_JSON) as error:
                    raise _misconfigured(error) from None
                # Registered on the session, because botocore's own clients for SSO and STS use it too.
                session.events.register_last("before-send", self._send)
                self._session = session
            return self._session

    def _client(self, service: str, region: str, keys: Credentials) -> BaseClient:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        key = (service, region, keys.access_key)
        with self._lock:
            client: BaseClient | None = self._clients.get(key)
            if client is None:
                make: Any = self._boto3().client  # Any: the stubs accept only literal service names
                try:
                    client = self._clients[key] = make(
                        service,
                        region_name=region,
                        endpoint_url=self._settings.endpoint(service),
                        aws_access_key_id=keys.access_key,
                        aws_secret_access_key=keys.secret_key,
                        aws_session_token=keys.session_token,
                        config=Config(retries={"total_max_attempts": 1}),
                    )
                except (BotoCoreError, ValueError, *_UNEXPECTED_JSON) as error:
                    raise _misconfigured(error) from None
            return client

    @contextmanager
    def _sending(self, name: str, deadline: Deadline) -> Iterator[None]:
        """Set the target's name and the deadline for the requests that botocore sends in this thread."""
        before = getattr(self._current, "target", None)
        self._current.target = (name, deadline)
        try:
            with _without_debug.here():
                yield
        finally:
            self._current.target = before

    def _send(self, request: AWSPreparedRequest, **_: object) -> Any:
        """Send a request over the transport, as a handler of botocore's event ``before-send``."""
        from botocore.awsrequest import AWSResponse

        name, deadline = getattr(self._current, "target", None) or ("AWS", Deadline(self._settings.timeout))
        parts = urlsplit(request.url)
        if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise errors.ConfigurationError(
                f"{name}: the endpoint {parts.scheme}://{parts.hostname} must be https: plain http is for loopback hosts only. "
                f"Change endpoint_url in ~/.aws/config."
            )
        headers = {key: value.decode() if isinstance(value, bytes) else value for key, value in request.headers.items()}
        body: Any = request.body.encode() if isinstance(request.body, str) else request.body
        response = self._transport.once(name, request.method, request.url, deadline, headers=headers, body=body or None)
        if too_deep(response.body):
            raise errors.InvalidResponse(
                f"{name} returned JSON that is nested too deep. Check the endpoint, and proxies."
            )
        given: Any = dict(response.headers.items())
        return AWSResponse(request.url, response.status, given, _Body(response.body))


class _Body:
    """A response body with the method of urllib3's that botocore calls."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self) -> Iterator[bytes]:
        """Yield the whole body."""
        yield self._content


def _misconfigured(error: Exception) -> errors.ConfigurationError:
    return errors.ConfigurationError(
        f"boto3 cannot create a client ({type(error).__name__}). Check AWS_PROFILE, ~/.aws/config and the AWS_ variables."
    )


def _not_aws(name: str, service: str, what: str) -> str:
    return f"{name} returned a response that is not from AWS ({what}). Check proxies, and AWS_ENDPOINT_URL_{service.upper()}."


class _WithoutDebug(logging.Filter):
    """Keep this package's calls out of botocore's debug log, which contains whole requests and responses.

    It applies to the calling thread only. Other users of botocore keep their debug log.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()

    @contextmanager
    def here(self) -> Iterator[None]:
        """Drop botocore's debug records of this thread until the block ends."""
        # A filter does not apply to child loggers, so each logger needs it.
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("botocore"):
                logging.getLogger(name).addFilter(self)
        self._thread.active = True
        try:
            yield
        finally:
            self._thread.active = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record."""
        return record.levelno > logging.DEBUG or not getattr(self._thread, "active", False)


_without_debug = _WithoutDebug()


def _field(kind: type[T], response: dict[str, Any], name: str) -> T:
    value = response[name]
    if not isinstance(value, kind):
        raise TypeError(name)
    return value
