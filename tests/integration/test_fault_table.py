"""The fault table: for every fault at every step of the flow, what the caller gets, what the service was asked, how soon.

One attempt is repeated once here, 0.4 s are allowed for an answer and 2 s for the whole. All of it goes over real sockets
and, but for one row, over TLS.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from cerberus_auth import (
    AccessDenied,
    BlockedAtEdge,
    CerberusAuth,
    CerberusClient,
    CerberusError,
    CerberusUnavailable,
    ConfigurationError,
    DeadlineExceeded,
    DecryptionDenied,
    InvalidResponse,
    MethodNotOffered,
    PrincipalRejected,
    SecretNotFound,
    Settings,
    TokenRefused,
)
from cerberus_auth.testing.http_server import Fault, Request, Response, Server
from integration.function import Wire, assert_clean
from local_stack.certificates import CertificateAuthority
from local_stack.stack import SECRET, SECRET_PATH, LocalStack

TIMEOUT = 2.0
SLACK = 5.0  # seconds: for a busy machine; what is to be seen is that nothing waits for a server's pleasure
READ_TIMEOUT = 0.4
IMPATIENT = {"CERBERUS_TIMEOUT": "1", "CERBERUS_READ_TIMEOUT": "5"}  # the caller's time is up before the request's

STEPS: dict[str, Callable[[Request], bool]] = {
    "identity": lambda request: b"Action=GetCallerIdentity" in request.body,
    "auth request": lambda request: request.path in ("/v2/auth/iam-principal", "/v1/auth/iam-role"),
    "decrypt": lambda request: request.headers["X-Amz-Target"] == "TrentService.Decrypt",
    "secret read": lambda request: request.path == f"/v1/secret/{SECRET_PATH}",
}
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
ENDPOINTS = {"identity": "AWS_ENDPOINT_URL_STS", "decrypt": "AWS_ENDPOINT_URL_KMS"}


class Outcome(NamedTuple):
    """What a row expects of one step."""

    error: type[CerberusError] | None
    requests: int  # that reached the step
    opens: bool | None = None  # the breaker; by default as the error says, where Cerberus itself was asked


class Flow:
    """What a row's fault works on: a function, about to read a secret, and the services it does that with."""

    def __init__(self, stack: LocalStack, elsewhere: Server, number: int) -> None:
        self.stack = stack
        self.elsewhere = elsewhere
        self.role = role = f"arn:aws:iam::{stack.aws.FUNCTION_ACCOUNT}:role/row-{number}"
        stack.create_role(role)
        stack.cerberus.key_arn(role, stack.region)  # made now: it takes time that is not the row's
        self.environment = stack.environment(
            role,
            CERBERUS_AUTH_METHOD="kms",
            CERBERUS_TIMEOUT=str(TIMEOUT),
            CERBERUS_CONNECT_TIMEOUT=str(READ_TIMEOUT),
            CERBERUS_READ_TIMEOUT=str(READ_TIMEOUT),
            CERBERUS_MAX_ATTEMPTS="2",
            NO_PROXY=f"row-{number}.example.com",  # settings of its own, so that a row shares no cache with another
        )
        del self.environment["CERBERUS_IAM_ROLE_ARN"]  # so that there is an identity step

    @functools.cached_property
    def auth(self) -> CerberusAuth:
        return CerberusAuth(Settings.from_env(self.environment))

    def server(self, step: str) -> Server:
        return self.stack.aws.server if step in ENDPOINTS else self.stack.cerberus.server


Arrange = Callable[[Flow, str], contextlib.AbstractContextManager[object]]


# What can be wrong with a connection


@contextlib.contextmanager
def _instead(flow: Flow, step: str, start: Callable[[int], contextlib.AbstractContextManager[int]]) -> Iterator[None]:
    """Put something else in a service's place: what ``start`` starts on a port (0: any), which it tells."""
    if step in ENDPOINTS:  # for this function alone: the stand-in needs its AWS
        with start(0) as port:
            flow.environment[ENDPOINTS[step]] = f"https://localhost:{port}"
            yield
    else:
        server = flow.server(step)
        if step == "secret read":
            flow.auth.token()
        server.stop_listening()
        try:
            with start(server.port):
                yield
        finally:
            server.resume()


def refused(flow: Flow, step: str) -> contextlib.AbstractContextManager[None]:
    @contextlib.contextmanager
    def start(port: int) -> Iterator[int]:
        with socket.socket() as bound:  # and not listening, so that nobody else gets the port meanwhile
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(("127.0.0.1", port))
            yield bound.getsockname()[1]

    return _instead(flow, step, start)


