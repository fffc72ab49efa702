"""Powertools for AWS Lambda: a secret of AWS Secrets Manager. It needs no token."""

import os

from aws_lambda_powertools.utilities import parameters

NAME = os.environ["BENCH_SECRET"]


def token() -> object:
    return parameters.get_secret(NAME, max_age=600)


def secret_anew() -> object:
    return parameters.get_secret(NAME, force_fetch=True)


WARM = {"get_secret(), cached": token}
UNCACHED = {"Powertools get_secret(force_fetch=True)": secret_anew}
