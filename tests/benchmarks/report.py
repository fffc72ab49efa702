"""The figures of a run, the tables, and the targets."""

from __future__ import annotations

import os
import platform
import re
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from zipfile import ZipFile

from local_stack.runtime import ROOT

from . import measure
from .contestants import BARE, FLOOR, HOP, POWERTOOLS_SECRET, SHARED, SIGNED, STRAIGHT, Contestant, versions
from .measure import Sample, Samples
from .tables import shown, wrapped

ARCHIVES = {"CerberusAuth": "cerberus-auth-layer.zip", "Powertools": "powertools-layer.zip"}
CACHED_READ = "read(), cached"
UNCACHED_READ = "cerberus-auth, read(max_age=0)"
PLAIN_READ = "http.client, a kept connection"
CERBERUS_SECONDS, AWS_SECONDS = 0.02, 0.002
"""Response times of the services in the measurement of the first use in a handler."""


class Target(NamedTuple):
    """A target with the figure measured."""

    text: str
    found: str
    limit: str
    met: bool


def figures(
    known: list[Contestant],
    samples: Samples,
    lambdas: dict[str, tuple[float, float]],
    handler: dict[str, dict[str, float]] | str,
    certificates: int,
) -> dict[str, Any]:
    """Return all figures for ``figures.json``: medians of paired differences, in milliseconds, MiB and nanoseconds.

    Parameters
    ----------
    handler
        The times of the first secret in a handler, or the reason why they were not measured.
    """
    cold = {each.name: _cold(samples, each, True) for each in known if each.cold and each != BARE}
    bare = {
        client: {
            "cpu_ms": round(median(sample.cpu["token"] for sample in samples[BARE.name, client]), 1),
            "peak_mib": round(median(sample.peak["token"] for sample in samples[BARE.name, client]) / 1024, 1),
        }
        for client in (False, True)
    }
    ours = [sample.imported for sample in samples[SIGNED.name, True]]
    return {
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "rounds": len(samples[BARE.name, True]),
        "certificates": certificates,
        "machine": machine(),
        "versions": versions(known),
        "bare_interpreter": bare[False],
        "with_runtime_client": bare[True],
        "cold": cold,
        "cold_over_bare_interpreter": {
            each.name: _cold(samples, each, False) for each in known if each.cold and each != BARE
        },
        "import_ms": {
            "wall": round(median(wall for wall, _ in ours), 2),
            "cpu": round(median(cpu for _, cpu in ours), 2),
        },
        "warm_ns": _calls(known, samples, lambda sample: sample.warm),
        "uncached_cpu_ns": _calls(known, samples, lambda sample: sample.uncached),
        "handler_ms": handler
        if isinstance(handler, str)
        else {name: {size: round(time, 1) for size, time in sizes.items()} for name, sizes in handler.items()},
        "lambda_ms": {
            name: {"init": round(init, 1), "first_invocation": round(first, 1)}
            for name, (init, first) in lambdas.items()
        },
        "layers": {layer: _sizes(ROOT / "build" / archive) for layer, archive in ARCHIVES.items()},
    }


def _calls(known: list[Contestant], samples: Samples, times: Callable[[Sample], dict[str, float]]) -> dict[str, float]:
    """Return nanoseconds for each call. Only one variant of this package counts, because its variants do not differ here."""
    return {
        what: round(median(times(sample)[what] for sample in samples[each.name, True]), 1)
        for each in known
        if each.module != "ours" or each.name == SIGNED.name
        for what in times(samples[each.name, True][0])
    }


def _cold(samples: Samples, contestant: Contestant, client: bool) -> dict[str, Any]:
    """Return the figures of a cold start. For clients without a token, the first secret replaces it."""
    kinds = {"cpu_ms": measure.cpu, "wall_ms": measure.wall, "peak_mib": measure.peak}
    return {
        kind: {step: round(find(samples, contestant.name, step, client), 1) for step in measure.STEPS}
        for kind, find in kinds.items()
    }


def machine() -> dict[str, Any]:
    processor = platform.machine()
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "processor": found[1] if found else processor,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
        "system": f"{platform.system()} {platform.release().partition('-')[0]} {processor}",
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION.split()[1],
    }


def _sizes(archive: Path) -> dict[str, dict[str, int]]:
    """Return the size in KiB of each part, unpacked and zipped: packages, and byte-code for each Python version."""
    parts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    with ZipFile(archive) as zipped:
        for entry in zipped.infolist():
            name = entry.filename.removeprefix("python/")
            compiled = re.search(r"\.cpython-3(\d+)\.pyc$", name)
            part = re.split(r"[/-]", name)[0].removesuffix(".py")
            if name.startswith("cerberus_auth/authorities/"):
                part = "cerberus_auth, authorities"
            for each in ("all", f"byte-code, Python 3.{compiled[1]}" if compiled else part):
                parts[each][0] += entry.file_size
                parts[each][1] += entry.compress_size
    parts["all"][1] = archive.stat().st_size
    order = sorted(parts, key=lambda part: (part == "all", part.startswith("byte-code"), part))
    return {part: {"kib": round(parts[part][0] / 1024), "zipped_kib": round(parts[part][1] / 1024)} for part in order}


