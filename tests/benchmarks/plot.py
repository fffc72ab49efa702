"""Bar charts as SVG, for light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from .tables import shown

# Widths of the names, of the longest bar, and of the figures.
_NAMES, _PLOT, _VALUES = 330, 440, 90
_BAR, _GAP, _TOP, _AXIS = 14, 16, 62, 44
_TICKS = 6  # maximum on a linear axis
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 15px } .small { font-size: 12px }
  .other { fill: #8c959f } .ours { fill: #0969da } .floor { fill: #57606a } line { stroke: #d0d7de }
  .shade1 { opacity: .65 } .shade2 { opacity: .4 }
  polyline.ours { fill: none; stroke: #0969da } polyline.other { fill: none; stroke: #8c959f } polyline { stroke-width: 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .other { fill: #6e7681 } .ours { fill: #58a6ff } .floor { fill: #b1bac4 } line { stroke: #30363d }
    polyline.ours { fill: none; stroke: #58a6ff } polyline.other { fill: none; stroke: #6e7681 }
  }
"""


class Group(NamedTuple):
    """The bars of one client."""

    name: str
    kind: str
    """``ours``, ``floor`` or ``other``."""
    values: Sequence[float]


def cold(figures: dict[str, Any]) -> str:
    """Draw the CPU time of each client to the token and to the first secret, in ascending order."""
    rows = sorted(figures["cold"].items(), key=lambda row: float(row[1]["cpu_ms"]["token"]))
    groups = [
        Group(name, _kind(name), [float(row["cpu_ms"][step]) for step in ("token", "secret")]) for name, row in rows
    ]
    about = "in addition to Lambda's runtime client; the floor sends two requests without checks or retries"
    return bars("CPU from a cold start to a token", about, "ms of CPU", groups, ("to the token", "to the first secret"))


# The rows of `warm_ns` for a cached read, and their names in the chart.
_CACHED = {
    "read(), cached": "cerberus-auth read()",
    "get_secret(), cached": "Powertools get_secret()",
    "get_secret_string(), cached": "aws-secretsmanager-caching",
    "loopback hop, http.client": "an extension, called by http.client",
    "loopback hop, requests": "an extension, called by requests",
}


def cached(figures: dict[str, Any]) -> str:
    """Draw the time of a cached read on a logarithmic scale."""
    found = figures["warm_ns"]
    rows = sorted((float(found[what]) / 1000, name) for what, name in _CACHED.items() if what in found)
    groups = [Group(name, _kind(name), [micros]) for micros, name in rows]
    about = "in a warm container; the extension is a minimal server on loopback"
    return bars("A cached read", about, "µs, logarithmic", groups, is_logarithmic=True)


def uncached(figures: dict[str, Any]) -> str:
    """Draw the CPU time of a read over a reused connection."""
    found = sorted(figures["uncached_cpu_ns"].items(), key=lambda row: float(row[1]))
    groups = [
        Group(what, "floor" if what.startswith("http.client") else _kind(what), [float(nanoseconds) / 1000])
        for what, nanoseconds in found
        # Without clients of other services, and without new connections.
        if not what.startswith(("Powertools", "boto3")) and not what.endswith("a new connection")
    ]
    about = "over a reused TLS connection; http.client is the floor, without checks and retries"
    return bars("An uncached read", about, "µs of CPU", groups)


def in_handler(figures: dict[str, Any]) -> str:
    """Draw the time to the first secret in a handler by memory size."""
    found: dict[str, dict[str, float]] = figures["handler_ms"]
    rows = sorted(found.items(), key=lambda row: next(iter(row[1].values())))
    groups = [Group(name, _kind(name), list(sizes.values())) for name, sizes in rows]
    legend = [f"{int(size):,} MB" for size in rows[0][1]]
    about = "with the CPU share of this memory size; Cerberus responds in 20 ms, AWS in 2 ms"
    return bars("The first secret in a handler", about, "ms", groups, legend)


def bars(
    title: str,
    about: str,
    unit: str,
    groups: Sequence[Group],
    legend: Sequence[str] = (),
    is_logarithmic: bool = False,
) -> str:
    """Return a bar chart with one axis. Each group has one bar for each name in ``legend``."""
    values = [value for group in groups for value in group.values]
    ticks = _decades(values) if is_logarithmic else _steps(max(values))
    least, most = (math.log10(ticks[0]), math.log10(ticks[-1])) if is_logarithmic else (0.0, ticks[-1])
    steps = [_GAP + _BAR * len(group.values) for group in groups]
    top = _TOP + (20 if legend else 0)
    width, bottom = _NAMES + _PLOT + _VALUES, top + sum(steps)

    def x(value: float) -> float:
        return _NAMES + _PLOT * ((math.log10(value) if is_logarithmic else value) - least) / (most - least)

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + _AXIS}" role="img" aria-labelledby="title">',
        f'<title id="title">{escape(title)}</title><style>{STYLE}</style>',
        f'<text class="title" x="8" y="22">{escape(title)}, {escape(unit)}</text>',
        f'<text class="small" x="8" y="42">{escape(about)}</text>',
    ]
    for number, name in enumerate(legend):
        left = _NAMES + 150 * number
        drawn += [
            f'<rect class="ours shade{number}" x="{left}" y="54" width="12" height="12"/>',
            f'<text class="small" x="{left + 18}" y="64">{escape(name)}</text>',
        ]
    for tick in ticks:
        drawn += [
            f'<line x1="{x(tick):.1f}" y1="{top}" x2="{x(tick):.1f}" y2="{bottom}"/>',
            f'<text class="small" x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:,g}</text>',
        ]
    drawn.append(
        f'<text class="small" x="{_NAMES + _PLOT / 2:.0f}" y="{bottom + 34}" text-anchor="middle">{escape(unit)}</text>'
    )
    y = float(top)
    for group, step in zip(groups, steps, strict=True):
        drawn.append(
            f'<text x="{_NAMES - 8}" y="{y + step / 2 + 4.5:.1f}" text-anchor="end">{escape(group.name)}</text>'
        )
        for number, value in enumerate(group.values):
            at = y + _GAP / 2 + _BAR * number
            drawn += [
                f'<rect class="{group.kind} shade{number}" x="{_NAMES}" y="{at:.1f}" width="{x(value) - _NAMES:.1f}" '
                f'height="{_BAR - 1}"/>',
                f'<text class="small" x="{x(value) + 6:.1f}" y="{at + 11:.1f}">{shown(value)}</text>',
            ]
        y += step
    return "\n".join([*drawn, "</svg>", ""])


def _kind(name: str) -> str:
    return "ours" if name.startswith("cerberus-auth") else "floor" if "floor" in name else "other"


def _steps(most: float) -> list[float]:
    """Return ticks from 0 in steps of 1, 2 or 5 times a power of ten, beyond the longest bar."""
    power = 10.0 ** math.floor(math.log10(most / _TICKS))
    step = next(power * times for times in (1, 2, 5, 10) if power * times * _TICKS >= most)
    return [step * number for number in range(math.ceil(most / step) + 1)]


def _decades(values: Sequence[float]) -> list[float]:
    """Return powers of ten from below the shortest bar to above the longest."""
    least, most = math.ceil(math.log10(min(values))) - 1, math.floor(math.log10(max(values))) + 1
    return [10.0**power for power in range(least, most + 1)]
