"""docs/deploy: templates pass the linter, scripts do what they say, numbers are computed, links lead somewhere."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from cfnlint import decode, lint

from cerberus_auth.powertools.queue import visibility
from integration.test_transform import LAYER, load, versions

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


def test_the_index_names_every_page() -> None:
    assert set(re.findall(r"\]\((\w[\w-]*\.md)\)", PAGES["index.md"])) == set(PAGES) - {"index.md"}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_there_are(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[page])
    assert [link for link in links if "://" not in link and not (DOCS / link).exists()] == []


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


def test_json_is_json() -> None:
    assert every("json")
    for _, block in every("json"):
        json.loads(block)


def test_the_policies_are_those_of_the_template() -> None:
    authenticate, share = [json.loads(block) for block in blocks("iam.md", "json")]
    resources = load("template.yaml")["Resources"]
    ours = resources["ReadSecretFunction"]["Properties"]["Policies"][0]["Statement"][0]
    assert {**ours, "Resource": authenticate["Resource"]} == authenticate
    stated = resources["SharedCachePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert [{**each, "Resource": shown["Resource"]} for each, shown in zip(stated, share, strict=True)] == share


@pytest.mark.parametrize(("page", "block"), every("sh"))
def test_commands_are_shell(page: str, block: str) -> None:
    subprocess.run(["bash", "-n"], input=block, text=True, check=True, capture_output=True, timeout=10)


def test_the_pipeline_brings_a_new_layer_version_to_the_alias(tmp_path: Path) -> None:
    script = next(block for block in blocks("layer-arns.md", "sh") if "sed" in block)
    (tmp_path / "template.yaml").write_bytes((ROOT / "tests" / "consumer" / "template.yaml").read_bytes())
    stand_ins = f"aws() {{ echo {LAYER.format(2)}; }}; sam() {{ :; }}\n"
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", stand_ins + script],
        cwd=tmp_path,
        check=True,
        timeout=10,
        env=dict(os.environ),
    )
    changed = json.loads(json.dumps(decode.cfn_yaml.load(str(tmp_path / "deployed.yaml"))))
    layers = changed["Resources"]["OrdersFunction"]["Properties"]["Layers"]
    assert layers == [LAYER.format(2), "arn:aws:lambda:us-west-2:111111111111:layer:cerberus-auth-powertools:1"]
    assert versions(changed).isdisjoint(versions(load("tests/consumer/template.yaml")))


def test_the_parameters_are_those_that_the_stack_of_the_layers_writes() -> None:
    written = {
        each["Properties"]["Name"]["Fn::Sub"].replace("${AWS::StackName}", "cerberus-auth")
        for each in load("template.yaml")["Resources"].values()
        if each["Type"] == "AWS::SSM::Parameter"
    }
    assert set(re.findall(r"/cerberus-auth/layers/[\w-]+", PAGES["layer-arns.md"])) == written


def test_the_parameters_of_the_template_are_there() -> None:
    named = {name for cells in rows("index.md") for name in re.findall(r"`([A-Z]\w+)`", cells[0])}
    assert named == set(load("template.yaml")["Parameters"]) - {"SecretPath", "LogRetentionDays"}


def test_the_times_that_messages_stay_hidden() -> None:
    _, _, hidden = rows("queues.md")
    assert [int(cell.split()[0]) for cell in hidden[1:]] == [visibility(receive) for receive in range(1, 6)]
    queue = decode.cfn_yaml.loads(blocks("queues.md", "yaml")[0])["Resources"]["OrdersQueue"]["Properties"]
    receives, own = queue["RedrivePolicy"]["maxReceiveCount"], queue["VisibilityTimeout"]
    outage = sum(map(visibility, range(1, receives + 1))) // 60
    assert f"survive an outage of {outage} minutes" in PAGES["queues.md"]
    assert f"in {receives * own // 60} minutes" in PAGES["queues.md"]


def test_the_costs() -> None:
    page = (DOCS.parent / "explanation" / "costs-and-limits.md").read_text(encoding="utf-8")
    containers, secrets, kms, read, write, key = 1000, 5, 0.03 / 10_000, 0.125e-6, 0.625e-6, 1 / 730
    rows_of_ages = re.findall(r"^\| (\d+(?: \(default\))?) \| ([\d,]+) \| (.+) \|$", page, re.MULTILINE)
    shown = [[age, lookups, *rest.split(" | ")] for age, lookups, rest in rows_of_ages]
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
    assert f"${63158 * 2 / 100_000:.2f} an hour for each further copy" in page


def test_examples_are_linked() -> None:
    examples = [path for path in (ROOT / "docs" / "examples").rglob("*") if path.suffix in {".tf", ".yaml", ".yml"}]
    text = "".join(itertools.chain(PAGES.values()))
    assert [
        path.name for path in examples if f"examples/{path.relative_to(ROOT / 'docs' / 'examples')}" not in text
    ] == []