def impostor(flow: Flow, step: str, tls: ssl.SSLContext | None) -> contextlib.AbstractContextManager[None]:
    @contextlib.contextmanager
    def start(port: int) -> Iterator[int]:
        requests: list[Request] = []

        def respond(request: Request) -> Response:
            requests.append(request)
            return Response(200)

        with Server(respond, tls, port) as server:
            yield server.port
            assert server.connections
        assert not requests

    return _instead(flow, step, start)


def untrusted(flow: Flow, step: str) -> contextlib.AbstractContextManager[None]:
    folder = flow.stack.folder / "untrusted"
    folder.mkdir(exist_ok=True)
    return impostor(flow, step, CertificateAuthority(folder).server_context())


def another_host(flow: Flow, step: str) -> contextlib.AbstractContextManager[None]:
    return impostor(flow, step, flow.stack.ca.server_context("elsewhere.example.com"))


def plain_http(flow: Flow, step: str) -> contextlib.AbstractContextManager[None]:
    return impostor(flow, step, None)


# What can be wrong with an answer


def answer(fault: Fault, **settings: str) -> Arrange:
    @contextlib.contextmanager
    def arrange(flow: Flow, step: str) -> Iterator[None]:
        flow.environment |= settings
        flow.server(step).faults.add(fault, when=STEPS[step], times=None)
        yield

    return arrange


def status(code: int, **headers: str) -> Arrange:
    return answer(Fault.status(code, headers={name.replace("_", "-"): value for name, value in headers.items()}))


