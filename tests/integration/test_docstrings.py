"""The examples in the docstrings of the public classes run as they stand."""

from __future__ import annotations

import doctest
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest
import requests

from cerberus_auth import CerberusAuth, CerberusClient, Secret, auth, client
from cerberus_auth.testing import FakeCerberus

SECRETS = {"app/orders/db": {"user": "orders", "password": "made-up"}, "app/orders/queue/primary": {"user": "queue"}}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """What the examples take for granted."""
    with FakeCerberus(SECRETS) as fake:
        fake._cerberus.put_file("app/orders/tls.pem", b"-----BEGIN CERTIFICATE-----")
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        yield {
            "CerberusAuth": CerberusAuth,
            "CerberusClient": CerberusClient,
            "Secret": Secret,
            "auth": CerberusAuth(),
            "cerberus": CerberusClient(),
            "context": SimpleNamespace(get_remaining_time_in_millis=lambda: 15_000),
            "requests": requests,
            "url": fake.environment["CERBERUS_URL"],
        }


@pytest.mark.parametrize(("module", "number"), [(client, 20), (auth, 8)], ids=["client", "auth"])
def test_the_examples_run(module: ModuleType, number: int, names: dict[str, object]) -> None:
    result = doctest.testmod(module, extraglobs=names)
    assert result.failed == 0
    assert result.attempted >= number
