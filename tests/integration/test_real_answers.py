"""The stand-in answers as the real service did: each recorded request, with status, content type, codes and shape."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest

from local_stack.aws import Credentials
from local_stack.stack import ROLE, LocalStack

RECORDED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "cerberus-4.13.0.json").read_text(encoding="utf-8")
)
AFTER_REVOCATION = [row["name"] for row in RECORDED].index("revoke") + 1
"""From this row on, the recorded token is a revoked one."""

_, _, _, _, ACCOUNT, _ = ROLE.split(":")
NAME = ROLE.rpartition("/")[2]
SIGNED = re.compile(r"signed GetCallerIdentity for (?P<region>[a-z0-9-]+)(, (?P<changed>.*))?")


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with LocalStack(tls=False) as stack:
        stack.cerberus.partitions = {"aws"}
        stack.cerberus.put_secret("app/orders/db", {"user": "orders", "password": "changed-since"})
        stack.cerberus.put_secret("app/orders/queue/in", {"url": "https://sqs"})
        stack.cerberus.put_file("app/orders/ca.pem", b"-----BEGIN CERTIFICATE-----")
        stack.cerberus.put_secret("app/payments/s", {"password": "of another box"})
        yield stack


def ask(
    stack: LocalStack, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """Send the path as it is: other clients resolve `..` themselves."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.cerberus.server.port, timeout=20)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


@pytest.fixture
def token(stack: LocalStack) -> str:
    headers = signature(stack.aws.assume(ROLE), "signed GetCallerIdentity for us-west-2")
    _, content = ask(stack, "POST", "/v2/auth/sts-identity", headers=headers)
    return str(json.loads(content)["client_token"])


def signature(credentials: Credentials, how: str) -> dict[str, str]:
    """The headers that a description in the recording stands for."""
    said = SIGNED.fullmatch(how)
    assert said is not None
    body = "Action=GetCallerIdentity&Version=2011-06-15"
    request = botocore.awsrequest.AWSRequest("POST", f"https://sts.{said['region']}.amazonaws.com/", data=body)
    keys = botocore.credentials.Credentials(credentials.access_key, credentials.secret_key, credentials.session_token)
    botocore.auth.SigV4Auth(keys, "sts", said["region"]).add_auth(request)
    headers = dict(request.headers.items())
    match said["changed"]:
        case None:
            pass
        case "X-Amz-Date left out":
            del headers["X-Amz-Date"]
        case 'Authorization replaced by "Bearer x"':
            headers["Authorization"] = "Bearer x"
        case "four digits of the signature changed":
            tail = headers["Authorization"][-4:]
            headers["Authorization"] = headers["Authorization"][:-4] + ("0123" if tail != "0123" else "4567")
        case "another security token sent":
            headers["X-Amz-Security-Token"] = "another"
        case other:
            pytest.fail(f"the recording says {other!r}, which this test cannot do")
    return headers


def shape(value: Any) -> Any:
    """A value as the recording has it: types for values, the first element for a list."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return type(value).__name__


def shape_of_body(body: bytes) -> Any:
    if not body:
        return "empty"
    try:
        return shape(json.loads(body))
    except ValueError:
        return None


@pytest.mark.parametrize("index", range(len(RECORDED)), ids=[row["name"] for row in RECORDED])
def test_answers_as_the_real_service(index: int, stack: LocalStack, token: str) -> None:
    row = RECORDED[index]
    if index >= AFTER_REVOCATION:
        stack.cerberus.revoke(token)
    values = {
        "{role_arn}": ROLE,
        "{account}": ACCOUNT,
        "{role_name}": NAME,
        "{ROLE_NAME}": NAME.upper(),
        "{token}": token,
        "{secret}": "app/orders/db",
        "{box}": "app/orders",
        "{other_box}": "app/payments",
        "{file}": "app/orders/ca.pem",
    }

    def filled(text: str) -> str:
        return re.sub(r"\{[A-Za-z_]+\}", lambda brace: values[brace[0]], text)

    headers = {name: filled(value) for name, value in row.get("headers", {}).items()}
    if "(signature)" in headers:
        headers |= signature(stack.aws.assume(ROLE), headers.pop("(signature)"))
    body = row.get("body")
    if "json" in row:
        body, headers["Content-Type"] = filled(json.dumps(row["json"])), "application/json"

    response, content = ask(stack, row["method"], filled(row["path"]), body, headers)
    content_type = response.headers["Content-Type"]
    answer = {
        "status": response.status,
        "content_type": content_type and content_type.partition(";")[0],
        "codes": None,
        "body": shape_of_body(content),
    }
    if isinstance(answer["body"], dict) and "errors" in answer["body"]:
        answer["codes"] = [error["code"] for error in json.loads(content)["errors"]]
    if "location" in row["answer"]:
        answer["location"] = response.headers["Location"]
    assert answer == row["answer"]


def test_the_recording_is_whole() -> None:
    assert len(RECORDED) == len({row["name"] for row in RECORDED}) == 83
