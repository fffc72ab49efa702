"""The pytest plugin of ``cerberus_auth.testing``."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from . import FakeCerberus

_OURS = ("AWS_", "CERBERUS_")
_OF_THE_NETWORK = ("_proxy", "_ca_bundle")


@pytest.fixture
def fake_cerberus(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCerberus]:
    """A fake Cerberus for this test alone, and in the environment what the function needs to find it."""
    for name in list(os.environ):
        if name.startswith(_OURS) or name.lower().endswith(_OF_THE_NETWORK):
            monkeypatch.delenv(name)
    with FakeCerberus() as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        yield fake
