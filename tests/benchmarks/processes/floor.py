"""The minimum: two requests with http.client, signed with hmac, in one TLS context. No checks, no retries."""

import base64
import hashlib
import hmac
import http.client
import json
import os
import ssl
import time
from urllib.parse import urlsplit

env = os.environ
context = ssl.create_default_context(cafile=env["AWS_CA_BUNDLE"])


def connect(url: str) -> http.client.HTTPSConnection:
    parts = urlsplit(url)
    return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=10, context=context)


def send(connection: http.client.HTTPSConnection, method: str, path: str, body: str, headers: dict[str, str]) -> bytes:
    connection.request(method, path, body or None, headers)
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise SystemExit(f"{response.status} {content!r}")
    return content


def sign(host: str, body: str) -> dict[str, str]:
    stamp, region = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), env["AWS_REGION"]
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": host,
        "x-amz-date": stamp,
        "x-amz-security-token": env["AWS_SESSION_TOKEN"],
        "x-amz-target": "TrentService.Decrypt",
    }
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body.encode()).hexdigest()}"
    scope = f"{stamp[:8]}/{region}/kms/aws4_request"
    key = f"AWS4{env['AWS_SECRET_ACCESS_KEY']}".encode()
    for part in (
        *scope.split("/"),
        f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}",
    ):
        key = hmac.digest(key, part.encode(), "sha256")
    credential = f"{env['AWS_ACCESS_KEY_ID']}/{scope}"
    authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={key.hex()}"
    return {**headers, "authorization": authorization}


held: dict[str, str] = {}
cerberus = connect(env["CERBERUS_URL"])


def token() -> str:
    question = json.dumps({"iam_principal_arn": env["CERBERUS_IAM_ROLE_ARN"], "region": env["AWS_REGION"]})
    answer = send(cerberus, "POST", "/v2/auth/iam-principal", question, {"Content-Type": "application/json"})
    body = json.dumps({"CiphertextBlob": json.loads(answer)["auth_data"]})
    kms = connect(env["AWS_ENDPOINT_URL"])
    plaintext = json.loads(send(kms, "POST", "/", body, sign(urlsplit(env["AWS_ENDPOINT_URL"]).netloc, body)))[
        "Plaintext"
    ]
    held["token"] = json.loads(base64.b64decode(plaintext))["client_token"]
    return held["token"]


def secret() -> object:
    path = f"/v1/secret/{env['BENCH_SECRET']}"
    return json.loads(send(cerberus, "GET", path, "", {"X-Cerberus-Token": held["token"]}))["data"]


UNCACHED = {"http.client, a kept connection": secret}
