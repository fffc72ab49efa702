"""Who is measured, and with what on the path. Everything of it is byte-compiled, but for where the lack is measured."""

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
    """One way to a token."""

    name: str
    """As the table has it."""
    module: str
    """Of ``processes/``."""
    path: tuple[Path, ...] = ()
    """What is imported from, as layers of a function."""
    needs_sdk: bool = False
    """Whether boto3 is taken from the runtime, as on Lambda."""
    environment: dict[str, str] = field(default_factory=dict)
    cold: bool = True
    in_lambda: bool = True
    in_handler: bool = False
    """Whether its first use in a handler is measured, under the CPU quotas of ``quota``."""


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
    name="cerberus-auth, found in the fleet's table",
    environment={**SIGNED.environment, "CERBERUS_SHARED_CACHE_TABLE": TABLE},
    in_handler=False,
)
SDK = Contestant("cerberus-auth, boto3 lane", "ours", (LAYER,), True, {"CERBERUS_AWS_CLIENT": "sdk"})
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
    """This package from copies of the layer, made in ``folder``: one that trusts the authorities of ``bundle`` in the way that
    the layer trusts the public ones, and one as that would be without byte-code."""
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
    """Those with environments of their own.

    :raises MissingPrerequisiteError: not set up.
    """
    return [
        Contestant("cerberus-python-client 1.4.0 (KMS)", "nike_kms", (_site_packages("cerberus-1"),)),
        Contestant("cerberus-python-client 2.5.4 (STS)", "nike_sts", (_site_packages("cerberus-2"),)),
        Contestant("aws-secretsmanager-caching (Secrets Manager)", "caching", (_site_packages("caching"),)),
    ]


def runtime_packages() -> Path:
    """What Lambda's own runtime has on its path: the runtime client and boto3."""
    return next(find_python().parent.parent.glob("lib/python3*/site-packages"))


def compile_all(contestants: list[Contestant], folder: Path) -> Path:
    """Compile what is not compiled yet, and give a compiled copy of ``processes/``, made in ``folder``."""
    processes = folder / "processes"
    shutil.copytree(PROCESSES, processes, ignore=shutil.ignore_patterns("__pycache__"))
    installed = {path for each in contestants for path in each.path if "site-packages" in path.parts}
    for path in (processes, runtime_packages(), *sorted(installed)):
        compileall.compile_dir(path, quiet=2)
    missing = [each for each in contestants if not all(path.is_dir() for path in each.path)]
    if missing:
        raise MissingPrerequisiteError("the layers are not built: run `make layer`")
    return processes


def versions(contestants: list[Contestant]) -> dict[str, str]:
    """Of the packages that are compared."""
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
        raise MissingPrerequisiteError(f"{environment.name} is not set up: run `make bench`")
    return found[0]
