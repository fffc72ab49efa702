"""AWS for the local stack: moto's server behind a gate that adds authentication and authorization.

The gate verifies every signature, and evaluates identity and resource policies with real resource ARNs. Its errors have the
format and the messages of each AWS service. moto handles the calls that pass: KMS, STS, IAM, Lambda (function
configuration), DynamoDB and SQS.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import json
import re
import ssl
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote
from xml.etree import ElementTree

import boto3
from botocore.config import Config
from moto.awslambda.models import lambda_backends
from moto.core.exceptions import JsonRESTError
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.responses import DynamoHandler
from moto.iam.models import Role, User, iam_backends
from moto.kms import models as kms_models
from moto.kms.models import Key, kms_backends
from moto.kms.utils import HEADER_LEN, KEY_ID_LEN, generate_private_key
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.sts.models import AssumedRole, sts_backends
from moto.utilities.utils import get_partition
from werkzeug.exceptions import HTTPException
from werkzeug.test import Client

from cerberus_auth.testing.http_server import Fault, Request, Response, Server

from .policies import UnsupportedPolicyError, Verdict, evaluate, map_principals, parse
from .refusal import CONTENT_TYPES, QUERY_SERVICES, RefusedError, json_response, unrecognized
from .signature import Signature

ADMINISTRATOR = '{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}'
TRUST_LAMBDA: Mapping[str, Any] = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}

CLOCK_SKEW = {"sts": 15, "iam": 15}
"""Accepted clock skew in minutes, from AWS's error messages; 5 for other services."""

NOT_FOUND_OR_DENIED = (
    "because the resource does not exist in this Region, no resource-based policies allow access, "
    "or a resource-based policy explicitly denies access"
)
KMS_WITHOUT_KEY = ("CreateKey", "ListKeys", "ListAliases", "GenerateRandom")
KMS_WITH_MATERIAL = ("Encrypt", "Decrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext")
DYNAMODB_LEADING_KEYS = ("GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query")
DIRECT = {("dynamodb", "GetItem"): "get_item", ("dynamodb", "PutItem"): "put_item"}
"""Frequent calls, and moto's handlers for them. moto's web framework would take nine tenths of the time."""
EMPTY_ZIP = base64.b64encode(b"PK\x05\x06" + bytes(18)).decode()


@dataclass(frozen=True)
class Credentials:
    """An access key. Temporary ones have a session token and an expiration in UTC."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires: datetime | None = None


class AwsCall(NamedTuple):
    """One call that arrived at the gate, including refused ones."""

    service: str
    action: str
    principal_arn: str | None
    """The ARN of the user or assumed role; ``None`` for an unknown caller."""
    status: int
    """The HTTP status; 0 if a fault suppressed the response."""
    region: str

    @property
    def account(self) -> str | None:
        """Return the caller's account."""
        return self.principal_arn.split(":")[4] if self.principal_arn else None


@dataclass(frozen=True)
class Caller:
    """The caller of one call."""

    arn: str
    """``arn:aws:iam::…:user/…`` or ``arn:aws:sts::…:assumed-role/name/session``, as in AWS's error messages."""
    account: str
    names: frozenset[str]
    """The principals in a resource policy that match this caller only."""
    policies: tuple[str, ...]
    """The documents of its identity policies."""
    principal_arn: str
    """The value of ``aws:PrincipalArn``. For an assumed role, this is the role's ARN with its path."""

    @property
    def account_names(self) -> frozenset[str]:
        """Return the principals by which a resource policy delegates to the account's identity policies."""
        return frozenset([self.account, f"arn:{self.arn.split(':')[1]}:iam::{self.account}:root"])


@dataclass
class _Call:
    """A call in progress."""

    service: str
    accepts_json: bool
    action: str
    parameters: dict[str, Any]
    region: str = ""
    caller: Caller | None = None


@dataclass(frozen=True)
class _Session:
    """Credentials of an assumed role."""

    credentials: Credentials
    role_arn: str
    role_id: str
    name: str


