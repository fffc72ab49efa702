"""What one container keeps, in the trouble that its users reported: each test is named after what went wrong."""

from __future__ import annotations

import email.utils
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cerberus_auth import (
    AccessDenied,
    BlockedAtEdge,
    CerberusAuth,
    CerberusClient,
    CerberusError,
    CerberusUnavailable,
    DeadlineExceeded,
    SecretNotFound,
    Settings,
    TokenRefused,
)
from cerberus_auth.deadline import Deadline
from cerberus_auth.testing import FakeCerberus, Fault, Request
from unit.virtual import KEY, Cerberus, Outcome, Virtual, read, read_until, virtual_time

ROOT = Path(__file__).parents[2]
DB = "app/orders/db"
FIVE = [f"app/orders/secret-{number}" for number in range(5)]


@pytest.fixture(params=[0.0, 0.99, None], ids=["early-0", "early-0.99", "random"])
def virtual(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Virtual]:
    with virtual_time(monkeypatch, request.param) as virtual:
        yield virtual


@pytest.fixture
def cerberus(virtual: Virtual, monkeypatch: pytest.MonkeyPatch) -> Cerberus:
    return Cerberus(virtual, monkeypatch)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCerberus]:
    """Cerberus over HTTP, and the environment of a container that uses it."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "CERBERUS_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with FakeCerberus({DB: {"password": "first"}, "app/orders/a": {"k": "a"}, "app/orders/b": {"k": "b"}}) as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        yield fake


def client_of(fake: FakeCerberus, **variables: str) -> CerberusClient:
    environment = {**fake.environment, **{f"CERBERUS_{name.upper()}": value for name, value in variables.items()}}
    return CerberusClient(CerberusAuth(Settings.from_env(environment)))


def reads(request: Request) -> bool:
    return request.path.startswith("/v1/secret/")


# Cerberus hangs


@pytest.mark.parametrize("paths", [FIVE[:1], FIVE], ids=["1 secret", "5 secrets"])
@pytest.mark.parametrize("age", [280, 400], ids=["due", "overdue"])
def test_while_cerberus_hangs_only_the_first_read_waits(cerberus: Cerberus, paths: list[str], age: float) -> None:
    client, outcome = cerberus.client(), Outcome()
    for path in paths:
        client.read(path)
    cerberus.virtual.sleep(age)
    cerberus.hangs = True
    before = cerberus.requests
    read_until(cerberus, client, cerberus.now + 120, paths, outcome)
    assert not outcome.failures
    assert outcome.waits[0] <= 2
    assert max(outcome.waits[1:]) <= 0.25
    assert (
        sum(outcome.waits[1:]) <= 3
    )  # a quarter of a second for each other secret, and for a probe at each half minute
    assert cerberus.requests - before <= 15


def test_while_cerberus_hangs_a_container_with_a_kept_secret_answers(fake: FakeCerberus) -> None:
    client = client_of(fake, max_age="0.1", read_timeout="2.5")
    client.read(DB)
    time.sleep(0.15)
    fake.fail(Fault.hang())
    before, began = len(fake.calls), time.monotonic()
    client.read(DB)
    assert time.monotonic() - began < 2.4
    for _ in range(20):
        assert client.read(DB)["password"] == "first"
    assert time.monotonic() - began < 4
    fake.recover()
    assert len(fake.calls) - before <= 4


def test_while_cerberus_answers_503_reads_of_a_kept_secret_do_not_wait(fake: FakeCerberus) -> None:
    client = client_of(fake, max_age="0.1")
    client.read(DB)
    time.sleep(0.15)
    fake.fail(Fault.status(503))
    before, began = len(fake.calls), time.monotonic()
    for _ in range(20):
        assert client.read(DB)["password"] == "first"
    assert time.monotonic() - began < 2
    assert len(fake.calls) - before <= 4


def test_an_extension_is_busy_for_two_seconds_once_while_cerberus_hangs(cerberus: Cerberus) -> None:
    client, auth = cerberus.client(renewal="extension"), cerberus.auth(renewal="extension")
    client._set_renewed_by_extension(True)
    for path in FIVE:
        client.read(path)
    cerberus.virtual.sleep(400)
    cerberus.hangs = True
    busy = []
    for _ in range(20):
        began = cerberus.virtual.monotonic
        for member in (auth.service, client):  # what the extension calls at each invocation
            member._refresh(Deadline(9), 15)
        busy.append(cerberus.virtual.monotonic - began)
        cerberus.virtual.sleep(10)
    assert 2 <= busy[0] <= 2.25
    assert max(busy[1:]) <= 0.5
    assert sum(busy[1:]) <= 5
    assert 6 < cerberus.requests <= 6 + 20


# A service whose tokens are all refused


def test_a_service_that_refuses_all_its_tokens_gets_eight_auth_requests_in_ten_seconds(cerberus: Cerberus) -> None:
    cerberus.refuses_all = True
    client, auth = cerberus.client(), cerberus.auth()

    def work(number: int) -> None:
        every: tuple[dict[str, Any], ...] = ({}, {"max_age": 0}, {"fresh": True})
        for turn in range(100):
            for options in every:
                with suppress(CerberusError):
                    client.read(f"app/orders/path-{(number + turn) % 20}", **options)
                auth.token()
            cerberus.virtual.sleep(0.1)

    tasks = [cerberus.virtual.spawn(partial(work, number)) for number in range(8)]
    cerberus.virtual.wait(lambda: all(task.done for task in tasks))
    assert cerberus.now > 9.9
    assert len(cerberus.authentications) <= 8


# Callers in a hurry


@pytest.mark.parametrize("frozen", [0, 60], ids=["not frozen", "frozen between"])
def test_callers_in_a_hurry_get_a_token_in_the_end(cerberus: Cerberus, frozen: float) -> None:
    cerberus.answers_after = 1.5
    auth = cerberus.auth()
    came = []
    for _ in range(12):
        try:
            came.append(auth.token(timeout=1))
        except DeadlineExceeded:
            came.append("")
        cerberus.virtual.sleep(0.005)
        cerberus.virtual.freeze(frozen)
    assert all(came[2:])
    assert len(cerberus.authentications) <= 2


def test_a_caller_in_a_hurry_does_not_make_a_patient_one_fail(fake: FakeCerberus) -> None:
    fake.fail(Fault.delay(0.3), times=1)
    fake.fail(Fault.status(503), times=1)
    auth = CerberusAuth(Settings.from_env(fake.environment))
    outcome: dict[str, Any] = {}

    def ask(name: str, seconds: float) -> None:
        try:
            outcome[name] = auth.token(timeout=seconds)
        except CerberusError as error:
            outcome[name] = error

    threads = [threading.Thread(target=ask, args=("leader", 0.4))]
    threads += [threading.Thread(target=ask, args=(f"patient {number}", 10)) for number in range(4)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    patient = {outcome[f"patient {number}"] for number in range(4)}
    assert patient == {auth.token()}
    assert fake.authentications == 1


# Fork


FORK = """
    import json, os, signal, sys, threading, time
    from cerberus_auth import CerberusAuth, CerberusClient

    signal.alarm(30)
    client = CerberusClient()
    client.read("app/orders/a")
    kept = client.read("app/orders/db")
    def hammer():
        while True:
            client.read("app/orders/a", max_age=60)

    print("ready", flush=True)
    sys.stdin.readline()
    threading.Thread(target=lambda: client.read("app/orders/db", fresh=True), daemon=True).start()
    for _ in range(4):
        threading.Thread(target=hammer, daemon=True).start()
    time.sleep(0.2)
    outcomes = []
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            signal.alarm(5)
            began = time.monotonic()
            secrets = [client.read("app/orders/db"), client.read("app/orders/a", max_age=60)]
            fresh = client.read("app/orders/b")
            os._exit(0 if secrets[0] == kept and fresh["k"] == "b" and time.monotonic() - began < 3 else 1)
        outcomes.append(os.waitpid(pid, 0)[1])
    print(json.dumps(outcomes), flush=True)
