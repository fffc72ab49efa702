"""Runs tests that a user of this package would write, in a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

LAYER = Path(__file__).resolve().parents[2] / "layer"


def run_users_tests(folder: Path, app: str, tests: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a user's tests beside their function, in a process that has the plugin and none of this project's settings."""
    (folder / "app.py").write_text(app)
    (folder / "test_app.py").write_text(textwrap.dedent(tests))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "cerberus_auth.testing.plugin", "-p", "no:cacheprovider"]
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(LAYER)}
    done = subprocess.run(
        [*command, "-W", "error", "-c", os.devnull, "--rootdir", str(folder), str(folder)],
        env={**own, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not done.stderr
    return done
