"""``make charts``: draw the charts, and fill the tables of the documentation, from the last figures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from local_stack.runtime import ROOT
from simulation import plot as simulation_plot

from . import fleet, plot
from .architecture import architecture
from .diagrams import diagrams
from .tables import aligned, shown

DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", DOCS / "explanation" / "benchmarks.md")
FLEET = ROOT / "tests" / "benchmarks" / "results" / "fleet.json"
_TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Figures = dict[str, Any]


def figures(name: str) -> Figures:
    """Return the figures of ``benchmarks`` or ``simulation``."""
    found: Figures = json.loads((ROOT / "tests" / name / "results" / "figures.json").read_text(encoding="utf-8"))
    return found


def files(measured: Figures, simulated: Figures) -> dict[Path, str]:
    """Return what is drawn and written, by path."""
    charts = plot.charts(measured) | simulation_plot.charts(simulated)
    tables = {name: "\n".join(lines) for name, lines in _tables(measured, simulated)}
    tables["real-fleet"] = "\n".join(fleet.table(json.loads(FLEET.read_text(encoding="utf-8"))))
    return {
        DOCS / "architecture.svg": architecture(),
        **{DOCS / "diagrams" / name: diagram for name, diagram in diagrams().items()},
        **{DOCS / "charts" / name: chart for name, chart in charts.items()},
        **{page: filled(page.read_text(encoding="utf-8"), tables) for page in PAGES},
    }


def filled(page: str, tables: Mapping[str, str]) -> str:
    """Return a page with the tables between its marks. A table that was not measured stays as it is."""

    def fill(found: re.Match[str]) -> str:
        return f"{found[1]}\n{aligned(tables[found[2]])}\n\n{found[3]}" if found[2] in tables else found[0]

    return _TABLE.sub(fill, page)


def _tables(measured: Figures, simulated: Figures) -> Iterator[tuple[str, Iterator[str]]]:
    if not isinstance(measured["handler_ms"], str):
        yield "headlines", _headlines(measured, simulated["simulated"])
    yield "machine", _machine(measured)
    yield "cold-start", _cold(measured)
    yield "lambda", _in_lambda(measured)
    yield "cached", _calls("cached call", "microseconds", measured["warm_ns"])
    yield "uncached", _calls("uncached read", "microseconds of CPU", measured["uncached_cpu_ns"])
    if not isinstance(measured["handler_ms"], str):
        yield "first-use", _first_use(measured["handler_ms"])
    yield "layers", _layers(measured["layers"])
    yield "fleets", _fleets(simulated["simulated"])
    yield "peers", _peers(simulated["simulated"])


def _headlines(measured: Figures, simulated: Mapping[str, Figures]) -> Iterator[str]:
    powertools, nike = "Powertools get_secret (Secrets Manager)", "cerberus-python-client 1.4.0 (KMS)"
    cold, first_use, cached = measured["cold"], measured["handler_ms"], measured["warm_ns"]
    fleet = simulated["1,000 for 2 hours, 5 secrets"]
    yield "| | cerberus-auth | Nike's client 1.4.0 | boto3 + requests | Powertools, Secrets Manager |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    secrets = [cold[name]["cpu_ms"]["secret"] for name in ("cerberus-auth", nike, "boto3 + requests", powertools)]
    yield f"| cold start to the first secret, CPU ms | {' | '.join(map(shown, secrets))} |"
    first = [shown(first_use[name]["128"]) for name in ("cerberus-auth", "boto3 + requests", powertools)]
    yield f"| first secret in a 128 MB handler, ms | {first[0]} | not measured | {first[1]} | {first[2]} |"
    own, peer = cached["read(), cached"] / 1000, cached["get_secret(), cached"] / 1000
    yield f"| cached read, µs | {shown(own)} | no cache | no cache | {shown(peer)} |"
    peers = [fleet["peers"][name][0] for name in ("cerberus-python-client", "boto3 + requests", "Powertools")]
    requests = [fleet["requests"], *peers]
    yield f"| requests of 1,000 containers, 5 secrets, 2 hours | {' | '.join(map(shown, requests))} |"


def _machine(found: Figures) -> Iterator[str]:
    machine = found["machine"]
    yield from ("| | |", "| --- | --- |")
    yield f"| measured | {found['measured']}, {found['rounds']} rounds |"
    yield f"| machine | {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB |"
    yield f"| system | {machine['system']}, Python {machine['python']}, OpenSSL {machine['openssl']} |"
    yield f"| compared | {', '.join(f'{name} {version}' for name, version in found['versions'].items())} |"


def _cold(found: Figures) -> Iterator[str]:
    floor = next(float(row["cpu_ms"]["secret"]) for name, row in found["cold"].items() if "floor" in name)
    yield "| cold start to the first secret | CPU, ms | CPU / floor | elapsed, ms | memory, MiB |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, row in sorted(found["cold"].items(), key=lambda each: float(each[1]["cpu_ms"]["secret"])):
        cpu, wall, memory = (row[kind]["secret"] for kind in ("cpu_ms", "wall_ms", "peak_mib"))
        yield f"| {plot.name_of(name)} | {shown(cpu)} | {cpu / floor:.2f} | {shown(wall)} | {memory} |"


def _in_lambda(found: Figures) -> Iterator[str]:
    yield from ("| in the runtime emulator | initialization, ms | first invocation, ms |", "| --- | ---: | ---: |")
    for name, row in sorted(found["lambda_ms"].items(), key=lambda each: sum(each[1].values())):
        called = "an empty function" if name.startswith("a bare") else plot.name_of(name)
        yield f"| {called} | {shown(row['init'])} | {shown(row['first_invocation'])} |"


def _calls(what: str, unit: str, nanoseconds: Mapping[str, float]) -> Iterator[str]:
    yield from (f"| {what} | {unit} |", "| --- | ---: |")
    for name, each in sorted(nanoseconds.items(), key=lambda row: float(row[1])):
        yield f"| {plot.name_of(name)} | {shown(each / 1000)} |"


def _first_use(found: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    sizes = next(iter(found.values()))
    yield f"| first use, elapsed ms | {' | '.join(f'{int(size):,} MB' for size in sizes)} |"
    yield f"| --- |{' ---: |' * len(sizes)}"
    for name, times in sorted(found.items(), key=lambda row: next(iter(row[1].values()))):
        yield f"| {plot.name_of(name)} | {' | '.join(map(shown, times.values()))} |"


def _layers(found: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Iterator[str]:
    yield from ("| layer | unpacked, KiB | zipped, KiB |", "| --- | ---: | ---: |")
    for name, parts in found.items():
        yield f"| {name} | {parts['all']['kib']:,} | {parts['all']['zipped_kib']:,} |"


def _fleets(found: Mapping[str, Figures]) -> Iterator[str]:
    yield "| containers | authentications | requests | in the busiest hour | reads without a secret | longest call, s |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for name, row in found.items():
        yield (
            f"| {name} | {row['authentications']:,} | {row['requests']:,} | {row['busiest_hour']:,} "
            f"| {row['without_a_secret']:,} | {row['wait_s']['most']:.2f} |"
        )


def _peers(found: Mapping[str, Figures]) -> Iterator[str]:
    shown_rows = [(name, row) for name, row in found.items() if simulation_plot.is_burst(name) or "5 secrets" in name]
    names = list(shown_rows[0][1]["peers"])
    yield f"| containers | cerberus-auth | {' | '.join(names)} |"
    yield f"| --- | ---: |{' ---: |' * len(names)}"
    for name, row in shown_rows:
        yield f"| {name} | {row['requests']:,} | {' | '.join(f'{calls:,}' for calls, _ in row['peers'].values())} |"


if __name__ == "__main__":
    for path, text in files(figures("benchmarks"), figures("simulation")).items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
