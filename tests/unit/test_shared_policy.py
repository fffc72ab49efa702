"""The shared cache's policy: when a container takes, claims, waits and asks. In a time of its own, and in every order."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerberus_auth import CerberusUnavailable
from cerberus_auth.authentication.token import Asked, Token, Wanted
from cerberus_auth.errors import RenewedElsewhere
from cerberus_auth.sharing.item import CLAIM_SECONDS, Item, StoreBusy, StoreFailure, StoreSlow
from cerberus_auth.sharing.policy import WAIT_SECONDS, Policy, run

START = 1_700_000_000.0
LEASE = 3600
ASK_SECONDS = 0.3
CALL_SECONDS = 0.01


class World:
    """A store, a Cerberus and a clock, for any number of containers. Each call takes its time and then takes effect."""

    def __init__(self) -> None:
        self.now = START
        self.item: Item | None = None
        self.asked = 0
        self.calls: list[str] = []
        self.ask_seconds = ASK_SECONDS
        self.error: Exception | None = None
        self.store_error: dict[str, Exception] = {}
        self.useless: set[str] = set()
        self.unshareable = False
        self.failures: list[StoreFailure] = []

    # The store

    def get(self) -> Item | None:
        self._call("get")
        return self.item

    def swap(self, seen: Item | None, new: Item) -> Item | None:
        self._call(
            "publish" if new.response and new.claimed_until == 0 else "claim" if new.claimed_until else "release"
        )
        if (self.item and self.item.version) == (seen and seen.version):
            self.item = new
        return self.item

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.store_error:
            raise self.store_error[name]

    # What a container does

    def sleep(self, seconds: float) -> None:
        self.calls.append("sleep")

    def take(self, item: Item) -> Token | None:
        self.calls.append("take")
        return None if item.response in self.useless else self.token(item.response, item.asked)

    def ask(self, asked_at: float | None = None) -> tuple[Token, str | None]:
        self.calls.append("ask")
        self.asked += 1
        if self.error:
            raise self.error
        value = f"token-{self.asked}"
        return self.token(value, self.now if asked_at is None else asked_at), None if self.unshareable else value

    @staticmethod
    def token(value: str, asked: float) -> Token:
        moment = Asked()
        moment.wall = asked
        return Token(value, LEASE, moment, "arn:aws:iam::111111111111:role/web", "us-west-2")

    # Time

    def plan(self, wanted: Wanted | None = None, seconds: float = 10, random: float = 0.5) -> Any:
        policy = Policy(lambda: self.now, self.sleep, lambda: random)
        return policy.plan(self, wanted or Wanted(), seconds, self.take, self.ask, self.failures.append)

    def seconds(self, call: Callable[[], Any]) -> float:
        if isinstance(call, partial) and call.func == self.sleep:
            return float(call.args[0])
        return self.ask_seconds if call == self.ask else CALL_SECONDS

    def get_token(self, wanted: Wanted | None = None, seconds: float = 10) -> str:
        """One container alone, in the world's time."""
        process = self.live(self.plan(wanted, seconds))
        try:
            while True:
                self.now += next(process)
        except StopIteration as done:
            return str(done.value)

    def live(self, plan: Any) -> Generator[float, None, str]:
        """A container: yields how long its next call takes, and returns its token."""
        resume = partial(next, plan)
        while True:
            try:
                call = resume()
            except StopIteration as done:
                token: Token = done.value[0]
                return token.value
            asked_at = self.now
            yield self.seconds(call)
            try:
                resume = partial(plan.send, self.ask(asked_at) if call == self.ask else call())
            except Exception as error:
                resume = partial(plan.throw, error)

    def herd(self, plans: list[Any], arrivals: list[float], dies: dict[int, int] | None = None) -> dict[int, str]:
        """Many containers, each with its arrival; ``dies``: after so many calls."""
        order = itertools.count()
        queue = [(START + arrival, next(order), number) for number, arrival in enumerate(arrivals)]
        heapq.heapify(queue)
        containers = [self.live(plan) for plan in plans]
        left = dict(dies or {})
        tokens = {}
        while queue:
            self.now, _, number = heapq.heappop(queue)
            if left.get(number) == 0:
                continue
            left[number] = left.get(number, -1) - 1
            try:
                heapq.heappush(queue, (self.now + next(containers[number]), next(order), number))
            except StopIteration as done:
                tokens[number] = done.value
        return tokens


