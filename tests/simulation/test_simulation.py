"""Small simulated fleets, with the code of ``make simulate``."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.tables import aligned
from simulation import peers, plot
from simulation.model import Conditions, Fleet
from simulation.scenarios import HOUR, MINUTE, Scenario, at_once, hours, others, slow, trend, within

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fleet", [at_once(10), at_once(200), within(MINUTE, 10), within(MINUTE, 1_000)])
def test_a_burst_authenticates_once_and_reads_once(fleet: Fleet, seed: int) -> None:
    outcome = Scenario("a burst", fleet).run(seed)
    assert outcome.authentications <= 2
    assert len(outcome.requests) <= 4
    assert outcome.failures == 0
    assert len(outcome.waits) == len(fleet.arrivals)
    assert outcome.wait(1) < 3


@pytest.mark.parametrize("seconds", [0.3, 3, 4.5, 8])
def test_150_cold_containers_however_slow_cerberus_is(seconds: float) -> None:
    fleet, conditions = at_once(150), replace(slow(seconds), timeout=30)
    outcome = Scenario("slow", fleet, conditions).run()
    assert outcome.authentications <= 5
    assert len(outcome.requests) <= 10
    assert outcome.failures == 0
    assert outcome.wait(1) < 2 * seconds + 3


def test_a_fleet_stays_within_100_requests_an_hour() -> None:
    outcome = Scenario("a morning", within(MINUTE, 100, life=4 * HOUR, gap=2 * MINUTE, secrets=5)).run()
    assert outcome.failures == 0
    assert outcome.busiest(HOUR) <= 100
    assert 4 <= outcome.authentications <= 6  # renewed between 80 % and 100 % of the usable life
    apart = [later - earlier for earlier, later in pairwise(outcome.asked_at)]
    assert min(apart) >= 0.8 * (3600 - 60)
    assert outcome.longest_wait <= 1


@pytest.mark.parametrize("seconds", [3, 4.5])
def test_a_slow_cerberus_makes_nobody_fail(seconds: float) -> None:
    fleet = within(MINUTE, 100, life=HOUR, gap=MINUTE, secrets=5)
    outcome = Scenario("slow", fleet, replace(slow(seconds), timeout=30)).run()
    assert outcome.failures == 0
    assert outcome.busiest(HOUR) <= 100
    assert outcome.longest_wait <= 2.1


def test_in_an_outage_every_container_keeps_its_secrets() -> None:
    """1,000 containers, 5 secrets, 503 for 45 minutes."""
    fleet = within(MINUTE, 1_000, life=1.1 * HOUR, gap=5 * MINUTE, secrets=5)
    begin, end = 10 * MINUTE, 55 * MINUTE
    outcome = Scenario("an outage", fleet, Conditions(outage=(begin, end))).run()
    assert outcome.failures == 0
    assert outcome.within(begin, end) <= 100
    assert outcome.busiest(HOUR) <= 100
    assert outcome.longest_wait <= 2.1
    assert outcome.within(end + 2 * MINUTE, 1.1 * HOUR) >= 5  # it recovers


@pytest.mark.parametrize("seconds", [0.3, 3])
@pytest.mark.parametrize("secrets", [1, 5])
@pytest.mark.parametrize("count", [10, 100, 1_000])
def test_an_outage_of_45_minutes_stays_within_100_requests_an_hour(count: int, secrets: int, seconds: float) -> None:
    """``make simulate`` has 10,000."""
    fleet = within(MINUTE, count, life=2 * HOUR, gap=2 * MINUTE, secrets=secrets)
    outcome = Scenario("an outage", fleet, replace(slow(seconds), outage=(0.5 * HOUR, 1.25 * HOUR))).run()
    assert outcome.busiest(HOUR) <= 100
    assert (outcome.failures, outcome.lost) == (0, 0)


def test_a_cold_container_in_an_outage_takes_all_secrets_that_the_fleet_has() -> None:
    fleet = Fleet([*within(MINUTE, 20).arrivals, *(20 * MINUTE + number for number in range(100))], secrets=5)
    outcome = Scenario("an outage", fleet, Conditions(outage=(10 * MINUTE, HOUR))).run()
    assert outcome.failures == 0
    assert outcome.within(10 * MINUTE, HOUR) <= 20


def test_while_cerberus_is_down_the_table_serves() -> None:
    down = Conditions(outage=(MINUTE, HOUR))
    served = Scenario("sharing", within(45 * MINUTE, 500), down).run()
    assert (served.authentications, served.failures) == (1, 0)
    alone = Scenario("alone", within(45 * MINUTE, 500), replace(down, has_table=False)).run()
    assert alone.failures > 450


@pytest.mark.parametrize("step", ["ask", "publish"])
def test_a_killed_claimer_has_one_successor(step: str) -> None:
    dead: set[int] = set()

    def dies(number: int, at: str) -> bool:
        if at == step and not dead:
            dead.add(number)
        return number in dead

    outcome = Scenario("a crash", at_once(100), Conditions(dies=dies, timeout=30)).run()
    assert len(outcome.waits) == 99
    assert outcome.authentications <= 2
    assert outcome.failures == 0
    assert 5 < outcome.wait(1) < 16


def test_a_table_that_is_down_costs_no_more_than_having_none() -> None:
    for conditions in (Conditions(table_works=False), Conditions(has_table=False)):
        outcome = Scenario("alone", within(MINUTE, 300), conditions).run()
        assert (outcome.authentications, outcome.failures) == (300, 0)
        assert outcome.wait(1) < 2


def test_who_has_the_token_publishes_it_though_the_others_keep_the_table_busy() -> None:
    outcome = Scenario("a herd", at_once(500), Conditions(reads_limit=200, writes_limit=15)).run()
    assert outcome.throttled > 500
    assert outcome.authentications <= 5
    assert outcome.failures == 0


def test_the_same_seed_gives_the_same_figures() -> None:
    scenario = Scenario("a burst", at_once(100))
    assert scenario.run(7) == scenario.run(7)
    assert scenario.run(7).waits != scenario.run(8).waits


def test_others_add_up() -> None:
    fleet = Fleet([0.0, 0.2, 30.5], life=HOUR)
    found = {peer.name: peers.calls(peer, fleet) for peer in peers.PEERS}
    assert found["cerberus-python-client"] == (12, 4)
    assert found["aws caching"] == (12, 4)
    assert found["Powertools"] == (39, 2)


def test_every_scenario_has_a_name_of_its_own() -> None:
    names = [scenario.name for scenario in trend(10**6) + hours() + others()]
    assert len(set(names)) == len(names)


def test_it_writes_what_the_charts_show(tmp_path: Path) -> None:
    code = (
        "import sys, simulation.__main__ as main; main.others = main.hours = lambda: []; "
        f"sys.argv = ['simulation', '--most', '100', '--no-processes', '--results', {str(tmp_path)!r}]; sys.exit(main.main())"
    )
    path = f"{TESTS}:{TESTS.parent / 'layer'}"
    ended = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    table = (tmp_path / "table.md").read_text()
    assert table in ended.stdout
    assert "| 100 in a minute | 1 | 2 |" in table
    assert max(map(len, aligned(table).splitlines())) <= 100
    drawn = plot.bursts(json.loads((tmp_path / "figures.json").read_text()))
    assert "nothing shared: 200" in " ".join(ElementTree.fromstring(drawn).itertext())  # noqa: S314  (our own)
