"""cerberus-python-client 1.4.0 with KMS. Its role is set: otherwise it calls the metadata service, IAM and STS first."""

import os

from cerberus.client import CerberusClient

env = os.environ
clients: list[CerberusClient] = []


def token() -> str:
    role, region = env["CERBERUS_IAM_ROLE_ARN"], env["AWS_REGION"]
    clients.append(CerberusClient(env["CERBERUS_URL"], role_arn=role, region=region, assume_role=False))
    return str(clients[0].get_token())


def secret() -> object:
    return clients[0].get_secrets_data(env["BENCH_SECRET"])


UNCACHED = {"cerberus-python-client 1.4.0, a new connection": secret}
