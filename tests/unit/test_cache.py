"""What is kept, example by example: on clocks that the tests step by hand, and with real threads."""

from __future__ import annotations

import pickle
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cerberus_auth import AccessDenied, CerberusError, CerberusUnavailable, DeadlineExceeded
from cerberus_auth.auth import ReauthenticationLimit
from cerberus_auth.caching.breaker import Breaker
from cerberus_auth.caching.cache import Cache
from cerberus_auth.caching.flight import Flight
from cerberus_auth.caching.kept import DUE, FRESH, GONE, OVERDUE, Kept, Lifetime
from cerberus_auth.deadline import Deadline, Moment, Pause, Pauses
from unit.virtual import Cerberus, virtual_time

LIFETIME = Lifetime(285, 300, 3900)
PATIENCE = 30.0  # seconds, for a busy machine


class Clock:
    """Both clocks, each stepped by itself."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.monotonic, self.wall = int(time.monotonic()) + 1.0, int(time.time()) + 1.0
        patch.setattr(time, "monotonic", lambda: self.monotonic)
        patch.setattr(time, "time", lambda: self.wall)

    def step(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


class Service:
    """Gives numbered values; fails while it has an error."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: CerberusError | None = None
        self.flights: list[Flight] = []
        self.during: Callable[[], Any] = lambda: None

    def __call__(self, flight: Flight) -> Kept:
        self.calls += 1
        number = self.calls
        self.flights.append(flight)
        asked = Moment()
        self.during()
        if self.error is not None:
            raise self.error
        return Kept(f"value-{number}", asked, LIFETIME, 100)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def cache() -> Cache:
    return Cache(Breaker(), timeout=10, attempt_seconds=5)


def get(cache: Cache, service: Service, timeout: float = PATIENCE, key: str = "a", **keywords: Any) -> str:
    value: str = cache.get(key, service, Deadline(timeout), **keywords).value
    return value


def unavailable(step: str = "read", **facts: Any) -> CerberusUnavailable:
    error = CerberusUnavailable("down", **facts)
    error.step = step
    return error


# One value


@pytest.mark.parametrize("which", ["monotonic", "wall", "both"])
@pytest.mark.parametrize(
    ("age", "stage"), [(284, FRESH), (285, DUE), (299, DUE), (300, OVERDUE), (3899, OVERDUE), (3900, GONE)]
)
def test_the_stages_of_a_value_by_either_clock(clock: Clock, which: str, age: float, stage: int) -> None:
    kept = Kept("value", Moment(), LIFETIME)
    clock.monotonic += age if which != "wall" else 0
    clock.wall += age if which != "monotonic" else 0
    assert kept.stage() == stage
    assert (clock.monotonic < kept.fresh and clock.wall < kept.fresh_wall) == (stage == FRESH)  # the warm path
    assert kept.stage(Lifetime(1, 2, 3)) == GONE


@pytest.mark.parametrize("which", ["monotonic", "wall"])
@pytest.mark.parametrize("what", ["token", "secret"])
def test_the_warm_path_looks_at_both_clocks(monkeypatch: pytest.MonkeyPatch, what: str, which: str) -> None:
    with virtual_time(monkeypatch, 0.0) as virtual:
        cerberus = Cerberus(virtual, monkeypatch)
        auth, client = cerberus.auth(), cerberus.client()

        def use() -> None:
            auth.token() if what == "token" else client.read("app/orders/db")

        use()
        before = cerberus.requests
        use()
        assert cerberus.requests == before
        setattr(virtual, which, getattr(virtual, which) + (cerberus.lease if what == "token" else 310))
        use()
        assert cerberus.requests == before + 1


def test_a_wall_clock_set_back_lengthens_nothing(clock: Clock) -> None:
    kept, pause = Kept("value", Moment(), LIFETIME), Pause(10)
    clock.wall -= 86_400
    clock.monotonic += 299
    assert (kept.stage(), pause.lasts()) == (DUE, False)


def test_moments_are_in_the_order_of_this_process_however_the_wall_clock_is_set(clock: Clock) -> None:
    first = Moment()
    clock.monotonic += 1
    clock.wall -= 3600
    second = Moment()
    assert (first.is_before(second), second.is_before(first), first.is_before(first)) == (True, False, False)


