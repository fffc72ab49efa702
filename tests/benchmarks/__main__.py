"""Compare times, memory and sizes with other clients, and check the targets.

``make bench`` prints the tables. ``make figures`` also writes them into the repository.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from local_stack.runtime import MissingPrerequisiteError

from . import contestants, measure, report
from .quota import QuotaUnavailableError
from .services import Services
from .tables import aligned


def _progress(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _run(rounds: int, containers: int, with_peers: bool, results: Path | None) -> int:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cerberus-auth-") as name:
        folder = Path(name)
        _progress("Compiling the packages, and starting Cerberus and AWS ...\n")
        with Services() as services:
            known = [contestants.BARE, contestants.FLOOR, *contestants.ours(services.bundle, folder)]
            known += [contestants.STRAIGHT, contestants.POWERTOOLS_SECRET, contestants.SDK_SECRET]
            known += [contestants.POOL, contestants.HOP]
            if with_peers:
                known += contestants.peers()
            processes = contestants.compile_all(known, folder)
            samples = measure.cold(known, processes, services.environment, rounds, _progress)
            inside = [each for each in known if each.in_lambda]
            lambdas = measure.in_lambda(inside, processes, folder, services.environment, containers, _progress)
            handler: dict[str, dict[str, float]] | str
            try:
                first = [each for each in known if each.in_handler]
                with services.latency(report.CERBERUS_SECONDS, report.AWS_SECONDS):
                    handler = measure.in_handler(first, processes, services.environment, containers, _progress)
            except QuotaUnavailableError as unavailable:
                handler = str(unavailable)
            certificates = services.certificates
    figures = report.figures(known, samples, lambdas, handler, certificates)
    figures["minutes"] = round((time.monotonic() - started) / 60, 1)
    targets = report.targets(figures) if with_peers else []
    table = report.table(figures, targets)
    if results is None:
        print(aligned(table))
    else:
        _write(results, figures, table)
        print(table)
    return 0 if all(target.met for target in targets) else 1


def _write(results: Path, figures: dict[str, Any], table: str) -> None:
    results.mkdir(exist_ok=True)
    (results / "figures.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    (results / "table.md").write_text(table)


def main() -> int:
    """Run the benchmarks and return the exit code: 0, 1 if a target is missed, 2 if a prerequisite is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=30, help="the number of rounds of cold processes (default: %(default)s)"
    )
    parser.add_argument(
        "--containers", type=int, default=7, help="the number of containers for each client (default: %(default)s)"
    )
    parser.add_argument("--no-peers", action="store_true", help="skip the clients that need their own environment")
    parser.add_argument("--results", type=Path, help="the folder for the table and the figures")
    given = parser.parse_args()
    try:
        return _run(given.rounds, given.containers, not given.no_peers, given.results)
    except MissingPrerequisiteError as missing:
        print(f"The benchmarks cannot start: {missing}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