def table(found: dict[str, Any], targets: list[Target]) -> str:
    """Return the tables in Markdown, with at most 100 columns when aligned."""
    return "\n".join(_lines(found, targets)) + "\n"


def _lines(found: dict[str, Any], targets: list[Target]) -> Iterator[str]:
    machine = found["machine"]
    yield wrapped(
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, Python "
        f"{machine['python']}, OpenSSL {machine['openssl']}; "
        f"{', '.join(f'{name} {version}' for name, version in found['versions'].items())}. Medians of the paired differences "
        f"of {found['rounds']} rounds. Each sample is a new process; TLS trusts {found['certificates']} authorities. "
        "cerberus-auth loads only the authority that it needs from its layer; with AWS_CA_BUNDLE it loads all of them, like "
        "the other clients. The floor sends two requests with a signature, without checks, retries or caching."
    )
    yield from _cold_lines(found)
    yield from ("", "A call in a warm container that a cache serves:", "", "| cached call | µs |", "| --- | ---: |")
    for what, nanoseconds in sorted(found["warm_ns"].items(), key=lambda each: float(each[1])):
        yield f"| {what} | {shown(nanoseconds / 1000)} |"
    yield from ("", "A read that reaches the service, over a reused connection unless stated otherwise:", "")
    yield from ("| uncached call | CPU, µs | / http.client |", "| --- | ---: | ---: |")
    least = found["uncached_cpu_ns"][PLAIN_READ]
    for what, nanoseconds in sorted(found["uncached_cpu_ns"].items(), key=lambda each: float(each[1])):
        yield f"| {what} | {nanoseconds / 1000:.0f} | {nanoseconds / least:.2f} |"
    yield from _handler_lines(found["handler_ms"])
    yield from ("", f"`import cerberus_auth`: {found['import_ms']['wall']:.1f} ms.")
    for layer, sizes in found["layers"].items():
        yield from ("", f"| {layer} layer | KiB | zipped |", "| --- | ---: | ---: |")
        for part, size in sizes.items():
            yield f"| {part} | {size['kib']} | {size['zipped_kib']} |"
    if targets:
        yield from ("", "| target | measured | limit | |", "| --- | ---: | ---: | --- |")
        for target in targets:
            yield f"| {target.text} | {target.found} | {target.limit} | {'met' if target.met else 'MISSED'} |"