def test_a_moment_of_another_process_counts_by_the_wall_clock(clock: Clock) -> None:
    before = Moment()
    clock.wall += 1000  # frozen for so long
    clock.step(1)
    elsewhere = Moment.at(clock.wall - 500)
    assert before.is_before(elsewhere)
    assert elsewhere.is_before(Moment())
    assert elsewhere.age() == 500
    assert Moment.at(clock.wall + 500).age() == 0


def test_a_value_is_never_pickled() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Kept("value", Moment(), LIFETIME))


# Threads


def test_64_threads_on_a_cold_cache_make_one_fetch(cache: Cache, service: Service) -> None:
    arrived = threading.Barrier(65)
    go_on = threading.Event()
    service.during = lambda: go_on.wait(PATIENCE)
    values: list[str] = []

    def use() -> None:
        arrived.wait()
        values.append(get(cache, service))

    threads = [threading.Thread(target=use) for _ in range(64)]
    for thread in threads:
        thread.start()
    arrived.wait()
    go_on.set()
    for thread in threads:
        thread.join()
    assert values == ["value-1"] * 64
    assert service.calls == 1


def test_the_fetch_has_a_daemon_thread_of_its_own(cache: Cache, service: Service) -> None:
    threads: list[threading.Thread] = []
    service.during = lambda: threads.append(threading.current_thread())
    get(cache, service)
    cache.get_alone("b", service, Deadline(PATIENCE))
    assert threads[0] is not threading.current_thread()
    assert threads[0].daemon
    assert threads[1] is threading.current_thread()


def test_a_caller_in_a_hurry_leaves_the_flight_to_land(cache: Cache, service: Service) -> None:
    go_on = threading.Event()
    service.during = lambda: go_on.wait(PATIENCE)
    with pytest.raises(DeadlineExceeded):
        get(cache, service, 0.05)
    assert service.flights[0].deadline.seconds == 10  # and it has the time of a patient caller
    go_on.set()
    assert get(cache, service) == "value-1"


def test_one_refreshes_what_is_due_while_the_others_go_on(cache: Cache, service: Service, clock: Clock) -> None:
    get(cache, service)
    clock.step(290)
    flying, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def wait() -> None:
        flying.set()
        go_on.wait(PATIENCE)

    def use() -> None:
        get(cache, service)
        ended.set()

    service.during = wait
    threading.Thread(target=use, daemon=True).start()
    assert flying.wait(PATIENCE)
    assert [get(cache, service) for _ in range(10)] == ["value-1"] * 10
    go_on.set()
    assert ended.wait(PATIENCE)
    assert get(cache, service) == "value-2"


def test_an_interruption_reaches_the_caller_that_asks_alone(cache: Cache, service: Service) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    service.during = interrupt
    with pytest.raises(KeyboardInterrupt):
        cache.get_alone("a", service, Deadline(PATIENCE))
    service.during = lambda: None
    assert cache.get_alone("a", service, Deadline(PATIENCE)).value == "value-2"
    assert get(cache, service) == "value-3"


def test_a_signal_that_raises_reaches_the_caller_and_not_the_flight(cache: Cache, service: Service) -> None:
    def alarm(*_: object) -> None:
        raise TimeoutError("the handler's own")

    go_on, caller = threading.Event(), threading.get_ident()

    def hang() -> None:
        signal.pthread_kill(caller, signal.SIGALRM)
        go_on.wait(PATIENCE)

    service.during = hang
    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with pytest.raises(TimeoutError, match="the handler's own"):
            get(cache, service)
    finally:
        signal.signal(signal.SIGALRM, before)
    go_on.set()
    assert get(cache, service) == "value-1"


# Failures


def test_a_failure_is_remembered_for_its_key(cache: Cache, service: Service) -> None:
    service.error = unavailable("kms:Decrypt")
    caught = []
    for _ in range(3):
        with pytest.raises(CerberusUnavailable) as info:
            get(cache, service)
        caught.append(info.value)
    assert service.calls == 1
    assert caught[0] == caught[1] == caught[2]
    assert len({id(error) for error in caught}) == 3
    service.error = None
    assert get(cache, service, key="b") == "value-2"


