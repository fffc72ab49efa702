"""The charts and tables of the documentation are those of the last figures, and nothing in them is clipped."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import charts

FILES = charts.files(charts.figures("benchmarks"), charts.figures("simulation"))
DRAWN = [path for path in FILES if path.suffix == ".svg"]
SVG = "{http://www.w3.org/2000/svg}"
NARROW = 6.2  # the least that an average character of a system font has, at 13 px


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_documentation_shows_the_last_figures(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path], "run make charts"


@pytest.mark.parametrize("folder", ["charts", "diagrams"])
def test_no_picture_is_left_over(folder: str) -> None:
    assert set((charts.DOCS / folder).iterdir()) == {path for path in DRAWN if path.parent.name == folder}


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.name)
def test_nothing_is_clipped(path: Path) -> None:
    root = ElementTree.fromstring(FILES[path])  # noqa: S314  (our own)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    is_centred = path.parent.name != "charts"  # by its style
    for text in root.iter(f"{SVG}text"):
        x, y, length = float(text.attrib["x"]), float(text.attrib["y"]), NARROW * len(text.text or "")
        kind = set(text.attrib.get("class", "").split())
        anchor = text.attrib.get("text-anchor", "middle" if is_centred and not kind & {"left", "title", "note"} else "")
        left = x - length * {"middle": 0.5, "end": 1}.get(anchor, 0)
        assert left > 0, text.text
        assert left + length < width, text.text
        assert 10 < y < height, text.text
    for bar in root.iter(f"{SVG}rect"):
        assert float(bar.attrib["width"]) > 0
        assert float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.name)
def test_each_has_colours_for_light_and_dark_pages(path: Path) -> None:
    light, dark = FILES[path].split("@media (prefers-color-scheme: dark)")
    for name in ("page", "text"):
        assert re.search(rf"\b{name} {{[^}}]*fill: #\w{{6}}", light)
        assert re.search(rf"\b{name} {{[^}}]*fill: #\w{{6}}", dark)


def test_a_table_that_was_not_measured_stays_as_it_is() -> None:
    page = "a\n<!-- table: one -->\n\nold\n\n<!-- end -->\n<!-- table: two -->\n\nold\n\n<!-- end -->\n"
    filled = charts.filled(page, {"one": "| a |\n| --- |\n| new |"})
    assert filled == page.replace("old", "| a   |\n| --- |\n| new |", 1)
