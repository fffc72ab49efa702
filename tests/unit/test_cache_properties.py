"""The token's life under any order of events: threads on virtual time, against a model of the rules.

Every call of the cache runs in a thread of its own; Hypothesis decides what happens, and in which order threads that could
run do so. The model knows what the cache must hold, from what went in and out of it: it never looks inside.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import cerberus_auth.authentication.token
import cerberus_auth.caching.cache
import cerberus_auth.deadline
from cerberus_auth import CerberusError, CerberusUnavailable, DeadlineExceeded, TokenRefused
from cerberus_auth.authentication.token import Asked, Token, Wanted
from cerberus_auth.deadline import Deadline
from unit.scheduler import Scheduler

TIMEOUT, MARGIN = 10.0, 60.0
REFRESH_SECONDS = 2.0
MAX_PAUSE = 4.0
MOMENT = 1e-3  # seconds; what the model does not look into
SAME_TIME = 1.1


class RuleBroken(AssertionError):
    """The cache has done what the model forbids."""


class Life:
    """A token as its rules say: from the design, not from the code."""

    def __init__(self, value: str, lease: int, asked: Asked, jitter: float) -> None:
        self.usable = usable = lease - MARGIN if lease > MARGIN else lease * 0.9
        fresh = usable * (1 - jitter / 5)
        self.value = value
        self.fresh = asked.monotonic + fresh, asked.wall + fresh
        self.end = asked.monotonic + usable, asked.wall + usable


class Attempt:
    """One authentication."""

    def __init__(self, number: int, now: tuple[float, float], seconds: float) -> None:
        self.number = number
        self.began = now
        self.seconds = seconds
        self.life: Life | None = None
        self.error: CerberusError | None = None
        self.is_lost = False  # the service's answer will never come: frozen in mid-request
        self.is_forgotten = False  # invalidated in mid-flight
        self.is_current = True
        self.first_caller: Call | None = None  # of a prefetch, while it waits for it


class Failure:
    """What calls are answered with for a while."""

    def __init__(
        self, error: CerberusError, count: int, seconds: float, now: tuple[float, float], jitter: float
    ) -> None:
        pause = min(MAX_PAUSE, 0.25 * 2**count) * (0.5 + jitter / 2)
        self.error = error
        self.count = count + 1
        self.seconds = seconds
        self.end = now[0] + pause, now[1] + pause


class Call:
    """One ``get``, and the state of things when it began."""

    def __init__(self, machine: Lifetime, timeout: float | None) -> None:
        self.timeout = min(TIMEOUT, TIMEOUT if timeout is None else timeout)
        self.began = machine.now[0]
        self.held = machine.held if machine.is_usable() else None
        self.landed_in_vain = machine.landed_in_vain
        self.attempts = 0
        self.flight: Attempt | None = None  # waited for
        self.value: str | None = None
        self.error: CerberusError | None = None

    @property
    def is_done(self) -> bool:
        return self.value is not None or self.error is not None


class Lifetime(RuleBasedStateMachine):
    """A warm container."""

    module: ModuleType = cerberus_auth.caching.cache

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.violations: list[str] = []
        self.calls: dict[Any, Call] = {}
        self.errors: list[CerberusError] = []  # kept, so that no two have one id
        self.reported: list[str] = []
        # The service
        self.is_up = self.is_answering = True
        self.latency = 0.1
        self.lease = 3600
        self.repeats = False  # hands out its last token again, as with kms.cache
        self.last_value = ""
        self.trouble = 0.0  # when the service last failed somebody, by the monotonic clock
        # The model of the cache
        self.attempts: dict[Any, Attempt] = {}  # under way, by the task that makes it
        self.attempt_count = 0
        self.landed_in_vain = 0
        self.held: Life | None = None
        self.refused: str | None = None
        self.failure: Failure | None = None
        self.prefetching: Attempt | None = None  # until the first call
        self.is_beside = False
        self.is_ahead = False  # an extension renews a token that will not last until its next chance

    @initialize(seed=st.integers(0, 1000), jitter=st.sampled_from([0.0, 0.5, 0.99]))
    def start(self, seed: int, jitter: float) -> None:
        self.jitter = jitter
        order = random.Random(seed)
        self.scheduler = Scheduler(order.randrange)
        self.scheduler.on_set = self.landed
        self.patch.setattr(logging.getLogger("cerberus_auth"), "disabled", True)
        for module in (self.module, cerberus_auth.deadline, cerberus_auth.authentication.token):
            self.patch.setattr(module, "time", self.scheduler.time)
        self.patch.setattr(self.module, "threading", self.scheduler.threading)
        self.patch.setattr(self.module, "jitter", lambda: self.jitter)
        self.cache = self.module.TokenCache(self.authenticate, timeout=TIMEOUT, margin=MARGIN)

    # The clocks

    @property
    def now(self) -> tuple[float, float]:
        return self.scheduler.monotonic, self.scheduler.wall

    def is_before(self, moment: tuple[float, float]) -> bool:
        """By both clocks."""
        return self.now[0] < moment[0] and self.now[1] < moment[1]

    # What the model says

    def is_fresh(self) -> bool:
        return self.held is not None and self.is_before(self.held.fresh)

    def is_usable(self) -> bool:
        return self.held is not None and self.is_before(self.held.end)

    def is_paused(self, seconds: float) -> bool:
        if self.failure is None or not self.is_before(self.failure.end):
            return False
        return not isinstance(self.failure.error, DeadlineExceeded) or seconds <= self.failure.seconds * SAME_TIME

    def is_abandoned(self, attempt: Attempt) -> bool:
        age = max(self.now[0] - attempt.began[0], self.now[1] - attempt.began[1])
        return age > attempt.seconds + 1

    def flights(self) -> list[Attempt]:
        """Those that callers may wait for."""
        return [attempt for attempt in self.attempts.values() if attempt.is_current and not self.is_abandoned(attempt)]

    def claim(self, holds: bool, text: str) -> None:
        """Heard after the step: within the threads, an exception would be the cache's to catch."""
        if not holds:
            self.violations.append(text)

    # The service

    def authenticate(self, deadline: Deadline, wanted: Wanted) -> Token:
        task = self.scheduler.current
        self.attempt_count += 1
        number = self.attempt_count
        attempt = Attempt(number, self.now, deadline.remaining())
        asked = Asked()
        call = self.calls.get(task)
        # Each authentication has a reason: together these bound their number by leases elapsed, invalidations, and
        # failures as often as the back-off allows.
        self.claim(not self.flights(), "two authentications in flight")
        self.claim(attempt.seconds <= TIMEOUT + MOMENT, "took more time than the cache allows")
        self.claim(not self.is_fresh() or self.is_ahead, "authenticated while a fresh token was held")
        self.claim(not self.is_paused(attempt.seconds), "authenticated during the pause after a failure")
        self.claim(wanted.refused == self.refused, "did not say which token was refused")
        if call is not None:
            call.attempts += 1
            self.claim(not (self.is_beside and self.is_usable()), "renewed in line beside an extension")
            self.claim(
                not self.is_usable() or attempt.seconds <= REFRESH_SECONDS + MOMENT, "took long to renew a usable token"
            )
            self.claim(attempt.seconds <= call.timeout + MOMENT, "took more time than the caller has")
        for other in self.attempts.values():
            other.is_current = False
        self.attempts[task] = attempt
        try:
            life = self._answer(attempt, deadline, asked, wanted.refused)
        except CerberusError as error:
            attempt.error = error
            raise
        attempt.life = life
        return Token(life.value, self.lease, asked, "", "us-west-2")

    def _answer(self, attempt: Attempt, deadline: Deadline, asked: Asked, refused: str | None) -> Life:
        unique = attempt.number * 1e-6  # no two things happen at the same moment
        left = deadline.remaining()
        if left <= 0:
            raise DeadlineExceeded(f"over {attempt.number}")
        self.scheduler.wait(lambda: attempt.is_lost, min(self.latency, left) + unique)
        if attempt.is_lost or not self.is_answering or self.latency > left:
            self.scheduler.wait(lambda: False, deadline.remaining() + unique)
            raise DeadlineExceeded(f"over {attempt.number}")
        if not self.is_up:
            raise CerberusUnavailable(f"down {attempt.number}")
        if not (self.repeats and self.last_value):
            self.last_value = f"token-{attempt.number}"
        if self.last_value == refused:
            raise TokenRefused(f"again {attempt.number}")
        return Life(self.last_value, self.lease, asked, self.jitter)

    def landed(self) -> None:
        """The thread that runs has made an authentication, and the cache has taken note of it."""
        attempt = self.attempts.pop(self.scheduler.current, None)
        if attempt is not None:
            self.note(attempt)
            if attempt.first_caller is not None:  # raises the error, and whoever comes next tries anew
                self.failure = attempt.first_caller = None

    def note(self, attempt: Attempt) -> None:
        life, error = attempt.life, attempt.error
        if life is not None and not self.is_before(life.end):
            life, error = None, CerberusUnavailable("the lease was over")
            attempt.error = error
        if life is None or attempt.is_forgotten or life.value == self.refused:
            self.landed_in_vain += 1
        if error is not None and not (isinstance(error, DeadlineExceeded) and self.latency > attempt.seconds):
            self.trouble = self.scheduler.monotonic
        if attempt.is_forgotten:
            return
        if life is not None:
            self.failure = None
            if life.value != self.refused and (attempt.is_current or not self.is_usable()):
                self.held, self.refused = life, None
        elif attempt.is_current and not self.is_abandoned(attempt) and error is not None:
            if isinstance(error, DeadlineExceeded) and attempt.seconds * SAME_TIME < REFRESH_SECONDS:
                return
            count = self.failure.count if self.failure else 0
            self.failure = Failure(error, count, attempt.seconds, self.now, self.jitter)

    # Calls

    def spawn(self, timeout: float | None, before: Callable[[], None] = lambda: None) -> Call:
        call = Call(self, timeout)

        def work() -> None:
            self.calls[self.scheduler.current] = call
            before()
            try:
                call.value = self.cache.get(timeout)
            except CerberusError as error:
                call.error = error
            self.judge(call)

        self.scheduler.spawn(work)
        return call

    def judge(self, call: Call) -> None:
        """At the moment when it has ended, in its own thread."""
        lasted = self.now[0] - call.began
        flight = call.flight
        if flight is not None and flight.first_caller is call:  # whose time was up
            self.failure = flight.first_caller = None
        if flight is not None and flight.error is not None and not isinstance(flight.error, DeadlineExceeded):
            self.claim(call.attempts == 0, "authenticated after waiting for a flight that failed")
        self.claim(lasted <= max(call.timeout, 0) + MOMENT, "waited longer than the caller's timeout")
        if call.value is not None:
            self.claim(self.is_usable(), "handed out a token past its end")
            self.claim(
                self.held is not None and call.value == self.held.value, "handed out another token than the one held"
            )
            if call.held is self.held and not call.attempts:
                self.claim(lasted == 0, "waited although a usable token was held")
            return
        error = call.error
        assert error is not None
        assert type(error) is not CerberusError, error  # a defect, of the cache or of a test
        self.claim(not self.is_usable(), "an error although a usable token was held")
        self.claim(not any(error is other for other in self.errors), "one error was raised to two callers")
        self.errors.append(error)
        # Available for so long that no pause lasts from before. A flight that fails or is forgotten costs one answer.
        in_vain = self.landed_in_vain - call.landed_in_vain
        is_available = (
            self.is_up
            and self.is_answering
            and call.began - self.trouble > MAX_PAUSE
            and not any(attempt.is_lost for attempt in self.attempts.values())
            and call.timeout > (2 + in_vain) * self.latency + MOMENT
        )
        self.claim(not is_available, "an available service gave no token")

    def run(self, work: Callable[[], None]) -> None:
        self.scheduler.spawn(work)
        self.scheduler.run()

    @rule(timeout=st.sampled_from([None, None, None, 0.0, 0.05, 1.2, 3.0, 60.0]))
    def call(self, timeout: float | None = None) -> None:
        """While no other thread could run: the model says exactly what it does."""
        held = self.held if self.is_usable() else None
        whole = min(TIMEOUT, TIMEOUT if timeout is None else timeout)
        is_paused = self.is_paused(min(whole, REFRESH_SECONDS) if held else whole)
        is_fresh, flights, failure, attempts = self.is_fresh(), self.flights(), self.failure, self.attempt_count
        at_once = is_fresh or self.is_beside or flights or is_paused
        prefetch, self.prefetching = self.prefetching, None
        surfaces = prefetch is not None and prefetch.error is not None and not self.is_abandoned(prefetch)
        if surfaces and not (held and at_once):
            self.failure = None  # whoever comes next tries anew
        call = self.spawn(timeout)
        self.scheduler.run()
        began = self.attempt_count - attempts
        if held is not None and at_once:
            self.claim((call.value, began) == (held.value, 0), "did not hand out a usable token at once")
        elif prefetch is not None and surfaces:
            is_raised = is_equal(call.error, prefetch.error)
            self.claim(is_raised and began == 0, "did not raise the prefetch's error to the first caller")
        elif flights:
            self.claim(began == 0 and (not call.is_done or whole <= 0), "did not wait for the flight")
            if not call.is_done:
                (call.flight,) = flights
                if call.flight is prefetch:
                    prefetch.first_caller = call
        elif failure is not None and is_paused:
            is_raised = is_equal(call.error, failure.error)
            self.claim(is_raised and began == 0, "did not raise a recent failure at once")
        else:
            self.claim(began >= 1, "did not authenticate though it was time")

    def no_error_surfaces(self) -> bool:
        return self.prefetching is None or self.prefetching.error is None

    def no_prefetch_is_open(self) -> bool:
        return self.prefetching is None or (self.prefetching.life is not None and self.prefetching.error is None)

    @precondition(no_prefetch_is_open)
    @rule(timeouts=st.lists(st.sampled_from([None, None, 0.05, 1.2, 3.0]), min_size=2, max_size=6))
    def calls_at_once(self, timeouts: list[float | None]) -> None:
        self.prefetching = None
        for timeout in timeouts:
            self.spawn(timeout)
        self.scheduler.run()

    # What becomes of tokens

    def forget(self, refused: str | None = None) -> None:
        self.cache.invalidate(refused)
        if refused is not None:
            if self.held is None and self.refused is None:
                self.refused = refused
            if self.held is None or self.held.value != refused:
                return
        self.held, self.failure, self.refused = None, None, refused
        if refused is None:
            self.prefetching = None
            for attempt in self.attempts.values():
                attempt.is_forgotten = True

    @rule()
    def invalidate(self) -> None:
        self.run(self.forget)

    @precondition(no_prefetch_is_open)
    @precondition(lambda self: self.held is not None)
    @rule(callers=st.integers(1, 4), repeats=st.booleans())
    def refuse(self, callers: int = 1, repeats: bool = False) -> None:
        """Some callers' requests have met a 401, at once; others come later."""
        assert self.held is not None
        self.prefetching = None
        self.repeats = repeats
        self.reported.append(self.held.value)
        for _ in range(callers):
            self.spawn(None, lambda: self.forget(self.reported[-1]))
        self.scheduler.run()

    @precondition(no_prefetch_is_open)
    @precondition(lambda self: self.reported)
    @rule(back=st.integers(1, 2))
    def refuse_late(self, back: int = 1) -> None:
        refused = self.reported[-min(back, len(self.reported))]
        if self.held is not None and self.held.value == refused:
            return  # handed out again, after it was forgotten that it is refused
        self.prefetching = None
        self.spawn(None, lambda: self.forget(refused))
        self.scheduler.run()

    @precondition(lambda self: self.held is not None)
    @rule(is_late=st.booleans())
    def give_up(self, is_late: bool = False) -> None:
        """Somebody's token was refused as soon as it was had, now or some tokens ago."""
        assert self.held is not None
        refused = "another" if is_late else self.held.value
        error = TokenRefused(f"given up {refused}")
        self.run(lambda: self.cache.give_up(refused, error))
        if not is_late:
            self.held, self.refused, self.trouble = None, refused, self.now[0]
            self.failure = Failure(error, 0, TIMEOUT, self.now, self.jitter)

    @precondition(lambda self: not self.is_paused(TIMEOUT))
    @rule()
    def prefetch(self) -> None:
        attempts = self.attempt_count
        is_due = self.held is None and not any(attempt.is_current for attempt in self.attempts.values())
        self.run(self.cache.prefetch)
        began = self.attempt_count - attempts
        self.claim(began == is_due, "a prefetch is for an empty cache that nobody fills, and for no other")
        if is_due:
            self.prefetching = next((attempt for attempt in self.attempts.values() if attempt.is_current), None)

    @rule(seconds=st.sampled_from([0.5, 5.0, 30.0]), ahead=st.sampled_from([0.0, 0.0, 5.0, 600.0, 4000.0]))
    def renew(self, seconds: float = 5.0, ahead: float = 0.0) -> None:
        attempts, held = self.attempt_count, self.held
        if held is not None:
            left = min(end - now for end, now in zip(held.end, self.now, strict=True))
            self.is_ahead = left < min(ahead, held.usable / 2)
        is_due = held is not None and (self.is_ahead or not self.is_fresh())
        is_due = is_due and not self.flights() and not self.is_paused(min(seconds, TIMEOUT))
        self.run(lambda: self.cache.renew(Deadline(seconds), ahead))
        began = self.attempt_count - attempts
        self.claim(
            began == is_due, "an extension renews in the refresh window and what ends too soon, and nothing else"
        )
        self.is_ahead = False

    @rule(is_beside=st.booleans())
    def extend(self, is_beside: bool) -> None:
        self.cache.renewed_beside = self.is_beside = is_beside

    # What becomes of the container

    def start_anew(self, jitter: float) -> None:
        self.jitter = jitter
        self.cache.start_anew()
        self.is_beside = False
        self.failure = self.prefetching = None

    @rule(jitter=st.sampled_from([0.0, 0.5, 0.99]))
    def restore(self, jitter: float = 0.5) -> None:
        self.run(self.forget)
        self.start_anew(jitter)
        for attempt in self.attempts.values():
            attempt.is_current = False

    @rule(callers=st.integers(0, 4), turns=st.integers(0, 12), jitter=st.sampled_from([0.0, 0.5, 0.99]))
    def fork(self, callers: int = 0, turns: int = 0, jitter: float = 0.5) -> None:
        """We go on in the child, where the other threads, some in the middle of things, are no more."""
        if self.no_error_surfaces():
            for _ in range(callers):
                self.spawn(None)
            self.scheduler.run(turns)
        self.scheduler.forget()
        self.attempts.clear()
        self.start_anew(jitter)

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 2.0, 4.1, 12.0, 60.0, 4000.0]))
    def pass_time(self, seconds: float) -> None:
        self.scheduler.advance(seconds)

    @rule(seconds=st.sampled_from([0.3, 5.0, 60.0, 4000.0, 200_000.0]), loses=st.booleans())
    def freeze(self, seconds: float, loses: bool = False) -> None:
        """The monotonic clock stops, the wall clock goes on; connections may not outlast it."""
        self.scheduler.wall += seconds
        for attempt in self.attempts.values():
            attempt.is_lost = attempt.is_lost or loses
        self.scheduler.run()

    @rule(seconds=st.sampled_from([-4000.0, -5.0, 5.0, 4000.0]))
    def set_wall_clock(self, seconds: float) -> None:
        self.scheduler.wall += seconds
        self.scheduler.run()

    @rule(
        what=st.sampled_from(["fresh", "end", "failure", "flight"]),
        clock=st.sampled_from(["both", "monotonic", "wall"]),
        offset=st.sampled_from([-1.0, -0.01, 0.01]),
    )
    def go_to(self, what: str, clock: str = "both", offset: float = 0.01) -> None:
        """To just before, or just after, one of the moments at which something changes."""
        moments: dict[str, tuple[float, float] | None] = {
            "fresh": self.held.fresh if self.held else None,
            "end": self.held.end if self.held else None,
            "failure": self.failure.end if self.failure else None,
            "flight": next(((a.began[0] + a.seconds + 1, a.began[1] + a.seconds + 1) for a in self.flights()), None),
        }
        moment = moments[what]
        if moment is None:
            return
        seconds = moment[clock == "wall"] + offset - self.now[clock == "wall"]
        if seconds <= 0:
            return
        if clock == "wall":
            self.scheduler.wall += seconds
        else:
            self.scheduler.advance(seconds, wall=clock == "both")

    # What becomes of the service

    @rule(
        is_up=st.sampled_from([True, True, False]),
        is_answering=st.sampled_from([True, True, False]),
        latency=st.sampled_from([0.1, 0.1, 0.8, 2.5]),
        lease=st.sampled_from([1, 10, 70, 100, 3600]),
    )
    def change_service(
        self, is_up: bool = True, is_answering: bool = True, latency: float = 0.1, lease: int = 3600
    ) -> None:
        if not (self.is_up and self.is_answering) or latency != self.latency or lease != self.lease:
            self.trouble = self.now[0]
        self.is_up, self.is_answering, self.latency, self.lease = is_up, is_answering, latency, lease

    @invariant()
    def holds(self) -> None:
        if self.violations:
            raise RuleBroken(self.violations[0])

    def settle(self) -> None:
        """Whatever is under way comes to its end."""
        self.change_service(is_up=True, is_answering=True, latency=self.latency, lease=self.lease)
        self.scheduler.advance(10 * TIMEOUT)
        self.claim(not self.scheduler.alive, "somebody waits for ever")
        self.holds()

    def close(self) -> None:
        self.scheduler.forget()
        self.patch.undo()

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.close()


def is_equal(error: CerberusError | None, model: CerberusError | None) -> bool:
    return error == model or (type(error) is type(model) and str(error).startswith("the lease of"))


Lifetime.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    report_multiple_bugs=False,
)
TestLifetime = Lifetime.TestCase
