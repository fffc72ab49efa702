"""Report every night how many secrets a safe deposit box contains.

This sample uses plain ``requests``: ``CerberusAuth`` is the session's ``auth``, and adds the token to each request.
"""

import os
from typing import Any

import requests

from cerberus_auth import CerberusAuth

session = requests.Session()
session.auth = CerberusAuth()


def get(path: str, **query: str) -> dict[str, Any]:
    # Seconds to connect and to read: by default, requests has no timeout.
    response = session.get(f"{os.environ['CERBERUS_URL']}/v1/secret/{path}", params=query, timeout=(2, 5))
    response.raise_for_status()
    data: dict[str, Any] = response.json()["data"]
    return data


def handler(event: dict[str, Any], context: object) -> dict[str, int]:
    secret_path = os.environ["SECRET_PATH"]
    secrets = get(secret_path.rpartition("/")[0], list="true")["keys"]
    return {"secrets": len(secrets), "fields": len(get(secret_path))}
