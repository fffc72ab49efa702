"""A function whose timeout ends before ``CERBERUS_TIMEOUT`` never sees an error: the first use says so, once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LAYER = Path(__file__).parents[2] / "layer"
FUNCTION = """
import sys
from cerberus_auth import CerberusAuth, CerberusClient, CerberusError

class Context:
    def __init__(self, milliseconds): self.milliseconds = milliseconds
    def get_remaining_time_in_millis(self): return self.milliseconds

client = CerberusClient()
for milliseconds in map(int, sys.argv[1:]):
    try:
        client.read("app/orders/db", context=Context(milliseconds))
    except CerberusError:
        pass
"""


@pytest.mark.parametrize(
    ("left", "warnings"),
    [(["2900", "2900"], 1), (["15000", "2900"], 0), (["10000"], 0), (["9999", "15000", "9999"], 1)],
    ids=["less", "less later", "just enough", "once"],
)
def test_a_timeout_that_ends_first_is_told_once(left: list[str], warnings: int) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CERBERUS_"))}
    environment |= {"PYTHONPATH": str(LAYER), "CERBERUS_URL": "http://127.0.0.1:9", "CERBERUS_TOKEN": "of-a-person"}
    done = subprocess.run(
        [sys.executable, "-c", FUNCTION, *left], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.count("CERBERUS_TIMEOUT (10 s)") == warnings
    assert done.stderr.count("Set the function's Timeout to 15 s") == warnings
