"""cerberus-python-client 2.5.4 with STS."""

import os

from cerberus.client import CerberusClient

env = os.environ
clients: list[CerberusClient] = []


def token() -> str:
    clients.append(CerberusClient(env["CERBERUS_URL"], region=env["AWS_REGION"], verbose=False))
    return str(clients[0].get_token())


def secret() -> object:
    return clients[0].get_secrets_data(env["BENCH_SECRET"])


UNCACHED = {"cerberus-python-client 2.5.4, a new connection": secret}
