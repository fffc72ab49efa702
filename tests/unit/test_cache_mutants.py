"""The model can see: each rule of what is kept taken away in turn, and each time the model misses it.

A script reads as Hypothesis prints a failure: steps of the state machine, with their arguments. The code itself passes all.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from unit.modules import Edit
from unit.test_cache_properties import SECRETS, SIZE, TOKEN, Keeping, Refusing, RuleBroken

LANDED = 0.15  # a flight of a service in order has landed
FAILED = 1.2  # a flight has landed, and the breaker's first pause is over
OVERDUE = 301.0


class Steps:
    """The rules of a machine, each followed by its invariant."""

    def __init__(self, machine: Keeping | Refusing) -> None:
        self._machine = machine

    def __getattr__(self, rule: str) -> Callable[..., None]:
        def step(**arguments: object) -> None:
            getattr(self._machine, rule)(**arguments)
            self._machine.holds()

        return step


Script = Callable[[Steps], None]


def run(script: Script, edit: Edit | None = None) -> None:
    name = script.__name__
    machine: Keeping | Refusing
    if name.startswith("refused"):
        machine = Refusing()
        machine.edit = edit
        machine.start()
    else:
        machine = Keeping()
        machine.edit = edit
        machine.start(is_nested=name.startswith("nested"), capacity=2.5 * SIZE)
    try:
        script(Steps(machine))
        machine.settle()
    finally:
        machine.scheduler.forget()


def kept(state: Steps, key: str = "a") -> None:
    state.call(key=key)
    state.pass_time(seconds=LANDED)


def overdue(state: Steps, key: str = "a") -> None:
    """A value that is, and a service that fails."""
    kept(state, key)
    state.go_to(what="due", key=key)


# The stages of a value


def stages(state: Steps) -> None:
    for key in (TOKEN, "a"):
        for clock in ("monotonic", "wall", "both"):
            for what in ("fresh", "due", "gone"):
                kept(state, key)
                state.go_to(what=what, key=key, clock=clock, offset=-0.01)
                state.call(key=key, timeout=3.0)
                state.go_to(what=what, key=key, clock=clock, offset=0.01)
                state.call(key=key, timeout=3.0)
                state.pass_time(seconds=LANDED)


def gone_in_an_outage(state: Steps) -> None:
    for key in (TOKEN, "a"):
        for clock in ("monotonic", "wall"):
            kept(state, key)
            state.change_service(mode="kms")
            state.go_to(what="gone", key=key, clock=clock)
            state.call(key=key)
            state.pass_time(seconds=60.0)
            state.change_service()
            state.pass_time(seconds=60.0)


def warm_path(state: Steps) -> None:
    for clock in ("monotonic", "wall"):
        state.change_service(latency=2.5)
        state.call()
        state.pass_time(seconds=4.1)
        state.go_to(what="fresh", clock=clock)
        state.call()
        state.call()
        state.pass_time(seconds=4.1)


def ages_of_the_caller(state: Steps) -> None:
    kept(state)
    state.pass_time(seconds=12.0)
    state.call()
    state.call(lifetime="short")
    state.pass_time(seconds=12.0)
    state.change_service(mode="unreached")
    state.call(lifetime="strict")
    state.pass_time(seconds=LANDED)


def slow_answer(state: Steps) -> None:
    """Age counts from before the request."""
    state.change_service(latency=2.5)
    state.call()
    state.pass_time(seconds=4.1)
    state.go_to(what="fresh")
    state.call()


# Who waits how long


def due_and_slow(state: Steps) -> None:
    kept(state)
    state.change_service(latency=2.5)
    state.go_to(what="fresh")
    state.call()
    state.call()
    state.calls_at_once()
    state.pass_time(seconds=4.1)
    state.call()


def due_and_in_a_hurry(state: Steps) -> None:
    kept(state)
    state.change_service(latency=2.5)
    state.go_to(what="fresh")
    state.call(timeout=0.05)
    state.pass_time(seconds=4.1)


def due_after_a_failure(state: Steps) -> None:
    kept(state)
    state.go_to(what="fresh")
    state.change_service(mode="kms")
    state.call()
    state.pass_time(seconds=LANDED)
    state.call()
    state.pass_time(seconds=12.0)
    state.change_service(latency=0.8)
    state.call()
    state.pass_time(seconds=1.0)
    state.go_to(what="fresh")
    state.call()


def due_in_an_outage(state: Steps) -> None:
    kept(state)
    state.go_to(what="fresh")
    state.change_service(mode="unreached")
    state.call()
    state.pass_time(seconds=LANDED)
    state.call()
    state.change_service(latency=0.8)
    state.pass_time(seconds=FAILED)
    state.call()
    state.call()
    state.pass_time(seconds=FAILED)


def due_after_a_wait_in_vain(state: Steps) -> None:
    """Once is enough: until the service answers, nobody waits for long."""
    for key in ("a", "b"):
        kept(state, key)
    state.go_to(what="fresh", key="b")
    state.change_service(latency=2.5)
    state.call()
    state.pass_time(seconds=2.1)
    state.call(key="b")
    state.pass_time(seconds=4.1)
    state.go_to(what="fresh")
    state.call()
    state.pass_time(seconds=4.1)


def due_and_a_caller_in_a_hurry(state: Steps) -> None:
    for key in ("a", "b"):
        kept(state, key)
    state.go_to(what="fresh", key="b")
    state.change_service(latency=0.8)
    state.call(timeout=0.05)
    state.pass_time(seconds=0.1)
    state.call(key="b")
    state.pass_time(seconds=4.1)


def due_after_a_wait_for_a_frozen_flight(state: Steps) -> None:
    """A frozen flight is no failure."""
    for key in ("a", "b"):
        kept(state, key)
    state.go_to(what="fresh", key="b")
    state.change_service(latency=2.5)
    state.call()
    state.freeze(seconds=60.0)
    state.pass_time(seconds=2.1)
    state.change_service(latency=0.8)
    state.call(key="b")
    state.pass_time(seconds=4.1)


def due_and_answered(state: Steps) -> None:
    for key in ("a", "b"):
        kept(state, key)
    state.change_service(latency=0.8, mode="kms", keys=("a",))
    state.go_to(what="fresh", key="b")
    state.call()
    state.pass_time(seconds=1.0)
    state.call(key="b")
    state.pass_time(seconds=4.1)


def overdue_and_slow(state: Steps) -> None:
    overdue(state)
    state.change_service(latency=2.5)
    state.call()
    state.pass_time(seconds=1.0)
    state.call()
    state.call(timeout=0.05)
    state.pass_time(seconds=0.99)
    state.call()
    state.pass_time(seconds=0.3)
    state.call()
    state.pass_time(seconds=4.1)


def overdue_in_an_outage(state: Steps) -> None:
    overdue(state)
    state.change_service(mode="unreached")
    state.call()
    state.pass_time(seconds=LANDED)
    for _ in range(3):
        state.call()
        state.go_to(what="breaker")
        state.change_service(mode="unreached", latency=0.8)
        state.call()
        state.call()
        state.pass_time(seconds=1.0)


def overdue_when_the_token_opens_the_breaker(state: Steps) -> None:
    """A read looks into the table after its token's authentication has failed, and finds an old value there."""
    state.start(is_nested=True)
    state.change_service(mode="unreached", latency=0.1, offer=310.0)
    state.call_and_land(key="a", seconds=4.1)


def overdue_beside_an_outage(state: Steps) -> None:
    """Another's failure opens the breaker while a flight is under way."""
    overdue(state)
    state.change_service(latency=2.5)
    state.call()
    state.change_service(latency=0.1, mode="unreached", keys=("b",))
    state.call(key="b")
    state.pass_time(seconds=LANDED)
    state.call()
    state.pass_time(seconds=4.1)


def overdue_after_a_frozen_flight(state: Steps) -> None:
    overdue(state)
    state.change_service(latency=2.5)
    state.call()
    state.freeze(seconds=60.0)
    state.call()
    state.pass_time(seconds=4.1)
    state.go_to(what="due")
    state.call()
    state.freeze(seconds=60.0, loses=True)
    state.pass_time(seconds=12.0)
    state.call()
    state.pass_time(seconds=4.1)


def overdue_after_a_frozen_flight_that_lands(state: Steps) -> None:
    overdue(state)
    state.change_service(latency=2.5)
    state.call()
    state.freeze(seconds=60.0)
    state.pass_time(seconds=4.1)
    state.go_to(what="due")
    state.call()
    state.pass_time(seconds=4.1)


def overdue_after_a_frozen_flight_and_a_failure(state: Steps) -> None:
    overdue(state)
    state.call()
    state.freeze(seconds=60.0, loses=True)
    state.change_service(mode="unreached")
    state.call()
    state.pass_time(seconds=FAILED)
    state.change_service(latency=0.8)
    state.call()
    state.pass_time(seconds=FAILED)


