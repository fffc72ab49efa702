"""The shared cache's policy: when a container takes, claims, waits and asks. On virtual time, in every order."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerberus_auth import errors
from cerberus_auth.sharing.item import FORMAT, UNSHARED, Item, SealFailure, StoreBusy, StoreFailure, StoreSlow
from cerberus_auth.sharing.policy import Policy, run

START = 1_700_000_000.0
LEASE = 3600.0
CLAIM = 6.0  # the read timeout and a second
CALL_SECONDS = 0.01


def unavailable(step: str = "auth request", status: int = 0, retry_after: float = 0) -> errors.CerberusError:
    error = errors.CerberusUnavailable("it is down", status=status, retry_after=retry_after)
    error.step = step
    return error


class Table:
    """One item."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self.item: Item | None = None
        self.errors: dict[str, Exception] = {}

    def get(self) -> Item | None:
        self._called("get")
        return self.item

    def swap(self, seen: Item | None, new: Item) -> Item | None:
        self._called("put")
        if (self.item and self.item.version) == (seen and seen.version):
            self.item = new
        return self.item

    def _called(self, kind: str) -> None:
        self._world.calls.append(f"{kind} {self._name}".strip())
        if kind in self.errors:
            raise self.errors[kind]


class World:
    """A store, a breaker's item, a Cerberus and a clock, for any number of containers.

    Each call takes its time and then takes effect.
    """

    def __init__(self) -> None:
        self.now = START
        self.store = Table(self, "")
        self.breaker = Table(self, "breaker")
        self.calls: list[str] = []
        self.asked: list[float] = []
        self.attempts_seconds = [0.3]  # of each attempt of one fetch; the last one brings the value
        self.error: Exception | None = None
        self.make_error: Exception | None = None
        self.useless: set[str] = set()
        self.failures: list[StoreFailure] = []
        self.trials = 0

    def fetch(
        self, seconds: float = 10, random: float = 0.5, name: str = "path", **options: Any
    ) -> Generator[Callable[[], Any], Any, str]:
        """One container's plan; what it does later follows in a plan of its own, and the value is returned before."""
        policy = Policy(lambda: self.now, self.sleep, lambda: random)
        later: list[Any] = []
        plan = policy.get_or_fetch(
            self.store,
            self.breaker,
            name,
            seconds,
            CLAIM,
            self.take,
            self.ask,
            self.failures.append,
            later.append,
            **options,
        )
        followed: Generator[Callable[[], Any], Any, str] = _followed(plan, later, self)
        return followed

    def sleep(self, seconds: float) -> None:
        self.calls.append("sleep")

    def take(self, item: Item) -> str | None:
        self.calls.append("take")
        return None if item.response in self.useless else item.response

    def ask(self, renew: Callable[[], Any], is_trial: bool) -> Any:
        raise AssertionError("a container's driver carries it out")

    def fetch_value(self, asked: float) -> tuple[str, Callable[[], Item]]:
        self.asked.append(asked)
        self.calls.append("ask")
        if self.error:
            raise self.error
        value = f"value {len(self.asked)}"

        def make() -> Item:
            self.calls.append("make")
            if self.make_error:
                raise self.make_error
            return Item(value, asked, asked + LEASE)

        return value, make

    def live(self, plan: Generator[Callable[[], Any], Any, str]) -> Generator[float, None, str]:
        """A container: yields how long its next call takes, and returns its value."""
        resume: Callable[[], Any] = partial(next, plan)
        while True:
            try:
                call = resume()
            except StopIteration as done:
                value: str = done.value
                return value
            try:
                if isinstance(call, partial) and call.func == self.ask:
                    renew, is_trial = call.args
                    self.trials += is_trial
                    for seconds in self.attempts_seconds:
                        yield from self.live(renew())
                        asked = self.now
                        yield seconds
                    answer = self.fetch_value(asked)
                else:
                    yield float(call.args[0]) if isinstance(call, partial) and call.func == self.sleep else CALL_SECONDS
                    answer = call()
                resume = partial(plan.send, answer)
            except Exception as error:
                resume = partial(plan.throw, error)

    def get(self, seconds: float = 10, **options: Any) -> str:
        """One container alone, in the world's time, with what it does later."""
        return self.finish(self.live(self.fetch(seconds, **options)))

    def finish(self, process: Generator[float, None, str]) -> str:
        """The rest of one container's way."""
        while True:
            try:
                self.now += next(process)
            except StopIteration as done:
                return str(done.value)

    def herd(self, plans: list[Any], arrivals: list[float], dies: dict[int, int] | None = None) -> dict[int, str]:
        """Many containers, each with its arrival; ``dies``: after so many calls. The value of each, or its error's class."""
        order = itertools.count()
        queue = [(START + arrival, next(order), number) for number, arrival in enumerate(arrivals)]
        heapq.heapify(queue)
        containers = [self.live(plan) for plan in plans]
        left = dict(dies or {})
        values = {}
        while queue:
            self.now, _, number = heapq.heappop(queue)
            if left.get(number) == 0:
                continue
            left[number] = left.get(number, -1) - 1
            try:
                heapq.heappush(queue, (self.now + next(containers[number]), next(order), number))
            except StopIteration as done:
                values[number] = done.value
            except errors.CerberusError as error:
                values[number] = type(error).__name__
        return values


