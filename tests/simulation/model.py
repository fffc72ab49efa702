"""A model of a fleet on virtual time (SimPy) that runs the package's own code.

The decisions are the package's: ``sharing.policy.Policy`` for locks and waiting, ``caching.kept`` for expiry, and
``caching.breaker.Breaker`` for pauses. The model provides DynamoDB, KMS, Cerberus, the flights of a container, and the times at
which containers start, run and stop. A fleet has one role in one region, because roles share nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import simpy

from cerberus_auth import CerberusError, CerberusUnavailable, deadline
from cerberus_auth.authentication.token import usable_seconds
from cerberus_auth.caching import breaker as breakers
from cerberus_auth.caching.breaker import Breaker
from cerberus_auth.caching.flight import Flight
from cerberus_auth.caching.kept import DUE, FRESH, GONE, Kept, Lifetime
from cerberus_auth.deadline import Moment, Pause
from cerberus_auth.sharing.item import Item, StoreBusy, StoreFailure
from cerberus_auth.sharing.policy import Policy

START = 1_700_000_000.0  # the wall clock at the model's time 0
ATTEMPTS = 3
MARGIN_SECONDS = 60.0
MAX_AGE_SECONDS, STALE_SECONDS = 300.0, 3600.0
REST_SECONDS = 60.0  # the pause after the table failed
REFUSAL_SECONDS = 0.02  # the response time of a 503
TOKEN = "token"

Operation = Generator[simpy.Event, Any, Any]


@dataclass(frozen=True)
class Conditions:
    """The conditions of a run: seconds, and calls per second."""

    lease: float = 3600
    cerberus_seconds: float = 0.3
    cerberus_limit: float = 100
    """Requests per second that Cerberus accepts; it returns 503 for the others."""
    timeout: float = 10
    read_timeout: float = 5
    outage: tuple[float, float] = (0, 0)
    """Start and end of the time in which Cerberus returns 503."""
    kms_seconds: float = 0.01
    kms_limit: float = 10_000
    """KMS's request quota for symmetric Decrypt in one region."""
    table_seconds: float = 0.005
    reads_limit: float = 6_000
    """A DynamoDB partition has 3,000 read units; an eventually consistent read of 4 KB takes half a unit."""
    writes_limit: float = 500
    """A DynamoDB partition has 1,000 write units; an item of 2 KB takes two."""
    lag: float = 0.05
    """The maximum delay of an eventually consistent read."""
    has_table: bool = True
    table_works: bool = True
    dies: Callable[[int, str], bool] = lambda number, step: False
    """Whether a container (by number) stops before a step: ``ask`` or ``publish``."""


@dataclass(frozen=True)
class Fleet:
    """The start times of the containers and their use, in seconds."""

    arrivals: list[float]
    life: float = 0
    """How long each container is used; 0 for one invocation."""
    gap: float = 10
    """The average time between two invocations of a container."""
    secrets: int = 1
    """The number of secrets that each invocation reads."""


@dataclass
class Outcome:
    """The result of a run."""

    containers: int
    authentications: int = 0
    requests: list[float] = field(default_factory=list)
    """The time of each request to Cerberus: authentications and reads, including refused ones."""
    failures: int = 0
    """Reads without a secret."""
    lost: int = 0
    """Reads without a secret in containers that had it before."""
    reads: int = 0
    """Reads of the table."""
    writes: int = 0
    decrypts: int = 0
    throttled: int = 0
    waits: list[float] = field(default_factory=list)
    """Seconds to the first secret, for each container that got one."""
    longest_wait: float = 0.0
    """The longest read in a container that had the secret before."""
    asked_at: list[float] = field(default_factory=list)
    """The times of successful authentications."""

    def wait(self, part: float) -> float:
        """Return a quantile of the seconds to the first secret."""
        ordered = sorted(self.waits)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0

    def busiest(self, seconds: float) -> int:
        """Return the maximum of requests to Cerberus within some seconds."""
        most = first = 0
        for last, moment in enumerate(self.requests):
            while moment - self.requests[first] >= seconds:
                first += 1
            most = max(most, last - first + 1)
        return most

    def within(self, begin: float, end: float) -> int:
        """Return the number of requests to Cerberus between two times."""
        return sum(begin <= moment < end for moment in self.requests)


