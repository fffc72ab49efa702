"""The cache of tokens and secrets, with one fetch at a time per key."""

from __future__ import annotations

import math
import sys
import threading
from contextlib import suppress
from functools import partial

from ..deadline import Deadline, Moment, Pause, jitter
from ..errors import AccessDenied, CerberusError, DeadlineExceeded, SecretNotFound, is_outage
from ..http.connection import interruption
from .flight import Flight
from .kept import DUE, FRESH, GONE, OVERDUE, Lifetime, Terms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, MutableMapping

    from .breaker import Breaker
    from .kept import Kept

    Fetch = Callable[[Flight], Kept]

REFRESH_SECONDS = 2.0  # how long a caller with a usable value waits for a refresh
PROBE_SECONDS = 0.25  # the same after a failure, and for sharing a new value
_FIRST_MEMORY_SECONDS = 5.0  # how long the failure of a key is raised again
_MAX_MEMORY_SECONDS = 60.0
_MEMORY_JITTER = 0.02
_MAX_FAILURES = 1024


class _Failure:
    """The last failure of a key, which is raised again until its pause is over."""

    def __init__(self, error: CerberusError, count: int, fraction: float) -> None:
        seconds = min(_MAX_MEMORY_SECONDS, _FIRST_MEMORY_SECONDS * 2.0 ** min(count, 9))
        self.error = error
        self.is_refusal = isinstance(error, AccessDenied | SecretNotFound)
        self.count = count + 1
        self.pause = Pause(seconds * (1 - _MEMORY_JITTER * fraction))


