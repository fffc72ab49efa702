"""Many threads, and processes forked from one, on one token: over real sockets, in the orders that hurt."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from cerberus_auth import CerberusAuth, CerberusClient
from cerberus_auth.testing.http_server import Fault, Request, Response, Server
from integration.function import Function
from local_stack.runtime import ROOT
from local_stack.stack import SECRET, SECRET_PATH

SECONDS = 30  # to wait for what happens at once, unless it never does


def intercept(server: Server, respond: Callable[[Request, Callable[[Request], Response]], Response]) -> None:
    """Have the server's answers made by ``respond``, which gets the request and the way to the service's own answer."""
    proper = server.respond
    server.respond = lambda request: respond(request, proper)


def is_auth(request: Request) -> bool:
    return request.path.startswith("/v2/auth/")


def at_once(threads: int, use: Callable[[], Any]) -> list[Any]:
    """What each of so many threads gets that begin together."""
    begin = threading.Barrier(threads)

    def begin_and_use() -> Any:
        begin.wait(SECONDS)
        return use()

    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(begin_and_use) for _ in range(threads)]]


def test_64_threads_on_a_cold_cache_cost_one_authentication(function: Function) -> None:
    auth = function.auth()
    calling = threading.Semaphore(0)

    def once_all_have_called(request: Request, proper: Callable[[Request], Response]) -> Response:
        if is_auth(request):
            assert all(calling.acquire(timeout=SECONDS) for _ in range(64))
        return proper(request)

    intercept(function.stack.cerberus.server, once_all_have_called)

    def use() -> str:
        calling.release()
        return auth.token()

    assert len(set(at_once(64, use))) == 1
    assert (function.authentications, function.decryptions) == (1, 1)


def read_by_requests(auth: CerberusAuth) -> dict[str, str]:
    answer = requests.get(f"{auth.settings.url}/v1/secret/{SECRET_PATH}", auth=auth, timeout=SECONDS)
    data: dict[str, str] = answer.json()["data"]
    return data


def read_by_client(auth: CerberusAuth) -> dict[str, str]:
    return CerberusClient(auth).read(SECRET_PATH)


@pytest.mark.parametrize("read", [read_by_requests, read_by_client])
def test_64_threads_that_meet_a_401_cost_one_authentication_more_half_of_them_late(
    function: Function, read: Callable[[CerberusAuth], dict[str, str]]
) -> None:
    function.configure(CERBERUS_TIMEOUT="60", CERBERUS_READ_TIMEOUT="30")
    auth = function.auth()
    revoked = auth.token()
    function.stack.cerberus.revoke()
    callers = threading.Barrier(64)
    renewed = threading.Event()
    statuses: list[int] = []

    def refuse_late(request: Request, proper: Callable[[Request], Response]) -> Response:
        """No refusal before all have sent the revoked token; to half of them, none before its successor is in use."""
        if not request.path.startswith("/v1/secret/"):
            return proper(request)
        if request.headers["X-Cerberus-Token"] != revoked:
            renewed.set()
        elif callers.wait(SECONDS) < 32:
            assert renewed.wait(SECONDS)
        response = proper(request)
        statuses.append(response.status)
        return response

    intercept(function.stack.cerberus.server, refuse_late)
    assert at_once(64, lambda: read(auth)) == [SECRET] * 64
    assert sorted(statuses) == [200] * 64 + [401] * 64
    assert (function.authentications, function.decryptions) == (2, 2)


def test_200_threads_in_the_refresh_window_wait_for_no_service_that_hangs(
    function: Function, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cerberus_auth.caching.cache.jitter", lambda: 1.0)  # the widest window
    auth = function.auth()
    old = auth.token()
    monotonic, wall, ahead = time.monotonic, time.time, 3600 - 60 - 300
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + ahead)
    monkeypatch.setattr(time, "time", lambda: wall() + ahead)
    function.stack.cerberus.server.faults.add(Fault.hang(), is_auth, times=None)
    served: queue.SimpleQueue[tuple[int, str, float]] = queue.SimpleQueue()
    begin = threading.Barrier(200)

    def use() -> None:
        begin.wait(SECONDS)
        began = time.monotonic()
        served.put((threading.get_ident(), auth.token(), time.monotonic() - began))

    threads = [threading.Thread(target=use) for _ in range(200)]
    with caplog.at_level(logging.WARNING, "cerberus_auth"):
        for thread in threads:
            thread.start()
        others = [served.get(timeout=SECONDS) for _ in range(199)]
        _, token, seconds = served.get(timeout=SECONDS)
        for thread in threads:
            thread.join()
        # The flight warns when it gives up on the service; as it has not, the request is still open.
        assert not caplog.records
        ends = time.monotonic() + SECONDS
        while not caplog.records and time.monotonic() < ends:
            time.sleep(0.05)
    assert {token for _, token, _ in others} == {token} == {old}
    assert [record.threadName for record in caplog.records] == ["cerberus-auth"]
    assert seconds < 2 + 1.5  # its bound, and what a busy machine adds; the request's own is 5 s
    assert (function.authentications, function.decryptions) == (2, 1)


# Forked processes. They fork in a process of their own: this one has threads, of which a fork has none.


@contextmanager
def running(function: Function, program: str) -> Iterator[subprocess.Popen[str]]:
    """A container that runs this program. Its lines are JSON, and neither it nor its children outlive half a minute."""
    prelude = f"""
        import json, os, signal, sys, threading
        from cerberus_auth import CerberusAuth, CerberusClient

        def in_a_fork(use):
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                signal.alarm({SECONDS})  # no alarm of the parent's is inherited
                try:
                    os.write(writing, json.dumps(use()).encode())
                finally:
                    os._exit(0)
            os.close(writing)
            with open(reading) as result:
                answer = json.loads(result.read())
            os.waitpid(pid, 0)
            return answer

        def tell(**values):
            print(json.dumps(values), flush=True)

        signal.alarm({SECONDS})
        auth = CerberusAuth()
        """
    environment = {**os.environ, **function.environment, "PYTHONPATH": str(ROOT / "layer")}
    command = [sys.executable, "-W", "default", "-c", textwrap.dedent(prelude) + textwrap.dedent(program)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as container:
        try:
            yield container
        finally:
            container.kill()


def told(container: subprocess.Popen[str]) -> dict[str, Any]:
    assert container.stdout is not None
    values: dict[str, Any] = json.loads(container.stdout.readline() or "{}")
    return values


def test_a_forked_child_uses_the_token_it_inherits_and_connections_of_its_own(function: Function) -> None:
    program = f"""
        cerberus = CerberusClient(auth)
        def use():
            return [auth.token(), cerberus.read({SECRET_PATH!r}, max_age=0)]
        before = use()
        child = in_a_fork(use)
        tell(before=before, child=child, after=use())
        """
    connections = function.stack.cerberus.server.connections
    with running(function, program) as container:
        results = told(container)
    assert results["before"] == results["child"] == results["after"]
    assert results["child"][1] == SECRET
    assert (function.authentications, function.decryptions) == (1, 1)
    # The parent's, which serves it again after the child has ended, and the child's.
    assert function.stack.cerberus.server.connections == connections + 2


def test_a_child_forked_in_mid_authentication_gets_a_token_of_its_own(function: Function) -> None:
    asked, answer = threading.Event(), threading.Event()

    def hold_the_first(request: Request, proper: Callable[[Request], Response]) -> Response:
        response = proper(request)
        if is_auth(request) and not asked.is_set():
            asked.set()
            assert answer.wait(SECONDS)
        return response

    intercept(function.stack.cerberus.server, hold_the_first)
    program = """
        tokens = []
        thread = threading.Thread(target=lambda: tokens.append(auth.token()))
        thread.start()
        sys.stdin.readline()
        tell(child=in_a_fork(auth.token))
        thread.join()
        tell(parent=tokens + [auth.token()])
        """
    function.configure(CERBERUS_TIMEOUT="60", CERBERUS_READ_TIMEOUT="30")
    with running(function, program) as container:
        assert container.stdin is not None
        assert asked.wait(SECONDS)
        container.stdin.write("fork\n")
        container.stdin.flush()
        child = told(container)["child"]  # while the parent's request is open
        answer.set()
        parent = told(container)["parent"]
    assert len(parent) == 2
    assert len({*parent, child}) == 2
    assert (function.authentications, function.decryptions) == (2, 2)
