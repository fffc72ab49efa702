"""The model can see: each rule of the cache taken away in turn, and each time the model misses it.

A script reads as Hypothesis prints a failure: steps of the state machine, with their arguments. The cache itself passes all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import cerberus_auth.caching.cache
from unit.test_cache_properties import Lifetime, RuleBroken

SOURCE = Path(cerberus_auth.caching.cache.__file__)
LATENCY = 0.1  # of a service in order
LANDED = 0.15  # a flight has landed, and if it failed, its pause lasts still
OVER = 0.5  # a flight has landed, and the pause after the first failure is over


class Steps:
    """The rules of a machine, each followed by its invariant."""

    def __init__(self, machine: Lifetime) -> None:
        self._machine = machine

    def __getattr__(self, rule: str) -> Callable[..., None]:
        def step(**arguments: object) -> None:
            getattr(self._machine, rule)(**arguments)
            self._machine.holds()

        return step


Script = Callable[[Steps], None]


def run(script: Script, module: ModuleType) -> None:
    machine = Lifetime()
    machine.module = module
    machine.start(seed=0, jitter=0.5)
    try:
        script(Steps(machine))
        machine.settle()
    finally:
        machine.close()


# The life of a token


def renewals(state: Steps) -> None:
    for clock in ("monotonic", "wall"):
        state.invalidate()
        state.call()
        state.pass_time(seconds=LANDED)
        state.go_to(what="fresh", clock=clock, offset=-0.01)
        state.call()
        state.go_to(what="fresh", clock=clock, offset=0.01)
        state.call()
        state.call()
        state.pass_time(seconds=LANDED)


def outage_at_the_end_of_a_token(state: Steps) -> None:
    for lease in (3600, 10):
        for clock in ("monotonic", "wall"):
            state.change_service(lease=lease, latency=0.8)
            state.invalidate()
            state.call()
            state.pass_time(seconds=0.9)
            state.change_service(is_up=False)
            state.go_to(what="end", clock=clock, offset=0.01)
            state.call()
            state.pass_time(seconds=LANDED)


def lease_shorter_than_the_latency(state: Steps) -> None:
    state.change_service(lease=1, latency=2.5)
    state.call()
    state.pass_time(seconds=2.55)
    state.call()


def outage_in_the_refresh_window(state: Steps) -> None:
    state.call()
    state.pass_time(seconds=LANDED)
    state.change_service(is_up=False)
    state.go_to(what="fresh")
    state.call()
    state.pass_time(seconds=LANDED)
    state.call()


def slow_renewal_across_the_end(state: Steps) -> None:
    state.call()
    state.pass_time(seconds=LANDED)
    state.change_service(latency=2.5)
    state.go_to(what="end", offset=-1.0)
    state.call()
    state.pass_time(seconds=12.0)


# Failures


def outage(state: Steps) -> None:
    for clock in ("monotonic", "wall"):
        state.change_service(is_up=False)
        for _ in range(6):
            state.call()
            state.pass_time(seconds=LATENCY + 0.01)
            state.go_to(what="failure", clock=clock, offset=-0.01)
            state.call()
            state.go_to(what="failure", clock=clock, offset=0.01)
        state.change_service()
        state.call()
        state.pass_time(seconds=LANDED)
        state.go_to(what="end")


def callers_in_an_outage(state: Steps) -> None:
    state.change_service(is_up=False)
    state.calls_at_once(timeouts=[None, None, None])
    state.pass_time(seconds=LANDED)
    state.call()
    state.call()


def no_answer_in_a_short_time(state: Steps) -> None:
    state.change_service(is_answering=False)
    state.call(timeout=1.2)
    state.pass_time(seconds=1.3)
    state.call(timeout=1.2)


def no_answer_in_a_long_time(state: Steps) -> None:
    state.change_service(is_answering=False)
    state.call(timeout=3.0)
    state.pass_time(seconds=3.1)
    state.call(timeout=3.0)
    state.change_service(latency=0.8)
    state.call()
    state.call(timeout=3.0)


# Flights


def callers_at_once(state: Steps) -> None:
    for _ in range(6):
        state.calls_at_once(timeouts=[None] * 6)
        state.pass_time(seconds=LANDED)
        state.invalidate()


def callers_of_a_slow_service(state: Steps) -> None:
    state.change_service(latency=2.5)
    state.calls_at_once(timeouts=[None, 3.0, None, 3.0, None, None])
    state.call(timeout=0.05)
    state.pass_time(seconds=1.0)


def long_timeout(state: Steps) -> None:
    state.call(timeout=60.0)


def leader_in_a_hurry(state: Steps) -> None:
    state.change_service(latency=2.5)
    state.pass_time(seconds=12.0)
    state.call(timeout=1.2)
    state.call()
    state.pass_time(seconds=12.0)


def frozen_flight(state: Steps) -> None:
    state.call()
    state.freeze(seconds=60.0, loses=True)
    state.call()


def frozen_flight_with_a_waiter(state: Steps) -> None:
    state.call()
    state.call(timeout=3.0)
    state.freeze(seconds=60.0, loses=True)
    state.call()
    state.pass_time(seconds=4.1)


def frozen_flight_that_fails(state: Steps) -> None:
    state.change_service(is_up=False)
    state.call()
    state.freeze(seconds=60.0)
    state.pass_time(seconds=LANDED)
    state.call()


def overtaken_flight_that_fails(state: Steps) -> None:
    state.change_service(is_up=False, latency=2.5)
    state.call()
    state.freeze(seconds=60.0)
    state.pass_time(seconds=1.0)
    state.call()
    state.pass_time(seconds=1.6)
    state.call()


def overtaken_flight_that_lands_first(state: Steps) -> None:
    state.change_service(latency=2.5)
    state.call()
    state.freeze(seconds=60.0)
    state.pass_time(seconds=1.0)
    state.call()
    state.pass_time(seconds=1.6)
    state.call()


def overtaken_flight_that_lands_last(state: Steps) -> None:
    state.change_service(latency=2.5)
    state.call()
    state.freeze(seconds=60.0)
    state.change_service()
    state.call()
    state.pass_time(seconds=4.1)
    state.call()


def overtaken_flight_and_a_clock_set_back(state: Steps) -> None:
    """The flight fails, no longer abandoned, when its successor's short token is due for renewal."""
    state.change_service(is_answering=False)
    state.call()
    state.pass_time(seconds=9.3)
    state.change_service(lease=1)
    state.set_wall_clock(seconds=4000.0)
    state.call()
    state.pass_time(seconds=LANDED)
    state.set_wall_clock(seconds=-4000.0)
    state.pass_time(seconds=0.7)
    state.call()


