"""The main job: the sample functions, as built, in AWS's own runtime, get a Cerberus token as their execution roles."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cerberus_auth.testing.http_server import Fault, Request
from local_stack.application import Application
from local_stack.aws import Aws
from local_stack.runtime import ROOT, Invocation, LambdaRuntime
from local_stack.stack import ROLE, SECRET, SECRET_PATH, LocalStack, decrypt_statement

Start = Callable[..., LambdaRuntime]
KEEPING = ("ReadSecretFunction", "ProcessOrdersFunction")  # which read by CerberusClient
FUNCTIONS = (*KEEPING, "NightlyReportFunction")


def authentications(stack: LocalStack) -> list[Mapping[str, Any] | None]:
    """What was posted to authenticate, by whatever method."""
    return [call.body for call in stack.cerberus.calls if "/auth/" in call.path]


def aws_calls(stack: LocalStack) -> list[str]:
    """What the functions called on AWS; the stand-in's own calls come from another account."""
    return [f"{call.service}:{call.action}" for call in stack.aws.calls if call.account == Aws.FUNCTION_ACCOUNT]


def observe(stack: LocalStack, look: Callable[[Request], None]) -> None:
    """Have each request to Cerberus looked at before it is answered."""

    def never(request: Request) -> bool:
        look(request)
        return False

    stack.cerberus.server.faults.add(Fault.empty(), when=never, times=None)


def payload(invocation: Invocation) -> dict[str, Any]:
    """The answer of an invocation that did not fail."""
    assert invocation.error is None, invocation.log
    assert isinstance(invocation.payload, dict)
    return invocation.payload


def test_the_template_has_the_samples_and_each_has_an_event(application: Application) -> None:
    assert set(application.functions) == set(FUNCTIONS)
    for function in application.functions.values():
        assert function.events


@pytest.mark.parametrize("name", FUNCTIONS)
def test_twenty_invocations_cost_one_authentication_and_one_decrypt(
    name: str, start: Start, stack: LocalStack, application: Application
) -> None:
    event = application.functions[name].event()
    container = start(name, role=ROLE, CERBERUS_MAX_AGE="0")
    for _ in range(20):
        payload(container.invoke(event))
    assert authentications(stack) == [{"iam_principal_arn": ROLE, "region": stack.region}]
    assert aws_calls(stack) == ["kms:Decrypt"]
    assert stack.cerberus.count(f"/v1/secret/{SECRET_PATH}") >= 20

    second = start(name, role=ROLE, CERBERUS_MAX_AGE="0")
    for _ in range(2):
        payload(second.invoke(event))
    assert len(authentications(stack)) == 2
    assert aws_calls(stack) == ["kms:Decrypt"] * 2


@pytest.mark.parametrize("name", KEEPING)
def test_twenty_invocations_cost_one_read(name: str, start: Start, stack: LocalStack, application: Application) -> None:
    event = application.functions[name].event()
    container = start(name, role=ROLE)
    answers = [payload(container.invoke(event)) for _ in range(10)]
    stack.cerberus.revoke()  # noticed at the next read that reaches Cerberus
    answers += [payload(container.invoke(event)) for _ in range(10)]
    assert answers == [answers[0]] * 20
    assert authentications(stack) == [{"iam_principal_arn": ROLE, "region": stack.region}]
    assert aws_calls(stack) == ["kms:Decrypt"]
    assert stack.cerberus.count(f"/v1/secret/{SECRET_PATH}") == 1


def test_initialization_makes_no_call(start: Start, stack: LocalStack) -> None:
    container = start("ReadSecretFunction")
    # An event that it does not route: initialized, but the secret is not read.
    container.invoke({**read_event(), "rawPath": "/nothing-here"})
    assert container.init_milliseconds is not None
    assert stack.cerberus.calls == []
    assert aws_calls(stack) == []


