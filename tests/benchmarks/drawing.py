"""Charts as SVG, readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from .tables import shown

WIDTH = 860
_MARGIN = 20
_CHARACTER = 7.7  # the width of an average character at 13 px, rounded up, so that no font clips a name
_VALUES = 70  # for the figures beside the longest bar
_BAR, _GAP = 14, 12
_LINE = 17  # of text
_TICKS = 6  # at most, on a linear axis
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 16px } .small { font-size: 12px } .about { font-size: 12px; fill: #59636e }
  .page { fill: #ffffff; stroke: #d1d9e0 }
  .ours { fill: #0969da } .other { fill: #818b98 } .floor { fill: #bc4c00 } .limit { stroke: #cf222e; stroke-width: 2 }
  .limit-text { fill: #cf222e } .grid { stroke: #d1d9e0 } .row { stroke: #eaeef2 }
  .shade1 { opacity: .65 } .shade2 { opacity: .4 }
  polyline { fill: none; stroke-width: 2.5 } polyline.ours { fill: none; stroke: #0969da }
  polyline.other { fill: none; stroke: #818b98 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .about { fill: #9198a1 } .page { fill: #0d1117; stroke: #3d444d }
    .ours { fill: #4493f8 } .other { fill: #9198a1 } .floor { fill: #db6d28 } .limit { stroke: #f85149 }
    .limit-text { fill: #f85149 } .grid { stroke: #3d444d } .row { stroke: #21262d }
    polyline.ours { fill: none; stroke: #4493f8 } polyline.other { fill: none; stroke: #9198a1 }
  }
"""


class Group(NamedTuple):
    """The bars or the dot of one contestant."""

    name: str
    kind: str
    """``ours``, ``floor`` or ``other``."""
    values: Sequence[float]


class Limit(NamedTuple):
    """A line that no bar should reach."""

    value: float
    name: str


class Line(NamedTuple):
    """A line of a chart with two axes, with a name for each line of its label."""

    kind: str
    names: Sequence[str]
    points: Sequence[tuple[float, float]]


def bars(
    title: str,
    about: Sequence[str],
    unit: str,
    groups: Sequence[Group],
    legend: Sequence[str] = (),
    limit: Limit | None = None,
) -> str:
    """Draw horizontal bars from 0. Each group has as many bars as ``legend`` has names."""
    values = [value for group in groups for value in group.values]
    ticks = _steps(max([*values, limit.value] if limit else values))
    names = _names(groups)
    plot = WIDTH - _MARGIN - _VALUES - names

    def x(value: float) -> float:
        return names + plot * value / ticks[-1]

    top = 52 + _LINE * len(about) + (_LINE + 6 if legend else 0) + (_LINE if limit else 0)
    bottom = top + sum(_GAP + _BAR * len(group.values) for group in groups)
    drawn = [*_head(title, about, bottom + 52), *_legend(legend, names, 44 + _LINE * len(about))]
    drawn += _axis([(x(tick), f"{tick:,g}") for tick in ticks], top, bottom, unit, names + plot / 2)
    if limit is not None:
        drawn += [
            f'<line class="limit" x1="{x(limit.value):.1f}" y1="{top - 4}" x2="{x(limit.value):.1f}" y2="{bottom}"/>',
            _text(x(limit.value) + 4, top - 10, limit.name, "small limit-text", "end"),
        ]
    y = float(top)
    for group in groups:
        height = _GAP + _BAR * len(group.values)
        drawn.append(_text(names - 10, y + height / 2 + 4.5, group.name, anchor="end"))
        for number, value in enumerate(group.values):
            at = y + _GAP / 2 + _BAR * number
            drawn += [
                f'<rect class="{group.kind} shade{number}" x="{names:.1f}" y="{at:.1f}" '
                f'width="{x(value) - names:.1f}" height="{_BAR - 2}"/>',
                _text(x(value) + 6, at + 10.5, shown(value), "small"),
            ]
        y += height
    return _whole(drawn)


def dots(title: str, about: Sequence[str], unit: str, groups: Sequence[Group]) -> str:
    """Draw one dot for each group, on a scale of powers of ten. Such a scale has no 0, so that a bar would mislead."""
    values = [value for group in groups for value in group.values]
    ticks = _decades(values)
    names = _names(groups)
    plot = WIDTH - _MARGIN - _VALUES - names
    least, most = math.log10(ticks[0]), math.log10(ticks[-1])

    def x(value: float) -> float:
        return names + plot * (math.log10(value) - least) / (most - least)

    top = 52 + _LINE * len(about)
    height = _GAP + _BAR
    bottom = top + height * len(groups)
    drawn = _head(title, about, bottom + 52)
    drawn += _axis([(x(tick), f"{tick:,g}") for tick in ticks], top, bottom, unit, names + plot / 2)
    for number, group in enumerate(groups):
        at = top + height * (number + 0.5)
        (value,) = group.values
        drawn += [
            f'<line class="row" x1="{names:.1f}" y1="{at:.1f}" x2="{x(value):.1f}" y2="{at:.1f}"/>',
            f'<circle class="{group.kind}" cx="{x(value):.1f}" cy="{at:.1f}" r="6"/>',
            _text(names - 10, at + 4.5, group.name, anchor="end"),
            _text(x(value) + 12, at + 4.5, shown(value), "small"),
        ]
    return _whole(drawn)


