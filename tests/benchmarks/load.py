"""``make load``: reads at the highest rate that this machine gives; the service is killed and restarted in the midst.

The services run in one process and the function in another, whose threads each read a secret again and again over the one
client. Cerberus is killed for some seconds in the middle: connections break, new ones are refused; then it listens again.
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
EVERY = 10.0  # seconds between two looks at memory and sockets
BUCKET = 1.02  # each bucket of the histogram ends so many times later than the one before


class Reader:
    """The function: its threads read until the time is up. Latencies go into a histogram, so that memory is the package's."""

    def __init__(self, seconds: float) -> None:
        self._client = CerberusClient()
        self._end = time.monotonic() + seconds
        self._counts: list[Counter[int]] = [Counter() for _ in range(THREADS)]
        self._errors: list[Counter[str]] = [Counter() for _ in range(THREADS)]
        self._last_error = 0.0
        self._began = time.monotonic()

    def run(self) -> dict[str, Any]:
        """What became of it."""
        threads = [threading.Thread(target=self._read, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        looks = []
        while any(thread.is_alive() for thread in threads):
            time.sleep(min(EVERY, max(0.1, self._end - time.monotonic())))
            looks.append(_look())
        return {
            "seconds": time.monotonic() - self._began,
            "histogram": sum(self._counts, Counter()),
            "errors": sum(self._errors, Counter()),
            "last_error_after": self._last_error,
            "looks": looks,
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
    """Milliseconds within which so many of the reads were done."""
    left = fraction * sum(histogram.values())
    for bucket in sorted(histogram):
        left -= histogram[bucket]
        if left <= 0:
            return 1000 * 1e-5 * BUCKET**bucket
    return 0.0


def _look() -> dict[str, int]:
    """KiB of memory and open sockets, from Linux's /proc."""
    with open("/proc/self/status") as status:
        memory = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    sockets = 0
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # it may be closed by now
            sockets += os.readlink(f"/proc/self/fd/{entry}").startswith("socket:")
    return {"memory": memory, "sockets": sockets}


def _progress(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _run(seconds: float) -> int:
    _progress("Starting AWS and Cerberus on this machine, over TLS ...\n")
    from local_stack.runtime import ROOT  # not in the function's process, whose memory is measured
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
            _progress(f"{THREADS} threads read for {seconds:.0f} s ")
            half = time.monotonic() + seconds / 2
            while time.monotonic() < half and reader.poll() is None:
                time.sleep(min(5, seconds / 4))
                _progress(".")
            stack.cerberus.server.stop_listening()
            _progress(" killed ")
            time.sleep(DOWN_SECONDS)
            stack.cerberus.server.resume()
            _progress("and back ")
            out, _ = reader.communicate(timeout=seconds + 60)
        finally:
            reader.kill()
            reader.wait()
        authentications = stack.cerberus.authentications
    _progress("\n")
    told = json.loads(out)
    histogram = Counter({int(bucket): count for bucket, count in told["histogram"].items()})
    looks, reads = told["looks"], sum(histogram.values())
    quarter = looks[len(looks) // 4]
    rows = [
        ("reads", f"{reads:,}"),
        ("reads a second", f"{reads / told['seconds']:,.0f}"),
        *((f"p{name}, ms", f"{_quantile(histogram, fraction):.2f}") for name, fraction in _QUANTILES),
        ("errors", ", ".join(f"{count} {name}" for name, count in told["errors"].items()) or "none"),
        ("the last error, s after the kill", f"{max(0.0, told['last_error_after'] - seconds / 2):.1f}"),
        ("authentications", str(authentications)),
        ("memory after a quarter and at the end, KiB", f"{quarter['memory']:,} {looks[-1]['memory']:,}"),
        ("sockets, at most", str(max(look["sockets"] for look in looks))),
    ]
    width = max(len(name) for name, _ in rows)
    print(f"\n{seconds:.0f} s, {THREADS} threads, Cerberus killed for {DOWN_SECONDS:.0f} s in the midst\n")
    for name, value in rows:
        print(f"{name:{width}}  {value}")
    wrong = []
    if set(told["errors"]) - {"CerberusUnavailable", "DeadlineExceeded"}:
        wrong.append("errors other than that the service is away")
    if told["last_error_after"] > seconds / 2 + DOWN_SECONDS + 15:
        wrong.append("errors long after the service was back")
    if looks[-1]["memory"] > quarter["memory"] + 2048:
        wrong.append("memory grows")
    if authentications != 1:
        wrong.append(f"{authentications} authentications where the token was good all the while")
    for each in wrong:
        print(each, file=sys.stderr)
    return 1 if wrong else 0


_QUANTILES = (("50", 0.5), ("99", 0.99), ("99.9", 0.999))


def main() -> int:
    """Return the exit code: 0, or 1 where something was lost that the service's absence does not explain."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="(default: %(default)s)")
    parser.add_argument("--reader", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.reader:
        print(json.dumps(Reader(given.seconds).run()))
        return 0
    return _run(given.seconds)


if __name__ == "__main__":
    sys.exit(main())