def test_samples_say_what_they_read(start: Start, application: Application) -> None:
    answers = {name: payload(start(name).invoke(application.functions[name].event())) for name in FUNCTIONS}
    assert answers["ReadSecretFunction"]["statusCode"] == 200
    body = json.loads(answers["ReadSecretFunction"]["body"])
    assert body == {"username": SECRET["username"], "fields": sorted(SECRET)}
    assert answers["ProcessOrdersFunction"] == {"batchItemFailures": []}
    assert answers["NightlyReportFunction"] == {"secrets": 1, "fields": len(SECRET)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_neither_answer_nor_log_holds_a_password_a_token_or_a_credential(
    name: str, start: Start, stack: LocalStack, application: Application
) -> None:
    tokens: set[str] = set()
    observe(stack, lambda request: tokens.update(request.headers.get_all("X-Cerberus-Token", [])))
    container = start(name, CERBERUS_MAX_AGE="0")
    invocations = [container.invoke(application.functions[name].event())]
    stack.cerberus.revoke()
    invocations.append(container.invoke(application.functions[name].event()))
    stack.cerberus.server.stop_listening()
    invocations.append(container.invoke(application.functions[name].event()))
    container.close()
    assert len(tokens) == 2
    written = container.log + "".join(json.dumps(invocation.payload) for invocation in invocations)
    credentials = (container.environment[f"AWS_{name}"] for name in ("SECRET_ACCESS_KEY", "SESSION_TOKEN"))
    for secret in (SECRET["password"], *tokens, *credentials):
        assert secret not in written


def test_a_token_revoked_in_mid_batch_costs_one_authentication_and_no_record(
    start: Start, stack: LocalStack, application: Application
) -> None:
    container = start("ProcessOrdersFunction", CERBERUS_MAX_AGE="0")
    event = application.functions["ProcessOrdersFunction"].event()
    assert payload(container.invoke(event)) == {"batchItemFailures": []}
    assert len(authentications(stack)) == 1
    reads = 0

    def revoke_before_the_second_read(request: Request) -> None:
        nonlocal reads
        if request.path.startswith("/v1/secret/"):
            reads += 1
            if reads == 2:
                stack.cerberus.revoke()

    observe(stack, revoke_before_the_second_read)
    assert payload(container.invoke(event)) == {"batchItemFailures": []}
    assert len(authentications(stack)) == 2
    refused = [call for call in stack.cerberus.calls if call.status == 401]
    assert len(refused) == 1
    assert aws_calls(stack) == ["kms:Decrypt"] * 2


def test_a_malformed_order_fails_by_itself(start: Start, stack: LocalStack) -> None:
    event = json.loads((ROOT / "events" / "malformed_order.json").read_text())
    malformed = []
    for record in event["Records"]:
        try:
            json.loads(record["body"])
        except ValueError:
            malformed.append({"itemIdentifier": record["messageId"]})
    assert 0 < len(malformed) < len(event["Records"])
    invocation = start("ProcessOrdersFunction").invoke(event)
    assert payload(invocation) == {"batchItemFailures": malformed}
    assert len(authentications(stack)) == 1
    assert "Order failed" in invocation.log


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    "statements", [[decrypt_statement("333333333333")], []], ids=["another account", "no statement"]
)
def test_without_the_right_policy_the_error_names_the_statement(
    name: str, statements: list[dict[str, Any]], start: Start, stack: LocalStack, application: Application
) -> None:
    container = start(name, statements=statements)
    invocation = container.invoke(application.functions[name].event())
    container.close()
    if name == "ReadSecretFunction":
        assert payload(invocation)["statusCode"] == 503
    else:
        assert invocation.error is not None
    assert "DecryptionDenied" in container.log
    assert "kms:Decrypt" in container.log
    assert re.search(rf"arn:aws:kms:[^:]*:{Aws.CERBERUS_ACCOUNT}:key/", container.log)
    assert len(authentications(stack)) == 1


def test_the_policy_in_the_template_is_the_least(application: Application) -> None:
    for function in application.functions.values():
        *others, statement = function.statements
        assert statement == decrypt_statement()
        assert [each["Action"] for each in others] == ["sqs:ChangeMessageVisibility"] * (
            function.name == "ProcessOrdersFunction"
        )


