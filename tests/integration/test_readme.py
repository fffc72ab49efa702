"""README: its code runs, its templates pass the linter, its tables are whole."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cfnlint import decode, lint

import cerberus_auth
from cerberus_auth import CerberusAuth, CerberusClient, CerberusError, settings
from integration.users_tests import run_users_tests
from local_stack.stack import ROLE, LocalStack

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HEADER = "AWSTemplateFormatVersion: '2010-09-09'\nTransform: AWS::Serverless-2016-10-31\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


class Context:
    """What Lambda hands a handler, as far as it is used."""

    function_name = memory_limit_in_mb = invoked_function_arn = aws_request_id = "1"

    def get_remaining_time_in_millis(self) -> int:
        return 3000


@pytest.mark.parametrize("block", [block for block in blocks("python") if "def handler" in block])
def test_python_blocks_run_as_they_stand(
    block: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("cerberus_auth")  # the example gives it handlers of its own
    for name, value in {"handlers": [], "level": log.level, "propagate": log.propagate}.items():
        monkeypatch.setattr(log, name, value)
    with LocalStack() as stack:
        for name, value in stack.environment(ROLE).items():
            monkeypatch.setenv(name, value)
        module: dict[str, Any] = {}
        exec(compile(block, "README.md", "exec"), module)  # noqa: S102  (the very example)
        answer = module["handler"]({}, Context())
        CerberusAuth().close()  # which shares its connections
        if isinstance(client := module.get("client"), CerberusClient):  # that of settings of its own
            client._auth.close()
    assert answer["user"] == "orders"
    assert answer.get("same", True)
    assert answer.get("keys", ["db"]) == ["db"]
    if "status" in answer:
        assert (answer["status"], answer["names"]) == (200, ["db"])
        assert capsys.readouterr().out == "SecretNotFound\n"


@pytest.mark.parametrize("block", [block for block in blocks("yaml") if "AWS::Serverless::Application" not in block])
def test_templates_pass_the_linter(block: str) -> None:
    template = HEADER + block.replace("functions/orders/", "functions/read_secret/")
    assert lint(template) == []


def test_the_nested_stack_names_parameters_and_outputs_that_there_are() -> None:
    ours = decode.cfn_yaml.load(str(ROOT / "template.yaml"))
    (block,) = [block for block in blocks("yaml") if "AWS::Serverless::Application" in block]
    nested = decode.cfn_yaml.loads(block)["Resources"]["Cerberus"]["Properties"]
    assert set(nested["Parameters"]) <= set(ours["Parameters"])
    assert set(re.findall(r"Cerberus\.Outputs\.(\w+)", block)) <= set(ours["Outputs"])


def test_the_tests_of_a_user_pass_as_they_stand(tmp_path: Path) -> None:
    app, *_ = blocks("python")
    (tests,) = [block for block in blocks("python") if "def handler" not in block]
    done = run_users_tests(tmp_path, app, tests)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_the_doctor_says_what_readme_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (command,) = blocks("sh")
    (shown,) = blocks("text")
    with LocalStack() as stack:
        policy = {"Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"}
        stack.aws.put_role_policy(ROLE, {"Version": "2012-10-17", "Statement": [policy]})
        environment = {**stack.environment(ROLE), "PYTHONPATH": str(ROOT / "layer"), "PATH": os.environ["PATH"]}
        arguments = [sys.executable, *shlex.split(command)[1:]]
        done = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1

    def same(text: str) -> list[str]:
        """What does not change from run to run, as far as README shows a line."""
        rows = [re.sub(r"\d+ ms|:\d{5}\b", "", row).replace(" " * 7, " ") for row in text.splitlines()]
        return [" ".join(row.split())[:100] for row in rows]

    assert same(done.stdout) == same(shown)


def test_the_image_is_made_of_what_the_build_leaves() -> None:
    (block,) = blocks("dockerfile")
    version = re.findall(r"^FROM .*python:(3\.\d+)$", block, re.MULTILINE)[0].replace(".", "")
    copied = dict(re.findall(r"^COPY (\S+) (\S+)$", block, re.MULTILINE))
    assert copied == {"build/layer/python/": "/opt/python/", "functions/nightly_report/": "${LAMBDA_TASK_ROOT}/"}
    assert all((ROOT / source).is_dir() for source in copied)
    assert (ROOT / "build/layer/python/cerberus_auth/__pycache__" / f"auth.cpython-{version}.pyc").exists()
    module, _, name = re.findall(r'^CMD \["(.*)"\]$', block, re.MULTILINE)[0].partition(".")
    assert f"def {name}(" in (ROOT / "functions" / "nightly_report" / f"{module}.py").read_text()


def test_every_block_is_of_a_kind_that_a_test_takes() -> None:
    kinds = set(re.findall(r"^```(\w+)$", README, re.MULTILINE))
    assert kinds == {"python", "yaml", "json", "sh", "text", "dockerfile", "mermaid"}


def test_the_versions_of_guests_are_those_that_were_run() -> None:
    for name, ours, oldest, newest in re.findall(
        r"^\| (requests|urllib3|cachetools|Powertools)[^|]*\| (\S+) \| (\S+) \| (\S+) \|$", README, re.MULTILINE
    ):
        package = {"Powertools": "aws-lambda-powertools"}.get(name, name)
        layer = ROOT / "layer" / ("requirements-powertools.txt" if name == "Powertools" else "requirements.txt")
        guests = [ROOT / "tests" / "requirements" / f"guests-{age}.txt" for age in ("old", "new")]
        pins = [re.findall(rf"^{package}==(\S+)", file.read_text(), re.MULTILINE) for file in (layer, *guests)]
        assert pins == [[ours], [oldest], [newest]]


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