def _followed(plan: Any, later: list[Any], world: World) -> Any:
    error: Exception | None = None
    value = None
    try:
        value = yield from plan
    except Exception as failure:
        error = failure
    world.calls.append("landed")
    for each in later:
        yield from each
    if error is not None:
        raise error
    return value


@pytest.fixture
def world() -> World:
    return World()


def stored(world: World, *, age: float = 10, response: str = "shared", claimed: float = 0, **fields: Any) -> Item:
    claimed_until = START + claimed if claimed else 0
    world.store.item = Item(response, START - age, START - age + LEASE, claimed_until, "seen", **fields)
    return world.store.item


def item_of(table: Table) -> Item:
    assert table.item is not None
    return table.item


# One container


def test_a_miss_claims_asks_lands_and_then_publishes(world: World) -> None:
    assert world.get() == "value 1"
    assert world.calls == ["get", "get breaker", "put", "ask", "landed", "make", "put"]
    item = item_of(world.store)
    assert (item.response, item.claimed_until, item.failures, item.format) == ("value 1", 0, 0, FORMAT)
    assert item.expires == item.asked + LEASE
    assert world.breaker.item is None


def test_a_hit_is_one_call(world: World) -> None:
    stored(world)
    assert world.get() == "shared"
    assert world.calls == ["get", "take", "landed"]


def test_an_item_that_is_over_is_not_opened(world: World) -> None:
    stored(world, age=LEASE)
    assert world.get() == "value 1"
    assert "take" not in world.calls


def test_an_item_that_does_not_serve_is_opened_once_and_replaced(world: World) -> None:
    stored(world)
    world.useless = {"shared"}
    assert world.get() == "value 1"
    assert world.calls == ["get", "take", "get breaker", "put", "ask", "landed", "make", "put"]


def test_at_most_two_items_are_opened_by_one_call(world: World) -> None:
    versions = itertools.count()

    class Rewritten(Table):
        def get(self) -> Item | None:
            name = f"planted {next(versions)}"
            world.useless.add(name)
            self.item = Item(name, world.now - 1, world.now + LEASE, world.now + 1, name)
            return super().get()

    world.store = Rewritten(world, "")
    with pytest.raises(errors.DeadlineExceeded):
        world.get(seconds=30)
    assert world.calls.count("take") == 2
    assert world.calls.count("get") > 10


@pytest.mark.parametrize("refused", [False, True])
def test_the_old_ciphertext_serves_others_while_it_is_claimed(world: World, refused: bool) -> None:
    """A refused token too: the database of Cerberus can be down, and then it refuses all of them."""
    item = stored(world)
    world.useless = {"shared"}
    process = world.live(world.fetch(refused=refused))
    for _ in range(5):  # up to the ask
        world.now += next(process)
    claim = item_of(world.store)
    assert (claim.response, claim.asked, claim.expires) == ("shared", item.asked, item.expires)
    assert claim.is_claimed(world.now, CLAIM)
    world.useless = set()
    assert world.get() == "shared"


