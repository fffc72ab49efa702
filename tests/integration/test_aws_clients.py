"""The two AWS clients: the same results and the same errors, by hand and by botocore."""

from __future__ import annotations

import base64
import json
import re
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.auth
import botocore.credentials
import pytest
from botocore.awsrequest import AWSRequest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerberus_auth import (
    CerberusError,
    CerberusUnavailable,
    ConfigurationError,
    DecryptionDenied,
    InvalidResponse,
)
from cerberus_auth.aws.calls import AwsRefusal, Credentials, connect
from cerberus_auth.aws.sigv4 import sign
from cerberus_auth.deadline import Deadline
from cerberus_auth.http.transport import Transport, host_header
from cerberus_auth.testing.http_server import Fault, Request, Response, Server
from integration.function import Function, closed_port
from local_stack.aws import Aws
from local_stack.certificates import CertificateAuthority
from local_stack.stack import ROLE, LocalStack, decrypt_statement

REGION = "us-west-2"
CLIENTS = ("signed", "sdk")
OF_ITSELF = {
    "Effect": "Allow",
    "Action": "lambda:GetFunctionConfiguration",
    "Resource": "arn:aws:lambda:us-west-2:111111111111:function:*",
}
PLAINTEXT = b"what Cerberus has encrypted"
UNKNOWN_CIPHERTEXT = base64.b64encode(b"no ciphertext of KMS, " * 8).decode()
ALWAYS = None


# One contract for both


class Bench:
    """Makes each call with each client, and counts what reached AWS."""

    def __init__(self, function: Function) -> None:
        self.function = function
        stack = function.stack
        self.key_arn = stack.cerberus.key_arn(ROLE, REGION)
        operator = stack.aws.client("kms", stack.aws.account_credentials(Aws.CERBERUS_ACCOUNT))
        self.ciphertext = base64.b64encode(
            operator.encrypt(KeyId=self.key_arn, Plaintext=PLAINTEXT)["CiphertextBlob"]
        ).decode()
        operator.close()
        stack.aws.put_role_policy(ROLE, {"Version": "2012-10-17", "Statement": [decrypt_statement(), OF_ITSELF]})
        stack.aws.create_function("web", ROLE)
        stack.aws.calls.clear()

    def outcome(self, aws_client: str, operation: str) -> tuple[Any, int]:
        """What the client makes of the call: the result, or the error's class and text; and how many calls arrived."""
        self.function.configure(CERBERUS_AWS_CLIENT=aws_client)
        chosen = self.function.settings()
        transport = Transport(chosen)
        before = len(self.function.stack.aws.calls)
        try:
            result: Any = self._call(connect(chosen, transport), operation)
        except AwsRefusal as refusal:
            result = AwsRefusal, refusal.service, refusal.code, refusal.message
        except CerberusError as error:
            result = type(error), str(error)
        finally:
            transport.close()
        return result, len(self.function.stack.aws.calls) - before

    def _call(self, aws: Any, operation: str) -> object:
        deadline = Deadline(10)
        if operation == "decrypt":
            decrypted = aws.decrypt(self.ciphertext, REGION, deadline)
            return decrypted.plaintext, decrypted.key_arn
        if operation == "caller_identity":
            return aws.caller_identity(REGION, deadline)
        return aws.function_role("web", REGION, deadline)


@pytest.fixture
def bench(function: Function) -> Bench:
    return Bench(function)


SERVICES = {"decrypt": "kms", "caller_identity": "sts", "function_role": "lambda"}
OPERATIONS = pytest.mark.parametrize("operation", list(SERVICES))


def test_both_clients_give_the_same_results(bench: Bench) -> None:
    results = {
        "decrypt": (PLAINTEXT, bench.key_arn),
        "caller_identity": "arn:aws:sts::111111111111:assumed-role/orders/function",
        "function_role": ROLE,
    }
    for operation, result in results.items():
        for aws_client in CLIENTS:
            assert bench.outcome(aws_client, operation) == (result, 1), aws_client


def no_policy(bench: Bench) -> None:
    bench.function.stack.aws.put_role_policy(ROLE, None)


def unknown_ciphertext(bench: Bench) -> None:
    bench.ciphertext = UNKNOWN_CIPHERTEXT


