"""README: its code runs, its templates pass the linter, its tables are whole."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cfnlint import decode, lint

import cerberus_auth
from cerberus_auth import CerberusAuth, CerberusError, settings
from local_stack.stack import ROLE, LocalStack

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
HEADER = "AWSTemplateFormatVersion: '2010-09-09'\nTransform: AWS::Serverless-2016-10-31\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


class Context:
    """What Lambda hands a handler, as far as it is used."""

    def get_remaining_time_in_millis(self) -> int:
        return 3000


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run_as_they_stand(
    block: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with LocalStack() as stack:
        for name, value in stack.environment(ROLE).items():
            monkeypatch.setenv(name, value)
        module: dict[str, Any] = {}
        exec(compile(block, "README.md", "exec"), module)  # noqa: S102  (the very example)
        answer = module["handler"]({}, Context())
        CerberusAuth().close()  # which shares its connections
    assert answer["user"] == "orders"
    if "status" in answer:
        assert (answer["status"], answer["names"]) == (200, ["db"])
        assert capsys.readouterr().out == "SecretNotFound\n"


@pytest.mark.parametrize("block", [block for block in blocks("yaml") if "AWS::Serverless::Application" not in block])
def test_templates_pass_the_linter(block: str) -> None:
    template = HEADER + block.replace("functions/orders/", "functions/read_secret/")
    assert lint(template) == []


def test_the_nested_stack_names_parameters_and_outputs_that_there_are() -> None:
    ours = decode.cfn_yaml.load(str(Path(__file__).parents[2] / "template.yaml"))
    (block,) = [block for block in blocks("yaml") if "AWS::Serverless::Application" in block]
    nested = decode.cfn_yaml.loads(block)["Resources"]["Cerberus"]["Properties"]
    assert set(nested["Parameters"]) <= set(ours["Parameters"])
    assert set(re.findall(r"Cerberus\.Outputs\.(\w+)", block)) <= set(ours["Outputs"])


def test_json_blocks_are_json() -> None:
    for block in blocks("json"):
        assert json.loads(block)


def test_the_settings_table_is_whole() -> None:
    table = set(
        re.findall(r"`(CERBERUS_\w+)`", "\n".join(line for line in README.splitlines() if line.startswith("| `")))
    )
    source = inspect.getsource(settings)
    assert table == set(re.findall(r'"(CERBERUS_\w+)"', source))


def test_the_errors_table_is_whole() -> None:
    classes = {
        name
        for name in cerberus_auth.__all__
        if isinstance(value := getattr(cerberus_auth, name), type) and issubclass(value, CerberusError)
    }
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) >= classes - {
        "CerberusError",
        "AuthenticationFailed",
    }
