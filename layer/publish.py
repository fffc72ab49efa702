"""Publish the built layers: ``python publish.py --regions "us-west-2 eu-west-1" --output FILE``.

You can repeat it safely: if a version with the same content exists, it adds only a missing permission. It uses the AWS
credentials of the environment. boto3 retries throttled calls.
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
"""Each layer's name, archive below ``build/`` and description. Names and descriptions are those of template.yaml."""
RUNTIMES = ["python3.13", "python3.11", "python3.12", "python3.14"]
ARCHITECTURES = ["arm64", "x86_64"]
NOT_FOUND = "ResourceNotFoundException"


def versions(client: Any, name: str) -> Iterator[int]:
    """Yield the numbers of a layer's versions, newest first.

    Parameters
    ----------
    client
        The boto3 client for Lambda.
    name
        The layer's name.
    """
    for page in client.get_paginator("list_layer_versions").paginate(LayerName=name):
        yield from (each["Version"] for each in page["LayerVersions"])


def publish(client: Any, name: str, archive: bytes, description: str, package: str) -> tuple[str, int]:
    """Publish a version unless one with this content exists.

    Parameters
    ----------
    client
        The boto3 client for Lambda.
    name
        The layer's name.
    archive
        The content of the zip file.
    description
        The layer's description.
    package
        The version of the package, for the description.

    Returns
    -------
    tuple
        The ARN and the number of the version.
    """
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
    """Add the permission to use a version, unless it exists.

    Parameters
    ----------
    client
        The boto3 client for Lambda.
    name
        The layer's name.
    number
        The version's number.
    organization
        The ID of the organisation whose accounts get permission; empty for every account.
    """
    statement = organization or "public"
    try:
        policy = json.loads(client.get_layer_version_policy(LayerName=name, VersionNumber=number)["Policy"])
        if any(each["Sid"] == statement for each in policy["Statement"]):
            return
    except ClientError as error:
        if error.response["Error"]["Code"] != NOT_FOUND:  # the response for a version without permissions
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
    """Publish to each region, and write the ARNs to a file.

    Parameters
    ----------
    arguments
        The command line's arguments.
    """
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
    parser.add_argument("--regions", required=True, help="the regions, separated by spaces")
    parser.add_argument("--output", required=True, type=Path, help="the JSON file to write")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="the folder with the archives")
    sharing = parser.add_mutually_exclusive_group()
    sharing.add_argument("--public", action="store_true", help="allow every AWS account to use the layers")
    sharing.add_argument(
        "--organization", default="", help="the ID of the AWS organisation whose accounts may use the layers"
    )
    try:
        main(parser.parse_args())
    except (BotoCoreError, ClientError, OSError) as error:
        sys.exit(f"Publishing failed ({type(error).__name__}): {error}. Fix the cause and run the command again.")