class Aws:
    """AWS at ``url``, for any number of accounts and all of moto's regions, as a context manager.

    A process can have only one at a time, because moto keeps its state in the process. It resets moto at start and end.

    Parameters
    ----------
    tls
        The server's TLS context; ``None`` for plain http.
    port
        The port to listen on; 0 for a free one.
    ca_bundle
        The bundle that clients from ``client`` trust.

    Raises
    ------
    RuntimeError
        Another one is open.
    """

    FUNCTION_ACCOUNT = "111111111111"
    CERBERUS_ACCOUNT = "222222222222"

    url: str
    server: Server
    calls: list[AwsCall]
    """All calls, in the order of their responses."""

    _open = threading.Lock()

    def __init__(self, *, tls: ssl.SSLContext | None = None, port: int = 0, ca_bundle: Path | None = None) -> None:
        if not Aws._open.acquire(blocking=False):
            raise RuntimeError(
                "Another Aws is open in this process. Close it first: moto keeps its state in the process"
            )
        self.calls = []
        self._closed = False
        self._ca_bundle = ca_bundle
        self._sessions: dict[str, _Session] = {}
        self._administrators: dict[str, tuple[Credentials, User]] = {}
        self._lock = threading.RLock()  # moto's models are not thread-safe
        self._application = _moto()
        try:
            self._reset()
            self.server = Server(self._respond, tls, port, replaced=self._replaced)
        except BaseException:
            Aws._open.release()
            raise
        self.url = self.server.url

    def close(self) -> None:
        """Stop the server and reset moto. Repeated calls have no effect."""
        if not self._closed:
            self._closed = True
            self.server.close()
            self._reset()
            Aws._open.release()

    def __enter__(self) -> Aws:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Setup for tests. It bypasses the gate: no policy applies, and no call is recorded.

    def create_role(self, arn: str, policy: Mapping[str, Any] | None, trust: Mapping[str, Any] = TRUST_LAMBDA) -> None:
        """Create a role with the ARN's path and an identity policy.

        Parameters
        ----------
        trust
            The trust policy; by default only Lambda, and so ``assume``, can assume the role.

        Raises
        ------
        UnsupportedPolicyError
            The gate does not support an element of the policy.
        """
        backend, path, name = _role_name(arn)
        parse(trust)
        with self._lock:
            backend.create_role(name, json.dumps(trust), path, None, "", [], "3600")
            self.put_role_policy(arn, policy)

    def put_role_policy(self, arn: str, policy: Mapping[str, Any] | None) -> None:
        """Replace the role's identity policy, or remove it with ``None``.

        Raises
        ------
        UnsupportedPolicyError
            The gate does not support an element of the policy.
        """
        backend, _, name = _role_name(arn)
        if policy is not None:
            parse(policy)
        with self._lock:
            backend.get_role(name).policies.clear()
            if policy is not None:
                backend.put_role_policy(name, "identity", json.dumps(policy))

    def delete_role(self, arn: str) -> None:
        """Delete the role. Its sessions end, and key policies do not apply to a new role with the same name."""
        self.put_role_policy(arn, None)
        backend, _, name = _role_name(arn)
        with self._lock:
            backend.delete_role(name)

    def assume(self, role_arn: str, session: str = "function", duration_seconds: float = 3600) -> Credentials:
        """Return credentials of the role, as Lambda sets them for a function; expired ones for a duration of 0."""
        with self._lock:
            role = _role_name(role_arn)[0].get_role_by_arn(role_arn)
            _, partition, _, _, account, _ = role_arn.split(":", 5)
            assumed = sts_backends[account][partition].assume_role(
                partition, session, role_arn, "", int(duration_seconds), ""
            )
            return self._issue(assumed, role, duration_seconds)

    def account_credentials(self, account_id: str) -> Credentials:
        """Return an account's administrator credentials. They work in every partition."""
        with self._lock:
            if account_id not in self._administrators:
                backend = iam_backends[account_id]["aws"]
                user = backend.create_user("us-east-1", "administrator")
                key = backend.create_access_key("administrator")
                credentials = Credentials(key.access_key_id, key.secret_access_key)
                self._administrators[account_id] = credentials, user
            return self._administrators[account_id][0]

    def create_function(self, name: str, role_arn: str, region: str = "us-west-2") -> None:
        """Create a Lambda function in the role's account. Only its configuration is available."""
        spec = {
            "FunctionName": name,
            "Role": role_arn,
            "Runtime": "python3.13",
            "Handler": "app.handler",
            "Code": {"ZipFile": EMPTY_ZIP},
        }
        with self._lock:
            lambda_backends[role_arn.split(":")[4]][region].create_function(spec)

    def create_key(self, policy: Mapping[str, Any], account: str = FUNCTION_ACCOUNT, region: str = "us-west-2") -> str:
        """Create a key as the account's administrator, and return its ARN.

        Raises
        ------
        UnsupportedPolicyError
            The gate does not support an element of the policy.
        """
        client = self.client("kms", self.account_credentials(account), region)
        arn: str = client.create_key(Policy=json.dumps(policy))["KeyMetadata"]["Arn"]
        client.close()
        return arn

    def disable_key(self, key_arn: str) -> None:
        """Disable the key."""
        self._kms(key_arn).disable_key(_key_id(key_arn))

    def enable_key(self, key_arn: str) -> None:
        """Enable the key again."""
        self._kms(key_arn).enable_key(_key_id(key_arn))

    def schedule_deletion(self, key_arn: str) -> None:
        """Schedule the key's deletion in seven days."""
        self._kms(key_arn).schedule_key_deletion(_key_id(key_arn), 7)

    def put_key_policy(self, key_arn: str, policy: Mapping[str, Any]) -> None:
        """Replace the key's policy.

        Raises
        ------
        RefusedError
            The policy names a role that does not exist.
        """
        bound = _bind_principals(json.dumps(policy), get_partition(key_arn.split(":")[3]))
        self._kms(key_arn).put_key_policy(_key_id(key_arn), bound)

    def throttle(self, service: str, times: int | None = 1) -> None:
        """Throttle the next calls to a service."""
        refusal = RefusedError("ThrottlingException", "Rate exceeded").response(service)
        fault = Fault.status(refusal.status, refusal.body, refusal.headers)
        self.server.faults.add(fault, when=lambda request: _service(request) == service, times=times)

    def count(self, service: str, action: str | None = None, account: str | None = None) -> int:
        """Count the calls to a service, optionally of one action or one account."""
        return sum(
            call.service == service and action in (None, call.action) and account in (None, call.account)
            for call in list(self.calls)
        )

    def client(self, service: str, credentials: Credentials, region: str = "us-west-2") -> Any:
        """Return a boto3 client that does not retry."""
        with self._lock:  # creating clients is not thread-safe
            return _boto3_session().client(
                service,  # type: ignore[call-overload]  # a variable name
                region_name=region,
                endpoint_url=self.url,
                verify=str(self._ca_bundle) if self._ca_bundle else None,
                aws_access_key_id=credentials.access_key,
                aws_secret_access_key=credentials.secret_key,
                aws_session_token=credentials.session_token,
                config=Config(proxies={}, retries={"total_max_attempts": 1}),
            )

    # The stages of a call.

    def _respond(self, request: Request) -> Response:
        call = _read(request)
        try:
            with self._lock:
                response = self._carry_out(request, call)
        except RefusedError as refused:
            response = refused.response(call.service, call.accepts_json)
        self._record(call, response.status)
        return response._replace(headers={**response.headers, "x-amzn-RequestId": str(uuid.uuid4())})

    def _carry_out(self, request: Request, call: _Call) -> Response:
        signature = Signature.of(request)
        call.region = signature.region
        self._authenticate(request, call, signature)
        account = _AUTHORISERS[call.service](self, call)
        return self._forward(request, call, account)

    def _replaced(self, request: Request, status: int) -> None:
        """Record a call that a fault replaced."""
        call = _read(request)
        try:
            signature = Signature.of(request)
            call.region = signature.region
            with self._lock:
                call.caller = self._caller(signature.access_key, call.region)[1]
        except RefusedError:
            pass
        self._record(call, status)

    def _record(self, call: _Call, status: int) -> None:
        principal = call.caller.arn if call.caller else None
        self.calls.append(AwsCall(call.service, call.action, principal, status, call.region))

    # Authentication.

    def _authenticate(self, request: Request, call: _Call, signature: Signature) -> None:
        signature.check_scope(request, call.service, kms_backends[Aws.CERBERUS_ACCOUNT])
        credentials, caller = self._caller(signature.access_key, call.region)
        if request.headers.get("X-Amz-Security-Token") != credentials.session_token:
            raise unrecognized()
        if credentials.expires is not None and credentials.expires <= datetime.now(UTC):
            raise RefusedError("ExpiredTokenException", "The security token included in the request is expired")
        signature.check_date(request, CLOCK_SKEW.get(call.service, 5))
        signature.verify(request, credentials.secret_key)
        call.caller = caller

    def _caller(self, access_key: str, region: str) -> tuple[Credentials, Caller]:
        """Return the owner of an access key.

        Raises
        ------
        RefusedError
            The key is unknown, its role was deleted, or it belongs to another partition.
        """
        partition = get_partition(region)
        for account, (credentials, user) in self._administrators.items():
            if credentials.access_key == access_key:
                arn = f"arn:{partition}:iam::{account}:user/{user.name}"
                return credentials, Caller(arn, account, frozenset(["*", arn, user.id]), (ADMINISTRATOR,), arn)
        session = self._sessions.get(access_key)
        if session is None:
            raise unrecognized()
        _, home, _, _, account, _ = session.role_arn.split(":", 5)
        role = iam_backends[account][home].roles.get(session.role_id)
        if role is None or home != partition:
            raise unrecognized()
        arn = f"arn:{home}:sts::{account}:assumed-role/{role.name}/{session.name}"
        names = frozenset(["*", arn, role.arn, role.id])
        return session.credentials, Caller(arn, account, names, tuple(role.policies.values()), role.arn)

    def _issue(self, assumed: AssumedRole, role: Role, duration_seconds: float) -> Credentials:
        credentials = Credentials(
            assumed.access_key_id,
            assumed.secret_access_key,
            assumed.session_token,
            datetime.now(UTC) + timedelta(seconds=duration_seconds),
        )
        session = _Session(credentials, role.arn, role.id, assumed.session_name)
        self._sessions[credentials.access_key] = session
        return credentials

    # Authorization. Each method returns the account that owns the resource.

    def _authorise_kms(self, call: _Call) -> str:
        caller, parameters = _known(call.caller), call.parameters
        action = f"kms:{call.action}"
        context = _context(call, {"kms:CallerAccount": [caller.account]})
        if call.action in KMS_WITHOUT_KEY:
            _authorise(caller, action, "*", context)
            return caller.account
        sealed_by = None
        if call.action == "Decrypt":
            sealed_by = self._sealing_key(call)
        named = parameters.get("KeyId") or parameters.get("TargetKeyId")
        if named is None and sealed_by is None:
            raise RefusedError("UnknownOperationException")  # without a key to authorize
        key = _named_key(call, named) if named else sealed_by
        assert key is not None
        encryption_context: dict[str, str] = parameters.get("EncryptionContext") or {}
        if encryption_context:
            context["kms:encryptioncontextkeys"] = tuple(encryption_context)
        for name, value in encryption_context.items():
            context[f"kms:encryptioncontext:{name.lower()}"] = (value,)
        on = f"on resource: {key.arn}" if named else "on the resource associated with this ciphertext"
        hidden = named is None or key.account_id != caller.account
        _authorise(caller, action, key.arn, context, key.policy, key.account_id, on, hidden)
        if sealed_by is not None and sealed_by is not key:
            raise RefusedError(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation.",
            )
        if call.action in KMS_WITH_MATERIAL:
            if key.key_state == "PendingDeletion":
                raise RefusedError("KMSInvalidStateException", f"{key.arn} is pending deletion.")
            if not key.enabled:
                raise RefusedError("DisabledException", f"{key.arn} is disabled.")
        return key.account_id

    def _sealing_key(self, call: _Call) -> Key:
        """Return the key of a ciphertext. moto's ciphertexts start with the key's ID."""
        try:
            sealed = base64.b64decode(call.parameters.get("CiphertextBlob", ""), validate=True)
        except (TypeError, binascii.Error):
            raise RefusedError("SerializationException") from None
        if not 1 <= len(sealed) <= 6144:
            raise RefusedError(
                "ValidationException",
                "1 validation error detected: Value at 'ciphertextBlob' failed to satisfy constraint: Member must have "
                + ("length greater than or equal to 1" if not sealed else "length less than or equal to 6144"),
            )
        key_id = sealed[:KEY_ID_LEN].decode("ascii", "replace")
        if len(sealed) <= HEADER_LEN or not re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", key_id):
            raise RefusedError("InvalidCiphertextException")
        for account in list(kms_backends):
            key: Key | None = kms_backends[account][call.region].keys.get(key_id)
            if key is not None:
                return key
        on = "on the resource associated with this ciphertext"
        raise _denied(_known(call.caller), "kms:Decrypt", on, NOT_FOUND_OR_DENIED)

    def _authorise_sts(self, call: _Call) -> str:
        caller = _known(call.caller)
        if call.action == "GetCallerIdentity":
            return caller.account  # needs no permission, and no policy can deny it
        if call.action != "AssumeRole":
            raise RefusedError("UnknownOperationException", f"Could not find operation {call.action}")
        role_arn = call.parameters.get("RoleArn", "")
        try:
            role = _role_name(role_arn)[0].get_role_by_arn(role_arn)
        except Exception:  # not a role's ARN, or no such role: AWS does not say which
            raise _denied(caller, "sts:AssumeRole", f"on resource: {role_arn}") from None
        external_id = call.parameters.get("ExternalId")
        context = _context(call, {"sts:ExternalId": [external_id] if external_id else []})
        trust = role.assume_role_policy_document
        _authorise(caller, "sts:AssumeRole", role_arn, context, trust, role.account_id, reasons=False)
        return str(role.account_id)

    def _authorise_iam(self, call: _Call) -> str:
        caller = _known(call.caller)
        resource, name = "*", call.parameters.get("RoleName")
        if name:
            partition = get_partition(call.region)
            roles = iam_backends[caller.account][partition].roles.values()
            default = f"arn:{partition}:iam::{caller.account}:role/{name}"
            resource = next((role.arn for role in roles if role.name == name), default)
        _authorise(caller, f"iam:{call.action}", resource, _context(call))
        return caller.account

    def _authorise_lambda(self, call: _Call) -> str:
        caller = _known(call.caller)
        if call.action != "GetFunctionConfiguration":
            raise RefusedError("UnknownOperationException")
        name = call.parameters["FunctionName"]
        if not name.startswith("arn:"):
            name = f"arn:{get_partition(call.region)}:lambda:{call.region}:{caller.account}:function:{name}"
        if "Qualifier" in call.parameters:
            name = f"{name}:{call.parameters['Qualifier']}"
        nobody = '{"Statement": []}'  # the functions have no resource policy
        owner = name.split(":")[4]
        _authorise(
            caller, "lambda:GetFunctionConfiguration", name, _context(call), None if owner == caller.account else nobody
        )
        return caller.account

    def _authorise_dynamodb(self, call: _Call) -> str:
        caller, action = _known(call.caller), f"dynamodb:{call.action}"
        if call.action == "ListTables":
            _authorise(caller, action, "*", _context(call))
            return caller.account
        if "TableName" not in call.parameters or "IndexName" in call.parameters:
            raise RefusedError("UnknownOperationException")  # batches, transactions and indexes are not supported
        table: str = call.parameters["TableName"]
        if not table.startswith("arn:"):
            table = f"arn:{get_partition(call.region)}:dynamodb:{call.region}:{caller.account}:table/{table}"
        context = _context(call, {"dynamodb:LeadingKeys": _leading_keys(call, table.partition("/")[2])})
        _authorise(caller, action, table, context)
        return caller.account

    def _authorise_sqs(self, call: _Call) -> str:
        caller = _known(call.caller)
        name = call.parameters.get("QueueName") or call.parameters.get("QueueUrl", "").rpartition("/")[2]
        queue = f"arn:{get_partition(call.region)}:sqs:{call.region}:{caller.account}:{name}"
        # A batch requires the permission of the single call.
        _authorise(caller, f"sqs:{call.action.removesuffix('Batch')}", queue, _context(call))
        return caller.account

    # moto's responses, corrected.

    def _forward(self, request: Request, call: _Call, account: str) -> Response:
        if (call.service, call.action) in DIRECT:
            return _directly(call, account)
        if (call.service, call.action) == ("kms", "Decrypt"):
            with contextlib.suppress(JsonRESTError):  # then moto's server responds with the error
                return _decrypted(call, account)
        body = request.body
        if call.service == "kms" and "Policy" in call.parameters:
            policy = _bind_principals(call.parameters["Policy"], get_partition(call.region))
            body = json.dumps({**call.parameters, "Policy": policy}).encode()
        copied = ("Authorization", "X-Amz-Target", "Content-Type")
        answer = self._application.open(
            request.path,
            method=request.method,
            query_string=request.query,
            data=body,
            headers={
                "Host": f"{call.service}.{call.region}.amazonaws.com",
                # The account in which moto looks for the resource.
                "x-moto-account-id": account,
                **{name: request.headers[name] for name in copied if name in request.headers},
            },
        )
        status, body, headers = answer.status_code, answer.get_data(), {"Content-Type": CONTENT_TYPES[call.service]}
        if body == b"null":
            body = b""
        if call.action == "AssumeRole" and status == 200:
            self._register(call, body)
        if call.service == "sts" and call.accepts_json:
            return json_response(status, _as_json(ElementTree.fromstring(body)), "application/json")  # noqa: S314 - moto wrote it
        if call.action == "GetKeyPolicy" and status == 200:
            body = json.dumps({"Policy": map_principals(json.loads(body)["Policy"], _shown)}).encode()
        if call.service == "lambda" and status >= 400:
            error = json.loads(body)
            headers["x-amzn-ErrorType"] = error["__type"]
            body = json.dumps({"Type": "User", "Message": error["message"]}).encode()
        return Response(status, body, headers)

    def _register(self, call: _Call, answer: bytes) -> None:
        """Register the credentials that moto issued for a role."""
        role_arn = call.parameters["RoleArn"]
        _, partition, _, _, account, _ = role_arn.split(":", 5)
        access_key = ElementTree.fromstring(answer).findtext(".//{*}AccessKeyId") or ""  # noqa: S314 - moto wrote it
        assumed = sts_backends[account][partition].get_assumed_role_from_access_key(access_key)
        assert assumed is not None
        role = iam_backends[account][partition].get_role_by_arn(role_arn)
        self._issue(assumed, role, float(call.parameters.get("DurationSeconds", 3600)))

    def _kms(self, key_arn: str) -> Any:
        _, _, _, region, account, _ = key_arn.split(":", 5)
        return kms_backends[account][region]

    def _reset(self) -> None:
        with self._lock:
            self._application.post("/moto-api/reset")


