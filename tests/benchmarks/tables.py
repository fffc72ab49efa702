"""Text for a terminal of 100 columns: wrapped paragraphs, and Markdown tables with aligned columns."""

from __future__ import annotations

import itertools
import textwrap

COLUMNS = 100


def wrapped(text: str) -> str:
    """Wrap a paragraph at 100 columns."""
    return textwrap.fill(text, COLUMNS, break_long_words=False, break_on_hyphens=False)


def aligned(markdown: str) -> str:
    """Return a Markdown text with the columns of its tables aligned."""
    text: list[str] = []
    for is_table, group in itertools.groupby(markdown.splitlines(), lambda line: line.startswith("|")):
        lines = list(group)
        text += _padded(lines) if is_table else lines
    return "\n".join(text)


def _padded(lines: list[str]) -> list[str]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    head, rule, *body = rows
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    is_number = [cell.endswith(":") for cell in rule]
    rule = ["-" * (width - number) + ":" * number for width, number in zip(widths, is_number, strict=True)]
    return [
        "| "
        + " | ".join(
            f"{cell:>{width}}" if number else f"{cell:<{width}}"
            for cell, width, number in zip(row, widths, is_number, strict=True)
        )
        + " |"
        for row in (head, rule, *body)
    ]


def shown(value: float) -> str:
    """Format a figure with three significant digits, and with all digits of its integer part."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
