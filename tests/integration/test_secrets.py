"""Reading: versions, files, whole boxes, and what is kept by age."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cerberus_auth import (
    AccessDenied,
    CerberusAuth,
    CerberusClient,
    CerberusUnavailable,
    DeadlineExceeded,
    InvalidResponse,
    SecretNotFound,
)
from cerberus_auth.caching import secrets as module
from cerberus_auth.testing.http_server import Fault, Request
from local_stack.stack import ROLE, SECRET, SECRET_PATH, LocalStack

BOX = "app/orders"


@pytest.fixture
def own() -> Iterator[LocalStack]:
    with LocalStack(tls=False) as stack:
        yield stack


@pytest.fixture
def cerberus(own: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[CerberusClient]:
    for name, value in own.environment(ROLE, CERBERUS_MAX_ATTEMPTS="1").items():
        monkeypatch.setenv(name, value)
    auth = CerberusAuth()
    yield CerberusClient(auth)
    auth.close()


def reads(stack: LocalStack) -> int:
    return stack.cerberus.count("/v1/secret/")


def is_read(request: Request) -> bool:
    return request.path.startswith("/v1/secret")


def test_an_older_version(own: LocalStack, cerberus: CerberusClient) -> None:
    first = own.cerberus.put_secret(SECRET_PATH, {"password": "first"})
    own.cerberus.put_secret(SECRET_PATH, {"password": "second"})
    assert cerberus.read(SECRET_PATH) == {"password": "second"}
    assert cerberus.read_version(SECRET_PATH, first) == {"password": "first"}
    assert cerberus.read_version(SECRET_PATH, first, max_age=60) != cerberus.read(SECRET_PATH, max_age=60)
    with pytest.raises(SecretNotFound):
        cerberus.read_version(SECRET_PATH, "&list=true")


def test_a_file(own: LocalStack, cerberus: CerberusClient) -> None:
    content = bytes(range(256)) * 100
    own.cerberus.put_file(f"{BOX}/key.p12", content)
    assert cerberus.read_file(f"{BOX}/key.p12") == content
    assert cerberus.read_file(f"{BOX}/key.p12", max_age=60) == cerberus.read_file(f"{BOX}/key.p12", max_age=60)
    assert own.cerberus.count("/v1/secure-file/") == 2
    with pytest.raises(SecretNotFound):
        cerberus.read_file(f"{BOX}/other.p12")
    with pytest.raises(AccessDenied):
        cerberus.read_file("app/another/key.p12")


def test_all_of_a_box(own: LocalStack, cerberus: CerberusClient) -> None:
    own.cerberus.put_secret(f"{BOX}/queue/primary", {"url": "https://sqs"})
    own.cerberus.put_secret(f"{BOX}/queue/dead letters", {"url": "https://dlq"})
    expected = {"db": SECRET, "queue/primary": {"url": "https://sqs"}, "queue/dead letters": {"url": "https://dlq"}}
    assert cerberus.read_all(BOX) == expected
    assert cerberus.read_all(f"/{BOX}/queue/", max_age=60).keys() == {"primary", "dead letters"}
    asked = reads(own)
    cerberus.read_all(f"{BOX}/queue", max_age=60)["primary"]["url"] = "changed by the caller"
    assert cerberus.read_all(f"{BOX}/queue", max_age=60)["primary"] == {"url": "https://sqs"}
    assert reads(own) == asked
    with pytest.raises(SecretNotFound):
        cerberus.read_all("app/orders/nothing")


@pytest.mark.parametrize("name", ["../other/", "./", "a//", "/", ""])
def test_a_service_that_lists_names_that_lead_elsewhere(own: LocalStack, cerberus: CerberusClient, name: str) -> None:
    own.cerberus.server.faults.add(
        Fault.status(200, b'{"data": {"keys": ["%s"]}}' % name.encode()), is_read, times=None
    )
    for read in (cerberus.read_all, cerberus.list):
        with pytest.raises(InvalidResponse, match="no list of names"):
            read(BOX)
    assert reads(own) == 2


def test_a_service_that_lists_without_end(own: LocalStack, cerberus: CerberusClient) -> None:
    own.cerberus.server.faults.add(Fault.status(200, b'{"data": {"keys": ["a/", "b/"]}}'), is_read, times=None)
    with pytest.raises((InvalidResponse, DeadlineExceeded)):
        cerberus.read_all(BOX, timeout=3)


def test_lists_are_kept_too(own: LocalStack, cerberus: CerberusClient) -> None:
    cerberus.list(BOX, max_age=60).append("changed by the caller")
    assert cerberus.list(BOX, max_age=60) == ["db"]
    assert reads(own) == 1


def test_threads_that_come_for_the_same_share_one_reading(own: LocalStack, cerberus: CerberusClient) -> None:
    own.cerberus.server.faults.add(Fault.delay(0.5), is_read)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: cerberus.read(SECRET_PATH, max_age=60), range(16)))
    assert found == [SECRET] * 16
    assert reads(own) == 1
    assert len({id(each) for each in found}) == 16


def test_those_who_wait_get_the_error_too_and_the_next_tries_anew(own: LocalStack, cerberus: CerberusClient) -> None:
    cerberus.read(SECRET_PATH)
    own.cerberus.server.faults.add(Fault.delay(0.5), lambda request: "nothing" in request.path)

    def read(_: int) -> Exception | None:
        try:
            cerberus.read(f"{BOX}/nothing", max_age=60)
        except SecretNotFound as error:
            return error
        return None

    asked = reads(own)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, range(8)))
    assert reads(own) == asked + 1
    assert None not in found
    assert len({id(error) for error in found}) == 8
    own.cerberus.put_secret(f"{BOX}/nothing", {"now": "there"})
    assert cerberus.read(f"{BOX}/nothing", max_age=60) == {"now": "there"}


def test_who_has_more_time_does_not_fail_with_one_who_had_less(own: LocalStack, cerberus: CerberusClient) -> None:
    cerberus.read(SECRET_PATH)
    own.cerberus.server.faults.add(Fault.hang(), is_read)
    hurried: list[Exception] = []

    def hurry() -> None:
        try:
            cerberus.read(SECRET_PATH, max_age=60, timeout=0.5)
        except DeadlineExceeded as error:
            hurried.append(error)

    thread = threading.Thread(target=hurry)
    thread.start()
    while own.cerberus.server.faults.planned:
        time.sleep(0.005)
    assert cerberus.read(SECRET_PATH, max_age=60) == SECRET
    thread.join()
    assert len(hurried) == 1


def test_a_fresh_read_does_not_share_one_that_began_before(own: LocalStack, cerberus: CerberusClient) -> None:
    cerberus.read(SECRET_PATH)
    own.cerberus.server.faults.add(Fault.hang(), is_read)

    def read() -> None:
        with contextlib.suppress(CerberusUnavailable, DeadlineExceeded):
            cerberus.read(SECRET_PATH, max_age=60, timeout=2)

    thread = threading.Thread(target=read)
    thread.start()
    while own.cerberus.server.faults.planned:
        time.sleep(0.005)
    own.cerberus.put_secret(SECRET_PATH, {"password": "rotated"})
    assert cerberus.read(SECRET_PATH, fresh=True) == {"password": "rotated"}
    assert cerberus.read(SECRET_PATH, max_age=60) == {"password": "rotated"}
    own.cerberus.server.close()
    thread.join()


@pytest.mark.parametrize("clock", ["monotonic", "time"])
def test_while_the_service_is_down_the_stale_serve_where_asked(
    own: LocalStack,
    cerberus: CerberusClient,
    clock: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert cerberus.read(SECRET_PATH, max_age=60) == SECRET
    real = getattr(time, clock)

    class Later:
        """The one clock goes on, the other does not."""

        def __getattr__(self, name: str) -> object:
            return (lambda: real() + 100) if name == clock else getattr(time, name)

    monkeypatch.setattr(module, "time", Later())
    own.cerberus.server.faults.add(Fault.status(503), is_read, times=None)
    for _ in range(2):
        with caplog.at_level(logging.WARNING, "cerberus_auth"):
            assert cerberus.read(SECRET_PATH, max_age=60, stale=60) == SECRET
    assert caplog.text.count("serves for now") == 2
    assert SECRET["password"] not in caplog.text
    for stale in (0, 30):
        with pytest.raises(CerberusUnavailable):
            cerberus.read(SECRET_PATH, max_age=60, stale=stale)
    own.cerberus.server.faults.clear()
    own.cerberus.put_secret(SECRET_PATH, {"password": "rotated"})
    assert cerberus.read(SECRET_PATH, max_age=60, stale=60) == {"password": "rotated"}


def test_what_is_gone_is_not_served_though_it_is_kept(own: LocalStack, cerberus: CerberusClient) -> None:
    cerberus.read(SECRET_PATH, max_age=0)
    own.cerberus.server.faults.add(Fault.status(404), is_read, times=None)
    with pytest.raises(SecretNotFound):
        cerberus.read(SECRET_PATH, max_age=0, stale=3600)


def test_a_misspelt_option_is_an_error(cerberus: CerberusClient) -> None:
    with pytest.raises(TypeError, match="maxage"):
        cerberus.read(SECRET_PATH, maxage=60)  # type: ignore[call-arg]
