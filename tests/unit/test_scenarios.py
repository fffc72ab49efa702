"""How many requests a container makes in each kind of trouble, on virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from cerberus_auth import CerberusClient
from unit.virtual import KEY, Cerberus, Outcome, Virtual, read, read_until, virtual_time

FIVE = [f"app/orders/good-{number}" for number in range(5)]
FIFTY = [f"app/orders/path-{number}" for number in range(50)]
BAD = "app/orders/bad"


@pytest.fixture(params=[0.0, 0.5, 0.99, None], ids=["early-0", "early-0.5", "early-0.99", "random"])
def virtual(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Virtual]:
    with virtual_time(monkeypatch, request.param) as virtual:
        yield virtual


@pytest.fixture
def cerberus(virtual: Virtual, monkeypatch: pytest.MonkeyPatch) -> Cerberus:
    return Cerberus(virtual, monkeypatch)


@pytest.mark.parametrize(("paths", "reads"), [(FIFTY[:1], 30), (FIFTY, 700)], ids=["1 path", "50 paths"])
def test_all_tokens_refused_for_10_minutes(cerberus: Cerberus, paths: list[str], reads: int) -> None:
    cerberus.refuses_all = True
    client, outcome = cerberus.client(), Outcome()
    read_until(cerberus, client, 600, paths, outcome)
    assert not outcome.served
    assert len(cerberus.authentications) <= 15
    assert len(cerberus.reads) <= reads


def test_all_tokens_refused_for_10_minutes_and_a_new_path_at_each_read(cerberus: Cerberus) -> None:
    cerberus.refuses_all = True
    read_until(cerberus, cerberus.client(), 600, (f"app/orders/{number}" for number in range(1200)), Outcome(), 0.5)
    assert len(cerberus.reads) >= 1200
    assert len(cerberus.authentications) <= 15


@pytest.mark.parametrize("paths", [FIFTY[:1], FIFTY], ids=["1 path", "50 paths"])
def test_all_tokens_refused_for_5_minutes_and_then_the_newest_is_good(cerberus: Cerberus, paths: list[str]) -> None:
    cerberus.refuses_all = True
    client, outcome = cerberus.client(), Outcome()
    read_until(cerberus, client, 300, paths, outcome)
    cerberus.refuses_all, cerberus.accepts_newest = False, True
    read_until(cerberus, client, 360, paths, outcome)
    read_until(cerberus, client, 420, paths, after := Outcome())
    assert after.served
    assert not after.failures


@pytest.mark.parametrize("options", [{}, {"max_age": 1}], ids=["max_age 300", "max_age 1"])
def test_kept_secrets_are_served_while_all_tokens_are_refused(cerberus: Cerberus, options: dict[str, float]) -> None:
    client, outcome = cerberus.client(), Outcome()
    read_until(cerberus, client, 60, FIVE, outcome, **options)
    cerberus.refuses_all = True
    read_until(cerberus, client, 600, FIVE, outcome, **options)
    assert not outcome.failures
    assert len(cerberus.authentications) <= 15


KEEPING = {"max_age": 5}
ASKING = {"max_age": 2, "stale_if_error": 0}
READS = pytest.mark.parametrize("options", [{}, KEEPING, ASKING], ids=["default", "kept", "not kept"])


def is_back(cerberus: Cerberus, client: CerberusClient, seconds: float, **options: float) -> None:
    """Check that within so many seconds every path is read anew, and that no read fails after that."""
    began, first = cerberus.now, Outcome()
    read_until(cerberus, client, began + seconds, FIVE, first, **options)
    assert {path for moment, path in cerberus.answered if moment >= began} >= {*FIVE}
    read_until(cerberus, client, cerberus.now + 100, FIVE, after := Outcome(), **options)
    assert not after.failures


@pytest.mark.parametrize("options", [{}, KEEPING], ids=["default", "kept"])
def test_the_database_is_down_for_10_minutes_and_secrets_are_kept(
    cerberus: Cerberus, options: dict[str, float]
) -> None:
    client, outcome = cerberus.client(), Outcome()
    read_until(cerberus, client, 60, FIVE, outcome, **options)
    before, token = cerberus.requests, cerberus.newest
    cerberus.database_is_down = True
    read_until(cerberus, client, 660, FIVE, outcome, **options)
    assert not outcome.failures
    assert cerberus.requests - before <= 50
    cerberus.database_is_down = False
    is_back(cerberus, client, 30, **options)
    assert cerberus.newest == token
    assert len(cerberus.authentications) < 50


@pytest.mark.parametrize("has_read", [False, True], ids=["only a token", "other secrets read"])
def test_the_database_is_down_for_10_minutes_and_nothing_is_kept(cerberus: Cerberus, has_read: bool) -> None:
    client, outcome = cerberus.client(), Outcome()
    token = cerberus.auth().token()
    if has_read:
        read_until(cerberus, client, 60, FIFTY, Outcome())
    before, began = cerberus.requests, cerberus.now
    cerberus.database_is_down = True
    read_until(cerberus, client, began + 600, FIVE, outcome)
    assert not outcome.served
    assert cerberus.requests - before <= 50
    assert cerberus.auth().token() == token
    cerberus.database_is_down = False
    is_back(cerberus, client, 30)
    assert cerberus.auth().token() == token == cerberus.newest


def test_the_database_is_down_for_10_minutes_and_there_is_no_token(cerberus: Cerberus) -> None:
    client, outcome = cerberus.client(), Outcome()
    cerberus.database_is_down = True
    read_until(cerberus, client, 600, FIVE, outcome)
    assert cerberus.requests <= 50
    cerberus.database_is_down = False
    is_back(cerberus, client, 30)


@pytest.mark.parametrize("options", [KEEPING, ASKING], ids=["kept", "not kept"])
def test_the_database_is_down_for_a_minute_and_the_token_is_dead_afterwards(
    cerberus: Cerberus, options: dict[str, float]
) -> None:
    client, outcome = cerberus.client(), Outcome()
    read_until(cerberus, client, 60, FIVE, outcome, **options)
    cerberus.database_is_down = True
    read_until(cerberus, client, 120, FIVE, outcome, **options)
    cerberus.database_is_down = False
    cerberus.revoke()
    is_back(cerberus, client, 30, **options)


class Attack:
    """Paths that always get 401."""

    def __init__(self, cerberus: Cerberus, paths: str) -> None:
        self._cerberus = cerberus
        self._number = 0
        self._paths = {"one": 1, "fifty": 50, "new": 1_000_000}[paths]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self._number += 1
        path = f"{BAD}-{self._number % self._paths}"
        self._cerberus.statuses[path] = 401
        return path


ATTACKS = pytest.mark.parametrize("paths", ["one", "fifty", "new"])


def attacked(
    cerberus: Cerberus, client: CerberusClient, end: float, attack: Attack, outcome: Outcome, **options: float
) -> None:
    """Read a good path and a bad one in turn."""
    good = itertools.cycle(FIVE)
    while cerberus.now < end - 1e-6:
        read(cerberus, client, next(good), outcome, **options)
        read(cerberus, client, next(attack), outcome)
        cerberus.virtual.sleep(0.5)


@ATTACKS
@READS
@pytest.mark.parametrize("bad_first", [False, True], ids=["good first", "bad first"])
def test_some_paths_always_get_401(cerberus: Cerberus, paths: str, options: dict[str, float], bad_first: bool) -> None:
    client, outcome, attack = cerberus.client(), Outcome(), Attack(cerberus, paths)
    if bad_first:
        read(cerberus, client, next(attack), outcome)
    attacked(cerberus, client, 600, attack, outcome, **options)
    assert not outcome.failed("app/orders/good")
    assert not [path for _, path in outcome.served if path.startswith(BAD)]
    assert len(cerberus.authentications) <= 3


@ATTACKS
@pytest.mark.parametrize("options", [KEEPING, ASKING], ids=["kept", "not kept"])
def test_some_paths_always_get_401_and_the_database_is_down_for_a_minute(
    cerberus: Cerberus, paths: str, options: dict[str, float]
) -> None:
    client, attack = cerberus.client(), Attack(cerberus, paths)
    attacked(cerberus, client, 100, attack, Outcome(), **options)
    cerberus.database_is_down = True
    attacked(cerberus, client, 160, attack, Outcome(), **options)
    cerberus.database_is_down = False
    attacked(cerberus, client, 190, attack, Outcome(), **options)
    assert {path for moment, path in cerberus.answered if moment >= 160} >= {*FIVE}
    attacked(cerberus, client, 300, attack, after := Outcome(), **options)
    assert not after.failed("app/orders/good")


@READS
def test_the_token_is_revoked(cerberus: Cerberus, options: dict[str, float]) -> None:
    client, outcome = cerberus.client(), Outcome()
    read_until(cerberus, client, 60, FIVE, outcome, **options)
    cerberus.revoke()
    read_until(cerberus, client, 600, FIVE, outcome, **options)
    assert not outcome.failures
    assert len(cerberus.authentications) == 2


@pytest.mark.parametrize("after", [0.5, 5, 9])
@READS
def test_the_token_is_revoked_while_cerberus_caches_its_answer(
    cerberus: Cerberus, options: dict[str, float], after: float
) -> None:
    cerberus.cached_for = 10
    client = cerberus.client()
    read_until(cerberus, client, after, FIVE, Outcome(), **options)
    cerberus.revoke()
    read_until(cerberus, client, 400, FIVE, outcome := Outcome(), **options)
    for path in FIVE:
        moments = [moment for moment, _, _ in outcome.failed(path)]
        assert not moments or moments[-1] - moments[0] < 15
    assert {path for _, path in outcome.served[-5:]} == {*FIVE}
    assert len(cerberus.authentications) <= 6


@READS
def test_a_renewed_token_is_dead_before_it_was_used(cerberus: Cerberus, options: dict[str, float]) -> None:
    client, auth = cerberus.client(), cerberus.auth()
    read_until(cerberus, client, 10, FIVE, Outcome(), **options)
    first = auth.token()
    while auth.token() == first:
        cerberus.virtual.sleep(10)
    cerberus.revoke()
    began = cerberus.now
    read_until(cerberus, client, began + 5, FIVE, Outcome(), **options)
    assert {path for moment, path in cerberus.answered if moment >= began} >= {*FIVE}
    read_until(cerberus, client, began + 100, FIVE, after := Outcome(), **options)
    assert not after.failures


def test_a_renewed_token_is_dead_before_it_was_used_and_the_path_is_new_after_an_attack(cerberus: Cerberus) -> None:
    cerberus.lease = 200  # renewed while other paths have no authentication left
    client, auth = cerberus.client(), cerberus.auth()
    read_until(cerberus, client, 1, FIVE, Outcome())
    read(cerberus, client, next(Attack(cerberus, "one")), Outcome())
    replaced = auth.token()
    while auth.token() == replaced:
        cerberus.virtual.sleep(5)
    assert cerberus.now < 300
    cerberus.revoke()
    read_until(cerberus, client, cerberus.now + 5, FIFTY, outcome := Outcome())
    assert not outcome.failures


@pytest.mark.parametrize("options", [{}, KEEPING], ids=["default", "kept"])
def test_503_to_everything_for_45_minutes(cerberus: Cerberus, options: dict[str, float]) -> None:
    client, outcome = cerberus.client(), Outcome()
    read_until(cerberus, client, 60, FIVE, outcome, every=0.5, **options)
    before = cerberus.requests
    cerberus.status = 503
    read_until(cerberus, client, 2760, FIVE, outcome, every=0.5, **options)
    assert not outcome.failures
    assert cerberus.requests - before <= 100
    cerberus.status = None
    is_back(cerberus, client, 30, **options)


@READS
def test_one_path_is_answered_with_500_for_ever(cerberus: Cerberus, options: dict[str, float]) -> None:
    cerberus.statuses[BAD] = 500
    client, outcome = cerberus.client(), Outcome()
    good = itertools.cycle(FIVE)
    while cerberus.now < 600 - 1e-6:
        read(cerberus, client, BAD, outcome)
        read(cerberus, client, next(good), outcome, **options)
        cerberus.virtual.sleep(0.1)
    assert not outcome.failed("app/orders/good")
    assert sum(path == BAD for _, path in cerberus.reads) <= 15


@pytest.mark.parametrize("outage", ["503", "database"])
@pytest.mark.parametrize("options", [{}, KEEPING], ids=["default", "kept"])
def test_the_lease_ends_in_an_outage(cerberus: Cerberus, options: dict[str, float], outage: str) -> None:
    cerberus.lease = 600
    client, outcome = cerberus.client(), Outcome()
    read_until(cerberus, client, 60, FIVE, outcome, **options)
    cerberus.status, cerberus.database_is_down = (503, False) if outage == "503" else (None, True)
    cerberus.virtual.sleep(200)
    read_until(cerberus, client, 860, FIVE, outcome, **options)
    assert not outcome.failures
    cerberus.status, cerberus.database_is_down = None, False
    is_back(cerberus, client, 30, **options)


@pytest.mark.parametrize("loses", [False, True], ids=["answers wait", "connections are lost"])
@pytest.mark.parametrize("seconds", [0.05, 3, 4.5])
def test_a_slow_cerberus_and_an_invocation_a_minute_frozen_between(
    cerberus: Cerberus, loses: bool, seconds: float
) -> None:
    cerberus.answers_after, cerberus.loses_frozen = seconds, loses
    client, outcome = cerberus.client(), Outcome()
    written: dict[str, float] = {}
    oldest = 0.0
    for invocation in range(90):
        cerberus.version = invocation
        written[str(invocation)] = cerberus.now
        secret = read(cerberus, client, FIVE[0], outcome)
        assert secret is not None
        oldest = max(oldest, cerberus.now - written[secret["version"]])
        cerberus.virtual.sleep(0.005)
        cerberus.virtual.freeze(60 - 0.005)
    assert oldest <= 300 + 2 * 60 + 2 * 5
    assert len(cerberus.reads) <= 45


CONTAINERS = 20
"""What they ask of Cerberus together hardly depends on how many they are, and 1,000 take a minute here."""


@pytest.mark.parametrize("method", ["kms", "sts"])
def test_503_to_everything_for_45_minutes_and_a_fleet_with_a_table(cerberus: Cerberus, method: str) -> None:
    fleet = [
        cerberus.client(
            auth_method=method,
            shared_cache_table="cerberus",
            shared_cache_key=KEY,
            kms_account_id="222222222222",
            timeout=10 + number / 1e6,  # those of equal settings would be one container
        )
        for number in range(CONTAINERS)
    ]
    outcome, turns = Outcome(), itertools.cycle(fleet)

    def invoke_until(end: float) -> None:
        while cerberus.now < end:  # each container once a minute
            client = next(turns)
            for path in FIVE:
                read(cerberus, client, path, outcome)
            cerberus.virtual.sleep(60 / CONTAINERS)

    invoke_until(300)
    assert cerberus.requests <= 20
    before = cerberus.requests
    cerberus.status = 503
    invoke_until(3000)
    assert not outcome.failures
    assert cerberus.requests - before <= 100
    cerberus.status = None
    invoke_until(3100)
    assert {path for moment, path in cerberus.answered if moment >= 3000} == {*FIVE}
    assert not outcome.failures