@dataclass(frozen=True)
class Refusal:
    """A call that AWS refuses, once and for all."""

    name: str
    operation: str
    arrange: Callable[[Bench], object]
    code: str


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name.replace(" ", "-"))
        for row in (
            Refusal("denied", "decrypt", no_policy, "AccessDeniedException"),
            Refusal("denied its configuration", "function_role", no_policy, "AccessDeniedException"),
            Refusal(
                "disabled key",
                "decrypt",
                lambda bench: bench.function.stack.aws.disable_key(bench.key_arn),
                "DisabledException",
            ),
            Refusal(
                "key to be deleted",
                "decrypt",
                lambda bench: bench.function.stack.aws.schedule_deletion(bench.key_arn),
                "KMSInvalidStateException",
            ),
            Refusal("invalid ciphertext", "decrypt", unknown_ciphertext, "InvalidCiphertextException"),
        )
    ],
)
def test_both_clients_tell_the_same_refusal(bench: Bench, row: Refusal) -> None:
    row.arrange(bench)
    by_hand, by_botocore = (bench.outcome(aws_client, row.operation) for aws_client in CLIENTS)
    assert by_hand == by_botocore
    (kind, _, code, _), calls = by_hand
    assert (kind, code, calls) == (AwsRefusal, row.code, 1)


@OPERATIONS
@pytest.mark.parametrize(
    ("wrong", "codes"),
    [
        ("expired", {"ExpiredTokenException", "ExpiredToken"}),
        ("AWS_SECRET_ACCESS_KEY", {"InvalidSignatureException", "SignatureDoesNotMatch"}),
        ("AWS_SESSION_TOKEN", {"UnrecognizedClientException", "InvalidClientTokenId"}),
    ],
)
def test_both_clients_tell_credentials_that_aws_does_not_take(
    bench: Bench, operation: str, wrong: str, codes: set[str]
) -> None:
    if wrong == "expired":
        bench.function.become(ROLE, duration_seconds=0)
    else:
        bench.function.configure(**{wrong: "none-that-was-ever-given-out"})
    outcomes: list[Any] = [bench.outcome(aws_client, operation) for aws_client in CLIENTS]
    for (kind, service, code, _), calls in outcomes:
        assert (kind, service.split()[0].lower(), calls) == (AwsRefusal, SERVICES[operation], 1)
        assert code in codes
    assert outcomes[0][0][2] == outcomes[1][0][2]


def throttle(bench: Bench, aws_client: str, operation: str) -> None:
    """Answer as the service throttles; STS in the form that was asked for."""
    aws = bench.function.stack.aws
    aws.server.faults.clear()
    if (aws_client, operation) == ("signed", "caller_identity"):
        refusal = {"Error": {"Type": "Sender", "Code": "Throttling", "Message": "Rate exceeded"}}
        fault = Fault.status(400, json.dumps(refusal).encode(), {"Content-Type": "application/json"})
        aws.server.faults.add(fault, times=ALWAYS)
    else:
        aws.throttle(SERVICES[operation], times=ALWAYS)


def fail_by(fault: Fault) -> Callable[[Bench, str, str], None]:
    def fail(bench: Bench, aws_client: str, operation: str) -> None:
        bench.function.stack.aws.server.faults.clear()
        bench.function.stack.aws.server.faults.add(fault, times=ALWAYS)

    return fail


@OPERATIONS
@pytest.mark.parametrize(
    "fail",
    [
        pytest.param(throttle, id="throttled"),
        pytest.param(fail_by(Fault.html(500)), id="page-of-500"),
        pytest.param(fail_by(Fault.status(503)), id="empty-503"),
    ],
)
def test_both_clients_try_three_times_what_may_pass(
    bench: Bench, operation: str, fail: Callable[[Bench, str, str], None]
) -> None:
    outcomes: list[Any] = []
    for aws_client in CLIENTS:
        fail(bench, aws_client, operation)
        outcomes.append(bench.outcome(aws_client, operation))
    assert outcomes[0] == outcomes[1]
    (kind, text), calls = outcomes[0]
    assert (kind, calls) == (CerberusUnavailable, 3)
    assert "attempt 3 of 3" in text


