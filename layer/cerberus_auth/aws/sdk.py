"""The SDK lane: the same calls by boto3, for environments that only botocore understands."""

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
_NO_CREDENTIALS = "boto3 finds no AWS credentials: see AWS_PROFILE, or run `aws sts get-caller-identity`"
_OTHER_SHAPE = (TypeError, LookupError, AttributeError)  # what botocore's parsers, and _of, make of unexpected JSON
_CLIENTS = 16  # kept: services x regions x credentials that rotate


class SdkAws:
    """See ``Aws`` for what each call does and raises.

    botocore knows endpoints, credentials and forms; requests go over our transport, which bounds their time and their size,
    in the moment in which botocore would send them. So each attempt is one call of its own.
    """

    def __init__(self, settings: Settings, transport: Transport) -> None:
        try:
            import boto3  # noqa: F401  (needed later on)
            from cachetools import LRUCache
        except ImportError:
            raise errors.ConfigurationError(
                "this environment needs boto3 (CERBERUS_AWS_CLIENT=sdk, a profile, FIPS or dual-stack endpoints, or no "
                "credentials in the environment): install boto3, which Lambda's runtime has by itself"
            ) from None
        self._settings = settings
        self._transport = transport
        self._session: Session | None = None
        self._clients: LRUCache[tuple[str, str, str], BaseClient] = LRUCache(_CLIENTS)
        self._assumed = Temporary(self._assume)
        self._lock = threading.RLock()
        self._asking = threading.local()
        errors.without_inner_frames(self._load)

    def _load(self) -> None:
        """Have botocore read its models, as it does with the first client: here, at initialisation."""
        # Other credentials may need the network.
        self._client("kms", self._settings.region, environment_credentials() or Credentials("unknown", "unknown", None))

    def close(self) -> None:
        self._assumed.forget()
        self.forget()

    def forget(self) -> None:
        """Forget botocore's own credentials, and the clients, which hold some."""
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
        """Where a call's credentials come from, if not from the environment."""
        if self._settings.assume_role_arn and not own:
            return self._assumed
        return None if environment_credentials() else self

    def _own(self, region: str, deadline: Deadline) -> Credentials:
        from botocore.exceptions import BotoCoreError, ClientError

        keys = environment_credentials()
        if keys is not None:  # as botocore's first choice, which would keep them for good
            return keys
        try:
            with self._sending("the source of the AWS credentials", deadline):
                held = self._boto3().get_credentials()
                frozen = held.get_frozen_credentials() if held is not None else None
        except NoAnswer as failure:
            raise errors.CerberusUnavailable(f"boto3 cannot get the AWS credentials: {failure.reason}") from None
        except (BotoCoreError, ClientError, OSError, ValueError, *_OTHER_SHAPE) as error:
            raise errors.ConfigurationError(f"boto3 cannot get the AWS credentials ({type(error).__name__})") from None
        if frozen is not None and frozen.access_key and frozen.secret_key:
            return Credentials(frozen.access_key, frozen.secret_key, frozen.token)
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

        return self._call("kms", key_arn.split(":")[3], deadline, ask)

    def unseal(self, ciphertext: str, key_arn: str, context: Mapping[str, str], deadline: Deadline) -> bytes:
        blob = b64decode(ciphertext)

        def ask(client: Any) -> bytes:
            answer = client.decrypt(KeyId=key_arn, CiphertextBlob=blob, EncryptionContext=context)
            return opened(Decrypted(_of(bytes, answer, "Plaintext"), _of(str, answer, "KeyId")), key_arn)

        return self._call("kms", key_arn.split(":")[3], deadline, ask)

    def item(self, action: str, request: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        def ask(client: Any) -> dict[str, Any]:
            answer: dict[str, Any] = getattr(client, _ITEM_ACTIONS[action])(**request)
            return answer

        return self._call("dynamodb", self._settings.aws_region, deadline, ask)

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
            client = self._client(service, region, (self._own if own else self.credentials)(region, deadline))
            try:
                with self._sending(name, deadline):
                    return call(client)
            except exceptions.ClientError as error:
                refused = error.response.get("Error", {})  # none in a page of some proxy
                answer: Any = error.response.get("ResponseMetadata", {})
                status, code = answer.get("HTTPStatusCode", 0), str(refused.get("Code", ""))
                if (code in THROTTLED and service != "dynamodb") or status == 429 or status >= 500:
                    after = retry_after(answer.get("HTTPHeaders", {}).get("retry-after", ""))
                    what = code if code in THROTTLED else status
                    raise NoAnswer(f"it answered {what}", status=status, retry_after=after) from None
                if not code or code.isdigit():  # of a page: botocore makes a code of its status
                    raise errors.InvalidResponse(f"{name} does not answer as AWS does ({status})") from None
                message, item = refused.get("Message", ""), error.response.get("Item")
                raise AwsRefusal(name, error_code(code), message, item) from None
            except (ResponseParserError, exceptions.ChecksumError, ValueError, *_OTHER_SHAPE) as error:
                raise errors.InvalidResponse(f"{name} does not answer as AWS does ({type(error).__name__})") from None
            except exceptions.BotoCoreError as error:
                raise _misconfigured(error) from None

        def ask() -> T:
            return with_retries(once, name, self._settings.max_attempts, deadline, repeat_timeouts)

        return renewing(self._source(own), ask)

    def _boto3(self) -> Session:
        import boto3
        from botocore.exceptions import BotoCoreError

        with self._lock:
            if self._session is None:
                try:
                    session = boto3.Session()
                except (BotoCoreError, ValueError, *_OTHER_SHAPE) as error:
                    raise _misconfigured(error) from None
                # For all clients of the session, also those by which botocore itself gets credentials (SSO, STS).
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
                make: Any = self._boto3().client  # its stubs know each service by a literal
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
                except (BotoCoreError, ValueError, *_OTHER_SHAPE) as error:
                    raise _misconfigured(error) from None
            return client

    @contextmanager
    def _sending(self, name: str, deadline: Deadline) -> Iterator[None]:
        """Around what has botocore send requests, in this thread: to whom, and how long they may take."""
        before = getattr(self._asking, "whom", None)
        self._asking.whom = (name, deadline)
        try:
            with _quiet.here():
                yield
        finally:
            self._asking.whom = before

    def _send(self, request: AWSPreparedRequest, **_: object) -> Any:
        """Send a request in botocore's place (its event ``before-send``)."""
        from botocore.awsrequest import AWSResponse

        name, deadline = getattr(self._asking, "whom", None) or ("AWS", Deadline(self._settings.timeout))
        parts = urlsplit(request.url)
        if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise errors.ConfigurationError(
                f"{name}: an AWS endpoint must be https; plain http is for a loopback host only. See endpoint_url in "
                f"~/.aws/config"
            )
        headers = {key: value.decode() if isinstance(value, bytes) else value for key, value in request.headers.items()}
        body: Any = request.body.encode() if isinstance(request.body, str) else request.body
        answer = self._transport.once(name, request.method, request.url, deadline, headers=headers, body=body or None)
        if too_deep(answer.body):
            raise errors.InvalidResponse(f"{name} does not answer as AWS does (nested too deep)")
        given: Any = dict(answer.headers.items())
        return AWSResponse(request.url, answer.status, given, _Body(answer.body))


class _Body:
    """The body of an answer, as botocore reads one of urllib3's."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self) -> Iterator[bytes]:
        """All of it."""
        yield self._content


def _misconfigured(error: Exception) -> errors.ConfigurationError:
    return errors.ConfigurationError(
        f"boto3 cannot start ({type(error).__name__}): see AWS_PROFILE, ~/.aws/config and the AWS_ variables"
    )


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