class Model:
    """One run of the model."""

    def __init__(self, conditions: Conditions, fleet: Fleet, seed: int = 1) -> None:
        self.conditions = conditions
        self.fleet = fleet
        self.random = Random(seed)
        self.time = simpy.Environment()
        self._items: dict[str, Item | None] = defaultdict(lambda: None)
        self._before: dict[str, tuple[Item | None, float]] = {}  # the previous item, and until when reads can return it
        self._used: dict[str, Counter[int]] = defaultdict(Counter)  # calls by service and second
        self.outcome = Outcome(len(fleet.arrivals))

    def run(self) -> Outcome:
        """Run until the last container ends."""
        self.time.process(self._arrive())
        with self._own_time():
            self.time.run()
        return self.outcome

    @contextmanager
    def _own_time(self) -> Iterator[None]:
        """Replace the package's clocks and jitter by the model's."""
        clock = SimpleNamespace(monotonic=lambda: self.time.now, time=self.clock)
        with (
            patch.object(deadline, "time", clock),
            patch.object(breakers, "jitter", self.random.random),
        ):
            yield

    def clock(self) -> float:
        return START + self.time.now

    def _arrive(self) -> Operation:
        for number, moment in enumerate(sorted(self.fleet.arrivals)):
            if moment > self.time.now:
                yield self.time.timeout(moment - self.time.now)
            self.time.process(_Container(self, number).live())

    # The operations of containers. Each takes time before it has an effect.

    def is_over(self, service: str, limit: float) -> bool:
        second = int(self.time.now)
        self._used[service][second] += 1
        return self._used[service][second] > limit

    def _table_call(self, kind: str, limit: float) -> Operation:
        if not self.conditions.table_works:
            yield self.time.timeout(self.conditions.table_seconds)
            raise StoreFailure("the table is down")
        yield self.time.timeout(self.conditions.table_seconds * (0.5 + self.random.expovariate(2)))
        if self.is_over(kind, limit):
            self.outcome.throttled += 1
            raise StoreBusy("throttled")

    def get(self, name: str) -> Operation:
        """See ``Store``."""
        self.outcome.reads += 1
        yield from self._table_call("reads", self.conditions.reads_limit)
        if name in self._before:
            before, until = self._before[name]
            if self.time.now < until and self.random.random() < 0.5:
                return before
        return self._items[name]

    def swap(self, name: str, seen: Item | None, new: Item) -> Operation:
        """See ``Store``."""
        self.outcome.writes += 1
        yield from self._table_call("writes", self.conditions.writes_limit)
        item = self._items[name]
        if (item and item.version) == (seen and seen.version):
            self._before[name] = item, self.time.now + self.conditions.lag
            self._items[name] = new
        return self._items[name]

    def sleep(self, seconds: float) -> Operation:
        """Sleep."""
        yield self.time.timeout(seconds)

    def decrypt(self) -> Operation:
        """Call KMS."""
        self.outcome.decrypts += 1
        yield self.time.timeout(self.conditions.kms_seconds)
        while self.is_over("kms", self.conditions.kms_limit):
            yield self.time.timeout(self.random.uniform(0.2, 0.8))  # the transport's pause

    def request(self, step: str, attempts: int, before_attempt: Callable[[], Operation]) -> Operation:
        """Send a request to Cerberus, with retries after a 503. Returns the time before the successful attempt."""
        conditions = self.conditions
        for attempt in range(1, attempts + 1):
            yield from before_attempt()
            asked = self.clock()
            self.outcome.requests.append(self.time.now)
            refused = self.is_over("cerberus", conditions.cerberus_limit)
            if not refused and not conditions.outage[0] <= self.time.now < conditions.outage[1]:
                yield self.time.timeout(min(conditions.cerberus_seconds, conditions.read_timeout))
                if conditions.cerberus_seconds < conditions.read_timeout:
                    return asked
            else:
                yield self.time.timeout(REFUSAL_SECONDS)
            if attempt < attempts:
                yield self.time.timeout(self.random.uniform(0, 0.2 * 2**attempt))
        error = CerberusUnavailable("no answer", status=503)
        error.step = step
        raise error


