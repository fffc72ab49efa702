"""Reading: versions, files, whole boxes, and what is kept by age."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import logging
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cerberus_auth import (
    AccessDenied,
    CerberusAuth,
    CerberusClient,
    CerberusUnavailable,
    ConfigurationError,
    DeadlineExceeded,
    InvalidResponse,
    SecretNotFound,
    Settings,
)
from cerberus_auth.client import Secret
from cerberus_auth.testing.http_server import Fault, Request, Response
from integration.function import assert_clean
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
    assert cerberus.read_version(SECRET_PATH, first) != cerberus.read(SECRET_PATH)
    with pytest.raises(SecretNotFound):
        cerberus.read_version(SECRET_PATH, "&list=true")


@pytest.mark.parametrize("version", ["", "\ud800", "a\nb", "é"])
def test_what_is_no_version(cerberus: CerberusClient, version: str) -> None:
    with pytest.raises(ConfigurationError, match="not a version ID"):
        cerberus.read_version(SECRET_PATH, version)


def test_the_versions_of_a_secret(own: LocalStack, cerberus: CerberusClient) -> None:
    older = [own.cerberus.put_secret(SECRET_PATH, {"password": str(number)}) for number in range(120)][:-1]
    found = cerberus.versions(SECRET_PATH)
    assert found[0]["id"] == "CURRENT"
    assert set(older) <= {each["id"] for each in found}
    assert own.cerberus.count("/v1/secret-versions/") == 2
    found.clear()
    assert cerberus.versions(SECRET_PATH)
    assert own.cerberus.count("/v1/secret-versions/") == 2


def test_a_file(own: LocalStack, cerberus: CerberusClient) -> None:
    content = bytes(range(256)) * 100
    own.cerberus.put_file(f"{BOX}/key.p12", content)
    assert cerberus.read_file(f"{BOX}/key.p12") == content
    assert cerberus.read_file(f"{BOX}/key.p12") == cerberus.read_file(f"{BOX}/key.p12", max_age=60)
    assert own.cerberus.count("/v1/secure-file/") == 1
    with pytest.raises(SecretNotFound):
        cerberus.read_file(f"{BOX}/other.p12")
    own.cerberus.put_file("app/another/key.p12", content)
    with pytest.raises(AccessDenied):
        cerberus.read_file("app/another/key.p12")
    with pytest.raises(SecretNotFound):
        cerberus.read_file("app/nowhere/key.p12")


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


def test_all_of_nothing(cerberus: CerberusClient) -> None:
    with pytest.raises(SecretNotFound):
        cerberus.read_all("app/orders/nothing")


def test_lists_are_sorted(own: LocalStack, cerberus: CerberusClient) -> None:
    own.cerberus.put_secret(f"{BOX}/queue/in", {"url": "https://sqs"})
    own.cerberus.put_secret(f"{BOX}/api", {"key": "k"})
    assert cerberus.list(BOX) == ["api", "db", "queue/"]


@pytest.mark.parametrize("name", ["../other/", "./", "a//", "/", ""])
def test_a_service_that_lists_names_that_lead_elsewhere(own: LocalStack, cerberus: CerberusClient, name: str) -> None:
    own.cerberus.server.faults.add(
        Fault.status(200, b'{"data": {"keys": ["%s"]}}' % name.encode()), is_read, times=None
    )
    for read in (cerberus.read_all, cerberus.list):
        with pytest.raises(InvalidResponse, match="no list of names"):
            read(BOX)
    assert reads(own) == 1


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


def test_those_who_wait_get_the_error_too_and_it_is_remembered(own: LocalStack, cerberus: CerberusClient) -> None:
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
    with pytest.raises(SecretNotFound):
        cerberus.read(f"{BOX}/nothing")
    assert reads(own) == asked + 1
    assert cerberus.read(f"{BOX}/nothing", fresh=True) == {"now": "there"}
    assert cerberus.read(f"{BOX}/nothing") == {"now": "there"}


def test_who_has_more_time_does_not_fail_with_one_who_had_less(own: LocalStack, cerberus: CerberusClient) -> None:
    cerberus.list(BOX)
    own.cerberus.server.faults.add(Fault.delay(1), is_read)
    with pytest.raises(DeadlineExceeded):
        cerberus.read(SECRET_PATH, timeout=0.3)
    assert cerberus.read(SECRET_PATH) == SECRET
    assert reads(own) == 2


def test_a_fresh_read_does_not_share_one_that_began_before(own: LocalStack, cerberus: CerberusClient) -> None:
    cerberus.list(BOX)
    own.cerberus.server.faults.add(Fault.delay(0.5), is_read)
    with ThreadPoolExecutor(1) as pool:
        before = pool.submit(cerberus.read, SECRET_PATH)
        while own.cerberus.server.faults.planned:
            time.sleep(0.005)
        assert cerberus.read(SECRET_PATH, fresh=True) == before.result()
    assert reads(own) == 3


def test_fresh_reads_of_many_threads_share_what_began_after_them(own: LocalStack, cerberus: CerberusClient) -> None:
    cerberus.read(SECRET_PATH)
    own.cerberus.server.faults.add(Fault.delay(0.3), is_read, times=None)
    own.cerberus.put_secret(SECRET_PATH, {"password": "rotated"})
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda _: cerberus.read(SECRET_PATH, fresh=True), range(32)))
    assert found == [{"password": "rotated"}] * 32
    assert reads(own) <= 1 + 3


def test_max_age_0_asks_and_keeps_nothing(own: LocalStack, cerberus: CerberusClient) -> None:
    for number in (1, 2):
        own.cerberus.put_secret(SECRET_PATH, {"password": str(number)})
        assert cerberus.read(SECRET_PATH, max_age=0) == {"password": str(number)}
    assert reads(own) == 2
    assert cerberus.read(SECRET_PATH) == {"password": "2"}
    assert reads(own) == 3


@contextlib.contextmanager
def passed(seconds: float, clock: str = "time") -> Iterator[None]:
    """Let one clock go on, and not the other."""
    real = getattr(time, clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, clock, lambda: real() + seconds)
        yield


def test_a_path_is_warned_of_once_a_minute_however_many_threads_read_it(
    own: LocalStack, cerberus: CerberusClient, caplog: pytest.LogCaptureFixture
) -> None:
    other = "app/orders/other"
    own.cerberus.put_secret(other, SECRET)
    cerberus.read_many([SECRET_PATH, other])
    own.cerberus.server.faults.add(Fault.status(503), is_read, times=None)

    def warnings() -> list[str]:
        return sorted(record.getMessage().split(" (")[0] for record in caplog.records if record.levelname == "WARNING")

    with caplog.at_level(logging.WARNING, "cerberus_auth"):
        with passed(400), ThreadPoolExecutor(16) as threads:
            for path in [SECRET_PATH, other] * 32:
                threads.submit(cerberus.read, path)
        once = [f"Cerberus unavailable, serving cached {path}" for path in (SECRET_PATH, other)]
        assert warnings() == once
        with passed(461):
            cerberus.read(SECRET_PATH)
        assert warnings() == [once[0], *once]


def test_a_refused_secret_that_cannot_be_read_anew_is_warned_of_once_a_minute(
    own: LocalStack, cerberus: CerberusClient, caplog: pytest.LogCaptureFixture
) -> None:
    cerberus.read(SECRET_PATH)
    own.cerberus.server.faults.add(Fault.status(503), is_read, times=None)

    def connect(secret: Secret) -> None:
        raise PermissionError

    for seconds, warned in ((0, 1), (5, 1), (61, 2)):
        with passed(seconds), pytest.raises(PermissionError):
            cerberus.with_secret(SECRET_PATH, connect, refused=PermissionError)
        assert caplog.text.count("Rotated secret not read") == warned


@pytest.mark.parametrize("clock", ["monotonic", "time"])
def test_while_the_service_is_down_the_stale_are_served(
    own: LocalStack, cerberus: CerberusClient, clock: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert cerberus.read(SECRET_PATH) == SECRET
    own.cerberus.server.faults.add(Fault.status(503), is_read, times=None)
    with passed(400, clock), caplog.at_level(logging.WARNING, "cerberus_auth"):
        for _ in range(3):
            assert cerberus.read(SECRET_PATH) == SECRET
        assert caplog.text.count(f"Cerberus unavailable, serving cached {SECRET_PATH} (age 40") == 1
        assert SECRET["password"] not in caplog.text
        assert reads(own) == 2
        for stale in (0, 30):
            with pytest.raises(CerberusUnavailable):
                cerberus.read(SECRET_PATH, stale_if_error=stale)
    own.cerberus.server.faults.clear()
    own.cerberus.put_secret(SECRET_PATH, {"password": "rotated"})
    with passed(800, clock):
        assert cerberus.read(SECRET_PATH) == {"password": "rotated"}


@pytest.mark.parametrize("status", [403, 404])
def test_what_is_gone_is_not_served_though_the_service_is_down_later(
    own: LocalStack, cerberus: CerberusClient, status: int
) -> None:
    cerberus.read(SECRET_PATH)
    error = b'{"error_id": "x", "errors": [{"code": 99994, "message": "x"}]}' if status == 403 else b""
    own.cerberus.server.faults.add(Fault.status(status, error), is_read)
    with pytest.raises((SecretNotFound, AccessDenied)):
        cerberus.read(SECRET_PATH, fresh=True)
    own.cerberus.server.faults.add(Fault.status(503), is_read, times=None)
    with passed(10, "time"), pytest.raises(CerberusUnavailable):
        cerberus.read(SECRET_PATH)


@pytest.mark.parametrize(
    "options",
    [
        {"max_age": 0, "fresh": True},
        {"max_age": 60, "fresh": True},
        {"stale_if_error": 0, "fresh": True},
        {"max_age": 0, "stale_if_error": 60},
        {"max_age": -1},
        {"max_age": float("nan")},
        {"stale_if_error": -1},
    ],
)
def test_options_that_contradict_each_other(cerberus: CerberusClient, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"max_age|stale_if_error"):
        cerberus.read(SECRET_PATH, **options)


@pytest.mark.parametrize("timeout", [float("inf"), 1e12])
def test_a_timeout_without_end_is_a_long_one(cerberus: CerberusClient, timeout: float) -> None:
    assert cerberus.read(SECRET_PATH, timeout=timeout) == SECRET
    assert cerberus.read(SECRET_PATH, timeout=timeout, max_age=0) == SECRET
    cerberus._auth.invalidate()
    assert cerberus._auth.token(timeout=timeout)


def test_a_timeout_that_is_no_number_is_an_error_and_harms_no_other_caller(cerberus: CerberusClient) -> None:
    with pytest.raises(ValueError, match="timeout is nan"):
        cerberus.read(SECRET_PATH, timeout=float("nan"))
    assert cerberus.read(SECRET_PATH) == SECRET


def test_a_misspelt_option_is_an_error(cerberus: CerberusClient) -> None:
    with pytest.raises(TypeError, match="maxage"):
        cerberus.read(SECRET_PATH, maxage=60)  # type: ignore[call-overload]


def test_wrong_arguments_at_construction(cerberus: CerberusClient) -> None:
    for wrong in ("https://cerberus.example.com", Settings(url="https://cerberus.example.com", region="us-west-2")):
        with pytest.raises(TypeError, match="CerberusAuth"):
            CerberusClient(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Settings"):
        CerberusAuth("https://cerberus.example.com")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not both"):
        CerberusClient(cerberus._auth, url="https://cerberus.example.com")
    with pytest.raises(ConfigurationError, match="CERBERUS_URL"):
        CerberusClient(url="ftp://cerberus.example.com")


def test_a_client_of_a_url(own: LocalStack, cerberus: CerberusClient, monkeypatch: pytest.MonkeyPatch) -> None:
    url = cerberus._auth.settings.url
    monkeypatch.delenv("CERBERUS_URL")
    assert CerberusClient(url=url).read(SECRET_PATH) == SECRET


@pytest.mark.parametrize("character", ["%", ";", "\\", "\u2028", "\n", "\x00", "\x7f", "\U0001f600"])
def test_characters_that_no_cerberus_accepts(own: LocalStack, cerberus: CerberusClient, character: str) -> None:
    for path in (f"{BOX}/d{character}b", f"{BOX}/{character}"):
        for read in (cerberus.read, cerberus.list, cerberus.read_file, cerberus.read_all, cerberus.versions):
            with pytest.raises(ConfigurationError) as caught:
                read(path)
            assert ascii(character) in str(caught.value)
    assert own.cerberus.count("/") == 0


@pytest.mark.parametrize("path", ["", "app", "app/orders/..", "app//db", "app/./db", "/"])
def test_what_is_no_path(own: LocalStack, cerberus: CerberusClient, path: str) -> None:
    with pytest.raises(ConfigurationError, match="category/box/path"):
        cerberus.read(path)
    with pytest.raises(TypeError, match="must be a str"):
        cerberus.read(None)  # type: ignore[call-overload]
    assert own.cerberus.count("/") == 0


def test_paths_of_any_script(own: LocalStack, cerberus: CerberusClient) -> None:
    for name in ("a b", "schlüssel", "ключ", "鍵", "a?b#c&d=e+f"):
        own.cerberus.put_secret(f"{BOX}/{name}", {"name": name})
        assert cerberus.read(f"{BOX}/{name}") == {"name": name}


def test_a_secret_is_the_callers_own_and_shows_no_value(own: LocalStack, cerberus: CerberusClient) -> None:
    own.cerberus.put_secret(SECRET_PATH, {"password": "hunter2!", "nested": {"list": ["hunter2!"]}})  # type: ignore[dict-item]
    secret = cerberus.read(SECRET_PATH)
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r}", "%s" % secret, repr([secret])):  # noqa: UP031
        assert "password" in text
        assert "hunter2!" not in text
    for other in (secret.copy(), copy.copy(secret), copy.deepcopy(secret), secret | {"a": 1}, {"a": 1} | secret):
        assert type(other) is Secret
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(secret, protocol)
    assert json.loads(json.dumps(secret)) == dict(secret)
    secret["nested"]["list"].append("changed")
    secret["password"] = "changed"
    secret |= {"more": 1}
    assert type(secret) is Secret
    assert cerberus.read(SECRET_PATH) == {"password": "hunter2!", "nested": {"list": ["hunter2!"]}}


def test_several_secrets_at_once(own: LocalStack, cerberus: CerberusClient) -> None:
    paths = [f"{BOX}/{number}" for number in range(20)]
    for path in paths:
        own.cerberus.put_secret(path, {"path": path})
    cerberus.read(SECRET_PATH)
    respond, lock = own.cerberus.server.respond, threading.Lock()
    now = most = 0

    def slow(request: Request) -> Response:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.1)
        with lock:
            now -= 1
        return respond(request)

    own.cerberus.server.respond = slow
    assert cerberus.read_many(paths) == {path: {"path": path} for path in paths}
    assert cerberus.read_many([f"/{path}/" for path in paths]).keys() == {f"/{path}/" for path in paths}
    assert reads(own) == 21
    assert 2 <= most <= 8
    with pytest.raises(SecretNotFound, match="missing"):
        cerberus.read_many([*paths, f"{BOX}/missing"])


@dataclasses.dataclass
class Database:
    username: str
    password: str


def test_a_secret_as_a_model(own: LocalStack, cerberus: CerberusClient) -> None:
    assert cerberus.read(SECRET_PATH, model=Database) == Database(**SECRET)
    assert cerberus.read(SECRET_PATH, model=dict) == SECRET
    own.cerberus.put_secret(SECRET_PATH, {"username": "a", "pasword": "hunter2!"})
    with pytest.raises(InvalidResponse) as caught:
        cerberus.read(SECRET_PATH, model=Database, fresh=True)
    assert "pasword" in str(caught.value)
    assert_clean(caught.value, ["hunter2!"])


class RefusedError(Exception):
    pass


class Server:
    """A database whose password may be rotated."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.connections = 0

    def connect(self, secret: Secret) -> str:
        self.connections += 1
        if secret["password"] != self.password:
            raise RefusedError("password")
        return self.password


