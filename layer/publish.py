"""Publishes the built layers: ``python publish.py --regions "us-west-2 eu-west-1" --output FILE``.

Safe to repeat: a layer version whose content is the same is used, not published again, and gets the permission that it lacks.
Credentials and account are those of the environment. boto3 retries what AWS throttles.
"""

import argparse
import hashlib
import json
import re
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {
    "cerberus-auth": ("cerberus-auth-layer.zip", "Authenticates to Cerberus as the execution role"),
    "cerberus-auth-powertools": ("powertools-layer.zip", "Powertools for AWS Lambda, with its tracer"),
}
"""As in template.yaml: each layer's name, its archive below build/, and its description."""
RUNTIMES = ["python3.13", "python3.11", "python3.12", "python3.14"]
ARCHITECTURES = ["arm64", "x86_64"]
NOT_FOUND = "ResourceNotFoundException"


def versions(client: Any, name: str) -> Iterator[int]:
    """Give the numbers of a layer's versions, newest first."""
    for page in client.get_paginator("list_layer_versions").paginate(LayerName=name):
        yield from (each["Version"] for each in page["LayerVersions"])


def publish(client: Any, name: str, archive: bytes, description: str, package: str) -> tuple[str, int]:
    """Give ARN and number of the version with this content, and publish it unless there is one."""
    digest = b64encode(hashlib.sha256(archive).digest()).decode()
    for number in versions(client, name):
        found = client.get_layer_version(LayerName=name, VersionNumber=number)
        if found["Content"]["CodeSha256"] == digest:
            return found["LayerVersionArn"], number
    made = client.publish_layer_version(
        LayerName=name,
        Description=f"{description} ({package})",
        Content={"ZipFile": archive},
        CompatibleRuntimes=RUNTIMES,
        CompatibleArchitectures=ARCHITECTURES,
        LicenseInfo="Apache-2.0" if name == "cerberus-auth" else "",
    )
    return made["LayerVersionArn"], made["Version"]


def share(client: Any, name: str, number: int, organization: str) -> None:
    """Let everybody use this version, or the accounts of one organisation, unless they may do so already."""
    statement = organization or "public"
    try:
        policy = json.loads(client.get_layer_version_policy(LayerName=name, VersionNumber=number)["Policy"])
        if any(each["Sid"] == statement for each in policy["Statement"]):
            return
    except ClientError as error:
        if error.response["Error"]["Code"] != NOT_FOUND:  # what a version without any permission answers
            raise
    client.add_layer_version_permission(
        LayerName=name,
        VersionNumber=number,
        StatementId=statement,
        Action="lambda:GetLayerVersion",
        Principal="*",
        **({"OrganizationId": organization} if organization else {}),
    )


def main(arguments: argparse.Namespace) -> None:
    """Publish to each region, and write what is there then."""
    package = re.findall(r'"(.+)"', (ROOT / "layer" / "cerberus_auth" / "_version.py").read_text())[0]
    published = []
    for region in arguments.regions.split():
        client = boto3.client("lambda", region_name=region, config=Config(retries={"mode": "standard"}))
        for name, (file, description) in LAYERS.items():
            archive = (arguments.build / file).read_bytes()
            arn, number = publish(client, name, archive, description, package)
            if arguments.public or arguments.organization:
                share(client, name, number, arguments.organization)
            published.append({"layer": name, "version": package, "region": region, "arn": arn})
            print(arn)
    arguments.output.write_text(json.dumps(published, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Publish the built layers.")
    parser.add_argument("--regions", required=True, help="names of regions, separated by spaces")
    parser.add_argument("--output", required=True, type=Path, help="the JSON file to write")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="the folder with the archives")
    sharing = parser.add_mutually_exclusive_group()
    sharing.add_argument("--public", action="store_true", help="let every AWS account use the layers")
    sharing.add_argument("--organization", default="", help="the ID of the organisation whose accounts may use them")
    try:
        main(parser.parse_args())
    except (BotoCoreError, ClientError, OSError) as error:
        sys.exit(f"Publishing failed ({type(error).__name__}): {error}. Correct the cause and repeat the command.")