def test_a_failed_fetch_leaves_the_old_ciphertext(world: World) -> None:
    item = stored(world)
    world.useless, world.error = {"shared"}, unavailable()
    with pytest.raises(errors.CerberusUnavailable):
        world.get(refused=True)
    assert item_of(world.store).fields() == item.fields() | {"version": item_of(world.store).version}


def test_an_error_to_be_shared_is_published_and_raised(world: World) -> None:
    answer = world.fetch_value
    no = errors.AccessDenied("no")
    world.fetch_value = lambda asked: (no, answer(asked)[1])  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(errors.AccessDenied):
        world.get()
    assert item_of(world.store).response == "value 1"


# Claims


def test_a_claim_lives_for_one_attempt(world: World) -> None:
    process = world.live(world.fetch())
    for _ in range(4):
        world.now += next(process)
    assert item_of(world.store).claimed_until == pytest.approx(START + CLAIM, abs=0.1)


def test_it_is_renewed_before_each_attempt(world: World) -> None:
    world.attempts_seconds = [4.5, 4.5, 4.5]
    assert world.get() == "value 1"
    assert world.calls == ["get", "get breaker", "put", "put", "put", "ask", "landed", "make", "put"]
    assert item_of(world.store).response == "value 1"


@pytest.mark.parametrize("error", [StoreFailure("down"), StoreBusy("throttled"), StoreSlow("slow")])
def test_a_renewal_that_fails_makes_nobody_fail(world: World, error: Exception) -> None:
    world.attempts_seconds = [4.5, 0.1]
    process = world.live(world.fetch())
    for _ in range(4):
        world.now += next(process)
    world.store.errors["put"] = error
    assert world.finish(process) == "value 1"


def test_who_was_taken_for_dead_publishes_a_newer_answer_over_the_claim(world: World) -> None:
    process = world.live(world.fetch())
    for _ in range(4):
        world.now += next(process)
    world.store.item = Item(claimed_until=world.now + CLAIM)  # another container's
    list(process)
    assert item_of(world.store).response == "value 1"


def test_what_was_asked_before_it_was_forgotten_is_not_published_over_a_later_claim(world: World) -> None:
    process, other = world.live(world.fetch()), world.live(world.fetch())
    for _ in range(4):
        world.now += next(process)
    world.store.item = Item(asked=world.now, expires=world.now + LEASE)  # what forgetting leaves
    for _ in range(4):
        world.now += next(other)
    assert item_of(world.store).claimed_until > world.now
    list(process)
    assert item_of(world.store).response == ""
    list(other)
    assert item_of(world.store).response == "value 2"


def test_an_older_answer_does_not_replace_a_newer_one(world: World) -> None:
    process = world.live(world.fetch())
    for _ in range(4):
        world.now += next(process)
    world.store.item = newer = Item("newer", world.now, world.now + LEASE)
    list(process)
    assert world.store.item is newer


def test_a_claim_that_lapses_is_taken_over(world: World) -> None:
    stored(world, response="", claimed=CLAIM)
    assert world.get() == "value 1"
    assert CLAIM <= world.now - START < CLAIM + 2


@pytest.mark.parametrize("claimed", [90, 1e9, -5])
def test_a_claim_longer_than_any_is_none(world: World, claimed: float) -> None:
    stored(world, response="", claimed=claimed)
    assert world.get() == "value 1"
    assert "sleep" not in world.calls


def test_a_claim_of_a_function_with_a_longer_read_timeout_counts(world: World) -> None:
    stored(world, response="", claimed=16)
    with pytest.raises(errors.DeadlineExceeded):
        world.get(seconds=10)
    assert world.asked == []


@pytest.mark.parametrize("seconds", [0.5, 2, 5])
def test_the_wait_ends_with_the_callers_own_time(world: World, seconds: float) -> None:
    stored(world, response="", claimed=CLAIM)
    with pytest.raises(errors.DeadlineExceeded) as caught:
        world.get(seconds)
    assert seconds <= world.now - START < seconds + 0.1
    assert not errors.is_outage(caught.value)


