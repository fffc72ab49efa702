"""Each function's policies and the key's, as the template has them: they let the flow through, and none can be spared."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local_stack.application import PARAMETERS, Application, Function
from local_stack.aws import Aws
from local_stack.runtime import Invocation, LambdaRuntime
from local_stack.stack import ROLE, SAFE_DEPOSIT_BOX, LocalStack

FUNCTIONS = ["ReadSecretFunction", "ProcessOrdersFunction", "NightlyReportFunction", "DiagnoseFunction"]
ACTIONS = ["kms:Decrypt", "dynamodb:GetItem", "dynamodb:PutItem"]
SEALING = ["kms:Encrypt", "kms:Decrypt"]
QUEUE = "sqs:ChangeMessageVisibility"
OTHER_ACCOUNT = "333333333333"

Statements = list[dict[str, Any]]


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


def on(resource: str, statements: Statements) -> Statements:
    """Those about this kind of resource."""
    return [each for each in statements if f":{resource}" in each["Resource"]]


def invoke(stack: LocalStack, function: Function, statements: Statements, **variables: str) -> Iterator[Invocation]:
    """The function, cold and then warm, under these statements alone."""
    stack.create_table(function.environment["CERBERUS_SHARED_CACHE_TABLE"])
    stack.create_role(function.role_arn, statements)
    environment = {**function.environment, **stack.environment(function.role_arn), **variables}
    with LambdaRuntime(function.artifact, function.handler, function.layers, environment) as container:
        for _ in range(2):
            yield container.invoke(function.event())


def failed(invocation: Invocation) -> bool:
    payload = invocation.payload if isinstance(invocation.payload, dict) else {}
    return bool(invocation.error or payload.get("statusCode", 200) != 200 or not payload.get("ok", True))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_its_policy_lets_the_flow_through(name: str, stack: LocalStack, everything: Application) -> None:
    function = everything.functions[name]
    own = [*ACTIONS, *SEALING, *([QUEUE] if name == "ProcessOrdersFunction" else [])]
    assert sorted(itertools.chain.from_iterable(map(actions, function.statements))) == sorted(own)
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
    of_others = json.dumps(function.statements).replace("${aws:PrincipalArn}", function.role_arn + "-2")
    cold, _ = invoke(stack, function, json.loads(of_others))
    assert "dynamodb:LeadingKeys" in json.dumps(cold.payload) + cold.log


# By STS: what Cerberus answers is sealed by the key.


@pytest.mark.parametrize("path", ["", "team/path/"])
def test_a_second_container_opens_what_the_first_sealed(path: str, stack: LocalStack, everything: Application) -> None:
    function = everything.functions["ReadSecretFunction"]
    function = dataclasses.replace(function, role_arn=function.role_arn.replace("role/", f"role/{path}"))
    stack.cerberus.grant(function.role_arn.replace(path, ""), SAFE_DEPOSIT_BOX)  # as STS names the role
    statements = [each for each in function.statements if each not in on(f"kms:*:{Aws.CERBERUS_ACCOUNT}", [each])]
    variables = {"CERBERUS_AUTH_METHOD": "sts"}
    for invocation in invoke(stack, function, statements, **variables):
        assert not failed(invocation), invocation.log
    environment = {**function.environment, **stack.environment(function.role_arn), **variables}
    with LambdaRuntime(function.artifact, function.handler, function.layers, environment) as second:
        assert not failed(second.invoke(function.event()))
    assert stack.cerberus.authentications == 1
    assert [stack.aws.count("kms", action, Aws.FUNCTION_ACCOUNT) for action in ("Encrypt", "Decrypt")] == [2, 1]
    assert stack.cerberus.count("/v1/secret/") == 1  # the secret is shared too, so the second container needs no token


@pytest.fixture
def sharing(everything: Application) -> Statements:
    """What the template lets every role do with the table and the key."""
    statements: Statements = everything.properties("SharedCachePolicy")["PolicyDocument"]["Statement"]
    return statements


def key_client(stack: LocalStack, role: str, statements: Statements) -> Any:
    stack.create_role(role, statements)
    return stack.aws.client("kms", stack.aws.assume(role))


@pytest.mark.parametrize("role", [ROLE + "-1", ROLE.replace("role/", "role/team/path/") + "-1"])
def test_a_role_uses_the_key_under_its_own_arn_alone(role: str, stack: LocalStack, sharing: Statements) -> None:
    kms, other = key_client(stack, role, sharing), key_client(stack, ROLE + "-2", sharing)
    (key,) = {each["Resource"] for each in on("kms", sharing)}
    own, others = {"principal": role, "url": "https://a"}, {"principal": ROLE + "-2", "url": "https://a"}
    sealed = kms.encrypt(KeyId=key, Plaintext=b"token", EncryptionContext=own)["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext=own)["Plaintext"] == b"token"
    refused: list[Callable[[], Any]] = [
        lambda: kms.encrypt(KeyId=key, Plaintext=b"token", EncryptionContext=others),
        lambda: kms.encrypt(KeyId=key, Plaintext=b"token"),
        lambda: other.decrypt(CiphertextBlob=sealed, EncryptionContext=own),
        lambda: kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=own),
    ]
    for call in refused:
        with pytest.raises(ClientError, match="AccessDenied"):
            call()


def test_no_other_policy_opens_the_seals(stack: LocalStack, sharing: Statements) -> None:
    kms = key_client(stack, ROLE + "-1", sharing)
    (key,) = {each["Resource"] for each in on("kms", sharing)}
    own = {"principal": ROLE + "-1"}
    sealed = kms.encrypt(KeyId=key, Plaintext=b"token", EncryptionContext=own)["CiphertextBlob"]
    mighty = key_client(stack, ROLE + "-mighty", [{"Effect": "Allow", "Action": "*", "Resource": "*"}])
    with pytest.raises(ClientError, match="AccessDenied"):
        mighty.decrypt(CiphertextBlob=sealed, EncryptionContext=own)
    with pytest.raises(ClientError, match="AccessDenied"):
        mighty.create_grant(KeyId=key, GranteePrincipal=ROLE + "-mighty", Operations=["Decrypt"])
    assert mighty.describe_key(KeyId=key)["KeyMetadata"]["Enabled"]  # the account manages it still


@pytest.mark.parametrize("action", SEALING)
def test_neither_action_on_the_key_can_be_spared(action: str, stack: LocalStack, sharing: Statements) -> None:
    role = ROLE + "-1"
    kms = key_client(stack, role, sharing)
    (key,) = {each["Resource"] for each in on("kms", sharing)}
    context = {"principal": role}
    sealed = kms.encrypt(KeyId=key, Plaintext=b"token", EncryptionContext=context)["CiphertextBlob"]
    policy = {"Version": "2012-10-17", "Statement": without(action, sharing)}
    stack.aws.put_role_policy(role, policy)
    calls: dict[str, Callable[[], Any]] = {
        "kms:Encrypt": lambda: kms.encrypt(KeyId=key, Plaintext=b"token", EncryptionContext=context),
        "kms:Decrypt": lambda: kms.decrypt(KeyId=key, CiphertextBlob=sealed, EncryptionContext=context),
    }
    with pytest.raises(ClientError, match="no identity-based policy allows"):
        calls.pop(action)()
    for call in calls.values():
        call()


def test_where_cerberus_runs_in_the_functions_own_account_its_other_ciphertexts_stay_closed(stack: LocalStack) -> None:
    """The account's default key policy leaves it to each role's policy, so ``key/*`` would open everything."""
    account = Aws.FUNCTION_ACCOUNT
    root = {"AWS": f"arn:aws:iam::{account}:root"}
    everybody = {"Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"}
    key = stack.aws.create_key({"Version": "2012-10-17", "Statement": [everybody]})
    administrator = stack.aws.client("kms", stack.aws.account_credentials(account))
    context = {"SecretARN": "arn:aws:secretsmanager:us-west-2:111111111111:secret:payments"}
    sealed = administrator.encrypt(KeyId=key, Plaintext=b"payments", EncryptionContext=context)["CiphertextBlob"]

    application = Application({**PARAMETERS, "CerberusAccountId": account})
    (statement,) = application.functions["ReadSecretFunction"].statements
    kms = key_client(stack, ROLE + "-1", [statement])
    with pytest.raises(ClientError, match="no identity-based policy allows"):
        kms.decrypt(CiphertextBlob=sealed, EncryptionContext=context)
    without_condition = {name: value for name, value in statement.items() if name != "Condition"}
    kms = key_client(stack, ROLE + "-2", [without_condition])
    assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext=context)["Plaintext"] == b"payments"
