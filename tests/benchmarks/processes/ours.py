"""This package, used as in the README."""

import os
import time

start = time.perf_counter(), time.process_time()
import cerberus_auth  # noqa: E402

FIGURES = {"import": [(time.perf_counter() - start[0]) * 1e3, (time.process_time() - start[1]) * 1e3]}
PATH = os.environ["BENCH_SECRET"]

auth = cerberus_auth.CerberusAuth()
client = cerberus_auth.CerberusClient(auth)
token = auth.token


def secret() -> object:
    return client.read(PATH)


WARM = {"token()": auth.token, "read(), cached": lambda: client.read(PATH, max_age=300)}
UNCACHED = {"cerberus-auth, read(max_age=0)": lambda: client.read(PATH, max_age=0)}