_AUTHORISERS: Mapping[str, Callable[[Aws, _Call], str]] = {
    "kms": Aws._authorise_kms,
    "sts": Aws._authorise_sts,
    "iam": Aws._authorise_iam,
    "lambda": Aws._authorise_lambda,
    "dynamodb": Aws._authorise_dynamodb,
    "sqs": Aws._authorise_sqs,
}


def _authorise(
    caller: Caller,
    action: str,
    resource: str,
    context: Mapping[str, tuple[str, ...]],
    resource_policy: str | None = None,
    owner: str = "",
    on: str = "",
    hidden: bool = False,
    reasons: bool = True,
) -> None:
    """Evaluate all policies. Within an account, one policy must allow the call; across accounts, both sides must.

    Parameters
    ----------
    resource_policy
        ``None`` if the resource cannot have one.
    owner
        The account that owns the resource.
    hidden
        Whether the error must not reveal if the resource exists.
    reasons
        Whether the error names the policy.

    Raises
    ------
    RefusedError
        The call is not allowed.
    """
    documents = [statement for document in caller.policies for statement in parse(document)]
    identity = evaluate(documents, action, resource, context)
    on = on or f"on resource: {resource}"
    allowing = f"policy allows the {action} action"
    reason = None
    if identity is Verdict.EXPLICIT_DENY:
        reason = "with an explicit deny in an identity-based policy"
    elif resource_policy is None:
        if identity is not Verdict.ALLOW:
            reason = f"because no identity-based {allowing}"
    else:
        statements = parse(resource_policy)
        named = evaluate(statements, action, resource, context, caller.names)
        delegated = evaluate(statements, action, resource, context, caller.account_names)
        suffices = named is Verdict.ALLOW and owner == caller.account
        if Verdict.EXPLICIT_DENY in (named, delegated):
            reason = NOT_FOUND_OR_DENIED if hidden else "with an explicit deny in a resource-based policy"
        elif not suffices and identity is not Verdict.ALLOW and (delegated is Verdict.ALLOW or owner != caller.account):
            reason = f"because no identity-based {allowing}"
        elif Verdict.ALLOW not in (named, delegated):
            reason = NOT_FOUND_OR_DENIED if hidden else f"because no resource-based {allowing}"
    if reason is not None:
        raise _denied(caller, action, on, reason if reasons else "")


