"""urllib3 with a connection pool: reads a secret with a token from the floor's requests."""

import json

import urllib3
from floor import env, held, token  # type: ignore[import-not-found]  # a script beside this one

pool = urllib3.PoolManager(ca_certs=env["AWS_CA_BUNDLE"])
url = f"{env['CERBERUS_URL']}/v1/secret/{env['BENCH_SECRET']}"
__all__ = ["token"]


def secret() -> object:
    answer = pool.request("GET", url, headers={"X-Cerberus-Token": held["token"]})
    if answer.status != 200:
        raise SystemExit(f"{answer.status} {answer.data!r}")
    return json.loads(answer.data)["data"]


UNCACHED = {"urllib3, a connection pool": secret}
