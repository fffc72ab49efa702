"""Run one hour of a fleet of real processes in time-lapse, with and without the shared cache (``make fleet``).

All times that the fleet's requests depend on are divided by one factor: the hour, the lease, ``CERBERUS_MAX_AGE`` and the times
that belong to them. The requests are counted where they arrive: at Cerberus, and at the endpoint of DynamoDB and KMS.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cerberus_auth.settings import Settings
from cerberus_auth.testing.http_server import Request, Response
from local_stack.aws import Aws
from local_stack.runtime import ROOT
from local_stack.stack import ROLE, SAFE_DEPOSIT_BOX, LocalStack

from .report import machine
from .tables import aligned, wrapped

MOST_REQUESTS = 100
HOUR = 3600.0
LEASE = 3600.0
INVOCATIONS = 10  # of each process, in a minute of the hour
PROCESS = Path(__file__).with_name("fleet_process.py")
_DEFAULTS = Settings(url="https://cerberus.example.com", region="us-west-2")
SCALED = {
    "CERBERUS_MAX_AGE": _DEFAULTS.max_age,
    "CERBERUS_STALE_IF_ERROR": _DEFAULTS.stale_if_error,
    "CERBERUS_EXPIRY_MARGIN": _DEFAULTS.expiry_margin,
}
"""The settings that are divided by the factor, with their defaults in seconds."""

Figures = dict[str, Any]


class Plan(NamedTuple):
    """The size of a fleet, and its time-lapse."""

    processes: int
    secrets: int
    factor: float
    minutes: float
    """The length of the run, in minutes of the hour that it stands for."""
    response_seconds: float
    """The response time of Cerberus. It is not scaled."""

    @property
    def seconds(self) -> float:
        """Return the length of the run."""
        return self.minutes * 60 / self.factor

    @property
    def max_age(self) -> float:
        """Return the scaled CERBERUS_MAX_AGE, in seconds."""
        return SCALED["CERBERUS_MAX_AGE"] / self.factor

    @property
    def paths(self) -> list[str]:
        """Return the paths of the secrets."""
        return [f"{SAFE_DEPOSIT_BOX}/{number + 1}" for number in range(self.secrets)]

    def explanation(self) -> str:
        """Return which times are scaled and which are not."""
        scaled = {"the lease": LEASE, **SCALED}
        times = [f"{name} {seconds / self.factor:.3g} s" for name, seconds in scaled.items()]
        return wrapped(
            f"{self.minutes:g} minutes run in {self.seconds:.0f} s, {self.factor:g} times as fast. Scaled: "
            f"{', '.join(times)}, and the time between two invocations of a process (a minute has {INVOCATIONS}). The "
            f"processes start evenly over the first {SCALED['CERBERUS_MAX_AGE'] / 60:g} minutes. Not scaled: the response "
            f"time of Cerberus ({self.response_seconds:g} s), the timeouts of requests to Cerberus and the table, the lock of "
            f"a container (read timeout + 1 s), the wait for a refresh (2 s) and the pauses after failures. Relative to "
            f"CERBERUS_MAX_AGE, these are {self.factor:g} times as long as in an hour of real time."
        )


class _Arrivals:
    """Records when requests arrive at a server, and measures the longest response."""

    def __init__(self, respond: Callable[[Request], Response]) -> None:
        self._respond = respond
        self._lock = threading.Lock()
        self._times: list[float] = []
        self.longest = 0.0

    def __call__(self, request: Request) -> Response:
        began = time.monotonic()
        try:
            return self._respond(request)
        finally:
            with self._lock:
                self._times.append(began)
                self.longest = max(self.longest, time.monotonic() - began)

    @property
    def busiest_second(self) -> int:
        """Return the highest number of requests in one second."""
        return max(Counter(map(int, self._times)).values(), default=0)

    def by_parts(self, began: float, seconds: float, count: int) -> list[int]:
        """Return the number of requests in each of the first parts of the run."""
        parts = Counter(int((each - began) / seconds) for each in self._times)
        return [parts[number] for number in range(count)]


def run(plan: Plan, sharing: bool, progress: Callable[[str], None]) -> Figures:
    """Run the fleet once, and return its counts and times."""
    name = "with table and key" if sharing else "each process alone"
    with _services(plan, sharing) as (stack, environment), tempfile.TemporaryFile("w+") as log:
        arrivals = stack.aws.server.respond = _Arrivals(stack.aws.server.respond)
        at_cerberus = stack.cerberus.server.respond = _Arrivals(stack.cerberus.server.respond)
        reader, writer = os.pipe()
        cpu, began = time.process_time(), time.monotonic()
        with contextlib.ExitStack() as fleet:
            fleet.callback(os.close, reader)
            fleet.callback(os.close, writer)
            pause = 60 / INVOCATIONS / plan.factor
            command = [sys.executable, str(PROCESS), str(began + plan.seconds), str(pause), *plan.paths]
            members: list[subprocess.Popen[bytes]] = []
            most_alive = 0
            shown, tenth = began, plan.seconds / 10
            while (elapsed := time.monotonic() - began) < plan.seconds:
                due = int(plan.processes * elapsed / min(plan.max_age, plan.seconds / 2)) + 1
                if len(members) < min(due, plan.processes):
                    members.append(subprocess.Popen(command, env=environment, stdout=writer, stderr=log))
                    fleet.callback(_end, members[-1])
                    continue
                time.sleep(min(0.02, plan.seconds / 100))
                if time.monotonic() - shown >= tenth:
                    shown += tenth
                    alive = sum(member.poll() is None for member in members)
                    most_alive = max(most_alive, alive)
                    seen = ", ".join(f"{count:,} {what}" for what, count in _counts(stack).items())
                    progress(f"{name}, minute {elapsed * plan.factor / 60:.0f}: {alive} processes; {seen}\n")
            cpu = time.process_time() - cpu
            found = _counts(stack)
            seen_by_processes = list(_reports(reader, len(members)))
        log.seek(0)
        warnings = log.read().splitlines()
        errors = [error for each in seen_by_processes for error in each["errors"]]
        for line in list(dict.fromkeys([*errors, *warnings]))[:5]:
            progress(f"{name}: {line}\n")
        return {
            **found,
            "processes_alive": most_alive,
            "process_reads": sum(each["reads"] for each in seen_by_processes),
            "failed_reads": sum(each["failed"] for each in seen_by_processes),
            "oldest_max_ages": round(max(each["oldest"] for each in seen_by_processes) / plan.max_age, 2),
            "longest_read_s": round(max(each["longest"] for each in seen_by_processes), 2),
            "warnings": len(warnings),
            "requests_by_five_minutes": at_cerberus.by_parts(began, 300 / plan.factor, math.ceil(plan.minutes / 5)),
            "aws_busiest_second": arrivals.busiest_second,
            "aws_longest_answer_s": round(arrivals.longest, 3),
            "calls_per_cpu_second": round(sum(found[what] for what in ("requests", "table", "kms")) / cpu),
        }


@contextlib.contextmanager
def _services(plan: Plan, sharing: bool) -> Iterator[tuple[LocalStack, dict[str, str]]]:
    """Start Cerberus and AWS, and return them with the environment of a process."""
    with LocalStack(tls=False) as stack:
        variables = {name: f"{seconds / plan.factor:g}" for name, seconds in SCALED.items()}
        if sharing:
            variables |= stack.share()
        stack.cerberus.key_arn(ROLE, stack.region)  # so that the first authentication does not take longer
        stack.cerberus.lease_seconds = round(LEASE / plan.factor)
        stack.cerberus.answer_after_seconds = plan.response_seconds
        respond, paths = stack.cerberus.server.respond, {f"/v1/secret/{path}": path for path in plan.paths}

        def stamped(request: Request) -> Response:
            """Write the time of the request into the secret, so that a process knows the age of what it reads."""
            if request.path in paths:
                stack.cerberus.put_secret(paths[request.path], {"password": "secret", "asked": repr(time.time())})
            return respond(request)

        stack.cerberus.server.respond = stamped
        variables |= {"AWS_LAMBDA_FUNCTION_NAME": "orders", "PYTHONPATH": str(ROOT / "layer"), "PATH": os.defpath}
        stack.aws.calls.clear()
        yield stack, stack.environment(ROLE, **variables)


def _counts(stack: LocalStack) -> dict[str, int]:
    """Count what has reached the services so far."""
    paths = [call.path for call in list(stack.cerberus.calls)]
    authentications = sum("/auth/" in path for path in paths)
    return {
        "requests": len(paths),
        "authentications": authentications,
        "reads": len(paths) - authentications,
        "table": stack.aws.count("dynamodb"),
        "kms": stack.aws.count("kms", account=Aws.FUNCTION_ACCOUNT),
    }


def _reports(reader: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield what each process saw. A read under way at the end can take 20 s."""
    text, until = b"", time.monotonic() + 30
    while text.count(b"\n") < count:
        ready, _, _ = select.select([reader], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise RuntimeError(f"Only {text.count(bytes([10]))} of {count} processes reported after 30 s.")
        text += os.read(reader, 65536)
    yield from map(json.loads, text.splitlines())


def _end(member: subprocess.Popen[bytes]) -> None:
    member.kill()  # it has reported
    member.wait()


ROWS = {
    "requests to Cerberus": "requests",
    "authentications": "authentications",
    "reads": "reads",
    "requests to the table": "table",
    "KMS calls": "kms",
    "processes at the same time": "processes_alive",
    "reads by the processes": "process_reads",
    "reads that failed": "failed_reads",
    "age of the oldest value served, in units of max_age": "oldest_max_ages",
    "longest read, s": "longest_read_s",
}


def table(figures: Figures) -> Iterator[str]:
    """Yield the lines of the table, in Markdown."""
    what = f"{figures['processes']} processes, {figures['secrets']} secrets, {figures['minutes']:g} minutes"
    yield f"| {what} | {' | '.join(figures['runs'])} |"
    yield f"| --- |{' ---: |' * len(figures['runs'])}"
    for name, key in ROWS.items():
        found = [run[key] for run in figures["runs"].values()]
        yield f"| {name} | {' | '.join(f'{each:,.2f}' if isinstance(each, float) else f'{each:,}' for each in found)} |"


def services(figures: Figures) -> str:
    """Return how close the services came to their limits."""
    found = figures["runs"]["table and key"]
    return wrapped(
        f"The services responded to {found['calls_per_cpu_second']:,} calls in a second of CPU. With table and key, DynamoDB "
        f"and KMS had {found['aws_busiest_second']:,} calls in the busiest second, and the longest took "
        f"{found['aws_longest_answer_s']:.2f} s."
    )


def is_met(figures: Figures) -> bool:
    """Tell whether the fleet with table and key stayed within the limit."""
    return bool(figures["runs"]["table and key"]["requests"] <= MOST_REQUESTS)


def main(arguments: list[str] | None = None) -> int:
    """Run the fleet twice and return the exit code: 0, or 1 if too many requests reach Cerberus with table and key."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    for name, default, kind, text in (
        ("processes", 200, int, "the number of processes"),
        ("secrets", 5, int, "the number of secrets that each process reads"),
        ("factor", 6, float, "how much faster than real time"),
        ("minutes", 60, float, "the minutes of the hour to run"),
        ("response-seconds", 0.3, float, "the response time of Cerberus"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--results", type=Path, help="the folder for the figures")
    given = parser.parse_args(arguments)
    plan = Plan(given.processes, given.secrets, given.factor, given.minutes, given.response_seconds)
    print(plan.explanation(), flush=True)

    def progress(text: str) -> None:
        print(text, end="", file=sys.stderr, flush=True)

    figures: Figures = {
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "load": os.getloadavg()[0],
        **plan._asdict(),
        "runs": {"table and key": run(plan, True, progress), "neither": run(plan, False, progress)},
    }
    print(f"\n{aligned(chr(10).join(table(figures)))}\n\n{services(figures)}\n")
    requests = figures["runs"]["table and key"]["requests"]
    print(f"{'met' if is_met(figures) else 'MISSED':6}  with table and key: {requests} requests ≤ {MOST_REQUESTS}")
    if given.results is not None:
        given.results.mkdir(exist_ok=True)
        (given.results / "fleet.json").write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if is_met(figures) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
