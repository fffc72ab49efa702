"""The clients that the benchmarks compare, with their import paths. All are byte-compiled except one variant."""

from __future__ import annotations

import compileall
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from local_stack.runtime import ROOT, MissingPrerequisiteError, find_python
from local_stack.stack import TABLE

PROCESSES = Path(__file__).with_name("processes")
LAYER = ROOT / "build" / "layer" / "python"
POWERTOOLS = ROOT / "build" / "powertools" / "python"


@dataclass(frozen=True)
class Contestant:
    """One client, or one variant of this package."""

    name: str
    """Its name in the tables."""
    module: str
    """Its module in ``processes/``."""
    path: tuple[Path, ...] = ()
    """Its import path, like the layers of a function."""
    needs_sdk: bool = False
    """Whether it uses the runtime's boto3, as on Lambda."""
    environment: dict[str, str] = field(default_factory=dict)
    cold: bool = True
    in_lambda: bool = True
    in_handler: bool = False
    """Whether to measure its first use in a handler, with a CPU quota."""


BARE = Contestant("a bare interpreter", "bare")
FLOOR = Contestant("the floor: http.client and hmac", "floor")
SIGNED = Contestant(
    "cerberus-auth",
    "ours",
    (LAYER,),
    environment={"CERBERUS_AWS_CLIENT": "signed", "AWS_CA_BUNDLE": "", "REQUESTS_CA_BUNDLE": ""},
    in_handler=True,
)
BUNDLE = Contestant(
    "cerberus-auth, with AWS_CA_BUNDLE", "ours", (LAYER,), environment={"CERBERUS_AWS_CLIENT": "signed"}
)
SHARED = replace(
    SIGNED,
    name="cerberus-auth, from the shared cache",
    environment={**SIGNED.environment, "CERBERUS_SHARED_CACHE_TABLE": TABLE},
    in_handler=False,
)
SDK = Contestant("cerberus-auth, SDK client", "ours", (LAYER,), True, {"CERBERUS_AWS_CLIENT": "sdk"})
STRAIGHT = Contestant("boto3 + requests", "straight", (LAYER,), True, in_handler=True)
POWERTOOLS_SECRET = Contestant(
    "Powertools get_secret (Secrets Manager)", "powertools", (POWERTOOLS,), True, in_handler=True
)
SDK_SECRET = Contestant(
    "boto3 get_secret_value (Secrets Manager)", "sdk_secret", (), True, cold=False, in_lambda=False, in_handler=True
)
HOP = Contestant("loopback hop", "hop", (LAYER,), cold=False, in_lambda=False)
POOL = Contestant("urllib3", "urllib3_pool", (LAYER,), cold=False, in_lambda=False)


def ours(bundle: Path, folder: Path) -> list[Contestant]:
    """Return the variants of this package, from copies of the layer in ``folder``.

    The first copy trusts the authorities of ``bundle`` as the layer trusts the public ones. The second one is the same without
    byte-code.
    """
    layer, plain = folder / "layer", folder / "plain"
    shutil.copytree(LAYER, layer)
    authorities = layer / "cerberus_auth" / "authorities"
    shutil.rmtree(authorities)
    subprocess.run([sys.executable, ROOT / "layer" / "authorities.py", bundle, authorities], check=True)
    shutil.copytree(layer, plain, ignore=shutil.ignore_patterns("__pycache__"))
    without = replace(SIGNED, name="cerberus-auth, no byte-code", path=(plain,), in_handler=False)
    shared = replace(SHARED, path=(layer,))
    return [replace(SIGNED, path=(layer,)), without, shared, BUNDLE, SDK]


def peers() -> list[Contestant]:
    """Return the clients that need their own environment.

    Raises
    ------
    MissingPrerequisiteError
        An environment is missing.
    """
    return [
        Contestant("cerberus-python-client 1.4.0 (KMS)", "nike_kms", (_site_packages("cerberus-1"),)),
        Contestant("cerberus-python-client 2.5.4 (STS)", "nike_sts", (_site_packages("cerberus-2"),)),
        Contestant("aws-secretsmanager-caching (Secrets Manager)", "caching", (_site_packages("caching"),)),
    ]


def runtime_packages() -> Path:
    """Return the path with the packages of Lambda's runtime: the runtime client and boto3."""
    return next(find_python().parent.parent.glob("lib/python3*/site-packages"))


def compile_all(contestants: list[Contestant], folder: Path) -> Path:
    """Compile all packages, and return a compiled copy of ``processes/`` in ``folder``."""
    processes = folder / "processes"
    shutil.copytree(PROCESSES, processes, ignore=shutil.ignore_patterns("__pycache__"))
    installed = {path for each in contestants for path in each.path if "site-packages" in path.parts}
    for path in (processes, runtime_packages(), *sorted(installed)):
        compileall.compile_dir(path, quiet=2)
    missing = [each for each in contestants if not all(path.is_dir() for path in each.path)]
    if missing:
        raise MissingPrerequisiteError("the layers are not built. Run `make layer`")
    return processes


def versions(contestants: list[Contestant]) -> dict[str, str]:
    """Return the versions of the packages."""
    wanted = {"awslambdaric", "aws_lambda_powertools", "aws_secretsmanager_caching", "boto3", "requests"}
    folders = {runtime_packages(), *(path for each in contestants for path in each.path)}
    found = {}
    for folder in folders:
        for metadata in folder.glob("*.dist-info"):
            name, _, version = metadata.name.removesuffix(".dist-info").rpartition("-")
            if name.replace("-", "_") in wanted:
                found[name.replace("_", "-")] = version
    return dict(sorted(found.items()))


def _site_packages(name: str) -> Path:
    environment = Path(f"{sys.prefix}-bench-{name}")
    found = list(environment.glob("lib/python3*/site-packages"))
    if not found:
        raise MissingPrerequisiteError(f"{environment.name} is missing. Run `make bench`")
    return found[0]
