"""What is kept, under any order of events: threads on virtual time, against a model of the rules.

Every call of the cache runs in a thread of its own; Hypothesis decides what happens, and in which order threads that could
run do so. The model knows what the cache must hold, from what went in and out of it: it never looks inside.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cerberus_auth import (
    AccessDenied,
    BlockedAtEdge,
    CerberusError,
    CerberusUnavailable,
    DeadlineExceeded,
    DecryptionDenied,
    InvalidResponse,
    SecretNotFound,
)
from unit.modules import Edit, load
from unit.scheduler import Scheduler

FRESH, DUE, OVERDUE, GONE = range(4)
TIMEOUT, ATTEMPT_SECONDS = 10.0, 5.0
REFRESH_SECONDS, PROBE_SECONDS = 2.0, 0.25
MOST_ABANDONED = 4
MAX_PAUSE = 60.0
SIZE = 100  # of a value
MOMENT = 1e-3  # seconds; what the model does not look into
OFFERED_AFTER = 0.05  # seconds from the start of a flight
FOREVER = float("inf")

Instant = tuple[float, float]
"""By the monotonic and the wall clock."""
Ages = tuple[float, float, float]
"""At which a value stops being fresh, becomes overdue, and is gone."""

TOKEN = "token"
SECRETS = ("a", "b", "c")
OWN: dict[str, Ages] = {TOKEN: (2800, 3500, 3500), **dict.fromkeys(SECRETS, (285, 300, 3900))}
LIFETIMES: dict[str, Ages | None] = {"own": None, "short": (9, 10, 40), "strict": (9, 10, 10)}

MODES = (
    "denied",
    "missing",
    "unreached",
    "busy",
    "failing",
    "edge",
    "kms",
    "kms down",
    "kms hang",
    "hang",
    "stuck",
    "defect",
    "broken",
)
"""What can be wrong with the service."""

CALL: ContextVar[Call] = ContextVar("CALL")
"""Who started a flight: it carries its starter's context variables."""


class RuleBroken(AssertionError):
    """The cache has done what the model forbids."""


class Value:
    """A value as its rules say: from the design, not from the code."""

    def __init__(self, name: str, order: float, asked: Instant, ages: Ages) -> None:
        self.name = name
        self.order = order  # of its request, among all; an offered one is half a step later than what it replaces
        self.asked = asked
        self.ages = ages
        self.used = asked[0]


class Memory:
    """What calls for a key are answered with for a while."""

    def __init__(self, error: CerberusError, count: int, order: int, now: Instant, jitter: float) -> None:
        self.error = error
        self.count = count + 1
        self.order = order  # of the requests that were sent before it landed
        self.seconds = min(60.0, 5.0 * 2**count) * (1 - 0.02 * jitter)
        self.began = now

    @property
    def is_refusal(self) -> bool:
        return isinstance(self.error, AccessDenied | SecretNotFound)


class Attempt:
    """One fetch."""

    def __init__(self, number: int, key: str, call: Call, now: Instant, seconds: float) -> None:
        self.number = number
        self.key = key
        self.call = call
        self.began = now
        self.seconds = seconds
        self.max_wait = REFRESH_SECONDS
        self.publication = 0.0  # seconds that it takes, once it has landed
        self.outer: Attempt | None = None  # that needs this one's value
        self.has_thread = True  # of its own
        self.has_fallback = False  # those who started it had a usable value
        self.offered: tuple[float, float] | None = None  # when, and of which age; for ever if it is not kept
        self.is_beside = False  # whether an extension refreshed what was due, when this was offered
        self.is_left = False  # by those whom its offer wakes: they start another
        self.until = 0.0  # when those for whom what it offered is overdue go on
        self.is_trial = False
        self.order = 0
        self.keeps = True
        self.value: Value | None = None
        self.error: CerberusError | None = None
        self.is_over = False  # the fetch has ended
        self.is_frozen = self.is_outage = False  # so it has landed
        self.landed: float | None = None  # the cache has taken note of it
        self.is_current = True
        self.is_displaced = False  # abandoned, and seen to be
        self.is_forgotten = False
        self.is_lost = False  # the service's answer will never come: frozen in mid-request


class Call:
    """One ``get``, and the state of things when it began."""

    def __init__(self, machine: Keeping, key: str, timeout: float, ages: Ages | None = None, **is_so: bool) -> None:
        self.key = key
        self.timeout = timeout
        self.ages = ages
        self.is_eager = is_so.get("is_eager", False)  # fresh=True
        self.is_alone = is_so.get("is_alone", False)  # max_age=0
        self.is_renewing = is_so.get("is_renewing", False)
        self.ahead = 0.0
        self.tried: set[str] = set()  # keys
        self.began = machine.now
        self.order = machine.order
        self.in_vain = machine.in_vain
        self.is_closed = machine.outage is None  # the breaker
        self.attempts = 0
        self.most = timeout  # seconds that it may last
        self.flight: Attempt | None = None  # that it waits for, where the model says exactly how long
        self.wait = 0.0
        self.is_starter = False
        self.has_fallback = False
        self.has_lost = False  # what was kept
        self.value: str | None = None
        self.error: CerberusError | None = None

    @property
    def is_done(self) -> bool:
        return self.value is not None or self.error is not None

    def may_take_its_time(self) -> None:
        self.most, self.wait = self.timeout, FOREVER
        self.has_lost = self.has_lost or self.has_fallback or bool(self.flight and self.flight.offered)

    def limits(self, key: str) -> Ages:
        """The ages that count for it."""
        fresh, due, gone = self.ages or OWN[key]
        return fresh - min(self.ahead, due / 2), due, gone


