"""A function without a client library: requests for Cerberus, boto3 for KMS."""

import base64
import json
import os

import boto3
import requests

env = os.environ
session = requests.Session()
kms = boto3.client("kms")


def token() -> str:
    question = {"iam_principal_arn": env["CERBERUS_IAM_ROLE_ARN"], "region": env["AWS_REGION"]}
    answer = session.post(f"{env['CERBERUS_URL']}/v2/auth/iam-principal", json=question, timeout=10)
    answer.raise_for_status()
    plaintext = kms.decrypt(CiphertextBlob=base64.b64decode(answer.json()["auth_data"]))["Plaintext"]
    session.headers["X-Cerberus-Token"] = json.loads(plaintext)["client_token"]
    return str(session.headers["X-Cerberus-Token"])


def secret() -> object:
    answer = session.get(f"{env['CERBERUS_URL']}/v1/secret/{env['BENCH_SECRET']}", timeout=10)
    answer.raise_for_status()
    return answer.json()["data"]


UNCACHED = {"requests, a session": secret}