def _context(call: _Call, more: Mapping[str, Iterable[str]] | None = None) -> dict[str, tuple[str, ...]]:
    """Return the condition keys with a value."""
    caller = _known(call.caller)
    values = {
        "aws:PrincipalArn": [caller.principal_arn],
        "aws:PrincipalAccount": [caller.account],
        "aws:RequestedRegion": [call.region],
        **(more or {}),
    }
    return {name.lower(): tuple(some) for name, some in values.items() if some}


def _directly(call: _Call, account: str) -> Response:
    """Call moto's handler directly, without its web framework."""
    handler = DynamoHandler()
    handler.current_account, handler.region, handler.partition = account, call.region, get_partition(call.region)
    handler.body = call.parameters
    content_type = CONTENT_TYPES[call.service]
    try:
        answer = getattr(handler, DIRECT[call.service, call.action])().result
        text = json.dumps(answer, default=lambda binary: base64.b64encode(binary).decode())
        return Response(200, text.encode(), {"Content-Type": content_type})
    except HTTPException as error:
        return Response(error.code or 500, (error.description or "").encode(), {"Content-Type": content_type})


def _decrypted(call: _Call, account: str) -> Response:
    """Decrypt by moto's model directly, for the same reason."""
    plaintext, key_arn = kms_backends[account][call.region].decrypt(
        base64.b64decode(call.parameters["CiphertextBlob"]),
        call.parameters.get("EncryptionContext") or {},
        call.parameters.get("KeyId"),
    )
    found = {"Plaintext": base64.b64encode(plaintext).decode(), "KeyId": key_arn}
    return Response(200, json.dumps(found).encode(), {"Content-Type": CONTENT_TYPES[call.service]})


