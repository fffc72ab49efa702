"""Code written for Nike's Python client moves over by an import: the same calls, answered alike by both."""

from __future__ import annotations

import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from cerberus import CerberusClientException as NikesException
from cerberus.client import CerberusClient as NikesClient

from cerberus_auth import CerberusError, ConfigurationError, compat
from cerberus_auth.testing.http_server import Fault
from integration.function import Function
from local_stack.stack import ROLE, SECRET, SECRET_PATH

FILE = "app/orders/key.pem"

CALLS: dict[str, Callable[[Any], Any]] = {
    "get_secrets_data": lambda client: client.get_secrets_data(SECRET_PATH),
    "get_secrets_data, a version": lambda client: client.get_secrets_data(
        SECRET_PATH, version=client.get_secret_versions(SECRET_PATH)["secure_data_version_summaries"][-1]["id"]
    ),
    "get_secrets_data, version by position": lambda client: client.get_secrets_data(SECRET_PATH, "CURRENT"),
    "get_secrets": lambda client: {**client.get_secrets(SECRET_PATH), "request_id": ""},
    "get_secret": lambda client: client.get_secret(SECRET_PATH, "username"),
    "list_secrets": lambda client: {**client.list_secrets("app/orders"), "request_id": ""},
    "list_secrets, with a slash": lambda client: client.list_secrets("app/orders/")["data"],
    "get_secret_versions": lambda client: client.get_secret_versions(SECRET_PATH),
    "get_secret_versions, a page": lambda client: client.get_secret_versions(SECRET_PATH, limit=1, offset=1),
    "get_secret_versions, no limit": lambda client: client.get_secret_versions(SECRET_PATH, limit=-1, offset=-1),
    "get_file_data": lambda client: client.get_file_data(FILE),
    "get_file": lambda client: {
        name.lower(): value
        for name, value in client.get_file(FILE).items()
        if name.lower() not in ("x-b3-traceid", "date")
    },
    "get_file, a header": lambda client: client.get_file(FILE)["content-type"],
    "get_file_versions": lambda client: client.get_file_versions(FILE),
    "list_files": lambda client: client.list_files("app/orders"),
    "list_files, a page": lambda client: client.list_files("app/orders", limit=1),
}

FAILURES: dict[str, Callable[[Any], Any]] = {
    "nothing there": lambda client: client.get_secrets_data("app/orders/nothing"),
    "not allowed": lambda client: client.get_secrets_data("app/other/db"),
    "no such key": lambda client: client.get_secret(SECRET_PATH, "nothing"),
    "no such box": lambda client: client.get_secrets_data("app/nowhere/db"),
    "no such file": lambda client: client.get_file("app/orders/nothing.pem"),
}


def moved(function: Function, **options: Any) -> compat.CerberusClient:
    """The client of code that has moved over."""
    client = compat.CerberusClient(function.stack.cerberus.url, **options)
    function.closing(client._auth)
    return client


@pytest.fixture
def both(function: Function) -> tuple[Any, Any]:
    """Nike's client and ours, with the same start."""
    stack = function.stack
    stack.cerberus.put_secret(SECRET_PATH, {**SECRET, "password": "newer"})
    stack.cerberus.put_secret("app/orders/queue/primary", {"url": "amqps://…"})
    stack.cerberus.put_file(FILE, b"\x00\x01")
    stack.cerberus.put_file("app/orders/other.pem", b"")
    stack.cerberus.put_secret("app/other/db", {"password": "of another box"})
    return NikesClient(stack.cerberus.url, verbose=False), moved(function)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "get_secrets_data, a version"])
def test_what_is_read_is_kept_also_while_cerberus_is_out_of_reach(
    function: Function, both: tuple[Any, Any], name: str
) -> None:
    function.configure(CERBERUS_MAX_AGE="0.5")
    client = moved(function)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        before = len(function.cerberus.requests)
        first = CALLS[name](client)
        assert CALLS[name](client) == first
        assert len(function.cerberus.requests) == before + 2  # the token, and one read
        function.stack.cerberus.server.faults.add(Fault.html(503), times=None)
        time.sleep(0.6)
        assert CALLS[name](client) == first
        assert len(function.cerberus.requests) > before + 2