def gone(state: Steps) -> None:
    state.change_service(latency=2.5)
    state.call(timeout=1.2)
    state.call(timeout=3.0)
    state.call(timeout=0.05)
    state.calls_at_once()
    state.pass_time(seconds=4.1)
    state.call()


def gone_in_mid_wait(state: Steps) -> None:
    kept(state)
    state.change_service(latency=2.5)
    state.go_to(what="gone", offset=-1.0)
    state.call()
    state.pass_time(seconds=4.1)


def joined_with_more_time(state: Steps) -> None:
    state.change_service(mode="kms hang")
    state.call()
    state.call(timeout=60.0)
    state.pass_time(seconds=4.1)
    state.change_service()
    state.pass_time(seconds=12.0)


def patient_caller(state: Steps) -> None:
    state.change_service(mode="hang")
    state.call(timeout=60.0)
    state.pass_time(seconds=12.0)
    state.change_service(latency=0.8)
    state.call(timeout=3.0)


def publication(state: Steps) -> None:
    for seconds in (0.1, 3.0):
        state.change_service(publication=seconds)
        state.call()
        state.call()
        state.pass_time(seconds=4.1)
        state.go_to(what="fresh")
        state.call()
        state.pass_time(seconds=4.1)
        state.go_to(what="gone")


def publication_to_one_that_asks_alone(state: Steps) -> None:
    state.change_service(publication=3.0)
    state.alone(timeout=1.2)
    state.pass_time(seconds=4.1)


def offered(state: Steps) -> None:
    """A value to fall back on, as from a fleet's table."""
    for age in (290.0, 310.0):
        state.change_service(latency=2.5, offer=age)
        state.calls_at_once()
        state.call()
        state.pass_time(seconds=0.3)
        state.call()
        state.pass_time(seconds=12.0)
        state.forget()


def offered_beside_a_value(state: Steps) -> None:
    kept(state)
    state.go_to(what="due")
    state.pass_time(seconds=12.0)
    state.change_service(latency=0.8, offer=290.0)
    state.call()
    state.call()
    state.pass_time(seconds=4.1)


def offered_to_an_extension(state: Steps) -> None:
    state.change_service(mode="unreached", offer=290.0)
    state.call()
    state.pass_time(seconds=60.0)
    state.change_service()
    state.renew()
    state.pass_time(seconds=4.1)


def offered_and_forgotten(state: Steps) -> None:
    state.change_service(mode="unreached", offer=290.0)
    state.call(timeout=0.0)
    state.forget()
    state.pass_time(seconds=0.3)
    state.call()


def offered_and_refused(state: Steps) -> None:
    state.change_service(mode="denied")
    kept(state)
    state.pass_time(seconds=12.0)
    state.change_service(mode="unreached", offer=290.0)
    state.call()
    state.pass_time(seconds=4.1)
    state.call()


# Flights


def callers_at_once(state: Steps) -> None:
    for key in (TOKEN, "a"):
        for _ in range(6):
            state.calls_at_once(key=key, timeouts=[10.0] * 5)
            state.pass_time(seconds=LANDED)
            state.forget()


def two_keys(state: Steps) -> None:
    state.change_service(latency=2.5)
    for key in ("a", "b", TOKEN):
        state.call(key=key)
    state.pass_time(seconds=4.1)


def context_variables(state: Steps) -> None:
    state.call()


def frozen_flight(state: Steps) -> None:
    state.call()
    state.freeze(seconds=60.0, loses=True)
    state.call()


def stuck_flight(state: Steps) -> None:
    state.change_service(mode="stuck")
    state.call()
    state.go_to(what="flight", clock="monotonic", offset=-0.01)
    state.call()
    state.pass_time(seconds=0.3)
    state.call()


def frozen_flight_that_fails(state: Steps) -> None:
    for mode in ("unreached", "kms", "missing"):
        state.change_service(mode=mode)
        state.call()
        state.freeze(seconds=60.0)
        state.pass_time(seconds=LANDED)
        state.call()
        state.freeze(seconds=60.0)
        state.pass_time(seconds=LANDED)


def frozen_flight_that_fails_with_a_waiter(state: Steps) -> None:
    state.change_service(mode="kms", latency=0.8)
    state.call()
    state.call()
    state.freeze(seconds=60.0)
    state.pass_time(seconds=0.81)
    state.change_service()
    state.pass_time(seconds=4.1)


def overtaken_flight_that_lands_first(state: Steps) -> None:
    state.change_service(latency=2.5)
    state.call()
    state.freeze(seconds=60.0)
    state.pass_time(seconds=1.0)
    state.call()
    state.call(timeout=1.2)
    state.pass_time(seconds=1.6)
    state.call()


def overtaken_flight_that_lands_first_and_a_waiter(state: Steps) -> None:
    state.change_service(latency=2.5)
    state.call()
    state.freeze(seconds=60.0)
    state.pass_time(seconds=2.0)
    state.call(timeout=1.2)
    state.pass_time(seconds=1.6)


def overtaken_flight_that_lands_last(state: Steps) -> None:
    state.change_service(latency=2.5)
    state.call()
    state.freeze(seconds=60.0)
    state.change_service()
    state.call()
    state.pass_time(seconds=4.1)
    state.call()


def overtaken_flight_that_fails(state: Steps) -> None:
    state.change_service(latency=2.5, mode="kms")
    state.call()
    state.freeze(seconds=60.0)
    state.pass_time(seconds=1.0)
    state.call()
    state.pass_time(seconds=1.6)
    state.call()


def overtaken_flight_and_a_refusal(state: Steps) -> None:
    """What was asked before it was refused is not kept."""
    state.change_service(latency=2.5)
    state.call()
    state.freeze(seconds=60.0)
    state.change_service(mode="denied", latency=0.1)
    state.call()
    state.pass_time(seconds=LANDED)
    state.change_service()
    state.pass_time(seconds=4.1)
    state.call()


def abandoned_threads(state: Steps) -> None:
    state.change_service(mode="stuck")
    for key in (*SECRETS, "a", "b", "c"):
        state.call(key=key)
        state.pass_time(seconds=12.0)
    state.call()
    state.call(key=TOKEN)
    state.change_service()
    state.call()


def abandoned_threads_of_all(state: Steps) -> None:
    """They are counted for each service, not for each cache."""
    state.change_service(mode="stuck")
    for key in (TOKEN, TOKEN, *SECRETS):
        state.call(key=key)
        state.pass_time(seconds=12.0)
    for key in (TOKEN, *SECRETS):
        state.call(key=key)


def nested_and_frozen(state: Steps) -> None:
    """A token's flight within a secret's is one thread with it."""
    state.change_service(mode="stuck")
    for _ in range(5):
        state.call()
        state.pass_time(seconds=12.0)


def wall_clock_set_back(state: Steps) -> None:
    kept(state)
    state.set_wall_clock(seconds=-4000.0)
    state.go_to(what="fresh")
    kept(state)
    state.call()
    state.call(is_eager=True)
    state.pass_time(seconds=LANDED)
    state.set_wall_clock(seconds=-4000.0)
    state.call(is_eager=True)


def interpreter_exit(state: Steps) -> None:
    state.exit()
    kept(state)
    state.call()


def capacity(state: Steps) -> None:
    for key in (*SECRETS, "a", "b", "c", "b", "a"):
        kept(state, key)
    for key in ("a", "b"):
        state.call(key=key)


def capacity_and_offers(state: Steps) -> None:
    kept(state, "a")
    kept(state, "c")
    state.change_service(mode="unreached", offer=290.0)
    state.call(key="b")
    state.pass_time(seconds=0.3)
    state.call(key="b")


# What serves nothing that is kept


def alone(state: Steps) -> None:
    state.alone()
    state.pass_time(seconds=LANDED)
    state.call()
    state.alone()
    state.pass_time(seconds=LANDED)
    state.call()


def alone_in_a_hurry(state: Steps) -> None:
    state.change_service(mode="hang")
    state.alone(timeout=1.2)
    state.pass_time(seconds=4.1)


def alone_in_an_outage(state: Steps) -> None:
    state.change_service(mode="unreached")
    state.alone()
    state.pass_time(seconds=LANDED)
    state.alone()
    state.call()


def alone_beside_a_failure(state: Steps) -> None:
    for mode in ("kms", "denied"):
        state.change_service(mode=mode)
        state.call()
        state.pass_time(seconds=LANDED)
        state.alone()
        state.pass_time(seconds=12.0)
        state.alone()
        state.pass_time(seconds=LANDED)
        state.change_service()
        state.pass_time(seconds=60.0)
        state.alone()
        state.pass_time(seconds=LANDED)
        state.call()
        state.pass_time(seconds=LANDED)
        state.forget()


def alone_refused(state: Steps) -> None:
    kept(state)
    state.change_service(mode="denied")
    state.alone()
    state.pass_time(seconds=LANDED)
    state.call()