class _Container:
    """One container. The keys of its values, failures and flights are ``TOKEN`` or a secret's number."""

    def __init__(self, model: Model, number: int) -> None:
        self._model = model
        self._number = number
        self._random = Random(model.random.getrandbits(64))
        self._policy = Policy(model.clock, model.sleep, self._random.random)
        self._breaker = Breaker()
        self._early = self._random.random()
        self._kept: dict[str, Kept] = {}
        self._failures: dict[str, tuple[Pause, int]] = {}
        self._flights: dict[str, _Flight] = {}
        self._rests_until = 0.0
        self._is_dead = False

    def live(self) -> Operation:
        model, fleet = self._model, self._model.fleet
        began = model.time.now
        end = began + fleet.life
        names = [f"secret {number}" for number in range(fleet.secrets)]
        while True:
            for name in names:
                had, called = name in self._kept, model.time.now
                value = yield from self._get(name)
                if self._is_dead:
                    return
                if value is None:
                    model.outcome.failures += 1
                    model.outcome.lost += had
                elif had:
                    model.outcome.longest_wait = max(model.outcome.longest_wait, model.time.now - called)
                elif name == names[0]:
                    model.outcome.waits.append(model.time.now - began)
            pause = self._random.expovariate(1 / fleet.gap)
            if model.time.now + pause > end:
                return
            yield model.time.timeout(pause)

    def _get(self, key: str, within: _Flight | None = None) -> Operation:
        """Return the value or None, like ``Cache.get``."""
        model = self._model
        kept = self._kept.get(key)
        stage = GONE if kept is None else kept.stage()
        if kept is not None and stage == FRESH:
            return kept
        usable = kept if stage < GONE else None
        flight = self._flights.get(key)
        starts = flight is None
        if flight is None:
            failure = self._failures.get(key)
            attempts = 1 if usable is not None or failure is not None else ATTEMPTS
            if within is not None and usable is None:
                attempts = min(attempts, within.flight.deadline.attempts or ATTEMPTS)
            flight = _Flight(model, Flight(model.conditions.timeout, attempts), 0.25 if failure else 2.0)
            if failure is not None and failure[0].lasts():
                return usable
            lookup = key if usable is None and model.conditions.has_table else None
            if within is None and self._breaker.admit(flight.flight, lookup) is not None:
                return usable
            self._flights[key] = flight
            work = self._work(key, flight, within is not None and usable is None)
            if within is not None and usable is None:
                yield from work
                return self._kept.get(key) if flight.error is None else None
            model.time.process(work)
        if usable is None:
            yield flight.signal | model.time.timeout(model.conditions.timeout)
        elif starts or stage != DUE:
            yield flight.signal | model.time.timeout(flight.max_wait)
        kept = self._kept.get(key)
        return kept if kept is not None and kept.stage() < GONE else None

    def _work(self, key: str, flight: _Flight, admitted: bool) -> Operation:
        error: CerberusError | None = None
        try:
            value = yield from self._fetch(key, flight, admitted)
        except CerberusError as failure:
            error = failure
        if self._is_dead:
            return
        self._breaker.ended(flight.flight)
        del self._flights[key]
        if error is None:
            self._keep(key, value)
            self._failures.pop(key, None)
        elif flight.flight.outage is None and not self._breaker.failed(error, key, flight.flight) and error.step != "":
            count = self._failures[key][1] if key in self._failures else 0
            self._failures[key] = Pause(min(60.0, 5.0 * 2.0 ** min(count, 9))), count + 1
        flight.error = error
        flight.land()
        for plan in flight.later:
            yield from self._drive(plan)

    def _keep(self, key: str, value: Kept) -> None:
        held = self._kept.get(key)
        if held is None or not value.asked.is_before(held.asked):
            self._kept[key] = value

    def _lifetime(self, key: str) -> Lifetime:
        if key == TOKEN:
            usable = usable_seconds(int(self._model.conditions.lease), MARGIN_SECONDS)
            return Lifetime(usable * (1 - 0.2 * self._early), usable, usable)
        return Lifetime(MAX_AGE_SECONDS * (1 - 0.1 * self._early), MAX_AGE_SECONDS, MAX_AGE_SECONDS + STALE_SECONDS)

    def _fetch(self, key: str, flight: _Flight, admitted: bool) -> Operation:
        model = self._model
        if not model.conditions.has_table or model.time.now < self._rests_until:
            value, _ = yield from self._ask(key, flight, _nothing, False)
            return value
        since = self._kept[TOKEN].asked.wall if key == TOKEN and TOKEN in self._kept else 0.0
        store: Any = _Store(model, self, key)
        breaker: Any = _Store(model, self, "breaker")
        # In the package, these calls return results; here they return operations, which the driver runs.
        calls: tuple[Any, ...] = (
            partial(self._take, key, flight, since),
            partial(self._ask, key, flight),
            self._failed,
            flight.later.append,
        )
        name = key.replace(" ", "")
        claim_seconds = model.conditions.read_timeout + 1
        left = flight.flight.deadline.remaining()
        lookup_only = flight.flight.outage is not None
        plan = self._policy.get_or_fetch(
            store, breaker, name, left, claim_seconds, *calls, admitted=admitted, lookup_only=lookup_only
        )
        value = yield from self._drive(plan)
        return value

    def _drive(self, plan: Any) -> Operation:
        resume: Callable[[], Callable[[], Operation]] = partial(next, plan)
        while True:
            try:
                call = resume()
            except StopIteration as done:
                return done.value
            try:
                resume = partial(plan.send, (yield from call()))
            except (StoreFailure, CerberusError) as error:
                resume = partial(plan.throw, error)
            if self._is_dead:
                return None

    def _take(self, key: str, flight: _Flight, since: float, item: Item) -> Operation:
        if item.asked <= since:
            return None
        yield from self._model.decrypt()
        value = Kept(item.response, Moment.at(item.asked), self._lifetime(key))
        stage = value.stage()
        if key == TOKEN:
            return value if stage < GONE else None
        if DUE <= stage < GONE:
            self._keep(key, value)
            flight.flight.deadline.attempts = 1
            flight.land()
        return value if stage == FRESH else None

    def _ask(self, key: str, flight: _Flight, renew: Callable[[], Any], is_trial: bool) -> Operation:
        model = self._model
        self._is_dead = self._is_dead or model.conditions.dies(self._number, "ask")
        if self._is_dead:
            return None
        flight.flight.check_outage()
        if is_trial:
            flight.flight.deadline.attempts = 1
        attempts = flight.flight.deadline.attempts or ATTEMPTS
        if key != TOKEN:
            token = yield from self._get(TOKEN, flight)
            if token is None:
                error = CerberusUnavailable("no token")
                error.step = "auth request"
                raise error
        step = "auth request" if key == TOKEN else "read"
        asked = yield from model.request(step, attempts, lambda: self._drive(renew()))
        if key == TOKEN:
            model.outcome.authentications += 1
            model.outcome.asked_at.append(model.time.now)
            yield from model.decrypt()
        self._breaker.answered()
        life = self._lifetime(key)
        value = Kept(f"{key} {len(model.outcome.requests)}", Moment.at(asked), life)

        def make() -> Operation:
            if key != TOKEN:
                yield from model.decrypt()  # encryption counts towards the same quota
            return Item(str(value.value), asked, asked + (model.conditions.lease if key == TOKEN else life.gone))

        return value, make

    def _failed(self, failure: StoreFailure) -> Operation:
        self._rests_until = self._model.time.now + REST_SECONDS
        yield self._model.time.timeout(0)

    def dies(self, step: str) -> bool:
        self._is_dead = self._is_dead or self._model.conditions.dies(self._number, step)
        return self._is_dead


class _Flight:
    """A flight of the package, with the callers that wait for it."""

    def __init__(self, model: Model, flight: Flight, patience: float) -> None:
        self.flight = flight
        self.max_wait = patience
        self.signal = model.time.event()
        self.later: list[Any] = []
        self.error: CerberusError | None = None

    def land(self) -> None:
        if not self.signal.triggered:
            self.signal.succeed()


class _Store:
    """An item of the table, for one container. The container can stop before it publishes."""

    def __init__(self, model: Model, container: _Container, name: str) -> None:
        self._model = model
        self._container = container
        self._name = name
        self.get = partial(model.get, name)

    def swap(self, seen: Item | None, new: Item) -> Operation:
        if new.response and not new.claimed_until and self._container.dies("publish"):
            return None
        stored = yield from self._model.swap(self._name, seen, new)
        return stored


def _nothing() -> Iterator[Any]:
    return iter(())