class Cache:
    """Values by key, for all threads of the process. No lock is held during a request.

    A flight has at least ``timeout`` seconds, and one request ``attempt_seconds``. The values have at most ``capacity`` bytes
    together. With ``is_shared``, a fetch looks for a shared value before it sends a request to Cerberus.
    """

    def __init__(
        self,
        breaker: Breaker,
        *,
        timeout: float,
        attempt_seconds: float,
        capacity: float = math.inf,
        is_shared: bool = False,
    ) -> None:
        self.kept: dict[Hashable, Kept] = {}  # a plain dict: a cache hit takes no lock
        self._breaker = breaker
        self._timeout = timeout
        self._attempt_seconds = attempt_seconds
        self._capacity = capacity
        self._is_shared = is_shared
        self._generation = 0  # grows with each forget()
        self.reset()

    def reset(self) -> None:
        """Replace locks, flights and jitter, and keep the values, in a forked child."""
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Flight] = {}
        self._failures: MutableMapping[Hashable, _Failure] = {}
        self._frozen: set[Hashable] = set()  # keys whose last flight was abandoned
        self.jitter = jitter()
        self.renewed_by_extension = False  # whether the extension refreshes due values, so that callers do not

    def forget(self) -> None:
        """Remove all values and failures, and drop the results of running flights."""
        with self._lock:
            self._generation += 1
            self._flights.clear()
            self.kept.clear()
            self._failures = {}

    def get(
        self,
        key: Hashable,
        fetch: Fetch,
        deadline: Deadline,
        *,
        lifetime: Lifetime | None = None,
        accepts: Callable[[Kept], bool] | None = None,
        within: Flight | None = None,
        renewing: bool = False,
    ) -> Kept:
        """Return the cached value, or the one that a flight fetches.

        Parameters
        ----------
        fetch
            Fetches the value, in the thread of the flight.
        lifetime
            Replaces the lifetime of the value.
        accepts
            Returns whether the caller accepts a value. Its age then does not count.
        within
            A flight that needs this value: the fetch runs in its thread.
        renewing
            Whether the caller is the extension, which refreshes due values.

        Raises
        ------
        CerberusError
            The error of the fetch, as a copy for each caller; at once while a failure is remembered.
        DeadlineExceeded
            The deadline of the caller is over.
        """
        terms, began = Terms(lifetime, accepts), Moment()
        own: Flight | None = None  # the flight that this caller started last
        while True:
            error: CerberusError | None = None
            with self._lock:
                kept = self.kept.get(key)
                stage = terms.stage(kept)
                if kept is not None and (
                    stage == FRESH or (stage == DUE and self.renewed_by_extension and not renewing)
                ):
                    return kept
                usable = kept if stage < GONE else None
                joined = self._under_way(key)
                flight = joined or self._new_flight(key, deadline, terms, usable, within)
                if joined is None:
                    own = flight
                    error = self._refusal(key, flight, accepts is not None, within, lookup=usable is None)
                    if error is None:
                        self._flights[key] = flight
                signal = (
                    flight.signal if usable is None else flight.landing
                )  # without a value, an offer wakes the caller too
            if error is not None:
                if usable is not None:
                    return usable
                raise error
            if joined is None and within is not None and usable is None:
                flight.publications = within.publications
                self._work(key, flight, fetch)
            elif joined is None:
                flight.start(partial(self._work, key, flight, fetch))
            starts = flight is own
            max_wait = math.inf
            if stage == DUE:
                max_wait = min(REFRESH_SECONDS, flight.max_wait) - flight.began.age() if starts else 0
            elif stage == OVERDUE:
                is_waiting = flight.is_trial or not self._breaker.is_open()
                max_wait = flight.max_wait - flight.began.age() if is_waiting else 0
            if signal.wait(max(0.0, min(max_wait, deadline.remaining()))) and not flight.landed:
                continue  # the flight has offered a stale value
            if flight.value is not None:
                if starts:
                    flight.wait_for_publication(min(PROBE_SECONDS, deadline.remaining()))
                is_late = flight.value.asked.is_before(began) or flight.is_abandoned()
                if terms.stage(flight.value) <= DUE or (accepts is None and not is_late):
                    return flight.value
                continue  # fetched for a caller that accepts other values, or frozen
            kept = self.kept.get(key)  # a late flight can have brought one
            if kept is not None and terms.stage(kept) < GONE:
                timed_out = starts and not flight.landed  # counts if the wait was long enough and not frozen
                self._breaker.is_slow |= timed_out and PROBE_SECONDS <= flight.began.age() <= flight.deadline.seconds
                return kept
            has_more_time = not starts and isinstance(flight.error, DeadlineExceeded)
            if flight.error is not None and not has_more_time and not flight.is_abandoned():
                raise flight.error.fresh()
            deadline.check("waiting for Cerberus")

    def get_alone(self, key: Hashable, fetch: Fetch, deadline: Deadline) -> Kept:
        """Fetch in this thread, without cache, shared values and stale values. Raises the errors of ``get``."""
        with self._lock:
            flight = Flight(deadline.remaining(), 1 if key in self._failures else None)
            error = self._refusal(key, flight, True, None)
        if error is None:
            self._work(key, flight, fetch, keeps=False)
            if flight.publications:  # of a token: in a thread, for which the caller does not have to wait
                flight.start(lambda: None)
                flight.wait_for_publication(min(PROBE_SECONDS, deadline.remaining()))
            error = flight.error
        if flight.value is None:
            raise error.fresh() if error else CerberusError("The request was interrupted. Retry it.")
        return flight.value

    def renew(self, deadline: Deadline, ahead: float) -> None:
        """Refresh values that are due, or become due within ``ahead`` seconds and are in the second half of their lifetime.

        Failures are remembered, not raised.
        """
        began = Moment()
        for key, kept in list(self.kept.items()):
            lasts = kept.lifetime
            early = Lifetime(lasts.fresh - min(ahead, lasts.due / 2), lasts.due, lasts.gone)
            if FRESH < kept.stage(early) < GONE:
                with suppress(CerberusError):  # the other values are refreshed nevertheless
                    self.get(key, kept.fetch, deadline, lifetime=early, renewing=True)
                if self._breaker.has_failed and began.age() >= PROBE_SECONDS:
                    return  # one timeout per call is enough

    def wait_for_flights(self, seconds: float) -> None:
        """Wait for running flights, for ``seconds`` at most."""
        deadline = Deadline(seconds)
        for flight in list(self._flights.values()):
            flight.landing.wait(max(0.0, deadline.remaining()))

    def has_fallback(self) -> bool:
        """Return whether it can have a value in an outage: one that is kept and not gone, or one that the fleet shares."""
        return self._is_shared or any(kept.stage() < GONE for kept in list(self.kept.values()))

    def _under_way(self, key: Hashable) -> Flight | None:
        flight = self._flights.get(key)
        if flight is not None and flight.is_abandoned():
            del self._flights[key]
            self._frozen.add(key)
            if flight.ended is not None:
                self._breaker.abandoned.append(flight)
            return None
        return flight

    def _new_flight(
        self, key: Hashable, deadline: Deadline, terms: Terms, usable: Kept | None, within: Flight | None
    ) -> Flight:
        failed, attempts = key in self._failures, None
        seconds = max(self._timeout, deadline.remaining())
        if within is not None and usable is None:
            seconds, attempts = within.deadline.remaining(), within.deadline.attempts
        # One attempt if there is a value to fall back on, or after a failure.
        flight = Flight(seconds, 1 if usable is not None or failed else attempts, terms)
        flight.is_trial = within is not None and within.is_trial
        flight.max_wait = PROBE_SECONDS if failed or self._breaker.has_failed else REFRESH_SECONDS
        if key in self._frozen:
            flight.max_wait = self._attempt_seconds
        flight.generation = self._generation
        return flight

    def _refusal(
        self, key: Hashable, flight: Flight, eager: bool, within: Flight | None, lookup: bool = False
    ) -> CerberusError | None:
        """Return the error that stops a flight; None if it can start.

        With ``eager``, a remembered 403 or 404 does not stop it, so that a new grant takes effect. With ``lookup``, an open
        breaker lets it look for a shared value.
        """
        failure = self._failures.get(key)
        if failure is not None and failure.pause.lasts() and not (eager and failure.is_refusal):
            return failure.error.fresh()
        if within is not None:
            flight.outage = within.outage
            return None
        terms = flight.terms
        lookup_key = (key, terms.accepts is None, terms.lifetime and terms.lifetime.gone)
        return self._breaker.admit(flight, lookup_key if lookup and self._is_shared else None)

    def _work(self, key: Hashable, flight: Flight, fetch: Fetch, keeps: bool = True) -> None:
        value: Kept | None = None
        error: CerberusError | None = None
        before = sys.exception()
        if keeps:
            flight.keep = partial(self._offered, key, flight, fetch)
        try:
            value = fetch(flight)
            value.fetch = fetch
        except CerberusError as failure:
            error = failure.fresh()
        except Exception as defect:  # its frames can hold secrets
            if not keeps and interruption(defect, before):
                raise defect.with_traceback(None) from None  # raised by a signal handler, for the caller
            error = CerberusError(f"Unexpected {type(defect).__name__} in a request. Report it as a defect.")
        finally:
            self._land(key, flight, value, error, keeps)

    def _land(
        self, key: Hashable, flight: Flight, value: Kept | None, error: CerberusError | None, keeps: bool
    ) -> None:
        frozen = flight.is_abandoned()  # then a failure does not mean that Cerberus is unavailable
        if flight.outage is not None and error is not None and is_outage(error):
            error, outage = flight.outage.fresh(), True
        else:
            outage = error is not None and not frozen and self._breaker.failed(error, key, flight)
        with self._lock:
            self._breaker.ended(flight)
            if self._flights.get(key) is flight:
                del self._flights[key]
                (self._frozen.add if frozen else self._frozen.discard)(key)
            if keeps and flight.generation != self._generation:
                pass
            elif value is not None:
                self._keep(key, value, keeps)
            elif error is not None and not (frozen or outage or isinstance(error, DeadlineExceeded)):
                self._remember(key, error)
            flight.land(value, error)

    def _offered(self, key: Hashable, flight: Flight, fetch: Fetch, value: Kept) -> None:
        with self._lock:
            if flight.generation == self._generation:
                value.fetch = fetch
                self._keep(key, value, True)

    def _remember(self, key: Hashable, error: CerberusError) -> None:
        if isinstance(self._failures, dict):
            from cachetools import LRUCache  # loaded with the first failure: the import takes 2 ms

            self._failures = LRUCache(_MAX_FAILURES)
        known = self._failures.get(key)
        failure = self._failures[key] = _Failure(error, known.count if known else 0, self.jitter)
        if failure.is_refusal:
            self.kept.pop(key, None)

    def _keep(self, key: Hashable, value: Kept, keeps: bool) -> None:
        held, failure = self.kept.get(key), self._failures.get(key)
        if keeps and failure is not None and failure.is_refusal and value.asked.is_before(failure.pause.began):
            return  # access was revoked after the request
        self._failures.pop(key, None)
        if not keeps or (held is not None and value.asked.is_before(held.asked)):
            return
        self.kept[key] = value
        value.used = Moment().monotonic  # not its request time: another container can have read it long ago
        self._frozen.discard(key)
        total = sum(kept.size for kept in self.kept.values())
        while total > self._capacity:
            total -= self.kept.pop(min(self.kept, key=lambda key: self.kept[key].used)).size