def test_an_outage_is_for_all_keys(cache: Cache, service: Service, clock: Clock) -> None:
    service.error = unavailable()
    for key in ("a", "b", "c"):
        with pytest.raises(CerberusUnavailable, match="down"):
            get(cache, service, key=key)
    assert service.calls == 1
    clock.step(1)
    service.error = None
    assert get(cache, service, key="b") == "value-2"
    assert service.flights[-1].deadline.attempts == 1


class Shared:
    """What a fetch finds at other containers before it asks the service."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.looks = self.asked = 0
        self.offered: Kept | None = None
        self.error: CerberusError | None = None

    def __call__(self, flight: Flight) -> Kept:
        self.looks += 1
        if self.error is not None:
            raise self.error
        if self.offered is not None:
            return self.offered
        flight.check_outage()
        self.asked += 1
        raise unavailable()

    def get(self, key: str, **keywords: Any) -> Any:
        return self.cache.get(key, self, Deadline(PATIENCE), **keywords).value


@pytest.fixture
def shared(clock: Clock) -> Shared:
    """In an outage, and a cache whose breaker is open."""
    shared = Shared(Cache(Breaker(), timeout=10, attempt_seconds=5, is_shared=True))
    with pytest.raises(CerberusUnavailable):
        shared.get("first")
    assert (shared.looks, shared.asked) == (1, 1)
    return shared


def test_an_open_breaker_stops_no_look_at_what_is_shared(shared: Shared) -> None:
    shared.offered = Kept("the fleet's", Moment(), LIFETIME)
    assert shared.get("a") == "the fleet's"
    assert (shared.asked, shared.cache._breaker.has_failed) == (1, True)


def test_a_look_in_vain_is_made_once_a_pause(shared: Shared, clock: Clock) -> None:
    def fail(**keywords: Any) -> None:
        with pytest.raises(CerberusUnavailable, match="down"):
            shared.get("a", **keywords)

    for _ in range(3):
        fail()
    assert shared.looks == 2
    fail(lifetime=Lifetime(285, 300, 1e6))  # an item that is too old for the others can serve this caller
    fail(accepts=lambda kept: True)
    assert (shared.looks, shared.asked) == (4, 1)
    clock.step(1)
    fail()  # the trial
    fail()
    assert (shared.looks, shared.asked) == (6, 2)


def test_a_look_in_vain_says_nothing_of_the_service(
    shared: Shared, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lengthens no pause, though that of the outage ends meanwhile, and is not remembered."""
    check = Flight.check_outage

    def late(flight: Flight) -> None:
        clock.step(1)
        check(flight)

    monkeypatch.setattr(Flight, "check_outage", late)
    with pytest.raises(CerberusUnavailable, match="down"):
        shared.get("a")
    shared.offered = Kept("back", Moment(), LIFETIME)
    assert shared.get("a") == "back"
    assert shared.cache._breaker._count == 1


def test_a_no_of_the_fleet_counts_in_an_outage(shared: Shared) -> None:
    shared.error = AccessDenied("no")
    for _ in range(2):
        with pytest.raises(AccessDenied):
            shared.get("a")
    assert shared.looks == 2


def test_with_a_value_at_hand_there_is_no_look(shared: Shared, clock: Clock) -> None:
    shared.offered = due()
    shared.get("a")
    looks = shared.looks
    assert shared.get("a") == "offered"
    assert shared.looks == looks


def test_what_a_look_needs_asks_nobody_either(shared: Shared) -> None:
    """The token, whose answer names the principal: it runs in the look's thread."""

    def fetch(flight: Flight) -> Kept:
        return shared.cache.get("token", shared, flight.deadline, within=flight)

    with pytest.raises(CerberusUnavailable, match="down"):
        shared.cache.get("a", fetch, Deadline(PATIENCE))
    assert (shared.looks, shared.asked) == (2, 1)


