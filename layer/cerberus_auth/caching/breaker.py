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
_LONGEST_SECONDS = 30.0
_JITTER = 0.05  # of a pause, downwards
_MOST_ABANDONED = 4  # threads
_MOST_LOOKS = 4096  # in one pause


class Breaker:
    """Opens when Cerberus is out of reach, lets one flight try after each pause, and closes when Cerberus answers."""

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """Close, with a lock of its own: in a forked child or a restored container."""
        self._lock = threading.Lock()
        self.abandoned: list[Flight] = []  # whose threads do not end
        self.forget()

    def forget(self) -> None:
        """Close, whatever becomes of the flights under way."""
        self._error: CerberusError | None = None  # the first of this outage; None while closed
        self.is_slow = False  # a caller waited for a refresh in vain, and nothing was answered since
        self._pause = Pause(0)
        self._since = Moment()
        self._count = 0
        self._trial: Flight | None = None
        self._paths: set[object] = set()  # answered with 5xx since it last closed
        self._looks: set[object] = set()  # made during this pause

    @property
    def has_failed(self) -> bool:
        """Whether Cerberus was out of reach, or slow, and has not answered since."""
        return self._error is not None or self.is_slow

    def is_open(self) -> bool:
        """Tell whether no flight may start now."""
        is_trying = self._trial is not None and not self._trial.is_abandoned()
        return self._error is not None and (self._pause.lasts() or is_trying)

    def admit(self, flight: Flight) -> CerberusError | None:
        """Let a flight start, or return the error of the outage."""
        with self._lock:
            if len(self.abandoned) >= _MOST_ABANDONED:
                return CerberusUnavailable(
                    f"{_MOST_ABANDONED} requests to Cerberus do not end. Check the function's name server and network"
                )
            if self._error is None:
                return None
            if self.is_open():
                return self._error.fresh()
            self._trial, flight.deadline.attempts = flight, 1
            flight.is_trial = True
            return None

    def may_look(self, key: object) -> bool:
        """Tell whether a flight that may not ask Cerberus may look at what the fleet shares: once for each key and pause."""
        with self._lock:
            if key in self._looks or max(len(self._looks) / _MOST_LOOKS, len(self.abandoned) / _MOST_ABANDONED) >= 1:
                return False
            self._looks.add(key)
            return True

    def failed(self, error: CerberusError, key: object, flight: Flight) -> bool:
        """Note that a flight failed. Return whether Cerberus is out of reach; otherwise it concerns this key only."""
        if not is_outage(error):
            return False
        with self._lock:
            if flight.began.is_before(self._since):
                return True  # it was under way when all was forgotten
            if self._error is None and error.step == "read" and error.status >= 500 and not error.other_paths_fail:
                self._paths.add(key)
                if len(self._paths) == 1:
                    return False
            if not (self._error is not None and self._pause.lasts()):  # otherwise another flight has said so
                seconds = min(_LONGEST_SECONDS, _FIRST_SECONDS * _GROWTH ** min(self._count, 9))
                seconds = max(seconds * (1 - _JITTER * jitter()), requested_pause(error))
                self._pause = Pause(seconds)
                self._count += 1
                self._looks.clear()
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
            self._looks.clear()

    def ended(self, flight: Flight) -> None:
        """Let the next flight try, if this one did and did not find out. It is no longer counted."""
        with self._lock:
            if flight in self.abandoned:
                self.abandoned.remove(flight)
            if self._trial is flight:
                self._trial = None
