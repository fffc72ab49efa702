"""Simulate fleets of up to a million containers, and check the targets (``make simulate``)."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.tables import aligned
from integration.fleet import Fleet, sharing_stack

from . import report
from .scenarios import TABLE_DOWN, Scenario, at_once, hours, others, trend

MOST_AUTHENTICATIONS = 5  # for a role in a region, in each lease
MOST_REQUESTS = 100  # in any hour, with up to 10,000 containers


def _simulate(scenarios: list[Scenario]) -> dict[str, dict[str, Any]]:
    found = {}
    for scenario in scenarios:
        started = time.monotonic()
        print(f"{scenario.name} ... ", end="", file=sys.stderr, flush=True)
        found[scenario.name] = report.figures(scenario, scenario.run())
        print(f"{time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return found


def _measure(counts: list[int]) -> dict[str, Any]:
    """Run real processes, and the model with the same number."""
    found = {}
    for count in counts:
        print(f"{count} processes ... ", end="", file=sys.stderr, flush=True)
        with sharing_stack() as (stack, variables), Fleet(count, variables) as fleet:
            failed = [result.error for result in fleet.release() if result.error]
            if failed:
                raise RuntimeError(f"{len(failed)} of {count} processes failed: {failed[0]}")
            measured = stack.cerberus.authentications
        modelled = Scenario(str(count), at_once(count)).run()
        found[str(count)] = {
            "authentications": measured,
            "model_authentications": modelled.authentications,
        }
        print("done", file=sys.stderr, flush=True)
    return found


def main() -> int:
    """Run the simulation and return the exit code: 0, or 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument(
        "--most", type=int, default=1_000_000, help="the size of the largest fleet (default: %(default)s)"
    )
    parser.add_argument("--no-processes", action="store_true", help="skip the comparison with real processes")
    parser.add_argument("--results", type=Path, help="the folder for the table and the figures")
    given = parser.parse_args()
    bursts = _simulate(trend(given.most))
    found = bursts | _simulate(hours()) | _simulate(others())
    measured = None if given.no_processes else _measure([10, 50, 200])
    targets = {
        f"{name}: authentications {row['authentications']} ≤ {MOST_AUTHENTICATIONS}": row["authentications"]
        <= MOST_AUTHENTICATIONS
        for name, row in bursts.items()
    }
    for name, row in found.items():
        if row["containers"] <= 10_000 and name != TABLE_DOWN:
            targets[f"{name}: requests in the peak hour {row['busiest_hour']} ≤ {MOST_REQUESTS}"] = (
                row["busiest_hour"] <= MOST_REQUESTS
            )
        targets[f"{name}: failed reads of warm containers {row['lost']} = 0"] = row["lost"] == 0
    for count, row in (measured or {}).items():
        apart = abs(row["authentications"] - row["model_authentications"])
        targets[f"{count} processes: difference to the model {apart} ≤ 2"] = apart <= 2
    table = report.table(found, measured)
    if given.results is None:
        print(aligned(table))
    else:
        given.results.mkdir(exist_ok=True)
        figures = {"simulated": found, "measured": measured}
        (given.results / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
        (given.results / "table.md").write_text(table)
        print(table)
    for target, is_met in targets.items():
        print(f"{'met' if is_met else 'MISSED':6}  {target}")
    return 0 if all(targets.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