def test_the_role_is_discovered_where_it_is_not_set(start: Start, stack: LocalStack) -> None:
    container = start("ReadSecretFunction", role=ROLE, CERBERUS_IAM_ROLE_ARN="")
    for _ in range(3):
        assert payload(container.invoke(read_event()))["statusCode"] == 200
    assert authentications(stack) == [{"iam_principal_arn": ROLE, "region": stack.region}]
    assert aws_calls(stack) == ["sts:GetCallerIdentity", "kms:Decrypt"]


def test_no_byte_code_is_written_into_the_artifacts(start: Start, application: Application) -> None:
    function = application.functions["ReadSecretFunction"]
    folders = (function.artifact, *function.layers)

    def byte_code() -> set[Path]:
        return {file for folder in folders for file in folder.rglob("*.pyc")}

    before = byte_code()
    payload(start("ReadSecretFunction").invoke(read_event()))
    assert byte_code() == before


def read_event() -> Any:
    return json.loads((ROOT / "events" / "read_secret.json").read_text())


@pytest.mark.parametrize("name", ["ReadSecretFunction", "NightlyReportFunction"])
def test_with_the_shared_cache_two_containers_authenticate_once(
    stack: LocalStack, everything: Application, name: str
) -> None:
    """Under the template's own policies, on its own table, with its own key."""
    function = everything.functions[name]
    stack.create_table(function.environment["CERBERUS_SHARED_CACHE_TABLE"])
    stack.create_role(function.role_arn, function.statements)
    environment = {**function.environment, **stack.environment(function.role_arn)}
    for _ in range(2):
        with LambdaRuntime(function.artifact, function.handler, function.layers, environment) as container:
            invocation = container.invoke(function.event())
        assert invocation.error is None
        assert "cannot be used" not in invocation.log
    assert stack.cerberus.authentications == 1
    assert stack.cerberus.count(f"/v1/secret/{SECRET_PATH}") == (1 if name in KEEPING else 2)


def test_without_the_shared_cache_the_template_tells_of_no_table(application: Application) -> None:
    assert {function.environment["CERBERUS_SHARED_CACHE_TABLE"] for function in application.functions.values()} == {""}


def test_the_orders_function_measures_its_authentications(start: Start, application: Application) -> None:
    container = start("ProcessOrdersFunction")
    measured = []
    for _ in range(2):
        lines = container.invoke(application.functions["ProcessOrdersFunction"].event()).log.splitlines()
        emf = [json.loads(line) for line in lines if '"CloudWatchMetrics"' in line]
        assert {each["service"] for each in emf} == {"process_orders"}
        requests = {each["Operation"]: each["CerberusRequests"] for each in emf if "Operation" in each}
        (others,) = [{name for name in each if name.startswith("Cerberus")} for each in emf if "Operation" not in each]
        measured.append((requests, others))
    assert measured[0][0] == {"auth": [1.0], "read": [1.0]}
    assert "CerberusAuthentications" in measured[0][1]
    assert measured[1] == ({}, {"CerberusTokenCacheHits"})  # the secret is kept


def test_the_diagnose_function_tells_what_mends_its_set_up(stack: LocalStack, everything: Application) -> None:
    """Under the template's own policies; then without the one that decrypts."""
    function = everything.functions["DiagnoseFunction"]
    stack.create_table(function.environment["CERBERUS_SHARED_CACHE_TABLE"])
    stack.create_role(function.role_arn, function.statements)
    environment = {**function.environment, **stack.environment(function.role_arn)}
    with LambdaRuntime(function.artifact, function.handler, function.layers, environment) as container:
        well = payload(container.invoke(function.event()))
        sharing = [each for each in function.statements if each != decrypt_statement()]
        stack.aws.put_role_policy(function.role_arn, {"Version": "2012-10-17", "Statement": sharing})
        ill = container.invoke(function.event())
    assert {each["status"] for each in well["findings"]} == {"ok"}
    (failed,) = [each for each in payload(ill)["findings"] if each["status"] == "FAILED"]
    assert failed["step"] == "kms:Decrypt"
    assert json.loads(failed["fix"][0]) == decrypt_statement()
    assert "FAILED  kms:Decrypt" in ill.log
    assert SECRET["password"] not in container.log + json.dumps(well)