def test_pauses_are_random_and_grow() -> None:
    def pauses(random: float) -> list[float]:
        world = World()
        stored(world, response="", claimed=CLAIM)
        process, found = world.live(world.fetch(random=random)), []
        for seconds in process:
            world.now += seconds
            if world.calls and seconds not in (CALL_SECONDS, 0.3):
                found.append(round(seconds, 3))
        return found

    assert pauses(0.0)[:3] == [0.05, 0.05, 0.05]
    assert pauses(0.5)[:5] == [0.1, 0.15, 0.25, 0.45, 0.45]


# A store that fails


@pytest.mark.parametrize("call", ["get", "put"])
def test_a_store_that_is_down_is_done_without(world: World, call: str) -> None:
    world.store.errors[call] = StoreFailure("it is down")
    assert world.get() == "value 1"
    assert "sleep" not in world.calls
    assert set(world.failures) == {world.store.errors[call]}


def test_a_breaker_that_is_down_is_done_without(world: World) -> None:
    world.breaker.errors["get"] = StoreFailure("it is down")
    assert world.get() == "value 1"
    assert len(world.failures) == 1


@pytest.mark.parametrize("call", ["get", "put"])
def test_a_slow_store_is_asked_twice(world: World, call: str) -> None:
    world.store.errors[call] = StoreSlow("no answer")
    assert world.get() == "value 1"
    assert world.calls.count(call) == 2
    assert world.failures == [world.store.errors[call]]


def test_a_store_that_was_slow_once_is_used(world: World) -> None:
    stored(world)
    world.store.errors["get"] = StoreSlow("no answer")
    process = world.live(world.fetch())
    for _ in range(2):
        world.now += next(process)
    world.store.errors.clear()
    assert (world.finish(process), world.failures) == ("shared", [])


@pytest.mark.parametrize("table", ["store", "breaker"])
@pytest.mark.parametrize("call", ["get", "put"])
def test_a_throttled_store_is_never_down(world: World, table: str, call: str) -> None:
    if (table, call) == ("breaker", "put"):
        world.breaker.item = Item(failures=1)
    getattr(world, table).errors[call] = StoreBusy("throttled")
    assert world.get() == "value 1"
    assert world.failures == []
    assert 4 < world.now - START < 10  # at least half of its time is left to ask in


def test_a_store_throttled_for_a_moment_is_used(world: World) -> None:
    stored(world)

    class Busy(Table):
        def get(self) -> Item | None:
            self.errors = {"get": StoreBusy("throttled")} if world.calls.count("get") < 3 else {}
            return super().get()

    busy = Busy(world, "")
    busy.item, world.store = world.store.item, busy
    assert world.get() == "shared"


def test_a_throttled_publication_is_tried_again(world: World) -> None:
    process = world.live(world.fetch())
    for _ in range(4):
        world.now += next(process)
    world.store.errors["put"] = StoreBusy("throttled")
    while world.calls.count("put") < 3:
        world.now += next(process)
    world.store.errors.clear()
    list(process)
    assert item_of(world.store).response == "value 1"
    assert world.failures == []
    assert world.calls.index("landed") < world.calls.index("sleep")


def test_a_newer_format_is_left_as_it_is(world: World) -> None:
    item = stored(world)
    item.format = FORMAT + 1
    assert world.get() == "value 1"
    assert world.store.item is item
    assert "newer version" in str(world.failures[0])


def test_a_breaker_of_a_newer_format_stops_nobody(world: World) -> None:
    world.breaker.item = newer = Item(failures=3, paused_until=START + 50)
    newer.format = FORMAT + 1
    assert world.get() == "value 1"
    assert world.breaker.item is newer


# What cannot be shared


def test_nobody_waits_for_what_cannot_be_shared(world: World) -> None:
    world.make_error = SealFailure("the key is disabled")
    assert world.get() == "value 1"
    assert world.failures == [world.make_error]
    assert item_of(world.store).is_unshareable(world.now)
    world.calls.clear()
    values = world.herd([world.fetch() for _ in range(50)], [1.0] * 50)
    assert set(values.values()) == {f"value {number}" for number in range(2, 52)}
    assert world.now - START < 2
    assert "put" not in world.calls
    world.now += 61
    world.make_error = None
    world.get()
    assert item_of(world.store).response


