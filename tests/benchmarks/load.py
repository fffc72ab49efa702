"""Read at the highest rate of this machine, while the service is killed and restarted (``make load``).

The services run in one process and the function in another. The function's threads read a secret in a loop with one client.
After half of the time, Cerberus is down for some seconds: connections break, and new ones are refused.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

from cerberus_auth import CerberusClient, CerberusError

THREADS = 4
DOWN_SECONDS = 3.0
SAMPLE_SECONDS = 10.0  # between two samples of memory and sockets
BUCKET = 1.02  # the factor between the limits of two histogram buckets


class Reader:
    """The function: its threads read until the time is up. A histogram of latencies keeps its own memory constant."""

    def __init__(self, seconds: float) -> None:
        self._client = CerberusClient()
        self._end = time.monotonic() + seconds
        self._counts: list[Counter[int]] = [Counter() for _ in range(THREADS)]
        self._errors: list[Counter[str]] = [Counter() for _ in range(THREADS)]
        self._last_error = 0.0
        self._began = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Read until the time is up, and return the results."""
        threads = [threading.Thread(target=self._read, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        samples = []
        while any(thread.is_alive() for thread in threads):
            time.sleep(min(SAMPLE_SECONDS, max(0.1, self._end - time.monotonic())))
            samples.append(_sample())
        return {
            "seconds": time.monotonic() - self._began,
            "histogram": sum(self._counts, Counter()),
            "errors": sum(self._errors, Counter()),
            "last_error_after": self._last_error,
            "samples": samples,
        }

    def _read(self, number: int) -> None:
        counts, errors = self._counts[number], self._errors[number]
        while time.monotonic() < self._end:
            began = time.perf_counter()
            try:
                self._client.read(os.environ["SECRET_PATH"])
            except CerberusError as error:
                errors[type(error).__name__] += 1
                self._last_error = time.monotonic() - self._began
                time.sleep(0.05)
            else:
                counts[_bucket(time.perf_counter() - began)] += 1


def _bucket(seconds: float) -> int:
    bucket, end = 0, 1e-5
    while end < seconds:
        bucket, end = bucket + 1, end * BUCKET
    return bucket


def _quantile(histogram: Counter[int], fraction: float) -> float:
    """Return the latency in milliseconds for a fraction of the reads."""
    left = fraction * sum(histogram.values())
    for bucket in sorted(histogram):
        left -= histogram[bucket]
        if left <= 0:
            return 1000 * 1e-5 * BUCKET**bucket
    return 0.0


def _sample() -> dict[str, int]:
    """Return the memory in KiB and the number of open sockets, from Linux's /proc."""
    with open("/proc/self/status") as status:
        memory = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    sockets = 0
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed in the meantime
            sockets += os.readlink(f"/proc/self/fd/{entry}").startswith("socket:")
    return {"memory": memory, "sockets": sockets}


def _progress(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _run(seconds: float) -> int:
    _progress("Starting AWS and Cerberus on this machine ...\n")
    from local_stack.runtime import ROOT  # not imported in the function, whose memory is measured
    from local_stack.stack import ROLE, SECRET_PATH, LocalStack

    with LocalStack() as stack:
        path = os.pathsep.join([str(ROOT / "layer"), str(ROOT / "tests")])
        environment = {
            **stack.environment(ROLE, SECRET_PATH=SECRET_PATH),
            "PYTHONPATH": path,
            "PATH": os.environ["PATH"],
        }
        command = [sys.executable, "-m", "benchmarks.load", "--reader", "--seconds", str(seconds)]
        reader = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            _progress(f"Reading with {THREADS} threads for {seconds:.0f} s ")
            half = time.monotonic() + seconds / 2
            while time.monotonic() < half and reader.poll() is None:
                time.sleep(min(5, seconds / 4))
                _progress(".")
            stack.cerberus.server.stop_listening()
            _progress(" Cerberus stopped ")
            time.sleep(DOWN_SECONDS)
            stack.cerberus.server.resume()
            _progress("and restarted ")
            out, _ = reader.communicate(timeout=seconds + 60)
        finally:
            reader.kill()
            reader.wait()
        authentications = stack.cerberus.authentications
    _progress("\n")
    results = json.loads(out)
    histogram = Counter({int(bucket): count for bucket, count in results["histogram"].items()})
    samples, reads = results["samples"], sum(histogram.values())
    quarter = samples[len(samples) // 4]
    rows = [
        ("reads", f"{reads:,}"),
        ("reads per second", f"{reads / results['seconds']:,.0f}"),
        *((f"p{name}, ms", f"{_quantile(histogram, fraction):.2f}") for name, fraction in _QUANTILES),
        ("errors", ", ".join(f"{count} {name}" for name, count in results["errors"].items()) or "none"),
        ("last error, s after the stop", f"{max(0.0, results['last_error_after'] - seconds / 2):.1f}"),
        ("authentications", str(authentications)),
        ("memory after a quarter and at the end, KiB", f"{quarter['memory']:,} {samples[-1]['memory']:,}"),
        ("maximum of sockets", str(max(sample["sockets"] for sample in samples))),
    ]
    width = max(len(name) for name, _ in rows)
    print(f"\n{seconds:.0f} s, {THREADS} threads, Cerberus down for {DOWN_SECONDS:.0f} s\n")
    for name, value in rows:
        print(f"{name:{width}}  {value}")
    problems = []
    if set(results["errors"]) - {"CerberusUnavailable", "DeadlineExceeded"}:
        problems.append("There are errors other than CerberusUnavailable and DeadlineExceeded.")
    if results["last_error_after"] > seconds / 2 + DOWN_SECONDS + 15:
        problems.append("There are errors more than 15 s after the restart.")
    if samples[-1]["memory"] > quarter["memory"] + 2048:
        problems.append("Memory grew by more than 2 MiB after the first quarter.")
    if authentications != 1:
        problems.append(f"There were {authentications} authentications, expected 1: the token stayed valid.")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


_QUANTILES = (("50", 0.5), ("99", 0.99), ("99.9", 0.999))


def main() -> int:
    """Run the load test and return the exit code: 0, or 1 if the outage does not explain a failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="the duration (default: %(default)s)")
    parser.add_argument("--reader", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.reader:
        print(json.dumps(Reader(given.seconds).run()))
        return 0
    return _run(given.seconds)


if __name__ == "__main__":
    sys.exit(main())
