"""The token's life in the warm container, on clocks that the tests step by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cerberus_auth import CerberusError, CerberusUnavailable, DeadlineExceeded
from cerberus_auth.authentication.token import Asked, Token, Wanted
from cerberus_auth.caching.cache import TokenCache
from cerberus_auth.deadline import Deadline
from cerberus_auth.errors import RenewedElsewhere


class Clock:
    """Both clocks, each stepped by itself."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.monotonic, self.wall = 1000.0, 1_700_000_000.0
        patch.setattr(time, "monotonic", lambda: self.monotonic)
        patch.setattr(time, "time", lambda: self.wall)

    def step(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


class Service:
    """Gives numbered tokens; fails while it has errors."""

    def __init__(self) -> None:
        self.calls = 0
        self.lease = 3600
        self.error: CerberusError | None = None
        self.deadlines: list[float] = []
        self.wanted: list[Wanted] = []
        self.during: Callable[[], Any] = lambda: None

    def __call__(self, deadline: Deadline, wanted: Wanted) -> Token:
        self.calls += 1
        number = self.calls
        self.deadlines.append(deadline.seconds)
        self.wanted.append(wanted)
        asked = Asked()
        self.during()
        if self.error is not None:
            raise self.error
        return Token(f"token-{number}", self.lease, asked, "arn:aws:iam::111111111111:role/web", "us-west-2")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def cache(clock: Clock, service: Service) -> TokenCache:
    return TokenCache(service, timeout=10, margin=60)


def test_a_token_is_asked_for_once(cache: TokenCache, service: Service) -> None:
    assert [cache.get() for _ in range(100)] == ["token-1"] * 100
    assert service.calls == 1


def test_a_token_is_kept_until_the_refresh_window_and_never_past_its_margin(
    cache: TokenCache, service: Service, clock: Clock
) -> None:
    cache.get()
    clock.step(3540 * 0.8 - 1)  # the window begins at a random point of the last fifth
    assert cache.get() == "token-1"
    assert service.calls == 1
    clock.step(3540 * 0.2)
    assert cache.get() == "token-2"
    assert service.calls == 2


@pytest.mark.parametrize("which", ["monotonic", "wall"])
def test_either_clock_ends_a_token(cache: TokenCache, service: Service, clock: Clock, which: str) -> None:
    cache.get()
    setattr(clock, which, getattr(clock, which) + 3541)
    assert cache.get() == "token-2"


def test_a_wall_clock_set_back_does_not_lengthen_a_lease(cache: TokenCache, clock: Clock) -> None:
    cache.get()
    clock.wall -= 86_400
    clock.monotonic += 3541
    assert cache.get() == "token-2"


def test_a_lease_counts_from_before_the_request(cache: TokenCache, service: Service, clock: Clock) -> None:
    service.during = lambda: clock.step(9)
    cache.get()
    service.during = lambda: None
    clock.step(3540 - 8)
    assert cache.get() == "token-2"


@pytest.mark.parametrize(("lease", "usable"), [(1, 0.9), (30, 27), (60, 54), (61, 1), (120, 60)])
def test_short_leases(cache: TokenCache, service: Service, clock: Clock, lease: int, usable: float) -> None:
    service.lease = lease
    cache.get()
    clock.step(usable * 0.79)
    assert cache.get() == "token-1"
    clock.step(usable * 0.22)
    assert cache.get() == "token-2"


def test_a_lease_that_is_over_on_arrival_is_not_handed_out(cache: TokenCache, service: Service, clock: Clock) -> None:
    service.lease = 1
    service.during = lambda: clock.step(2)
    with pytest.raises(CerberusUnavailable, match="lease of 1 s was over"):
        cache.get()


def test_in_the_refresh_window_a_failure_keeps_the_old_token(cache: TokenCache, service: Service, clock: Clock) -> None:
    cache.get()
    clock.step(3539)
    service.error = CerberusUnavailable("down")
    assert [cache.get() for _ in range(50)] == ["token-1"] * 50
    assert service.calls == 2  # one tried; the others did not while the failure is recent
    assert service.deadlines[-1] == 2


def test_after_the_usable_life_a_failure_is_an_error(cache: TokenCache, service: Service, clock: Clock) -> None:
    cache.get()
    clock.step(3541)
    service.error = CerberusUnavailable("down")
    with pytest.raises(CerberusUnavailable, match="down"):
        cache.get()


def test_failing_fast_and_recovering(cache: TokenCache, service: Service, clock: Clock) -> None:
    service.error = CerberusUnavailable("down")
    pauses = []
    for _ in range(8):
        with pytest.raises(CerberusUnavailable):
            cache.get()
        calls, pause = service.calls, 0.0
        while service.calls == calls:
            clock.step(0.05)
            pause += 0.05
            with pytest.raises(CerberusUnavailable):
                cache.get()
        pauses.append(pause)
    assert pauses[0] < 0.6
    assert max(pauses) > 1
    assert max(pauses) < 4.2
    service.error = None
    clock.step(4.1)
    assert cache.get().startswith("token-")


def test_errors_of_one_flight_are_equal_and_fresh(cache: TokenCache, service: Service) -> None:
    service.error = CerberusUnavailable("down")
    caught = []
    for _ in range(3):
        with pytest.raises(CerberusUnavailable) as info:
            cache.get()
        caught.append(info.value)
    assert service.calls == 1
    assert caught[0] == caught[1] == caught[2]
    assert len({id(error) for error in caught}) == 3


def test_invalidate_forgets_the_token_and_the_failure(cache: TokenCache, service: Service) -> None:
    cache.get()
    cache.invalidate()
    service.error = CerberusUnavailable("down")
    with pytest.raises(CerberusUnavailable):
        cache.get()
    service.error = None
    cache.invalidate()
    assert cache.get() == "token-3"


def test_a_refused_token_is_replaced_once_however_many_report_it(cache: TokenCache, service: Service) -> None:
    refused = cache.get()
    for _ in range(5):
        cache.invalidate(refused)
        assert cache.get() == "token-2"
    assert [wanted.refused for wanted in service.wanted] == [None, "token-1"]


def test_late_reports_of_a_refused_token_do_not_reset_a_failure(cache: TokenCache, service: Service) -> None:
    refused = cache.get()
    service.error = CerberusUnavailable("down")
    for _ in range(5):
        cache.invalidate(refused)
        with pytest.raises(CerberusUnavailable):
            cache.get()
    assert service.calls == 2


def test_what_is_invalidated_in_mid_flight_is_not_kept(cache: TokenCache, service: Service) -> None:
    def invalidate_once() -> None:
        service.during = lambda: None
        cache.invalidate()

    service.during = invalidate_once
    assert cache.get() == "token-2"


def test_an_exception_that_is_none_of_ours_lets_the_next_caller_try(cache: TokenCache, service: Service) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    service.during = interrupt
    with pytest.raises(KeyboardInterrupt):
        cache.get()
    service.during = lambda: None
    assert cache.get() == "token-2"


def test_64_threads_on_a_cold_cache_make_one_authentication(service: Service) -> None:
    cache = TokenCache(service, timeout=10, margin=60)
    arrived = threading.Barrier(65)
    go_on = threading.Event()
    service.during = go_on.wait
    tokens: list[str] = []

    def use() -> None:
        arrived.wait()
        tokens.append(cache.get())

    threads = [threading.Thread(target=use) for _ in range(64)]
    for thread in threads:
        thread.start()
    arrived.wait()
    go_on.set()
    for thread in threads:
        thread.join()
    assert tokens == ["token-1"] * 64
    assert service.calls == 1


def test_while_one_renews_in_the_window_the_others_go_on_with_the_old_token(
    cache: TokenCache, service: Service, clock: Clock
) -> None:
    cache.get()
    clock.step(3539)
    others: list[str] = []
    service.during = lambda: others.extend(cache.get() for _ in range(10))
    assert cache.get() == "token-2"
    assert others == ["token-1"] * 10


def test_a_waiter_keeps_to_its_own_timeout_and_leaves_the_flight_to_land(service: Service) -> None:
    cache = TokenCache(service, timeout=10, margin=60)
    flying, land = threading.Event(), threading.Event()

    def hang() -> None:
        flying.set()
        land.wait()

    service.during = hang
    leader = threading.Thread(target=cache.get)
    leader.start()
    flying.wait()
    with pytest.raises(DeadlineExceeded):
        cache.get(timeout=0.05)
    land.set()
    leader.join()
    assert cache.get() == "token-1"


def test_a_short_timeout_of_one_caller_is_no_failure_for_the_next(cache: TokenCache, service: Service) -> None:
    service.error = DeadlineExceeded("over")
    with pytest.raises(DeadlineExceeded):
        cache.get(timeout=0.1)
    service.error = None
    assert cache.get() == "token-2"


# A fleet: another container renews


def test_the_authentication_is_told_what_it_is_for(clock: Clock, cache: TokenCache, service: Service) -> None:
    asked = clock.wall
    cache.get()
    clock.step(3600 - 61)
    cache.get()
    cache.invalidate()
    cache.get()
    first, early, anew = service.wanted
    assert (first.early, first.since) == (False, 0)
    assert (early.early, early.since) == (True, asked)
    assert (anew.early, anew.since) == (False, clock.wall)


def test_while_another_container_renews_the_old_token_serves_without_a_warning(
    clock: Clock, cache: TokenCache, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    cache.get()
    clock.step(3600 - 61)
    service.error = RenewedElsewhere("somebody is at it")
    assert [cache.get() for _ in range(3)] == ["token-1"] * 3
    assert (service.calls, caplog.records) == (2, [])  # and it is not looked up again at once
    clock.step(1)
    service.error = None
    assert cache.get() == "token-3"


def test_that_another_container_renews_is_nothing_to_whoever_holds_no_token(clock: Clock, service: Service) -> None:
    cache = TokenCache(service, timeout=1, margin=60)
    cache.get()
    clock.step(3600 - 60.1)
    service.error = RenewedElsewhere("somebody is at it")
    assert cache.get() == "token-1"
    clock.step(0.1)
    service.error = None
    assert cache.get() == "token-3"


def test_a_token_whose_life_ends_while_another_container_is_asked_is_renewed_here(
    clock: Clock, cache: TokenCache, service: Service
) -> None:
    cache.get()
    clock.step(3600 - 61)

    def end() -> None:
        clock.step(1)
        service.error, service.during = None, lambda: None
        raise RenewedElsewhere("somebody is at it")

    service.during = end
    assert cache.get() == "token-3"