# The extension


def extension(state: Steps) -> None:
    state.call()
    state.pass_time(seconds=LANDED)
    state.renew()
    state.renew(ahead=4000.0)
    state.go_to(what="fresh")
    state.renew(seconds=30.0)
    state.pass_time(seconds=LANDED)
    for clock in ("monotonic", "wall"):
        state.go_to(what="end", clock=clock, offset=-500.0)
        state.renew(ahead=600.0)
        state.pass_time(seconds=LANDED)


def extension_beside_callers(state: Steps) -> None:
    state.call()
    state.pass_time(seconds=LANDED)
    state.extend(is_beside=True)
    state.go_to(what="fresh")
    state.call()


def extension_after_callers(state: Steps) -> None:
    state.call()
    state.pass_time(seconds=LANDED)
    state.change_service(latency=0.8)
    state.go_to(what="fresh")
    state.call()
    state.renew()


def extension_in_an_outage(state: Steps) -> None:
    state.call()
    state.pass_time(seconds=LANDED)
    state.change_service(is_up=False)
    state.go_to(what="fresh")
    state.renew()
    state.pass_time(seconds=LANDED)
    state.renew()


def extension_after_a_frozen_flight(state: Steps) -> None:
    state.call()
    state.pass_time(seconds=LANDED)
    state.go_to(what="fresh")
    state.call()
    state.freeze(seconds=5.0, loses=True)
    state.renew()


# The prefetch


def prefetch(state: Steps) -> None:
    state.prefetch()
    state.call()
    state.pass_time(seconds=LANDED)
    state.prefetch()


def prefetch_beside_a_caller(state: Steps) -> None:
    state.call()
    state.prefetch()


def prefetch_in_an_outage(state: Steps) -> None:
    state.change_service(is_up=False)
    state.prefetch()
    state.pass_time(seconds=OVER)
    state.call()
    state.call()


def prefetch_that_has_just_failed(state: Steps) -> None:
    state.change_service(is_up=False)
    state.prefetch()
    state.pass_time(seconds=LANDED)
    state.call()
    state.call()