"""


def test_a_child_forked_while_a_thread_reads_reads_too(fake: FakeCerberus) -> None:
    hanging = threading.Event()

    def is_second(request: Request) -> bool:
        return request.path == f"/v1/secret/{DB}" and hanging.is_set()

    fake.fail(Fault.hang(), is_second)
    environment = {**os.environ, **fake.environment, "PYTHONPATH": str(ROOT / "layer")}
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORK)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as container:
        assert container.stdin is not None
        assert container.stdout is not None
        try:
            assert container.stdout.readline() == "ready\n"
            hanging.set()
            container.stdin.write("fork\n")
            container.stdin.flush()
            assert json.loads(container.stdout.readline()) == [0] * 10
        finally:
            container.kill()


# Cerberus' own no


NO = {
    "403": (Fault.status(403, json.dumps({"errors": [{"code": 99994, "message": ""}]}).encode()), AccessDenied),
    "404": (Fault.status(404), SecretNotFound),
    "404 box": (Fault.status(404, json.dumps({"errors": [{"code": 99996, "message": ""}]}).encode()), SecretNotFound),
}


@pytest.mark.parametrize("answer", NO)
def test_a_secret_that_cerberus_refuses_is_never_served_again(fake: FakeCerberus, answer: str) -> None:
    fault, expected = NO[answer]
    client = client_of(fake, max_age="0.05")
    client.read(DB)
    time.sleep(0.1)
    fake.fail(fault, reads)
    with pytest.raises(expected):
        client.read(DB)
    fake.recover()
    fake.fail(Fault.status(503))
    for options in ({}, {"fresh": True}, {"max_age": 3600}, {"stale_if_error": 3600}):
        with pytest.raises(CerberusError) as caught:
            client.read(DB, **options)
        assert isinstance(caught.value, expected | CerberusUnavailable)


PAGES = {
    "404 page": Fault.html(404),
    "403 page": Fault.html(403),
    "200 page": Fault.html(200),
    "redirect": Fault.status(302, headers={"Location": "https://elsewhere.example/"}),
    "empty 502": Fault.status(502),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_something_in_front_of_cerberus_drops_nothing(fake: FakeCerberus, page: str) -> None:
    client, other = client_of(fake, max_age="0.05"), client_of(fake, max_age="0.06")
    client.read(DB)
    other.read("app/orders/a")
    time.sleep(0.1)
    fake.fail(PAGES[page])
    assert client.read(DB)["password"] == "first"
    for _ in range(5):
        assert client.read(DB)["password"] == "first"
    with pytest.raises(CerberusError) as caught:
        other.read(DB)
    if page == "empty 502":  # 5xx of one path: the path's own trouble
        assert isinstance(caught.value, CerberusUnavailable)
    else:
        assert isinstance(caught.value, BlockedAtEdge if page == "403 page" else CerberusUnavailable)
    fake.recover()
    fake.fail(Fault.status(503))
    assert client.read(DB)["password"] == "first"


# Leases, ages and clocks


def test_a_short_lease_is_used_for_nine_tenths(cerberus: Cerberus) -> None:
    cerberus.lease = 61
    auth = cerberus.auth()
    first = auth.token()
    cerberus.status = 503
    while cerberus.now < 54.8:
        assert auth.token() == first
        cerberus.virtual.sleep(0.5 if cerberus.now < 54 else 0.1)
    cerberus.virtual.sleep(54.95 - cerberus.now)
    with pytest.raises(CerberusUnavailable):
        auth.token()


@pytest.mark.parametrize("loses", [False, True], ids=["answer waits", "connection lost"])
def test_a_value_ages_while_its_request_is_frozen(cerberus: Cerberus, loses: bool) -> None:
    cerberus.lease = 36_000
    client = cerberus.client()
    client.read(DB)
    cerberus.answers_after, cerberus.loses_frozen = 1, loses
    cerberus.virtual.sleep(3000)

    def freeze() -> None:
        cerberus.virtual.sleep(0.5)
        cerberus.virtual.freeze(1800)

    cerberus.virtual.spawn(freeze)
    for _ in range(2):
        asked = float(client.read(DB, max_age=60)["asked"])
        assert cerberus.now - asked <= 60
    assert cerberus.now > 4800


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_retry_after_is_remembered_between_calls(cerberus: Cerberus, as_date: bool) -> None:
    auth, virtual = cerberus.auth(), cerberus.virtual
    cerberus.status = 503
    cerberus.retry_after = email.utils.formatdate(virtual.wall + 40, usegmt=True) if as_date else "40"
    with pytest.raises(CerberusUnavailable) as first:
        auth.token()
    assert cerberus.now <= 1
    assert len(cerberus.authentications) == 1
    cerberus.status = None
    while cerberus.now < 39:
        with pytest.raises(CerberusUnavailable) as again:
            auth.token()
        assert again.value == first.value
        virtual.sleep(1)
    assert len(cerberus.authentications) == 1
    virtual.sleep(2)
    assert auth.token() == cerberus.newest


def test_retry_after_as_a_date_is_obeyed_over_http(fake: FakeCerberus) -> None:
    date = email.utils.formatdate(time.time() + 50, usegmt=True)
    fake.fail(Fault.status(503, headers={"Retry-After": date}), times=1)
    auth = CerberusAuth(Settings.from_env(fake.environment))
    for _ in range(3):
        with pytest.raises(CerberusUnavailable):
            auth.token()
    assert len(fake.calls) == 1


def test_a_value_that_is_gone_after_a_freeze_is_not_served(cerberus: Cerberus) -> None:
    client = cerberus.client()
    client.read(DB, stale_if_error=3600)
    cerberus.virtual.sleep(3800)
    cerberus.hangs = True

    def freeze() -> None:
        cerberus.virtual.sleep(0.5)
        cerberus.virtual.freeze(1800)

    cerberus.virtual.spawn(freeze)
    with pytest.raises(CerberusError):
        client.read(DB)


# Signals


@pytest.mark.parametrize("options", [{}, {"max_age": 0}, {"fresh": True}], ids=["kept", "alone", "fresh"])
def test_a_handlers_own_timeout_reaches_it(fake: FakeCerberus, options: dict[str, Any]) -> None:
    client = client_of(fake)
    client.read("app/orders/a")
    fake.fail(Fault.delay(2), lambda request: request.path.endswith("/db"), times=1)

    def alarm(number: int, frame: object) -> None:
        raise TimeoutError("the handler's own")

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(TimeoutError, match="the handler's own"):
            client.read(DB, **options)
        assert time.monotonic() - began < 1.8
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert client.read(DB)["password"] == "first"


# Sharing


def shared(**settings: Any) -> dict[str, Any]:
    return {"shared_cache_table": "cerberus", "shared_cache_key": KEY, "kms_account_id": "222222222222", **settings}


@pytest.mark.parametrize("method", ["kms", "sts"])
def test_a_throttled_table_is_not_waited_for_when_the_token_is_in_hand(cerberus: Cerberus, method: str) -> None:
    cerberus.answers_after = 4.1
    auth = cerberus.auth(**shared(auth_method=method))

    def throttle() -> None:
        cerberus.virtual.sleep(2)
        cerberus.throttles = True

    cerberus.virtual.spawn(throttle)
    assert auth.token()
    assert cerberus.now <= 4.1 + 0.26
    calls = sum(cerberus.table_calls.values())
    if not cerberus.virtual.early and cerberus.virtual.early is not None:
        return  # without jitter, its attempts are over
    cerberus.virtual.sleep(0.3)
    cerberus.throttles = False
    cerberus.virtual.sleep(10)
    assert sum(cerberus.table_calls.values()) > calls
    before = len(cerberus.authentications)
    assert cerberus.auth(**shared(auth_method=method, timeout=9.5)).token() == auth.token()  # of another container
    assert len(cerberus.authentications) == before


def test_a_second_authentication_in_one_read_does_not_wait_for_the_claim_of_the_first(cerberus: Cerberus) -> None:
    cerberus.statuses[DB] = 401
    with pytest.raises(TokenRefused):
        cerberus.client(**shared(shared_cache_key="")).read(DB)
    assert len(cerberus.authentications) == 2
    assert cerberus.now < 1


def test_the_older_method_does_not_wait_for_the_claim_of_the_newer(cerberus: Cerberus) -> None:
    cerberus.not_offered = {"/v2/auth/iam-principal"}
    auth = cerberus.auth(**shared(shared_cache_key=""))
    assert auth.token()
    assert len(cerberus.authentications) == 2
    assert cerberus.now < 1
    cerberus.virtual.sleep(1)
    assert cerberus.auth(**shared(shared_cache_key="", timeout=9.5)).token() == auth.token()  # of another container
    assert len(cerberus.authentications) == 2


@pytest.mark.parametrize("seconds", [0.0, 1.5])
def test_a_method_that_is_not_offered_is_the_fleets_knowledge_while_another_is_tried(
    cerberus: Cerberus, seconds: float
) -> None:
    cerberus.not_offered = {"/v2/auth/iam-principal", "/v1/auth/iam-role"}
    cerberus.answers_after = seconds
    assert cerberus.auth(**shared(shared_cache_key="", auth_method="auto")).token()
    cerberus.virtual.sleep(0.5)
    asked, began = len(cerberus.authentications), cerberus.now
    assert cerberus.auth(**shared(shared_cache_key="", auth_method="auto", timeout=9.5)).token()
    assert len(cerberus.authentications) == asked + 1  # by STS, at once
    assert cerberus.now - began <= seconds + 0.5


def test_sts_says_nothing_of_sharing_where_nothing_is_shared(
    cerberus: Cerberus, caplog: pytest.LogCaptureFixture
) -> None:
    assert cerberus.auth(auth_method="sts", iam_role_arns=()).token()
    assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == []


@pytest.mark.parametrize("loses", [False, True], ids=["answers wait", "connections are lost"])
def test_invocations_of_5_ms_frozen_between_refresh_what_is_kept(cerberus: Cerberus, loses: bool) -> None:
    cerberus.answers_after, cerberus.table_answers_after, cerberus.loses_frozen = 0.05, 0.01, loses
    client, outcome = cerberus.client(**shared()), Outcome()
    written: dict[str, float] = {}
    oldest = 0.0
    for second in range(1200):
        cerberus.version = second
        written[str(second)] = cerberus.now
        secret = read(cerberus, client, FIVE[0], outcome)
        assert secret is not None
        oldest = max(oldest, cerberus.now - written[secret["version"]])
        cerberus.virtual.sleep(0.005)
        cerberus.virtual.freeze(0.995)
    assert oldest <= 300 + 2 + 2
    assert len(cerberus.authentications) <= 5
    assert len(cerberus.reads) <= 6


STOPPED = """
    import json, sys, time
    from cerberus_auth import CerberusClient

    client = CerberusClient()
    for line in sys.stdin:
        secret = client.read("app/orders/db")
        time.sleep(0.005)
        print(json.dumps(secret["password"]), flush=True)
