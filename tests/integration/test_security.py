"""SECURITY.md: every claim names a test that there is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
CLAIMS = [
    line for line in SECURITY.splitlines() if line.startswith("| ") and "shown by" not in line and "---" not in line
]


def test_every_claim_names_a_test_that_there_is() -> None:
    assert len(CLAIMS) > 15
    for claim in CLAIMS:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", claim)
        assert named, claim
        for file, name in named:
            (found,) = (
                ROOT.glob(f"tests/*/{file}") if file != "test_powertools.py" else [ROOT / "tests" / "end_to_end" / file]
            )
            assert re.search(rf"^ *def {name}\(", found.read_text(), re.MULTILINE), f"{file}::{name}"


def test_as_many_bad_inputs_are_tried_as_it_says() -> None:
    stated = {
        (file, name): int(count)
        for count, file, name in re.findall(
            r"^\| [^|]+ \| (\d+) \|.*`(test_\w+\.py)::(test_\w+)`", SECURITY, re.MULTILINE
        )
    }
    assert len(stated) > 15
    files = {str(path) for file, _ in stated for path in ROOT.glob(f"tests/*/{file}")}
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *sorted(files)]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    tried = Counter(re.findall(r"(test_\w+\.py)::(test_\w+)", listed))
    assert {key: count for key, count in stated.items() if tried[key] < count} == {}


def test_what_is_shipped_is_listed_with_its_licence() -> None:
    _, shipped = SECURITY.split("## What is shipped")
    stated = dict(re.findall(r"([\w-]+)\s\(([\w.-]+)\)", shipped))
    packed: dict[str, str] = {}
    for bom in ROOT.glob("build/*/python/*.dist-info/sboms/*.json"):
        for component in json.loads(bom.read_text())["components"]:
            (licence,) = component["licenses"]
            given = licence.get("expression") or licence["license"]["name"]
            packed[component["name"].replace("_", "-")] = given.replace("Apache License 2.0", "Apache-2.0")
    del packed["cerberus-auth"]
    assert stated == packed
