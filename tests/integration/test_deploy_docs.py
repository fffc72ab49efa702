"""docs/deploy: templates pass the linter, scripts do what they say, numbers are computed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from cfnlint import decode, lint

from cerberus_auth.powertools.queue import visibility

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "deploy"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
HEADER = "AWSTemplateFormatVersion: '2010-09-09'\nTransform: AWS::Serverless-2016-10-31\n"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def every(language: str) -> list[tuple[str, str]]:
    return [(page, block) for page in PAGES for block in blocks(page, language)]


def rows(page: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGES[page].splitlines() if line[:1] == "|"
    ]


@pytest.mark.parametrize(("page", "block"), every("yaml"))
def test_templates_pass_the_linter(page: str, block: str) -> None:
    template = HEADER + block.replace("functions/orders/", "functions/read_secret/")
    assert lint(template) == []
    functions = [
        each["Properties"]
        for each in decode.cfn_yaml.loads(block)["Resources"].values()
        if each["Type"] == "AWS::Serverless::Function"
    ]
    assert [each["Timeout"] for each in functions] == [15] * len(functions)


@pytest.mark.parametrize(("page", "block"), every("sh"))
def test_commands_are_shell(page: str, block: str) -> None:
    subprocess.run(["bash", "-n"], input=block, text=True, check=True, capture_output=True, timeout=10)


def test_the_times_that_messages_stay_hidden() -> None:
    _, _, hidden = rows("queues.md")
    assert [int(cell.split()[0]) for cell in hidden[1:]] == [visibility(receive) for receive in range(1, 6)]
    queue = decode.cfn_yaml.loads(blocks("queues.md", "yaml")[0])["Resources"]["OrdersQueue"]["Properties"]
    receives, own = queue["RedrivePolicy"]["maxReceiveCount"], queue["VisibilityTimeout"]
    outage = sum(map(visibility, range(1, receives + 1))) // 60
    assert f"survive an outage of {outage} minutes" in PAGES["queues.md"]
    assert f"in {receives * own // 60} minutes" in PAGES["queues.md"]


def test_the_costs() -> None:
    containers, secrets, kms, read, write, key = 1000, 5, 0.03 / 10_000, 0.125e-6, 0.625e-6, 1 / 730
    shown = [cells for cells in rows("costs.md") if re.match(r"\d", cells[0])]
    assert len(shown) == 3
    for cells in shown:
        age = int(cells[0].split()[0])
        interval = age * 0.95  # a random tenth less at most
        reads = secrets * 3600 / interval
        lookups = containers * reads
        in_kms, in_dynamodb = (lookups + reads) * kms + key, lookups * read + 2 * reads * write
        together = in_kms + in_dynamodb
        expected = [f"{lookups:,.0f}", f"{in_kms:.3f}", f"{in_dynamodb:.3f}", f"{together:.2f}", f"{reads:.0f}"]
        assert cells[1:] == expected
    assert f"${63158 * 2 / 100_000:.2f} an hour for each further copy" in PAGES["costs.md"]