@pytest.fixture
def world() -> World:
    return World()


def stored(
    world: World, *, age: float = 10, version: str = "seen", response: str = "shared", claimed: float = 0
) -> Item:
    world.item = Item(response, START - age, START - age + LEASE, START + claimed if claimed else 0, version)
    return world.item


# One container


def test_who_finds_nothing_claims_asks_and_publishes(world: World) -> None:
    assert world.get_token() == "token-1"
    assert world.calls == ["get", "claim", "ask", "publish"]
    assert world.item is not None
    assert (world.item.response, world.item.claimed_until) == ("token-1", 0)
    assert world.item.expires == world.item.asked + LEASE


def test_who_finds_a_response_takes_it_in_one_call(world: World) -> None:
    stored(world)
    assert world.get_token() == "shared"
    assert world.calls == ["get", "take"]


def test_a_response_that_is_over_is_not_even_opened(world: World) -> None:
    stored(world, age=LEASE)
    assert world.get_token() == "token-1"
    assert "take" not in world.calls


def test_a_response_of_no_use_is_opened_once_and_replaced(world: World) -> None:
    stored(world)
    world.useless = {"shared"}
    assert world.get_token() == "token-1"
    assert world.calls == ["get", "take", "claim", "ask", "publish"]


def test_who_wants_a_newer_one_leaves_the_old_one_to_the_others_meanwhile(world: World) -> None:
    item = stored(world)
    process = world.live(world.plan(Wanted(since=item.asked, early=True)))
    for _ in range(3):  # up to the ask
        world.now += next(process)
    assert world.item is not None
    assert (world.item.response, world.item.asked, world.item.expires) == ("shared", item.asked, item.expires)
    assert world.item.is_claimed(world.now)
    assert world.get_token() == "shared"


def test_a_refused_one_is_taken_away_from_the_others(world: World) -> None:
    item = stored(world)
    process = world.live(world.plan(Wanted("shared", since=item.asked)))
    for _ in range(3):
        world.now += next(process)
    assert world.item is not None
    assert world.item.response == ""


def test_a_token_that_is_the_refused_one_again_is_not_published(world: World) -> None:
    assert world.get_token(Wanted("token-1")) == "token-1"
    assert world.calls == ["get", "claim", "ask", "release"]


def test_what_cannot_be_shared_holds_nobody_up(world: World) -> None:
    world.unshareable = True
    assert world.get_token() == "token-1"
    assert world.item is not None
    assert not world.item.is_claimed(world.now)


def test_who_is_early_waits_for_nobody(world: World) -> None:
    item = stored(world, claimed=1)
    with pytest.raises(RenewedElsewhere):
        world.get_token(Wanted(since=item.asked, early=True))
    assert world.calls == ["get"]


def test_who_is_early_takes_what_another_has_renewed(world: World) -> None:
    stored(world, age=10)
    assert world.get_token(Wanted(since=START - 3000, early=True)) == "shared"


def test_a_claim_that_crashed_holds_nobody_up_for_longer(world: World) -> None:
    stored(world, response="", claimed=CLAIM_SECONDS)
    assert world.get_token() == "token-1"
    assert world.now - START < CLAIM_SECONDS + 1 + ASK_SECONDS


def test_claims_without_end_hold_nobody_up_for_long(world: World) -> None:
    class Claimed(World):
        def get(self) -> Item | None:
            self.item = Item("", 0, self.now + LEASE, self.now + CLAIM_SECONDS)
            return super().get()

    world = Claimed()
    assert world.get_token() == "token-1"
    assert world.now - START < WAIT_SECONDS + 1 + ASK_SECONDS


@pytest.mark.parametrize("claimed", [60, 1e9, -5])
def test_a_claim_such_as_nobody_makes_is_none(world: World, claimed: float) -> None:
    stored(world, response="", claimed=claimed)
    assert world.get_token() == "token-1"
    assert "sleep" not in world.calls


@pytest.mark.parametrize("seconds", [0.2, 1.0, 4.0])
def test_no_more_than_half_of_the_time_is_spent_on_waiting(world: World, seconds: float) -> None:
    stored(world, response="", claimed=CLAIM_SECONDS)
    world.get_token(seconds=seconds)
    asked_at = world.now - ASK_SECONDS
    assert asked_at - START < seconds / 2 + 0.5  # one pause, begun in time, may end later


