"""A fleet of containers in a time of its own (SimPy), driven by the package's own code.

When to look, to claim, to wait and to ask is decided by ``sharing.policy.Policy``, and how long a token serves by
``caching.cache.Held``: neither is copied here. What stands around them is modelled: DynamoDB, KMS, Cerberus, and when
containers come, are used, and go. One role in one region, since roles have nothing in common.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import simpy

from cerberus_auth import CerberusError, CerberusUnavailable
from cerberus_auth.authentication.token import Asked, Token, Wanted
from cerberus_auth.caching.cache import Held
from cerberus_auth.errors import RenewedElsewhere
from cerberus_auth.sharing.item import Item, StoreBusy, StoreFailure
from cerberus_auth.sharing.policy import Policy

START = 1_700_000_000.0  # the wall clock when the model's is 0
MARGIN_SECONDS = 60.0
TIMEOUT_SECONDS = 10.0
RENEWAL_SECONDS = 2.0
RETRY_SECONDS = 4.0  # after a failure, callers come again; the cache's longest pause
SUSPEND_SECONDS = 60.0  # a store that failed is left alone

Operation = Generator[simpy.Event, Any, Any]


@dataclass(frozen=True)
class Conditions:
    """What a fleet meets. Seconds, and calls for each second."""

    lease: float = 3600
    cerberus_seconds: float = 0.3
    cerberus_limit: float = 100
    """Authentications that the service takes in a second; it answers 503 to the others."""
    outage: tuple[float, float] = (0, 0)
    """From when until when Cerberus does not answer."""
    kms_seconds: float = 0.01
    kms_limit: float = 10_000
    """KMS quotas, "Request quotas": symmetric Decrypt in one region."""
    table_seconds: float = 0.005
    reads_limit: float = 6_000
    """One partition of DynamoDB: 3,000 read units, of which an eventually consistent read of 4 KB takes half of one."""
    writes_limit: float = 500
    """One partition of DynamoDB: 1,000 write units, of which 2 KB take two."""
    lag: float = 0.05
    """By which an eventually consistent read may be behind."""
    has_table: bool = True
    table_works: bool = True
    dies: Callable[[int, str], bool] = lambda number, step: False
    """Whether a container, by its number, ends before a step: ``ask``, ``publish``."""


@dataclass(frozen=True)
class Fleet:
    """When containers come, and how they are used. Seconds."""

    arrivals: list[float]
    life: float = 0
    """For how long each is used; 0 for one invocation."""
    gap: float = 10
    """Between two invocations of a container, on average."""


@dataclass
class Outcome:
    """What came of it."""

    containers: int
    authentications: int = 0
    peak_second: int = 0
    """Authentications in the busiest second, refused ones too."""
    failures: int = 0
    """Invocations without a token."""
    reads: int = 0
    writes: int = 0
    decrypts: int = 0
    throttled: int = 0
    waits: list[float] = field(default_factory=list)
    """Seconds to the first token of each container that got one."""
    asked_at: list[float] = field(default_factory=list)

    def wait(self, part: float) -> float:
        """A quantile of the seconds to the first token."""
        ordered = sorted(self.waits)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


class Model:
    """One run."""

    def __init__(self, conditions: Conditions, fleet: Fleet, seed: int = 1) -> None:
        self._conditions = conditions
        self._fleet = fleet
        self._random = Random(seed)
        self._time = simpy.Environment()
        self._item: Item | None = None
        self._before: tuple[Item | None, float] = (None, 0.0)  # the item before, and until when it may be read
        self._used: dict[str, Counter[int]] = defaultdict(Counter)  # calls by service and second
        self.outcome = Outcome(len(fleet.arrivals))

    def run(self) -> Outcome:
        """To the end of the last container's life."""
        self._time.process(self._arrive())
        self._time.run()
        self.outcome.peak_second = max(self._used["cerberus"].values(), default=0)
        return self.outcome

    def _clock(self) -> float:
        return START + self._time.now

    def _arrive(self) -> Operation:
        for number, moment in enumerate(sorted(self._fleet.arrivals)):
            if moment > self._time.now:
                yield self._time.timeout(moment - self._time.now)
            self._time.process(_Container(self, number).live())

    # What containers call. Each operation takes its time, and then takes effect.

    def _is_over(self, service: str, limit: float) -> bool:
        second = int(self._time.now)
        self._used[service][second] += 1
        return self._used[service][second] > limit

    def _table_call(self, kind: str, limit: float) -> Operation:
        conditions = self._conditions
        if not conditions.table_works:
            yield self._time.timeout(conditions.table_seconds)
            raise StoreFailure("the table is down")
        yield self._time.timeout(conditions.table_seconds * (0.5 + self._random.expovariate(2)))
        if self._is_over(kind, limit):
            self.outcome.throttled += 1
            raise StoreBusy("throttled")

    def get(self) -> Operation:
        """See ``Store``."""
        self.outcome.reads += 1
        yield from self._table_call("reads", self._conditions.reads_limit)
        before, until = self._before
        return before if self._time.now < until and self._random.random() < 0.5 else self._item

    def swap(self, seen: Item | None, new: Item) -> Operation:
        """See ``Store``."""
        self.outcome.writes += 1
        yield from self._table_call("writes", self._conditions.writes_limit)
        if (self._item and self._item.version) == (seen and seen.version):
            self._before = self._item, self._time.now + self._conditions.lag
            self._item = new
        return self._item

    def sleep(self, seconds: float) -> Operation:
        """Wait."""
        yield self._time.timeout(seconds)

    def decrypt(self) -> Operation:
        """A call of KMS."""
        self.outcome.decrypts += 1
        yield self._time.timeout(self._conditions.kms_seconds)
        while self._is_over("kms", self._conditions.kms_limit):
            yield self._time.timeout(self._random.uniform(0.2, 0.8))  # the transport's pause

    def authenticate(self) -> Operation:
        """An auth request, and the decryption of its answer."""
        began = self._clock()
        conditions = self._conditions
        for attempt in (1, 2, 3):  # CERBERUS_MAX_ATTEMPTS
            refused = self._is_over("cerberus", conditions.cerberus_limit)
            if not refused and not conditions.outage[0] <= self._time.now < conditions.outage[1]:
                yield self._time.timeout(conditions.cerberus_seconds)
                self.outcome.authentications += 1
                self.outcome.asked_at.append(self._time.now)
                yield from self.decrypt()
                return self.token(f"token-{self.outcome.authentications}", began)
            yield self._time.timeout(self._random.uniform(0, 0.2 * 2**attempt))
        raise CerberusUnavailable("no answer")

    def token(self, value: str, asked_at: float) -> Token:
        """A token with this lease, asked for then."""
        asked = Asked()
        asked.wall = asked_at
        return Token(value, int(self._conditions.lease), asked, "arn:aws:iam::111111111111:role/web", "us-west-2")


