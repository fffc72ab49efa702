"""When a container takes what another one shares, claims, waits, and asks Cerberus itself."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial

from .. import errors
from ..authentication.token import usable_seconds
from ..deadline import Moment, Pause, jitter
from ..http.transport import json_object
from .item import (
    FORMAT,
    LONGEST_PAUSE_SECONDS,
    SKEW_SECONDS,
    UNSHARED,
    Item,
    SealFailure,
    StoreBusy,
    StoreFailure,
    StoreSlow,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, TypeVar

    from ..authentication.token import Token, Wanted
    from ..aws.calls import Aws
    from ..deadline import Deadline
    from ..settings import Settings
    from .item import Store

    T = TypeVar("T")
    Plan = Generator[Callable[[], Any], Any, T]
    """Yields each call to make; its driver sends the result or throws the exception. So a simulation can drive it."""
    Renewal = Callable[[], Plan[None]]
    Ask = Callable[[Renewal, bool], tuple[Any, Callable[[], Any]]]

_MIN_PAUSE_SECONDS = 0.05
_FIRST_PAUSE_SECONDS = 0.1
_MAX_PAUSE_SECONDS = 0.8
_MAX_TAKEN = 2  # items that one call opens: an attacker can rewrite an item at will, and each costs a decryption
_MAX_LOST = 4  # claims that one call loses to no other claim
_KEPT_SECONDS = 3600.0  # before DynamoDB deletes an item without a ciphertext
_PUBLISH_ATTEMPTS = 5
_REST_SECONDS = 60.0  # for which a store that failed is left alone
_WARNING_SECONDS = 60.0  # between two warnings about one path
_RENEWAL_SECONDS = 1.0  # a younger claim is not renewed
_FIRST_FAILURE_SECONDS = 5.0
_FORGIVEN_SECONDS = 300.0  # a token that was good for so long was no failure
_FIRST_OUTAGE_SECONDS = 1.0
_OUTAGE_GROWTH = 3.0
_JITTER = 0.05  # of a pause, downwards

_logger = logging.getLogger("cerberus_auth")


def _unknown_region(text: str) -> errors.CerberusError:
    error = errors.PrincipalRejected(text)
    error.unknown_region = error.regional = True
    return error


# What Cerberus answers to every container of the role alike. Other failures can be those of one function's network.
_FLEETWIDE: dict[str, Callable[[str], errors.CerberusError]] = {
    "PrincipalRejected": errors.PrincipalRejected,
    "MethodNotOffered": errors.MethodNotOffered,
    "TokenRefused": errors.TokenRefused,
    "UnknownRegion": _unknown_region,
}


class Policy:
    """The rules. They do nothing by themselves: the plans yield calls.

    Parameters
    ----------
    clock, sleep, random
        Seconds since the epoch; wait so many seconds; a fraction in [0, 1).
    """

    def __init__(
        self,
        clock: Callable[[], float] = lambda: time.time(),
        sleep: Callable[[float], Any] = lambda seconds: time.sleep(seconds),
        random: Callable[[], float] = jitter,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._random = random

    def fetch(
        self,
        store: Store,
        breaker: Store,
        name: str,
        seconds: float,
        claim_seconds: float,
        take: Callable[[Item], Any],
        ask: Ask,
        failed: Callable[[StoreFailure], Any],
        later: Callable[[Plan[None]], Any],
        *,
        refused: bool = False,
        admitted: bool = False,
        looks: bool = False,
    ) -> Plan[Any]:
        """Plan the way to a value.

        Parameters
        ----------
        store, breaker
            Of the value's item, and of the item with the pause of this Cerberus.
        name
            Of the value, alphanumeric: tells paths apart that are answered with 5xx.
        seconds
            That there are.
        claim_seconds
            For which a claim lives: one attempt.
        take
            Opens an item; None if it does not serve.
        ask
            Asks Cerberus. It is given a plan that renews the claim, to carry out before each attempt, and whether this is the
            breaker's trial: then it makes one attempt. Returns the value, or an error that is to be shared, and what makes the
            item to share.
        failed
            Notes a store that cannot be used.
        later
            Takes a plan to carry out when the callers have the value: it publishes.
        refused
            Whether Cerberus refused the token that is shared, so that another one is needed.
        admitted
            Whether this is part of another fetch, which the breaker let through.
        looks
            Whether Cerberus is not asked in the end: there is nothing to claim, and nothing to wait for.

        Raises
        ------
        CerberusError
            What ``take`` and ``ask`` raise, and the failure of another container while its pause lasts.
        DeadlineExceeded
            The time is up, and another container is still fetching.
        """
        value: Any = None
        claimed: Item | None = None
        pause: Item | None = None
        try:
            value, claimed, pause = yield from self._look(
                store, breaker, seconds, claim_seconds, take, refused, admitted, looks
            )
        except StoreBusy:
            pass  # too long for this caller, but it works
        except StoreFailure as failure:
            yield partial(failed, failure)
        if value is not None:
            return value
        if claimed is None:
            value, _ = yield partial(ask, _nothing, False)
            return _value(value)
        claim: Item = claimed

        def renew() -> Plan[None]:
            nonlocal claim
            now = self._clock()
            if claim.claimed_until - now > claim_seconds - _RENEWAL_SECONDS:
                return
            renewed = claim.changed(claimed_until=now + claim_seconds)
            try:
                stored: Item | None = yield partial(store.swap, claim, renewed)
            except StoreFailure:
                return  # then the claim lapses
            if stored is not None and stored.version == renewed.version:
                claim = renewed

        try:
            value, make = yield partial(ask, renew, pause is not None and pause.failures > 0)
        except errors.CerberusError as error:
            if pause is not None and (pause.failures or pause.failure not in ("", name)):
                error.is_fleetwide = True  # the breaker opens, though this container saw one path fail
            later(self._after_failure(store, breaker, claim, pause, name, error, failed))
            raise
        except BaseException:
            later(self._publish(store, claim, claim.changed(claimed_until=0), failed))
            raise
        later(self._after_success(store, breaker, claim, pause, make, failed, refused))
        return _value(value)

    def _look(
        self,
        store: Store,
        breaker: Store,
        seconds: float,
        claim_seconds: float,
        take: Callable[[Item], Any],
        refused: bool,
        admitted: bool,
        looks: bool,
    ) -> Plan[tuple[Any, Item | None, Item | None]]:
        """Plan the way to a value that another container shares, or to a claim, with the breaker's item as it was then.

        Neither of them: nobody shares it, and each container asks by itself.
        """
        began, pause_seconds = self._clock(), _FIRST_PAUSE_SECONDS
        claim: Item | None = None
        pause: Item | None = None
        slow = False
        useless = ""
        taken, lost, others_until = 0, 0, 0.0
        call: Callable[[], Any] = store.get
        while True:
            try:
                seen: Item | None = yield call
                now = self._clock()
                if seen is not None and claim is not None and seen.version == claim.version:
                    return None, claim, pause
                if seen is not None and seen.format > FORMAT:
                    raise StoreFailure("a newer version of the layer wrote the item. Update this function's layer")
                if seen is not None and seen.is_offered(now) and seen.response != useless and taken < _MAX_TAKEN:
                    value = yield partial(take, seen)
                    if value is not None:
                        return value, None, None
                    useless, taken, now = seen.response, taken + 1, self._clock()
                if looks:
                    return None, None, None
                if seen is None or not seen.is_claimed(now, claim_seconds):
                    if seen is not None and seen.is_unshared(now):
                        return None, None, None
                    if seen is not None and (left := seen.pause_at(now)):
                        raise _paused(seen, left)
                    lost += isinstance(call, partial)  # the swap of a claim
                    if lost > _MAX_LOST:
                        raise StoreFailure("Something rewrites its item all the time. Check who can write to it")
                    if not admitted and (pause is None or not pause.failures):
                        pause = yield from self._admission(breaker, claim_seconds)
                    claim = self._claim(seen, self._clock(), claim_seconds, refused)
                    call = partial(store.swap, seen, claim)
                    continue
                others_until, slow = seen.claimed_until, False  # it works for another container
            except StoreBusy:
                now = self._clock()
                if now - began >= seconds / 2 and now >= others_until:
                    raise  # half of the time is left to ask Cerberus in
            except StoreSlow:
                if slow:
                    raise
                slow = True
            if looks:
                return None, None, None
            left = began + seconds - self._clock()
            if left <= 0:
                raise errors.DeadlineExceeded(
                    f"Another container of this role was still asking Cerberus after {seconds:.3g} s. Retry, or allow more "
                    f"time (CERBERUS_TIMEOUT, timeout=)"
                )
            yield partial(self._sleep, min(left, _MIN_PAUSE_SECONDS + self._random() * pause_seconds))
            pause_seconds = min(2 * pause_seconds, _MAX_PAUSE_SECONDS)
            call = store.get

    @staticmethod
    def _claim(seen: Item | None, now: float, seconds: float, refused: bool) -> Item:
        """Return what claims an item. Its ciphertext serves others meanwhile: also a refused token, in case that Cerberus'
        database is down and refuses all of them."""
        if seen is None:
            return Item(expires=now + _KEPT_SECONDS, claimed_until=now + seconds)
        failures = 0 if refused and now - seen.asked > _FORGIVEN_SECONDS else seen.failures
        kept = seen if seen.is_offered(now) else Item(asked=seen.asked, expires=now + _KEPT_SECONDS)
        return kept.changed(claimed_until=now + seconds, paused_until=0, failures=failures, failure="")

    def _admission(self, breaker: Store, claim_seconds: float) -> Plan[Item | None]:
        """Plan the look at the fleet's breaker; after its pause, one container claims the next try.

        Raises
        ------
        CerberusUnavailable
            The pause lasts, or another container tries.
        """
        seen: Item | None = yield breaker.get
        now = self._clock()
        if seen is None or seen.format > FORMAT:
            return None
        if not seen.failures:
            return seen
        left = seen.pause_at(now) or seen.is_claimed(now, claim_seconds)
        if not left:
            trial = seen.changed(claimed_until=now + claim_seconds)
            stored: Item | None = yield partial(breaker.swap, seen, trial)
            if stored is not None and stored.version == trial.version:
                return trial
        error = errors.CerberusUnavailable(
            "Cerberus is unavailable: another container of this role found it out of reach. If it lasts, check Cerberus, and "
            "the network of the functions with this role"
        )
        error.step, error.retry_after = "auth request", float(left or 1)
        raise error

    def _after_success(
        self,
        store: Store,
        breaker: Store,
        claim: Item,
        pause: Item | None,
        make: Callable[[], Any],
        failed: Callable[[StoreFailure], Any],
        refused: bool,
    ) -> Plan[None]:
        now = self._clock()
        try:
            new: Item = yield make
        except StoreFailure as failure:
            yield partial(failed, failure)
            new = Item(asked=now, expires=now + _REST_SECONDS, failure=UNSHARED)
        if refused and new.response:  # a container that is refused with this one too waits, however many there are
            new.paused_until, new.failures = now + self._failure_pause(claim.failures), claim.failures + 1
            new.failure = errors.TokenRefused.__name__
        yield from self._publish(store, claim, new, failed)
        if pause is not None and (pause.failures or pause.failure):
            closed = pause.changed(claimed_until=0, paused_until=0, failures=0, failure="")
            yield from self._publish(breaker, pause, closed, failed)

    def _after_failure(
        self,
        store: Store,
        breaker: Store,
        claim: Item,
        pause: Item | None,
        name: str,
        error: errors.CerberusError,
        failed: Callable[[StoreFailure], Any],
    ) -> Plan[None]:
        now, known = self._clock(), pause or Item()
        outage: Item | None = None
        kind = "UnknownRegion" if error.unknown_region else type(error).__name__
        is_fleetwide = kind in _FLEETWIDE and not error.credentials_refused
        if error.step == "read" and error.status >= 500 and not error.is_fleetwide:
            is_fleetwide = True
            outage = known.changed(failure=name, expires=now + _KEPT_SECONDS)  # another path's 5xx makes it an outage
        elif errors.is_outage(error):
            seconds = _FIRST_OUTAGE_SECONDS * _OUTAGE_GROWTH ** min(known.failures, 9)
            seconds = min(LONGEST_PAUSE_SECONDS, seconds) * (1 - _JITTER * self._random())
            outage = known.changed(
                claimed_until=0,
                paused_until=now + max(seconds, errors.wanted_pause(error)),
                failures=known.failures + 1,
                failure="",
                expires=now + _KEPT_SECONDS,
            )
        after = claim.changed(claimed_until=0)
        if is_fleetwide:
            seconds = self._failure_pause(claim.failures)
            after = after.changed(paused_until=now + seconds, failures=claim.failures + 1, failure=kind)
        if outage is not None:
            yield from self._publish(breaker, pause, outage, failed)
        yield from self._publish(store, claim, after, failed)

    def _failure_pause(self, failures: int) -> float:
        seconds = min(LONGEST_PAUSE_SECONDS, _FIRST_FAILURE_SECONDS * 2.0 ** min(failures, 9))
        return seconds * (1 - _JITTER * self._random())

    def _publish(self, store: Store, seen: Item | None, new: Item, failed: Callable[[StoreFailure], Any]) -> Plan[None]:
        for attempt in range(_PUBLISH_ATTEMPTS):
            try:
                stored: Item | None = yield partial(store.swap, seen, new)
            except StoreBusy:  # by those who wait for this very item
                yield partial(self._sleep, _MIN_PAUSE_SECONDS + self._random() * _FIRST_PAUSE_SECONDS * 2**attempt)
                continue
            except StoreFailure as failure:
                if isinstance(failure, StoreSlow) and attempt == 0:
                    continue
                yield partial(failed, failure)
                return
            if not new.response or stored is None or stored.version == new.version or stored.asked >= new.asked:
                return
            seen = stored  # a claim of a container that took this one for dead


def _nothing() -> Plan[None]:
    return
    yield


def _both(first: Renewal, second: Renewal) -> Plan[None]:
    yield from first()
    yield from second()


def _value(value: Any) -> Any:
    if isinstance(value, errors.CerberusError):
        raise value
    return value


def _paused(item: Item, seconds: float) -> errors.CerberusError:
    error = _FLEETWIDE.get(item.failure, errors.CerberusUnavailable)(
        f"Another container of this role failed with this error. It is tried again in {seconds:.0f} s"
    )
    error.step = "shared cache"
    return error


class _Shelf:
    """A kind of store, or the key, and whether it is left alone for now."""

    def __init__(self, name: str, store: Callable[[str, str, Deadline], Store] | None = None) -> None:
        self.name = name
        self.store = store
        self._rest = Pause(0)
        self._has_warned = False

    def rests(self) -> bool:
        return self._rest.lasts()

    def failed(self, failure: StoreFailure) -> None:
        self._rest = Pause(_REST_SECONDS)
        if not self._has_warned:
            self._has_warned = True
            _logger.warning("%s cannot be used, asking Cerberus instead. %s", self.name, failure)


class Sharing:
    """What the containers of one role share: by a table all of them, by a file the processes of one environment."""

    def __init__(self, settings: Settings, aws: Aws) -> None:
        self._settings = settings
        self._aws = aws
        self._policy = Policy()
        self._table: _Shelf | None = None
        self._file: _Shelf | None = None
        self._key = _Shelf("The key CERBERUS_SHARED_CACHE_KEY")
        self._oversized: set[str] = set()  # so that each is logged once
        self._rejected: dict[str, Pause] = {}  # so that each is logged once a minute
        self._thread = threading.local()  # its ``admitted``: whether a secret's fetch was let through by the breaker
        if settings.shared_cache_table:
            from .table import TableStore

            table = partial(TableStore, aws, settings.shared_cache_table)
            self._table = _Shelf(f"The table {settings.shared_cache_table}", table)
        if settings.max_concurrency > 1:
            from .file import FileStore

            self._file = _Shelf("The file that processes share", FileStore)

    @property
    def has_secrets(self) -> bool:
        """Whether what has to be sealed is shared now: that takes the table and the key."""
        key = self._settings.shared_cache_key
        return self._table is not None and bool(key) and not self._table.rests() and not self._key.rests()

    def token(
        self,
        method: str,
        principal: str,
        region: str,
        deadline: Deadline,
        wanted: Wanted,
        open_response: Callable[[str, Moment], Token],
        request: Callable[[], tuple[Token, str]],
    ) -> Token:
        """Return the token of another container, or the one that ``request`` brings, which is then shared.

        Parameters
        ----------
        method
            ``kms``, ``kms v1``, or ``sts``, whose response is sealed.
        open_response
            Makes a token of a response and the moment of its request.
        request
            Returns a token, and the response to share; it is empty if that cannot be shared.

        Raises
        ------
        CerberusError
            What ``request`` raises, and ``open_response`` if Cerberus could not help.
        """
        while wanted.after:  # what this flight itself claimed before would be waited for
            wanted.after.pop(0)()
        seal = None
        shelves = [shelf for shelf in (self._table, self._file) if shelf is not None and not shelf.rests()]
        if method == "sts":
            from .seal import Seal  # not where KMS does it

            seal = Seal(self._settings, self._aws, principal, deadline)
            shelves = [self._table] if self.has_secrets and self._table is not None else []

        def ask(renew: Renewal, is_trial: bool) -> tuple[Any, Callable[[], Item]]:
            _prepare(deadline, renew, is_trial)
            try:
                token, response = request()
            finally:
                deadline.before_attempt = None  # another method may follow, which renews nothing of this one
            if token.value == wanted.refused:
                raise _same_again()

            def make() -> Item:
                if not response:
                    return _unshared(token.asked)
                shared = response if seal is None else seal.close(response.encode())
                return Item(shared, token.asked.wall, token.asked.wall + token.lease_seconds)

            return (token, make), make

        def take(item: Item) -> tuple[Token, Callable[[], Item]] | None:
            if not wanted.since < item.asked <= time.time() + SKEW_SECONDS:
                return None
            try:
                response = item.response if seal is None else seal.open(item.response).decode()
                # The moment inside the seal cannot be forged; KMS' own ciphertext has none.
                asked = item.asked if seal is None else min(item.asked, _asked(response))
                token = open_response(response, Moment.at(asked))
            except (errors.InvalidResponse, errors.DecryptionDenied, UnicodeDecodeError) as error:
                if getattr(error, "credentials_refused", False):
                    raise
                _logger.warning("Shared auth response rejected. %s: %s", type(error).__name__, error)
                return None
            usable = usable_seconds(token.lease_seconds, self._settings.expiry_margin)
            if token.value == wanted.refused or token.asked.age() >= usable:
                return None
            _logger.info("Using shared auth response (age %.0f s)", token.asked.age())
            return token, lambda: item

        scope = f"{method} {self._settings.url} {region}"
        refused, admitted = wanted.refused is not None, getattr(self._thread, "admitted", False)
        for shelf in shelves:
            known = (refused, admitted, wanted.outage is not None)
            ask = partial(self._ask, ask, shelf, principal, scope, deadline, wanted.after, take, *known)
        found: tuple[Token, Callable[[], Item]] = ask(_nothing, False)[0]
        return found[0]

    def secret(
        self,
        principal: str,
        name: str,
        deadline: Deadline,
        after: list[Callable[[], Any]],
        take: Callable[[Any, Moment, int, int], T | None],
        request: Callable[[], tuple[T | errors.CerberusError, Any, Moment, int]],
        seconds: float,
        looks: bool = False,
    ) -> T:
        """Return what another container read, or what ``request`` brings, which is then shared.

        Parameters
        ----------
        name
            Of what is read: its path, and a query if it is not the secret itself.
        take
            Makes a value of what another container got: the answer, when it was requested, its bytes, its status. None if
            it does not serve.
        request
            Asks Cerberus. Returns the value, or the error of a refusal; the answer, when it was requested, its status.
        seconds
            For which the answer serves others.
        looks
            Whether ``request`` asks nobody, and raises.

        Raises
        ------
        CerberusError
            What ``take`` and ``request`` raise or return.
        """
        from .seal import Seal, pack, unpack

        seal = Seal(self._settings, self._aws, principal, deadline, name)

        def ask(renew: Renewal, is_trial: bool) -> tuple[Any, Callable[[], Item]]:
            _prepare(deadline, renew, is_trial)
            self._thread.admitted = True
            try:
                value, answer, asked, status = request()
            finally:
                self._thread.admitted = False

            def make() -> Item:
                packed = pack(answer, asked, status)
                if packed is None:
                    if name not in self._oversized:
                        self._oversized.add(name)
                        seal.warn_of_size()
                    return _unshared(asked)
                self._oversized.discard(name)
                return Item(seal.close(packed), asked.wall, asked.wall + seconds)

            return value, make

        def open_item(item: Item) -> T | None:
            try:
                answer, asked, size, status = unpack(seal.open(item.response))
            except errors.InvalidResponse as error:
                if name not in self._rejected or not self._rejected[name].lasts():
                    self._rejected[name] = Pause(_WARNING_SECONDS)
                    _logger.warning("Shared answer rejected: %s: %s", name, error)
                return None
            return take(answer, asked, size, status)

        store = partial(self._ask, ask, self._table, principal, self._scope(name), deadline, after, open_item)
        value: T = store(False, False, looks, _nothing, False)[0]
        return value

    def forget(self, principal: str, name: str, deadline: Deadline) -> None:
        """Have every container read a secret anew when its own copy is due.

        Raises
        ------
        StoreFailure
            The table cannot be used.
        """
        assert self._table is not None and self._table.store is not None  # noqa: S101, PT018  (has_secrets)
        store = self._table.store(principal, self._scope(name), deadline)
        seen = store.get()
        for _ in range(_PUBLISH_ATTEMPTS):
            # Its moment is now: a container that asked before does not publish over it.
            mark = Item(asked=time.time(), expires=time.time() + _KEPT_SECONDS)
            stored = store.swap(seen, mark)
            if stored is not None and stored.version == mark.version:
                return
            seen = stored
        raise StoreBusy("other containers write the item at this moment. Try again")

    def _scope(self, name: str) -> str:
        return f"secret {self._settings.url} {_hash(name)}"

    def _ask(
        self,
        ask: Ask,
        shelf: _Shelf | None,
        principal: str,
        scope: str,
        deadline: Deadline,
        after: list[Callable[[], Any]],
        take: Callable[[Item], Any],
        refused: bool,
        admitted: bool,
        looks: bool,
        renew: Renewal,
        is_trial: bool,
    ) -> tuple[Any, Callable[[], Any]]:
        """Ask a store before what ``ask`` asks.

        It can be what another store asks, whose claim ``renew`` renews, and whose breaker makes a trial of it.
        """
        assert shelf is not None and shelf.store is not None  # noqa: S101, PT018  (has_secrets)

        def ask_within(own: Renewal, own_trial: bool) -> tuple[Any, Callable[[], Any]]:
            return ask(partial(_both, renew, own), is_trial or own_trial)

        def later(plan: Plan[None]) -> None:
            # The file first: it is the quicker one, and Lambda can freeze or end the process.
            after.insert(0 if shelf is self._file else len(after), partial(run, plan))

        def failed(failure: StoreFailure) -> None:
            (self._key if isinstance(failure, SealFailure) else shelf).failed(failure)

        value: Any = run(
            self._policy.fetch(
                shelf.store(principal, scope, deadline),
                shelf.store(principal, f"breaker {self._settings.url}", deadline),
                _hash(scope),
                deadline.remaining(),
                self._settings.read_timeout + 1,
                take,
                ask_within,
                failed,
                later,
                refused=refused,
                admitted=admitted,
                looks=looks,
            )
        )
        return value, value[1] if isinstance(value, tuple) else _no_item


def _prepare(deadline: Deadline, renew: Renewal, is_trial: bool) -> None:
    deadline.before_attempt = lambda: run(renew())
    if is_trial:
        deadline.attempts = 1


def _unshared(asked: Moment) -> Item:
    return Item(asked=asked.wall, expires=asked.wall + _KEPT_SECONDS, failure=UNSHARED)


def _no_item() -> Item:
    return Item()


def _same_again() -> errors.TokenRefused:
    error = errors.TokenRefused("Cerberus returned the token that it rejected before. Retry in a few seconds")
    error.step = "auth request"
    return error


def _asked(document: str) -> float:
    try:
        return float((json_object(document.encode()) or {})["asked"])
    except (ValueError, TypeError, LookupError):
        pass
    raise errors.InvalidResponse("it does not say when it was requested")


def _hash(name: str) -> str:
    from ..aws.sigv4 import digest  # the cheapest SHA-256

    return digest(name.encode())


def run(plan: Plan[T]) -> T:
    """Carry out a plan."""
    go_on: Callable[[], Callable[[], Any]] = partial(next, plan)
    while True:
        try:
            call = go_on()
        except StopIteration as done:
            value: T = done.value
            return value
        try:
            go_on = partial(plan.send, call())
        except Exception as error:
            go_on = partial(plan.throw, error)