def _leading_keys(call: _Call, name: str) -> list[str]:
    """Return the partition keys that a call uses. Conditions on them apply to single items and queries."""
    table = dynamodb_backends[_known(call.caller).account][call.region].tables.get(name)
    if table is None or call.action not in DYNAMODB_LEADING_KEYS:
        return []
    parameters = call.parameters
    item = parameters.get("Key") or parameters.get("Item") or {}
    value = item.get(table.hash_key_attr)
    for attribute, placeholder in re.findall(r"([\w#]+)\s*=\s*(:\w+)", parameters.get("KeyConditionExpression", "")):
        if parameters.get("ExpressionAttributeNames", {}).get(attribute, attribute) == table.hash_key_attr:
            value = parameters.get("ExpressionAttributeValues", {}).get(placeholder)
    return [str(one) for one in value.values()] if value else []


def _named_key(call: _Call, name: str) -> Key:
    """Return the key with this ID, ARN, alias or alias ARN, as seen from the caller's account.

    Raises
    ------
    RefusedError
        There is no such key.
    """
    caller = _known(call.caller)
    account, arn = caller.account, name
    if name.startswith("arn:"):
        parts = name.split(":", 5)
        if len(parts) != 6 or parts[3] != call.region:
            raise RefusedError("NotFoundException", f"Invalid arn {parts[3] if len(parts) > 3 else name}")
        account, name = parts[4], parts[5].removeprefix("key/")
    else:
        kind = "" if name.startswith("alias/") else "key/"
        arn = f"arn:{get_partition(call.region)}:kms:{call.region}:{account}:{kind}{name}"
    backend = kms_backends[account][call.region]
    is_alias = name.startswith("alias/")
    key: Key | None = backend.keys.get((backend.get_key_id_from_alias(name) or "") if is_alias else name)
    if key is not None:
        return key
    if account != caller.account:
        raise _denied(caller, f"kms:{call.action}", f"on resource: {arn}", NOT_FOUND_OR_DENIED)
    raise RefusedError("NotFoundException", f"Alias {arn} is not found." if is_alias else f"Key '{arn}' does not exist")