def test_what_cannot_be_shared_stays_so_after_a_401(world: World) -> None:
    world.make_error = SealFailure("the key is disabled")
    world.get(refused=True)
    assert world.get() == "value 2"


# Failures of all containers


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (errors.PrincipalRejected("no"), errors.PrincipalRejected),
        (errors.MethodNotOffered("no"), errors.MethodNotOffered),
        (errors.TokenRefused("no"), errors.TokenRefused),
        (unavailable("read", 500), errors.CerberusUnavailable),
    ],
)
def test_the_pause_of_a_failure_is_the_fleets(
    world: World, error: errors.CerberusError, raised: type[Exception]
) -> None:
    world.error = error
    pauses = []
    for _ in range(6):
        with pytest.raises(raised):
            world.get()
        pauses.append(item_of(world.store).pause_left(world.now))
        asked = len(world.asked)
        with pytest.raises(raised) as caught:
            world.get()
        assert not errors.is_outage(caught.value)  # type: ignore[arg-type]
        assert len(world.asked) == asked
        world.now += pauses[-1]
    assert pauses == pytest.approx([5, 10, 20, 40, 60, 60], rel=0.06)
    world.error = None
    world.get()
    assert item_of(world.store).failures == 0


def test_a_region_that_cerberus_does_not_know_is_told_as_such(world: World) -> None:
    world.error = error = errors.PrincipalRejected("no")
    error.unknown_region = error.regional = True
    for _ in range(2):
        with pytest.raises(errors.PrincipalRejected) as caught:
            world.get()
        assert (caught.value.unknown_region, caught.value.regional) == (True, True)
    assert len(world.asked) == 1


@pytest.mark.parametrize("error", [errors.DecryptionDenied("no"), errors.InvalidResponse("no"), ValueError("a defect")])
def test_a_failure_that_can_be_one_functions_frees_the_claim(world: World, error: Exception) -> None:
    world.error = error
    for _ in range(3):
        with pytest.raises(type(error)):
            world.get()
    assert len(world.asked) == 3
    assert item_of(world.store).claimed_until == 0


def test_credentials_that_are_refused_are_one_containers(world: World) -> None:
    world.error = error = errors.PrincipalRejected("no")
    error.credentials_refused = True
    for _ in range(2):
        with pytest.raises(errors.PrincipalRejected):
            world.get()
    assert len(world.asked) == 2


@pytest.mark.parametrize("left", [61, 1e6])
def test_a_pause_longer_than_any_is_none(world: World, left: float) -> None:
    stored(world, response="", paused_until=START + left + 2, failure="PrincipalRejected", failures=1)
    assert world.get() == "value 1"


@pytest.mark.parametrize(("left", "told"), [(0.2, "Retry in 1 s"), (1.2, "Retry in 2 s")])
def test_the_rest_of_a_pause_is_rounded_up(world: World, left: float, told: str) -> None:
    stored(world, response="", paused_until=START + left, failure="PrincipalRejected", failures=1)
    with pytest.raises(errors.PrincipalRejected, match=told):
        run(world.fetch())


def test_a_401_is_worth_one_authentication_of_the_fleet_for_a_pause(world: World) -> None:
    stored(world)
    world.useless = {"shared"} | {f"value {number}" for number in range(1, 20)}
    moments = []
    for _ in range(5):
        world.get(refused=True)
        moments.append(world.now)
        with pytest.raises(errors.TokenRefused):
            world.get(refused=True)
        world.now += item_of(world.store).pause_left(world.now)
    apart = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert apart == pytest.approx([5, 10, 20, 40], rel=0.1)
    world.useless = set()
    assert world.get() == "value 5"  # all the while it serves others


def test_a_token_that_served_for_long_counts_as_no_failure(world: World) -> None:
    stored(world, age=301, failures=4)
    world.useless = {"shared"}
    world.get(refused=True)
    assert item_of(world.store).failures == 1


# The fleet's breaker