def test_looks_are_bounded(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cerberus_auth.caching.breaker._MAX_LOOKUPS", 2)
    for key in ("a", "b", "c"):
        with pytest.raises(CerberusUnavailable, match="down"):
            shared.get(key)
    assert shared.looks == 3


def test_a_trial_can_end_while_a_caller_looks_at_it(clock: Clock) -> None:
    class Yielding(Breaker):
        """As if another thread ended the trial after each look at it."""

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name == "_trial" and value is not None:
                self._trial = None
            return value

    breaker = Yielding()
    assert breaker.failed(unavailable(), "a", Flight(10))
    clock.step(1)
    assert breaker.admit(Flight(10)) is None
    assert breaker.is_open()


def test_a_breaker_that_is_told_to_forget_waits_for_a_decision_under_way() -> None:
    breaker = Breaker()
    forgetting = threading.Thread(target=breaker.forget, daemon=True)
    with breaker._lock:  # as admit() between its look at the error and its use
        forgetting.start()
        forgetting.join(0.2)
        assert forgetting.is_alive()
    forgetting.join(PATIENCE)
    assert not forgetting.is_alive()


def test_after_a_refusal_the_value_is_gone_for_good(cache: Cache, service: Service, clock: Clock) -> None:
    get(cache, service)
    clock.step(290)
    service.error = AccessDenied("no")
    with pytest.raises(AccessDenied):
        get(cache, service)
    clock.step(6)
    service.error = unavailable()
    with pytest.raises(CerberusUnavailable):
        get(cache, service)


def test_a_defect_shows_its_name_and_nothing_else(cache: Cache, service: Service) -> None:
    def fail() -> None:
        raise ValueError("s3cret")

    service.during = fail
    with pytest.raises(CerberusError, match="Unexpected ValueError") as info:
        get(cache, service)
    assert "s3cret" not in str(info.value)
    assert info.value.__cause__ is info.value.__context__ is None


# What other parts of the package use


def test_a_flight_can_offer_a_value_to_fall_back_on(cache: Cache, clock: Clock) -> None:
    """The item of the fleet, for example, where the service does not answer."""
    attempts: list[int | None] = []

    def fetch(flight: Flight) -> Kept:
        flight.offer(due())
        attempts.append(flight.deadline.attempts)
        raise unavailable()

    assert cache.get("a", fetch, Deadline(PATIENCE)).value == "offered"
    assert attempts == [1]


def test_whoever_started_a_flight_waits_for_it_beyond_its_offer(cache: Cache, clock: Clock) -> None:
    """The others get what is due at once."""
    offered, go_on = threading.Event(), threading.Event()

    def fetch(flight: Flight) -> Kept:
        flight.offer(due())
        offered.set()
        go_on.wait(PATIENCE)
        return Kept("new", Moment(), LIFETIME)

    with ThreadPoolExecutor() as callers:
        starter = callers.submit(cache.get, "a", fetch, Deadline(PATIENCE))
        assert offered.wait(PATIENCE)
        assert cache.get("a", fetch, Deadline(PATIENCE)).value == "offered"
        go_on.set()
        assert starter.result(PATIENCE).value == "new"


def due() -> Kept:
    asked = Moment()
    asked.monotonic -= 290
    return Kept("offered", asked, LIFETIME)


def test_what_is_least_recently_used_makes_room(service: Service) -> None:
    cache = Cache(Breaker(), timeout=10, attempt_seconds=5, capacity=250)
    for key in ("a", "b", "c"):
        get(cache, service, key=key)
    assert set(cache.kept) == {"b", "c"}


def test_forgetting_and_a_new_start(cache: Cache, service: Service) -> None:
    get(cache, service)
    cache.reset()  # as in a forked child: the values stay
    assert get(cache, service) == "value-1"
    cache.forget()
    assert get(cache, service) == "value-2"


def test_an_authentication_that_ends_after_invalidate_lifts_no_limit() -> None:
    limit = ReauthenticationLimit()
    limit.record_accepted("/read")
    assert limit.may_authenticate("/new", is_trial=False)
    limit.reset()  # invalidate() in another thread, during the authentication
    limit.record_finished()
    limit.record_accepted("/read")
    assert limit.may_authenticate("/new", is_trial=False)
    limit.record_finished()
    assert not limit.may_authenticate("/new", is_trial=False)


def test_pauses_are_by_key_and_do_not_grow_without_end(clock: Clock) -> None:
    pauses = Pauses()
    assert not pauses.lasts("a")
    pauses.start("a", 60)
    assert (pauses.lasts("a"), pauses.lasts("b")) == (True, False)
    clock.step(60)
    assert not pauses.lasts("a")
    for number in range(10_000):
        pauses.start(str(number), 60)
    assert pauses.lasts("9999")
    assert len(pauses._pauses) <= 1024