def _bind_principals(document: str, partition: str) -> str:
    """Check a key policy, and replace the ARNs of roles and users by their unique IDs, as KMS stores it.

    That is why a role that is deleted and made again under the same name finds itself refused.

    Raises
    ------
    RefusedError
        A principal does not exist in this partition.
    UnsupportedPolicyError
        The gate does not support an element of the policy.
    """

    def bound(name: str) -> str:
        if name == "*" or re.fullmatch(r"\d{12}", name):
            return name
        parts = name.split(":", 5)
        if len(parts) == 6 and parts[1] == partition and (parts[2] == "sts" or parts[5] == "root"):
            return name
        for entity in _entities():
            if name == entity.id or (name == entity.arn and parts[1] == partition):
                return str(entity.id)
        raise RefusedError(
            "MalformedPolicyDocumentException", "Policy contains a statement with one or more invalid principals."
        )

    try:
        parse(document)
    except UnsupportedPolicyError as error:
        if isinstance(error.__cause__, ValueError):
            raise RefusedError("MalformedPolicyDocumentException", "The new key policy is not valid JSON.") from None
        raise
    return map_principals(document, bound)


def _shown(name: str) -> str:
    """Return the ARN for a unique ID. The ID of a deleted principal stays, as KMS shows it."""
    return next((str(entity.arn) for entity in _entities() if entity.id == name), name)


