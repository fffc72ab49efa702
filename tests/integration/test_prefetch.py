"""``CERBERUS_PREFETCH``: the token and secrets are there, or under way, when the handler asks for them first."""

from __future__ import annotations

import time

import pytest

from cerberus_auth import CerberusClient, CerberusError, CerberusUnavailable, ConfigurationError, SecretNotFound
from cerberus_auth.testing.http_server import Fault, Request
from integration.function import Function
from local_stack.stack import SECRET, SECRET_PATH

QUEUE = {"url": "amqps://…"}
QUEUE_PATH = "app/orders/Queue"
PATHS = f"{SECRET_PATH}, {QUEUE_PATH}"


@pytest.fixture(autouse=True)
def secrets(function: Function) -> None:
    function.stack.cerberus.put_secret(QUEUE_PATH, QUEUE)
    function.configure(AWS_LAMBDA_FUNCTION_NAME="orders", CERBERUS_PREFETCH=PATHS)


def requests(function: Function) -> list[str]:
    return sorted(request.path for request in function.cerberus.requests)


def until(function: Function, count: int) -> None:
    """Wait until so many requests were answered."""
    deadline = time.monotonic() + 30
    while len(function.stack.cerberus.calls) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


EACH_ONCE = [f"/v1/secret/{QUEUE_PATH}", f"/v1/secret/{SECRET_PATH}", "/v2/auth/iam-principal"]


def test_initialising_waits_for_nothing_and_the_first_read_for_what_is_under_way(function: Function) -> None:
    function.stack.cerberus.answer_after_seconds = 1
    cerberus = CerberusClient(function.auth())
    assert not function.stack.cerberus.calls  # nothing was answered yet
    assert cerberus.read(SECRET_PATH) == SECRET
    assert cerberus.read(QUEUE_PATH) == QUEUE
    assert requests(function) == EACH_ONCE


def test_the_first_read_finds_what_has_landed(function: Function) -> None:
    cerberus = CerberusClient(function.auth())
    until(function, 3)
    time.sleep(0.2)  # from the answer to the cache
    function.stack.cerberus.server.stop_listening()
    function.stack.cerberus.server.drop_connections()
    assert cerberus.read(SECRET_PATH) == SECRET
    assert cerberus.read(QUEUE_PATH) == QUEUE


def test_with_provisioned_concurrency_initialising_waits(function: Function) -> None:
    function.configure(AWS_LAMBDA_INITIALIZATION_TYPE="provisioned-concurrency")
    function.stack.cerberus.answer_after_seconds = 0.3
    cerberus = CerberusClient(function.auth())
    assert requests(function) == EACH_ONCE
    function.stack.cerberus.server.stop_listening()
    function.stack.cerberus.server.drop_connections()
    assert cerberus.read(SECRET_PATH) == SECRET
    assert cerberus.read(QUEUE_PATH) == QUEUE


@pytest.mark.parametrize("place", ["/v2/auth/", "/v1/secret/"])
def test_that_wait_is_bounded(function: Function, place: str) -> None:
    function.configure(AWS_LAMBDA_INITIALIZATION_TYPE="provisioned-concurrency", CERBERUS_TIMEOUT="0.5")
    function.stack.cerberus.server.faults.add(Fault.hang(), lambda request: request.path.startswith(place), times=None)
    began = time.monotonic()
    cerberus = CerberusClient(function.auth())
    assert time.monotonic() - began < 10
    with pytest.raises(CerberusError):
        cerberus.read(SECRET_PATH)


def test_a_prefetch_that_fails_is_raised_by_the_read_of_that_path_only(function: Function) -> None:
    function.configure(CERBERUS_PREFETCH=f"{SECRET_PATH},app/orders/nothing")
    cerberus = CerberusClient(function.auth())
    until(function, 3)
    with pytest.raises(SecretNotFound):
        cerberus.read("app/orders/nothing")
    assert cerberus.read(SECRET_PATH) == SECRET
    assert len(function.cerberus.requests) == 3


def test_an_outage_is_no_failure_of_the_initialization(function: Function) -> None:
    function.configure(AWS_LAMBDA_INITIALIZATION_TYPE="provisioned-concurrency")

    def is_read(request: Request) -> bool:
        return request.path.startswith("/v1/secret/")

    function.stack.cerberus.server.faults.add(Fault.html(503), is_read, times=None)
    cerberus = CerberusClient(function.auth())
    with pytest.raises(CerberusUnavailable):
        cerberus.read(SECRET_PATH)


@pytest.mark.parametrize("value", ["off", "OFF", "init", "INIT"])
def test_no_secrets(function: Function, value: str) -> None:
    function.configure(CERBERUS_PREFETCH=value, AWS_LAMBDA_INITIALIZATION_TYPE="provisioned-concurrency")
    CerberusClient(function.auth())
    assert requests(function) == EACH_ONCE[2:] * (value.lower() == "init")


def test_outside_lambda_nothing_is_fetched(function: Function) -> None:
    function.configure(AWS_LAMBDA_FUNCTION_NAME=None, AWS_LAMBDA_INITIALIZATION_TYPE="provisioned-concurrency")
    CerberusClient(function.auth())
    assert not function.cerberus.requests


def test_a_path_that_no_cerberus_accepts(function: Function) -> None:
    function.configure(CERBERUS_PREFETCH="app/orders/a;b")
    with pytest.raises(ConfigurationError, match="';'"):
        CerberusClient(function.auth())
    function.configure(CERBERUS_PREFETCH="yes")
    with pytest.raises(ConfigurationError, match="CERBERUS_PREFETCH"):
        function.settings()
