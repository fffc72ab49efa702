"""The token's life in AWS's own runtime: frozen, ended, restored, fetched ahead, renewed beside, short of time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cerberus_auth.testing.http_server import Fault, Request, Response, Server
from end_to_end.runtime_api import RuntimeApi
from local_stack.application import Application
from local_stack.runtime import Invocation, LambdaRuntime, descendants
from local_stack.stack import ROLE, SECRET, SECRET_PATH, LocalStack

FUNCTIONS = Path(__file__).with_name("functions")
SLACK = 5.0  # seconds: for a busy machine
PAUSE = 1.1  # seconds: longer than Cerberus is left alone after a first failure
ERRORS = ("CerberusUnavailable", "DeadlineExceeded")

Start = Callable[..., LambdaRuntime]


@pytest.fixture
def layers(application: Application) -> tuple[Path, ...]:
    return application.functions["NightlyReportFunction"].layers


@pytest.fixture
def container(stack: LocalStack, layers: tuple[Path, ...]) -> Iterator[Start]:
    """Start the function ``lifecycle`` with these variables, and a time limit in seconds."""
    with contextlib.ExitStack() as containers:

        def start(timeout: int = 30, **variables: str) -> LambdaRuntime:
            environment = stack.environment(ROLE, SECRET_PATH=SECRET_PATH, **variables)
            return containers.enter_context(
                LambdaRuntime(FUNCTIONS / "lifecycle", "app.handler", layers, environment, timeout=timeout)
            )

        yield start


def is_auth_request(request: Request) -> bool:
    return request.path.startswith("/v2/auth/")


def is_decryption(request: Request) -> bool:
    return request.headers["X-Amz-Target"] == "TrentService.Decrypt"


def at(stack: LocalStack, step: str) -> tuple[Server, Callable[[Request], bool]]:
    if step == "decrypt":
        return stack.aws.server, is_decryption
    return stack.cerberus.server, is_auth_request


def answered(invocation: Invocation) -> dict[str, Any]:
    """The function's own answer: it was neither killed, nor did it raise."""
    assert invocation.error is None, invocation.log
    assert isinstance(invocation.payload, dict)
    return invocation.payload


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def frozen(container: LambdaRuntime) -> Iterator[None]:
    """As Lambda does with a container between invocations; the emulator itself goes on."""
    processes = descendants(container.pid)
    assert processes
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


# Frozen


