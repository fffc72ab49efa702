"""The figures of a run, the table made of them, and the aims they are held against."""

from __future__ import annotations

import os
import platform
import re
import ssl
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from zipfile import ZipFile

from local_stack.runtime import ROOT

from . import measure
from .contestants import BARE, FLOOR, HOP, POWERTOOLS_SECRET, SHARED, SIGNED, STRAIGHT, Contestant, versions
from .measure import Samples

ARCHIVES = {"CerberusAuth": "cerberus-auth-layer.zip", "Powertools": "powertools-layer.zip"}
NO_TOKEN = ("powertools", "caching")


class Aim(NamedTuple):
    """What is to hold, with the figure found."""

    text: str
    holds: bool


def figures(
    known: list[Contestant], samples: Samples, lambdas: dict[str, tuple[float, float]], certificates: int
) -> dict[str, Any]:
    """All that was found, for ``figures.json``. Milliseconds, MiB and nanoseconds; medians of paired differences."""
    cold = {each.name: _cold(samples, each, True) for each in known if each.cold and each != BARE}
    warm = {
        what: round(median(sample.warm[what] for sample in samples[each.name, True]), 1)
        for each in known
        if each.module != "ours" or each.name == SIGNED.name
        for what in samples[each.name, True][0].warm
    }
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
        "machine": _machine(),
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
        "warm_ns": warm,
        "lambda_ms": {
            name: {"init": round(init, 1), "first_invocation": round(first, 1)}
            for name, (init, first) in lambdas.items()
        },
        "layers": {layer: _sizes(ROOT / "build" / archive) for layer, archive in ARCHIVES.items()},
    }


def _cold(samples: Samples, contestant: Contestant, client: bool) -> dict[str, Any]:
    """Of those without a token, what the first secret takes stands for it."""
    kinds = {"cpu_ms": measure.cpu, "wall_ms": measure.wall, "peak_mib": measure.peak}
    return {
        kind: {step: round(find(samples, contestant.name, step, client), 1) for step in measure.STEPS}
        for kind, find in kinds.items()
    }


