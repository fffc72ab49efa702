"""``make bench`` in small: one round, and none of the peers that need environments of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from benchmarks import plot, report, tables

ROOT = Path(__file__).resolve().parents[2]
OURS = {
    "cerberus-auth",
    "cerberus-auth, no byte-code",
    "cerberus-auth, with AWS_CA_BUNDLE",
    "cerberus-auth, SDK client",
}


def test_one_round_measures_every_way_and_writes_what_the_charts_show(tmp_path: Path) -> None:
    arguments = ["--rounds", "1", "--containers", "1", "--no-peers", "--results", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks", *arguments]
    ended = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'layer'}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["cold"]) >= OURS
    assert set(figures["lambda_ms"]) >= OURS
    assert {"token()", "read(), cached", "get_secret(), cached", "loopback hop, requests"} <= set(figures["warm_ns"])
    assert {report.UNCACHED_READ, report.PLAIN_READ, "requests, a session"} <= set(figures["uncached_cpu_ns"])
    if isinstance(figures["handler_ms"], str):  # why this machine cannot limit the CPU of a process
        assert figures["handler_ms"] in ended.stdout.replace("\n", " ")
    else:
        assert set(figures["handler_ms"]["cerberus-auth"]) == {"128", "512", "1769"}
    table = (tmp_path / "table.md").read_text()
    assert table in ended.stdout
    assert max(map(len, tables.aligned(table).splitlines())) <= tables.COLUMNS
    drawn = {
        name: " ".join(ElementTree.fromstring(chart).itertext())  # noqa: S314  (our own)
        for name, chart in plot.charts(figures).items()
    }
    for name in OURS:
        assert f"| {name} |" in table
        assert plot.name_of(name) in drawn["cold-start.svg"]
    assert "cerberus-auth read()" in drawn["cached-read.svg"]
    assert "token()" not in drawn["cached-read.svg"]
    assert "cerberus-auth read(max_age=0)" in drawn["uncached-read.svg"]