def test_pauses_are_random_and_grow(world: World) -> None:
    def pauses(random: float) -> list[float]:
        world = World()
        stored(world, response="", claimed=CLAIM_SECONDS)
        process, found = world.live(world.plan(random=random)), []
        for seconds in process:
            world.now += seconds
            if seconds not in (CALL_SECONDS, ASK_SECONDS):
                found.append(round(seconds, 3))
        return found

    assert pauses(0.0)[:3] == [0.05, 0.05, 0.05]
    assert pauses(0.5)[:4] == [0.1, 0.15, 0.25, 0.45]


# A store that fails


@pytest.mark.parametrize("call", ["get", "claim", "publish"])
def test_whatever_fails_the_token_comes_from_cerberus(world: World, call: str) -> None:
    world.store_error[call] = StoreFailure("it is down")
    assert world.get_token() == "token-1"
    assert world.calls.count(call) == 1
    assert "sleep" not in world.calls
    assert world.failures == [world.store_error[call]]


@pytest.mark.parametrize("call", ["get", "claim", "publish"])
def test_a_store_that_does_not_answer_is_asked_twice(world: World, call: str) -> None:
    world.store_error[call] = StoreSlow("no answer")
    assert world.get_token() == "token-1"
    assert world.calls.count(call) == 2
    assert world.failures == [world.store_error[call]]


def test_who_is_early_asks_a_store_that_does_not_answer_once(world: World) -> None:
    world.store_error["get"] = StoreSlow("no answer")
    assert world.get_token(Wanted(early=True)) == "token-1"
    assert world.calls == ["get", "ask"]


def test_a_driver_makes_each_call_and_throws_what_it_raises(world: World) -> None:
    stored(world, response="")
    token, response = run(world.plan())
    assert (token.value, response) == ("token-1", "token-1")
    world.error = CerberusUnavailable("it is down")
    with pytest.raises(CerberusUnavailable):
        run(world.plan(Wanted("token-1", since=world.now + 1)))
    assert world.calls[-1] == "release"


@pytest.mark.parametrize("call", ["get", "claim"])
def test_a_busy_store_is_waited_for_and_then_done_without(world: World, call: str) -> None:
    world.store_error[call] = StoreBusy("throttled")
    assert world.get_token() == "token-1"
    assert world.failures == []
    assert 1 < world.calls.count(call) < 20
    assert world.now - START < WAIT_SECONDS + 2


def test_a_store_busy_for_a_moment_is_used(world: World) -> None:
    class Busy(World):
        def get(self) -> Item | None:
            self.store_error = {"get": StoreBusy("throttled")} if self.calls.count("get") < 3 else {}
            return super().get()

    world = Busy()
    stored(world)
    assert world.get_token() == "shared"


def test_who_has_the_token_publishes_it_though_the_store_is_busy_for_a_moment(world: World) -> None:
    answers = iter([StoreBusy("throttled"), StoreBusy("throttled"), None])
    call = world._call

    def busy(name: str) -> None:
        call(name)
        if name == "publish" and (error := next(answers)):
            raise error

    world._call = busy  # type: ignore[method-assign]
    assert world.get_token() == "token-1"
    assert world.calls == ["get", "claim", "ask", "publish", "sleep", "publish", "sleep", "publish"]
    assert world.get_token() == "token-1"


def test_who_has_no_time_left_does_not_wait_to_publish(world: World) -> None:
    world.store_error["publish"] = StoreBusy("throttled")
    assert world.get_token(seconds=ASK_SECONDS + 2 * CALL_SECONDS) == "token-1"
    assert world.calls == ["get", "claim", "ask", "publish"]


def test_an_authentication_that_fails_frees_the_claim(world: World) -> None:
    item = stored(world)
    world.error = CerberusUnavailable("it is down")
    with pytest.raises(CerberusUnavailable):
        world.get_token(Wanted(since=item.asked))
    assert world.calls == ["get", "claim", "ask", "publish"]  # as it was: the others may still use it
    assert world.item is not None
    assert (world.item.response, world.item.claimed_until) == ("shared", 0)