def lines(title: str, about: Sequence[str], x_unit: str, y_unit: str, drawn_lines: Sequence[Line]) -> str:
    """Draw lines over two axes of powers of ten."""
    points = [point for line in drawn_lines for point in line.points]
    across, up = _decades_of([x for x, _ in points]), _decades_of([y for _, y in points])
    left = 40 + _CHARACTER * len(f"{up[-1]:,.0f}")
    labels = max(_CHARACTER * len(name) for line in drawn_lines for name in line.names) + 24
    plot, height = WIDTH - _MARGIN - labels - left, 300
    top = 52 + _LINE * (len(about) + 1)
    bottom = top + height

    def x(value: float) -> float:
        return left + plot * _part(value, across)

    def y(value: float) -> float:
        return bottom - height * _part(value, up)

    drawn = _head(title, about, bottom + 52)
    drawn += _axis([(x(tick), f"{tick:,.0f}") for tick in across], top, bottom, x_unit, left + plot / 2)
    drawn.append(_text(_MARGIN, top - 14, y_unit, "small"))
    for tick in up:
        drawn += [
            f'<line class="grid" x1="{left:.1f}" y1="{y(tick):.1f}" x2="{left + plot:.1f}" y2="{y(tick):.1f}"/>',
            _text(left - 8, y(tick) + 4, f"{tick:,.0f}", "small", "end"),
        ]
    for line in drawn_lines:
        at = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
        drawn.append(f'<polyline class="{line.kind}" points="{at}"/>')
        drawn += [f'<circle class="{line.kind}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="4"/>' for a, b in line.points]
        end = y(line.points[-1][1]) + 4 - _LINE * (len(line.names) - 1) / 2
        for number, name in enumerate(line.names):
            drawn.append(_text(left + plot + 14, end + _LINE * number, name))
    return _whole(drawn)


def _head(title: str, about: Sequence[str], height: float) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-labelledby="title">',
        f'<title id="title">{escape(title)}</title><style>{STYLE}</style>',
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="6"/>',
        _text(_MARGIN, 30, title, "title"),
        *(_text(_MARGIN, 50 + _LINE * number, line, "about") for number, line in enumerate(about)),
    ]


def _legend(names: Sequence[str], left: float, y: float) -> Iterator[str]:
    for number, name in enumerate(names):
        at = left + 110 * number
        yield f'<rect class="ours shade{number}" x="{at:.1f}" y="{y:.1f}" width="12" height="12"/>'
        yield _text(at + 18, y + 10, name, "small")


def _axis(ticks: Sequence[tuple[float, str]], top: float, bottom: float, unit: str, middle: float) -> Iterator[str]:
    for at, text in ticks:
        yield f'<line class="grid" x1="{at:.1f}" y1="{top:.1f}" x2="{at:.1f}" y2="{bottom + 5:.1f}"/>'
        yield _text(at, bottom + 19, text, "small", "middle")
    yield _text(middle, bottom + 38, unit, "small", "middle")


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    attributes = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{escape(text)}</text>'


def _whole(drawn: list[str]) -> str:
    return "\n".join([*drawn, "</svg>", ""])


def _names(groups: Sequence[Group]) -> float:
    return _MARGIN + 10 + _CHARACTER * max(len(group.name) for group in groups)


def _part(value: float, ticks: Sequence[float]) -> float:
    return (math.log10(value) - math.log10(ticks[0])) / (math.log10(ticks[-1]) - math.log10(ticks[0]))


def _steps(most: float) -> list[float]:
    """Count from 0 by steps of 1, 2 or 5 times a power of ten, to where the longest bar fits."""
    power = 10.0 ** math.floor(math.log10(most / _TICKS))
    step = next(power * times for times in (1, 2, 5, 10) if power * times * _TICKS >= most)
    return [step * number for number in range(math.ceil(most / step) + 1)]


def _decades(values: Sequence[float]) -> list[float]:
    """Return powers of ten: from one that is less than all values to one that is more."""
    least, most = math.ceil(math.log10(min(values))) - 1, math.floor(math.log10(max(values))) + 1
    return [10.0**power for power in range(least, most + 1)]


def _decades_of(values: Sequence[float]) -> list[float]:
    """Return the powers of ten that enclose all values."""
    least, most = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(least, max(most, least + 1) + 1)]
