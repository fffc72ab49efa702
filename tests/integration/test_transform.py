"""What CloudFormation sees of our templates: SAM's own transform, of the SAM CLI's environment, turns them into that."""

from __future__ import annotations

import atexit
import copy
import functools
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cfnlint import decode

ROOT = Path(__file__).resolve().parents[2]
SAM_PYTHON = ROOT / ".venv-sam" / "bin" / "python"
PARAMETERS = {"CerberusUrl": "https://cerberus.example.com", "CerberusAccountId": "222222222222"}
LAYER = "arn:aws:lambda:us-west-2:111111111111:layer:cerberus-auth:{}"

Template = dict[str, Any]


@functools.cache
def transformer() -> subprocess.Popen[str]:
    """One process for all tests: to import the transform takes longer than to use it. It ends with this process."""
    if not SAM_PYTHON.exists():
        pytest.fail("These tests need what `make setup` makes.", pytrace=False)
    process = subprocess.Popen(
        [SAM_PYTHON, Path(__file__).with_name("sam_transform.py")],
        env={**os.environ, "AWS_DEFAULT_REGION": "us-west-2"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # errors come as results
        text=True,
    )
    atexit.register(process.communicate)
    atexit.register(process.terminate)
    return process


def transformed(template: Template, parameters: Mapping[str, str] | None = None) -> Template:
    process = transformer()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"template": template, "parameters": dict(parameters or {})}) + "\n")
    process.stdin.flush()
    result: Template = json.loads(process.stdout.readline())
    assert "Resources" in result, result
    return result


@functools.cache
def load(path: str) -> Template:
    template: Template = json.loads(json.dumps(decode.cfn_yaml.load(str(ROOT / path))))
    return template


@functools.cache
def deployed() -> Template:
    resources: Template = transformed(load("template.yaml"), PARAMETERS)["Resources"]
    return resources


def of_kind(kind: str, resources: Template) -> dict[str, Template]:
    return {name: each for name, each in resources.items() if each["Type"] == kind}


# template.yaml


def test_the_schedule_has_no_name_that_a_second_stack_would_want_too() -> None:
    (schedule,) = of_kind("AWS::Scheduler::Schedule", deployed()).values()
    assert "Name" not in schedule["Properties"]


@pytest.mark.parametrize(
    "kind",
    [
        "AWS::Lambda::Function",
        "AWS::IAM::Role",
        "AWS::IAM::ManagedPolicy",
        "AWS::SQS::Queue",
        "AWS::DynamoDB::Table",
        "AWS::CloudWatch::Alarm",
    ],
)
def test_nothing_else_has_a_fixed_name_either(kind: str) -> None:
    found = of_kind(kind, deployed())
    assert found
    fixed = [
        name
        for name, each in found.items()
        for key, value in each.get("Properties", {}).items()
        if key.endswith("Name") and key != "MetricName" and isinstance(value, str)
    ]
    assert fixed == []


def test_every_function_is_traced_and_may_send_its_traces() -> None:
    for name, function in of_kind("AWS::Lambda::Function", deployed()).items():
        assert function["Properties"]["TracingConfig"] == {"Mode": "Active"}
        managed = deployed()[f"{name}Role"]["Properties"]["ManagedPolicyArns"]
        assert any("xray" in json.dumps(arn).lower() for arn in managed)


def test_every_role_gets_the_policy_of_the_shared_cache_where_there_is_one() -> None:
    attached = {"Fn::If": ["HasSharedCache", {"Ref": "SharedCachePolicy"}, {"Ref": "AWS::NoValue"}]}
    for name in of_kind("AWS::Lambda::Function", deployed()):
        assert attached in deployed()[f"{name}Role"]["Properties"]["ManagedPolicyArns"]


def test_a_function_takes_our_powertools_layer_or_the_one_that_is_named() -> None:
    (ours,) = [name for name in of_kind("AWS::Lambda::LayerVersion", deployed()) if name.startswith("PowertoolsLayer")]
    assert deployed()[ours]["Condition"] == "BuildsPowertools"
    layer = deployed()["ReadSecretFunction"]["Properties"]["Layers"][-1]
    assert layer == {"Fn::If": ["BuildsPowertools", {"Ref": ours}, {"Ref": "PowertoolsLayerArn"}]}


# A new version of the layer, and a function with an alias


def versions(template: Template, parameters: Mapping[str, str] | None = None) -> set[str]:
    """The logical IDs of the function versions: CloudFormation publishes a version when there is a new ID."""
    return set(of_kind("AWS::Lambda::Version", transformed(template, parameters)["Resources"]))


def with_layer(layer: object, **properties: object) -> Template:
    template = copy.deepcopy(load("tests/consumer/template.yaml"))
    template["Resources"]["OrdersFunction"]["Properties"].update({"Layers": [layer], **properties})
    return template


def test_a_new_layer_version_reaches_the_consumer() -> None:
    before, after = with_layer(LAYER.format(1)), with_layer(LAYER.format(2))
    assert versions(before) == versions(copy.deepcopy(before))
    assert versions(before).isdisjoint(versions(after))


def test_its_old_versions_are_deleted() -> None:
    (version,) = of_kind(
        "AWS::Lambda::Version", transformed(load("tests/consumer/template.yaml"))["Resources"]
    ).values()
    assert version["DeletionPolicy"] == "Delete"


@pytest.mark.parametrize("kind", ["String", "AWS::SSM::Parameter::Value<String>"])
def test_the_value_of_a_parameter_does_not(kind: str) -> None:
    """Why docs/guides/ci-cd-and-upgrading.md says so. If SAM changes this, that page can be made simpler."""
    template = with_layer({"Ref": "LayerArn"})
    template["Parameters"]["LayerArn"] = {"Type": kind}
    one, two = [versions(copy.deepcopy(template), {"LayerArn": LAYER.format(number)}) for number in (1, 2)]
    assert one == two


def test_nor_does_a_literal_arn_without_all_properties() -> None:
    one, two = [versions(with_layer(LAYER.format(number), AutoPublishAliasAllProperties=False)) for number in (1, 2)]
    assert one == two