class _Container:
    def __init__(self, model: Model, number: int) -> None:
        self._model = model
        self._number = number
        self._random = Random(model._random.getrandbits(64))
        self._suspended_until = 0.0
        self._policy = Policy(model._clock, model.sleep, self._random.random)
        self._early = self._random.random()
        self._is_dead = False

    def live(self) -> Operation:
        model, fleet = self._model, self._model._fleet
        began = model._time.now
        end = began + fleet.life
        held: Held | None = None
        since = 0.0
        while True:
            now = model._clock()
            usable = held is not None and now < held.end_wall
            try:
                token = yield from self._token(Wanted(since=since, early=usable))
            except RenewedElsewhere:
                pause = self._random.uniform(0.125, RETRY_SECONDS)
            except CerberusError:
                if not usable:
                    model.outcome.failures += 1
                pause = self._random.uniform(RETRY_SECONDS / 2, RETRY_SECONDS)
            else:
                if self._is_dead:
                    return
                if held is None:
                    model.outcome.waits.append(model._time.now - began)
                held, since = Held(token, MARGIN_SECONDS, self._early), token.asked.wall
                pause = max(0.0, held.fresh_wall - model._clock())
            pause += self._random.expovariate(1 / fleet.gap)
            if model._time.now + pause > end:
                return
            yield model._time.timeout(pause)

    def _token(self, wanted: Wanted) -> Operation:
        model = self._model
        if not model._conditions.has_table or model._time.now < self._suspended_until:
            token = yield from model.authenticate()
            return token
        seconds = RENEWAL_SECONDS if wanted.early else TIMEOUT_SECONDS
        # What the plan yields gives an operation here, where it gives an answer in the package: its driver sees to that.
        calls: tuple[Any, ...] = (self._take, self._ask, self._failed)
        store: Any = _Store(model, self)
        plan = self._policy.plan(store, wanted, seconds, *calls)
        resume: Callable[[], Callable[[], Operation]] = partial(next, plan)
        while True:
            try:
                call = resume()
            except StopIteration as done:
                return done.value[0]
            try:
                resume = partial(plan.send, (yield from call()))
            except (StoreFailure, CerberusError) as error:
                resume = partial(plan.throw, error)
            if self._is_dead:
                return model.token("", 0)

    def _take(self, item: Item) -> Operation:
        yield from self._model.decrypt()
        return self._model.token(item.response, item.asked)

    def _ask(self) -> Operation:
        self._die("ask")
        if self._is_dead:
            yield self._model._time.timeout(0)
            return None
        token = yield from self._model.authenticate()
        return token, token.value

    def _failed(self, failure: StoreFailure) -> Operation:
        self._suspended_until = self._model._time.now + SUSPEND_SECONDS
        yield self._model._time.timeout(0)

    def _die(self, step: str) -> None:
        self._is_dead = self._is_dead or self._model._conditions.dies(self._number, step)


class _Store:
    """The table as one container sees it, which may end before it publishes."""

    def __init__(self, model: Model, container: _Container) -> None:
        self._model = model
        self._container = container
        self.get = model.get

    def swap(self, seen: Item | None, new: Item) -> Operation:
        if new.response and not new.claimed_until:
            self._container._die("publish")
        if self._container._is_dead:
            yield self._model._time.timeout(0)
            return None
        stored = yield from self._model.swap(seen, new)
        return stored