def own(code: int, status: int, **headers: str) -> Arrange:
    """An error in Cerberus' own form."""
    body = json.dumps({"error_id": "1", "errors": [{"code": code, "message": "in the words of Cerberus"}]}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer(Fault.status(status, body, {"Content-Type": "application/json", **named}))


def aws_refusal(code: str) -> Arrange:
    """As KMS words it; STS does alike when JSON is asked for."""
    body = json.dumps({"__type": code, "message": "in the words of AWS"}).encode()
    return answer(Fault.status(400, body, {"Content-Type": "application/x-amz-json-1.1"}))


@contextlib.contextmanager
def redirected(flow: Flow, step: str) -> Iterator[None]:
    before = flow.elsewhere.connections
    with answer(Fault.status(302, headers={"Location": f"{flow.elsewhere.url}/"}))(flow, step):
        yield
    assert flow.elsewhere.connections == before  # what the other host got: nothing


# What can be wrong with the key


@contextlib.contextmanager
def forbidden(flow: Flow, step: str) -> Iterator[None]:
    flow.stack.aws.put_role_policy(flow.role, None)
    yield


@contextlib.contextmanager
def no_ciphertext(flow: Flow, step: str) -> Iterator[None]:
    flow.stack.cerberus.auth_data_override = "bm90IG9mIEtNUyBhdCBhbGw="
    try:
        yield
    finally:
        flow.stack.cerberus.auth_data_override = None


def key(change: Callable[[LocalStack, str], None]) -> Arrange:
    """Between the encryption, of which the service keeps the answer for some seconds, and the decryption."""

    @contextlib.contextmanager
    def arrange(flow: Flow, step: str) -> Iterator[None]:
        cerberus = flow.stack.cerberus
        cerberus.kms_cache_seconds = 60
        auth = CerberusAuth(Settings.from_env({**flow.environment, "CERBERUS_IAM_ROLE_ARN": flow.role}))
        auth.token()
        auth.close()
        change(flow.stack, cerberus.key_arn(flow.role, flow.stack.region))
        try:
            yield
        finally:
            cerberus.kms_cache_seconds = 0

    return arrange


disabled = key(lambda stack, arn: stack.aws.disable_key(arn))
deleted = key(lambda stack, arn: stack.aws.schedule_deletion(arn))

# The outcomes that many steps share.
unreached = Outcome(CerberusUnavailable, 0)
again = Outcome(CerberusUnavailable, 2)
no_time = Outcome(DeadlineExceeded, 1)
not_again = Outcome(CerberusUnavailable, 1)
invalid = Outcome(InvalidResponse, 1)
rejected = Outcome(PrincipalRejected, 1)
denied = Outcome(DecryptionDenied, 1)
renewed = Outcome(CerberusUnavailable, 3)
good = Outcome(None, 1)
blocked = Outcome(BlockedAtEdge, 1)
one_path = Outcome(CerberusUnavailable, 2, opens=False)  # 5xx: until another path fails so too, it concerns this one

# fmt: off
TABLE: list[tuple[str, Arrange, Outcome | None, Outcome | None, Outcome | None, Outcome | None]] = [
    # fault, and how it is arranged                              identity   auth request  decrypt    secret read
    ("refused", refused,                                         unreached, unreached,    unreached, unreached),
    ("certificate of an authority not trusted", untrusted,       unreached, unreached,    unreached, unreached),
    ("certificate of another host", another_host,                unreached, unreached,    unreached, unreached),
    ("plain http on the TLS port", plain_http,                   unreached, unreached,    unreached, unreached),
    # On a connection that was kept, one request more, which is no attempt: it could have been closed just then.
    ("reset", answer(Fault.reset()),                             again,     again,        renewed,   renewed),
    ("hang before headers", answer(Fault.hang()),                again,     again,        again,     again),
    ("hang after headers", answer(Fault.hang_after_headers()),   again,     again,        again,     again),
    ("headers dripped", answer(Fault.drip_headers(0.05)),        again,     again,        again,     again),
    ("body dripped", answer(Fault.drip_body(0.05)),              again,     again,        again,     again),
    ("hang, and no time", answer(Fault.hang(), **IMPATIENT),     no_time,   no_time,      no_time,   no_time),
    ("drip, and no time", answer(Fault.drip_body(0.05), **IMPATIENT), no_time, no_time,   no_time,   no_time),
    ("half a body", answer(Fault.half_body()),                   again,     again,        again,     again),
    ("400", status(400),                                         invalid,   not_again,    invalid,   not_again),
    ("401", status(401),                                         invalid,   not_again,    invalid,   Outcome(TokenRefused, 2)),
    ("403", status(403),                                         invalid,   blocked,      invalid,   blocked),
    # To auth requests by the newer path and by the older.
    ("404", status(404), invalid, Outcome(MethodNotOffered, 2), invalid, Outcome(SecretNotFound, 1)),
    ("418", status(418),                                         invalid,   not_again,    invalid,   not_again),
    ("429", status(429),                                         again,     blocked,      again,     blocked),
    ("429, retry at once", status(429, Retry_After="0"),         again,     blocked,      again,     blocked),
    ("429, retry after the end", status(429, Retry_After="60"),  not_again, blocked,      not_again, blocked),
    ("400 of Cerberus", own(99216, 400),                         None,      rejected,     None,      None),
    ("401 of Cerberus", own(99244, 401),                         None,      rejected,     None,      None),
    ("403 of Cerberus", own(99994, 403),                         None,      rejected,     None,      Outcome(AccessDenied, 1)),
    ("404 of Cerberus", own(99996, 404), None, Outcome(MethodNotOffered, 2), None, Outcome(SecretNotFound, 1)),
    ("405 of Cerberus", own(120, 405),                           None,      invalid,      None,      invalid),
    ("429 of Cerberus", own(99999, 429),                         None,      again,        None,      again),
    ("429 of Cerberus, retry after the end", own(99999, 429, Retry_After="60"), None, not_again, None, not_again),
    ("500 of Cerberus", own(10, 500),                            None,      again,        None,      one_path),
    ("400 in HTML", answer(Fault.html(400)),                     None,      not_again,    None,      not_again),
    ("403 in HTML", answer(Fault.html(403)),                     None,      blocked,      None,      blocked),
    ("404 in HTML", answer(Fault.html(404)),                     None,      not_again,    None,      not_again),
    ("429 in HTML", answer(Fault.html(429)),                     None,      blocked,      None,      blocked),
    ("403 in JSON of another", answer(Fault.status(403, b'{"message": "Forbidden"}')), None, blocked, None, blocked),
    ("500", status(500),                                         again,     again,        again,     one_path),
    ("502", status(502),                                         again,     again,        again,     one_path),
    ("503", status(503),                                         again,     again,        again,     one_path),
    ("504", status(504),                                         again,     again,        again,     one_path),
    ("HTML in place of JSON", answer(Fault.html()),              invalid,   not_again,    invalid,   not_again),
    ("HTML with 503", answer(Fault.html(503)),                   again,     again,        again,     one_path),
    ("empty", answer(Fault.empty()),                             invalid,   not_again,    invalid,   not_again),
    ("no content", status(204),                                  invalid,   not_again,    invalid,   not_again),
    ("wrong content type", answer(Fault.wrong_content_type()),   good,      good,         good,      good),
    ("gzip bomb", answer(Fault.gzip_bomb()),                     invalid,   invalid,      invalid,   invalid),
    ("two megabytes", answer(Fault.status(200, b" " * 2**21)),   invalid,   invalid,      invalid,   invalid),
    ("deep JSON", answer(Fault.status(200, b"[" * 2**19)),       invalid,   invalid,      invalid,   invalid),
    ("302 elsewhere", redirected,                                not_again, not_again,    not_again, not_again),
    ("AWS throttles", aws_refusal("ThrottlingException"),        again,     None,         again,     None),
    ("AWS fails", aws_refusal("KMSInternalException"),           again,     None,         again,     None),
    ("AWS: expired credentials", aws_refusal("ExpiredTokenException"), Outcome(ConfigurationError, 1), None, denied, None),
    ("AWS: AccessDenied", aws_refusal("AccessDeniedException"),  Outcome(ConfigurationError, 1), None, denied, None),
    ("AWS: key not found", aws_refusal("NotFoundException"),     None,      None,         denied,    None),
    ("the role may not decrypt", forbidden,                      None,      None,         denied,    None),
    ("no ciphertext of KMS", no_ciphertext,                      None,      None,         invalid,   None),
    ("key disabled", disabled,                                   None,      None,         denied,    None),
    ("key deleted", deleted,                                     None,      None,         denied,    None),
]
# fmt: on
CELLS = [
    pytest.param(arrange, step, outcome, id=f"{name} - {step}")
    for name, arrange, *outcomes in TABLE
    for step, outcome in zip(STEPS, outcomes, strict=True)
    if outcome is not None
]


class Running(NamedTuple):
    """The services, their requests, and a server that nobody is to call."""

    stack: LocalStack
    elsewhere: Server
    wires: tuple[Wire, Wire]

    def seen(self, step: str) -> int:
        return sum(STEPS[step](request) for wire in self.wires for request in wire.requests)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with LocalStack() as stack, Server(lambda request: Response(200), stack.ca.server_context()) as elsewhere:
        yield Running(stack, elsewhere, (Wire(stack.cerberus.server), Wire(stack.aws.server)))


_numbers = itertools.count()


@pytest.fixture
def flow(running: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flow]:
    for name in list(os.environ):
        if name.startswith(("AWS_", "CERBERUS_")):
            monkeypatch.delenv(name)
    flow = Flow(running.stack, running.elsewhere, next(_numbers))
    for name in CREDENTIALS:
        monkeypatch.setenv(name, flow.environment[name])
    for wire in running.wires:
        wire.requests.clear()
        wire.secrets.clear()
    yield flow
    flow.auth.close()
    for server in (running.stack.cerberus.server, running.stack.aws.server):
        server.faults.clear()
    for thread in threading.enumerate():  # a flight that outlives its caller must not send its request in the next test
        if thread.name == "cerberus-auth":
            thread.join(TIMEOUT + SLACK)


OUTAGES = (CerberusUnavailable, BlockedAtEdge, DeadlineExceeded)


@pytest.mark.parametrize(("arrange", "step", "outcome"), CELLS)
def test_fault_table(running: Running, flow: Flow, arrange: Arrange, step: str, outcome: Outcome) -> None:
    expected, requests, opens = outcome
    if opens is None:
        opens = expected in OUTAGES and step not in ENDPOINTS
    with arrange(flow, step):
        before = {name: running.seen(name) for name in STEPS}
        if step == "secret read":
            flow.auth.token()
        cerberus = CerberusClient(flow.auth)
        began = time.monotonic()
        secret, error = read(cerberus)
        took = time.monotonic() - began
        seen = {name: running.seen(name) - before[name] for name in STEPS}
        is_hasty = (
            expected is DeadlineExceeded
        )  # the caller's time and its flight's are over together: the flight lands soon
        breaker = flow.auth.service.breaker
        while opens and is_hasty and not breaker.is_open() and time.monotonic() - began < TIMEOUT + SLACK:
            time.sleep(0.01)
        is_open = breaker.is_open()
        # At once, once more: what failed is remembered, or the breaker is open. Only want of time with AWS is neither.
        again, error_again = read(cerberus)
        asked = running.seen(step) - before[step] - seen[step]
    assert (type(error) if error else None, seen[step]) == (expected, requests)
    assert took < TIMEOUT + SLACK
    assert is_open == opens
    assert (again, type(error_again)) == (secret, type(error))
    assert is_hasty or error_again == error
    assert asked <= (is_hasty and step in ENDPOINTS)
    if error is None:
        assert secret == SECRET
    else:
        secrets = {flow.environment[name] for name in CREDENTIALS}
        assert_clean(error, secrets.union(*(wire.secrets for wire in running.wires)))
        # No step after the one that failed was taken.
        assert not any(seen[name] for name in list(STEPS)[list(STEPS).index(step) + 1 :])


def read(cerberus: CerberusClient) -> tuple[dict[str, object] | None, CerberusError | None]:
    try:
        return cerberus.read(SECRET_PATH), None
    except CerberusError as error:
        return None, error
