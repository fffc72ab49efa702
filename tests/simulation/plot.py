"""A chart of authentications by fleet size, as SVG with logarithmic axes."""

from __future__ import annotations

from math import log10
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.plot import STYLE

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _RIGHT = 860, 420, 80, 70, 50, 260


def trend(found: dict[str, dict[str, Any]]) -> str:
    """Draw the authentications of the bursts, with sharing and without."""
    most = max(row["containers"] for row in found.values())
    decades = round(log10(most))
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(containers: float) -> float:
        return _LEFT + inner_width * (log10(containers) - 1) / max(1, decades - 1)

    def y(count: float) -> float:
        return _HEIGHT - _BOTTOM - inner_height * log10(max(count, 1)) / decades

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="title">',
        f'<title id="title">Authentications by the size of a fleet</title><style>{STYLE}</style>',
        '<text class="title" x="8" y="22">Authentications when a fleet starts</text>',
        '<text class="small" x="8" y="42">simulated: starts within a minute, the largest fleet within ten minutes; '
        "logarithmic</text>",
    ]
    for power in range(decades + 1):
        at = y(10**power)
        drawn += [
            f'<line x1="{_LEFT}" y1="{at:.1f}" x2="{_WIDTH - _RIGHT}" y2="{at:.1f}"/>',
            f'<text class="small" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10**power:,}</text>',
        ]
    for row in found.values():
        at = x(row["containers"])
        label = f"{row['containers']:,}"
        drawn.append(f'<text class="small" x="{at:.1f}" y="{_HEIGHT - 28}" text-anchor="middle">{label}</text>')
    drawn.append(f'<text class="small" x="{_LEFT + inner_width / 2:.0f}" y="{_HEIGHT - 8}">containers</text>')
    lines = {
        "ours": ("cerberus-auth, shared cache", [row["authentications"] for row in found.values()]),
        "other": ("one for each container", [row["containers"] for row in found.values()]),
    }
    for kind, (name, counts) in lines.items():
        points = [(x(row["containers"]), y(count)) for row, count in zip(found.values(), counts, strict=True)]
        shown = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
        drawn.append(f'<polyline class="{kind}" points="{shown}"/>')
        across, down = points[-1]
        drawn.append(f'<text x="{across + 10:.1f}" y="{down + 4:.1f}">{escape(name)}: {counts[-1]:,}</text>')
    return "\n".join([*drawn, "</svg>", ""])
