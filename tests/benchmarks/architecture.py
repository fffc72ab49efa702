"""The picture of the architecture, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 980, 560
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; text-anchor: middle }
  .name { font-weight: 600 } .small { font-size: 12px; fill: #59636e } .left { text-anchor: start }
  .title { font-weight: 600; font-size: 16px; text-anchor: start } .note { font-size: 12px; text-anchor: start }
  .page { fill: #ffffff; stroke: #d1d9e0 } .group { fill: none; stroke: #818b98; stroke-dasharray: 5 4 }
  .box { fill: #f6f8fa; stroke: #818b98 } .ours { fill: #ddf4ff; stroke: #0969da } .aws { fill: #fff8c5; stroke: #9a6700 }
  .arrow { fill: none; stroke: #59636e; stroke-width: 1.5; marker-end: url(#head) } #head path { fill: #59636e }
  .answer { stroke-dasharray: 5 4 } .rule { stroke: #d1d9e0 } .halo { paint-order: stroke; stroke: #ffffff; stroke-width: 4px }
  .both { marker-start: url(#head) } .step { fill: #0969da } .number { fill: #ffffff; font-weight: 600; font-size: 12px }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .small { fill: #9198a1 } .page { fill: #0d1117; stroke: #3d444d } .group { stroke: #656c76 }
    .box { fill: #151b23; stroke: #656c76 } .ours { fill: #0c2d6b; stroke: #4493f8 } .aws { fill: #341a00; stroke: #d29922 }
    .rule { stroke: #3d444d } .halo { stroke: #0d1117 }
    .arrow { stroke: #9198a1 } #head path { fill: #9198a1 } .step { fill: #1f6feb } .number { fill: #ffffff }
  }
"""
HEAD = (
    '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z"/></marker></defs>'
)
_NOTES = (
    "A cache hit costs less than a microsecond: no lock, no network.",
    "On a miss, one thread fetches the value for all callers.",
    "If another container of the role has a newer value, the function takes it from the table and decrypts it.",
    "Otherwise one container of the fleet takes a lock in the table and asks Cerberus, unless the circuit breaker is open.",
    "Without a token, it authenticates first: by KMS, only the execution role can decrypt the auth response;",
    "by STS, Cerberus sends the signed GetCallerIdentity request to STS and learns which role signed it.",
)


def architecture() -> str:
    """Draw it."""
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="title">',
        f'<title id="title">How a function gets a secret</title><style>{STYLE}</style>',
        HEAD,
        f'<rect class="page" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{_HEIGHT - 1}" rx="6"/>',
        text(24, 34, "How a function gets a secret", "title"),
        '<rect class="group" x="24" y="52" width="590" height="336" rx="8"/>',
        text(38, 74, "Lambda container (execution role)", "small left"),
        *box(44, 98, 130, 64, "handler", ("read(path)",), "box"),
        *box(238, 98, 150, 64, "CerberusClient", ("cache in memory",), "ours"),
        *box(440, 98, 150, 64, "Flight", ("one for each secret",), "ours"),
        *box(440, 206, 150, 64, "Circuit breaker", ("one for each Cerberus",), "ours"),
        *box(440, 314, 150, 58, "CerberusAuth", ("token of the role",), "ours"),
        *box(736, 90, 220, 80, "Shared cache (optional)", ("DynamoDB: ciphertext only", "KMS key: encrypts secrets"), "aws"),
        *box(736, 206, 220, 64, "Cerberus", ("secrets, tokens",), "box"),
        *box(736, 330, 96, 58, "AWS KMS", ("encrypts",), "aws"),
        *box(842, 330, 114, 58, "AWS STS", ("names the role",), "aws"),
        *_arrow([(174, 130), (236, 130)], "", (0, 0), 1, (205, 130 - 20)),
        *_arrow([(388, 130), (438, 130)], "", (0, 0), 2, (413, 130 - 20)),
        *_arrow([(592, 130), (734, 130)], "GetItem, Decrypt", (674, 150), 3, (663, 112), both=True),
        *_arrow([(515, 162), (515, 204)], "", (0, 0), 4, (535, 183)),
        *_arrow([(590, 238), (734, 238)], "auth request, read", (674, 258), 0, (0, 0)),
        *_arrow([(515, 270), (515, 312)], "", (0, 0), 5, (535, 291)),
        *_arrow([(590, 350), (734, 350)], "Decrypt", (674, 370), 0, (0, 0)),
        *_arrow([(786, 270), (786, 328)], "Encrypt", (758, 304), 0, (0, 0)),
        *_arrow([(904, 270), (904, 328)], "GetCallerIdentity", (848, 304), 0, (0, 0)),
    ]  # fmt: skip
    for number, note in enumerate(_NOTES):
        y = 418 + 24 * number
        if number < len(_NOTES) - 1:
            drawn += _step(number + 1, 38, y - 4)
        drawn.append(text(56, y, note, "note"))
    return "\n".join([*drawn, "</svg>", ""])


def box(x: float, y: float, width: float, height: float, name: str, about: Sequence[str], kind: str) -> list[str]:
    """Draw a box with its name and lines about it."""
    middle, first = x + width / 2, y + height / 2 + 4 - 9 * len(about)
    return [
        f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>',
        text(middle, first, name, "name"),
        *(text(middle, first + 18 * (number + 1), line, "small") for number, line in enumerate(about)),
    ]


def _arrow(
    points: Sequence[tuple[float, float]],
    says: str,
    at: tuple[float, float],
    step: int,
    step_at: tuple[float, float],
    both: bool = False,
) -> list[str]:
    line = " ".join(f"{x},{y}" for x, y in points)
    drawn = [f'<polyline class="arrow{" both" if both else ""}" points="{line}"/>']
    if says:
        drawn.append(text(*at, says, "small"))
    return drawn + (_step(step, *step_at) if step else [])


def _step(number: int, x: float, y: float) -> list[str]:
    return [f'<circle class="step" cx="{x}" cy="{y}" r="10"/>', text(x, y + 4, str(number), "number")]


def text(x: float, y: float, says: str, kind: str) -> str:
    """Draw a line of text."""
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(says)}</text>'
