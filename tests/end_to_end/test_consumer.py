"""Another stack that takes the layers: its template is sound, and its function works with them and with what they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cfnlint import decode, lint

from local_stack.application import Application
from local_stack.runtime import LambdaRuntime
from local_stack.stack import ROLE, SECRET, SECRET_PATH, LocalStack, decrypt_statement

ROOT = Path(__file__).resolve().parents[2]
CONSUMER = ROOT / "tests" / "consumer"
TEMPLATE: dict[str, Any] = decode.cfn_yaml.load(str(CONSUMER / "template.yaml"))
OURS: dict[str, Any] = decode.cfn_yaml.load(str(ROOT / "template.yaml"))


def test_the_template_is_sound() -> None:
    assert lint((CONSUMER / "template.yaml").read_text()) == []


def test_it_uses_the_layers_by_their_names() -> None:
    names = [
        resource["Properties"]["LayerName"]
        for resource in OURS["Resources"].values()
        if resource["Type"] == "AWS::Serverless::LayerVersion"
    ]
    used = TEMPLATE["Resources"]["OrdersFunction"]["Properties"]["Layers"]
    assert [arn.split(":")[-2] for arn in used] == names


def test_its_function_reads_a_secret(stack: LocalStack, application: Application) -> None:
    properties = TEMPLATE["Resources"]["OrdersFunction"]["Properties"]
    (policy,) = properties["Policies"]
    resource = policy["Statement"][0]["Resource"]["Fn::Sub"]
    values = {
        "${AWS::Partition}": "aws",
        "${CerberusAccountId}": TEMPLATE["Parameters"]["CerberusAccountId"]["Default"],
    }
    for name, value in values.items():
        resource = resource.replace(name, value)
    assert [{**policy["Statement"][0], "Resource": resource}] == [decrypt_statement()]

    variables = {
        name: value for name, value in properties["Environment"]["Variables"].items() if isinstance(value, str)
    }
    layers = application.functions["ProcessOrdersFunction"].layers  # both of them, as their own stack builds them
    artifact = CONSUMER / properties["CodeUri"]
    environment = {**variables, **stack.environment(ROLE)}
    with LambdaRuntime(artifact, properties["Handler"], layers, environment) as container:
        answers = [container.invoke({"path": SECRET_PATH}) for _ in range(3)]
    assert [answer.payload for answer in answers] == [{"user": SECRET["username"]}] * 3
    assert stack.cerberus.authentications == 1
    assert SECRET["password"] not in container.log
    lines = [line for answer in answers for line in answer.log.splitlines() if "CloudWatchMetrics" in line]
    measured = [json.loads(line) for line in lines if "CerberusRequests" not in line]
    assert [("CerberusAuthentications" in each, "CerberusTokenCacheHits" in each) for each in measured] == [
        (True, False),
        (False, True),
        (False, True),
    ]
