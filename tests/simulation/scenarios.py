"""The simulated fleets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from .model import Conditions, Fleet, Model, Outcome

MINUTE, HOUR = 60.0, 3600.0
TABLE_DOWN = "3,000 in a minute, the table down"


@dataclass(frozen=True)
class Scenario:
    """A fleet and its conditions."""

    name: str
    fleet: Fleet
    conditions: Conditions = Conditions()  # noqa: RUF009  (immutable)

    def run(self, seed: int = 1) -> Outcome:
        """Simulate the fleet."""
        return Model(self.conditions, self.fleet, seed).run()


def within(seconds: float, count: int, life: float = 0, gap: float = 10, secrets: int = 1) -> Fleet:
    """Return a fleet whose containers start at random times within some seconds."""
    random = Random(count)
    return Fleet([random.uniform(0, seconds) for _ in range(count)], life, gap, secrets)


def at_once(count: int, secrets: int = 1) -> Fleet:
    """Return a fleet whose containers start at the same time."""
    return Fleet([0.0] * count, secrets=secrets)


def trend(most: int) -> list[Scenario]:
    """Return bursts of 10, 100, … up to ``most`` containers; larger ones than 100,000 start within ten minutes."""
    counts = [10**power for power in range(1, 7) if 10**power <= most]
    return [
        Scenario(
            f"{count:,} in {'ten minutes' if count > 100_000 else 'a minute'}",
            within(10 * MINUTE if count > 100_000 else MINUTE, count),
        )
        for count in counts
    ]


def slow(seconds: float) -> Conditions:
    """Return conditions with a response time of Cerberus, and with timeouts that allow it."""
    if seconds < 5:
        return Conditions(cerberus_seconds=seconds)
    return Conditions(cerberus_seconds=seconds, read_timeout=15, timeout=30)


def hours() -> list[Scenario]:
    """Return fleets that run for an hour or more: at most 100 requests reach Cerberus in any hour."""
    used = [
        *(
            Scenario(f"{count:,} for 2 hours, 5 secrets", within(MINUTE, count, 2 * HOUR, MINUTE, 5))
            for count in (10, 100, 1_000)
        ),
        Scenario("10,000 for an hour, 5 secrets", within(MINUTE, 10_000, HOUR, 2 * MINUTE, 5)),
    ]
    outage = Conditions(outage=(0.5 * HOUR, 1.25 * HOUR))
    return [
        Scenario("1,000 for 2 hours, 1 secret", within(MINUTE, 1_000, 2 * HOUR, MINUTE)),
        *used,
        *(
            Scenario(
                f"1,000 for 2 hours, 5 secrets, {seconds:g} s",
                within(MINUTE, 1_000, 2 * HOUR, MINUTE, 5),
                slow(seconds),
            )
            for seconds in (3, 4.5, 8)
        ),
        Scenario("100 for 2 hours, 5 secrets, 503 for 45 min", within(MINUTE, 100, 2 * HOUR, 10, 5), outage),
        Scenario("1,000 for 2 hours, 5 secrets, 503 for 45 min", within(MINUTE, 1_000, 2 * HOUR, MINUTE, 5), outage),
        *(
            Scenario(
                f"10,000 for 2 hours, {'5 secrets' if secrets == 5 else '1 secret'}, {seconds:g} s, 503 for 45 min",
                within(MINUTE, 10_000, 2 * HOUR, 4 * MINUTE, secrets),
                replace(slow(seconds), outage=outage.outage),
            )
            for secrets in (1, 5)
            for seconds in (0.3, 3)
        ),
    ]


def others() -> list[Scenario]:
    """Return other situations of a fleet."""
    return [
        *(
            Scenario(f"150 in one instant, 5 secrets, {seconds:g} s", at_once(150, 5), slow(seconds))
            for seconds in (0.3, 3, 4.5, 8)
        ),
        Scenario("10,000 in one instant", at_once(10_000)),
        Scenario("10 a second for an hour, each used for 15 min", within(HOUR, 36_000, 15 * MINUTE, MINUTE)),
        Scenario("1,000 for an hour, leases of 5 min", within(MINUTE, 1_000, HOUR), Conditions(lease=300)),
        Scenario(
            "10 a second for 45 min, 503 after the first",
            within(45 * MINUTE, 27_000),
            Conditions(outage=(MINUTE, HOUR)),
        ),
        Scenario("10,000 in a minute, the first 3 are killed", within(MINUTE, 10_000), Conditions(dies=_First(3))),
        Scenario(TABLE_DOWN, within(MINUTE, 3_000), Conditions(table_works=False, cerberus_limit=1_000)),
    ]


class _First:
    """Stop the first containers that are about to call Cerberus."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._dead: set[int] = set()

    def __call__(self, number: int, step: str) -> bool:
        if step == "ask" and len(self._dead) < self._count:
            self._dead.add(number)
        return number in self._dead
