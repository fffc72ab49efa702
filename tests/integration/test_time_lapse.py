"""``make fleet`` in small: a few processes, ten minutes of the hour in three seconds, with and without the shared cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import fleet, tables

ROOT = Path(__file__).resolve().parents[2]
PROCESSES, SECRETS = 6, 5


def test_fewer_requests_reach_cerberus_with_table_and_key(tmp_path: Path) -> None:
    sizes = {"processes": PROCESSES, "secrets": SECRETS, "factor": 200, "minutes": 10, "response-seconds": 0.05}
    arguments = [f"--{name}={value}" for name, value in sizes.items()]
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.fleet", *arguments, "--results", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'layer'}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    figures = json.loads((tmp_path / "fleet.json").read_text())
    shared, alone = figures["runs"]["table and key"], figures["runs"]["neither"]
    # Each process alone authenticates once, and reads each secret at least once.
    assert alone["requests"] >= PROCESSES * (1 + SECRETS)
    assert alone["table"] == 0 < shared["table"]
    # Together they authenticate once, and read each secret once in 4.5 minutes at most. One process can be late for the table.
    assert 1 + SECRETS <= shared["requests"] <= 1 + 3 * SECRETS + 1 + SECRETS < alone["requests"]
    for each in (shared, alone):
        assert each["requests"] == each["authentications"] + each["reads"]
        assert each["failed_reads"] == 0
        assert each["processes_alive"] == PROCESSES
    table = "\n".join(fleet.table(figures))
    assert tables.aligned(table) in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= tables.COLUMNS
    figures["runs"]["table and key"]["requests"] = fleet.MOST_REQUESTS + 1
    assert not fleet.is_met(figures)