def eager(state: Steps) -> None:
    kept(state)
    state.call(is_eager=True)
    state.pass_time(seconds=LANDED)
    state.change_service(latency=0.8)
    state.go_to(what="due")
    state.call()
    state.pass_time(seconds=0.3)
    state.calls_at_once(is_eager=True)
    state.pass_time(seconds=4.1)


def eager_in_an_outage(state: Steps) -> None:
    kept(state)
    state.change_service(mode="unreached")
    state.call(is_eager=True)
    state.pass_time(seconds=LANDED)
    state.call(is_eager=True)
    state.call()


def eager_beside_a_failure(state: Steps) -> None:
    for mode in ("denied", "missing", "kms"):
        state.change_service(mode=mode)
        state.call()
        state.pass_time(seconds=LANDED)
        state.call(is_eager=True)
        state.pass_time(seconds=LANDED)
        state.forget()


# The failures of a key


def failures(state: Steps) -> None:
    for mode in ("kms", "kms down", "defect", "broken", "denied"):
        for clock in ("monotonic", "wall"):
            state.change_service(mode=mode)
            for _ in range(6):
                kept(state)
                state.go_to(what="memory", clock=clock, offset=-0.01)
                state.call()
                state.call(key="b")
                state.go_to(what="memory", clock=clock, offset=0.01)
            state.change_service()
            kept(state)
            state.go_to(what="gone")


def callers_of_a_failure(state: Steps) -> None:
    state.change_service(mode="kms")
    state.calls_at_once()
    state.pass_time(seconds=LANDED)
    state.call()
    state.call()


def refusals(state: Steps) -> None:
    for mode in ("denied", "missing"):
        kept(state)
        state.go_to(what="fresh")
        state.change_service(mode=mode)
        kept(state)
        state.call()
        state.change_service(mode="unreached")
        state.go_to(what="memory")
        kept(state)
        state.change_service()
        state.go_to(what="breaker")
        state.go_to(what="memory")


def failure_and_a_value(state: Steps) -> None:
    kept(state)
    state.go_to(what="due")
    for mode in ("kms", "broken", "unreached"):
        state.change_service(mode=mode)
        kept(state)
        state.call()
        state.pass_time(seconds=60.0)


def hurry_is_no_failure(state: Steps) -> None:
    state.change_service(mode="hang")
    state.alone(timeout=1.2)
    state.pass_time(seconds=FAILED)
    state.change_service()
    state.pass_time(seconds=1.0)
    state.call()


# The breaker


def outage(state: Steps) -> None:
    for clock in ("monotonic", "wall"):
        state.change_service(mode="unreached")
        for _ in range(6):
            state.call()
            state.pass_time(seconds=0.11)
            state.go_to(what="breaker", clock=clock, offset=-0.01)
            state.call(key="b")
            state.go_to(what="breaker", clock=clock, offset=0.01)
        state.change_service()
        state.call()
        state.pass_time(seconds=LANDED)
        state.forget()


def outage_that_wants_a_pause(state: Steps) -> None:
    for mode in ("busy", "edge"):
        state.change_service(mode=mode, retry_after=20.0)
        kept(state)
        state.pass_time(seconds=2.0)
        state.call()
        state.go_to(what="breaker", offset=-0.01)
        state.call(key="b")
        state.go_to(what="breaker")
        state.change_service()
        kept(state)
        state.forget()


def outage_for_all(state: Steps) -> None:
    state.change_service(mode="unreached", keys=(TOKEN,))
    kept(state, TOKEN)
    state.call()
    state.call(key=TOKEN)
    state.go_to(what="breaker")
    state.call()
    state.pass_time(seconds=LANDED)
    state.call(key="b")


def one_path_that_fails(state: Steps) -> None:
    state.change_service(mode="failing", keys=("a",))
    for _ in range(3):
        kept(state)
        state.call(key="b")
        state.pass_time(seconds=60.0)
        state.pass_time(seconds=60.0)
        state.go_to(what="fresh", key="b")


def one_path_that_fails_twice(state: Steps) -> None:
    state.change_service(mode="failing", keys=("a",))
    for _ in range(2):
        kept(state)
        state.pass_time(seconds=12.0)
    state.call(key="b")


def two_paths_that_fail(state: Steps) -> None:
    state.change_service(mode="failing", keys=("a", "b"))
    kept(state)
    kept(state, "b")
    state.call(key="c")


def two_paths_that_fail_with_an_answer_between(state: Steps) -> None:
    state.change_service(mode="failing", keys=("a", "b"))
    kept(state)
    kept(state, "c")
    kept(state, "b")
    state.call(key=TOKEN)


def authentication_that_fails(state: Steps) -> None:
    state.change_service(mode="failing", keys=(TOKEN,))
    kept(state, TOKEN)
    state.call()


def one_path_that_is_too_busy(state: Steps) -> None:
    state.change_service(mode="busy", keys=("a",))
    kept(state)
    state.call(key="b")


def errors_of_an_outage(state: Steps) -> None:
    state.change_service(mode="unreached")
    kept(state)
    for _ in range(2):
        state.call()
        state.call(key="b")
        state.go_to(what="breaker")
        state.change_service(mode="edge")
        kept(state)


def one_trial(state: Steps) -> None:
    state.change_service(mode="unreached")
    kept(state)
    state.go_to(what="breaker")
    state.change_service(latency=0.8)
    state.call()
    state.call(key="b")
    state.call()
    state.pass_time(seconds=1.0)
    state.call(key="b")


def overdue_and_a_trial(state: Steps) -> None:
    overdue(state)
    state.change_service(mode="unreached")
    kept(state)
    state.go_to(what="breaker")
    state.change_service(latency=0.8)
    state.call()
    state.call()
    state.pass_time(seconds=1.0)


def trial_that_does_not_find_out(state: Steps) -> None:
    state.change_service(mode="unreached")
    kept(state)
    state.go_to(what="breaker")
    state.change_service(mode="kms")
    kept(state)
    state.call(key="b")
    state.pass_time(seconds=LANDED)


def trial_that_is_frozen(state: Steps) -> None:
    state.change_service(mode="unreached")
    kept(state)
    state.go_to(what="breaker")
    state.change_service()
    state.call()
    state.freeze(seconds=60.0, loses=True)
    state.call(key="b")


def trial_that_is_refused(state: Steps) -> None:
    """403 is an answer of the service: it is back."""
    state.change_service(mode="unreached")
    kept(state)
    state.go_to(what="breaker")
    state.change_service(mode="denied", keys=("a",))
    state.change_service(keys=("b",))
    kept(state)
    state.call(key="b")


def two_flights_that_fail(state: Steps) -> None:
    """One outage and one pause, however many flights were under way."""
    state.change_service(mode="unreached")
    for key in ("a", "b", "c"):
        state.call(key=key)
    state.pass_time(seconds=LANDED)
    state.go_to(what="breaker", offset=-0.01)
    state.call()
    state.go_to(what="breaker")
    state.call()
    state.pass_time(seconds=0.11)
    state.go_to(what="breaker", offset=-0.01)
    state.call(key="b")


# A secret that needs a token


def nested(state: Steps) -> None:
    state.change_service(latency=0.8)
    state.call()
    state.call(key=TOKEN)
    state.call(key="b")
    state.pass_time(seconds=4.1)
    state.go_to(what="gone", key=TOKEN)
    state.call(timeout=3.0)


def nested_in_an_outage(state: Steps) -> None:
    state.change_service(mode="unreached")
    kept(state)
    state.go_to(what="breaker", offset=-0.01)
    state.call()
    state.go_to(what="breaker")
    kept(state)
    state.go_to(what="breaker", offset=-0.01)
    state.call()
    state.go_to(what="breaker")
    state.change_service()
    kept(state)
    kept(state, "b")


def nested_and_slow(state: Steps) -> None:
    state.change_service(latency=2.5)
    state.pass_time(seconds=60.0)
    state.alone(timeout=3.0)
    state.pass_time(seconds=4.1)
    state.pass_time(seconds=4.1)


# The extension


def extension(state: Steps) -> None:
    for key in ("a", "b"):
        kept(state, key)
    state.renew()
    state.renew(ahead=100.0)
    state.go_to(what="fresh", offset=-1.0)
    state.renew()
    state.renew(ahead=5.0)
    state.pass_time(seconds=1.0)
    state.go_to(what="fresh")
    state.renew()
    state.pass_time(seconds=1.0)
    state.renew(ahead=4000.0)
    state.pass_time(seconds=160.0)
    state.renew(ahead=4000.0)


def extension_beside_callers(state: Steps) -> None:
    kept(state)
    state.extend()
    state.go_to(what="fresh")
    state.call()
    state.renew()
    state.pass_time(seconds=LANDED)
    state.go_to(what="due")
    state.call()


