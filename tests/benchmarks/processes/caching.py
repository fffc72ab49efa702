"""aws-secretsmanager-caching: a secret of AWS Secrets Manager. It needs no token."""

import os

import botocore.session
from aws_secretsmanager_caching import SecretCache  # type: ignore[import-not-found]  # in an environment of its own

NAME = os.environ["BENCH_SECRET"]
cache = SecretCache(client=botocore.session.get_session().create_client("secretsmanager"))


def token() -> object:
    return cache.get_secret_string(NAME)


WARM = {"get_secret_string(), cached": token}
