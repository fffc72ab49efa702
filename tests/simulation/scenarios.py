"""The fleets that are simulated."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .model import Conditions, Fleet, Model, Outcome

MINUTE, HOUR = 60.0, 3600.0


@dataclass(frozen=True)
class Scenario:
    """A fleet, and what it meets."""

    name: str
    fleet: Fleet
    conditions: Conditions = Conditions()  # noqa: RUF009  (immutable)

    def run(self, seed: int = 1) -> Outcome:
        """Simulate it."""
        return Model(self.conditions, self.fleet, seed).run()


def within(seconds: float, count: int, life: float = 0, gap: float = 10) -> Fleet:
    """So many containers, each at a random moment."""
    random = Random(count)
    return Fleet([random.uniform(0, seconds) for _ in range(count)], life, gap)


def at_once(count: int) -> Fleet:
    """All in the same instant."""
    return Fleet([0.0] * count)


def trend(most: int) -> list[Scenario]:
    """A burst of ten containers, and bursts of ten times as many, up to ``most``; 100,000 in a minute at the quickest."""
    counts = [10**power for power in range(1, 7) if 10**power <= most]
    return [
        Scenario(
            f"{count:,} in {'ten minutes' if count > 100_000 else 'a minute'}",
            within(10 * MINUTE if count > 100_000 else MINUTE, count),
        )
        for count in counts
    ]


def others() -> list[Scenario]:
    """What else can happen to a fleet."""
    steady = within(3 * HOUR, 108_000, life=15 * MINUTE, gap=MINUTE)
    return [
        Scenario("200 in the same instant", at_once(200)),
        Scenario("10,000 in the same instant", at_once(10_000)),
        Scenario("10 a second for 3 hours, each used for 15 minutes", steady),
        Scenario("10,000 in a minute, used for 3 hours", within(MINUTE, 10_000, life=3 * HOUR, gap=MINUTE)),
        Scenario(
            "1,000 in a minute, used for an hour, leases of 5 minutes",
            within(MINUTE, 1_000, life=HOUR),
            Conditions(lease=300),
        ),
        Scenario(
            "10 a second for 45 minutes, Cerberus down after the first",
            within(45 * MINUTE, 27_000),
            Conditions(outage=(MINUTE, HOUR)),
        ),
        Scenario(
            "10,000 in a minute, the first three who ask are killed",
            within(MINUTE, 10_000),
            Conditions(dies=_First(3)),
        ),
        Scenario("3,000 in a minute, the table down", within(MINUTE, 3_000), Conditions(table_works=False)),
    ]


class _First:
    """Ends the first containers that come to ask Cerberus."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._dead: set[int] = set()

    def __call__(self, number: int, step: str) -> bool:
        if step == "ask" and len(self._dead) < self._count:
            self._dead.add(number)
        return number in self._dead
