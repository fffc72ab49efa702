"""Fleets of real processes: how often they authenticate, and what they do when the one that does so is killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cerberus_auth.testing.http_server import Fault, Request
from integration.fleet import Fleet, Result, sharing_stack
from local_stack.stack import ROLE, TABLE, LocalStack


@pytest.fixture
def stack() -> Iterator[LocalStack]:
    """One whose table can be shared by."""
    with sharing_stack() as (stack, _):
        yield stack


def environment(stack: LocalStack, **variables: str) -> dict[str, str]:
    return stack.environment(ROLE, AWS_LAMBDA_FUNCTION_NAME="orders", **variables)


def tokens(results: list[Result]) -> set[str]:
    """What all have, without one error."""
    assert [result.error for result in results if result.error] == []
    return {str(result.token) for result in results}


def test_two_hundred_containers_at_once(stack: LocalStack) -> None:
    with Fleet(200, environment(stack, CERBERUS_SHARED_CACHE_TABLE=TABLE), phases=2) as fleet:
        first = tokens(fleet.release())
        made = stack.cerberus.authentications
        assert made <= 3
        assert len(first) <= made
        stack.cerberus.revoke()
        second = tokens(fleet.release())
        assert stack.cerberus.authentications - made <= 3
        assert first.isdisjoint(second)
        assert fleet.log == ""


def test_two_hundred_containers_without_the_table(stack: LocalStack) -> None:
    with Fleet(200, environment(stack)) as fleet:
        assert len(tokens(fleet.release())) == 200
    assert stack.cerberus.authentications == 200


def action(name: str) -> Callable[[Request], bool]:
    return lambda request: (request.headers["X-Amz-Target"] or "").endswith(f".{name}")


def is_publication(request: Request) -> bool:
    return action("PutItem")(request) and b'"response": {"S": ""}' not in request.body


@pytest.mark.parametrize("step", ["look", "claim", "ask", "decrypt", "publish"])
def test_the_claimer_is_killed(stack: LocalStack, step: str) -> None:
    server, is_meant = {
        "look": (stack.aws.server, action("GetItem")),
        "claim": (stack.aws.server, action("PutItem")),
        "ask": (stack.cerberus.server, lambda request: True),
        "decrypt": (stack.aws.server, action("Decrypt")),
        "publish": (stack.aws.server, is_publication),
    }[step]
    server.faults.add(Fault.hang(), is_meant)
    variables = environment(stack, CERBERUS_SHARED_CACHE_TABLE=TABLE)
    with Fleet(20, variables) as others, Fleet(1, variables) as claimer:
        claimer.start()
        until(lambda: server.faults.planned == 0)
        claimer.kill()
        made = stack.cerberus.authentications
        assert len(tokens(others.release())) == 1
        assert stack.cerberus.authentications == made + 1
        assert others.log == ""


@pytest.mark.parametrize("step", ["look", "claim", "ask", "publish"])
def test_half_of_a_fleet_is_killed_in_the_midst(stack: LocalStack, step: str) -> None:
    server, is_meant = {
        "look": (stack.aws.server, action("GetItem")),
        "claim": (stack.aws.server, action("PutItem")),
        "ask": (stack.cerberus.server, lambda request: True),
        "publish": (stack.aws.server, is_publication),
    }[step]
    server.faults.add(Fault.delay(0.2), is_meant)
    variables = environment(stack, CERBERUS_SHARED_CACHE_TABLE=TABLE)
    with Fleet(20, variables) as staying, Fleet(20, variables) as leaving:
        leaving.start()
        staying.start()
        until(lambda: server.faults.planned == 0)
        leaving.kill()
        assert len(tokens(staying.results())) <= 2
        assert stack.cerberus.authentications <= 3


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_processes_of_one_environment(stack: LocalStack, tmp_path: Path) -> None:
    variables = environment(stack, AWS_LAMBDA_MAX_CONCURRENCY="32", TMPDIR=str(tmp_path))
    with Fleet(32, variables, phases=2) as fleet:
        assert len(tokens(fleet.release())) == 1
        assert stack.cerberus.authentications == 1
        stack.cerberus.revoke()
        assert len(tokens(fleet.release())) == 1
        assert fleet.log == ""
    assert (stack.cerberus.authentications, stack.aws.count("dynamodb", "GetItem")) == (2, 0)


def test_by_sts_the_processes_of_one_environment_share_nothing(stack: LocalStack, tmp_path: Path) -> None:
    variables = environment(stack, AWS_LAMBDA_MAX_CONCURRENCY="4", TMPDIR=str(tmp_path), CERBERUS_AUTH_METHOD="sts")
    with Fleet(4, variables) as fleet:
        assert len(tokens(fleet.release())) == 4
    assert list(tmp_path.iterdir()) == []


def test_of_each_environment_one_process_goes_to_the_table(stack: LocalStack, tmp_path: Path) -> None:
    fleets = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        variables = environment(stack, AWS_LAMBDA_MAX_CONCURRENCY="16", TMPDIR=str(tmp_path / name))
        fleets.append(Fleet(16, variables | {"CERBERUS_SHARED_CACHE_TABLE": TABLE}))
    with fleets[0] as one, fleets[1] as two:
        first = tokens(one.release())
        looked = stack.aws.count("dynamodb", "GetItem")
        assert tokens(two.release()) == first
        assert len(first) == stack.cerberus.authentications == looked == 1
        assert stack.aws.count("dynamodb", "GetItem") == 2


def test_a_process_that_is_killed_leaves_no_lock(stack: LocalStack, tmp_path: Path) -> None:
    stack.cerberus.server.faults.add(Fault.hang())
    variables = environment(stack, AWS_LAMBDA_MAX_CONCURRENCY="8", TMPDIR=str(tmp_path))
    with Fleet(8, variables) as others, Fleet(1, variables) as claimer:
        claimer.start()
        until(lambda: stack.cerberus.server.faults.planned == 0)
        claimer.kill()
        assert len(tokens(others.release())) == 1
        assert stack.cerberus.authentications == 1
