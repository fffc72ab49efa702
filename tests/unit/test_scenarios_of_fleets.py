"""How many requests the containers of one role make together in trouble, on virtual time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cerberus_auth import CerberusClient
from unit.virtual import Cerberus, Outcome, Virtual, read, virtual_time

GOOD, BAD = "app/orders/good", "app/orders/bad"
TABLE = {"shared_cache_table": "fleet", "kms_account_id": "222222222222"}
OPTIONS = pytest.mark.parametrize("options", [{}, {"max_age": 1}, {"max_age": 0}], ids=["default", "kept", "not kept"])


@pytest.fixture(params=[0.5, None], ids=["early-0.5", "random"])
def virtual(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Virtual]:
    with virtual_time(monkeypatch, request.param) as virtual:
        yield virtual


@pytest.fixture
def cerberus(virtual: Virtual, monkeypatch: pytest.MonkeyPatch) -> Cerberus:
    return Cerberus(virtual, monkeypatch)


def containers(cerberus: Cerberus, number: int, **settings: str) -> list[CerberusClient]:
    """Containers of one role: what differs is a setting that changes nothing here."""
    return [cerberus.client(function_name=f"function-{each}", **settings) for each in range(number)]


@OPTIONS
def test_one_container_asks_for_a_path_that_gets_401(cerberus: Cerberus, options: dict[str, float]) -> None:
    fleet, good, bad = containers(cerberus, 5, **TABLE), Outcome(), Outcome()
    cerberus.statuses[BAD] = 401
    for tenth in range(200):
        for client in fleet:
            read(cerberus, client, GOOD, good, **options)
        if tenth % 5 == 0:
            read(cerberus, fleet[0], BAD, bad)
        cerberus.virtual.sleep(0.1)
    assert not good.failures
    assert not bad.served
    assert len(cerberus.authentications) <= 3


@pytest.mark.parametrize("character", ["%", ";"])
def test_a_path_that_no_cerberus_accepts_makes_no_request(cerberus: Cerberus, character: str) -> None:
    client, outcome = cerberus.client(), Outcome()
    for _ in range(40):
        read(cerberus, client, f"app/orders/a{character}b", outcome)
        cerberus.virtual.sleep(0.5)
    assert {error for _, _, error in outcome.failures} == {"ConfigurationError"}
    assert cerberus.requests == 0


@OPTIONS
def test_a_revoked_token_is_replaced_at_once_under_that_attack(cerberus: Cerberus, options: dict[str, float]) -> None:
    fleet, outcome = containers(cerberus, 5, **TABLE), Outcome()
    cerberus.statuses[BAD] = 401
    for second in range(30):
        if second == 20:
            cerberus.revoke()
        for client in fleet:
            read(cerberus, client, GOOD, outcome, **options)
        read(cerberus, fleet[0], BAD, Outcome())
        cerberus.virtual.sleep(1)
    assert not outcome.failures
    assert len(cerberus.authentications) <= 4


@pytest.mark.parametrize("shared", [{}, TABLE], ids=["alone", "table"])
def test_the_database_is_down_for_20_seconds(cerberus: Cerberus, shared: dict[str, str]) -> None:
    fleet, outcome = containers(cerberus, 20, **shared), Outcome()
    tokens = set()
    for second in range(75):
        cerberus.database_is_down = 20 <= second < 40
        if second == 20:
            before = cerberus.requests
            tokens = {client._auth.token() for client in fleet}
        if second == 40:
            assert cerberus.requests - before <= 14 * len(fleet)
        for client in fleet:
            read(cerberus, client, GOOD, outcome, max_age=1)
        cerberus.virtual.sleep(1)
    assert not outcome.failures
    assert len({client._auth.token() for client in fleet} - tokens) <= 1
    assert all(cerberus.newest == token or token in tokens for token in (client._auth.token() for client in fleet))
    assert {moment for moment, _ in cerberus.answered if moment >= 40}
