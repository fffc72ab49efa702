"""An hour of a fleet in time-lapse: real processes, and everything that lasts an hour or five minutes scaled down alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import NamedTuple

from integration.fleet import LAYER, sharing_stack
from local_stack.aws import Aws
from local_stack.stack import ROLE, decrypt_statement, share_statement

HOUR, LEASE, MAX_AGE, STALE_IF_ERROR = 3600.0, 3600.0, 300.0, 3600.0
SECRETS = [f"app/orders/{number}" for number in range(5)]
CERBERUS_SECONDS = 0.02


class Hour(NamedTuple):
    """What the hour cost."""

    authentications: int
    reads: int
    served: int
    errors: list[str]

    @property
    def requests(self) -> int:
        """That reached Cerberus."""
        return self.authentications + self.reads


def hour(processes: int, seconds: float, *, shares: bool = True, gap: float = 600) -> Hour:
    """Have so many processes read all secrets for an hour that takes ``seconds``, every ``gap`` of its seconds or so."""
    lapse = HOUR / seconds
    with sharing_stack() as (stack, variables):
        cerberus = stack.cerberus
        cerberus.answer_after_seconds = CERBERUS_SECONDS
        cerberus.lease_seconds = int(LEASE / lapse)
        for path in SECRETS:
            cerberus.put_secret(path, {"path": path})
        if shares:
            kms = stack.aws.client("kms", stack.aws.account_credentials(Aws.FUNCTION_ACCOUNT), stack.region)
            key = kms.create_key()["KeyMetadata"]["Arn"]
            kms.close()
            seal = {"Effect": "Allow", "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": key}
            statements = [decrypt_statement(), share_statement(ROLE), seal]
            stack.aws.put_role_policy(ROLE, {"Version": "2012-10-17", "Statement": statements})
            variables["CERBERUS_SHARED_CACHE_KEY"] = key
        else:
            del variables["CERBERUS_SHARED_CACHE_TABLE"]
        variables |= {
            "CERBERUS_MAX_AGE": f"{MAX_AGE / lapse:g}",
            "CERBERUS_STALE_IF_ERROR": f"{STALE_IF_ERROR / lapse:g}",
            "CERBERUS_TIMEOUT": "30",
        }
        told = subprocess.run(
            [sys.executable, __file__, str(processes), f"{seconds:g}", f"{gap / lapse:g}"],
            env={"PYTHONPATH": f"{LAYER}{os.pathsep}{os.path.dirname(os.path.dirname(__file__))}", **variables},
            stdout=subprocess.PIPE,
            timeout=seconds + 120,
            check=True,
            text=True,
        )
        lives = [json.loads(line) for line in told.stdout.splitlines()]
        assert len(lives) == processes
        return Hour(
            cerberus.authentications,
            cerberus.count("/v1/secret/"),
            sum(life["served"] for life in lives),
            [error for life in lives for error in life["errors"]],
        )


def main() -> None:
    """Be the fleet: ``fleet_hour.py PROCESSES SECONDS GAP``."""
    from cerberus_auth import CerberusClient

    processes, seconds, gap = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    client = CerberusClient()
    for _ in range(processes):
        if os.fork() == 0:
            live(client, seconds, gap)
            os._exit(0)
    for _ in range(processes):
        os.wait()


def live(client: object, seconds: float, gap: float) -> None:
    """Be one container."""
    import random
    import threading
    import time

    from cerberus_auth import CerberusError

    random.seed()
    end, served, errors = time.monotonic() + seconds, 0, []
    time.sleep(random.uniform(0, seconds / 60))  # all within the first minute
    while time.monotonic() < end:
        for path in SECRETS:
            try:
                served += client.read(path) == {"path": path}  # type: ignore[attr-defined]
            except CerberusError as error:
                errors.append(f"{type(error).__name__}: {error}")
        time.sleep(min(random.expovariate(1 / gap), max(0.0, end - time.monotonic())))
    for thread in threading.enumerate():
        if thread.name == "cerberus-auth":  # a container does not end with its last invocation
            thread.join(5)
    os.write(1, json.dumps({"served": served, "errors": errors[:3]}).encode() + b"\n")


if __name__ == "__main__":
    main()
