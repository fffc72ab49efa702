"""Fleets of real processes: how often they authenticate, and what they do when the one that does so is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cerberus_auth.testing.http_server import Fault, Request
from integration.fleet import Fleet, Result, sharing_stack
from local_stack.stack import ROLE, TABLE, LocalStack, decrypt_statement, share_statement


@pytest.fixture
def stack() -> Iterator[LocalStack]:
    """One whose table can be shared by."""
    with sharing_stack() as (stack, _):
        yield stack


def environment(stack: LocalStack, **variables: str) -> dict[str, str]:
    return stack.environment(ROLE, AWS_LAMBDA_FUNCTION_NAME="orders", **variables)


def briefly_claimed(stack: LocalStack, **variables: str) -> dict[str, str]:
    """With a read timeout, and so a claim, shorter than usual: a killed container is waited for so long."""
    return environment(stack, CERBERUS_READ_TIMEOUT="2", CERBERUS_TIMEOUT="30", **variables)


def tokens(results: list[Result]) -> set[str]:
    """What all have, without one error."""
    assert [result.error for result in results if result.error] == []
    return {str(result.token) for result in results}


def test_a_hundred_containers_at_once(stack: LocalStack) -> None:
    with Fleet(100, environment(stack, CERBERUS_SHARED_CACHE_TABLE=TABLE), phases=2) as fleet:
        first = tokens(fleet.release())
        made = stack.cerberus.authentications
        assert made <= 5
        assert len(first) <= made
        stack.cerberus.revoke()
        second = tokens(fleet.release())
        assert stack.cerberus.authentications - made <= 5
        assert first.isdisjoint(second)
        assert fleet.log == ""


@pytest.mark.parametrize("seconds", [0.3, 3])
def test_twenty_cold_containers_and_a_slow_cerberus(stack: LocalStack, seconds: float) -> None:
    stack.cerberus.answer_after_seconds = seconds
    with Fleet(20, environment(stack, CERBERUS_SHARED_CACHE_TABLE=TABLE)) as fleet:
        assert len(tokens(fleet.release())) == 1
        assert fleet.log == ""
    assert stack.cerberus.authentications == 1


def test_containers_that_lambda_freezes_between_invocations(stack: LocalStack) -> None:
    """One invocation a second of a few milliseconds, and what is under way when it returns stands still until the next."""
    stack.cerberus.answer_after_seconds = 0.05
    stack.cerberus.lease_seconds = 10
    is_table = lambda request: (request.headers["X-Amz-Target"] or "").startswith("DynamoDB")  # noqa: E731
    stack.aws.server.faults.add(Fault.delay(0.01), is_table, None)
    variables = environment(stack, CERBERUS_SHARED_CACHE_TABLE=TABLE, CERBERUS_MAX_AGE="2")
    rounds, frozen = 10, set[int]()
    with Fleet(20, variables, phases=rounds + 1) as fleet:  # one that never comes: a container does not end by itself
        for number in range(rounds):
            began = time.monotonic()
            stack.cerberus.put_secret("app/orders/db", {"revision": str(number)})
            for process in frozen:
                os.kill(process, signal.SIGCONT)
            fleet.start()
            results = []
            for _ in range(20):
                results.append(fleet.result())
                os.kill(results[-1].process, signal.SIGSTOP)
                frozen.add(results[-1].process)
            assert [result.error for result in results if result.error] == []
            time.sleep(max(0.0, began + 1 - time.monotonic()))
        assert fleet.log == ""
    assert stack.cerberus.authentications <= 5
    assert min(int(result.revision or 0) for result in results) >= rounds - 5


def test_a_hundred_containers_without_the_table(stack: LocalStack) -> None:
    with Fleet(100, environment(stack)) as fleet:
        assert len(tokens(fleet.release())) == 100
    assert stack.cerberus.authentications == 100


@pytest.mark.parametrize("shares", [True, False], ids=["with the table", "without"])
def test_the_first_start_under_a_new_role(stack: LocalStack, shares: bool) -> None:
    """Each container that asks before the role has a key in Cerberus' account has one made: all but one are wasted."""
    role = "arn:aws:iam::111111111111:role/new"
    stack.create_role(role, [decrypt_statement(), share_statement(role)])
    stack.cerberus.key_creation_seconds = 0.5
    before = stack.cerberus.keys_made
    table = {"CERBERUS_SHARED_CACHE_TABLE": TABLE} if shares else {}
    with Fleet(40, stack.environment(role, AWS_LAMBDA_FUNCTION_NAME="orders", **table)) as fleet:
        got = tokens(fleet.release())
    keys = stack.cerberus.keys_made - before
    assert [call.status for call in stack.cerberus.calls].count(500) == keys - 1
    if shares:
        assert keys == 1
    else:
        assert keys > 10
        assert len(got) == 40


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
    variables = briefly_claimed(stack, CERBERUS_SHARED_CACHE_TABLE=TABLE)
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
    variables = briefly_claimed(stack, CERBERUS_SHARED_CACHE_TABLE=TABLE)
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
        assert len(first) == stack.cerberus.authentications == 1
        assert looked == 2  # at the token's item, and the breaker's
        assert stack.aws.count("dynamodb", "GetItem") == 3


def test_a_process_that_is_killed_leaves_no_lock(stack: LocalStack, tmp_path: Path) -> None:
    stack.cerberus.server.faults.add(Fault.hang())
    variables = briefly_claimed(stack, AWS_LAMBDA_MAX_CONCURRENCY="8", TMPDIR=str(tmp_path))
    with Fleet(8, variables) as others, Fleet(1, variables) as claimer:
        claimer.start()
        until(lambda: stack.cerberus.server.faults.planned == 0)
        claimer.kill()
        assert len(tokens(others.release())) == 1
        assert stack.cerberus.authentications == 1