def test_a_claim_that_cannot_be_freed_hides_no_error(world: World) -> None:
    world.error = CerberusUnavailable("it is down")
    world.store_error["release"] = StoreFailure("it is down too")
    with pytest.raises(CerberusUnavailable):
        world.get_token()


# Many


@given(
    arrivals=st.lists(st.floats(0, 2), min_size=1, max_size=60),
    random=st.lists(st.floats(0, 0.999), min_size=60, max_size=60),
)
@settings(max_examples=150, deadline=None)
def test_a_herd_authenticates_once(arrivals: list[float], random: list[float]) -> None:
    world = World()
    plans = [world.plan(random=random[number]) for number in range(len(arrivals))]
    tokens = world.herd(plans, arrivals)
    assert tokens == dict.fromkeys(range(len(arrivals)), "token-1")
    assert world.asked == 1


@given(arrivals=st.lists(st.floats(0, 0.5), min_size=5, max_size=40), calls=st.integers(0, 6), dead=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_whoever_dies_at_whatever_step_the_others_get_a_token(arrivals: list[float], calls: int, dead: int) -> None:
    world = World()
    arrivals.sort()
    plans = [world.plan(random=number * 0.618 % 1) for number in range(len(arrivals))]
    tokens = world.herd(plans, arrivals, dies=dict.fromkeys(range(dead), calls))
    assert set(tokens) >= set(range(dead, len(arrivals)))
    assert world.asked <= dead + 1


@given(arrivals=st.lists(st.floats(0, 300), min_size=2, max_size=60))
@settings(max_examples=150, deadline=None)
def test_a_fleet_renews_once(arrivals: list[float]) -> None:
    world = World()
    item = stored(world, age=3000)
    plans = [world.plan(Wanted(since=item.asked, early=True)) for _ in arrivals]
    for number, plan in enumerate(plans):  # who is told to keep its token comes back later
        plans[number] = _patient(plan, world, Wanted(since=item.asked, early=True))
    tokens = world.herd(plans, arrivals)
    assert set(tokens.values()) == {"token-1"}
    assert world.asked == 1


def _patient(plan: Any, world: World, wanted: Wanted) -> Any:
    while True:
        try:
            return (yield from plan)
        except RenewedElsewhere:
            yield partial(world.sleep, 0.25)
            plan = world.plan(wanted)


@given(arrivals=st.lists(st.floats(0, 300), min_size=1, max_size=60))
@settings(max_examples=150, deadline=None)
def test_a_refused_token_is_replaced_once(arrivals: list[float]) -> None:
    world = World()
    item = stored(world)
    tokens = world.herd([world.plan(Wanted("shared", since=item.asked)) for _ in arrivals], arrivals)
    assert set(tokens.values()) == {"token-1"}
    assert world.asked == 1


@pytest.mark.parametrize("ask_seconds", [2.5, 3.5])
def test_a_service_slower_than_a_claim_still_serves_those_who_wait(world: World, ask_seconds: float) -> None:
    world.ask_seconds = ask_seconds
    tokens = world.herd([world.plan(random=number * 0.618 % 1) for number in range(50)], [0.0] * 50)
    assert len(tokens) == 50
    assert world.asked <= 3
    assert world.item is not None
    assert world.item.claimed_until == 0


def test_an_older_answer_does_not_take_the_place_of_a_newer_one(world: World) -> None:
    slow = world.live(world.plan())
    for _ in range(3):
        world.now += next(slow)
    world.item = newer = Item("newer", world.now, world.now + LEASE)
    list(slow)
    assert world.item is newer


# What is read


@pytest.mark.parametrize("value", [None, "soon", b"1", -1, 0, float("nan"), float("inf"), 1e300, [], {}])
@pytest.mark.parametrize("name", ["asked", "expires", "claimed_until", "response"])
def test_what_is_of_no_type_of_ours_is_absent(name: str, value: Any) -> None:
    fields = Item("response", START, START + LEASE, START + 1).fields() | {name: value}
    item = Item.read(fields)
    assert getattr(item, name) == ("soon" if (name, value) == ("response", "soon") else "" if name == "response" else 0)


def test_an_item_is_read_as_it_was_written() -> None:
    item = Item("response", START + 0.123456, START + LEASE, START + 1)
    assert Item.read(item.fields()).fields() == item.fields()


def test_no_two_items_are_of_one_version() -> None:
    assert len({Item("", 0, 0).version for _ in range(1000)}) == 1000