@pytest.mark.parametrize(
    ("step", "fault", "place"),
    [
        ("auth request", Fault.hang(), "in the handler"),
        ("auth request", Fault.delay(0.5), "between invocations"),
        ("decrypt", Fault.hang(), "between invocations"),
        ("decrypt", Fault.delay(0.5), "in the handler"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else value.replace(" ", "-"),
)
def test_frozen_in_mid_authentication(stack: LocalStack, container: Start, step: str, fault: Fault, place: str) -> None:
    timeout = 1.0
    function = container(CERBERUS_TIMEOUT=str(timeout))
    server, when = at(stack, step)
    server.faults.add(fault, when)
    with ThreadPoolExecutor(1) as pool:
        left = pool.submit(function.invoke, {"do": "leave" if place == "between invocations" else "read"})
        until(lambda: not server.faults.planned)  # the request has arrived
        if place == "between invocations":
            left.result()
        with frozen(function):
            time.sleep(timeout + 1.2)  # past the authentication's time, and what is granted on top of it
    if place == "in the handler":
        answer = answered(left.result())
        assert answer.get("error") in (None, *ERRORS)
    answer = answered(function.invoke({"do": "read"}))
    assert answer.get("secret") == SECRET, answer
    assert answer["seconds"] < timeout + SLACK
    assert stack.cerberus.authentications <= 2
    assert answered(function.invoke({"do": "token"}))["token"] == answer["token"]


def test_a_lease_that_ends_between_invocations(stack: LocalStack, container: Start) -> None:
    stack.cerberus.lease_seconds = 1
    function = container(CERBERUS_MAX_AGE="0")
    tokens = set()
    for _ in range(3):
        answer = answered(function.invoke({"do": "read"}))
        assert answer["secret"] == SECRET
        tokens.add(answer["token"])
        with frozen(function):
            time.sleep(1.1)
    assert len(tokens) == stack.cerberus.authentications == 3
    assert stack.cerberus.count(f"/v1/secret/{SECRET_PATH}") == 3


def test_a_lease_that_ends_while_the_service_is_away(stack: LocalStack, container: Start) -> None:
    stack.cerberus.lease_seconds = 1
    timeout = 1.5
    function = container(CERBERUS_TIMEOUT=str(timeout), CERBERUS_MAX_AGE="0")
    assert answered(function.invoke({"do": "read"}))["secret"] == SECRET
    stack.cerberus.server.stop_listening()
    with frozen(function):
        time.sleep(1.1)
    answer = answered(function.invoke({"do": "read"}))
    assert answer["error"] == "CerberusUnavailable"
    assert answer["seconds"] < timeout + SLACK
    stack.cerberus.server.resume()
    time.sleep(PAUSE)
    assert answered(function.invoke({"do": "read"}))["secret"] == SECRET


def test_a_kept_secret_outlasts_the_service_and_the_lease(stack: LocalStack, container: Start) -> None:
    stack.cerberus.lease_seconds = 1
    function = container(CERBERUS_MAX_AGE="1")
    assert answered(function.invoke({"do": "secret"}))["secret"] == SECRET
    stack.cerberus.server.stop_listening()
    with frozen(function):
        time.sleep(1.1)
    served = [function.invoke({"do": "secret"}) for _ in range(5)]
    assert [answered(invocation)["secret"] for invocation in served] == [SECRET] * 5
    (warning,) = [line for invocation in served for line in invocation.log.splitlines() if "WARNING" in line]
    assert f"Cerberus unavailable, serving cached {SECRET_PATH}" in warning
    stack.cerberus.server.resume()
    time.sleep(PAUSE)
    assert answered(function.invoke({"do": "secret"}))["secret"] == SECRET
    assert stack.cerberus.count(f"/v1/secret/{SECRET_PATH}") == stack.cerberus.authentications == 2


# Short of time


@pytest.mark.parametrize("call", ["token", "read"])
def test_a_handler_short_of_time_answers_before_lambda_ends_it(stack: LocalStack, container: Start, call: str) -> None:
    function = container(timeout=2, CERBERUS_READ_TIMEOUT="3")
    # The initialization has a limit of its own.
    answered(function.invoke({"do": "nothing" if call == "token" else "token"}))
    stack.cerberus.server.faults.add(Fault.hang(), times=None)
    invocation = function.invoke({"do": call, "in_time": True})
    assert answered(invocation)["error"] == "DeadlineExceeded"
    stack.cerberus.server.faults.clear()
    # The request that hangs is given up after its read timeout, by a flight that had more time than its caller, and repeated.
    answers = [answered(function.invoke({"do": "read", "in_time": True})) for _ in range(3)]
    assert answers[-1].get("secret") == SECRET, answers
    assert {answer.get("error") for answer in answers} <= {None, "DeadlineExceeded"}
    assert stack.cerberus.authentications == 1
    assert function.log.count("timed out") == 0


# Fetched ahead


def test_the_prefetch_overlaps_the_rest_of_the_initialization(stack: LocalStack, container: Start) -> None:
    asked: list[float] = []

    def notes_when(request: Request) -> bool:
        if is_auth_request(request):
            asked.append(time.time())
        return is_auth_request(request)

    stack.cerberus.server.faults.add(Fault.delay(2.0), notes_when)
    function = container(CERBERUS_PREFETCH="init", REST_OF_INIT_SECONDS="1.2")
    answer = answered(function.invoke({"do": "read"}))
    assert answer["secret"] == SECRET
    assert asked[0] < answer["initialized"]  # so that only the rest of the two seconds is waited for
    assert stack.cerberus.authentications == 1


def test_a_prefetch_that_is_done_is_not_waited_for(stack: LocalStack, container: Start) -> None:
    stack.cerberus.server.faults.add(Fault.delay(0.5), is_auth_request)
    function = container(CERBERUS_PREFETCH="init", REST_OF_INIT_SECONDS="2")
    assert answered(function.invoke({"do": "token"}))["seconds"] < 0.5
    assert stack.cerberus.authentications == 1


def test_a_prefetch_that_fails_is_told_at_the_first_token_and_remembered_like_any_failure(
    stack: LocalStack, container: Start
) -> None:
    stack.cerberus.deny(ROLE)
    function = container(CERBERUS_PREFETCH="init", REST_OF_INIT_SECONDS="1")
    assert answered(function.invoke({"do": "token"}))["error"] == "PrincipalRejected"
    assert stack.cerberus.count("/v2/auth/") == 1
    stack.cerberus.grant(ROLE)
    answer: dict[str, Any] = {}

    def is_read() -> bool:
        nonlocal answer
        answer = answered(function.invoke({"do": "read"}))
        assert answer.get("error") in (None, "PrincipalRejected")
        return "error" not in answer

    until(is_read)
    assert answer["secret"] == SECRET
    assert stack.cerberus.count("/v2/auth/") == 2


def test_a_prefetch_that_was_frozen_past_its_time_is_abandoned(stack: LocalStack, container: Start) -> None:
    timeout = 1.0
    stack.cerberus.server.faults.add(Fault.hang(), is_auth_request)
    function = container(CERBERUS_PREFETCH="init", CERBERUS_TIMEOUT=str(timeout), REST_OF_INIT_SECONDS="0.5")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(function.invoke, {"do": "read"})
        until(lambda: not stack.cerberus.server.faults.planned)
        with frozen(function):
            time.sleep(timeout + 1.2)
        answer = answered(first.result())
    assert answer.get("secret") == SECRET, answer
    assert stack.cerberus.authentications == 1


@pytest.mark.parametrize("kind", ["on-demand", "provisioned-concurrency"])
def test_secrets_are_fetched_ahead_too(stack: LocalStack, container: Start, kind: str) -> None:
    asked: list[float] = []

    def is_read(request: Request) -> bool:
        if request.path == f"/v1/secret/{SECRET_PATH}":
            asked.append(time.time())
            return True
        return False

    stack.cerberus.server.faults.add(Fault.delay(1.0), is_read)
    rest = {"on-demand": "3", "provisioned-concurrency": "0"}[kind]
    function = container(CERBERUS_PREFETCH=SECRET_PATH, REST_OF_INIT_SECONDS=rest, AWS_LAMBDA_INITIALIZATION_TYPE=kind)
    answer = answered(function.invoke({"do": "read"}))
    assert answer["secret"] == SECRET
    assert len(asked) == stack.cerberus.authentications == 1
    assert asked[0] + 1.0 < answer["initialized"]


# Renewed beside


def test_no_handler_waits_for_a_renewal_in_the_extension(stack: LocalStack, container: Start) -> None:
    lease, invocations, leases, answering = 2, 30, 5, 0.3
    stack.cerberus.lease_seconds = lease
    stack.cerberus.server.faults.add(Fault.delay(answering), is_auth_request, times=None)
    function = container(CERBERUS_RENEWAL="extension", CERBERUS_EXPIRY_MARGIN="0", CERBERUS_MAX_AGE="0")
    answers = [answered(function.invoke({"do": "read"}))]
    began = time.monotonic()
    for number in range(1, invocations):
        time.sleep(max(0.0, began + number * lease * leases / invocations - time.monotonic()))
        answers.append(answered(function.invoke({"do": "read"})))
    elapsed = (time.monotonic() - began) / lease
    assert all(answer["secret"] == SECRET for answer in answers)
    assert answers[0]["seconds"] >= answering  # there was no token yet
    assert [answer["seconds"] for answer in answers[1:] if answer["seconds"] >= answering] == []
    assert elapsed <= stack.cerberus.authentications <= elapsed * 1.5 + 2


def test_without_an_extensions_api_renewals_are_in_line_with_one_warning(
    stack: LocalStack, layers: tuple[Path, ...]
) -> None:
    stack.cerberus.lease_seconds = 1
    environment = stack.environment(ROLE, SECRET_PATH=SECRET_PATH, CERBERUS_RENEWAL="extension")
    with RuntimeApi(FUNCTIONS / "lifecycle", layers, environment) as lambda_:
        answers = []
        for _ in range(3):
            answers.append(lambda_.invoke({"do": "read"}))
            time.sleep(1.1)
        log = lambda_.close()
    assert [answer["secret"] for answer in answers] == [SECRET] * 3
    assert stack.cerberus.authentications == 3
    assert log.count("WARNING") == log.count("the Extensions API is not available") == 1


# Restored


class ContainerCredentials:
    """The endpoint that a SnapStart function has its credentials from: each time others."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._lock = threading.Lock()
        self.sessions: list[str] = []

    def respond(self, request: Request) -> Response:
        if request.headers["Authorization"] != "of-the-container":
            return Response(403)
        with self._lock:
            session = f"session-{len(self.sessions)}"
            self.sessions.append(session)
        credentials = self._stack.aws.assume(ROLE, session)
        fields = {
            "AccessKeyId": credentials.access_key,
            "SecretAccessKey": credentials.secret_key,
            "Token": credentials.session_token,
            "Expiration": f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
        }
        return Response(200, json.dumps(fields).encode(), {"Content-Type": "application/json"})


@pytest.fixture
def snapshot(stack: LocalStack, layers: tuple[Path, ...]) -> Iterator[Callable[..., RuntimeApi]]:
    """Initialize the function ``snapshot`` under SnapStart, with these variables."""
    credentials = ContainerCredentials(stack)
    with contextlib.ExitStack() as started:
        endpoint = started.enter_context(Server(credentials.respond))

        def start(**variables: str) -> RuntimeApi:
            environment = stack.environment(
                ROLE,
                SECRET_PATH=SECRET_PATH,
                AWS_LAMBDA_INITIALIZATION_TYPE="snap-start",
                AWS_CONTAINER_CREDENTIALS_FULL_URI=f"{endpoint.url}/2021-04-23/credentials",
                AWS_CONTAINER_AUTHORIZATION_TOKEN="of-the-container",
                **variables,
            )
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
                del environment[name]
            lambda_ = started.enter_context(RuntimeApi(FUNCTIONS / "snapshot", layers, environment))
            assert lambda_.initialized.wait(30)
            return lambda_

        yield start


def each_copy(lambda_: RuntimeApi) -> list[dict[str, Any]]:
    """Invoke until both copies have answered."""
    answers: dict[int, dict[str, Any]] = {}
    for _ in range(2000):
        answer = lambda_.invoke({})
        assert "pid" in answer, answer
        answers.setdefault(answer["pid"], answer)
        assert answers[answer["pid"]] == answer  # the same container, the same token
        if len(answers) == 2:
            return list(answers.values())
        time.sleep(0.005)  # so that the other copy gets the processor and asks for an invocation
    raise AssertionError("only one copy answers")


def decrypting_sessions(stack: LocalStack) -> list[str]:
    calls = [call for call in stack.aws.calls if call.action == "Decrypt"]
    return [str(call.principal_arn).rpartition("/")[2] for call in calls]


def test_two_restores_of_one_snapshot_share_nothing(stack: LocalStack, snapshot: Callable[..., RuntimeApi]) -> None:
    lambda_ = snapshot(USED_BEFORE_THE_SNAPSHOT="yes")
    assert stack.cerberus.authentications == 1
    connections = stack.cerberus.server.connections, stack.aws.server.connections
    lambda_.restore()
    first, second = each_copy(lambda_)
    assert [copy["secret"] for copy in (first, second)] == [SECRET] * 2
    assert first["in_snapshot"] == second["in_snapshot"] == {"token": False, "connections": False}
    assert first["before"] == second["before"] != ""
    assert len({first["before"], first["token"], second["token"]}) == 3
    assert stack.cerberus.authentications == 3
    assert first["jitter"] != second["jitter"]
    # Each has asked for credentials of its own, and opened its own connections.
    assert len(set(decrypting_sessions(stack))) == 3
    assert stack.cerberus.server.connections == connections[0] + 2


def test_a_snapshot_is_not_prefetched_and_each_restore_is(
    stack: LocalStack, snapshot: Callable[..., RuntimeApi]
) -> None:
    lambda_ = snapshot(CERBERUS_PREFETCH="init")
    time.sleep(0.3)
    assert stack.cerberus.calls == []
    assert stack.cerberus.server.connections == 0
    lambda_.restore()
    until(lambda: stack.cerberus.authentications == 2)
    first, second = each_copy(lambda_)
    assert first["token"] != second["token"]
    assert stack.cerberus.authentications == 2
