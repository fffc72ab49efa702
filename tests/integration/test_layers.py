"""The layers as ``layer/Makefile`` builds them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from zipfile import ZipFile, ZipInfo

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from cerberus_auth import __version__

ROOT = Path(__file__).resolve().parents[2]
CONTENTS = {
    "CerberusAuthLayer": {
        "cachetools",
        "cerberus_auth",
        "certifi",
        "charset_normalizer",
        "idna",
        "requests",
        "urllib3",
    },
    "PowertoolsLayer": {"aws_lambda_powertools", "aws_xray_sdk", "jmespath", "typing_extensions", "wrapt"},
}
ARCHIVES = {"CerberusAuthLayer": "cerberus-auth-layer.zip", "PowertoolsLayer": "powertools-layer.zip"}
IMPORTS = {
    "CerberusAuthLayer": "import cachetools, requests; from cerberus_auth import CerberusAuth, CerberusClient",
    "PowertoolsLayer": "import wrapt; from aws_lambda_powertools import Logger; Logger(service='orders')",
}
DATA = {"cacert.pem", "aws_para_whitelist.json", "sampling_rule.json", "swagger-ui-bundle.min.js", "swagger-ui.min.css"}

PERMISSIVE = {
    *("Apache-2.0", "Apache License 2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MPL-2.0", "PSF-2.0"),
}

AUTHORITIES = PurePosixPath("cerberus_auth/authorities")


class Build(NamedTuple):
    folder: Path
    archive: Path
    output: str
    """What was said in building it, on the standard output: that is what ``sam build`` shows."""

    @property
    def entries(self) -> list[ZipInfo]:
        with ZipFile(self.archive) as zipped:
            return zipped.infolist()

    @property
    def paths(self) -> list[PurePosixPath]:
        """Of the files, below ``python/``."""
        return [PurePosixPath(entry.filename).relative_to("python") for entry in self.entries]


def build(layer: str, folder: Path, *assignments: str) -> Build:
    """Build as ``sam build`` does: from a copy of the source folder, with ARTIFACTS_DIR in the environment."""
    source, artifacts, archive = folder / "source", folder / "artifacts", folder / "layer.zip"
    shutil.copytree(ROOT / "layer", source)
    (source / "cerberus_auth" / "__pycache__").mkdir(exist_ok=True)
    (source / "cerberus_auth" / "__pycache__" / "left-over.pyc").touch()
    artifacts.mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        "ARTIFACTS_DIR": str(artifacts),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    command = ["make", "-C", str(source), f"build-{layer}", *assignments]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    subprocess.run([sys.executable, source / "archive.py", artifacts, archive], check=True)
    return Build(artifacts / "python", archive, output)


@pytest.fixture(scope="module", params=CONTENTS)
def layer(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def built(layer: str, tmp_path_factory: pytest.TempPathFactory) -> Build:
    mask = os.umask(0o077)
    try:
        return build(layer, tmp_path_factory.mktemp(layer))
    finally:
        os.umask(mask)


def test_built_twice_it_is_the_same_bytes(layer: str, built: Build) -> None:
    """Here, from a copy with another umask, and before the tests by ``make layer``."""
    archive = ROOT / "build" / ARCHIVES[layer]
    assert archive.read_bytes() == built.archive.read_bytes(), f"{archive} is of other sources. Run make layer"


def test_it_holds_the_packages_it_should_and_no_others(layer: str, built: Build) -> None:
    names = {path.parts[0].removesuffix(".py") for path in built.paths} - {"__pycache__"}
    packages = {name for name in names if not name.endswith(".dist-info")}
    assert packages == CONTENTS[layer]
    assert {name.split("-")[0] for name in names - packages} == packages
    assert not [path for path in built.paths if path.is_relative_to("cerberus_auth/testing")]  # of the pip package only


def test_it_holds_nothing_but_modules_and_the_data_they_read(built: Build) -> None:
    others = [
        str(path)
        for path in built.paths
        if path.suffix not in (".py", ".pyc")
        and path.name not in DATA
        and path.parent != AUTHORITIES
        and not path.parts[0].endswith(".dist-info")
    ]
    assert others == []
    assert [str(path) for path in built.paths if {"tests", "testing", "bin"} & set(path.parts)] == []


def test_its_authorities_are_those_of_certifi(layer: str, built: Build) -> None:
    files = [built.folder / path for path in built.paths if path.parent == AUTHORITIES]
    if layer == "PowertoolsLayer":
        assert files == []
        return
    bundle = (built.folder / "certifi" / "cacert.pem").read_text()
    known = re.findall(r"-----BEGIN CERTIFICATE-----\n.+?-----END CERTIFICATE-----\n", bundle, re.DOTALL)
    assert sorted(file.read_text() for file in files) == sorted(known)
    # As every system with OpenSSL names them: Amazon Root CA 1, ISRG Root X1, DigiCert Global Root G2.
    assert {"ce5e74ef.0", "4042bcee.0", "607986c7.0"} <= {file.name for file in files}


def test_every_module_has_byte_code_for_each_python_that_the_build_names(layer: str, built: Build) -> None:
    named = re.search(rf"^{layer}: byte-code for Python((?: 3\.\d+)+)$", built.output, re.MULTILINE)
    assert named
    versions = {version.replace(".", "") for version in named[1].split()}
    assert "{}{}".format(*sys.version_info) in versions
    expected = {
        module.parent / "__pycache__" / f"{module.stem}.cpython-{version}.pyc"
        for module in built.paths
        if module.suffix == ".py"
        for version in versions
    }
    assert {path for path in built.paths if path.suffix == ".pyc"} == expected


def test_byte_code_is_of_the_source_beside_it_and_of_no_other(built: Build) -> None:
    modules = sorted(built.folder.rglob("*.py"))
    for module in modules:
        byte_code = Path(importlib.util.cache_from_source(str(module), optimization="")).read_bytes()
        assert byte_code[:4] == importlib.util.MAGIC_NUMBER
        assert int.from_bytes(byte_code[4:8], "little") == 0b11  # of the hash of a source, and to be checked against it
        assert byte_code[8:16] == importlib.util.source_hash(module.read_bytes())
        assert f"/opt/python/{module.relative_to(built.folder)}".encode() in byte_code
        assert str(built.folder.parent).encode() not in byte_code
    assert modules


def test_the_build_warns_when_the_template_s_runtime_gets_no_byte_code(tmp_path: Path) -> None:
    layer = "CerberusAuthLayer"
    output = build(layer, tmp_path, "PYTHONS=3.2", "RUNTIME=3.2").output
    assert f"{layer}: byte-code for Python (none)" in output
    assert f"WARNING: {layer} has no byte-code for Python 3.2" in output


def test_the_runtime_that_the_build_cares_for_is_the_template_s() -> None:
    runtime = re.search(r"^RUNTIME := ([\d.]+)", (ROOT / "layer/Makefile").read_text(), re.MULTILINE)
    versions = re.search(r"^PYTHONS := (.+)", (ROOT / "layer/Makefile").read_text(), re.MULTILINE)
    template = yaml.load((ROOT / "template.yaml").read_text(), yaml.BaseLoader)  # noqa: S506  (makes texts alone)
    assert runtime
    assert versions
    assert f"python{runtime[1]}" == template["Globals"]["Function"]["Runtime"]
    layers = [each for each in template["Resources"].values() if each["Type"] == "AWS::Serverless::LayerVersion"]
    for each in layers:
        assert {f"python{version}" for version in versions[1].split()} == set(each["Properties"]["CompatibleRuntimes"])


def test_every_package_has_its_metadata_and_licence(built: Build) -> None:
    for folder in built.folder.glob("*.dist-info"):
        metadata = (folder / "METADATA").read_text()
        assert "\nLicense" in metadata
        # This package's own terms are in its metadata; the full text is that of requests, beside it.
        assert folder.name.startswith("cerberus_auth-") or list(folder.rglob("LICEN[CS]E*"))


def test_anyone_may_read_its_files(built: Build) -> None:
    assert {entry.external_attr >> 16 for entry in built.entries} == {0o644}


def test_its_files_have_one_time_and_one_mode_in_what_sam_packs(built: Build) -> None:
    states = {(path.is_dir(), path.stat().st_mode & 0o777, path.stat().st_mtime) for path in built.folder.rglob("*")}
    assert sorted((is_dir, mode) for is_dir, mode, _ in states) == [(False, 0o644), (True, 0o755)]


def test_it_needs_the_standard_library_alone(layer: str, built: Build) -> None:
    code = f"import sys; sys.path.append({str(built.folder)!r}); {IMPORTS[layer]}"
    subprocess.run([sys.executable, "-I", "-S", "-W", "error", "-c", code], check=True, capture_output=True)


def test_what_pip_installs_is_what_the_layer_packs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert (ROOT / "layer/requirements.in").read_text().split() == project["dependencies"]
    assert (ROOT / "layer/requirements-powertools.in").read_text().split() == extras["powertools"]


def test_its_bill_of_materials_is_whole(layer: str, built: Build) -> None:
    (file,) = built.folder.glob("*.dist-info/sboms/layer.cdx.json")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(file.read_text()) is None
    bom = json.loads(file.read_text())
    stated = {(each["name"], each["version"]) for each in bom["components"] if each["purl"].startswith("pkg:pypi/")}
    others = [each["purl"] for each in bom["components"] if not each["purl"].startswith("pkg:pypi/")]
    bundles = [path for path in built.paths if path.suffix not in (".py", ".pyc") and path.name.endswith(".js")]
    assert len(others) == len(bundles)  # what is no package of Python: each script with its version
    for bundle, purl in zip(bundles, others, strict=True):
        assert f'PACKAGE_VERSION:"{purl.rpartition("@")[2]}"' in (built.folder / bundle).read_text()
    packed = {(found.name, found.version) for found in distributions(path=[str(built.folder)])}
    assert stated == packed
    pins = "requirements.txt" if layer == "CerberusAuthLayer" else "requirements-powertools.txt"
    pinned = re.findall(r"^([\w-]+)==(\S+)", (ROOT / "layer" / pins).read_text(), re.MULTILINE)
    canonical = {(name.lower().replace("_", "-"), version) for name, version in stated}
    assert canonical - set(pinned) == ({("cerberus-auth", __version__)} if layer == "CerberusAuthLayer" else set())
    licences = {
        name.get("expression") or name["license"]["name"] for each in bom["components"] for name in each["licenses"]
    }
    assert licences <= PERMISSIVE