def prefetch_that_fails_a_caller(state: Steps) -> None:
    state.change_service(is_up=False)
    state.prefetch()
    state.call()
    state.pass_time(seconds=LANDED)
    state.call()


def prefetch_that_failed_long_ago(state: Steps) -> None:
    for seconds in (-4000.0, 4000.0):
        state.change_service(is_up=False)
        state.prefetch()
        state.pass_time(seconds=OVER)
        state.set_wall_clock(seconds=seconds)
        state.pass_time(seconds=12.0 if seconds < 0 else 0.01)
        state.change_service()
        state.call()
        state.invalidate()
        state.pass_time(seconds=OVER)
        state.invalidate()


def prefetch_and_an_invalidation(state: Steps) -> None:
    state.change_service(is_up=False)
    state.prefetch()
    state.pass_time(seconds=LANDED)
    state.invalidate()
    state.call()


# Invalidation


def invalidation(state: Steps) -> None:
    state.call()
    state.pass_time(seconds=LANDED)
    state.invalidate()
    state.call()


def invalidation_in_an_outage(state: Steps) -> None:
    state.change_service(is_up=False)
    state.call()
    state.pass_time(seconds=LANDED)
    state.invalidate()
    state.call()


def invalidation_in_mid_flight(state: Steps) -> None:
    state.call()
    state.invalidate()
    state.pass_time(seconds=OVER)


# Refused tokens


def refusal(state: Steps) -> None:
    state.call()
    state.pass_time(seconds=LANDED)
    state.refuse(callers=2)
    state.pass_time(seconds=LANDED)
    state.refuse_late()
    state.go_to(what="fresh")
    state.call()


def refusal_of_what_is_handed_out_again(state: Steps) -> None:
    state.call()
    state.pass_time(seconds=LANDED)
    state.refuse()
    state.pass_time(seconds=LANDED)
    state.refuse(repeats=True)
    state.pass_time(seconds=LANDED)
    state.refuse_late()
    state.pass_time(seconds=OVER)
    state.refuse_late(back=2)


def refusal_in_mid_flight(state: Steps) -> None:
    """Reported to an empty cache, when the service is about to hand it out once more."""
    state.call()
    state.pass_time(seconds=LANDED)
    state.refuse(repeats=True)
    state.pass_time(seconds=OVER)
    state.invalidate()
    state.call()
    state.refuse_late()
    state.pass_time(seconds=LANDED)


def refusal_of_what_has_just_been_had(state: Steps) -> None:
    state.call()
    state.pass_time(seconds=LANDED)
    state.give_up(is_late=True)
    state.call()
    state.give_up()
    state.call()
    state.pass_time(seconds=OVER)
    state.call()


# Forks


def fork_under_the_lock(state: Steps) -> None:
    state.fork(callers=1, turns=2)
    state.call()


def fork_in_mid_flight(state: Steps) -> None:
    state.call()
    state.fork()
    state.call()


def fork_with_a_token(state: Steps) -> None:
    state.call()
    state.pass_time(seconds=LANDED)
    state.extend(is_beside=True)
    state.fork(jitter=0.99)
    state.call()
    state.go_to(what="fresh")
    state.call()
    state.pass_time(seconds=LANDED)
    state.go_to(what="fresh")
    state.call()


def fork_in_an_outage(state: Steps) -> None:
    state.change_service(is_up=False)
    state.call()
    state.pass_time(seconds=LANDED)
    state.fork()
    state.call()


def fork_after_a_failed_prefetch(state: Steps) -> None:
    state.change_service(is_up=False)
    state.prefetch()
    state.pass_time(seconds=OVER)
    state.fork()
    state.call()