def _machine() -> dict[str, Any]:
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
    """KiB by part, in the layer and in its zip: sources and data by package, byte-code by Python."""
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


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: dict[str, Any]) -> Iterator[str]:
    machine, cold = found["machine"], found["cold"]
    floor = cold[FLOOR.name]["cpu_ms"]["token"]
    yield (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, Python "
        f"{machine['python']}, OpenSSL {machine['openssl']}; "
        f"{', '.join(f'{name} {version}' for name, version in found['versions'].items())}. Medians of the paired differences "
        f"of {found['rounds']} rounds, whole processes, loopback TLS with {found['certificates']} authorities to trust: "
        "cerberus-auth looks for the one it needs in its layer, unless it is given a bundle as all others are."
    )
    base = found["with_runtime_client"]
    yield from (
        "",
        f"Over an interpreter with Lambda's runtime client ({base['cpu_ms']:.0f} ms CPU, {base['peak_mib']:.0f} MiB):",
        "",
        "| cold start | CPU to the token, ms | times the floor | to the first secret | wall to the token, ms "
        "| to the first secret | memory, MiB | INIT in the runtime, ms | first invocation |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    )
    for name, row in sorted(cold.items(), key=lambda each: float(each[1]["cpu_ms"]["token"])):
        cpu, wall = row["cpu_ms"], row["wall_ms"]
        inside = found["lambda_ms"][name]
        yield (
            f"| {name} | {cpu['token']:.0f} | {cpu['token'] / floor:.2f} | {cpu['secret']:.0f} | {wall['token']:.0f} "
            f"| {wall['secret']:.0f} | {row['peak_mib']['secret']:.1f} | {inside['init']:.0f} "
            f"| {inside['first_invocation']:.0f} |"
        )
    inside = found["lambda_ms"][BARE.name]
    yield from (
        "",
        "Where there is no token, that of the first secret stands for it. An empty function in the runtime: INIT "
        f"{inside['init']:.0f} ms, first invocation {inside['first_invocation']:.0f} ms.",
        "",
        f"Over a bare interpreter ({found['bare_interpreter']['cpu_ms']:.0f} ms CPU, "
        f"{found['bare_interpreter']['peak_mib']:.0f} MiB), without the runtime client:",
        "",
        "| cold start | CPU to the token, ms | to the first secret | memory, MiB |",
        "| --- | ---: | ---: | ---: |",
    )
    rows = found["cold_over_bare_interpreter"]
    for name, row in sorted(rows.items(), key=lambda each: float(each[1]["cpu_ms"]["token"])):
        cpu = row["cpu_ms"]
        yield f"| {name} | {cpu['token']:.0f} | {cpu['secret']:.0f} | {row['peak_mib']['secret']:.1f} |"
    yield from ("", "| warm, one more use | µs |", "| --- | ---: |")
    for what, nanoseconds in sorted(found["warm_ns"].items(), key=lambda each: float(each[1])):
        yield f"| {what} | {nanoseconds / 1000:.3g} |"
    yield from ("", f"`import cerberus_auth`: {found['import_ms']['wall']:.1f} ms.")
    for layer, sizes in found["layers"].items():
        yield from ("", f"| {layer} layer | KiB | zipped |", "| --- | ---: | ---: |")
        for part, size in sizes.items():
            yield f"| {part} | {size['kib']} | {size['zipped_kib']} |"


def aims(found: dict[str, Any]) -> list[Aim]:
    """What the package is to reach, each with the figure found."""
    cold, warm = found["cold"], found["warm_ns"]

    def cpu(name: str, step: str = "token") -> float:
        return float(cold[name]["cpu_ms"][step])

    def memory(name: str) -> float:
        return float(cold[name]["peak_mib"]["secret"])

    ours, floor = cpu(SIGNED.name), cpu(FLOOR.name)
    checked = [_at_most("CPU to the token, against the floor", ours / floor, 1.5, "times")]
    for name in cold:
        if name in (STRAIGHT.name, POWERTOOLS_SECRET.name) or "1.4.0" in name:
            checked.append(_at_least(f"CPU to the token: less than {name}", cpu(name) / ours, 6, "times"))
        elif "2.5.4" in name or "caching" in name:
            checked.append(_at_least(f"CPU to the token: less than {name}", cpu(name) / ours, 3, "times"))
    found_wall, asked_wall = (float(cold[each.name]["wall_ms"]["token"]) for each in (SHARED, SIGNED))
    token, powertools = warm["token()"], warm["get_secret(), cached"]
    hop = min(nanoseconds for what, nanoseconds in warm.items() if what.startswith(HOP.name))
    boto3 = memory(STRAIGHT.name)
    return [
        *checked,
        _at_most("CPU from the token to the first secret", cpu(SIGNED.name, "secret") - ours, 10, "ms"),
        _at_most("wall to a token found in the table: more than asking Cerberus", found_wall - asked_wall, 0, "ms"),
        _at_most("import cerberus_auth", found["import_ms"]["wall"], 10, "ms"),
        _at_most("warm token()", token / 1000, 0.3, "µs"),
        _at_least("warm token(): less than Powertools' cached get", powertools / token, 10, "times"),
        _at_least("warm token(): less than the quickest loopback hop", hop / token, 500, "times"),
        _at_most("memory, as a part of what boto3 + requests adds", memory(SIGNED.name) / boto3, 0.25, "times"),
        _at_most("this run", found["minutes"], 10, "minutes"),
    ]


def _at_most(what: str, figure: float, limit: float, unit: str) -> Aim:
    return Aim(f"{what}: {figure:.3g} {unit}, at most {limit:g}", figure <= limit)


def _at_least(what: str, figure: float, limit: float, unit: str) -> Aim:
    return Aim(f"{what}: {figure:.3g} {unit}, at least {limit:g}", figure >= limit)
