"""``make publish``: what reaches Lambda, which is moto's here, over HTTP."""

from __future__ import annotations

import json
import os
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import boto3
import pytest
import requests
import yaml
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ["cerberus-auth", "cerberus-auth-powertools"]
SCRIPT = runpy.run_path(str(ROOT / "layer" / "publish.py"), run_name="publish")
REGIONS = "us-west-2 eu-west-1"
ORGANIZATION = "o-a1b2c3d4e5"

Published = list[dict[str, str]]
Publish = Callable[..., Published]


@pytest.fixture
def endpoint() -> Iterator[str]:
    """Moto's server, empty."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    requests.post(f"{url}/moto-api/reset", timeout=10)
    yield url
    requests.post(f"{url}/moto-api/reset", timeout=10)
    server.stop()


@pytest.fixture
def environment(endpoint: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MAKE"))}
    return {
        **kept,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """Small ones. A file of the same name and content each time, and one that a test can change."""
    for name in ("cerberus-auth-layer.zip", "powertools-layer.zip"):
        archive(tmp_path / name, "1")
    return tmp_path


def archive(path: Path, content: str) -> None:
    with ZipFile(path, "w") as zipped:
        zipped.writestr(ZipInfo("python/module.py"), f"'{path.name} {content}'")  # dated 1980, each time


@pytest.fixture
def publish(environment: dict[str, str], archives: Path) -> Publish:
    def publish(*arguments: str, regions: str = REGIONS) -> Published:
        output = archives / "published.json"
        command = [sys.executable, str(ROOT / "layer" / "publish.py"), "--regions", regions, "--output", str(output)]
        subprocess.run(
            [*command, "--build", str(archives), *arguments],
            env=environment,
            check=True,
            capture_output=True,
            timeout=120,
        )
        published: Published = json.loads(output.read_text())
        return published

    return publish


def client(environment: dict[str, str], region: str = "us-west-2") -> Any:
    return boto3.client(
        "lambda",
        region_name=region,
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


def numbers(environment: dict[str, str], name: str, region: str = "us-west-2") -> list[int]:
    return [
        each["Version"] for each in client(environment, region).list_layer_versions(LayerName=name)["LayerVersions"]
    ]


def test_both_layers_are_published_to_each_region(publish: Publish, environment: dict[str, str]) -> None:
    published = publish()
    assert [(each["region"], each["layer"]) for each in published] == [
        (region, layer) for region in REGIONS.split() for layer in LAYERS
    ]
    for each in published:
        assert each["arn"] == f"arn:aws:lambda:{each['region']}:123456789012:layer:{each['layer']}:1"
        found = client(environment, each["region"]).get_layer_version(LayerName=each["layer"], VersionNumber=1)
        assert each["version"] in found["Description"]


def test_the_same_content_is_not_published_twice(publish: Publish, environment: dict[str, str], archives: Path) -> None:
    first = publish()
    assert publish() == first
    archive(archives / "cerberus-auth-layer.zip", "2")
    second = publish()
    assert [each["arn"][-2:] for each in second] == [":2", ":1"] * 2
    archive(archives / "cerberus-auth-layer.zip", "1")  # an older version has it
    assert publish() == first
    assert sorted(numbers(environment, "cerberus-auth")) == [1, 2]
    assert numbers(environment, "cerberus-auth-powertools") == [1]


@pytest.mark.parametrize(
    ("arguments", "statement"), [(["--public"], "public"), (["--organization", ORGANIZATION], ORGANIZATION)]
)
def test_a_version_may_be_shared_at_once_or_later(
    arguments: list[str], statement: str, publish: Publish, environment: dict[str, str]
) -> None:
    publish(regions="us-west-2")
    for _ in range(2):  # again, with the permission there
        publish(*arguments, regions="us-west-2")
    for name in LAYERS:
        policy = client(environment).get_layer_version_policy(LayerName=name, VersionNumber=1)["Policy"]
        (permission,) = json.loads(policy)["Statement"]
        assert (permission["Sid"], permission["Action"]) == (statement, "lambda:GetLayerVersion")
        assert permission["Principal"] == "*"
        assert numbers(environment, name) == [1]


def test_an_organization_is_named_in_the_permission(publish: Publish, environment: dict[str, str]) -> None:
    """Which moto's policy leaves out: so this looks at the request."""
    publish(regions="us-west-2")
    sent: list[dict[str, Any]] = []
    watched = client(environment)
    watched.meta.events.register(
        "before-call.lambda.AddLayerVersionPermission",
        lambda params, **others: sent.append(json.loads(params["body"])),
    )
    SCRIPT["share"](watched, "cerberus-auth", 1, ORGANIZATION)
    assert [each["OrganizationId"] for each in sent] == [ORGANIZATION]


def test_a_failure_says_so_and_leaves_no_list(environment: dict[str, str], archives: Path) -> None:
    environment["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    output = archives / "published.json"
    command = [sys.executable, str(ROOT / "layer" / "publish.py"), "--regions", "us-west-2", "--output", str(output)]
    done = subprocess.run(
        [*command, "--build", str(archives)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "Fix the cause and run the command again." in done.stderr
    assert not output.exists()


def test_make_publish_publishes_what_make_layer_built(environment: dict[str, str]) -> None:
    asked = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "--dry-run",
            "publish",
            "REGIONS=us-west-2 eu-west-1",
            f"ORGANIZATION={ORGANIZATION}",
        ],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert shlex.split(asked[asked.rindex("layer/publish.py") :].replace("\\\n", "")) == [
        "layer/publish.py",
        *("--regions", "us-west-2 eu-west-1"),
        *("--output", "build/published.json"),
        *("--organization", ORGANIZATION),
    ]
    missing = subprocess.run(
        ["make", "--old-file=layer", "publish"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert missing.returncode != 0
    assert 'make publish REGIONS="us-west-2 eu-west-1"' in missing.stderr


def test_the_layers_are_as_in_the_template() -> None:
    template = yaml.load((ROOT / "template.yaml").read_text(), yaml.BaseLoader)  # noqa: S506 - makes texts alone
    layers = [
        each["Properties"] for each in template["Resources"].values() if each["Type"] == "AWS::Serverless::LayerVersion"
    ]
    assert {each["LayerName"]: each["Description"] for each in layers} == {
        name: description for name, (_, description) in SCRIPT["LAYERS"].items()
    }
    for each in layers:
        assert each["CompatibleRuntimes"] == SCRIPT["RUNTIMES"]
        assert each["CompatibleArchitectures"] == SCRIPT["ARCHITECTURES"]
