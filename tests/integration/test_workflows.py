"""The workflows: what they run is there, and what they take from others is pinned. `make check` has zizmor read them too."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def commands(workflow: Path) -> list[str]:
    return [line.strip() for step in steps(workflow) for line in step.get("run", "").splitlines()]


def test_there_is_one_for_changes_and_one_for_releases() -> None:
    assert [workflow.stem for workflow in WORKFLOWS] == ["ci", "release"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_each_action_is_pinned_to_a_commit_and_says_its_version(workflow: Path) -> None:
    used = re.findall(r"uses: (.+)", workflow.read_text())
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)] == []


def test_the_same_action_is_the_same_commit_everywhere() -> None:
    used = {match for workflow in WORKFLOWS for match in re.findall(r"uses: (\S+)@(\S+)", workflow.read_text())}
    assert len({action for action, _ in used}) == len(used)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_it_calls_make_by_targets_that_there_are(workflow: Path) -> None:
    called = [command.split()[1] for command in commands(workflow) if command.startswith("make ")]
    assert "test" in called
    known = MAKEFILE.replace("$(VENV)", ".venv")
    assert [target for target in called if not re.search(rf"^{re.escape(target)}:", known, re.MULTILINE)] == []


def test_a_release_publishes_the_archives_that_it_built() -> None:
    layers = runpy.run_path(str(ROOT / "layer" / "publish.py"), run_name="publish")["LAYERS"]
    archives = [archive for archive, _ in layers.values()]
    assert all(f"build/{archive}" in MAKEFILE for archive in archives)  # which `make dist` copies
    (command,) = [each for each in commands(ROOT / ".github/workflows/release.yml") if "layer/publish.py" in each]
    assert "--build dist/layers" in command


@pytest.mark.parametrize(
    ("variables", "sharing"),
    [
        ({"ORGANIZATION": "o-a1b2c3d4e5"}, "--organization o-a1b2c3d4e5"),
        ({"PUBLIC": "1"}, "--public"),
        ({}, None),
        ({"PUBLIC": "0"}, None),
        ({"PUBLIC": "1", "ORGANIZATION": "o-a1b2c3d4e5"}, None),
    ],
    ids=str,
)
def test_a_release_makes_the_layers_public_only_if_told_to(
    variables: dict[str, str], sharing: str | None, tmp_path: Path
) -> None:
    release = ROOT / ".github/workflows/release.yml"
    (step,) = [step for step in steps(release) if "layer/publish.py" in step.get("run", "")]
    for name in ("make", ".venv/bin/python"):
        stub = tmp_path / name
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text('#!/bin/sh\necho "$0 $*" >> calls\n')
        stub.chmod(0o755)
    given = {name: "" for name in step["env"]} | {"REGIONS": "us-west-2"} | variables
    environment = {**given, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    # GitHub runs a script as `bash -e` unless the workflow says otherwise.
    ran = subprocess.run(
        ["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=10
    )
    calls = (tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else ""
    if sharing is None:
        assert ran.returncode
        assert "Set one variable of the environment aws: ORGANIZATION" in ran.stdout
        assert calls == ""
    else:
        assert (ran.returncode, ran.stderr) == (0, "")
        assert calls.rstrip().endswith(f"--output published.json {sharing}")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_its_scripts_are_shell(workflow: Path) -> None:
    bash = shutil.which("bash")
    assert bash
    for script in [step["run"] for step in steps(workflow) if "run" in step]:
        subprocess.run([bash, "-n"], input=script, text=True, check=True, capture_output=True, timeout=10)


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.stem
)
def test_an_issue_form_is_whole_and_asks_for_no_secret(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(content)
    first, *fields = content["body"]
    assert "Do not paste secrets" in first["attributes"]["value"]
    assert all(
        field["type"] in {"textarea", "input", "checkboxes"} and field["attributes"]["label"] for field in fields
    )
    assert len({field["id"] for field in fields}) == len(fields)