class Keeping(RuleBasedStateMachine):
    """A warm container: its tokens and its secrets, with one breaker."""

    edit: Edit | None = None

    def __init__(self) -> None:
        super().__init__()
        self.violations: list[str] = []
        self.calls: list[Call] = []
        self.errors: list[CerberusError] = []  # kept, so that no two have one id
        # The service
        self.modes: dict[str, str] = {}
        self.latency = 0.1
        self.retry_after = 0.0
        self.publication = 0.0
        self.offer = 0.0  # the age of what a flight offers to fall back on, as a fleet's table does
        self.unpublished = 0
        self.trouble = 0.0  # when the service last failed somebody, by the monotonic clock
        # The model
        self.order = 0
        self.stacks: dict[Any, list[Attempt]] = {}  # under way, by the task that makes them
        self.attempts: dict[str, list[Attempt]] = {key: [] for key in OWN}
        self.in_vain = 0
        self.held: dict[str, Value] = {}
        self.rejected: set[str] = set()  # names of what was offered and may not be kept
        self.memory: dict[str, Memory] = {}
        self.frozen: set[str] = set()
        self.outage: CerberusError | None = None
        self.pause: tuple[Instant, float] = ((0.0, 0.0), 0.0)
        self.count = 0
        self.trial: Attempt | None = None
        self.paths: set[str] = set()
        self.is_slow = False
        self.since = 0.0  # when it started anew, by the monotonic clock
        self.is_beside = False

    @initialize(
        seed=st.integers(0, 1000),
        jitter=st.sampled_from([0.0, 0.5, 0.99]),
        is_nested=st.booleans(),
        capacity=st.sampled_from([FOREVER, FOREVER, 2.5 * SIZE]),
    )
    def start(self, seed: int = 0, jitter: float = 0.5, is_nested: bool = False, capacity: float = FOREVER) -> None:
        self.jitter = jitter
        self.is_nested = is_nested  # a secret needs the token
        self.capacity = capacity
        self.scheduler = Scheduler(random.Random(seed).randrange)
        self.scheduler.on_set = self.landed
        self.modules = modules = load(self.edit)
        modules.deadline.time = self.scheduler.time
        for module in (modules.flight, modules.breaker, modules.cache):
            module.threading = self.scheduler.threading
        modules.breaker.jitter = modules.cache.jitter = lambda: self.jitter
        self.breaker = modules.breaker.Breaker()
        seconds = {"timeout": TIMEOUT, "attempt_seconds": ATTEMPT_SECONDS}
        self.tokens = modules.cache.Cache(self.breaker, **seconds)
        self.secrets = modules.cache.Cache(self.breaker, capacity=capacity, **seconds)
        for cache in (self.tokens, self.secrets):
            cache.get = self.observed(cache.get)

    def observed(self, get: Callable[..., Any]) -> Callable[..., Any]:
        """Whoever calls: an extension, and a flight that needs a token, too."""

        def observing(key: str, *positional: Any, within: Any = None, **named: Any) -> Any:
            kept = get(key, *positional, within=within, **named)
            outer = self.stacks[self.scheduler.current][-1] if within is not None else None
            self.returned(key, CALL.get(), outer)
            return kept

        return observing

    def cache(self, key: str) -> Any:
        return self.tokens if key == TOKEN else self.secrets

    # The clocks

    @property
    def now(self) -> Instant:
        return self.scheduler.monotonic, self.scheduler.wall

    def age(self, moment: Instant) -> float:
        """By the clock that counted more."""
        return max(self.now[0] - moment[0], self.now[1] - moment[1])

    # What the model says

    def stage(self, key: str, call: Call) -> int:
        held = self.held.get(key)
        if held is None:
            return GONE
        if call.is_eager and key == call.key:
            return FRESH if held.order > call.order else GONE
        return sum(self.age(held.asked) >= age for age in call.limits(key))

    def remembers(self, key: str) -> bool:
        memory = self.memory.get(key)
        return memory is not None and self.age(memory.began) < memory.seconds

    def is_abandoned(self, attempt: Attempt) -> bool:
        return self.age(attempt.began) > attempt.seconds + 1

    def flight(self, key: str) -> Attempt | None:
        """The one that callers may wait for."""
        found = [each for each in self.attempts[key] if each.is_current and not self.is_abandoned(each)]
        return found[0] if found else None

    @property
    def abandoned(self) -> int:
        """Threads that do not end, tokens' and secrets' together."""
        return sum(each.is_displaced and each.has_thread for attempts in self.attempts.values() for each in attempts)

    @property
    def has_failed(self) -> bool:
        return self.outage is not None or self.is_slow

    def returned(self, key: str, call: Call, outer: Attempt | None = None) -> None:
        """Somebody goes on with a value. If the flight that they started is under way, they have waited in vain."""
        for each in self.attempts[key]:
            is_own = (
                each.call is call and each.outer is outer and each.is_current and not self.is_served_at_once(key, call)
            )
            if is_own and PROBE_SECONDS <= self.age(each.began) <= each.seconds:
                self.is_slow = True

    def is_served_at_once(self, key: str, call: Call) -> bool:
        """Whether what is held now serves without a refresh; it can have been offered."""
        stage = self.stage(key, call)
        return stage == FRESH or (stage == DUE and self.is_beside and not call.is_renewing)

    def displace(self, key: str) -> None:
        """Somebody who needs a flight sees that the one under way is abandoned."""
        for each in self.attempts[key]:
            if each.is_current and self.is_abandoned(each):
                each.is_current, each.is_displaced = False, True
                self.frozen.add(key)

    def is_paused(self) -> bool:
        return self.outage is not None and self.age(self.pause[0]) < self.pause[1]

    def is_open(self) -> bool:
        trying = self.trial is not None and not self.trial.is_over and not self.is_abandoned(self.trial)
        return self.outage is not None and (self.is_paused() or trying)

    def is_outage(self, error: CerberusError) -> bool:
        reached = isinstance(error, CerberusUnavailable | BlockedAtEdge | DeadlineExceeded)
        return reached and error.step in ("read", "auth request")

    def fails(self, error: CerberusError, attempt: Attempt) -> bool:
        """The breaker hears of a failure: whether the service is out of reach."""
        key = attempt.key
        if not self.is_outage(error):
            return False
        if attempt.began[0] < self.since:  # it says nothing of the time since
            return True
        if self.outage is None and error.step == "read" and error.status >= 500:
            self.paths.add(key)
            if len(self.paths) == 1:
                return False
        if not self.is_paused():
            wanted = 60.0 if isinstance(error, BlockedAtEdge) else error.retry_after
            seconds = min(30.0, 3.0**self.count) * (1 - 0.05 * self.jitter)
            self.pause = self.now, max(seconds, wanted)
            self.count += 1
        self.outage = self.outage or error
        self.trial = None
        return True

    def answers(self) -> None:
        """The service, itself."""
        self.breaker.answered()
        self.outage = self.trial = None
        self.count = 0
        self.paths.clear()
        self.is_slow = False

    def claim(self, holds: bool, text: str) -> None:
        """Heard after the step: within the threads, an exception would be the cache's to catch."""
        if not holds:
            self.violations.append(text)

    # The service

    def fetch(self, key: str, outer: Attempt | None = None, keeps: bool = True) -> Callable[[Any], Any]:
        return lambda flight: self.attempt(flight, key, outer, keeps)

    def attempt(self, flight: Any, key: str, outer: Attempt | None, keeps: bool) -> Any:
        call = CALL.get(None)
        if call is None:
            self.violations.append("the flight does not carry its starter's context variables")
            raise CerberusError("no context")
        now, seconds = self.now, flight.deadline.remaining()
        if keeps:
            self.displace(key)
        attempt = Attempt(len(self.attempts[key]), key, call, now, seconds)
        stage = self.stage(key, call)
        is_usable = stage < GONE and keeps
        is_within = outer is not None and not is_usable
        memory = self.memory.get(key)
        is_refusal = memory is not None and memory.is_refusal
        call.attempts += 1
        attempt.outer, attempt.has_thread, attempt.has_fallback = outer, not is_within, is_usable
        attempt.max_wait = PROBE_SECONDS if memory or self.has_failed else REFRESH_SECONDS
        if key in self.frozen:
            attempt.max_wait = ATTEMPT_SECONDS
        # Each fetch has a reason: together these bound their number by lifetimes elapsed, and failures as often as
        # their pauses allow.
        is_eager = call.is_eager and key == call.key
        self.claim(not keeps or self.flight(key) is None, "two flights for one key")
        self.claim(not keeps or stage > FRESH, "fetched while a fresh value was held")
        is_vain = call.is_renewing and self.has_failed and self.age(call.began) >= PROBE_SECONDS
        self.claim(
            outer is not None or not is_vain or key in call.tried, "an extension refreshes on after a wait in vain"
        )
        call.tried.add(key)
        if self.is_beside and not call.is_renewing and keeps and outer is None:
            self.claim(stage != DUE, "refreshed in line beside an extension")
        may_try = is_refusal and (is_eager or not keeps)
        self.claim(not self.remembers(key) or may_try, "fetched while a failure is remembered")
        self.claim(is_within or self.abandoned < MOST_ABANDONED, "too many threads that do not end")
        allowed = flight.deadline.attempts
        expected = 1 if is_usable or memory is not None else None
        if outer is None:
            self.claim(not self.is_open(), "fetched while the breaker was open")
            if self.outage is not None:
                self.trial, expected = attempt, 1
        elif is_within:
            expected = expected or (outer.call.attempts and allowed)
            self.claim(seconds <= outer.seconds - (now[0] - outer.began[0]) + MOMENT, "outlasts the flight it is for")
        if not is_within:
            least = call.timeout if call.is_alone else max(TIMEOUT, call.timeout - (now[0] - call.began[0]))
            self.claim(outer is not None or abs(seconds - least) < MOMENT, "took more or less time than a flight has")
        self.claim(allowed == expected, "made more or fewer attempts")
        attempt.is_trial = self.trial is attempt or (outer is not None and outer.is_trial)
        attempt.keeps = attempt.is_current = keeps
        self.attempts[key].append(attempt)
        self.stacks.setdefault(self.scheduler.current, []).append(attempt)
        try:
            attempt.value = self.answer(attempt, flight)
        except CerberusError as error:
            attempt.error = error
            raise
        except ValueError:
            attempt.error = CerberusError("Unexpected ValueError in a request. Report it as a defect.")
            raise
        finally:
            attempt.is_over = True
        if self.publication and outer is None:
            self.unpublished += 1
            attempt.publication = seconds = self.publication
            flight.publications.append(lambda: self.publish(seconds))
        moment = self.modules.deadline.Moment()
        moment.monotonic, moment.wall = attempt.value.asked
        lifetime = self.modules.kept.Lifetime(*OWN[key])
        return self.modules.kept.Kept(attempt.value.name, moment, lifetime, SIZE)

    def answer(self, attempt: Attempt, flight: Any) -> Value:
        key = attempt.key
        if self.is_nested and key != TOKEN:
            call, had = attempt.call, attempt.call.attempts
            joins = self.flight(TOKEN) is not None
            try:
                self.tokens.get(TOKEN, self.fetch(TOKEN, attempt), flight.deadline, within=flight)
            except CerberusError:
                may_fail = joins or self.remembers(TOKEN)
                self.claim(call.attempts > had or may_fail, "no token was fetched for a flight under way")
                raise
        if attempt.keeps and (age := self.offer):
            self.scheduler.wait(lambda: False, min(OFFERED_AFTER, max(0.0, flight.deadline.remaining())))
            self.offers(attempt, flight, age)
        self.order += 1
        attempt.order, asked = self.order, self.now
        unique = self.order * 1e-6  # no two things happen at the same moment
        step = "auth request" if key == TOKEN else "read"

        def failed(error: CerberusError, at: str = step) -> CerberusError:
            error.step = at
            return error

        left = flight.deadline.remaining()
        self.scheduler.wait(lambda: attempt.is_lost, max(0.0, min(self.latency, left)) + unique)
        mode, number = self.modes.get(key, "ok"), attempt.order
        thread = attempt if attempt.has_thread or attempt.outer is None else attempt.outer
        if (
            mode == "stuck" and thread.keeps
        ):  # in a name look-up, which has a thread of its own where the caller fetches
            self.scheduler.wait(lambda: self.modes.get(key) != "stuck")
            self.scheduler.wait(lambda: False, unique)
            raise failed(CerberusUnavailable(f"stuck {number}"))
        if mode in ("hang", "stuck", "kms hang") or attempt.is_lost or self.latency > left:
            self.scheduler.wait(lambda: False, max(0.0, flight.deadline.remaining()) + unique)
            raise failed(DeadlineExceeded(f"over {number}"), "kms:Decrypt" if mode == "kms hang" else step)
        if mode == "ok":
            self.answers()
            return Value(f"{key}-{attempt.order}", attempt.order, asked, OWN[key])
        if mode in ("denied", "missing") and key != TOKEN:
            self.answers()
            raise failed((AccessDenied if mode == "denied" else SecretNotFound)(f"{mode} {number}"))
        if mode == "defect":
            raise ValueError(number)
        errors: dict[str, CerberusError] = {
            "unreached": CerberusUnavailable(f"unreached {number}"),
            "busy": CerberusUnavailable(f"busy {number}", status=429, retry_after=self.retry_after),
            "failing": CerberusUnavailable(f"failing {number}", status=500),
            "edge": BlockedAtEdge(f"edge {number}"),
        }
        if mode in errors:
            raise failed(errors[mode])
        if mode == "kms":
            raise failed(DecryptionDenied(f"kms {number}"), "kms:Decrypt")
        if mode == "kms down":
            raise failed(CerberusUnavailable(f"kms down {number}", status=503), "kms:Decrypt")
        raise failed(InvalidResponse(f"{mode} {number}"))

    def offers(self, attempt: Attempt, flight: Any, age: float) -> None:
        key, held, memory = attempt.key, self.held.get(attempt.key), self.memory.get(attempt.key)
        asked = self.now[0] - age, self.now[1] - age
        order = (held.order if held else -1) + 0.5
        if held is not None and held.asked[0] >= asked[0]:
            return
        moment = self.modules.deadline.Moment()
        moment.monotonic, moment.wall = asked
        lifetime = self.modules.kept.Lifetime(*OWN[key])
        attempt.is_left = attempt.is_forgotten or self.is_abandoned(attempt)
        flight.offer(self.modules.kept.Kept(f"{key}-{order}", moment, lifetime, SIZE))
        self.claim(flight.deadline.attempts == 1, "several attempts though there is a value to fall back on")
        if attempt.is_forgotten or (memory is not None and memory.is_refusal and asked[0] < memory.began[0]):
            attempt.offered = self.now[0], FOREVER
            self.rejected.add(f"{key}-{order}")
            return
        self.rejected.discard(f"{key}-{order}")
        attempt.offered = self.now[0], age
        attempt.is_beside = self.is_beside
        is_waited_for = attempt.is_trial or not self.is_open()
        seconds = attempt.max_wait - self.age(attempt.began) if is_waited_for else 0
        attempt.until = self.now[0] + max(0.0, seconds)
        self.memory.pop(key, None)
        self.keep(key, Value(f"{key}-{order}", order, asked, OWN[key]))

    def publish(self, seconds: float) -> None:
        self.unpublished -= 1
        self.scheduler.wait(lambda: False, seconds)

    def landed(self) -> None:
        """The thread that runs has made a fetch, and the cache has taken note of it."""
        stack = self.stacks.get(self.scheduler.current)
        if stack and stack[-1].is_over:
            self.note(stack.pop())

    def note(self, attempt: Attempt) -> None:
        key, value, error = attempt.key, attempt.value, attempt.error
        is_frozen, was_current = self.is_abandoned(attempt), attempt.is_current
        if error is not None:
            self.in_vain += 1
            self.trouble = self.now[0]
        is_outage = error is not None and not is_frozen and self.fails(error, attempt)
        if self.trial is attempt:
            self.trial = None
        self.attempts[key] = [each for each in self.attempts[key] if each is not attempt]
        attempt.landed, attempt.is_current, attempt.is_displaced = self.now[0], False, False
        attempt.is_frozen, attempt.is_outage = is_frozen, is_outage
        if was_current:
            (self.frozen.add if is_frozen else self.frozen.discard)(key)
        if attempt.is_forgotten:
            self.in_vain += 1
            return
        held, memory = self.held.get(key), self.memory.get(key)
        if value is not None:
            if memory is not None and memory.is_refusal and attempt.order <= memory.order and attempt.keeps:
                return  # asked before it was refused
            self.memory.pop(key, None)
            if attempt.keeps and (held is None or held.asked[0] <= value.asked[0]):
                self.keep(key, value)
        elif error is not None and not (is_frozen or is_outage or isinstance(error, DeadlineExceeded)):
            self.memory[key] = Memory(error, memory.count if memory else 0, self.order, self.now, self.jitter)
            if isinstance(error, AccessDenied | SecretNotFound):
                self.held.pop(key, None)

    def keep(self, key: str, value: Value) -> None:
        self.held[key] = value
        value.used = self.now[0]
        self.frozen.discard(key)
        kept = [each for each in SECRETS if each in self.held]
        if key != TOKEN and len(kept) * SIZE > self.capacity:
            evicted = min(kept, key=lambda each: self.held[each].used)
            del self.held[evicted]
            for call in self.calls:
                if call.key == evicted:
                    call.may_take_its_time()

    # Calls

    def spawn(self, call: Call) -> Call:
        self.calls = [each for each in self.calls if not each.is_done] + [call]

        def work() -> None:
            CALL.set(call)
            deadline = self.modules.deadline.Deadline(call.timeout)
            began = self.modules.deadline.Moment()
            accepts = (lambda kept: not kept.asked.is_before(began)) if call.is_eager else None
            cache, lifetime = self.cache(call.key), None
            if call.ages is not None:
                lifetime = self.modules.kept.Lifetime(*call.ages)
            try:
                if call.is_alone:
                    kept = cache.get_alone(call.key, self.fetch(call.key, keeps=False), deadline)
                else:
                    kept = cache.get(call.key, self.fetch(call.key), deadline, lifetime=lifetime, accepts=accepts)
                    kept.used = began.monotonic
                    for value in self.held.values():
                        value.used = call.began[0] if value.name == kept.value else value.used
                call.value = kept.value
                held = self.held.get(call.key)
                if held is not None and held.name == kept.value:  # what the warm path sees
                    is_fresh = self.age(held.asked) < held.ages[0]
                    looks_fresh = self.now[0] < kept.fresh and self.now[1] < kept.fresh_wall
                    self.claim(looks_fresh == is_fresh, "fresh, or not, to those who look without a lock")
            except CerberusError as error:
                call.error = error
            self.judge(call)

        self.in_context(work)
        return call

    def in_context(self, work: Callable[[], object]) -> None:
        from contextvars import copy_context

        self.scheduler.spawn(lambda: copy_context().run(work))

    def judge(self, call: Call) -> None:
        """At the moment when it has ended, in its own thread."""
        lasted = self.now[0] - call.began[0]
        held, stage = self.held.get(call.key), self.stage(call.key, call)
        if stage == GONE:  # in the meantime: it waits for its own time
            call.most, call.wait = call.timeout, FOREVER
        most = max(0.0, call.most) if self.scheduler.can_start else FOREVER
        self.claim(lasted <= most + MOMENT, "waited longer than it may")
        flight = call.flight
        if flight is not None and not self.is_left(flight, call):
            landed = flight.landed - call.began[0] if flight.landed is not None else FOREVER
            waits = min(call.wait, max(0.0, call.timeout))
            if flight.offered and not (call.has_fallback or call.is_eager):
                moment, age = flight.offered
                stage_then = sum(age >= limit for limit in call.limits(call.key))
                is_at_once = not call.is_starter or (flight.is_beside and not call.is_renewing)
                if stage_then == FRESH or (stage_then == DUE and is_at_once):
                    waits = min(waits, max(0.0, moment - call.began[0]))
                elif stage_then == DUE:
                    refreshed = flight.began[0] + min(REFRESH_SECONDS, flight.max_wait)
                    waits = min(waits, max(moment, refreshed) - call.began[0])
                elif stage_then == OVERDUE and call.value is not None:
                    waits = min(waits, flight.until - call.began[0])
            if call.wait == FOREVER and self.says_nothing(flight, call):
                has_time, is_numbered = lasted < call.timeout - MOMENT, str(flight.error).endswith(f" {flight.order}")
                failed = call.error == flight.error and is_numbered and not flight.is_outage
                self.claim(not (failed and has_time), "failed with a flight that says nothing, in spite of more time")
            elif flight.error is not None or landed >= waits:
                self.claim(abs(lasted - min(landed, waits)) < MOMENT, "waited more or less than it should")
            elif call.value == (flight.value and flight.value.name):
                published = min(flight.publication, PROBE_SECONDS) if call.is_starter else 0
                ended = min(landed + published, max(landed, call.timeout))
                self.claim(abs(lasted - ended) < MOMENT, "waited more or less than for the flight and its publication")
        if call.value is not None:
            name, _, order = call.value.partition("-")
            self.claim(name == call.key, "the value of another key")
            self.claim(call.value not in self.rejected, "a value that was offered and may not be kept")
            if call.is_alone:
                self.claim(float(order) > call.order, "an old value though it was to be asked for")
                return
            if call.is_eager:
                self.claim(float(order) > call.order, "a value from before the call")
                return
            if held is not None and call.value == held.name:
                self.claim(stage < GONE or float(order) > call.order, "a value that is gone")
            return
        error = call.error
        assert error is not None
        is_defect = type(error) is CerberusError and not str(error).startswith("Unexpected ValueError")
        self.claim(not is_defect, f"a defect: {error}")
        if not (call.is_eager or call.is_alone):
            self.claim(stage == GONE, "an error although a usable value was held")
        self.claim(not any(error is other for other in self.errors), "one error was raised to two callers")
        self.errors.append(error)
        # Available for so long that no pause lasts from before. A flight in vain costs one answer.
        in_vain = self.in_vain - call.in_vain
        is_available = (
            not any(mode != "ok" for mode in self.modes.values())
            and call.is_closed
            and self.abandoned < MOST_ABANDONED
            and call.began[0] - self.trouble > MAX_PAUSE
            and not any(each.is_lost for attempts in self.attempts.values() for each in attempts)
            and call.timeout > (4 + 2 * in_vain) * self.latency + MOMENT
        )
        self.claim(not is_available, "an available service gave no value")

    def is_left(self, flight: Attempt, call: Call) -> bool:
        """Whether a caller who waited for it may start another: it was frozen, or what was kept is gone."""
        brings_nothing = call.has_lost or flight.value is not None
        return (
            flight.is_left
            or (call.has_lost and flight.offered is not None)
            or (brings_nothing and self.is_abandoned(flight))
        )

    @staticmethod
    def says_nothing(flight: Attempt, call: Call) -> bool:
        """Whether a failure is no answer to a caller who has more time: of a frozen flight, or one with less time."""
        is_over = isinstance(flight.error, DeadlineExceeded) and not call.is_starter
        return flight.error is not None and (flight.is_frozen or is_over)

    def refusal(self, call: Call) -> CerberusError | None:
        """What keeps a call from starting a flight."""
        memory = self.memory.get(call.key)
        if memory is not None and self.remembers(call.key) and not (memory.is_refusal and self.is_trying_anew(call)):
            return memory.error
        if self.abandoned >= MOST_ABANDONED:
            return CerberusUnavailable("do not end")
        return self.outage if self.is_open() else None

    def is_trying_anew(self, call: Call) -> bool:
        return call.is_eager or call.is_alone

    @rule(
        key=st.sampled_from([TOKEN, "a", "a", "b", "c"]),
        timeout=st.sampled_from([TIMEOUT, TIMEOUT, TIMEOUT, 0.0, 0.05, 1.2, 3.0, 60.0]),
        lifetime=st.sampled_from(["own", "own", "short", "strict"]),
        is_eager=st.sampled_from([False, False, False, True]),
    )
    def call(self, key: str = "a", timeout: float = TIMEOUT, lifetime: str = "own", is_eager: bool = False) -> None:
        """While no other thread could run: the model says exactly what it does."""
        self.scheduler.advance(1e-6)  # so that no two uses are at one moment
        ages = LIFETIMES[lifetime] if key != TOKEN else None
        call = Call(self, key, timeout, ages, is_eager=is_eager)
        stage = self.stage(key, call)
        held = self.held[key].name if stage < GONE else None
        at_once = self.is_served_at_once(key, call)
        if not at_once:
            self.displace(key)
        flight, number, is_open = self.flight(key), self.order, self.is_open()
        refusal = self.refusal(call) if flight is None and not at_once else None
        memory, was_frozen = self.memory.get(key), key in self.frozen
        # After a failure its starter waits less, after a frozen flight as long as one attempt takes.
        max_wait = PROBE_SECONDS if memory or self.has_failed else REFRESH_SECONDS
        max_wait = ATTEMPT_SECONDS if was_frozen else max_wait
        if at_once or (refusal is not None and held):
            wait = 0.0
        elif stage == GONE:
            wait = FOREVER
        elif flight is None:
            wait = min(REFRESH_SECONDS, max_wait) if stage == DUE else max_wait
        elif stage == DUE or (is_open and not flight.is_trial):
            wait = 0.0
        else:
            wait = max(0.0, flight.max_wait - self.age(flight.began))
        if held and self.age(self.held[key].asked) + wait > call.limits(key)[2]:  # gone before that
            wait = FOREVER
        call.wait, call.has_fallback = wait, held is not None
        call.most = timeout if wait == FOREVER else min(max(0.0, timeout), wait + PROBE_SECONDS)
        if flight is not None and not at_once:
            call.flight = flight
        self.is_exact(call, key, flight, held, at_once, refusal, number)

    def is_exact(
        self,
        call: Call,
        key: str,
        flight: Attempt | None,
        held: str | None,
        at_once: bool,
        refusal: CerberusError | None,
        number: int,
    ) -> None:
        starts = flight is None and not at_once and refusal is None
        call.is_starter = starts
        before = call.attempts
        self.spawn(call)
        self.scheduler.run()
        began = call.attempts - before
        if at_once:
            self.claim((call.value, began) == (held, 0), "did not return a fresh value at once")
        elif flight is not None:
            self.claim(began == 0, "did not join the flight")
            if held is not None and not call.wait:
                self.claim(call.value == held, "did not return a usable value at once")
            elif call.timeout > 0 and flight.landed is None:
                self.claim(not call.is_done, "did not wait for the flight")
        elif refusal is not None:
            self.claim(began == 0, "fetched though it was not time")
            if held is not None:
                self.claim(call.value == held, "did not return a usable value though nothing could be fetched")
            else:
                self.claim(is_equal(call.error, refusal), "did not raise the failure at once")
        else:
            self.claim(began >= 1, "did not fetch though it was time")
            under_way = self.flight(key)
            if not call.is_done:
                call.flight = under_way
            elif under_way is not None:
                self.claim(min(call.wait, call.timeout) <= 0, "did not wait for the flight that it started")

    @rule(key=st.sampled_from([TOKEN, "a", "a", "b", "c"]), seconds=st.sampled_from([0.15, 0.15, 0.3, 4.1]))
    def call_and_land(self, key: str = "a", seconds: float = 0.15) -> None:
        self.call(key=key)
        self.pass_time(seconds=seconds)

    @rule(
        key=st.sampled_from([TOKEN, "a", "b"]),
        timeouts=st.lists(st.sampled_from([TIMEOUT, TIMEOUT, 0.05, 1.2, 3.0]), min_size=2, max_size=5),
        is_eager=st.booleans(),
    )
    def calls_at_once(self, key: str = "a", timeouts: Sequence[float] = (TIMEOUT,) * 3, is_eager: bool = False) -> None:
        self.scheduler.advance(1e-6)
        for timeout in timeouts:
            call = Call(self, key, timeout, is_eager=is_eager)
            if self.stage(key, call) > FRESH:
                self.displace(key)
            self.spawn(call)
        self.scheduler.run()

    @rule(key=st.sampled_from(SECRETS), timeout=st.sampled_from([TIMEOUT, 1.2, 3.0]))
    def alone(self, key: str = "a", timeout: float = TIMEOUT) -> None:
        """Joins nothing, keeps nothing, and is fetched in the caller's thread."""
        self.scheduler.advance(1e-6)
        call = Call(self, key, timeout, is_alone=True)
        refusal = self.refusal(call)
        self.spawn(call)
        self.scheduler.run()
        if refusal is not None:
            self.claim(call.attempts == 0 and is_equal(call.error, refusal), "asked though it was not time")
        else:
            self.claim(call.attempts >= 1, "did not ask")

    @rule(seconds=st.sampled_from([0.5, 5.0, 30.0]), ahead=st.sampled_from([0.0, 0.0, 5.0, 100.0, 4000.0]))
    def renew(self, seconds: float = 5.0, ahead: float = 0.0) -> None:
        self.scheduler.advance(1e-6)
        call = Call(self, SECRETS[0], seconds, is_renewing=True)
        call.ahead = ahead
        due = [key for key in self.held if key != TOKEN and FRESH < self.stage(key, call) < GONE]
        for key in due:
            call.key = key
            self.displace(key)
            if self.flight(key) is None and self.refusal(call) is None:
                break
        else:
            due = []
        waits = any(self.flight(key) and self.stage(key, call) > DUE for key in self.held)

        def work() -> None:
            CALL.set(call)
            try:
                self.secrets.renew(self.modules.deadline.Deadline(seconds), ahead)
            except CerberusError:
                self.violations.append("one failure keeps an extension from the others")

        self.in_context(work)
        self.scheduler.run()
        self.claim(waits or bool(call.attempts) == bool(due), "an extension refreshes what is due, and nothing else")

    @rule(is_beside=st.booleans())
    def extend(self, is_beside: bool = True) -> None:
        self.tokens.renewed_by_extension = self.secrets.renewed_by_extension = self.is_beside = is_beside

    @rule(closes=st.booleans())
    def forget(self, closes: bool = False) -> None:
        def work() -> None:
            self.tokens.forget()
            if closes:
                self.breaker.forget()
            self.secrets.forget()

        self.held.clear()
        self.memory.clear()
        if closes:
            self.close()
        for call in self.calls:
            call.may_take_its_time()
        for attempts in self.attempts.values():
            for each in attempts:
                each.is_forgotten = each.is_forgotten or each.keeps
                each.is_current = False
        self.scheduler.spawn(work)
        self.scheduler.run()

    # What becomes of the container

    def reset(self, jitter: float) -> None:
        self.jitter = jitter
        self.breaker.reset()
        self.tokens.reset()
        self.secrets.reset()
        self.is_beside = False
        self.memory.clear()
        self.frozen.clear()
        self.close()

    def close(self) -> None:
        """The breaker, for those who start from now on."""
        self.outage = self.trial = None
        self.count = 0
        self.paths.clear()
        self.is_slow, self.since = False, self.now[0]

    @rule(callers=st.integers(0, 4), turns=st.integers(0, 12), jitter=st.sampled_from([0.0, 0.5, 0.99]))
    def fork(self, callers: int = 0, turns: int = 0, jitter: float = 0.5) -> None:
        """We go on in the child, where the other threads, some in the middle of things, are no more."""
        self.scheduler.advance(1e-6)
        for _ in range(callers):
            self.spawn(Call(self, "a", TIMEOUT))
        self.scheduler.run(turns)
        self.scheduler.forget()
        for attempts in self.attempts.values():
            attempts.clear()
        self.stacks.clear()
        self.unpublished = 0
        self.reset(jitter)

    @rule(jitter=st.sampled_from([0.0, 0.5, 0.99]))
    def restore(self, jitter: float = 0.5) -> None:
        """From a snapshot, whose threads go on."""
        self.forget(closes=True)
        for attempts in self.attempts.values():
            for attempt in attempts:
                attempt.is_displaced = False
        self.reset(jitter)

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 2.0, 4.1, 12.0, 60.0, 290.0, 4000.0]))
    def pass_time(self, seconds: float) -> None:
        self.scheduler.advance(seconds)

    @rule(seconds=st.sampled_from([0.3, 5.0, 60.0, 4000.0, 200_000.0]), loses=st.booleans())
    def freeze(self, seconds: float, loses: bool = False) -> None:
        """The monotonic clock stops, the wall clock goes on; connections may not outlast it."""
        self.move_wall_clock(seconds)
        for attempts in self.attempts.values():
            for attempt in attempts:
                attempt.is_lost = attempt.is_lost or loses
        self.scheduler.run()

    @rule(seconds=st.sampled_from([-4000.0, -5.0, 5.0, 4000.0]))
    def set_wall_clock(self, seconds: float) -> None:
        self.move_wall_clock(seconds)
        self.scheduler.run()

    def move_wall_clock(self, seconds: float) -> None:
        self.scheduler.wall += seconds
        for call in self.calls:
            if self.stage(call.key, call) == GONE:  # from now on
                call.may_take_its_time()

    @rule(
        what=st.sampled_from(["fresh", "due", "gone", "memory", "breaker", "flight"]),
        key=st.sampled_from([TOKEN, "a", "b"]),
        clock=st.sampled_from(["both", "monotonic", "wall"]),
        offset=st.sampled_from([-1.0, -0.01, 0.01]),
    )
    def go_to(self, what: str, key: str = "a", clock: str = "both", offset: float = 0.01) -> None:
        """To just before, or just after, one of the moments at which something changes."""
        held, memory, flight = self.held.get(key), self.memory.get(key), self.flight(key)
        moments: dict[str, tuple[Instant, float] | None] = {
            name: (held.asked, held.ages[number]) if held else None
            for number, name in enumerate(("fresh", "due", "gone"))
        }
        moments["memory"] = (memory.began, memory.seconds) if memory else None
        moments["breaker"] = self.pause if self.outage is not None else None
        moments["flight"] = (flight.began, flight.seconds + 1) if flight else None
        moment = moments[what]
        if moment is None:
            return
        number = clock == "wall"
        seconds = moment[0][number] + moment[1] + offset - self.now[number]
        if seconds <= 0:
            return
        if clock == "wall":
            self.move_wall_clock(seconds)
        else:
            self.scheduler.advance(seconds, wall=clock == "both")

    def exit(self) -> None:
        """The interpreter is about to: no thread can be started any more."""
        self.scheduler.can_start = False

    # What becomes of the service

    @rule(
        keys=st.sampled_from([(TOKEN, *SECRETS), (TOKEN,), ("a",), ("a", "b"), SECRETS]),
        mode=st.sampled_from(["ok", "ok", "ok", *MODES]),
        latency=st.sampled_from([0.1, 0.1, 0.1, 0.8, 2.5]),
        retry_after=st.sampled_from([0.0, 0.0, 20.0, 60.0]),
        publication=st.sampled_from([0.0, 0.0, 0.1, 3.0]),
        offer=st.sampled_from([0.0, 0.0, 290.0, 310.0]),
    )
    def change_service(
        self,
        keys: tuple[str, ...] = (TOKEN, *SECRETS),
        mode: str = "ok",
        latency: float = 0.1,
        retry_after: float = 0.0,
        publication: float = 0.0,
        offer: float = 0.0,
    ) -> None:
        self.trouble = self.now[0]
        self.modes |= dict.fromkeys(keys, mode)
        self.latency, self.retry_after, self.publication, self.offer = latency, retry_after, publication, offer
        self.scheduler.run()

    @invariant()
    def holds(self) -> None:
        if self.violations:
            raise RuleBroken(self.violations[0])

    def settle(self) -> None:
        """Whatever is under way comes to its end."""
        self.change_service(latency=self.latency)
        self.scheduler.advance(200)
        self.claim(not self.scheduler.alive, "somebody waits for ever")
        self.claim(not self.unpublished, "what was fetched was not published")
        self.holds()

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.scheduler.forget()