@OPERATIONS
def test_both_clients_try_three_times_what_breaks(bench: Bench, operation: str) -> None:
    bench.function.stack.aws.server.faults.add(Fault.reset(), times=ALWAYS)
    for aws_client in CLIENTS:
        (kind, text), calls = bench.outcome(aws_client, operation)
        assert (aws_client, kind, calls) == (aws_client, CerberusUnavailable, 3)
        assert "attempt 3 of 3" in text


@OPERATIONS
def test_both_clients_tell_a_connection_that_is_refused(bench: Bench, operation: str) -> None:
    bench.function.configure(AWS_ENDPOINT_URL=closed_port())
    texts = []
    for aws_client in CLIENTS:
        (kind, text), _ = bench.outcome(aws_client, operation)
        assert kind is CerberusUnavailable
        texts.append(re.sub(r"no connection \([^)]*\)", "no connection", text))  # each library's word for it
    assert texts[0] == texts[1]


@OPERATIONS
def test_both_clients_give_up_a_call_that_hangs(bench: Bench, operation: str) -> None:
    bench.function.stack.aws.server.faults.add(Fault.hang(), times=ALWAYS)
    bench.function.configure(CERBERUS_READ_TIMEOUT="0.4", CERBERUS_MAX_ATTEMPTS="2")
    for aws_client in CLIENTS:
        (kind, text), calls = bench.outcome(aws_client, operation)
        assert (aws_client, kind, calls) == (aws_client, CerberusUnavailable, 2)
        assert "attempt 2 of 2" in text


@OPERATIONS
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault.html(), id="page"),
        pytest.param(Fault.empty(), id="empty"),
        pytest.param(Fault.status(200, b"{}"), id="no-fields"),
        pytest.param(Fault.status(200, b"[1, 2]"), id="array"),
        pytest.param(Fault.status(200, b'{"Plaintext": 5, "Arn": 5, "Role": 5}'), id="numbers"),
    ],
)
def test_both_clients_refuse_what_is_no_answer_of_aws(bench: Bench, operation: str, fault: Fault) -> None:
    bench.function.stack.aws.server.faults.add(fault, times=ALWAYS)
    for aws_client in CLIENTS:
        (kind, *_), calls = bench.outcome(aws_client, operation)
        assert (aws_client, kind, calls) == (aws_client, InvalidResponse, 1)


@OPERATIONS
def test_neither_client_takes_half_an_answer(bench: Bench, operation: str) -> None:
    bench.function.stack.aws.server.faults.add(Fault.half_body(), times=ALWAYS)
    for aws_client in CLIENTS:
        (kind, text), calls = bench.outcome(aws_client, operation)
        assert (aws_client, kind, calls) == (aws_client, CerberusUnavailable, 3)
        assert "closed before the answer was complete" in text


@OPERATIONS
def test_both_clients_bound_the_time_of_an_answer_that_drips(bench: Bench, operation: str) -> None:
    bench.function.configure(CERBERUS_READ_TIMEOUT="0.5", CERBERUS_MAX_ATTEMPTS="1")
    bench.function.stack.aws.server.faults.add(Fault.drip_body(0.2), times=ALWAYS)
    for aws_client in CLIENTS:
        since = time.monotonic()
        (kind, text), _ = bench.outcome(aws_client, operation)
        assert (aws_client, kind) == (aws_client, CerberusUnavailable)
        assert "no complete answer within 0.5 s" in text
        assert time.monotonic() - since < 10


@OPERATIONS
def test_both_clients_bound_the_size_of_an_answer(bench: Bench, operation: str) -> None:
    bench.function.stack.aws.server.faults.add(Fault.status(200, b" " * (3 << 20)), times=ALWAYS)
    for aws_client in CLIENTS:
        (kind, text), calls = bench.outcome(aws_client, operation)
        assert (aws_client, kind, calls) == (aws_client, InvalidResponse, 1)
        assert "returned more than 1048576 bytes" in text


@OPERATIONS
def test_both_clients_bound_the_depth_of_an_answer(bench: Bench, operation: str) -> None:
    document = b'{"Plaintext": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    bench.function.stack.aws.server.faults.add(Fault.status(200, document), times=ALWAYS)
    for aws_client in CLIENTS:
        (kind, *_), calls = bench.outcome(aws_client, operation)
        assert (aws_client, kind, calls) == (aws_client, InvalidResponse, 1)


