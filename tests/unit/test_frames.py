"""What an error reporter sends: the locals of every frame of a traceback. No secret is in any of them, whatever fails."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import os
import signal
import socket
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import requests

from cerberus_auth import CerberusAuth, CerberusClient, CerberusError, ConfigurationError, Settings, compat
from cerberus_auth.doctor import Doctor
from cerberus_auth.powertools import CerberusMiddleware, CerberusProvider
from cerberus_auth.testing.http_server import Fault, Request, Response, Server

TOKEN = "token-of-the-environment"
VALUE = "correct-horse-battery-staple"
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "secret-key-of-the-environment",
    "AWS_SESSION_TOKEN": "session-token-of-the-environment",
    "CERBERUS_TOKEN": TOKEN,
    "HTTPS_PROXY": "http://user:password-of-the-proxy@127.0.0.1:9",
}
ALL = [*(value for name, value in SECRETS.items() if name != "HTTPS_PROXY"), "password-of-the-proxy", VALUE]
PATH = "app/orders/db"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith(("AWS_", "CERBERUS_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    monkeypatch.setenv("CERBERUS_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("CERBERUS_MAX_ATTEMPTS", "1")


def told(error: BaseException) -> str:
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def check(call: Callable[[], object]) -> BaseException:
    """Let it fail; no secret is in any frame, also not in one of the standard library's or requests'."""
    try:
        call()
    except Exception as error:
        text = told(error)
        shown = [secret for secret in ALL if secret in text or repr(secret)[1:-1] in text]
        lines = [line.strip()[:100] for line in text.splitlines() if any(secret in line for secret in shown)]
        assert not shown, f"{type(error).__name__}: {lines}"  # noqa: PT017  (any class of error)
        assert "repr() failed" not in text  # before Python 3.13, the reporter would fail instead
        return error
    raise AssertionError("it did not fail")


# Settings

MAKERS: dict[str, Callable[[], object]] = {
    "Settings.from_env": Settings.from_env,
    "Settings.from_env, a mapping": lambda: Settings.from_env(dict(os.environ)),
    "Settings.from_env, a URL": lambda: Settings.from_env(url=os.environ.get("CERBERUS_URL", "")),
    "CerberusAuth": CerberusAuth,
    "CerberusClient": CerberusClient,
    "CerberusClient, a URL": lambda: CerberusClient(url=os.environ.get("CERBERUS_URL", "")),
    "CerberusProvider": CerberusProvider,
    "CerberusMiddleware": CerberusMiddleware,
    "compat": lambda: compat.CerberusClient(os.environ.get("CERBERUS_URL", "")),
    "compat, a token": lambda: compat.CerberusClient(
        os.environ.get("CERBERUS_URL", ""), token=os.environ["CERBERUS_TOKEN"]
    ),
    "compat, a region": lambda: compat.CerberusClient(os.environ.get("CERBERUS_URL", ""), region="mars"),
}
BAD: dict[str, dict[str, str]] = {
    "no URL": {"CERBERUS_URL": ""},
    "a URL with a password": {"CERBERUS_URL": f"https://user:{VALUE}@cerberus.example.com"},
    "a URL that is none": {"CERBERUS_URL": f"https://[{VALUE}"},
    "a number that is none": {"CERBERUS_TIMEOUT": "soon"},
    "a whole number that is none": {"CERBERUS_MAX_ATTEMPTS": "1.5"},
    "a number out of range": {"CERBERUS_TIMEOUT": "-1"},
    "a region that is none": {"AWS_REGION": "mars"},
    "an endpoint with a password": {"AWS_ENDPOINT_URL_KMS": f"https://user:{VALUE}@kms.example.com"},
    "a proxy that is none": {"HTTPS_PROXY": "socks5://user:password-of-the-proxy@127.0.0.1:9"},
    "a token that is none": {"CERBERUS_TOKEN": f"{TOKEN} {VALUE}"},
    "a bundle that is not there": {"AWS_CA_BUNDLE": "/nowhere/ca.pem"},
    "all at once": {
        "CERBERUS_URL": "",
        "CERBERUS_TIMEOUT": "soon",
        "AWS_REGION": "mars",
        "CERBERUS_TOKEN": f"{TOKEN} ",
    },
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("maker", MAKERS)
def test_settings_that_cannot_work(maker: str, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BAD[bad].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CERBERUS_SHARED_CACHE_KEY", "no key")  # so that each maker fails with each row
    assert isinstance(check(MAKERS[maker]), ConfigurationError)


def test_settings_given_one_by_one() -> None:
    secret = SECRETS["CERBERUS_TOKEN"]
    assert isinstance(check(lambda: Settings(url="", token=os.environ["CERBERUS_TOKEN"])), ConfigurationError)
    assert isinstance(
        check(
            lambda: Settings(
                url=f"https://u:{VALUE}@h", proxy=os.environ["HTTPS_PROXY"], endpoints={"": f"https://h/?{VALUE}"}
            )
        ),
        ConfigurationError,
    )
    assert secret not in repr(Settings.from_env())


def test_credentials_of_a_person_are_not_kept() -> None:
    for name in ("password", "aws_session", "username"):

        def make(name: str = name) -> object:
            arguments: list[dict[str, Any]] = [{name: VALUE, "token": TOKEN}]
            return compat.CerberusClient("http://127.0.0.1:9", **arguments.pop())

        check(make)


def test_the_doctor_raises_nothing_and_says_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CERBERUS_TIMEOUT", "soon")
    assert not [secret for secret in ALL if secret in repr(Doctor().examine())]


# Reading


def deep(request: Request) -> Response:
    return Response(200, b'{"data": {"password": "%s", "x": %s}}' % (VALUE.encode(), b"[" * 3000 + b"]" * 3000))


def echo(request: Request) -> str:
    return f"{VALUE} {list(request.headers.items())}"


def error(status: int) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        body = {"error_id": echo(request), "errors": [{"code": echo(request), "message": echo(request)}]}
        return Response(status, json.dumps(body).encode(), {"Content-Type": "application/json", "X-Echo": VALUE})

    return answer


ANSWERS: dict[str, Callable[[Request], Response]] = {
    "400": error(400),
    "401": error(401),
    "403": error(403),
    "404": lambda request: Response(404, headers={"X-Echo": VALUE}),
    "429": error(429),
    "500": error(500),
    "a page": lambda request: Response(200, f"<html>{echo(request)}</html>".encode(), {"Content-Type": "text/html"}),
    "a firewall's page": lambda request: Response(403, f"<html>{echo(request)}</html>".encode()),
    "a redirect": lambda request: Response(302, headers={"Location": f"http://127.0.0.1:9/{VALUE}"}),
    "JSON that is cut": lambda request: Response(200, json.dumps({"data": {"password": VALUE}}).encode()[:-1]),
    "JSON that is deep": deep,
    "JSON of another shape": lambda request: Response(200, json.dumps([{"data": {"password": VALUE}}]).encode()),
    "JSON in another encoding": lambda request: Response(200, json.dumps({"data": VALUE}).encode("utf-16")),
    "a secret where there is none": lambda request: Response(
        200, json.dumps({"data": [VALUE, echo(request)]}).encode()
    ),
    "compressed": lambda request: Response(200, gzip.compress(VALUE.encode()), {"Content-Encoding": "gzip"}),
    "too large": lambda request: Response(200, VALUE.encode() * 50_000),
    "half": lambda request: Response(200, VALUE.encode(), {"Content-Length": "1000", "Connection": "close"}),
}


class Refused(Exception):
    """What a database raises."""


@dataclasses.dataclass
class Database:
    """What the secret does not fit."""

    user: str


def connect(secret: dict[str, Any]) -> None:
    raise Refused


METHODS: dict[str, Callable[[CerberusClient, str], object]] = {
    "read": lambda client, path: client.read(path),
    "read, max_age=0": lambda client, path: client.read(path, max_age=0),
    "read, fresh": lambda client, path: client.read(path, fresh=True),
    "read_version": lambda client, path: client.read_version(path, "3"),
    "versions": lambda client, path: client.versions(path),
    "list": lambda client, path: client.list(path),
    "read_many": lambda client, path: client.read_many([path, "app/orders/queue"]),
    "read_all": lambda client, path: client.read_all("app/orders"),
    "with_secret": lambda client, path: client.with_secret(path, connect, refused=Refused),
}


class Reader(NamedTuple):
    """A Cerberus that answers as it is told, and a client of it."""

    client: CerberusClient
    server: Server


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    with Server(lambda request: Response(200)) as server:
        monkeypatch.setenv("CERBERUS_URL", server.url)
        auth = CerberusAuth()
        yield Reader(CerberusClient(auth), server)
        auth.close()


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_read_that_fails(method: str, answer: str, reader: Reader) -> None:
    reader.server.respond = ANSWERS[answer]
    call = METHODS[method]
    assert isinstance(check(lambda: call(reader.client, PATH)), CerberusError)


@pytest.mark.parametrize("answer", ["401", "403", "404", "500", "a redirect", "compressed", "too large", "half"])
def test_a_file_that_fails(answer: str, reader: Reader) -> None:
    reader.server.respond = ANSWERS[answer]
    assert isinstance(check(lambda: reader.client.read_file(PATH)), CerberusError)


@pytest.mark.parametrize("answer", ANSWERS)
def test_compat_that_fails(answer: str, reader: Reader) -> None:
    reader.server.respond = ANSWERS[answer]
    client = compat.CerberusClient(reader.server.url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for call in (client.get_secrets_data, client.list_secrets):
            check(functools.partial(call, PATH))
        check(lambda: client.get_secret(PATH, "password"))
    client._auth.close()


@pytest.mark.parametrize("answer", ["400", "403", "500", "a redirect", "compressed", "too large", "half"])
def test_a_revocation_that_fails(answer: str, reader: Reader) -> None:
    reader.server.respond = ANSWERS[answer]
    check(lambda: reader.client._auth.close(revoke=True))


def test_requests_elsewhere(reader: Reader) -> None:
    check(lambda: reader.client._auth(requests.Request("GET", "http://127.0.0.1:9/").prepare()))


def secret(request: Request) -> Response:
    return Response(200, json.dumps({"data": {"password": VALUE}}).encode())


def test_a_secret_that_does_not_fit(reader: Reader) -> None:
    reader.server.respond = secret
    check(lambda: reader.client.read(PATH, model=Database))
    check(lambda: reader.client.read(PATH)["pasword"])
    check(lambda: reader.client.with_secret(PATH, connect, refused=Refused))
    check(lambda: CerberusProvider(reader.client).get(PATH, transform="json", model=Database))


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.read("app"),
        lambda client: client.read(PATH, max_age=-1),
        lambda client: client.read(PATH, fresh=True, max_age=3),
        lambda client: client.read(PATH, timeout=0, max_age=0),
        lambda client: client.read_version(PATH, "\ud800"),
        lambda client: CerberusClient(client._auth, url="http://127.0.0.1:9"),
        lambda client: CerberusClient("auth"),  # type: ignore[arg-type]  # that is the point
        lambda client: CerberusAuth("settings"),  # type: ignore[arg-type]  # that is the point
    ],
)
def test_arguments_that_cannot_work(call: Callable[[CerberusClient], object], reader: Reader) -> None:
    reader.server.respond = secret
    check(lambda: call(reader.client))


@pytest.mark.parametrize("settings", [{}, {"CERBERUS_AUTH_METHOD": "sts"}, {"CERBERUS_IAM_ROLE_ARN": ""}])
@pytest.mark.parametrize("aws_client", ["signed", "sdk"])
def test_nobody_answers(settings: dict[str, str], aws_client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CERBERUS_TOKEN")
    monkeypatch.setenv("CERBERUS_IAM_ROLE_ARN", "arn:aws:iam::111111111111:role/orders")
    monkeypatch.setenv("CERBERUS_AWS_CLIENT", aws_client)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    auth = CerberusAuth()
    check(auth.token)
    check(lambda: auth.token(timeout=0))
    check(lambda: CerberusClient(auth).read(PATH, max_age=0))
    auth.close()


def test_a_request_of_requests_shows_no_token(reader: Reader) -> None:
    reader.server.respond = secret
    response = requests.get(f"{reader.server.url}/v1/secret/{PATH}", auth=reader.client._auth, timeout=2)
    assert response.request.headers["X-Cerberus-Token"] == TOKEN
    assert TOKEN not in f"{response.request.headers} {vars(response.request)!r}"


class Alarm(Exception):
    """What a signal handler raises."""


@contextmanager
def alarms() -> Iterator[None]:
    """A handler of SIGALRM that raises; no timer is left behind."""

    def handle(number: int, frame: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, handle)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("seconds", [0.05, 0.15])
@pytest.mark.parametrize("max_age", [0, None])
def test_what_a_signal_handler_raises(max_age: float | None, seconds: float, reader: Reader) -> None:
    """It goes through the frames of a request where the caller's own thread makes it."""
    reader.server.faults.add(Fault.hang(), times=None)

    with alarms():
        signal.setitimer(signal.ITIMER_REAL, seconds)
        assert isinstance(check(lambda: reader.client.read(PATH, max_age=max_age)), Alarm)


def test_what_a_signal_handler_raises_while_bytes_are_sent(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``max_age=0`` the request is sent in the caller's thread."""

    def interrupted(connected: socket.socket, data: object) -> None:
        signal.raise_signal(signal.SIGALRM)

    monkeypatch.setattr(socket.socket, "sendall", interrupted)
    with alarms():
        assert isinstance(check(lambda: reader.client.read(PATH, max_age=0)), Alarm)
