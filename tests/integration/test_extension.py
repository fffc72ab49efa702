"""Renewals beside the handler: the extension against an Extensions API that fails, and the thread where there is none."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cerberus_auth
from cerberus_auth.deadline import Deadline
from cerberus_auth.lifecycle import extension
from cerberus_auth.lifecycle.process import Process
from cerberus_auth.testing.http_server import Fault, Request, Response, Server


class ExtensionsApi:
    """As much of it as an extension uses. Events are given out one by one; None has it refuse all that come later."""

    def __init__(self) -> None:
        self.events: queue.Queue[int | None] = queue.Queue()
        self.asked = 0
        self.server = Server(self._respond)

    def _respond(self, request: Request) -> Response:
        if request.path.endswith("/register"):
            assert json.loads(request.body) == {"events": ["INVOKE"]}
            return Response(200, b"{}", {"Lambda-Extension-Identifier": "an-identifier"})
        assert request.headers["Lambda-Extension-Identifier"] == "an-identifier"
        self.asked += 1
        while True:
            try:
                event = self.events.get_nowait()
            except queue.Empty:
                self.server.pause(0.01)
                continue
            if event is None:
                self.events.put(None)
                return Response(403, b"{}")
            content = {"eventType": "INVOKE", "deadlineMs": int((time.time() + event) * 1000)}
            return Response(200, json.dumps(content).encode())


class Renewals:
    """What the extension calls."""

    def __init__(self) -> None:
        self.left: queue.Queue[float] = queue.Queue()
        self.ended = threading.Event()

    def renew(self, deadline: Deadline, ahead: float) -> None:
        self.left.put(deadline.remaining())

    def seconds(self) -> float:
        return self.left.get(timeout=20)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExtensionsApi]:
    api = ExtensionsApi()
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", f"127.0.0.1:{api.server.port}")
    monkeypatch.delenv("AWS_LAMBDA_INITIALIZATION_TYPE", raising=False)
    with api.server:
        yield api


@pytest.fixture
def renewals(api: ExtensionsApi) -> Iterator[Renewals]:
    renewals = Renewals()
    yield renewals
    api.server.faults.clear()
    api.events.put(None)
    assert renewals.ended.wait(20)


def is_next(request: Request) -> bool:
    return request.path.endswith("/event/next")


def test_it_renews_at_each_invocation_with_the_time_it_has(api: ExtensionsApi, renewals: Renewals) -> None:
    assert extension.start(renewals.renew, renewals.ended.set)
    for seconds in (10, 20):
        api.events.put(seconds)
        assert seconds - 5 < renewals.seconds() <= seconds - 0.3


@pytest.mark.parametrize(
    "fault",
    [
        Fault.reset(),
        Fault.half_body(),
        Fault.status(500),
        Fault.status(200, b"[]"),
        Fault.status(200, b'{"deadlineMs": "soon"}'),
        Fault.empty(),
    ],
)
def test_a_failed_next_is_followed_by_another(api: ExtensionsApi, renewals: Renewals, fault: Fault) -> None:
    assert extension.start(renewals.renew, renewals.ended.set)
    for seconds in (10, 20, 30):
        api.server.faults.add(fault, is_next, times=1)
        for _ in range(2):
            api.events.put(seconds)
        renewals.seconds()
    assert not renewals.ended.is_set()


def test_after_several_failures_in_a_row_renewals_are_in_line(api: ExtensionsApi, renewals: Renewals) -> None:
    api.server.faults.add(Fault.reset(), is_next, times=None)
    assert extension.start(renewals.renew, renewals.ended.set)
    assert renewals.ended.wait(20)


def test_the_next_invocation_can_take_its_time(
    api: ExtensionsApi, renewals: Renewals, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert extension.start(renewals.renew, renewals.ended.set)
    monkeypatch.setattr(extension, "_CALL_SECONDS", 0.2)
    api.events.put(10)
    renewals.seconds()
    time.sleep(0.5)
    assert not renewals.ended.is_set()
    api.events.put(20)
    renewals.seconds()
    assert api.asked <= 3  # it still waits for the answer to the third


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_ends_it_at_once(api: ExtensionsApi, renewals: Renewals, status: int) -> None:
    refused: list[Request] = []

    def refuse(request: Request) -> bool:
        if is_next(request):
            refused.append(request)
        return is_next(request)

    api.server.faults.add(Fault.status(status, b"{}"), refuse, times=None)
    assert extension.start(renewals.renew, renewals.ended.set)
    assert renewals.ended.wait(20)
    assert len(refused) == 1


def test_initialization_ends_when_it_may(api: ExtensionsApi, renewals: Renewals) -> None:
    landed = threading.Event()
    assert extension.start(renewals.renew, renewals.ended.set, landed.wait)
    time.sleep(0.2)
    assert api.asked == 0
    landed.set()
    api.events.put(10)
    renewals.seconds()


def test_initialization_ends_though_nothing_lands(
    api: ExtensionsApi, renewals: Renewals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extension, "_READY_SECONDS", 0.1)
    assert extension.start(renewals.renew, renewals.ended.set, threading.Event().wait)
    api.events.put(10)
    renewals.seconds()


class Member:
    """Of the process; its flights take all the time that it is given, or none."""

    def __init__(self, seconds: float = 0, then: Callable[[], object] = lambda: None) -> None:
        self.waited: list[float] = []
        self._seconds = seconds
        self._then = then

    def _wait_for_flights(self, seconds: float) -> None:
        self.waited.append(seconds)
        time.sleep(min(self._seconds, seconds))
        self._then()


def test_all_members_together_have_the_time_of_initialization() -> None:
    process, members = Process(), [Member(0.3), Member(0.3)]
    for member in members:
        process.register(member)  # type: ignore[arg-type]
    process._settle(0.3)
    assert sorted(round(seconds, 1) for member in members for seconds in member.waited) == [0.0, 0.3]


def test_a_client_that_is_created_meanwhile_is_waited_for_too() -> None:
    """``CerberusClient()`` starts the extension before it can register itself."""
    process, client = Process(), Member()
    service = Member(then=lambda: process.register(client))  # type: ignore[arg-type]
    process.register(service)  # type: ignore[arg-type]
    process._settle(0.3)
    assert (len(service.waited), len(client.waited)) == (1, 1)


def test_managed_instances_get_no_extension_but_a_thread(api: ExtensionsApi) -> None:
    code = """if True:
        import queue
        from cerberus_auth.lifecycle import extension
        extension._EVERY_SECONDS = 0.05
        called = queue.Queue()
        def renew(deadline, ahead):
            called.put(deadline.remaining() > 0)
            raise ValueError
        assert extension.start(renew, lambda: called.put("ended"))
        print([called.get(timeout=20) for _ in range(3)])"""
    environment = {
        "PYTHONPATH": str(Path(cerberus_auth.__file__).parent.parent),
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.server.port}",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "lambda-managed-instances",
    }
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
    assert ended.stdout.strip() == "[True, True, True]"
    assert api.server.connections == 0