def test_pauses_of_an_outage_grow_and_one_container_tries(world: World) -> None:
    world.error = unavailable()
    pauses = []
    for _ in range(6):
        values = world.herd([world.fetch() for _ in range(20)], [world.now - START + 0.001 * n for n in range(20)])
        assert set(values.values()) == {"CerberusUnavailable"}
        pauses.append(item_of(world.breaker).pause_left(world.now))
        world.now += pauses[-1] + 0.01
    assert len(world.asked) <= 7  # of the first ones two can have looked before the outage was known
    assert pauses == pytest.approx([1, 3, 9, 27, 60, 60], rel=0.15, abs=0.4)
    world.error = None
    assert world.get().startswith("value")
    item = item_of(world.breaker)
    assert (item.failures, item.paused_until, item.claimed_until) == (0, 0, 0)
    assert world.trials >= 5


def test_what_is_stored_is_taken_in_an_outage(world: World) -> None:
    stored(world)
    world.breaker.item = Item(failures=3, paused_until=START + 30)
    assert world.get() == "shared"


def test_a_look_takes_what_is_stored(world: World) -> None:
    stored(world)
    assert world.get(lookup_only=True) == "shared"


@pytest.mark.parametrize("found", ["nothing", "a claim", "a pause", "a throttled store", "a slow store"])
def test_a_look_neither_claims_nor_waits(world: World, found: str) -> None:
    world.error = unavailable()  # of the outage: what asks knows that it may not
    if found == "a claim":
        world.store.item = Item(claimed_until=START + 5)
    elif found == "a pause":
        world.store.item = Item(failures=1, paused_until=START + 30)
    elif found.endswith("store"):
        world.store.errors["get"] = StoreBusy("throttled") if "throttled" in found else StoreSlow("no answer")
    with pytest.raises(errors.CerberusUnavailable):
        world.get(lookup_only=True)
    assert [call for call in world.calls if call != "landed"] == ["get", "ask"]


def test_a_paused_container_is_told_for_how_long(world: World) -> None:
    world.breaker.item = Item(failures=3, paused_until=START + 30)
    with pytest.raises(errors.CerberusUnavailable) as caught:
        world.get()
    assert errors.is_outage(caught.value)
    assert errors.requested_pause(caught.value) == pytest.approx(30, abs=0.1)
    assert (world.asked, "put" in world.calls) == ([], False)


def test_while_one_tries_no_other_does(world: World) -> None:
    world.breaker.item = Item(failures=3, claimed_until=START + 5)
    with pytest.raises(errors.CerberusUnavailable):
        world.get()
    assert world.asked == []


def test_a_trial_that_was_killed_is_followed_by_one(world: World) -> None:
    world.breaker.item = Item(failures=3, claimed_until=START - 0.1)
    assert world.get() == "value 1"
    assert world.trials == 1


def test_a_pause_that_cerberus_wants_counts(world: World) -> None:
    world.error = unavailable(retry_after=20)
    with pytest.raises(errors.CerberusUnavailable):
        world.get()
    assert item_of(world.breaker).pause_left(world.now) == pytest.approx(20, abs=0.2)


def test_a_fetch_within_another_passes_its_breaker(world: World) -> None:
    world.breaker.item = Item(failures=3, claimed_until=START + 5)
    assert world.get(admitted=True) == "value 1"
    assert "get breaker" not in world.calls


def test_5xx_to_one_path_is_no_outage_and_to_two_is(world: World) -> None:
    world.error = unavailable("read", 500)
    for _ in range(2):
        with pytest.raises(errors.CerberusUnavailable) as caught:
            world.get(name="path")
        assert not caught.value.other_paths_fail
        world.now += item_of(world.store).pause_left(world.now)
    assert item_of(world.breaker).failures == 0
    other = Table(world, "")
    world.store, store = other, world.store
    with pytest.raises(errors.CerberusUnavailable) as caught:
        world.get(name="other")
    assert caught.value.other_paths_fail
    assert item_of(world.breaker).failures == 1
    assert item_of(other).failures == 0
    world.now += 1
    world.error, world.store = None, store
    world.get()
    assert (item_of(world.breaker).failures, item_of(world.breaker).failure) == (0, "")


def test_an_answer_between_them_forgets_the_first(world: World) -> None:
    world.error = unavailable("read", 500)
    with pytest.raises(errors.CerberusUnavailable):
        world.get(name="path")
    world.error, world.store = None, Table(world, "")
    world.get(name="other")
    world.error, world.store = unavailable("read", 500), Table(world, "")
    with pytest.raises(errors.CerberusUnavailable):
        world.get(name="third")
    assert item_of(world.breaker).failures == 0


