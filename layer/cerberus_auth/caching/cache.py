"""The warm container's token: two windows, two clocks, one flight, fail fast.

A token is handed out until its usable life is over: its lease, counted from just before it was asked for, less a margin.
*Refresh window*: from a point drawn at random for each container in the last fifth of the usable life, one caller renews, in
little time, while the others keep the old token. *Must refresh*: after the usable life all wait for one renewal.
"""

from __future__ import annotations

import logging
import threading
import time

from ..authentication.token import Asked, Wanted, usable_seconds
from ..deadline import Deadline, jitter
from ..errors import CerberusError, CerberusUnavailable, DeadlineExceeded, RenewedElsewhere

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from ..authentication.token import Token

    class Authenticate(Protocol):
        """How the cache gets a token."""

        def __call__(self, deadline: Deadline, wanted: Wanted) -> Token:
            """A new token that will do, or a ``CerberusError``."""


_logger = logging.getLogger("cerberus_auth")

REFRESH_SECONDS = 2.0  # what the one caller who renews early may wait
_REFRESH_WINDOW = 0.2  # of the usable life
_FIRST_PAUSE_SECONDS = 0.25
_MAX_PAUSE_SECONDS = 4.0
_ABANDON_SECONDS = 1.0  # past its deadline, a flight is not waited for
_SAME_TIME = 1.1  # times as long is as long: part of a caller's time is spent before it comes here


class Held:
    """A token with the moments of its life, each by the monotonic and by the wall clock: the earlier one counts, since a
    frozen container stops the one and an adjusted clock can step the other back."""

    __slots__ = ("end", "end_wall", "fresh", "fresh_wall", "usable", "value")

    def __init__(self, token: Token, margin: float, early: float) -> None:
        usable = usable_seconds(token.lease_seconds, margin)
        fresh = usable * (1 - _REFRESH_WINDOW * early)
        self.value = token.value
        self.usable = usable
        self.fresh = token.asked.monotonic + fresh
        self.fresh_wall = token.asked.wall + fresh
        self.end = token.asked.monotonic + usable
        self.end_wall = token.asked.wall + usable

    def __reduce__(self) -> str:
        raise TypeError("a token is not written anywhere: authenticate where it is needed")

    def is_fresh(self) -> bool:
        """Whether the refresh window has not begun."""
        return time.monotonic() < self.fresh and time.time() < self.fresh_wall

    def is_usable(self) -> bool:
        """Whether the token may be handed out."""
        return time.monotonic() < self.end and time.time() < self.end_wall

    def ends_within(self, seconds: float) -> bool:
        """Whether the usable life will be over in so many seconds; never said of a token in the first half of it."""
        left = min(self.end - time.monotonic(), self.end_wall - time.time())
        return left < min(seconds, self.usable / 2)


class _Flight:
    """One authentication under way, and those who wait for it. ``early``: a token is held that still serves."""

    __slots__ = ("began", "early", "error", "landed", "seconds")

    def __init__(self, seconds: float, early: bool = False) -> None:
        self.began = Asked()
        self.seconds = seconds
        self.early = early
        self.landed = threading.Event()
        self.error: CerberusError | None = None

    def is_abandoned(self) -> bool:
        """Whether it is past its time by either clock, as when Lambda has frozen it in mid-request: wait for it no more."""
        age = max(time.monotonic() - self.began.monotonic, time.time() - self.began.wall)
        return age > self.seconds + _ABANDON_SECONDS


class _Failure:
    """The last failure, raised again to whoever comes before its pause is over."""

    __slots__ = ("count", "end", "end_wall", "error", "seconds")

    def __init__(self, error: CerberusError, count: int, seconds: float) -> None:
        pause = min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(count, 10)) * (0.5 + jitter() / 2)
        self.error = error
        self.count = count + 1
        self.seconds = seconds  # that the authentication had
        self.end = time.monotonic() + pause
        self.end_wall = time.time() + pause

    def holds_for(self, deadline: Deadline, early: bool) -> bool:
        """Whether its pause lasts by both clocks. For want of time it says nothing to those who have more: a service that
        needs three seconds fails a renewal in the refresh window, and still serves whoever can wait. That another
        container renews is for those who hold a token."""
        if isinstance(self.error, RenewedElsewhere) and not early:
            return False
        if isinstance(self.error, DeadlineExceeded) and deadline.remaining() > self.seconds * _SAME_TIME:
            return False
        return time.monotonic() < self.end and time.time() < self.end_wall


