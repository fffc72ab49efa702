"""Powertools for AWS Lambda: a secret of AWS Secrets Manager. There is no token before it."""

import os

from aws_lambda_powertools.utilities import parameters

NAME = os.environ["BENCH_SECRET"]


def token() -> object:
    return parameters.get_secret(NAME, max_age=600)


WARM = {"get_secret(), cached": token}
