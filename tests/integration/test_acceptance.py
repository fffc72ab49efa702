"""The acceptance suite: it passes against the stand-in, only reads, says what is wrong, and asks little."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from acceptance.__main__ import main
from cerberus_auth.testing.http_server import Fault
from integration.function import Function
from local_stack.stack import SECRET, SECRET_PATH

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def against_the_stack(function: Function, monkeypatch: pytest.MonkeyPatch) -> Function:
    """The caller's variables name a Cerberus that is not the suite's own."""
    monkeypatch.setenv("ACCEPTANCE_SECRET", SECRET_PATH)
    return function


def failed_rows(output: str) -> set[str]:
    return {re.split(r"  +", row)[0] for row in output.splitlines() if row.endswith("FAILED") and "  " in row}


def test_all_is_well(against_the_stack: Function, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert output.endswith("\nAll ok\n")
    assert len(re.findall(" ok$", output, re.MULTILINE)) >= 25
    assert all(len(row) <= 100 for row in output.splitlines())
    assert not against_the_stack.secrets_in(output)
    assert SECRET["password"] not in output


def test_it_only_reads_and_stays_far_below_the_rule_of_thumb(against_the_stack: Function) -> None:
    main([])
    calls = against_the_stack.stack.cerberus.calls
    assert len(calls) <= 35
    assert {(call.method, "/auth/" in call.path) for call in calls} == {("GET", False), ("POST", True)}


def test_a_service_with_sts_alone(against_the_stack: Function) -> None:
    """As version 4 is by default."""
    against_the_stack.stack.cerberus.kms_enabled = False
    assert main([]) == 0


def test_what_differs_is_shown(against_the_stack: Function, capsys: pytest.CaptureFixture[str]) -> None:
    faults = against_the_stack.stack.cerberus.server.faults
    faults.add(Fault.html(200), lambda request: request.path == "/healthcheck", times=None)
    faults.add(Fault.status(404), lambda request: request.query.get("list") == "true", times=None)
    assert main([]) == 1
    output = capsys.readouterr().out
    assert failed_rows(output) == {"GET /healthcheck", "list(box)", "GET the list of a missing path"}
    assert output.endswith("\n3 FAILED\n")


def test_a_service_without_its_database(against_the_stack: Function, capsys: pytest.CaptureFixture[str]) -> None:
    against_the_stack.configure(CERBERUS_MAX_ATTEMPTS="1")
    against_the_stack.during(against_the_stack.stack.cerberus.database_down())
    assert main([]) == 1
    assert {"GET /healthcheck", "token()", "read(secret)"} <= failed_rows(capsys.readouterr().out)


@pytest.mark.parametrize("secret", ["", "app", "app/orders", "app/payments/db"])
def test_it_needs_a_secret(
    against_the_stack: Function, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], secret: str
) -> None:
    monkeypatch.setenv("ACCEPTANCE_SECRET", secret)
    monkeypatch.setenv("ACCEPTANCE_BOX", "app/orders")
    assert main([]) == 2
    assert "ACCEPTANCE_SECRET" in capsys.readouterr().err
    assert not against_the_stack.stack.cerberus.calls


def test_settings_that_are_wrong(against_the_stack: Function, capsys: pytest.CaptureFixture[str]) -> None:
    against_the_stack.configure(CERBERUS_URL="http://cerberus.example.com")
    assert main([]) == 2
    assert "CERBERUS_URL" in capsys.readouterr().err


def test_by_default_it_runs_against_the_local_stack() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CERBERUS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "acceptance"],
        env=environment | {"PYTHONPATH": f"{ROOT / 'layer'}:{ROOT / 'tests'}", "AWS_PROFILE": "of-the-caller"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("CERBERUS_URL is not set: running against the local stack.")
