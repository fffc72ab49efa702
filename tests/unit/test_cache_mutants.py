"""The property test can see: each rule of the cache taken away in turn, and each time it fails."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import cerberus_auth.cache
from unit.test_cache_properties import Lifetime

SOURCE = Path(cerberus_auth.cache.__file__)

# What each takes away or breaks: replacements in the module's text.
MUTANTS: dict[str, list[tuple[str, str]]] = {
    "the token's end: no wall clock": [
        (
            "return time.monotonic() < self.end and time.time() < self.end_wall\n\n    def ends_within",
            "return time.monotonic() < self.end\n\n    def ends_within",
        )
    ],
    "the token's end: no monotonic clock": [
        (
            "return time.monotonic() < self.end and time.time() < self.end_wall\n\n    def ends_within",
            "return time.time() < self.end_wall\n\n    def ends_within",
        )
    ],
    "the refresh window: no wall clock": [
        (
            "return time.monotonic() < self.fresh and time.time() < self.fresh_wall",
            "return time.monotonic() < self.fresh",
        )
    ],
    "the refresh window: no monotonic clock": [
        (
            "return time.monotonic() < self.fresh and time.time() < self.fresh_wall",
            "return time.time() < self.fresh_wall",
        )
    ],
    "the pause after a failure: no wall clock": [
        (
            "return time.monotonic() < self.end and time.time() < self.end_wall\n\n\nclass TokenCache",
            "return time.monotonic() < self.end\n\n\nclass TokenCache",
        )
    ],
    "the pause after a failure: no monotonic clock": [
        (
            "return time.monotonic() < self.end and time.time() < self.end_wall\n\n\nclass TokenCache",
            "return time.time() < self.end_wall\n\n\nclass TokenCache",
        )
    ],
    "an abandoned flight: no wall clock": [
        (
            "age = max(time.monotonic() - self.began.monotonic, time.time() - self.began.wall)",
            "age = time.monotonic() - self.began.monotonic",
        )
    ],
    "an abandoned flight: no monotonic clock": [
        (
            "age = max(time.monotonic() - self.began.monotonic, time.time() - self.began.wall)",
            "age = time.time() - self.began.wall",
        )
    ],
    "abandoned flights are waited for": [
        ("                if flight is not None and flight.is_abandoned():\n                    flight = None\n", "")
    ],
    "abandoned flights hold up the extension": [
        ("if self._flight is not None and not self._flight.is_abandoned():", "if self._flight is not None:")
    ],
    "the lease counts from the answer, by the monotonic clock": [
        ("self.end = token.asked.monotonic + usable", "self.end = time.monotonic() + usable")
    ],
    "the lease counts from the answer, by the wall clock": [
        ("self.end_wall = token.asked.wall + usable", "self.end_wall = time.time() + usable")
    ],
    "the refresh window counts from the answer": [
        ("self.fresh = token.asked.monotonic + fresh", "self.fresh = time.monotonic() + fresh"),
        ("self.fresh_wall = token.asked.wall + fresh", "self.fresh_wall = time.time() + fresh"),
    ],
    "no margin": [("usable = token.lease_seconds - margin", "usable = token.lease_seconds")],
    "no margin for a short lease": [("usable = token.lease_seconds * 0.9", "usable = token.lease_seconds")],
    "no refresh window": [("fresh = usable * (1 - _REFRESH_WINDOW * early)", "fresh = usable")],
    "no jitter in the refresh window": [("self._early = jitter()", "self._early = 1.0")],
    "no jitter in the pause": [("* (0.5 + jitter() / 2)", "")],
    "the pause does not grow": [("_FIRST_PAUSE_SECONDS * 2.0 ** min(count, 10)", "_FIRST_PAUSE_SECONDS")],
    "the pause grows for ever": [
        (
            "min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(count, 10))",
            "_FIRST_PAUSE_SECONDS * 2.0 ** min(count, 10)",
        )
    ],
    "a failure's pause does not end": [
        (
            "return time.monotonic() < self.end and time.time() < self.end_wall\n\n\nclass TokenCache",
            "return True\n\n\nclass TokenCache",
        )
    ],
    "no failing fast": [
        (
            "        if isinstance(self.error, DeadlineExceeded) and deadline",
            "        return False\n        if isinstance(self.error, DeadlineExceeded) and deadline",
        )
    ],
    "success does not end the pauses' growth": [
        ("                    self._failure = None\n                    surpassed", "                    surpassed")
    ],
    "want of time is a failure to those who have more": [
        ("isinstance(self.error, DeadlineExceeded) and deadline.remaining() > self.seconds * _SAME_TIME", "False")
    ],
    "a caller's short timeout is a failure": [
        ("flight.seconds * _SAME_TIME < min(self._timeout, REFRESH_SECONDS)", "False")
    ],
    "want of time is no failure": [("flight.seconds * _SAME_TIME < min(self._timeout, REFRESH_SECONDS)", "True")],
    "an abandoned flight's failure counts": [
        (
            "                    current\n                    and not flight.is_abandoned()\n",
            "                    not flight.is_abandoned()\n",
        )
    ],
    "no single flight": [
        (
            "held, flight, failure = self.held, self._flight, self._failure\n                prefetch",
            "held, flight, failure = self.held, None, self._failure\n                prefetch",
        )
    ],
    "no single flight for the extension": [
        ("            if self._flight is not None and not self._flight.is_abandoned():\n                return\n", "")
    ],
    "a landing ends another's flight": [
        ("                if current:\n                    self._flight = None", "                self._flight = None")
    ],
    "the flight is begun outside the lock": [
        (
            "                leads = flight is None\n                if flight is None:\n                    flight = self._flight = _Flight(limit.remaining())\n",
            "            leads = flight is None\n            if flight is None:\n                with self._lock:\n                    flight = self._flight = _Flight(limit.remaining())\n",
        )
    ],
    "the lock is held over the network": [
        ("self._lock = threading.Lock()", "self._lock = threading.RLock()"),
        (
            "            if leads:\n                self._fly(flight, limit)\n            else:\n",
            "                if leads:\n                    self._fly(flight, limit)\n            if not leads:\n",
        ),
    ],
    "a waiter's timeout is ignored": [
        ('flight.landed.wait(deadline.check("waiting for another thread\'s authentication"))', "flight.landed.wait()")
    ],
    "a caller's timeout is ignored": [
        ("self._timeout if timeout is None else min(timeout, self._timeout)", "self._timeout")
    ],
    "a caller's timeout is not bounded": [
        (
            "self._timeout if timeout is None else min(timeout, self._timeout)",
            "self._timeout if timeout is None else 2 * timeout",
        )
    ],
    "renewing takes as long as the caller has": [
        ("limit = deadline.within(REFRESH_SECONDS) if usable else deadline", "limit = deadline")
    ],
    "a failing renewal raises": [
        (
            "            if held is not None and held.is_usable():\n                if leads and flight.error is not None:\n                    _warn(flight.error)\n",
            "            if held is not None and held.is_usable() and flight.error is None:\n",
        )
    ],
    "a renewal that ran out of its own time is the caller's error": [("(leads and limit is deadline)", "leads")],
    "in the refresh window all wait": [
        ("(self.renewed_beside or flight is not None or pauses)", "(self.renewed_beside or pauses)")
    ],
    "in the refresh window failures do not pause": [
        ("(self.renewed_beside or flight is not None or pauses)", "(self.renewed_beside or flight is not None)")
    ],
    "callers renew beside an extension": [
        ("(self.renewed_beside or flight is not None or pauses)", "(flight is not None or pauses)")
    ],
    "a frozen flight's failure counts": [("                    and not flight.is_abandoned()\n", "")],
    "an extension that renews always": [
        ("if held is None or (held.is_fresh() and not held.ends_within(ahead)):", "if held is None:")
    ],
    "an extension that renews never": [
        ("if held is None or (held.is_fresh() and not held.ends_within(ahead)):", "if True:")
    ],
    "an extension that does not look ahead": [("held.is_fresh() and not held.ends_within(ahead)", "held.is_fresh()")],
    "an extension that looks ahead too early": [("left < min(seconds, self.usable / 2)", "left < seconds")],
    "an extension that looks ahead by the monotonic clock alone": [
        ("min(self.end - time.monotonic(), self.end_wall - time.time())", "self.end - time.monotonic()")
    ],
    "an extension that looks ahead by the wall clock alone": [
        ("min(self.end - time.monotonic(), self.end_wall - time.time())", "self.end_wall - time.time()")
    ],
    "an extension that tries in the pause": [
        ("            if failure is not None and failure.holds_for(deadline):\n                return\n", "")
    ],
    "what comes after the end is handed out": [
        (
            "            held = self.held\n            if held is not None and held.is_usable():",
            "            held = self.held\n            if held is not None:",
        )
    ],
    "a lease that is over on arrival is kept": [
        ("if not held.is_usable():\n                    held = None", "if False:\n                    held = None")
    ],
    "a waiter gets the leader's want of time": [("(not timed_out or (leads and limit is deadline))", "(True)")],
    "a waiter does not get the leader's error": [("(not timed_out or (leads and limit is deadline))", "(leads)")],
    "one error for all": [("                error = flight.error.fresh()", "                error = flight.error")],
    "a waiter whose time is up does not look for a token": [
        (
            "            held = self.held\n            if held is not None and held.is_usable():",
            "            if not leads:\n                deadline.check('waiting')\n            held = self.held\n            if held is not None and held.is_usable():",
        )
    ],
    "one error for all in the pause": [("error = failure.error.fresh()", "error = failure.error")],
    "an error of the prefetch is lost": [("prefetch is not None and prefetch.error is not None", "False")],
    "an error of the prefetch goes on": [
        ("prefetch.error.fresh(), None  # the next", "prefetch.error.fresh(), failure  # the next")
    ],
    "an error of the prefetch surfaces again and again": [
        ("prefetch, self._prefetch = self._prefetch, None", "prefetch = self._prefetch")
    ],
    "an error of the prefetch survives an invalidation": [("                self._prefetch = None\n\n", "\n")],
    "a prefetch though there is a token": [("if self.held is not None or self._flight is not None:", "if False:")],
    "invalidating keeps the token": [
        ("            self.held = None\n            self._failure", "            self._failure")
    ],
    "invalidating keeps the failure": [
        ("            self._failure = None\n            self._refused = refused", "            self._refused = refused")
    ],
    "what was invalidated in mid-flight is kept": [("if generation != self._generation:", "if False:")],
    "a refused token is not replaced": [
        (
            "            self.held = None\n            self._failure",
            "            self.held = None if refused is None else self.held\n            self._failure",
        )
    ],
    "a refused token is handed out again": [("if held.value != self._refused and not surpassed:", "if not surpassed:")],
    "nobody is told which token is refused": [
        ("token = self._authenticate(deadline, refused)", "token = self._authenticate(deadline, None)")
    ],
    "a late report of a refused token invalidates its successor": [
        ("if self.held is None or self.held.value != refused:", "if self.held is None:")
    ],
    "a second report of a refused token forgets the failure": [
        (
            "if self.held is None or self.held.value != refused:",
            "if self.held is not None and self.held.value != refused:",
        )
    ],
    "a report to an empty cache is not remembered": [
        (
            "                    self._refused = refused\n                if",
            "                    pass\n                if",
        )
    ],
    "a refused token stays refused for ever": [("self.held, self._refused = held, None", "self.held = held")],
    "an abandoned flight's token takes the place of a newer one": [
        ("if held.value != self._refused and not surpassed:", "if held.value != self._refused:")
    ],
    "an abandoned flight's token is lost": [
        ("surpassed = not current and self.held is not None and self.held.is_usable()", "surpassed = not current")
    ],
    "a fork keeps the lock": [
        (
            "        self._lock = threading.Lock()\n        self._early",
            "        self._lock = getattr(self, '_lock', None) or threading.Lock()\n        self._early",
        )
    ],
    "a fork keeps the flight": [
        ("self._flight: _Flight | None = None", "self._flight: _Flight | None = getattr(self, '_flight', None)")
    ],
    "a fork keeps the jitter": [("self._early = jitter()", "self._early = getattr(self, '_early', None) or jitter()")],
    "a fork keeps the failure": [
        ("self._failure: _Failure | None = None", "self._failure: _Failure | None = getattr(self, '_failure', None)")
    ],
    "a fork loses the token": [
        (
            "        self._lock = threading.Lock()\n        self._early",
            "        self._lock = threading.Lock()\n        self.held = None\n        self._early",
        )
    ],
}


def mutate(edits: list[tuple[str, str]]) -> ModuleType:
    source = SOURCE.read_text()
    for old, new in edits:
        assert source.count(old) == 1, f"not once in {SOURCE.name}: {old}"
        source = source.replace(old, new)
    module = ModuleType(cerberus_auth.cache.__name__)
    module.__package__ = cerberus_auth.cache.__package__
    exec(compile(source, "mutant.py", "exec"), module.__dict__)  # noqa: S102
    return module


@pytest.mark.parametrize("name", MUTANTS)
def test_each_rule_taken_away_is_missed(name: str) -> None:
    class Mutant(Lifetime):
        module = mutate(MUTANTS[name])

    with pytest.raises(AssertionError):
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Mutant,
            settings=settings(
                max_examples=500,
                stateful_step_count=30,
                phases=[Phase.generate],
                derandomize=True,
                database=None,
                deadline=None,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