@pytest.mark.parametrize("name", CALLS)
def test_both_answer_alike(name: str, both: tuple[Any, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        nikes, ours = map(CALLS[name], both)
    assert ours == nikes
    assert ours


@pytest.mark.parametrize("name", FAILURES)
def test_both_fail_alike(name: str, both: tuple[Any, Any]) -> None:
    nikes, ours = both
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises(NikesException):
            FAILURES[name](nikes)
        with pytest.raises(compat.CerberusClientException) as caught:
            FAILURES[name](ours)
    assert isinstance(caught.value, CerberusError)


@pytest.mark.parametrize("name", ["get_secrets", "get_secret"])
def test_what_is_deprecated_there_is_so_here(name: str, both: tuple[Any, Any]) -> None:
    for client in both:
        with pytest.warns(DeprecationWarning, match="(?i)use get_secrets_data"):
            CALLS[name](client)


def test_all_versions_by_the_generator(both: tuple[Any, Any]) -> None:
    nikes, ours = (list(client._get_all_secret_version_ids(SECRET_PATH, 1)) for client in both)
    assert len(ours) == 2
    assert ours == nikes


def test_a_token_of_ones_own(function: Function, both: tuple[Any, Any]) -> None:
    given = both[0].get_token()
    client = moved(function, token=given)
    assert client.get_token() == client.token == given
    assert client.get_secrets_data(SECRET_PATH)["username"] == SECRET["username"]


def test_no_instance_sees_the_token_of_another(function: Function, both: tuple[Any, Any]) -> None:
    """Nike's share one dict of headers: the last one made decides for all."""
    url = function.stack.cerberus.url
    first_of_nike, ours = both
    NikesClient(url, token="another", verbose=False)
    with pytest.raises(NikesException):
        first_of_nike.get_secrets_data(SECRET_PATH)
    moved(function, token="another")
    assert ours.get_secrets_data(SECRET_PATH)


def test_a_token_that_is_over_is_renewed(function: Function, both: tuple[Any, Any]) -> None:
    nikes, ours = both
    ours.get_secrets_data(SECRET_PATH)
    function.stack.cerberus.revoke()
    with pytest.raises(NikesException):
        nikes.get_secrets_data(SECRET_PATH)
    assert ours.get_secrets_data(SECRET_PATH)


def test_many_clients_and_threads_authenticate_once(function: Function) -> None:
    def read() -> None:
        client = moved(function)
        assert client.get_secrets_data(SECRET_PATH) == SECRET
        assert client.read(SECRET_PATH) == SECRET  # and this package's own calls

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert function.stack.cerberus.authentications == 1
    assert [call.path for call in function.stack.cerberus.calls if "/auth/" in call.path] == ["/v2/auth/sts-identity"]


def test_by_kms_where_so_set(function: Function) -> None:
    function.configure(CERBERUS_AUTH_METHOD="kms")
    assert moved(function).get_secrets_data(SECRET_PATH) == SECRET
    assert function.posted == [(ROLE, "us-west-2")]


def test_nothing_is_printed(function: Function, capfd: pytest.CaptureFixture[str]) -> None:
    moved(function, verbose=True).get_secrets_data(SECRET_PATH)
    assert capfd.readouterr() == ("", "")


def shown(error: BaseException) -> str:
    """What an error reporter sends: with the locals of every frame of the package."""
    frames = traceback.TracebackException.from_exception(error, capture_locals=True).stack
    return "\n".join(f"{frame.name} {frame.locals}" for frame in frames if "cerberus_auth" in frame.filename)


def test_a_misspelt_key_does_not_show_the_secret(function: Function) -> None:
    client = moved(function)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises(CerberusError, match="no key 'pasword'") as caught:
            client.get_secret(SECRET_PATH, "pasword")
    assert SECRET["password"] not in shown(caught.value)


@pytest.mark.parametrize(
    "given", [{"username": "me", "password": "hunter2-hunter2"}, {"region": "nowhere", "token": "hunter2-hunter2"}]
)
def test_an_argument_that_cannot_work_shows_no_secret(function: Function, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compat.CerberusClient(function.stack.cerberus.url, **given)
    text = shown(caught.value)
    assert "__init__" in text
    for secret in ("hunter2-hunter2", function.environment["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in text


@pytest.mark.parametrize("given", [{"username": "me", "password": "secret"}, {"aws_session": object()}])
def test_what_is_not_taken_is_said(function: Function, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="as the execution role"):
        compat.CerberusClient(function.stack.cerberus.url, **given)