def extension_in_an_outage(state: Steps) -> None:
    for key in ("a", "b"):
        kept(state, key)
    state.go_to(what="gone", key="b")
    state.change_service(mode="kms", keys=("a",))
    state.renew()
    state.pass_time(seconds=4.1)
    state.renew()
    state.call(key="b")


def extension_and_a_failure(state: Steps) -> None:
    for key in ("a", "b"):
        kept(state, key)
    state.go_to(what="fresh", key="b")
    state.change_service(mode="denied", keys=("a",))
    state.renew()
    state.pass_time(seconds=1.0)
    state.go_to(what="fresh", key="b", offset=-1.0)
    state.call(key="b")


def extension_and_a_hang(state: Steps) -> None:
    """One wait in vain is enough for one call."""
    for key in ("a", "b"):
        kept(state, key)
    state.go_to(what="fresh", key="b")
    state.change_service(mode="hang")
    state.renew(seconds=30.0)
    state.pass_time(seconds=12.0)


# Forgetting, forks


def forgetting(state: Steps) -> None:
    kept(state)
    state.forget()
    state.call()
    state.pass_time(seconds=LANDED)
    state.change_service(mode="kms")
    state.call(key="b")
    state.pass_time(seconds=LANDED)
    state.forget()
    state.change_service()
    state.call(key="b")


def forgetting_in_mid_flight(state: Steps) -> None:
    for mode in ("ok", "kms"):
        state.change_service(mode=mode)
        state.call()
        state.forget()
        state.pass_time(seconds=LANDED)
        state.change_service()
        state.call()
        state.forget()
        state.pass_time(seconds=LANDED)


def forgetting_and_asking_at_once(state: Steps) -> None:
    state.call()
    state.forget()
    state.call()


def forgetting_an_abandoned_flight(state: Steps) -> None:
    state.change_service(latency=2.5)
    state.call()
    state.freeze(seconds=60.0)
    state.change_service(latency=0.8)
    state.call()
    state.forget()
    state.pass_time(seconds=4.1)
    state.call()


def forgetting_in_mid_outage(state: Steps) -> None:
    state.change_service(mode="unreached", latency=0.8)
    state.call()
    state.pass_time(seconds=0.3)
    state.forget(closes=True)
    state.pass_time(seconds=0.6)
    state.change_service()
    state.call(key="b")


def forgetting_with_abandoned_threads(state: Steps) -> None:
    abandoned_threads_of_all(state)
    state.forget(closes=True)
    for key in (TOKEN, *SECRETS):
        state.call(key=key)
        state.pass_time(seconds=12.0)


def fork_under_the_lock(state: Steps) -> None:
    state.fork(callers=1, turns=2)
    state.call()


def fork_in_mid_flight(state: Steps) -> None:
    state.call()
    state.fork()
    state.call()


def fork_with_values(state: Steps) -> None:
    kept(state)
    kept(state, TOKEN)
    state.extend()
    state.fork(jitter=0.99)
    state.call()
    state.call(key=TOKEN)
    state.go_to(what="fresh")
    state.call()


def fork_in_an_outage(state: Steps) -> None:
    for mode in ("unreached", "kms"):
        state.change_service(mode=mode)
        kept(state)
        state.fork()
        state.call()
        state.pass_time(seconds=60.0)


def fork_in_an_outage_with_jitter_of_its_own(state: Steps) -> None:
    state.fork(jitter=0.99)
    state.change_service(mode="kms")
    kept(state)
    state.go_to(what="memory")
    state.call()


def fork_in_a_long_outage(state: Steps) -> None:
    state.change_service(mode="unreached")
    kept(state)
    state.fork()
    kept(state)
    state.pass_time(seconds=1.0)
    state.call()


def fork_after_a_wait_in_vain(state: Steps) -> None:
    for key in ("a", "b"):
        kept(state, key)
    state.go_to(what="fresh", key="b")
    state.change_service(latency=2.5)
    state.call()
    state.pass_time(seconds=2.1)
    state.fork()
    state.change_service(latency=0.8)
    state.call(key="b")
    state.pass_time(seconds=4.1)


def fork_under_the_breakers_lock(state: Steps) -> None:
    for turns in range(1, 12):
        state.fork(callers=1, turns=turns)
        state.change_service(mode="unreached")
        kept(state)
        state.pass_time(seconds=60.0)
        state.forget()


def fork_with_one_path_that_fails(state: Steps) -> None:
    state.change_service(mode="failing", keys=("a", "b"))
    kept(state)
    state.fork()
    kept(state, "b")
    state.call(key="c")


def fork_after_a_frozen_flight(state: Steps) -> None:
    overdue(state)
    state.call()
    state.freeze(seconds=60.0, loses=True)
    state.call(timeout=0.0)
    state.fork()
    state.change_service(latency=2.5)
    state.call()
    state.pass_time(seconds=4.1)


def fork_with_abandoned_threads(state: Steps) -> None:
    state.change_service(mode="stuck")
    for key in (*SECRETS, "a", "b", "c"):
        state.call(key=key)
        state.pass_time(seconds=12.0)
    state.call()
    state.fork()
    state.change_service()
    state.call()


# Tokens that the service refuses (401)


def refused_for_ever(state: Steps) -> None:
    for clock in ("both", "wall"):
        state.read()
        for _ in range(6):
            state.meet_401()
            state.meet_401(path="b")
            state.authenticate(outcome="refused")
            state.authenticate(outcome="refused")
            state.go_to(what="pause", offset=-0.01, clock=clock)
            state.meet_401()
            state.go_to(what="pause", clock=clock)
        state.meet_401()
        state.authenticate(outcome="fails")


def refused_on_a_new_path(state: Steps) -> None:
    state.read()
    for _ in range(2):
        state.meet_401(path="b")
        state.authenticate(outcome="fails")
        state.meet_401(path="c")
        state.go_to(what="others", offset=-0.01)
        state.meet_401(path="c")
        state.go_to(what="others")


def refused_on_a_path_that_was_read(state: Steps) -> None:
    state.read()
    state.meet_401(path="b")
    state.authenticate(outcome="helps")
    state.meet_401()
    state.authenticate(outcome="helps")
    state.meet_401()


def refused_before_anything_was_accepted(state: Steps) -> None:
    state.meet_401()
    state.authenticate(outcome="refused")
    state.meet_401()
    state.go_to(what="pause")
    state.meet_401(path="b")


def refused_after_a_renewal(state: Steps) -> None:
    state.read()
    state.meet_401(path="b")
    state.authenticate(outcome="refused")
    state.pass_time(seconds=60.0)
    state.meet_401(path="c")
    state.renew()
    state.meet_401(path="c")
    state.authenticate(outcome="helps", path="c")


def refused_with_the_same_token(state: Steps) -> None:
    state.read()
    state.meet_401()
    state.authenticate(outcome="same")
    state.meet_401()
    state.go_to(what="pause")
    state.meet_401()


def refused_many_at_once(state: Steps) -> None:
    state.read()
    for path in ("a", "b", "c", "a"):
        state.meet_401(path=path)
    for _ in range(4):
        state.authenticate(outcome="fails")
    state.meet_401()
    state.authenticate(outcome="refused")
    state.refuse()
    state.meet_401()
    state.go_to(what="pause")
    state.meet_401()


def refused_and_accepted(state: Steps) -> None:
    state.read()
    for _ in range(3):
        state.meet_401()
        state.authenticate(outcome="refused")
        state.go_to(what="pause")
    state.meet_401()
    state.authenticate(outcome="refused")
    state.read()
    state.meet_401()
    state.authenticate(outcome="refused")
    state.go_to(what="pause", offset=-0.01)
    state.meet_401()
    state.go_to(what="pause")
    state.meet_401()


def refused_in_a_trial(state: Steps) -> None:
    state.read()
    state.meet_401()
    state.authenticate(outcome="refused")
    state.meet_401(is_trial=True)
    state.authenticate(outcome="fails")
    state.meet_401()


def refused_and_a_fork(state: Steps) -> None:
    state.read()
    state.meet_401()
    state.meet_401(path="b")
    state.authenticate(outcome="refused")
    state.fork()
    state.meet_401()
    state.authenticate(outcome="refused")
    state.meet_401(path="b")
    state.go_to(what="pause")
    state.meet_401()