def is_equal(error: CerberusError | None, model: CerberusError) -> bool:
    return error == model or (type(error) is type(model) and str(model) in str(error))


class Refusing(RuleBasedStateMachine):
    """A container whose reads meet 401, and what it may do about that."""

    edit: Edit | None = None

    def __init__(self) -> None:
        super().__init__()
        self.violations: list[str] = []
        # The model
        self.known: set[str] = set()
        self.is_accepted = False
        self.count = 0
        self.pause: tuple[Instant, float] = ((0.0, 0.0), 0.0)
        self.others: tuple[Instant, float] = ((0.0, 0.0), 0.0)
        self.under_way = 0
        self.tokens = 1
        self.useless = 0

    @initialize()
    def start(self) -> None:
        self.scheduler = Scheduler(lambda number: 0)
        self.modules = modules = load(self.edit)
        modules.deadline.time = self.scheduler.time
        self.limit = modules.auth.ReauthenticationLimit()

    @property
    def now(self) -> Instant:
        return self.scheduler.monotonic, self.scheduler.wall

    def lasts(self, pause: tuple[Instant, float]) -> bool:
        return max(self.now[0] - pause[0][0], self.now[1] - pause[0][1]) < pause[1]

    def token(self) -> Any:
        lifetime = self.modules.kept.Lifetime(*OWN[TOKEN])
        return self.modules.kept.Kept(f"token-{self.tokens}", self.modules.deadline.Moment(), lifetime)

    def claim(self, holds: bool, text: str) -> None:
        if not holds:
            self.violations.append(text)

    @rule(path=st.sampled_from(SECRETS))
    def read(self, path: str = "a") -> None:
        """The service answers."""
        self.limit.record_accepted(path)
        self.known.add(path)
        self.is_accepted, self.count, self.pause = True, 0, ((0.0, 0.0), 0.0)

    @rule(path=st.sampled_from(SECRETS), is_trial=st.sampled_from([False, False, False, True]))
    def meet_401(self, path: str = "a", is_trial: bool = False) -> None:
        """It ends in one authentication at most, which others join."""
        counts = self.pause if path in self.known or not self.is_accepted else self.others
        may = bool(self.under_way) or is_trial or not self.lasts(counts)
        is_allowed = self.limit.may_authenticate(path, is_trial)
        self.claim(is_allowed == may, "authenticated too often" if is_allowed else "did not authenticate")
        if not may:
            return
        if not self.under_way and not is_trial:
            self.others = self.now, 300.0
        self.under_way += 1

    @precondition(lambda self: self.under_way)
    @rule(outcome=st.sampled_from(["helps", "refused", "refused", "same", "fails"]), path=st.sampled_from(SECRETS))
    def authenticate(self, outcome: str = "helps", path: str = "a") -> None:
        """One of those who authenticate, or wait for that, goes on."""
        if outcome in ("helps", "refused"):
            self.tokens += 1
            self.limit.record_renewed(after_401=True)
        elif outcome == "same":
            self.refuse()
        self.limit.record_finished()
        self.under_way -= 1
        if outcome == "helps":
            self.read(path)
        elif outcome == "refused":
            self.refuse()

    @rule()
    def refuse(self) -> None:
        """A token in place of a refused one is refused; once more perhaps, since several callers had it."""
        self.limit.record_useless(self.token())
        if self.tokens != self.useless:
            self.useless = self.tokens
            self.pause = self.now, min(60.0, 5.0 * 2**self.count) * 0.98
            self.count += 1

    @rule()
    def renew(self) -> None:
        """On time, and so accepted by nothing yet."""
        self.tokens += 1
        self.limit.record_renewed(after_401=False)
        self.is_accepted = False

    @rule()
    def fork(self) -> None:
        self.limit.reset()
        self.is_accepted, self.count, self.useless, self.under_way = False, 0, 0, 0
        self.pause = self.others = (0.0, 0.0), 0.0

    @rule(seconds=st.sampled_from([0.01, 1.0, 5.0, 60.0, 300.0]), clock=st.sampled_from(["both", "both", "wall"]))
    def pass_time(self, seconds: float, clock: str = "both") -> None:
        self.scheduler.wall += seconds
        self.scheduler.monotonic += seconds if clock == "both" else 0

    @rule(
        what=st.sampled_from(["pause", "others"]),
        offset=st.sampled_from([-0.01, 0.01]),
        clock=st.sampled_from(["both", "wall"]),
    )
    def go_to(self, what: str, offset: float = 0.01, clock: str = "both") -> None:
        began, lasts = self.pause if what == "pause" else self.others
        seconds = min(began[0] + lasts - self.now[0], began[1] + lasts - self.now[1]) + offset
        if seconds > 0:
            self.pass_time(seconds, clock)

    @invariant()
    def holds(self) -> None:
        if self.violations:
            raise RuleBroken(self.violations[0])

    def settle(self) -> None:
        self.holds()


def in_short(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        report_multiple_bugs=False,
    )


Keeping.TestCase.settings = in_short(400, 40)
Refusing.TestCase.settings = in_short(100, 50)
TestKeeping = Keeping.TestCase
TestRefusing = Refusing.TestCase