"""


def test_a_container_stopped_between_invocations_refreshes(fake: FakeCerberus) -> None:
    fake.fail(Fault.delay(0.05))
    environment = {**os.environ, **fake.environment, "PYTHONPATH": str(ROOT / "layer"), "CERBERUS_MAX_AGE": "1"}
    command = [sys.executable, "-c", textwrap.dedent(STOPPED)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as container:
        assert container.stdin is not None
        assert container.stdout is not None
        try:
            seen = []
            for number in range(30):
                fake.put_secret(DB, {"password": str(number)})
                container.send_signal(signal.SIGCONT)
                container.stdin.write("invoke\n")
                container.stdin.flush()
                seen.append(int(json.loads(container.stdout.readline())))
                container.send_signal(signal.SIGSTOP)
                time.sleep(0.1)
        finally:
            container.kill()
    assert seen == sorted(seen)
    assert len({*seen}) >= 3
    assert seen[-1] >= 30 - 16
    assert fake.authentications == 1
    assert len(fake.calls) <= 12


# Keys


def test_a_secret_and_a_file_of_one_name_are_two_things(fake: FakeCerberus) -> None:
    fake.put_secret("file a/b/c", {"kind": "secret"})
    fake.put_file("a/b/c", b"file")
    client = client_of(fake)
    assert client.read("file a/b/c") == {"kind": "secret"}
    assert client.read_file("a/b/c") == b"file"
    assert client.read("file a/b/c") == {"kind": "secret"}


def test_a_secret_deleted_meanwhile_is_left_out(fake: FakeCerberus) -> None:
    client = client_of(fake)
    fake.fail(Fault.status(404), lambda request: request.path == "/v1/secret/app/orders/a")
    assert client.read_all("app/orders") == {"b": {"k": "b"}, "db": {"password": "first"}}