# What each takes away or breaks: the script by which that is missed, the module, a part of its text, and what takes its place.
MUTANTS: dict[str, tuple[Script, str, str, str]] = {
    # Stages
    "age: no wall clock": (
        stages,
        "deadline",
        "return max(time.monotonic() - self.monotonic, time.time() - self.wall)",
        "return time.monotonic() - self.monotonic",
    ),
    "age: no monotonic clock": (
        stages,
        "deadline",
        "return max(time.monotonic() - self.monotonic, time.time() - self.wall)",
        "return time.time() - self.wall",
    ),
    "nothing is due": (stages, "kept", "(age >= lasts.fresh) +", "(age >= lasts.due) +"),
    "nothing is overdue": (overdue_and_slow, "kept", "(age >= lasts.due) +", "0 +"),
    "nothing is gone": (gone_in_an_outage, "kept", "(age >= lasts.gone)", "0"),
    "fresh from the answer on, by the monotonic clock": (
        warm_path,
        "kept",
        "self.fresh = asked.monotonic + lifetime.fresh",
        "self.fresh = time.monotonic() + lifetime.fresh",
    ),
    "fresh from the answer on, by the wall clock": (
        warm_path,
        "kept",
        "self.fresh_wall = asked.wall + lifetime.fresh",
        "self.fresh_wall = time.time() + lifetime.fresh",
    ),
    "the caller's ages do not count": (ages_of_the_caller, "kept", "lifetime or self.lifetime", "self.lifetime"),
    "which request came first: by the wall clock": (
        wall_clock_set_back,
        "deadline",
        "return self.monotonic < other.monotonic",
        "return self.wall < other.wall",
    ),
    # Waiting
    "a refresh is waited for longer": (due_and_slow, "cache", "REFRESH_SECONDS = 2.0", "REFRESH_SECONDS = 2.4"),
    "a refresh is waited for less": (due_and_slow, "cache", "REFRESH_SECONDS = 2.0", "REFRESH_SECONDS = 1.6"),
    "a refresh after a failure is waited for longer": (
        due_after_a_failure,
        "cache",
        "PROBE_SECONDS = 0.25",
        "PROBE_SECONDS = 0.5",
    ),
    "due: the starter waits to the end": (
        due_and_slow,
        "cache",
        "max_wait = min(REFRESH_SECONDS, flight.max_wait) - flight.began.age() if starts else 0",
        'max_wait = float("inf") if starts else 0',
    ),
    "due: the others wait too": (
        due_and_slow,
        "cache",
        "max_wait = min(REFRESH_SECONDS, flight.max_wait) - flight.began.age() if starts else 0",
        "max_wait = min(REFRESH_SECONDS, flight.max_wait) - flight.began.age()",
    ),
    "due: nobody waits": (
        due_and_slow,
        "cache",
        "max_wait = min(REFRESH_SECONDS, flight.max_wait) - flight.began.age() if starts else 0",
        "max_wait = 0",
    ),
    "due: a failure does not shorten the wait": (
        due_after_a_failure,
        "cache",
        "max_wait = min(REFRESH_SECONDS, flight.max_wait) - flight.began.age() if starts else 0",
        "max_wait = REFRESH_SECONDS - flight.began.age() if starts else 0",
    ),
    "a remembered failure does not shorten the wait": (
        due_after_a_failure,
        "cache",
        "PROBE_SECONDS if failed or self._breaker.has_failed else",
        "PROBE_SECONDS if self._breaker.has_failed else",
    ),
    "an outage does not shorten the wait": (
        due_in_an_outage,
        "cache",
        "PROBE_SECONDS if failed or self._breaker.has_failed else",
        "PROBE_SECONDS if failed else",
    ),
    "a wait in vain does not shorten the next": (
        due_after_a_wait_in_vain,
        "cache",
        "self._breaker.is_slow |= timed_out and PROBE_SECONDS <= flight.began.age() <= flight.deadline.seconds",
        "pass",
    ),
    "a wait in vain is no failure": (
        due_after_a_wait_in_vain,
        "breaker",
        "return self._error is not None or self.is_slow",
        "return self._error is not None",
    ),
    "after a wait in vain, no answer lengthens the next": (
        due_after_a_wait_in_vain,
        "breaker",
        "self.is_slow = False\n        if",
        "if",
    ),
    "a caller in a hurry has waited in vain": (
        due_and_a_caller_in_a_hurry,
        "cache",
        "PROBE_SECONDS <= flight.began.age() <=",
        "flight.began.age() <=",
    ),
    "who waited for a frozen flight has waited in vain": (
        due_after_a_wait_for_a_frozen_flight,
        "cache",
        " <= flight.deadline.seconds\n                return kept",
        "\n                return kept",
    ),
    "every answer is waited for in vain": (
        due_and_answered,
        "cache",
        "timed_out = starts and not flight.landed",
        "timed_out = starts",
    ),
    "overdue: each waits as long as the first": (
        overdue_and_slow,
        "cache",
        "flight.max_wait - flight.began.age() if is_waiting",
        "flight.max_wait if is_waiting",
    ),
    "overdue: only the first waits": (
        overdue_and_slow,
        "cache",
        "is_waiting = flight.is_trial or not self._breaker.is_open()",
        "is_waiting = starts",
    ),
    "overdue: they wait though the breaker is open": (
        overdue_beside_an_outage,
        "cache",
        "is_waiting = flight.is_trial or not self._breaker.is_open()",
        "is_waiting = True",
    ),
    "overdue: who started the flight waits though the breaker is open": (
        overdue_when_the_token_opens_the_breaker,
        "cache",
        "is_waiting = flight.is_trial or not",
        "is_waiting = starts or flight.is_trial or not",
    ),
    "overdue: nobody waits for a trial": (
        overdue_and_a_trial,
        "cache",
        "is_waiting = flight.is_trial or not",
        "is_waiting = not",
    ),
    "overdue: all wait to the end": (overdue_and_slow, "cache", "elif stage == OVERDUE:", "elif False:"),
    "overdue: a frozen flight does not lengthen the wait": (
        overdue_after_a_frozen_flight,
        "cache",
        "if key in self._frozen:",
        "if False:",
    ),
    "overdue: a frozen flight lengthens the wait for ever": (
        overdue_after_a_frozen_flight_and_a_failure,
        "cache",
        "if frozen else self._frozen.discard)(key)",
        "if frozen else self._frozen.add)(key)",
    ),
    "overdue: a frozen flight that fails late is no frozen one": (
        overdue_after_a_frozen_flight,
        "cache",
        "(self._frozen.add if frozen else",
        "(self._frozen.discard if frozen else",
    ),
    "a frozen flight is remembered for ever": (
        overdue_after_a_frozen_flight_that_lands,
        "cache",
        "self._frozen.discard(key)\n        total",
        "total",
    ),
    "a caller waits past its time": (
        due_and_in_a_hurry,
        "cache",
        "signal.wait(max(0.0, min(max_wait, deadline.remaining())))",
        "signal.wait(max(0.0, max_wait if max_wait < 1e9 else deadline.remaining()))",
    ),
    "gone: callers wait as long as the flight": (
        gone,
        "cache",
        "signal.wait(max(0.0, min(max_wait, deadline.remaining())))",
        "signal.wait(max(0.0, min(max_wait, flight.deadline.remaining())))",
    ),
    "what was gone in the meantime is served": (
        gone_in_mid_wait,
        "cache",
        "kept = self.kept.get(key)  # a late flight can have brought one",
        "kept = self.kept.get(key)\n            if usable is not None:\n                return usable",
    ),
    "nobody looks for what a late flight brought": (
        overtaken_flight_that_lands_first_and_a_waiter,
        "cache",
        "kept = self.kept.get(key)  # a late flight can have brought one",
        "kept = usable",
    ),
    "a flight has its starter's time": (
        gone,
        "cache",
        "seconds = max(self._timeout, deadline.remaining())",
        "seconds = deadline.remaining()",
    ),
    "a flight never has more than its time": (
        patient_caller,
        "cache",
        "seconds = max(self._timeout, deadline.remaining())",
        "seconds = self._timeout",
    ),
    "no publication": (
        publication,
        "flight",
        "for each in self.publications:\n                    each()",
        "pass",
    ),
    "the publication is not waited for": (
        publication,
        "flight",
        "ended = self.ended = threading.Event()",
        "ended = threading.Event()",
    ),
    "the publication is waited for to its end": (
        publication,
        "cache",
        "if starts:\n                    flight.wait_for_publication(min(PROBE_SECONDS, deadline.remaining()))",
        "if starts:\n                    flight.wait_for_publication(deadline.remaining())",
    ),
    "those who join wait for the publication": (
        publication,
        "cache",
        "if starts:\n                    flight.wait_for_publication",
        "if True:\n                    flight.wait_for_publication",
    ),
    "publication in the thread of one that asks alone": (
        publication_to_one_that_asks_alone,
        "cache",
        "flight.start(lambda: None)",
        "[each() for each in flight.publications]",
    ),
    # Flights
    "no single flight": (callers_at_once, "cache", "joined = self._under_way(key)\n", "joined = None\n"),
    "the flight is begun outside the lock": (
        callers_at_once,
        "cache",
        "if error is None:\n                        self._flights[key] = flight",
        "pass\n"
        "            if error is None and joined is None:\n"
        "                with self._lock:\n"
        "                    self._flights[key] = flight\n"
        "            if True:",
    ),
    "one flight for all keys": (
        two_keys,
        "cache",
        "flight = self._flights.get(key)\n        if",
        "flight = next(iter(self._flights.values()), None)\n        if",
    ),
    "the lock is held over the network": (
        gone,
        "cache",
        "elif joined is None:\n                flight.start(partial(self._work, key, flight, fetch))",
        "elif joined is None:\n"
        "                with self._lock:\n"
        "                    flight.start(partial(self._work, key, flight, fetch))\n"
        "                    signal.wait(deadline.remaining())",
    ),
    "the fetch runs in its starter's thread": (gone, "flight", "thread.start()\n", "run()\n"),
    "a flight without its starter's context variables": (
        context_variables,
        "flight",
        "target=copy_context().run, args=(run,)",
        "target=run, args=()",
    ),
    "nothing is fetched where no thread can be started": (
        interpreter_exit,
        "flight",
        "except RuntimeError:",
        "except ZeroDivisionError:",
    ),
    "abandoned flights are waited for": (
        frozen_flight,
        "flight",
        "return self.began.age() >",
        "return False and self.began.age() >",
    ),
    "flights are abandoned early": (stuck_flight, "flight", "_SLACK_SECONDS = 1.0", "_SLACK_SECONDS = 0.9"),
    "flights are abandoned late": (stuck_flight, "flight", "_SLACK_SECONDS = 1.0", "_SLACK_SECONDS = 2.0"),
    "the failure of a frozen flight opens the breaker": (
        frozen_flight_that_fails,
        "cache",
        "error is not None and not frozen and self._breaker",
        "error is not None and self._breaker",
    ),
    "the failure of a frozen flight is remembered": (
        frozen_flight_that_fails,
        "cache",
        "not (frozen or outage or",
        "not (outage or",
    ),
    "a landing ends another's flight": (
        overtaken_flight_that_fails,
        "cache",
        "if self._flights.get(key) is flight:",
        "if key in self._flights:",
    ),
    "who has more time fails with who has less": (
        joined_with_more_time,
        "cache",
        "and not has_more_time and not",
        "and not",
    ),
    "a frozen flight's failure is its callers'": (
        frozen_flight_that_fails_with_a_waiter,
        "cache",
        "and not has_more_time and not flight.is_abandoned():",
        "and not has_more_time:",
    ),
    "what is offered wakes nobody": (
        offered,
        "flight",
        "self.signal = self.signal, threading.Event()\n        signal.set()",
        "self.signal = self.signal, threading.Event()",
    ),
    "what is offered is not kept": (
        offered,
        "flight",
        "self.keep(value)\n",
        "pass\n",
    ),
    "what is offered leaves several attempts": (
        offered,
        "flight",
        "self.deadline.attempts = 1",
        "pass",
    ),
    "what is offered wakes those with a value": (
        offered_beside_a_value,
        "cache",
        "flight.signal if usable is None else flight.landing",
        "flight.signal",
    ),
    "those without a value wait for the landing": (
        offered,
        "cache",
        "flight.signal if usable is None else flight.landing",
        "flight.landing",
    ),
    "an extension cannot refresh what was offered": (
        offered_to_an_extension,
        "cache",
        "value.fetch = fetch\n                self",
        "self",
    ),
    "what is offered after it was forgotten is kept": (
        offered_and_forgotten,
        "cache",
        "if flight.generation == self._generation:",
        "if True:",
    ),
    "what is offered takes the place of a refusal": (
        offered_and_refused,
        "cache",
        "if keeps and failure is not None and failure.is_refusal and",
        "if False and",
    ),
    "an older value takes the place of a newer": (
        overtaken_flight_that_lands_last,
        "cache",
        "if not keeps or (held is not None and value.asked.is_before(held.asked)):",
        "if not keeps:",
    ),
    "a late value is lost": (
        overtaken_flight_that_lands_first,
        "cache",
        "if keeps and flight.generation != self._generation:",
        "if keeps and (frozen or flight.generation != self._generation):",
    ),
    "a late value takes the place of a refusal": (
        overtaken_flight_and_a_refusal,
        "cache",
        "if keeps and failure is not None and failure.is_refusal and",
        "if False and",
    ),
    "no bound on threads that do not end": (
        abandoned_threads,
        "breaker",
        "if len(self.abandoned) >= _MAX_ABANDONED:",
        "if False:",
    ),
    "five threads that do not end": (
        abandoned_threads,
        "breaker",
        "_MAX_ABANDONED = 4",
        "_MAX_ABANDONED = 5",
    ),
    "three threads that do not end": (
        abandoned_threads,
        "breaker",
        "_MAX_ABANDONED = 4",
        "_MAX_ABANDONED = 3",
    ),
    "threads that have ended are counted": (
        abandoned_threads,
        "breaker",
        "self.abandoned.remove(flight)",
        "pass",
    ),
    "the threads of tokens are not counted": (
        abandoned_threads_of_all,
        "cache",
        "if flight.ended is not None:",
        'if flight.ended is not None and key != "token":',
    ),
    "a flight within another counts as a thread": (
        nested_and_frozen,
        "cache",
        "if flight.ended is not None:",
        "if True:",
    ),
    "no bound on what is kept": (capacity, "cache", "while total > self._capacity:", "while False:"),
    "the most recently used goes first": (
        capacity,
        "cache",
        "self.kept.pop(min(self.kept",
        "self.kept.pop(max(self.kept",
    ),
    "the oldest goes first": (
        capacity,
        "cache",
        "key=lambda key: self.kept[key].used)",
        "key=lambda key: self.kept[key].asked.monotonic)",
    ),
    "what is offered goes first": (
        capacity_and_offers,
        "cache",
        "value.used = Moment().monotonic  #",
        "value.used = value.asked.monotonic  #",
    ),
    "with a value to fall back on, several attempts": (
        overdue_and_slow,
        "cache",
        "1 if usable is not None or failed else attempts, terms",
        "1 if failed else attempts, terms",
    ),
    "after a failure, several attempts": (
        failures,
        "cache",
        "1 if usable is not None or failed else attempts, terms",
        "1 if usable is not None else attempts, terms",
    ),
    "without a value, one attempt": (
        gone,
        "cache",
        "1 if usable is not None or failed else attempts, terms",
        "1, terms",
    ),
    # Alone, and fresh
    "alone: it is kept": (alone, "cache", "fetch, keeps=False)", "fetch)"),
    "alone: no time of its own": (
        alone_in_a_hurry,
        "cache",
        "flight = Flight(deadline.remaining(), 1",
        "flight = Flight(self._timeout, 1",
    ),
    "alone: several attempts after a failure": (
        alone_beside_a_failure,
        "cache",
        "1 if key in self._failures else None)",
        "None)",
    ),
    "alone: stopped by a refusal": (
        alone_beside_a_failure,
        "cache",
        "error = self._refusal(key, flight, True, None)",
        "error = self._refusal(key, flight, False, None)",
    ),
    "alone: through a breaker that is open": (
        alone_in_an_outage,
        "cache",
        "error = self._refusal(key, flight, True, None)",
        "error = None",
    ),
    "alone: a success does not end the memory": (
        alone_beside_a_failure,
        "cache",
        "elif value is not None:\n                self._keep",
        "elif value is not None and not keeps:\n"
        "                pass\n"
        "            elif value is not None:\n"
        "                self._keep",
    ),
    "fresh: what is kept will do": (
        eager,
        "kept",
        "return FRESH if self.accepts(kept) else GONE",
        "return FRESH",
    ),
    "fresh: what is under way will do": (
        eager,
        "cache",
        "(accepts is None and not is_late)",
        "not is_late or accepts is not None",
    ),
    "fresh: the value of before, in an outage": (
        eager_in_an_outage,
        "kept",
        "return FRESH if self.accepts(kept) else GONE",
        "return FRESH if self.accepts(kept) else OVERDUE",
    ),
    "fresh: stopped by a refusal": (eager_beside_a_failure, "cache", "not (eager and failure.is_refusal)", "True"),
    "fresh: not stopped by any failure": (
        eager_beside_a_failure,
        "cache",
        "not (eager and failure.is_refusal)",
        "not eager",
    ),
    "all are tried anew after a refusal": (
        failures,
        "cache",
        "not (eager and failure.is_refusal)",
        "not failure.is_refusal",
    ),
    # Memory
    "failures are not remembered": (
        failures,
        "cache",
        "self._remember(key, error)\n            flight",
        "pass\n            flight",
    ),
    "the memory is shorter": (failures, "cache", "_FIRST_MEMORY_SECONDS = 5.0", "_FIRST_MEMORY_SECONDS = 4.0"),
    "the memory does not double": (
        failures,
        "cache",
        "_FIRST_MEMORY_SECONDS * 2.0 **",
        "_FIRST_MEMORY_SECONDS * 1.0 **",
    ),
    "the memory has no longest": (
        failures,
        "cache",
        "_MAX_MEMORY_SECONDS = 60.0",
        "_MAX_MEMORY_SECONDS = 90.0",
    ),
    "the memory's jitter lengthens it": (
        failures,
        "cache",
        "1 - _MEMORY_JITTER * fraction",
        "1 + _MEMORY_JITTER * fraction",
    ),
    "a pause: no wall clock": (
        failures,
        "deadline",
        "return self.began.age() < self.seconds",
        "return time.monotonic() - self.began.monotonic < self.seconds",
    ),
    "a pause: no monotonic clock": (
        failures,
        "deadline",
        "return self.began.age() < self.seconds",
        "return time.time() - self.began.wall < self.seconds",
    ),
    "a success does not end the memory": (failures, "cache", "self._failures.pop(key, None)", "pass"),
    "one memory for all keys": (
        failures,
        "cache",
        "failure = self._failures.get(key)\n        if",
        "failure = next(iter(self._failures.values()), None)\n        if",
    ),
    "one error for all who remember": (
        callers_of_a_failure,
        "cache",
        "return failure.error.fresh()",
        "return failure.error",
    ),
    "one error for all who wait": (callers_of_a_failure, "cache", "raise flight.error.fresh()", "raise flight.error"),
    "an outage is remembered for the key": (outage, "cache", "not (frozen or outage or", "not (frozen or"),
    "a defect is nobody's error": (
        failures,
        "cache",
        "except Exception as defect:",
        "except ZeroDivisionError as defect:",
    ),
    "the value of before is not served for a failure that is remembered": (
        failure_and_a_value,
        "cache",
        "if usable is not None:\n                    return usable\n                raise error",
        "raise error",
    ),
    "the value of before is not served when a flight fails": (
        failure_and_a_value,
        "cache",
        "if kept is not None and terms.stage(kept) < GONE:",
        "if kept is not None and terms.stage(kept) < GONE and flight.error is None:",
    ),
    "a refusal does not drop the value": (
        refusals,
        "cache",
        "if failure.is_refusal:\n            self.kept.pop(key, None)",
        "pass",
    ),
    "every failure drops the value": (
        failure_and_a_value,
        "cache",
        "if failure.is_refusal:\n            self.kept",
        "if True:\n            self.kept",
    ),
    "404 is no refusal": (
        refusals,
        "cache",
        "isinstance(error, AccessDenied | SecretNotFound)",
        "isinstance(error, AccessDenied)",
    ),
    "403 is no refusal": (
        refusals,
        "cache",
        "isinstance(error, AccessDenied | SecretNotFound)",
        "isinstance(error, SecretNotFound)",
    ),
    # Breaker
    "the breaker never opens": (outage, "breaker", "if not is_outage(error):\n", "if True:\n"),
    "the breaker opens for any failure": (failures, "breaker", "if not is_outage(error):\n", "if False:\n"),
    "an open breaker lets all through": (outage, "breaker", "return error\n", "return None\n"),
    "one error for all in an outage": (
        errors_of_an_outage,
        "breaker",
        "error = self._error.fresh()",
        "error = self._error",
    ),
    "the latest error of an outage, not the first": (
        errors_of_an_outage,
        "breaker",
        "self._error = self._error or error.fresh()",
        "self._error = error.fresh()",
    ),
    "5xx of one path opens the breaker": (one_path_that_fails, "breaker", "if len(self._paths) == 1:", "if False:"),
    "5xx of reads never opens the breaker": (two_paths_that_fail, "breaker", "if len(self._paths) == 1:", "if True:"),
    "5xx of one path twice opens the breaker": (
        one_path_that_fails_twice,
        "breaker",
        "self._paths.add(key)",
        "self._paths.add(object())",
    ),
    "paths that failed before the last answer count": (
        two_paths_that_fail_with_an_answer_between,
        "breaker",
        "self._paths.clear()",
        "pass",
    ),
    "an answer counts only while the breaker is open": (
        two_paths_that_fail_with_an_answer_between,
        "breaker",
        "self._error is None and not self._paths",
        "self._error is None",
    ),
    "5xx to an authentication concerns it alone": (
        authentication_that_fails,
        "breaker",
        'error.step == "read" and error',
        "error",
    ),
    "429 concerns the path alone": (one_path_that_is_too_busy, "breaker", "error.status >= 500", "error.status >= 400"),
    "the first pause is longer": (outage, "breaker", "_FIRST_SECONDS = 1.0", "_FIRST_SECONDS = 1.3"),
    "the pause does not grow": (outage, "breaker", "self._count += 1", "pass"),
    "the pause grows faster": (outage, "breaker", "_GROWTH = 3.0", "_GROWTH = 4.0"),
    "the pause has no longest": (outage, "breaker", "_MAX_PAUSE_SECONDS = 30.0", "_MAX_PAUSE_SECONDS = 300.0"),
    "the pause's jitter lengthens it": (outage, "breaker", "1 - _JITTER * jitter()", "1 + _JITTER * jitter()"),
    "what the service wants does not count": (
        outage_that_wants_a_pause,
        "breaker",
        ", requested_pause(error))",
        ", 0)",
    ),
    "each failure of an outage lengthens the pause": (
        two_flights_that_fail,
        "breaker",
        "if self._error is None or not self._pause.lasts():",
        "if True:",
    ),
    "after the pause, all try": (
        one_trial,
        "breaker",
        "self._pause.lasts() or is_trying",
        "self._pause.lasts()",
    ),
    "the trial makes several attempts": (
        one_trial,
        "breaker",
        "self._trial, flight.deadline.attempts = flight, 1",
        "self._trial = flight",
    ),
    "a trial is like any flight": (overdue_and_a_trial, "breaker", "flight.is_trial = True", "pass"),
    "a frozen trial holds up all": (trial_that_is_frozen, "breaker", "and not trial.is_abandoned()", "and True"),
    "a trial that does not find out holds up all": (
        trial_that_does_not_find_out,
        "breaker",
        "if self._trial is flight:\n                self._trial = None",
        "pass",
    ),
    "no flight tries": (
        outage,
        "breaker",
        "return self._error is not None and (self._pause",
        "return self._error is not None or (self._pause",
    ),
    "the breaker never closes": (outage, "breaker", "self._error = self._trial = None", "pass"),
    "closing does not forget the growth": (
        outage,
        "breaker",
        "self._trial = None\n            self._count = 0",
        "self._trial = None",
    ),
    "a nested authentication asks the breaker again": (
        nested_in_an_outage,
        "cache",
        "if within is not None:\n            flight.outage",
        "if False:\n            flight.outage",
    ),
    "a nested authentication has as long as any": (
        nested_and_slow,
        "cache",
        "if within is not None and usable is None:\n            seconds",
        "if False:\n            seconds",
    ),
    # The extension
    "an extension that refreshes nothing": (
        extension,
        "cache",
        "if FRESH < kept.stage(early) < GONE:",
        "if False:",
    ),
    "an extension refreshes what is gone": (
        extension_in_an_outage,
        "cache",
        "if FRESH < kept.stage(early) < GONE:",
        "if FRESH < kept.stage(early):",
    ),
    "an extension waits in vain again and again": (
        extension_and_a_hang,
        "cache",
        "if self._breaker.has_failed and began.age() >= PROBE_SECONDS:",
        "if False:",
    ),
    "an extension that does not look ahead": (
        extension,
        "cache",
        "lasts.fresh - min(ahead, lasts.due / 2)",
        "lasts.fresh",
    ),
    "an extension that looks ahead too far": (
        extension,
        "cache",
        "lasts.fresh - min(ahead, lasts.due / 2)",
        "lasts.fresh - ahead",
    ),
    "an extension that does not refresh what it is told to": (
        extension,
        "cache",
        "deadline, lifetime=early, renewing",
        "deadline, renewing",
    ),
    "callers refresh beside an extension": (
        extension_beside_callers,
        "cache",
        "(stage == DUE and self.renewed_by_extension and not renewing)",
        "False",
    ),
    "an extension does not refresh either": (
        extension_beside_callers,
        "cache",
        "self.renewed_by_extension and not renewing",
        "self.renewed_by_extension",
    ),
    "beside an extension, nothing is overdue": (
        extension_beside_callers,
        "cache",
        "(stage == DUE and self.renewed_by_extension",
        "(stage < GONE and self.renewed_by_extension",
    ),
    "one failure keeps an extension from the others": (
        extension_and_a_failure,
        "cache",
        "with suppress(CerberusError):  # the other",
        "with suppress(KeyError):  # the others",
    ),
    # Forgetting and forks
    "forgetting keeps the values": (
        forgetting,
        "cache",
        "self._flights.clear()\n            self.kept.clear()",
        "self._flights.clear()",
    ),
    "forgetting keeps the failures": (
        forgetting,
        "cache",
        "self.kept.clear()\n            self._failures = {}",
        "self.kept.clear()",
    ),
    "what was forgotten in mid-flight is kept": (
        forgetting_in_mid_flight,
        "cache",
        "self._generation += 1",
        "pass",
    ),
    "a flight from before the breaker closed opens it": (
        forgetting_in_mid_outage,
        "breaker",
        "if flight.began.is_before(self._since):",
        "if False:",
    ),
    "the breaker closes once only": (
        forgetting_in_mid_outage,
        "breaker",
        "self._since = Moment()",
        'self._since: Moment = getattr(self, "_since", None) or Moment()',
    ),
    "the breaker forgets the threads that do not end": (
        forgetting_with_abandoned_threads,
        "breaker",
        "self._error: CerberusError | None = None  # the first",
        "self.abandoned = []\n        self._error: CerberusError | None = None  # the first",
    ),
    "after forgetting, the old flight is joined": (
        forgetting_and_asking_at_once,
        "cache",
        "self._flights.clear()",
        "pass",
    ),
    "abandoned flights are not forgotten": (
        forgetting_an_abandoned_flight,
        "cache",
        "if keeps and flight.generation != self._generation:",
        "if keeps and not frozen and flight.generation != self._generation:",
    ),
    "a fork keeps the lock": (
        fork_under_the_lock,
        "cache",
        "self._lock = threading.Lock()",
        'self._lock = getattr(self, "_lock", None) or threading.Lock()',
    ),
    "a fork keeps the flights": (
        fork_in_mid_flight,
        "cache",
        "self._flights: dict[Hashable, Flight] = {}",
        'self._flights: dict[Hashable, Flight] = getattr(self, "_flights", {})',
    ),
    "a fork keeps the failures": (
        fork_in_an_outage,
        "cache",
        "self._failures: MutableMapping[Hashable, _Failure] = {}",
        'self._failures = getattr(self, "_failures", {})',
    ),
    "a fork keeps the abandoned threads": (
        fork_with_abandoned_threads,
        "breaker",
        "self.abandoned: list[Flight] = []",
        'self.abandoned: list[Flight] = getattr(self, "abandoned", [])',
    ),
    "a fork keeps what was frozen": (
        fork_after_a_frozen_flight,
        "cache",
        "self._frozen: set[Hashable] = set()",
        'self._frozen: set[Hashable] = getattr(self, "_frozen", set())',
    ),
    "a fork keeps the jitter": (
        fork_in_an_outage_with_jitter_of_its_own,
        "cache",
        "self.jitter = jitter()",
        'self.jitter = getattr(self, "jitter", None) or jitter()',
    ),
    "a fork keeps the extension": (
        fork_with_values,
        "cache",
        "self.renewed_by_extension = False",
        'self.renewed_by_extension = getattr(self, "renewed_by_extension", False)',
    ),
    "a fork loses the values": (
        fork_with_values,
        "cache",
        "self._flights: dict[Hashable, Flight] = {}",
        "self._flights: dict[Hashable, Flight] = {}\n        self.kept.clear()",
    ),
    "a fork keeps the breaker's lock": (
        fork_under_the_breakers_lock,
        "breaker",
        "self._lock = threading.Lock()",
        'self._lock = getattr(self, "_lock", None) or threading.Lock()',
    ),
    "a fork keeps the outage": (
        fork_in_an_outage,
        "breaker",
        "self._error: CerberusError | None = None  # the first",
        'self._error = getattr(self, "_error", None)  # the first',
    ),
    "a fork keeps the slowness": (
        fork_after_a_wait_in_vain,
        "breaker",
        "self.is_slow = False  # a refresh",
        'self.is_slow = getattr(self, "is_slow", False)  # a caller',
    ),
    "a fork keeps the growth": (
        fork_in_a_long_outage,
        "breaker",
        "self._since = Moment()\n        self._count = 0",
        'self._since = Moment()\n        self._count = getattr(self, "_count", 0)',
    ),
    "a fork keeps the paths that failed": (
        fork_with_one_path_that_fails,
        "breaker",
        "self._paths: set[object] = set()",
        'self._paths: set[object] = getattr(self, "_paths", set())',
    ),
    # 401
    "401: authenticated as often as it comes": (
        refused_for_ever,
        "auth",
        "(self._pause if is_known else self._others).lasts()",
        "False",
    ),
    "401: a path that was read is like any": (
        refused_on_a_path_that_was_read,
        "auth",
        "is_known = path in self._paths or not self._is_accepted",
        "is_known = not self._is_accepted",
    ),
    "401: a new token is like any": (
        refused_before_anything_was_accepted,
        "auth",
        "is_known = path in self._paths or not self._is_accepted",
        "is_known = path in self._paths",
    ),
    "401: any path is as good as one that was read": (
        refused_on_a_new_path,
        "auth",
        "is_known = path in self._paths or not self._is_accepted",
        "is_known = True",
    ),
    "401: new paths more often": (refused_on_a_new_path, "auth", "5.0, 60.0, 300.0", "5.0, 60.0, 299.0"),
    "401: new paths once only": (refused_on_a_new_path, "auth", "5.0, 60.0, 300.0", "5.0, 60.0, 3000.0"),
    "401: new paths do not count together": (
        refused_on_a_new_path,
        "auth",
        "self._others = Pause(self._OTHERS_SECONDS)",
        "pass",
    ),
    "401: the first pause is shorter": (refused_for_ever, "auth", "5.0, 60.0, 300.0", "4.0, 60.0, 300.0"),
    "401: the pause has no longest": (refused_for_ever, "auth", "5.0, 60.0, 300.0", "5.0, 600.0, 300.0"),
    "401: the pause does not double": (
        refused_for_ever,
        "auth",
        "self._pause = Pause(seconds * 0.98)\n                self._count += 1",
        "self._pause = Pause(seconds * 0.98)",
    ),
    "401: the pause is longer than it says": (
        refused_for_ever,
        "auth",
        "Pause(seconds * 0.98)",
        "Pause(seconds * 1.02)",
    ),
    "401: each caller's refusal lengthens the pause": (
        refused_many_at_once,
        "auth",
        "if token.value != self._useless:",
        "if True:",
    ),
    "401: what did not help is not noted": (
        refused_with_the_same_token,
        "auth",
        "if token.value != self._useless:",
        "if False:",
    ),
    "401: nobody joins what is under way": (
        refused_many_at_once,
        "auth",
        "if not (self._in_progress or is_trial):",
        "if not is_trial:",
    ),
    "401: an authentication never ends": (refused_many_at_once, "auth", "self._in_progress -= 1", "pass"),
    "401: a trial does not find out": (
        refused_in_a_trial,
        "auth",
        "if not (self._in_progress or is_trial):",
        "if not self._in_progress:",
    ),
    "401: an answer does not end the pause": (
        refused_and_accepted,
        "auth",
        "self._is_accepted, self._count, self._pause = True, 0, Pause(0)",
        "self._is_accepted, self._count = True, 0",
    ),
    "401: an answer does not end the growth": (
        refused_and_accepted,
        "auth",
        "self._is_accepted, self._count, self._pause = True, 0, Pause(0)",
        "self._is_accepted, self._pause = True, Pause(0)",
    ),
    "401: no answer makes a token a good one": (
        refused_on_a_new_path,
        "auth",
        "self._is_accepted, self._count, self._pause = True, 0, Pause(0)",
        "self._count, self._pause = 0, Pause(0)",
    ),
    "401: a token renewed on time is as good as the last": (
        refused_after_a_renewal,
        "auth",
        "self._is_accepted = self._is_accepted and after_401",
        "pass",
    ),
    "401: a token in place of a refused one is accepted by nothing": (
        refused_after_a_renewal,
        "auth",
        "self._is_accepted = self._is_accepted and after_401",
        "self._is_accepted = False",
    ),
    "401: a fork keeps what is under way": (
        refused_and_a_fork,
        "auth",
        "self._in_progress = 0",
        'self._in_progress = getattr(self, "_in_progress", 0)',
    ),
    "401: a fork keeps the growth": (
        refused_and_a_fork,
        "auth",
        "self._is_accepted = False\n        self._count = 0",
        'self._is_accepted = False\n        self._count = getattr(self, "_count", 0)',
    ),
}

SCRIPTS = list(
    dict.fromkeys(
        each
        for each in vars().copy().values()
        if getattr(each, "__annotations__", None) == {"state": "Steps", "return": "None"}
    )
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_cache_keeps_every_rule(script: Script) -> None:
    run(script)


@pytest.mark.parametrize("name", MUTANTS)
def test_each_rule_taken_away_is_missed(name: str) -> None:
    script, *edit = MUTANTS[name]
    module, old, new = edit
    with pytest.raises((RuleBroken, RuntimeError, ValueError)):  # the last two: an exception left the package
        run(script, (module, old, new))
