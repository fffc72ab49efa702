"""boto3 alone, its client made at module scope: a secret of AWS Secrets Manager. It needs no token."""

import os

import boto3

NAME = os.environ["BENCH_SECRET"]
manager = boto3.client("secretsmanager")


def token() -> object:
    return manager.get_secret_value(SecretId=NAME)["SecretString"]


UNCACHED = {"boto3 get_secret_value": token}
