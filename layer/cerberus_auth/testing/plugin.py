"""The pytest plugin with the fixture ``fake_cerberus``."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from . import FakeCerberus

_PREFIXES = ("AWS_", "CERBERUS_")
_NETWORK_SUFFIXES = ("_proxy", "_ca_bundle")


@pytest.fixture
def fake_cerberus(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCerberus]:
    """Run a ``FakeCerberus`` for one test, and set the environment variables that the function needs.

    Other variables for AWS, Cerberus, proxies and certificate files are removed during the test.
    """
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name.lower().endswith(_NETWORK_SUFFIXES):
            monkeypatch.delenv(name)
    with FakeCerberus() as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        yield fake