def test_a_driver_makes_each_call_and_throws_what_it_raises(world: World) -> None:
    later: list[Any] = []
    policy = Policy(lambda: world.now, world.sleep, lambda: 0.5)

    def fetch() -> Any:
        ask = lambda renew, is_trial: world.fetch_value(world.now)  # noqa: E731
        calls = (world.take, ask, world.failures.append, later.append)
        return run(policy.get_or_fetch(world.store, world.breaker, "path", 10, CLAIM, *calls))

    assert fetch() == "value 1"
    assert item_of(world.store).is_claimed(world.now, CLAIM)
    run(later.pop())
    assert item_of(world.store).response == "value 1"
    world.store.item, world.error = None, errors.InvalidResponse("no")
    with pytest.raises(errors.InvalidResponse):
        fetch()
    run(later.pop())
    assert item_of(world.store).claimed_until == 0


# Many


@given(
    arrivals=st.lists(st.floats(0, 2), min_size=1, max_size=40),
    random=st.lists(st.floats(0, 0.999), min_size=40, max_size=40),
    seconds=st.sampled_from([0.3, 3, 4.5, 5.9]),
)
@settings(max_examples=60, deadline=None)
def test_a_herd_asks_once(arrivals: list[float], random: list[float], seconds: float) -> None:
    world = World()
    world.attempts_seconds = [seconds]
    plans = [world.fetch(random=random[number]) for number in range(len(arrivals))]
    values = world.herd(plans, arrivals)
    assert values == dict.fromkeys(range(len(arrivals)), "value 1")
    assert len(world.asked) == 1


@given(arrivals=st.lists(st.floats(0, 0.5), min_size=5, max_size=30), calls=st.integers(0, 6), dead=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_claim_of_a_killed_container_has_one_successor(arrivals: list[float], calls: int, dead: int) -> None:
    world = World()
    arrivals.sort()
    plans = [world.fetch(40, random=number * 0.618 % 1) for number in range(len(arrivals))]
    values = world.herd(plans, arrivals, dies=dict.fromkeys(range(dead), calls))
    assert set(values) >= set(range(dead, len(arrivals)))
    assert all(value.startswith("value") for value in values.values())
    assert len(world.asked) <= dead + 1
    if calls <= 3:  # up to the claim, before Cerberus was asked
        assert len(world.asked) == 1 or values.keys() & set(range(dead))


@given(arrivals=st.lists(st.floats(0, 300), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_a_refused_token_is_replaced_once(arrivals: list[float]) -> None:
    world = World()
    stored(world)
    world.useless = {"shared"}
    values = world.herd([world.fetch(refused=True) for _ in arrivals], arrivals)
    assert set(values.values()) == {"value 1"}
    assert len(world.asked) == 1


# What is read


@pytest.mark.parametrize("value", [None, "soon!", b"1", -1, 0, float("nan"), float("inf"), 1e300, [], {}])
@pytest.mark.parametrize(
    "name", ["asked", "expires", "claimed_until", "response", "paused_until", "failures", "failure", "format"]
)
def test_a_field_of_another_type_is_absent(name: str, value: Any) -> None:
    fields = Item("response", START, START + LEASE, START + 1, failure="x", failures=2).fields() | {name: value}
    found = getattr(Item.read(fields), name)
    absent: dict[str, Any] = {"response": "soon!" if value == "soon!" else "", "failure": "", "format": 1}
    large = {"failures": 100, "format": 1000}.get(name)
    assert found == absent.get(name, 0) or (value in (1e300, float("inf")) and found == large)


def test_an_item_is_read_as_it_was_written() -> None:
    item = Item("response", START + 0.123456, START + LEASE, START + 1, paused_until=START + 2, failures=3)
    item.failure = UNSHARED
    assert Item.read(item.fields()).fields() == item.fields()


def test_no_two_items_are_of_one_version() -> None:
    assert len({Item("", 0, 0).version for _ in range(1000)}) == 1000