HOSTILE_CODES = [
    "Forged\n2026-01-01 ERROR planted",
    "planted " * 500,
    "Planted1",
    "ns#Signature=planted:x",
    "Pläntéd",
    "P" * 65,
]


@pytest.mark.parametrize("code", HOSTILE_CODES)
def test_neither_client_quotes_a_code_that_is_none(bench: Bench, code: str) -> None:
    body = json.dumps({"__type": code, "message": "no"}).encode()
    headers = {"Content-Type": "application/x-amz-json-1.1"}
    bench.function.stack.aws.server.faults.add(Fault.status(400, body, headers), times=ALWAYS)
    for aws_client in CLIENTS:
        (kind, _, shown, _), calls = bench.outcome(aws_client, "decrypt")
        assert (aws_client, kind, shown, calls) == (aws_client, AwsRefusal, "unknown", 1)


def test_both_clients_wait_as_long_as_a_service_wants(bench: Bench) -> None:
    bench.function.configure(CERBERUS_MAX_ATTEMPTS="1")
    bench.function.stack.aws.server.faults.add(Fault.status(503, b"", {"Retry-After": "7"}), times=ALWAYS)
    for aws_client in CLIENTS:
        bench.function.configure(CERBERUS_AWS_CLIENT=aws_client)
        chosen = bench.function.settings()
        transport = Transport(chosen)
        with pytest.raises(CerberusUnavailable) as raised:
            connect(chosen, transport).caller_identity(REGION, Deadline(10))
        assert (aws_client, raised.value.status, raised.value.retry_after) == (aws_client, 503, 7)
        transport.close()


@OPERATIONS
def test_both_clients_trust_no_other_authority(bench: Bench, operation: str, tmp_path: Path) -> None:
    other = str(CertificateAuthority(tmp_path).bundle)
    bench.function.configure(AWS_CA_BUNDLE=other, REQUESTS_CA_BUNDLE=other)
    for aws_client in CLIENTS:
        (kind, text), calls = bench.outcome(aws_client, operation)
        assert (aws_client, kind, calls) == (aws_client, CerberusUnavailable, 0)
        assert "is not trusted" in text
        assert "AWS_CA_BUNDLE" in text


@OPERATIONS
def test_both_clients_tell_that_there_are_no_credentials(bench: Bench, operation: str) -> None:
    without_keys(bench.function)
    for aws_client in CLIENTS:
        (kind, text), calls = bench.outcome(aws_client, operation)
        assert (aws_client, kind, calls) == (aws_client, ConfigurationError, 0)
        assert "credentials" in text


def without_keys(function: Function) -> None:
    function.configure(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None, AWS_SESSION_TOKEN=None)


# Whole authentications


@pytest.mark.parametrize("aws_client", CLIENTS)
def test_a_client_authenticates_discovers_and_renews(function: Function, aws_client: str) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client, CERBERUS_IAM_ROLE_ARN=None)
    auth = function.auth()
    assert auth.token()
    auth.invalidate()
    assert auth.token()
    assert function.posted == [(ROLE, REGION)] * 2
    assert (function.authentications, function.decryptions) == (2, 2)
    assert function.stack.aws.count("sts", "GetCallerIdentity") == 1


@pytest.mark.parametrize("aws_client", CLIENTS)
def test_a_client_authenticates_by_sts(function: Function, aws_client: str) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client, CERBERUS_AUTH_METHOD="sts")
    assert function.auth().token()
    assert (function.authentications, function.decryptions) == (1, 0)


def disable_key(function: Function) -> None:
    """Disable it after Cerberus has used it."""
    refusal = b'{"__type": "DisabledException", "message": "arn:aws:kms:us-west-2:222222222222:key/1 is disabled."}'
    is_decrypt = lambda request: (request.headers["X-Amz-Target"] or "").endswith(".Decrypt")  # noqa: E731
    function.stack.aws.server.faults.add(Fault.status(400, refusal), is_decrypt, ALWAYS)


def take_policy(function: Function) -> None:
    function.stack.aws.put_role_policy(ROLE, None)


def expire(function: Function) -> None:
    function.become(ROLE, duration_seconds=0)