def _entities() -> Iterator[Role | User]:
    for account in list(iam_backends):
        for backend in list(iam_backends[account].values()):
            yield from list(backend.roles.values())
            yield from list(backend.users.values())


def _service(request: Request) -> str:
    """Return the service that a request is for."""
    target = request.headers.get("X-Amz-Target") or ""
    if target:
        return {"DynamoDB_": "dynamodb", "AmazonSQS": "sqs"}.get(target[:9], "kms")
    if request.path != "/":
        return "lambda"
    return "iam" if b"Version=2010-05-08" in request.body else "sts"


def _read(request: Request) -> _Call:
    """Parse the action and its parameters. Invalid parts stay empty, because authentication comes first."""
    service = _service(request)
    accepts_json = "application/json" in (request.headers.get("Accept") or "")
    parameters: dict[str, Any] = {}
    if service in QUERY_SERVICES:
        parameters = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
        return _Call(service, accepts_json, parameters.get("Action", ""), parameters)
    if service == "lambda":
        found = re.fullmatch("/2015-03-31/functions/([^/]+)/configuration", request.path)
        action = "GetFunctionConfiguration" if found and request.method == "GET" else ""
        parameters = {"FunctionName": unquote(found[1]) if found else "", **request.query}
        return _Call(service, accepts_json, action, parameters)
    try:
        parameters = json.loads(request.body or b"{}")
    except ValueError:
        parameters = {}
    action = request.headers["X-Amz-Target"].rpartition(".")[2]
    return _Call(service, accepts_json, action, parameters if isinstance(parameters, dict) else {})


