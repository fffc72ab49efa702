"""Use a token over many short leases while the services keep failing (``make soak``).

A tenth of all requests to Cerberus, and of kms:Decrypt, fails at random: with a 500, a reset, half a response, or a response
after the read timeout. The servers run in this process and the function in another, so that memory and sockets are measured for
the package only.

An error is unavoidable if all of these are true. Every other error is avoidable, and fails the test.

- The error says that the last attempt failed.
- The servers failed this request, or one of the authentication, for that many times in a row at that time. After a failed
  authentication, calls fail immediately for up to a second.
- If the authentication failed: there was no usable token at any time during the call.

A lease is longer than nearly every authentication. With shorter leases, a token could expire before the response arrives.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from typing import Any

from cerberus_auth.testing.http_server import Fault, Faults, Request
from local_stack.runtime import ROOT
from local_stack.stack import ROLE, LocalStack

AUTH, DECRYPT = "/v2/auth/iam-principal", "TrentService.Decrypt"
ATTEMPTS = 3
READ_TIMEOUT = 0.7
FAULTS = (Fault.status(500), Fault.reset(), Fault.half_body(), Fault.delay(READ_TIMEOUT * 1.5))
FAILING = 0.1  # the fraction of requests
MARGIN = 0.1  # the fraction of a lease
PACE = 1800  # uses during a lease
MOST_USES_PER_LEASE = 2000  # 100,000 uses need at least 50 leases
FAIL_FAST_SECONDS = 1.0  # the maximum, after three failures in a row
WARM_UP = 0.2  # the fraction of uses before the first memory sample
MEMORY_GROWTH = 1024  # KiB


class RandomFaults(Faults):
    """Faults for a tenth of the requests. It records the requests whose attempts all failed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.requests = self.failed = 0
        self.exhausted: defaultdict[str, list[float]] = defaultdict(list)  # the times of the last attempts
        self._in_a_row: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._taking = threading.Lock()

    def take(self, request: Request) -> Fault | None:
        what = request.headers["X-Amz-Target"] or request.path
        if what.startswith("TrentService") and what != DECRYPT:
            return None  # a call by Cerberus
        with self._taking:
            self.requests += 1
            if self._random.random() >= FAILING:
                self._in_a_row[what] = 0
                return None
            self.failed += 1
            self._in_a_row[what] += 1
            if self._in_a_row[what] == ATTEMPTS:
                self._in_a_row[what] = 0
                self.exhausted[what].append(time.monotonic())  # the same clock in all processes
            return self._random.choice(FAULTS)

    def explain(self, error: dict[str, Any]) -> bool:
        """Tell whether an error was unavoidable, as the module defines it."""
        if f"(attempt {ATTEMPTS} of {ATTEMPTS})" not in error["text"]:
            return False
        asked, raised = error["asked"], error["raised"]
        if any(asked <= at <= raised for at in self.exhausted[f"/v1/secret/{error['path']}"]):
            return True
        earliest = asked - FAIL_FAST_SECONDS - READ_TIMEOUT  # the last attempt can have timed out
        shared = self.exhausted[AUTH] + self.exhausted[DECRYPT]
        return not error["token_held"] and any(earliest <= at <= raised for at in shared)


def soak(uses: int, threads: int, lease: int, seed: int) -> bool:
    """Run the servers and the function, print the table, and tell whether every limit holds."""
    faults = RandomFaults(seed)
    samples: list[dict[str, Any]] = []
    with LocalStack() as stack:
        stack.cerberus.lease_seconds = lease
        for number in range(threads):
            stack.cerberus.put_secret(f"app/orders/{number}", {"thread": str(number)})
        settings = {
            "CERBERUS_EXPIRY_MARGIN": str(lease * MARGIN),
            "CERBERUS_READ_TIMEOUT": str(READ_TIMEOUT),
            "CERBERUS_MAX_ATTEMPTS": str(ATTEMPTS),
            "PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in ("layer", "tests")),
        }
        environment = stack.environment(ROLE, **settings)
        stack.cerberus.server.faults = stack.aws.server.faults = faults
        numbers = [str(number) for number in (uses // threads, threads, lease / PACE * threads)]
        command = [sys.executable, "-m", "benchmarks.soak_function", *numbers]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as function:
            for line in function.stdout or ():
                samples.append(json.loads(line))
                if len(samples) % 10 == 0:
                    sample = {**samples[-1], "errors": len(samples[-1]["errors"])}
                    print(", ".join(f"{count:,} {name}" for name, count in sample.items()), flush=True)
    return function.returncode == 0 and report(faults, samples, uses // threads * threads, threads, lease)


def report(faults: RandomFaults, samples: list[dict[str, Any]], uses: int, threads: int, lease: int) -> bool:
    last = samples[-1]
    failing = faults.failed / faults.requests
    authentications, fewest = last["authentications"], -(-uses // MOST_USES_PER_LEASE)
    # A token is renewed after at least four fifths of its usable life.
    most = 1 + int(last["seconds"] / (0.8 * lease * (1 - MARGIN)))
    avoidable = [error for error in last["errors"] if not faults.explain(error)]
    warm = [sample["KiB"] for sample in samples if sample["uses"] >= WARM_UP * uses]
    growth = max(warm[-3:]) - max(warm[:3])
    sockets = max(sample["sockets"] for sample in samples)  # the limit: one to Cerberus for each thread, and one to KMS
    rows = [
        ("uses", f"{last['uses']:,}", f"{uses:,}", last["uses"] == uses),
        ("failed requests", f"{failing:.1%} of {faults.requests:,}", "≥ 4 %", failing >= 0.04),
        ("authentications", f"{authentications}", f"{fewest} to {most}", fewest <= authentications <= most),
        ("avoidable errors", f"{len(avoidable)} of {len(last['errors'])}", "0", not avoidable),
        (
            "memory growth after warm-up",
            f"{growth:+,} KiB on {warm[0]:,}",
            f"{MEMORY_GROWTH:+,}",
            growth <= MEMORY_GROWTH,
        ),
        ("maximum of sockets", f"{sockets}", f"{threads + 1}", sockets <= threads + 1),
    ]
    print(f"\n{'':<28}{'measured':>24}{'limit':>16}")
    for name, measured, allowed, holds in rows:
        print(f"{name:<28}{measured:>24}{allowed:>16}  {'met' if holds else 'MISSED'}")
    for error in avoidable[:10]:
        print(f"avoidable: {error}")
    return all(holds for *_, holds in rows)


def main(arguments: list[str] | None = None) -> int:
    """Run the soak test and return the exit code: 0 if every limit holds."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description="Use a token while a tenth of the service's calls fail."
    )
    parser.add_argument(
        "--uses", type=int, default=100_000, help="the number of uses of the token (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=8, help="the number of threads (default: %(default)s)")
    parser.add_argument("--lease", type=int, default=3, help="the lease in seconds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the seed of the random faults")
    return 0 if soak(**vars(parser.parse_args(arguments))) else 1


if __name__ == "__main__":
    sys.exit(main())
