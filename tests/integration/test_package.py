"""The pip package: its sdist and its wheel are built and installed as pip does it, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from cerberus_auth import __version__

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SMOKE = """
import cerberus_auth, importlib.metadata, pathlib, sys
from cerberus_auth import CerberusAuth, CerberusClient, Settings
from cerberus_auth.testing import FakeCerberus
assert pathlib.Path(cerberus_auth.__file__).is_relative_to(sys.path[0]), cerberus_auth.__file__
assert (pathlib.Path(cerberus_auth.__file__).parent / "py.typed").exists()
print(importlib.metadata.version("cerberus-auth"))
"""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(BIN / "hatchling", "build", "-d", folder)
    return folder


@pytest.mark.parametrize("kind", ["cerberus_auth-*.tar.gz", "cerberus_auth-*-py3-none-any.whl"])
def test_it_installs_and_runs(kind: str, distributions: Path, tmp_path: Path) -> None:
    (built,) = distributions.glob(kind)
    install = ["pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation", "--no-cache"]
    run(BIN / "uv", *install, "--python", sys.executable, "--target", tmp_path, built)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{SMOKE}"
    assert run(sys.executable, "-c", code, cwd=tmp_path).strip() == __version__


def test_the_sdist_holds_what_it_needs_and_no_more(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        names = {name.split("/", 1)[1] for name in packed.getnames()}
    assert {name for name in names if not name.startswith("layer/cerberus_auth/")} == {
        *("CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"),
    }


def test_the_wheel_holds_every_module(distributions: Path, tmp_path: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    run(sys.executable, "-m", "zipfile", "-e", wheel, tmp_path)
    sources = {path.relative_to(ROOT / "layer") for path in (ROOT / "layer" / "cerberus_auth").rglob("*.py")}
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*.py")} == sources
