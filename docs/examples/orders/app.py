"""Reads a database password from Cerberus. The CDK, Terraform and Serverless Framework examples deploy this function."""

from typing import Any

from cerberus_auth import CerberusClient

cerberus = CerberusClient()  # module scope: reads the environment, no network


def handler(event: dict[str, Any], context: object) -> dict[str, str]:
    database = cerberus.read("app/orders/db")
    return {"user": database["username"]}
