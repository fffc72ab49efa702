"""The circuit breaker of one Cerberus, for authentications and reads alike."""

from __future__ import annotations

import threading

from ..deadline import Moment, Pause, jitter
from ..errors import CerberusUnavailable, is_outage, requested_pause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..errors import CerberusError
    from .flight import Flight

_FIRST_SECONDS = 1.0
_GROWTH = 3.0
_MAX_PAUSE_SECONDS = 30.0
_JITTER = 0.05  # the part by which a pause is randomly shortened
_MAX_ABANDONED = 4  # threads
_MAX_LOOKUPS = 4096  # per pause


class Breaker:
    """Opens when Cerberus is unavailable, admits one trial flight after each pause, and closes when Cerberus answers."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Close and replace the lock, in a forked child or a restored container."""
        self._lock = threading.Lock()
        self.abandoned: list[Flight] = []  # their threads are still running
        self._clear()

    def forget(self) -> None:
        """Close, and ignore the results of running flights."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._error: CerberusError | None = None  # the first error of the outage; None while closed
        self.is_slow = False  # a refresh timed out for a caller, and Cerberus has not answered since
        self._pause = Pause(0)
        self._since = Moment()
        self._count = 0
        self._trial: Flight | None = None
        self._paths: set[object] = set()  # failed with 5xx since the breaker closed
        self._lookups: set[object] = set()  # admitted during this pause

    @property
    def has_failed(self) -> bool:
        """Whether Cerberus was unavailable or slow, and has not answered since."""
        return self._error is not None or self.is_slow

    def is_open(self) -> bool:
        """Return whether no flight can start now."""
        trial = self._trial  # callers hold no lock, and the trial can end at any time
        is_trying = trial is not None and not trial.is_abandoned()
        return self._error is not None and (self._pause.lasts() or is_trying)

    def admit(self, flight: Flight, lookup: object = None) -> CerberusError | None:
        """Let a flight start, or return the error of the outage.

        Once per pause and ``lookup``, a flight can start only to look for a shared value: its ``outage`` is then set.
        """
        with self._lock:
            if len(self.abandoned) >= _MAX_ABANDONED:
                return CerberusUnavailable(
                    f"{_MAX_ABANDONED} requests to Cerberus do not end. Check the name server and the network"
                )
            if self._error is None:
                return None
            if self.is_open():
                error = self._error.fresh()
                if lookup is None or lookup in self._lookups or len(self._lookups) >= _MAX_LOOKUPS:
                    return error
                self._lookups.add(lookup)
                flight.outage = error
                return None
            self._trial, flight.deadline.attempts = flight, 1
            flight.is_trial = True
            return None

    def failed(self, error: CerberusError, key: object, flight: Flight) -> bool:
        """Record a failed flight. Return whether Cerberus is unavailable; if not, the failure concerns this key only."""
        if not is_outage(error):
            return False
        with self._lock:
            if flight.began.is_before(self._since):
                return True  # started before forget()
            if self._error is None and error.step == "read" and error.status >= 500 and not error.other_paths_fail:
                self._paths.add(key)
                if len(self._paths) == 1:
                    return False
            if self._error is None or not self._pause.lasts():  # otherwise another flight started this pause
                seconds = min(_MAX_PAUSE_SECONDS, _FIRST_SECONDS * _GROWTH ** min(self._count, 9))
                seconds = max(seconds * (1 - _JITTER * jitter()), requested_pause(error))
                self._pause = Pause(seconds)
                self._count += 1
                self._lookups.clear()
            self._error = self._error or error.fresh()
            self._trial = None
            return True

    def answered(self) -> None:
        """Close: Cerberus answered a read that needs its database, or an authentication succeeded."""
        self.is_slow = False
        if self._error is None and not self._paths:
            return
        with self._lock:
            self._error = self._trial = None
            self._count = 0
            self._paths.clear()
            self._lookups.clear()

    def ended(self, flight: Flight) -> None:
        """Stop counting a flight as abandoned. If it was the trial, let the next flight be one."""
        with self._lock:
            if flight in self.abandoned:
                self.abandoned.remove(flight)
            if self._trial is flight:
                self._trial = None