def serve_no_ciphertext(function: Function) -> None:
    function.stack.cerberus.auth_data_override = UNKNOWN_CIPHERTEXT


def expire_before_discovery(function: Function) -> None:
    expire(function)
    function.configure(CERBERUS_IAM_ROLE_ARN=None, AWS_LAMBDA_FUNCTION_NAME="web")


@pytest.mark.parametrize(
    ("arrange", "error"),
    [
        (take_policy, DecryptionDenied),
        (disable_key, DecryptionDenied),
        (expire, DecryptionDenied),
        (serve_no_ciphertext, InvalidResponse),
        (expire_before_discovery, ConfigurationError),
    ],
)
def test_a_failed_authentication_says_the_same_by_either_client(
    function: Function, arrange: Callable[[Function], None], error: type[CerberusError]
) -> None:
    function.configure(CERBERUS_AUTH_METHOD="kms")
    arrange(function)
    failures = []
    for aws_client in CLIENTS:
        function.configure(CERBERUS_AWS_CLIENT=aws_client)
        failures.append(function.failure(function.auth().token))
    assert type(failures[0]) is error
    assert failures[0] == failures[1]


# Which client


@pytest.mark.parametrize(
    ("variables", "aws_client"),
    [
        ({}, "SignedAws"),
        ({"AWS_USE_FIPS_ENDPOINT": "false"}, "SignedAws"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "SdkAws"),
        ({"AWS_USE_DUALSTACK_ENDPOINT": "True"}, "SdkAws"),
        ({"AWS_PROFILE": "web"}, "SdkAws"),
        ({"AWS_PROFILE": "web", "CERBERUS_AWS_CLIENT": "signed"}, "SignedAws"),
        ({"AWS_ACCESS_KEY_ID": None}, "SdkAws"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "SdkAws"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/"}, "SignedAws"),
        ({"CERBERUS_AWS_CLIENT": "signed"}, "SignedAws"),
        ({"CERBERUS_AWS_CLIENT": "SDK"}, "SdkAws"),
    ],
)
def test_the_environment_chooses_the_client(
    function: Function, tmp_path: Path, variables: dict[str, str | None], aws_client: str
) -> None:
    (tmp_path / "config").write_text("[profile web]\nregion = us-west-2\n")
    function.configure(**variables)
    chosen = function.settings()
    assert type(connect(chosen, Transport(chosen))).__name__ == aws_client


def test_a_profile_authenticates(function: Function, tmp_path: Path) -> None:
    function.stack.cerberus.key_arn(ROLE, REGION)  # by boto3, whose environment is still clean
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    lines = [f"{name.lower()} = {function.environment[name]}" for name in names]
    (tmp_path / "config").write_text("\n".join(["[profile web]", *lines, ""]))
    without_keys(function)
    function.configure(AWS_PROFILE="web")
    assert function.auth().token()
    assert (function.authentications, function.decryptions) == (1, 1)


def test_a_profile_that_is_not_there(function: Function) -> None:
    function.stack.cerberus.key_arn(ROLE, REGION)  # by boto3, whose environment is still clean
    without_keys(function)
    function.configure(AWS_PROFILE="missing")
    error = function.failure(lambda: function.auth().token())
    assert type(error) is ConfigurationError
    assert "AWS_PROFILE" in str(error)


@pytest.mark.parametrize(
    "line",
    [
        "endpoint_url = nonsense",
        "retry_mode = nonsense",
        "sts_regional_endpoints = nonsense",
        "use_fips_endpoint = true\nendpoint_url = http://[",
        "s3 =\n  nonsense",
        "defaults_mode = nonsense",
        "sigv4a_signing_region_set = 5\nuser_agent_extra = \x7f\nrequest_checksum_calculation = nonsense",
    ],
)
def test_a_configuration_that_botocore_refuses_is_told_without_credentials(
    function: Function, tmp_path: Path, line: str
) -> None:
    keys = [function.environment[name] for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")]
    function.configure(AWS_ENDPOINT_URL=None, AWS_ENDPOINT_URL_KMS=None, CERBERUS_AWS_CLIENT="sdk", AWS_PROFILE="web")
    (tmp_path / "config").write_text(f"[profile web]\n{line}\n")
    chosen = function.settings()
    with pytest.raises(ConfigurationError) as raised:
        connect(chosen, Transport(chosen))
    error = raised.value
    assert error.__traceback__ is not None
    error = error.with_traceback(error.__traceback__.tb_next)  # without the frame of this test
    told = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert not any(key in told for key in keys)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    assert not any(isinstance(value, Credentials) for frame in frames for value in frame.f_locals.values())
    assert error.__context__ is error.__cause__ is None


def test_a_profile_with_a_plain_endpoint_is_refused(function: Function, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile web]\nendpoint_url = http://kms.example.com\n")
    function.configure(AWS_ENDPOINT_URL=None, CERBERUS_AWS_CLIENT="sdk", AWS_PROFILE="web")
    for service in ("KMS", "STS", "LAMBDA", "DYNAMODB"):
        function.configure(**{f"AWS_ENDPOINT_URL_{service}": None})
    chosen = function.settings()
    with pytest.raises(ConfigurationError, match="must be https"):
        connect(chosen, Transport(chosen)).caller_identity(REGION, Deadline(5))


# Credentials of a container, as a function has them under SnapStart


class Endpoint:
    """What ``AWS_CONTAINER_CREDENTIALS_FULL_URI`` points to."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self.requests: list[Request] = []
        self.lifetime = timedelta(hours=6)
        self.server = Server(self._respond)

    def _respond(self, request: Request) -> Response:
        self.requests.append(request)
        given = self._stack.aws.assume(ROLE)
        end = datetime.now(UTC) + self.lifetime
        fields = {
            "AccessKeyId": given.access_key,
            "SecretAccessKey": given.secret_key,
            "Token": given.session_token,
            "Expiration": f"{end:%Y-%m-%dT%H:%M:%SZ}",
        }
        return Response(200, json.dumps(fields).encode(), {"Content-Type": "application/json"})

    @property
    def authorizations(self) -> list[str | None]:
        return [request.headers["Authorization"] for request in self.requests]


@pytest.fixture
def endpoint(function: Function) -> Iterator[Endpoint]:
    """The function's only source of credentials."""
    endpoint = Endpoint(function.stack)
    with endpoint.server:
        without_keys(function)
        function.configure(AWS_CONTAINER_CREDENTIALS_FULL_URI=f"{endpoint.server.url}/2021-08-23/credentials")
        yield endpoint


@pytest.mark.parametrize("method", ["kms", "sts"])
def test_container_credentials_are_asked_for_once(function: Function, endpoint: Endpoint, method: str) -> None:
    function.configure(CERBERUS_AUTH_METHOD=method, AWS_CONTAINER_AUTHORIZATION_TOKEN="of-this-container")
    auth = function.auth()
    assert auth.token()
    auth.invalidate()
    assert auth.token()
    assert [request.path for request in endpoint.requests] == ["/2021-08-23/credentials"]
    assert endpoint.authorizations == ["of-this-container"]


def test_container_credentials_near_their_end_are_asked_for_again(function: Function, endpoint: Endpoint) -> None:
    endpoint.lifetime = timedelta(seconds=200)
    auth = function.auth()
    assert auth.token()
    before = len(endpoint.requests)
    auth.invalidate()
    assert auth.token()
    assert len(endpoint.requests) > before >= 1


def test_the_containers_authorization_is_read_anew_from_its_file(
    function: Function, endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.lifetime = timedelta(seconds=200)
    file = tmp_path / "authorization"
    function.configure(AWS_CONTAINER_AUTHORIZATION_TOKEN="older", AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=str(file))
    auth = function.auth()
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        auth.invalidate()
        assert auth.token()
    assert list(dict.fromkeys(endpoint.authorizations)) == ["first", "second"]


@pytest.mark.parametrize(
    ("fault", "error", "requests"),
    [
        pytest.param(Fault.status(403), InvalidResponse, 1, id="403"),
        pytest.param(Fault.html(), InvalidResponse, 1, id="page"),
        pytest.param(Fault.status(200, b'{"AccessKeyId": "AKIDEXAMPLE"}'), InvalidResponse, 1, id="half"),
        pytest.param(Fault.status(500), CerberusUnavailable, 3, id="500"),
        pytest.param(Fault.reset(), CerberusUnavailable, 3, id="reset"),
    ],
)
def test_container_credentials_that_fail(
    function: Function, endpoint: Endpoint, fault: Fault, error: type[CerberusError], requests: int
) -> None:
    endpoint.server.faults.add(fault, times=ALWAYS)
    arrived: list[int] = []
    endpoint.server.replaced = lambda request, status: arrived.append(status)
    failure = function.failure(function.auth().token)
    assert type(failure) is error
    assert "container credentials endpoint" in str(failure)
    assert (len(arrived), function.decryptions) == (requests, 0)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://credentials.example.com/"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "file:///etc/passwd"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/nowhere/authorization"),
    ],
)
def test_container_settings_that_cannot_work(function: Function, endpoint: Endpoint, variable: str, value: str) -> None:
    function.configure(**{variable: value})
    failure = function.failure(function.auth().token)
    assert type(failure) is ConfigurationError
    assert variable in str(failure)
    assert endpoint.requests == []


# The signer

PRINTABLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=80)
VALUES = st.text(st.one_of(PRINTABLE, st.just("\t")), max_size=60)
NAMES = st.sampled_from(["Content-Type", "X-Amz-Target", "Accept", "X-Cerberus-Client", "x-amz-meta"])
URLS = st.sampled_from(
    [
        "https://kms.us-west-2.amazonaws.com/",
        "https://sts.cn-north-1.amazonaws.com.cn/",
        "https://lambda.eu-central-1.amazonaws.com/2015-03-31/functions/web_1-a/configuration",
        "http://127.0.0.1:4566/",
        "https://localhost:8443/",
        "https://vpce-1.kms.us-west-2.vpce.amazonaws.com:443/",
        "http://localhost:80/",
    ]
)


