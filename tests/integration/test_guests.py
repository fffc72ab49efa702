"""Guests in the same process: libraries that the function's own package, or another layer, brings along.

On Lambda the function's folder comes first on the path, then ``/opt/python``, into which all layers are unpacked one over the
other, and then what the runtime has itself, boto3.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_stack.runtime import find_python
from local_stack.stack import ROLE, SECRET, SECRET_PATH, LocalStack

ROOT = Path(__file__).resolve().parents[2]
LAYERS = (ROOT / "build" / "layer" / "python", ROOT / "build" / "powertools" / "python")

# What comes with each library, so that it can be imported.
PARTS = {
    "cachetools": ("cachetools",),
    "requests": ("requests", "chardet"),
    "urllib3": ("urllib3",),
    "aws_lambda_powertools": ("aws_lambda_powertools",),
}
ALL = tuple(PARTS)

FLOW = """
import json, os, sys
from cerberus_auth import CerberusAuth, CerberusClient
auth = CerberusAuth()
token = auth.token()
guests = ("cachetools", "requests", "urllib3", "aws_lambda_powertools")
early = sorted({*guests} & {*sys.modules})
cerberus = CerberusClient(auth)
reads = [cerberus.read(os.environ["SECRET_PATH"], max_age=60) for _ in range(2)]
import cachetools, requests, urllib3
url = os.environ["CERBERUS_URL"] + "/v1/secret/" + os.environ["SECRET_PATH"]
session = requests.Session()
session.auth = auth
before = session.get(url, timeout=(2, 5))
requests.delete(os.environ["CERBERUS_URL"] + "/v1/auth", auth=auth, timeout=(2, 5))
after = session.get(url, timeout=(2, 5))
from aws_lambda_powertools import Metrics
from cerberus_auth.powertools import CerberusMiddleware, CerberusProvider
class Context:
    def get_remaining_time_in_millis(self):
        return 5000
metrics = Metrics(namespace="CerberusAuth", service="orders")
@metrics.log_metrics
@CerberusMiddleware(auth, metrics=metrics).client
def handler(event, context, cerberus):
    return CerberusProvider(cerberus).get(os.environ["SECRET_PATH"], transform="json")
print(json.dumps({
    "early": early, "reads": reads, "status": [before.status_code, after.status_code], "retried": len(after.history),
    "secret": handler({}, Context()), "renewed": auth.token() != token,
    "found": {name: sys.modules[name].__file__ for name in guests},
}))
"""


def guests(age: str) -> Path:
    """Where the libraries of that age are installed, for this Python."""
    environment = Path(f"{sys.prefix}-guests-{age}")
    found = list(environment.glob("lib/python3*/site-packages"))
    assert found, f"{environment.name} is missing: run `make setup`"
    return found[0]


def bring(folder: Path, age: str, *libraries: str) -> Path:
    """Put libraries and what they need into a folder, over what is there."""
    for part in (part for library in libraries for part in PARTS[library]):
        source = guests(age) / part
        if source.exists():
            shutil.rmtree(folder / part, ignore_errors=True)
            shutil.copytree(source, folder / part)
    return folder


def run(stack: LocalStack, *path: Path) -> dict[str, object]:
    (runtime,) = find_python().parent.parent.glob("lib/python3*/site-packages")
    environment = {
        **stack.environment(ROLE, SECRET_PATH=SECRET_PATH, LAYERS=os.pathsep.join(map(str, [*path, runtime]))),
        "PATH": os.environ["PATH"],
    }
    code = f"import os, sys; sys.path[:0] = os.environ['LAYERS'].split(os.pathsep)\n{FLOW}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def check(answer: dict[str, object], found: dict[str, Path]) -> None:
    """All works, and with those libraries that are said to be found."""
    assert answer.pop("found") == {name: str(folder / name / "__init__.py") for name, folder in found.items()}
    assert answer == {
        "early": [],  # none of them is loaded on the way to a token
        "reads": [SECRET, SECRET],
        "status": [200, 200],
        "retried": 1,
        "secret": SECRET,
        "renewed": True,
    }


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with LocalStack() as stack:
        yield stack


@pytest.mark.parametrize("age", ["old", "new"])
@pytest.mark.parametrize("libraries", [*((library,) for library in PARTS), ALL], ids=[*PARTS, "all"])
def test_the_functions_own_libraries_go_before_ours(
    stack: LocalStack, tmp_path: Path, age: str, libraries: tuple[str, ...]
) -> None:
    own = bring(tmp_path, age, *libraries)
    ours = {"aws_lambda_powertools": LAYERS[1]}
    found = {name: own if name in libraries else ours.get(name, LAYERS[0]) for name in PARTS}
    check(run(stack, own, *LAYERS), found)


@pytest.mark.parametrize("age", ["old", "new"])
def test_another_layers_libraries_are_unpacked_over_ours(stack: LocalStack, tmp_path: Path, age: str) -> None:
    opt = tmp_path / "opt"
    for layer in LAYERS:
        shutil.copytree(layer, opt, dirs_exist_ok=True)
    bring(opt, age, *ALL)
    check(run(stack, opt), dict.fromkeys(PARTS, opt))


def test_a_function_newer_than_the_layers(stack: LocalStack, tmp_path: Path) -> None:
    opt, own = tmp_path / "opt", tmp_path / "task"
    own.mkdir()
    for layer in LAYERS:
        shutil.copytree(layer, opt, dirs_exist_ok=True)
    bring(opt, "old", *ALL)
    check(run(stack, bring(own, "new", *ALL), opt), dict.fromkeys(PARTS, own))
