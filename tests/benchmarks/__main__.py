"""``make bench``: what a token costs, beside other ways to it. Writes ``results/``, and says which of the aims are met."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from local_stack.runtime import MissingPrerequisiteError

from . import contestants, measure, plot, report
from .services import Services

RESULTS = Path(__file__).with_name("results")


def _progress(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _run(rounds: int, containers: int, with_peers: bool, results: Path) -> int:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cerberus-auth-") as name:
        folder = Path(name)
        _progress("Compiling what is not compiled yet, and starting Cerberus and AWS ...\n")
        with Services() as services:
            known = [contestants.BARE, contestants.FLOOR, *contestants.ours(services.bundle, folder)]
            known += [contestants.STRAIGHT, contestants.POWERTOOLS_SECRET, contestants.HOP]
            if with_peers:
                known += contestants.peers()
            processes = contestants.compile_all(known, folder)
            samples = measure.cold(known, processes, services.environment, rounds, _progress)
            inside = [each for each in known if each.in_lambda]
            lambdas = measure.in_lambda(inside, processes, folder, services.environment, containers, _progress)
            certificates = services.certificates
    figures = report.figures(known, samples, lambdas, certificates)
    figures["minutes"] = round((time.monotonic() - begun) / 60, 1)
    results.mkdir(exist_ok=True)
    (results / "figures.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    (results / "table.md").write_text(report.table(figures))
    (results / "cold.svg").write_text(plot.bars(figures))
    (results / "warm.svg").write_text(plot.cold_and_warm(figures))
    print(report.table(figures))
    aims = report.aims(figures) if with_peers else []
    for aim in aims:
        print(f"{'holds' if aim.holds else 'FAILS'}  {aim.text}")
    return 0 if all(aim.holds for aim in aims) else 1


def main() -> int:
    """Return the exit code: 0, or 1 if an aim is not met, or 2 if something is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="of cold processes (default: %(default)s)")
    parser.add_argument("--containers", type=int, default=7, help="of each contestant (default: %(default)s)")
    parser.add_argument("--no-peers", action="store_true", help="leave out those with environments of their own")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write (default: results/)")
    given = parser.parse_args()
    try:
        return _run(given.rounds, given.containers, not given.no_peers, given.results)
    except MissingPrerequisiteError as missing:
        print(f"Cannot run the benchmarks: {missing}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