def _cold_lines(found: dict[str, Any]) -> Iterator[str]:
    base, floor = found["with_runtime_client"], found["cold"][FLOOR.name]["cpu_ms"]
    rows = sorted(found["cold"].items(), key=lambda each: float(each[1]["cpu_ms"]["token"]))
    yield from (
        "",
        "In addition to an interpreter with Lambda's runtime client "
        f"({base['cpu_ms']:.0f} ms CPU, {base['peak_mib']:.0f} MiB).",
        "Clients without a token show their first secret in that column.",
        "",
        "| cold start, CPU in ms | token | / floor | secret | / floor | MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    )
    for name, row in rows:
        cpu = row["cpu_ms"]
        yield (
            f"| {name} | {cpu['token']:.0f} | {cpu['token'] / floor['token']:.2f} | {cpu['secret']:.0f} "
            f"| {cpu['secret'] / floor['secret']:.2f} | {row['peak_mib']['secret']:.1f} |"
        )
    yield from (
        "",
        "| cold start, elapsed ms | token | secret | INIT | first invocation |",
        "| --- | ---: | ---: | ---: | ---: |",
    )
    for name, row in rows:
        wall, inside = row["wall_ms"], found["lambda_ms"][name]
        yield (
            f"| {name} | {wall['token']:.0f} | {wall['secret']:.0f} | {inside['init']:.0f} "
            f"| {inside['first_invocation']:.0f} |"
        )
    inside = found["lambda_ms"][BARE.name]
    yield from (
        "",
        wrapped(
            "INIT and the first invocation are measured in AWS's runtime emulator. An empty function takes "
            f"{inside['init']:.0f} ms and {inside['first_invocation']:.0f} ms."
        ),
        "",
        f"In addition to a bare interpreter ({found['bare_interpreter']['cpu_ms']:.0f} ms CPU, "
        f"{found['bare_interpreter']['peak_mib']:.0f} MiB), without the runtime client:",
        "",
        "| cold start, CPU in ms | token | secret | MiB |",
        "| --- | ---: | ---: | ---: |",
    )
    rows = sorted(found["cold_over_bare_interpreter"].items(), key=lambda each: float(each[1]["cpu_ms"]["token"]))
    for name, row in rows:
        cpu = row["cpu_ms"]
        yield f"| {name} | {cpu['token']:.0f} | {cpu['secret']:.0f} | {row['peak_mib']['secret']:.1f} |"


def _handler_lines(found: dict[str, dict[str, float]] | str) -> Iterator[str]:
    if isinstance(found, str):
        yield from ("", wrapped(f"The first secret in a handler with a CPU quota was not measured: {found}."))
        return
    rows = sorted(found.items(), key=lambda row: next(iter(row[1].values())))
    sizes = rows[0][1]
    yield from (
        "",
        wrapped(
            "The first secret in a handler. Imports and the creation of clients run before, with a full CPU as in INIT. "
            f"Cerberus responds in {CERBERUS_SECONDS * 1e3:.0f} ms, AWS in {AWS_SECONDS * 1e3:.0f} ms."
        ),
        "",
        f"| first use, elapsed ms | {' | '.join(f'{int(size):,} MB' for size in sizes)} |",
        f"| --- |{' ---: |' * len(sizes)}",
    )
    for name, times in rows:
        yield f"| {name} | {' | '.join(f'{time:.0f}' for time in times.values())} |"


def targets(found: dict[str, Any]) -> list[Target]:
    """Return the package's targets, each with the figure measured."""
    cold, warm, uncached = found["cold"], found["warm_ns"], found["uncached_cpu_ns"]

    def cpu(name: str, step: str = "token") -> float:
        return float(cold[name]["cpu_ms"][step])

    def memory(name: str) -> float:
        return float(cold[name]["peak_mib"]["secret"])

    ours = cpu(SIGNED.name)
    checked = [
        _at_most("CPU to the token, compared with the floor", ours / cpu(FLOOR.name), 0.75, "times"),
        _at_most(
            "CPU to the first secret, compared with the floor",
            cpu(SIGNED.name, "secret") / cpu(FLOOR.name, "secret"),
            0.78,
            "times",
        ),
    ]
    for name in cold:
        if name in (STRAIGHT.name, POWERTOOLS_SECRET.name) or "1.4.0" in name:
            checked.append(_at_least(f"CPU to the token, {_short(name)}", cpu(name) / ours, 6, "times"))
        elif "2.5.4" in name or "caching" in name:
            checked.append(_at_least(f"CPU to the token, {_short(name)}", cpu(name) / ours, 3, "times"))
    handler = found["handler_ms"]
    if not isinstance(handler, str):
        part = handler[SIGNED.name]["128"] / handler[POWERTOOLS_SECRET.name]["128"]
        checked.append(_at_most("first use at 128 MB, compared with Powertools", part, 0.1, "times"))
    found_wall, asked_wall = (float(cold[each.name]["wall_ms"]["token"]) for each in (SHARED, SIGNED))
    token, read, powertools = warm["token()"], warm[CACHED_READ], warm["get_secret(), cached"]
    hop = min(nanoseconds for what, nanoseconds in warm.items() if what.startswith(HOP.name))
    return [
        *checked,
        _at_most("CPU from the token to the first secret", cpu(SIGNED.name, "secret") - ours, 10, "ms"),
        _at_most("time to the token, shared cache minus Cerberus", found_wall - asked_wall, 0, "ms"),
        _at_most("import cerberus_auth", found["import_ms"]["wall"], 10, "ms"),
        _at_most("warm token()", token / 1000, 0.2, "µs"),
        _at_most("cached read", read / 1000, 0.6, "µs"),
        _at_most("cached read, compared with Powertools' cached get", read / powertools, 1 / 3, "times"),
        _at_least("loopback request, compared with cached read", hop / read, 100, "times"),
        _at_most(
            "uncached read, CPU compared with http.client", uncached[UNCACHED_READ] / uncached[PLAIN_READ], 1.4, "times"
        ),
        _at_most("memory, compared with boto3 + requests", memory(SIGNED.name) / memory(STRAIGHT.name), 0.25, "times"),
        _at_most("duration of this run", found["minutes"], 10, "minutes"),
    ]


def _short(name: str) -> str:
    return name.partition(" (")[0]


def _at_most(what: str, figure: float, limit: float, unit: str) -> Target:
    return Target(what, f"{figure:.3g} {unit}", f"≤ {limit:.3g}", figure <= limit)


def _at_least(what: str, figure: float, limit: float, unit: str) -> Target:
    return Target(what, f"{figure:.3g} {unit}", f"≥ {limit:.3g}", figure >= limit)
