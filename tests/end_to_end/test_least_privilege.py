"""Each function's policy, as the template has it: it lets the flow through, and nothing of it can be spared."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from local_stack.application import PARAMETERS, Application, Function
from local_stack.aws import Aws
from local_stack.runtime import Invocation, LambdaRuntime
from local_stack.stack import LocalStack

FUNCTIONS = ["ReadSecretFunction", "ProcessOrdersFunction", "NightlyReportFunction", "DiagnoseFunction"]
ACTIONS = ["kms:Decrypt", "dynamodb:GetItem", "dynamodb:PutItem"]
OTHER_ACCOUNT = "333333333333"

Statements = list[dict[str, Any]]


@pytest.fixture(scope="module")
def everything() -> Application:
    """All that the template can deploy."""
    return Application({**PARAMETERS, "SharedCache": "true", "Diagnose": "true"})


def actions(statement: dict[str, Any]) -> list[str]:
    found = statement["Action"]
    return [found] if isinstance(found, str) else list(found)


def without(action: str, statements: Statements) -> Statements:
    left = [{**each, "Action": [name for name in actions(each) if name != action]} for each in statements]
    return [each for each in left if each["Action"]]


def elsewhere(action: str, statements: Statements) -> Statements:
    """The same for the resource of another account."""
    moved = copy.deepcopy(statements)
    for each in moved:
        if action in actions(each):
            for account in (Aws.CERBERUS_ACCOUNT, Aws.FUNCTION_ACCOUNT):
                each["Resource"] = each["Resource"].replace(account, OTHER_ACCOUNT)
    return moved


def of_another_role(statements: Statements) -> Statements:
    """The same for the items of another role."""
    text = json.dumps(statements).replace('Function"]', 'Function-of-others"]')
    changed: Statements = json.loads(text)
    assert changed != statements
    return changed


def invoke(stack: LocalStack, function: Function, statements: Statements) -> Iterator[Invocation]:
    """The function, cold and then warm, under these statements alone."""
    if "CERBERUS_SHARED_CACHE_TABLE" in function.environment:
        stack.create_table(function.environment["CERBERUS_SHARED_CACHE_TABLE"])
    stack.create_role(function.role_arn, statements)
    environment = {**function.environment, **stack.environment(function.role_arn)}
    with LambdaRuntime(function.artifact, function.handler, function.layers, environment) as container:
        for _ in range(2):
            yield container.invoke(function.event())


def failed(invocation: Invocation) -> bool:
    payload = invocation.payload if isinstance(invocation.payload, dict) else {}
    return bool(invocation.error or payload.get("statusCode", 200) != 200 or not payload.get("ok", True))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_its_policy_lets_the_flow_through(name: str, stack: LocalStack, everything: Application) -> None:
    function = everything.functions[name]
    assert sorted(itertools.chain.from_iterable(map(actions, function.statements))) == sorted(ACTIONS)
    for invocation in invoke(stack, function, list(function.statements)):
        assert not failed(invocation), invocation.log
        assert "cannot be used" not in invocation.log
    assert {call.status for call in stack.aws.calls if call.account == Aws.FUNCTION_ACCOUNT} <= {200, 400}
    refused = [call for call in stack.aws.calls if call.account == Aws.FUNCTION_ACCOUNT and call.status in (401, 403)]
    assert refused == []


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("change", [without, elsewhere])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_of_it_can_be_spared(
    name: str, change: Any, action: str, stack: LocalStack, everything: Application
) -> None:
    function = everything.functions[name]
    cold, _ = invoke(stack, function, change(action, list(function.statements)))
    said = json.dumps(cold.payload) + cold.log
    assert action in said  # the statement to add
    # Without the table's actions there is still a token, and a warning; the diagnose function calls either a failure.
    assert failed(cold) == (action == "kms:Decrypt" or name == "DiagnoseFunction")
    if action != "kms:Decrypt":
        assert "cannot be used" in said or name == "DiagnoseFunction"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_items_of_another_role_are_not_its_own(name: str, stack: LocalStack, everything: Application) -> None:
    function = everything.functions[name]
    cold, _ = invoke(stack, function, of_another_role(list(function.statements)))
    assert "dynamodb:LeadingKeys" in json.dumps(cold.payload) + cold.log
