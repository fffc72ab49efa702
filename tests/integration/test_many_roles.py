"""docs/examples/many-roles.yaml: functions with an execution role each, real processes, that read as one reader role."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cfnlint import decode, lint

from integration.fleet import CERBERUS_SECONDS, Fleet
from local_stack.application import PARAMETERS
from local_stack.aws import Aws
from local_stack.stack import TABLE, LocalStack

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "many-roles.yaml"
ACCOUNT = f"arn:aws:iam::{Aws.FUNCTION_ACCOUNT}"
READER = f"{ACCOUNT}:role/ReaderRole"
CONTAINERS = 3  # of each function
GUIDE = EXAMPLE.parents[1] / "guides" / "many-roles.md"

Json = dict[str, Any]


class Example:
    """The template, with its references resolved.

    Parameters
    ----------
    values
        Of parameters, resources and attributes, by name.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        template = decode.cfn_yaml.load(str(EXAMPLE))
        self.resources: dict[str, Json] = self._resolved(template["Resources"])
        self.function: Json = self._resolved(template["Globals"]["Function"])

    @property
    def functions(self) -> dict[str, Json]:
        return {
            name: self.function | each["Properties"]
            for name, each in self.resources.items()
            if each["Type"] == "AWS::Serverless::Function"
        }

    def properties(self, name: str) -> Json:
        found: Json = self.resources[name]["Properties"]
        return found

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._resolved(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "Ref" in value:
            return self._values[value["Ref"]]
        if "Fn::GetAtt" in value:
            return self._values[".".join(value["Fn::GetAtt"])]
        if "Fn::Sub" in value:
            return re.sub(r"\$\{([^}]+)\}", lambda match: self._values[match[1]], value["Fn::Sub"])
        return {name: self._resolved(each) for name, each in value.items()}


@pytest.fixture
def stack() -> Iterator[LocalStack]:
    with LocalStack(tls=False) as stack:
        stack.create_table()
        stack.cerberus.answer_after_seconds = CERBERUS_SECONDS
        yield stack


@pytest.fixture
def example(stack: LocalStack) -> Example:
    """The example, deployed."""
    kms = stack.aws.client("kms", stack.aws.account_credentials(Aws.FUNCTION_ACCOUNT), stack.region)
    key = kms.create_key()["KeyMetadata"]["Arn"]
    example = Example(
        {
            **PARAMETERS,
            "AWS::Partition": "aws",
            "AWS::AccountId": Aws.FUNCTION_ACCOUNT,
            "CerberusAuthLayerArn": "",
            "ReaderRole.Arn": READER,
            "SharedCacheTable": TABLE,
            "SharedCacheTable.Arn": f"arn:aws:dynamodb:{stack.region}:{Aws.FUNCTION_ACCOUNT}:table/{TABLE}",
            "SharedCacheKey.Arn": key,
        }
    )
    stack.aws.put_key_policy(key, example.properties("SharedCacheKey")["KeyPolicy"])
    kms.close()
    reader = example.properties("ReaderRole")
    (policy,) = reader["Policies"]
    stack.aws.create_role(READER, policy["PolicyDocument"], reader["AssumeRolePolicyDocument"])
    stack.cerberus.grant(READER)
    stack.cerberus.key_arn(READER, stack.region)  # so that every answer takes the same time
    for name, function in example.functions.items():
        statements = function["Policies"][0]["Statement"]
        stack.aws.create_role(role_of(name, function), {"Version": "2012-10-17", "Statement": statements})
    return example


def role_of(name: str, function: Json) -> str:
    return f"{ACCOUNT}:role{function['RolePath']}{name}"


def environment(stack: LocalStack, name: str, function: Json) -> dict[str, str]:
    """What Lambda sets for this function."""
    variables = stack.environment(role_of(name, function), AWS_LAMBDA_FUNCTION_NAME=name)
    del variables["CERBERUS_IAM_ROLE_ARN"]
    own: dict[str, str] = function["Environment"]["Variables"]
    return variables | own | {"CERBERUS_URL": stack.cerberus.url}


def run(environments: list[dict[str, str]]) -> tuple[set[str | None], list[str]]:
    """Get the tokens, then read the secret, in all containers at once. Return the tokens and what was logged."""
    tokens: set[str | None] = set()
    with contextlib.ExitStack() as fleets:
        started = [fleets.enter_context(Fleet(CONTAINERS, each, phases=2)) for each in environments]
        for _ in range(2):
            for fleet in started:
                fleet.start()
            for result in (result for fleet in started for result in fleet.results()):
                assert result.error is None
                tokens.add(result.token)
        return tokens, [fleet.log for fleet in started if fleet.log]


def test_the_linter_finds_nothing() -> None:
    assert lint(EXAMPLE.read_text()) == []


def test_functions_with_a_role_each_share_one_token_and_one_read(stack: LocalStack, example: Example) -> None:
    assert len(example.functions) == 2
    tokens, logs = run([environment(stack, name, function) for name, function in example.functions.items()])
    assert (len(tokens), logs) == (1, [])
    assert (stack.cerberus.authentications, stack.cerberus.count("/v1/secret/")) == (1, 1)


def test_without_the_reader_role_each_role_has_its_own(stack: LocalStack, example: Example) -> None:
    """The number to compare it with."""
    (policy,) = example.properties("ReaderRole")["Policies"]
    environments = []
    for name, function in example.functions.items():
        role = role_of(name, function)
        stack.aws.put_role_policy(role, policy["PolicyDocument"])
        stack.cerberus.grant(role)
        stack.cerberus.key_arn(role, stack.region)
        variables = environment(stack, name, function) | {"CERBERUS_IAM_ROLE_ARN": role}
        environments.append(variables | {"CERBERUS_ASSUME_ROLE_ARN": ""})
    tokens, logs = run(environments)
    assert (len(tokens), logs) == (2, [])
    assert (stack.cerberus.authentications, stack.cerberus.count("/v1/secret/")) == (2, 2)


def test_a_role_outside_the_path_cannot_read(stack: LocalStack, example: Example) -> None:
    (name, function), *_ = example.functions.items()
    other = f"{ACCOUNT}:role/other/Other{name}"
    stack.aws.create_role(other, {"Version": "2012-10-17", "Statement": function["Policies"][0]["Statement"]})
    credentials = stack.environment(other)
    own = {key: value for key, value in credentials.items() if key.startswith("AWS_")}
    with Fleet(1, environment(stack, name, function) | own) as fleet:
        (result,) = fleet.release()
    assert "ConfigurationError" in str(result.error)
    assert "trust policy" in str(result.error)
    assert stack.cerberus.authentications == 0


def test_the_table_and_the_key_are_those_of_the_template(example: Example) -> None:
    template = decode.cfn_yaml.load(str(EXAMPLE.parents[2] / "template.yaml"))["Resources"]
    ours = decode.cfn_yaml.load(str(EXAMPLE))["Resources"]
    for name in ("SharedCacheTable", "SharedCacheKey"):
        theirs = dict(template[name]["Properties"])
        assert {key: value for key, value in ours[name]["Properties"].items() if key != "Description"} == {
            key: value for key, value in theirs.items() if key != "Description"
        }
    shared = template["SharedCachePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    (policy,) = ours["ReaderRole"]["Properties"]["Policies"]
    assert policy["PolicyDocument"]["Statement"][1:] == shared


def test_the_guide_s_numbers_follow_its_formula() -> None:
    rows = re.findall(r"^\| ([\d,]+) \| (\d+) \| (\d+)[^|]* \| ([\d,]+) \|$", GUIDE.read_text(), re.MULTILINE)
    assert len(rows) >= 5
    for roles, secrets, max_age, requests in rows:
        expected = int(roles) * (1.3 + int(secrets) * 4000 / int(max_age))
        assert int(requests.replace(",", "")) == round(expected)
