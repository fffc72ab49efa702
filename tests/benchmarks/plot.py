"""Bar charts as SVG, readable on a light and on a dark page."""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

_LABELS, _BARS, _MARGIN = 300, 440, 90
_BAR, _STEP, _TOP = 18, 34, 64
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 15px } .small { font-size: 12px }
  .other { fill: #8c959f } .ours { fill: #0969da } .floor { fill: #57606a } .first { opacity: .45 } line { stroke: #d0d7de }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .other { fill: #6e7681 } .ours { fill: #58a6ff } .floor { fill: #b1bac4 } line { stroke: #30363d }
  }
"""


def bars(figures: dict[str, Any]) -> str:
    """CPU of each contestant to the token and on to the first secret, the quickest first."""
    rows = sorted(figures["cold"].items(), key=lambda row: float(row[1]["cpu_ms"]["token"]))
    width, height = _LABELS + _BARS + _MARGIN, _TOP + _STEP * len(rows) + 8
    most = max(float(row["cpu_ms"]["secret"]) for _, row in rows)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title">',
        f'<title id="title">CPU from a cold start to a token</title><style>{STYLE}</style>',
        '<text class="title" x="8" y="22">CPU from a cold start to a token (paler: on to the first secret), ms</text>',
        f'<text class="small" x="8" y="42">{escape(_conditions(figures))}</text>',
        f'<line x1="{_LABELS}" y1="{_TOP - 10}" x2="{_LABELS}" y2="{height - 8}"/>',
    ]
    for number, (name, row) in enumerate(rows):
        y = _TOP + number * _STEP
        token, secret = (float(row["cpu_ms"][step]) for step in ("token", "secret"))
        kind = "ours" if name.startswith("cerberus-auth") else "floor" if "floor" in name else "other"
        drawn += [
            f'<text x="{_LABELS - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind} first" x="{_LABELS}" y="{y}" width="{_BARS * secret / most:.1f}" height="{_BAR}"/>',
            f'<rect class="{kind}" x="{_LABELS}" y="{y}" width="{_BARS * token / most:.1f}" height="{_BAR}"/>',
            f'<text x="{_LABELS + _BARS * max(token, secret) / most + 8:.1f}" y="{y + 14}">{token:.0f}</text>',
        ]
    return "\n".join([*drawn, "</svg>", ""])


# Whose cold start goes with which warm use.
_WARM = {
    "cerberus-auth": "token()",
    "Powertools get_secret (Secrets Manager)": "get_secret(), cached",
    "aws-secretsmanager-caching (Secrets Manager)": "get_secret_string(), cached",
    "an extension, by http.client": "loopback hop, http.client",
    "an extension, by requests": "loopback hop, requests",
}
_LEAST, _DECADES = 0.1, 7  # microseconds, and how many powers of ten above that


def cold_and_warm(figures: dict[str, Any]) -> str:
    """The first use in a container and one more, in microseconds of elapsed time on a scale of powers of ten."""
    rows = [
        (name, figures["cold"].get(name, {}).get("wall_ms", {}).get("token"), float(figures["warm_ns"][use]))
        for name, use in _WARM.items()
        if use in figures["warm_ns"]
    ]
    width, height = _LABELS + _BARS + _MARGIN, _TOP + 20 + 2 * _STEP * len(rows)

    def drawn_bar(y: int, kind: str, micros: float) -> list[str]:
        length = _BARS * math.log10(max(micros, _LEAST) / _LEAST) / _DECADES
        text = (
            f"{micros / 1000:.0f} ms" if micros >= 1000 else f"{micros:.0f} µs" if micros >= 10 else f"{micros:.2g} µs"
        )
        return [
            f'<rect class="{kind}" x="{_LABELS}" y="{y}" width="{length:.1f}" height="{_BAR}"/>',
            f'<text x="{_LABELS + length + 8:.1f}" y="{y + 14}">{text}</text>',
        ]

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title">',
        f'<title id="title">Cold against warm</title><style>{STYLE}</style>',
        '<text class="title" x="8" y="22">Cold against warm: the first use of a container (paler), and one more</text>',
        f'<text class="small" x="8" y="42">Each line is ten times the one before it; {escape(_conditions(figures))}</text>',
    ]
    for decade in range(_DECADES + 1):
        x = _LABELS + _BARS * decade / _DECADES
        drawn.append(f'<line x1="{x:.1f}" y1="{_TOP - 10}" x2="{x:.1f}" y2="{height - 20}"/>')
    for number, (name, cold, warm) in enumerate(rows):
        y = _TOP + number * 2 * _STEP
        kind = "ours" if name == "cerberus-auth" else "other"
        drawn.append(f'<text x="{_LABELS - 8}" y="{y + 26}" text-anchor="end">{escape(name)}</text>')
        if cold is not None:
            drawn += drawn_bar(y, f"{kind} first", 1000 * float(cold))
        drawn += drawn_bar(y + _BAR + 4, kind, warm / 1000)
    return "\n".join([*drawn, "</svg>", ""])


def _conditions(figures: dict[str, Any]) -> str:
    machine = figures["machine"]
    return f"over Lambda's runtime client, loopback TLS; {machine['processor']}, Python {machine['python']}"