class TokenCache:
    """One token for all threads of the process. Its lock is never held across the network."""

    def __init__(self, authenticate: Authenticate, *, timeout: float, margin: float) -> None:
        self.held: Held | None = None  # a plain slot: readers of a fresh token take no lock
        self._authenticate = authenticate
        self._timeout = timeout
        self._margin = margin
        self._generation = 0
        self._refused: str | None = None
        self._since = 0.0  # when the last token was asked for, by the wall clock
        self.start_anew()

    def start_anew(self) -> None:
        """After a fork or a restore: locks and flights of threads that are no more, and the jitter of another container.

        A token held stays: in a forked child it is as good as in its parent.
        """
        self._lock = threading.Lock()
        self._early = jitter()
        self._flight: _Flight | None = None
        self._prefetch: _Flight | None = None
        self._failure: _Failure | None = None
        self.renewed_beside = False  # whether an extension renews in the refresh window, so that no caller has to

    def get(self, timeout: float | None = None) -> str:
        """The token's value: the one held, or after an authentication a new one.

        Parameters
        ----------
        timeout
            Seconds that this caller will wait; never longer than the cache's own.

        Raises
        ------
        CerberusError
            What the authentication raised, an equal for each caller; at once while a failure is recent.
        DeadlineExceeded
            The time is up.
        """
        deadline = Deadline(self._timeout if timeout is None else min(timeout, self._timeout))
        while True:
            with self._lock:
                held, flight, failure = self.held, self._flight, self._failure
                prefetch, self._prefetch = self._prefetch, None
                if held is not None and held.is_fresh():
                    return held.value
                if flight is not None and flight.is_abandoned():
                    flight = None
                usable = held is not None and held.is_usable()
                limit = deadline.within(REFRESH_SECONDS) if usable else deadline
                pauses = failure is not None and failure.holds_for(limit, usable)
                if usable and held is not None and (self.renewed_beside or flight is not None or pauses):
                    return held.value
                if prefetch is not None and prefetch.error is not None and not prefetch.is_abandoned():
                    error, self._failure = prefetch.error.fresh(), None  # the next caller tries anew
                    break
                if flight is None and failure is not None and pauses:
                    error = failure.error.fresh()
                    break
                leads = flight is None
                if flight is None:
                    flight = self._flight = _Flight(limit.remaining(), usable)
            if leads:
                self._fly(flight, limit)
            else:
                flight.landed.wait(deadline.check("waiting for another thread's authentication"))
            held = self.held
            if flight is prefetch:
                self._failure = None  # the next caller tries anew
            if held is not None and held.is_usable():
                if leads and flight.error is not None:
                    _warn(flight.error)
                return held.value
            timed_out = isinstance(flight.error, DeadlineExceeded | RenewedElsewhere)
            if flight.error is not None and (not timed_out or (leads and limit is deadline)):
                error = flight.error.fresh()
                break
            # It had less time than we have, or was forgotten as it landed: then it is our turn.
            deadline.check("waiting for an authentication")
        raise error

    def prefetch(self) -> None:
        """Begin an authentication in a thread of its own. The first ``get`` waits for what is left of it, and raises its
        error if it failed; the one after tries anew."""
        with self._lock:
            if self.held is not None or self._flight is not None:
                return
            deadline = Deadline(self._timeout)
            flight = self._flight = self._prefetch = _Flight(deadline.seconds)
        threading.Thread(target=self._fly, args=(flight, deadline), name="cerberus-auth-prefetch", daemon=True).start()

    def renew(self, deadline: Deadline, ahead: float = 0) -> None:
        """Renew now if the refresh window has begun and nobody does so; the failure, if it fails, is remembered.

        Parameters
        ----------
        ahead
            Seconds until the next chance to renew: also renew a token that will not last so long.
        """
        with self._lock:
            held, failure = self.held, self._failure
            deadline = deadline.within(self._timeout)
            if held is None or (held.is_fresh() and not held.ends_within(ahead)):
                return
            if failure is not None and failure.holds_for(deadline, held.is_usable()):
                return
            if self._flight is not None and not self._flight.is_abandoned():
                return
            flight = self._flight = _Flight(deadline.seconds, held.is_usable())
        self._fly(flight, deadline)
        if flight.error is not None:
            _warn(flight.error)

    def invalidate(self, refused: str | None = None) -> None:
        """Forget the token and any remembered failure.

        Parameters
        ----------
        refused
            Only if this is the token held: it is what the service refused, and if it hands it out again, that is a failure.
        """
        with self._lock:
            if refused is not None:
                if self.held is None and self._refused is None:
                    self._refused = refused
                if self.held is None or self.held.value != refused:
                    return  # somebody has renewed or reported it already: the failure that followed stays remembered
            self.held = None
            self._failure = None
            self._refused = refused
            if refused is None:
                self._generation += 1  # what is under way is forgotten too
                self._prefetch = None

    def give_up(self, refused: str, error: CerberusError) -> None:
        """Drop a token that was refused as soon as it was had, and raise the error to whoever comes next."""
        with self._lock:
            if self.held is not None and self.held.value == refused:
                self.held, self._refused = None, refused
                self._failure = _Failure(error.fresh(), 0, self._timeout)

    def _fly(self, flight: _Flight, deadline: Deadline) -> None:
        generation, wanted = self._generation, Wanted(self._refused, self._since, flight.early)
        held: Held | None = None
        try:
            try:
                token = self._authenticate(deadline, wanted)
                self._since = max(self._since, token.asked.wall)
                held = Held(token, self._margin, self._early)
                if not held.is_usable():
                    held = None
                    raise CerberusUnavailable(
                        f"the lease of {token.lease_seconds} s was over before the answer was here: see Cerberus' lease setting"
                    )
            except CerberusError as error:
                flight.error = error.fresh()
            except Exception as error:  # a defect: its frames hold what nobody should see
                flight.error = CerberusError(
                    f"unexpected {type(error).__name__} while authenticating: please report it"
                )
        finally:  # whatever happens, those who wait go on
            with self._lock:
                current = self._flight is flight
                if current:
                    self._flight = None
                if generation != self._generation:
                    pass
                elif held is not None:
                    self._failure = None
                    surpassed = not current and self.held is not None and self.held.is_usable()
                    if held.value != self._refused and not surpassed:
                        self.held, self._refused = held, None
                # A caller's own short timeout says nothing about the service; nor does a flight that was given up.
                elif (
                    current
                    and not flight.is_abandoned()
                    and flight.error is not None
                    and not (
                        isinstance(flight.error, DeadlineExceeded)
                        and flight.seconds * _SAME_TIME < min(self._timeout, REFRESH_SECONDS)
                    )
                ):
                    count = self._failure.count if self._failure else 0
                    self._failure = _Failure(flight.error, count, flight.seconds)
            flight.landed.set()


def _warn(error: CerberusError) -> None:
    if isinstance(error, RenewedElsewhere):
        return
    _logger.warning("the token could not be renewed; the old one serves for now. %s: %s", type(error).__name__, error)
