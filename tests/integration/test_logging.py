"""What Lambda's log filter makes of what functions write: with JSON logs it drops lines below a level.

Lambda reads ``level`` only beside a ``timestamp`` by RFC 3339, and takes every other line for INFO (Lambda Developer Guide,
"Log-level filtering").
"""

from __future__ import annotations

import ast
import io
import json
import re
from pathlib import Path

import pytest
from aws_lambda_powertools import Logger

ROOT = Path(__file__).resolve().parents[2]
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
SAMPLES = sorted([*ROOT.glob("functions/*/*.py"), *ROOT.glob("tests/consumer/**/*.py"), *ROOT.glob("docs/**/*.py")])


def level_by_lambda(line: str) -> str:
    fields = json.loads(line)
    return str(fields["level"]) if RFC_3339.fullmatch(fields.get("timestamp", "")) else "INFO"


@pytest.mark.parametrize(("use_rfc3339", "level"), [(False, "INFO"), (True, "ERROR")])
def test_the_level_of_powertools_logger_counts_only_with_its_timestamp(use_rfc3339: bool, level: str) -> None:
    stream = io.StringIO()
    logger = Logger(service=f"filter-{use_rfc3339}", stream=stream, use_rfc3339=use_rfc3339)
    logger.error("Order failed")
    assert level_by_lambda(stream.getvalue()) == level


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_sample_with_a_logger_writes_such_a_timestamp(sample: Path) -> None:
    calls = [each for each in ast.walk(ast.parse(sample.read_text())) if isinstance(each, ast.Call)]
    loggers = [each for each in calls if isinstance(each.func, ast.Name) and each.func.id == "Logger"]
    for logger in loggers:
        keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in logger.keywords}
        assert keywords.get("use_rfc3339") is True