@pytest.mark.parametrize("refused", [RefusedError, (KeyError, RefusedError), lambda error: "password" in str(error)])
def test_a_rotation_under_many_threads_costs_one_read(own: LocalStack, cerberus: CerberusClient, refused: Any) -> None:
    own.cerberus.put_secret(SECRET_PATH, {"password": "first"})
    server = Server("first")
    assert cerberus.with_secret(SECRET_PATH, server.connect, refused=refused) == "first"
    server.password = "second"
    own.cerberus.put_secret(SECRET_PATH, {"password": "second"})
    own.cerberus.server.faults.add(Fault.delay(0.2), is_read)
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda _: cerberus.with_secret(SECRET_PATH, server.connect, refused=refused), range(32)))
    assert found == ["second"] * 32
    assert reads(own) == 2


def test_an_unchanged_secret_is_not_read_again_for_a_minute(own: LocalStack, cerberus: CerberusClient) -> None:
    server = Server("another")
    for seconds, expected in ((0, 2), (30, 2), (70, 3)):
        with passed(seconds, "time"):
            for _ in range(3):
                with pytest.raises(RefusedError):
                    cerberus.with_secret(SECRET_PATH, server.connect, refused=RefusedError)
        assert reads(own) == expected
    with pytest.raises(ZeroDivisionError):
        cerberus.with_secret(SECRET_PATH, lambda _: 1 // 0, refused=RefusedError)
    assert reads(own) == 3


def test_a_refused_secret_that_cannot_be_read_anew(own: LocalStack, cerberus: CerberusClient) -> None:
    cerberus.read(SECRET_PATH)
    own.cerberus.server.faults.add(Fault.status(503), is_read, times=None)
    with pytest.raises(RefusedError):
        cerberus.with_secret(SECRET_PATH, Server("another").connect, refused=RefusedError)


def test_a_client_within_an_invocation(own: LocalStack, cerberus: CerberusClient) -> None:
    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return 800

    cerberus.list(BOX)
    own.cerberus.server.faults.add(Fault.hang(), is_read)
    bound = cerberus.within(Context())
    with pytest.raises(DeadlineExceeded, match=r"0\.5 s"):
        bound.read(SECRET_PATH)
    own.cerberus.server.close()


def test_a_page_with_status_200_is_no_secret(own: LocalStack, cerberus: CerberusClient) -> None:
    cerberus.read(SECRET_PATH)
    own.cerberus.server.faults.add(Fault.html(200), is_read, times=None)
    with passed(400, "time"):
        assert cerberus.read(SECRET_PATH) == SECRET
    with pytest.raises(CerberusUnavailable):
        cerberus.read(f"{BOX}/other")


def test_what_is_kept_is_bounded(own: LocalStack, cerberus: CerberusClient) -> None:
    content = bytes(1 << 20)
    for number in range(12):
        own.cerberus.put_file(f"{BOX}/{number}", content)
        assert cerberus.read_file(f"{BOX}/{number}") == content
        cerberus.read_file(f"{BOX}/0")
    assert 7 << 20 <= sum(len(kept.value) for kept in cerberus._cache.kept.values()) <= 8 << 20
    assert own.cerberus.count("/v1/secure-file/") == 12


def test_secrets_of_more_than_the_budget(own: LocalStack, cerberus: CerberusClient) -> None:
    for number in range(12):
        own.cerberus.put_secret(f"{BOX}/large/{number}", {"value": "x" * (900 << 10)})
    with pytest.raises(InvalidResponse, match="8 MiB"):
        cerberus.read_all(f"{BOX}/large")
    with pytest.raises(InvalidResponse, match="8 MiB"):
        cerberus.read_many([f"{BOX}/large/{number}" for number in range(12)])
    assert len(cerberus.read_many([f"{BOX}/large/{number}" for number in range(9)])) == 9