@settings(max_examples=200, deadline=None)
@given(
    method=st.sampled_from(["GET", "POST"]),
    url=URLS,
    headers=st.dictionaries(NAMES, VALUES, max_size=4),
    body=st.binary(max_size=300),
    service=st.sampled_from(["kms", "sts", "lambda", "dynamodb"]),
    region=st.from_regex(r"[a-z]{2}-[a-z]{4,9}-[1-9]", fullmatch=True),
    access_key=st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=16, max_size=20),
    secret_key=KEYS,
    session_token=st.none() | KEYS,
    now=st.integers(min_value=0, max_value=2**32),
)
def test_the_signer_equals_botocores(
    method: str,
    url: str,
    headers: dict[str, str],
    body: bytes,
    service: str,
    region: str,
    access_key: str,
    secret_key: str,
    session_token: str | None,
    now: int,
) -> None:
    path = "/" + url.split("/", 3)[3]
    ours = sign(
        method,
        host_header(url),
        path,
        headers,
        body,
        service=service,
        region=region,
        credentials=Credentials(access_key, secret_key, session_token),
        now=now,
    )

    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    added = {"X-Amz-Date": stamp} | ({"X-Amz-Security-Token": session_token} if session_token else {})
    request = AWSRequest(method, url, data=body, headers={**headers, **added})
    request.context["timestamp"] = stamp
    theirs = botocore.auth.SigV4Auth(
        botocore.credentials.Credentials(access_key, secret_key, session_token), service, region
    )
    signature = theirs.signature(theirs.string_to_sign(request, theirs.canonical_request(request)), request)
    names = theirs.signed_headers(theirs.headers_to_sign(request))
    assert ours["authorization"] == (
        f"AWS4-HMAC-SHA256 Credential={theirs.scope(request)}, SignedHeaders={names}, Signature={signature}"
    )
    assert set(ours) == {name.lower() for name in (*headers, *added)} | {"authorization"}


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ],
)
def test_the_signer_gives_the_signatures_of_awss_test_suite(method: str, signature: str) -> None:
    """``get-vanilla`` and ``post-vanilla`` of the Signature Version 4 test suite."""
    headers = sign(
        method,
        "example.amazonaws.com",
        "/",
        {},
        b"",
        service="service",
        region="us-east-1",
        credentials=Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None),
        now=datetime(2015, 8, 30, 12, 36, tzinfo=UTC).timestamp(),
    )
    assert headers == {
        "x-amz-date": "20150830T123600Z",
        "authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders=host;x-amz-date, Signature={signature}",
    }