def _known(caller: Caller | None) -> Caller:
    assert caller is not None
    return caller


def _role_name(arn: str) -> tuple[Any, str, str]:
    """Return moto's IAM backend of the role's account, the role's path and its name.

    Raises
    ------
    ValueError
        It is not the ARN of a role.
    """
    found = re.fullmatch(r"arn:(aws[a-z-]*):iam::(\d{12}):role(/(?:[^/]+/)*)([\w+=,.@-]+)", arn)
    if found is None:
        raise ValueError(f"{arn} is not the ARN of a role")
    partition, account, path, name = found.groups()
    return iam_backends[account][partition], path, name


@functools.cache
def _moto() -> Client:
    """Return a client that calls moto's web application in this process, without a socket.

    The gate reads policies and key states directly from moto. One client serves all calls, because each new one compiles the
    routes of every service again.
    """
    # moto generates an unused RSA key for each symmetric KMS key, which is slow.
    kms_models.generate_private_key = functools.cache(generate_private_key)  # type: ignore[attr-defined]  # imported there
    return Client(DomainDispatcherApplication(create_backend_app), use_cookies=False)


@functools.cache
def _boto3_session() -> boto3.session.Session:
    """Return one session for all clients, because each session loads the service models again."""
    return boto3.session.Session()


def _key_id(key_arn: str) -> str:
    return key_arn.rpartition("/")[2]


def _denied(caller: Caller, action: str, on: str, reason: str = "") -> RefusedError:
    message = f"User: {caller.arn} is not authorized to perform: {action} {on} {reason}"
    return RefusedError("AccessDeniedException", message.rstrip())


def _as_json(element: ElementTree.Element) -> dict[str, Any]:
    """Convert an XML response of STS to its JSON form, with times in seconds."""

    def value(inner: ElementTree.Element) -> Any:
        if len(inner):
            return {name(child): value(child) for child in inner}
        if name(inner) == "Expiration":
            return datetime.fromisoformat(inner.text or "").timestamp()
        return inner.text

    def name(inner: ElementTree.Element) -> str:
        return inner.tag.rpartition("}")[2]

    return {name(element): value(element)}