# What each takes away or breaks: the script by which that is missed, a part of the module's text,
# and what takes its place.
MUTANTS: dict[str, tuple[Script, str, str]] = {
    "the token's end: no wall clock": (
        outage_at_the_end_of_a_token,
        "return time.monotonic() < self.end and time.time() < self.end_wall\n\n    def ends_within",
        "return time.monotonic() < self.end\n\n    def ends_within",
    ),
    "the token's end: no monotonic clock": (
        outage_at_the_end_of_a_token,
        "return time.monotonic() < self.end and time.time() < self.end_wall\n\n    def ends_within",
        "return time.time() < self.end_wall\n\n    def ends_within",
    ),
    "the refresh window: no wall clock": (
        renewals,
        "return time.monotonic() < self.fresh and time.time() < self.fresh_wall",
        "return time.monotonic() < self.fresh",
    ),
    "the refresh window: no monotonic clock": (
        renewals,
        "return time.monotonic() < self.fresh and time.time() < self.fresh_wall",
        "return time.time() < self.fresh_wall",
    ),
    "the pause after a failure: no wall clock": (
        outage,
        "return time.monotonic() < self.end and time.time() < self.end_wall\n\n\nclass TokenCache",
        "return time.monotonic() < self.end\n\n\nclass TokenCache",
    ),
    "the pause after a failure: no monotonic clock": (
        outage,
        "return time.monotonic() < self.end and time.time() < self.end_wall\n\n\nclass TokenCache",
        "return time.time() < self.end_wall\n\n\nclass TokenCache",
    ),
    "an abandoned flight: no wall clock": (
        frozen_flight,
        "age = max(time.monotonic() - self.began.monotonic, time.time() - self.began.wall)",
        "age = time.monotonic() - self.began.monotonic",
    ),
    "an abandoned flight: no monotonic clock": (
        prefetch_that_failed_long_ago,
        "age = max(time.monotonic() - self.began.monotonic, time.time() - self.began.wall)",
        "age = time.time() - self.began.wall",
    ),
    "abandoned flights are waited for": (
        frozen_flight,
        "                if flight is not None and flight.is_abandoned():\n                    flight = None\n",
        "",
    ),
    "abandoned flights hold up the extension": (
        extension_after_a_frozen_flight,
        "if self._flight is not None and not self._flight.is_abandoned():",
        "if self._flight is not None:",
    ),
    "the lease counts from the answer, by the monotonic clock": (
        outage_at_the_end_of_a_token,
        "self.end = token.asked.monotonic + usable",
        "self.end = time.monotonic() + usable",
    ),
    "the lease counts from the answer, by the wall clock": (
        outage_at_the_end_of_a_token,
        "self.end_wall = token.asked.wall + usable",
        "self.end_wall = time.time() + usable",
    ),
    "the refresh window counts from the answer, by the monotonic clock": (
        renewals,
        "self.fresh = token.asked.monotonic + fresh",
        "self.fresh = time.monotonic() + fresh",
    ),
    "the refresh window counts from the answer, by the wall clock": (
        renewals,
        "self.fresh_wall = token.asked.wall + fresh",
        "self.fresh_wall = time.time() + fresh",
    ),
    "no margin": (
        outage_at_the_end_of_a_token,
        "usable = usable_seconds(token.lease_seconds, margin)",
        "usable = token.lease_seconds",
    ),
    "no margin for a short lease": (
        outage_at_the_end_of_a_token,
        "usable = usable_seconds(token.lease_seconds, margin)",
        "usable = token.lease_seconds - (margin if token.lease_seconds > margin else 0)",
    ),
    "no refresh window": (renewals, "fresh = usable * (1 - _REFRESH_WINDOW * early)", "fresh = usable"),
    "no jitter in the refresh window": (renewals, "self._early = jitter()", "self._early = 1.0"),
    "no jitter in the pause": (outage, "* (0.5 + jitter() / 2)", ""),
    "the pause does not grow": (outage, "_FIRST_PAUSE_SECONDS * 2.0 ** min(count, 10)", "_FIRST_PAUSE_SECONDS"),
    "the pause grows for ever": (
        outage,
        "min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(count, 10))",
        "_FIRST_PAUSE_SECONDS * 2.0 ** min(count, 10)",
    ),
    "a failure's pause does not end": (
        outage,
        "return time.monotonic() < self.end and time.time() < self.end_wall\n\n\nclass TokenCache",
        "return True\n\n\nclass TokenCache",
    ),
    "no failing fast": (
        outage,
        "        if isinstance(self.error, DeadlineExceeded) and deadline",
        "        return False\n        if isinstance(self.error, DeadlineExceeded) and deadline",
    ),
    "success does not end the pauses' growth": (
        outage,
        "                    self._failure = None\n                    surpassed",
        "                    surpassed",
    ),
    "want of time is a failure to those who have more": (
        no_answer_in_a_long_time,
        "isinstance(self.error, DeadlineExceeded) and deadline.remaining() > self.seconds * _SAME_TIME",
        "False",
    ),
    "a caller's short timeout is a failure": (
        no_answer_in_a_short_time,
        "flight.seconds * _SAME_TIME < min(self._timeout, REFRESH_SECONDS)",
        "False",
    ),
    "want of time is no failure": (
        no_answer_in_a_long_time,
        "flight.seconds * _SAME_TIME < min(self._timeout, REFRESH_SECONDS)",
        "True",
    ),
    "want of time is no failure to those who have as long": (
        no_answer_in_a_long_time,
        "deadline.remaining() > self.seconds * _SAME_TIME",
        "deadline.remaining() > self.seconds * 0.9",
    ),
    "a recent failure is raised although a flight is under way": (
        no_answer_in_a_long_time,
        "if flight is None and failure is not None and pauses",
        "if failure is not None and pauses",
    ),
    "an abandoned flight's failure counts": (
        overtaken_flight_and_a_clock_set_back,
        "                    current\n                    and not flight.is_abandoned()\n",
        "                    not flight.is_abandoned()\n",
    ),
    "no single flight": (
        callers_at_once,
        "held, flight, failure = self.held, self._flight, self._failure\n                prefetch",
        "held, flight, failure = self.held, None, self._failure\n                prefetch",
    ),
    "no single flight for the extension": (
        extension_after_callers,
        "            if self._flight is not None and not self._flight.is_abandoned():\n                return\n",
        "",
    ),
    "a landing ends another's flight": (
        overtaken_flight_that_fails,
        "                if current:\n                    self._flight = None",
        "                self._flight = None",
    ),
    "the flight is begun outside the lock": (
        callers_at_once,
        "                leads = flight is None\n"
        "                if flight is None:\n"
        "                    flight = self._flight = _Flight(limit.remaining(), usable)\n",
        "            leads = flight is None\n"
        "            if flight is None:\n"
        "                with self._lock:\n"
        "                    flight = self._flight = _Flight(limit.remaining(), usable)\n",
    ),
    "the lock is held over the network": (
        callers_of_a_slow_service,
        "            if leads:\n                self._fly(flight, limit)\n            else:\n",
        "                if leads:\n                    self._fly(flight, limit)\n            if not leads:\n",
    ),
    "a waiter's timeout is ignored": (
        callers_of_a_slow_service,
        'flight.landed.wait(deadline.check("waiting for another thread\'s authentication"))',
        "flight.landed.wait()",
    ),
    "a caller's timeout is ignored": (
        no_answer_in_a_short_time,
        "self._timeout if timeout is None else min(timeout, self._timeout)",
        "self._timeout",
    ),
    "a caller's timeout is not bounded": (
        long_timeout,
        "self._timeout if timeout is None else min(timeout, self._timeout)",
        "self._timeout if timeout is None else timeout",
    ),
    "renewing takes as long as the caller has": (
        renewals,
        "limit = deadline.within(REFRESH_SECONDS) if usable else deadline",
        "limit = deadline",
    ),
    "a failing renewal raises": (
        outage_in_the_refresh_window,
        "            if held is not None and held.is_usable():\n"
        "                if leads and flight.error is not None:\n"
        "                    _warn(flight.error)\n",
        "            if held is not None and held.is_usable() and flight.error is None:\n",
    ),
    "a renewal that ran out of its own time is the caller's error": (
        slow_renewal_across_the_end,
        "(leads and limit is deadline)",
        "leads",
    ),
    "in the refresh window all wait": (
        renewals,
        "(self.renewed_beside or flight is not None or pauses)",
        "(self.renewed_beside or pauses)",
    ),
    "in the refresh window failures do not pause": (
        outage_in_the_refresh_window,
        "(self.renewed_beside or flight is not None or pauses)",
        "(self.renewed_beside or flight is not None)",
    ),
    "callers renew beside an extension": (
        extension_beside_callers,
        "(self.renewed_beside or flight is not None or pauses)",
        "(flight is not None or pauses)",
    ),
    "a frozen flight's failure counts": (
        frozen_flight_that_fails,
        "                    and not flight.is_abandoned()\n",
        "",
    ),
    "an extension that renews always": (
        extension,
        "if held is None or (held.is_fresh() and not held.ends_within(ahead)):",
        "if held is None:",
    ),
    "an extension that renews never": (
        extension,
        "if held is None or (held.is_fresh() and not held.ends_within(ahead)):",
        "if True:",
    ),
    "an extension that does not look ahead": (
        extension,
        "held.is_fresh() and not held.ends_within(ahead)",
        "held.is_fresh()",
    ),
    "an extension that looks ahead too early": (extension, "left < min(seconds, self.usable / 2)", "left < seconds"),
    "an extension that looks ahead by the monotonic clock alone": (
        extension,
        "min(self.end - time.monotonic(), self.end_wall - time.time())",
        "self.end - time.monotonic()",
    ),
    "an extension that looks ahead by the wall clock alone": (
        extension,
        "min(self.end - time.monotonic(), self.end_wall - time.time())",
        "self.end_wall - time.time()",
    ),
    "an extension that tries in the pause": (
        extension_in_an_outage,
        "            if failure is not None and failure.holds_for(deadline, held.is_usable()):\n                return\n",
        "",
    ),
    "an extension takes longer than the cache allows": (
        extension,
        "            deadline = deadline.within(self._timeout)\n",
        "",
    ),
    "what comes after the end is handed out": (
        slow_renewal_across_the_end,
        "            if held is not None and held.is_usable():\n                if leads",
        "            if held is not None:\n                if leads",
    ),
    "a lease that is over on arrival is kept": (
        lease_shorter_than_the_latency,
        "if not held.is_usable():\n                    held = None",
        "if False:\n                    held = None",
    ),
    "a waiter gets the leader's want of time": (
        leader_in_a_hurry,
        "(not timed_out or (leads and limit is deadline))",
        "(True)",
    ),
    "a waiter does not get the leader's error": (
        prefetch_that_fails_a_caller,
        "(not timed_out or (leads and limit is deadline))",
        "(leads)",
    ),
    "one error for all": (
        callers_in_an_outage,
        "                error = flight.error.fresh()",
        "                error = flight.error",
    ),
    "a waiter whose time is up does not look for a token": (
        frozen_flight_with_a_waiter,
        "            held = self.held\n            if flight is prefetch",
        "            if not leads:\n"
        "                deadline.check('waiting')\n"
        "            held = self.held\n"
        "            if flight is prefetch",
    ),
    "one error for all in the pause": (callers_in_an_outage, "error = failure.error.fresh()", "error = failure.error"),
    "an error of the prefetch is lost": (
        prefetch_in_an_outage,
        "prefetch is not None and prefetch.error is not None",
        "False",
    ),
    "an error of the prefetch goes on": (
        prefetch_that_has_just_failed,
        "prefetch.error.fresh(), None  # the next",
        "prefetch.error.fresh(), failure  # the next",
    ),
    "an error of the prefetch surfaces again and again": (
        prefetch_in_an_outage,
        "prefetch, self._prefetch = self._prefetch, None",
        "prefetch = self._prefetch",
    ),
    "an error of the prefetch goes on after its waiter": (
        prefetch_that_fails_a_caller,
        "            if flight is prefetch:\n                self._failure = None  # the next caller tries anew\n",
        "",
    ),
    "an old error of the prefetch surfaces": (
        prefetch_that_failed_long_ago,
        "prefetch.error is not None and not prefetch.is_abandoned():",
        "prefetch.error is not None:",
    ),
    "an error of the prefetch survives an invalidation": (
        prefetch_and_an_invalidation,
        "                self._prefetch = None\n\n",
        "\n",
    ),
    "a prefetch though there is a token": (
        prefetch,
        "if self.held is not None or self._flight is not None:",
        "if self._flight is not None:",
    ),
    "a prefetch beside a caller": (
        prefetch_beside_a_caller,
        "if self.held is not None or self._flight is not None:",
        "if self.held is not None:",
    ),
    "a prefetch that callers do not see": (
        prefetch,
        "flight = self._flight = self._prefetch = _Flight(deadline.seconds)",
        "flight = self._prefetch = _Flight(deadline.seconds)",
    ),
    "invalidating keeps the token": (
        invalidation,
        "            self.held = None\n            self._failure",
        "            self._failure",
    ),
    "invalidating keeps the failure": (
        invalidation_in_an_outage,
        "            self._failure = None\n            self._refused = refused",
        "            self._refused = refused",
    ),
    "what was invalidated in mid-flight is kept": (
        invalidation_in_mid_flight,
        "if generation != self._generation:",
        "if False:",
    ),
    "a refused token is not replaced": (
        refusal,
        "            self.held = None\n            self._failure",
        "            self.held = None if refused is None else self.held\n            self._failure",
    ),
    "a refused token is handed out again": (
        refusal_in_mid_flight,
        "if held.value != self._refused and not surpassed:",
        "if not surpassed:",
    ),
    "nobody is told which token is refused": (
        refusal,
        "Wanted(self._refused, self._since, flight.early)",
        "Wanted(None, self._since, flight.early)",
    ),
    "a late report of a refused token invalidates its successor": (
        refusal,
        "if self.held is None or self.held.value != refused:",
        "if self.held is None:",
    ),
    "a second report of a refused token forgets the failure": (
        refusal_of_what_is_handed_out_again,
        "if self.held is None or self.held.value != refused:",
        "if self.held is not None and self.held.value != refused:",
    ),
    "a report to an empty cache is not remembered": (
        refusal_in_mid_flight,
        "                    self._refused = refused\n                if",
        "                    pass\n                if",
    ),
    "a refused token stays refused for ever": (refusal, "self.held, self._refused = held, None", "self.held = held"),
    "a late report takes the place of a newer one": (
        refusal_of_what_is_handed_out_again,
        "if self.held is None and self._refused is None:",
        "if self.held is None:",
    ),
    "invalidating keeps what was refused": (
        refusal_in_mid_flight,
        "            self._failure = None\n            self._refused = refused",
        "            self._failure = None\n            self._refused = refused or self._refused",
    ),
    "giving up drops a newer token": (
        refusal_of_what_has_just_been_had,
        "if self.held is not None and self.held.value == refused:",
        "if self.held is not None:",
    ),
    "giving up is no failure": (
        refusal_of_what_has_just_been_had,
        "                self._failure = _Failure(error.fresh(), 0, self._timeout)\n",
        "",
    ),
    "giving up does not remember what was refused": (
        refusal_of_what_has_just_been_had,
        "self.held, self._refused = None, refused\n",
        "self.held = None\n",
    ),
    "an abandoned flight's token takes the place of a newer one": (
        overtaken_flight_that_lands_last,
        "if held.value != self._refused and not surpassed:",
        "if held.value != self._refused:",
    ),
    "an abandoned flight's token is lost": (
        overtaken_flight_that_lands_first,
        "surpassed = not current and self.held is not None and self.held.is_usable()",
        "surpassed = not current",
    ),
    "a fork keeps the lock": (
        fork_under_the_lock,
        "        self._lock = threading.Lock()\n        self._early",
        "        self._lock = getattr(self, '_lock', None) or threading.Lock()\n        self._early",
    ),
    "a fork keeps the flight": (
        fork_in_mid_flight,
        "self._flight: _Flight | None = None",
        "self._flight: _Flight | None = getattr(self, '_flight', None)",
    ),
    "a fork keeps the jitter": (
        fork_with_a_token,
        "self._early = jitter()",
        "self._early = getattr(self, '_early', None) or jitter()",
    ),
    "a fork keeps the failure": (
        fork_in_an_outage,
        "self._failure: _Failure | None = None",
        "self._failure: _Failure | None = getattr(self, '_failure', None)",
    ),
    "a fork loses the token": (
        fork_with_a_token,
        "        self._lock = threading.Lock()\n        self._early",
        "        self._lock = threading.Lock()\n        self.held = None\n        self._early",
    ),
    "a fork keeps the extension": (
        fork_with_a_token,
        "        self.renewed_beside = False  #",
        "        self.renewed_beside = getattr(self, 'renewed_beside', False)  #",
    ),
    "a fork keeps the error of the prefetch": (
        fork_after_a_failed_prefetch,
        "self._prefetch: _Flight | None = None",
        "self._prefetch: _Flight | None = getattr(self, '_prefetch', None)",
    ),
}

SCRIPTS = list(dict.fromkeys(script for script, *_ in MUTANTS.values()))


def mutate(old: str, new: str) -> ModuleType:
    source = SOURCE.read_text()
    assert source.count(old) == 1, f"not once in {SOURCE.name}: {old}"
    module = ModuleType(cerberus_auth.caching.cache.__name__)
    module.__package__ = cerberus_auth.caching.cache.__package__
    exec(compile(source.replace(old, new), "mutant.py", "exec"), module.__dict__)  # noqa: S102
    return module


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_cache_keeps_every_rule(script: Script) -> None:
    run(script, cerberus_auth.caching.cache)


@pytest.mark.parametrize("name", MUTANTS)
def test_each_rule_taken_away_is_missed(name: str) -> None:
    script, old, new = MUTANTS[name]
    mutant = mutate(old, new)
    with pytest.raises(RuleBroken):
        run(script, mutant)
