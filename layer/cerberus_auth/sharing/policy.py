"""Decides when a container uses a shared value, claims it, waits for another container, or sends a request to Cerberus.

A *claim* is a lock on an item with an end time: its owner fetches, and the other containers wait for the new value.
``Policy`` has the rules and no I/O. ``Sharing`` applies them to the table and to the file.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial

from .. import errors
from ..authentication.token import usable_seconds
from ..deadline import Moment, Pauses, jitter
from .item import (
    EMPTY_TTL_SECONDS,
    FORMAT,
    MAX_PAUSE_SECONDS,
    SKEW_SECONDS,
    SUSPENSION_SECONDS,
    UNSHARED,
    Item,
    SealFailure,
    StoreBusy,
    StoreFailure,
    StoreSlow,
    StoreState,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, TypeVar

    from ..authentication.token import Token, TokenRequest
    from ..aws.calls import Aws
    from ..deadline import Deadline
    from ..settings import Settings
    from .item import Store

    T = TypeVar("T")
    Operation = Generator[Callable[[], Any], Any, T]
    """A coroutine without I/O: it yields each call and receives its result or exception. A simulation can drive it."""
    Renewal = Callable[[], Operation[None]]  # extends a claim
    FetchItem = Callable[[Renewal, bool], tuple[Any, Callable[[], Any]]]
    """Fetches from Cerberus, with a renewal before each attempt. Is told if it is the breaker's trial. Returns a value and
    what makes its item."""

_MIN_POLL_SECONDS = 0.05
_FIRST_JITTER_SECONDS = 0.1
_MAX_JITTER_SECONDS = 0.8
_MAX_OPENED = 2  # items opened per call: each costs a decryption, and an attacker can rewrite an item at any time
_MAX_LOST_CLAIMS = 4  # failed writes per call to an item that nobody has claimed
_PUBLISH_ATTEMPTS = 5
_WARNING_SECONDS = 60.0  # between two warnings about one path
_OVERSIZED_WARNING_SECONDS = 86_400.0
_MIN_CLAIM_AGE_SECONDS = 1.0  # a younger claim is not renewed
_FIRST_FAILURE_SECONDS = 5.0
_FAILURE_RESET_SECONDS = 300.0  # a token accepted for this long resets the count of failures
_FIRST_OUTAGE_SECONDS = 1.0
_OUTAGE_GROWTH = 3.0
_JITTER = 0.05  # the part by which a pause is randomly shortened

_logger = logging.getLogger("cerberus_auth")


def _unknown_region(text: str) -> errors.CerberusError:
    error = errors.PrincipalRejected(text)
    error.unknown_region = error.regional = True
    return error


# Errors that every container of the role gets. Other errors can come from the network of one function.
_SHARED_ERRORS: dict[str, Callable[[str], errors.CerberusError]] = {
    "PrincipalRejected": errors.PrincipalRejected,
    "MethodNotOffered": errors.MethodNotOffered,
    "TokenRefused": errors.TokenRefused,
    "UnknownRegion": _unknown_region,
}


class Policy:
    """The rules for sharing one value, without I/O: the operations yield their calls.

    ``clock`` returns seconds since the epoch, ``sleep`` waits a number of seconds, ``random`` returns a fraction in [0, 1).
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

    def get_or_fetch(
        self,
        store: Store,
        breaker: Store,
        name: str,
        seconds: float,
        claim_seconds: float,
        open_item: Callable[[Item], Any],
        fetch_item: FetchItem,
        on_failure: Callable[[StoreFailure], Any],
        defer: Callable[[Operation[None]], Any],
        *,
        refused: bool = False,
        admitted: bool = False,
        lookup_only: bool = False,
    ) -> Operation[Any]:
        """Return the shared value, or fetch it and publish it.

        Parameters
        ----------
        store, breaker
            Hold the value's item, and the item with the fleet's breaker for this Cerberus.
        name
            Alphanumeric name of the value. The breaker counts paths that fail with 5xx by it.
        seconds, claim_seconds
            Time limit, and duration of a claim: one attempt.
        open_item
            Opens an item. Returns None if the item is not usable.
        fetch_item
            See ``FetchItem``. In the breaker's trial it makes one attempt. Its value can be an error to share.
        on_failure, defer
            Receive the failure of a store, and the operation that publishes after the callers have the value.
        refused
            Whether Cerberus rejected the shared token, so that another one is needed.
        admitted
            Whether the breaker has admitted the fetch that this one belongs to.
        lookup_only
            Whether Cerberus is not asked: there is nothing to claim and no claim to wait for.

        Raises
        ------
        CerberusError
            ``open_item`` or ``fetch_item`` failed, or another container failed and its pause has not ended.
        DeadlineExceeded
            The time limit was reached while another container was fetching.
        """
        value: Any = None
        claimed: Item | None = None
        breaker_item: Item | None = None
        try:
            value, claimed, breaker_item = yield from self._find_or_claim(
                store, breaker, seconds, claim_seconds, open_item, refused, admitted, lookup_only
            )
        except StoreBusy:
            pass  # throttled for the whole time of this caller, but not down
        except StoreFailure as failure:
            yield partial(on_failure, failure)
        if value is not None:
            return value
        if claimed is None:
            value, _ = yield partial(fetch_item, _no_renewal, False)
            return _value_or_raise(value)
        claim: Item = claimed

        def renew() -> Operation[None]:
            nonlocal claim
            now = self._clock()
            if claim.claimed_until - now > claim_seconds - _MIN_CLAIM_AGE_SECONDS:
                return
            renewed = claim.replaced(claimed_until=now + claim_seconds)
            try:
                stored: Item | None = yield partial(store.swap, claim, renewed)
            except StoreFailure:
                return  # the claim then expires
            if stored is not None and stored.version == renewed.version:
                claim = renewed

        try:
            value, make_item = yield partial(fetch_item, renew, breaker_item is not None and breaker_item.failures > 0)
        except errors.CerberusError as error:
            if breaker_item is not None and (breaker_item.failures or breaker_item.failure not in ("", name)):
                error.other_paths_fail = True  # opens the breaker, though this container saw only one path fail
            defer(self._publish_failure(store, breaker, claim, breaker_item, name, error, on_failure))
            raise
        except BaseException:
            defer(self._publish(store, claim, claim.replaced(claimed_until=0), on_failure))
            raise
        defer(self._publish_success(store, breaker, claim, breaker_item, make_item, on_failure, refused))
        return _value_or_raise(value)

    def _find_or_claim(
        self,
        store: Store,
        breaker: Store,
        seconds: float,
        claim_seconds: float,
        open_item: Callable[[Item], Any],
        refused: bool,
        admitted: bool,
        lookup_only: bool,
    ) -> Operation[tuple[Any, Item | None, Item | None]]:
        """Wait for a shared value or a claim. Return the value, the claim, and the breaker's item at that time.

        Without value and claim, the value cannot be shared and each container fetches it.
        """
        began, jitter_seconds = self._clock(), _FIRST_JITTER_SECONDS
        claim: Item | None = None
        breaker_item: Item | None = None
        was_slow = False
        rejected = ""
        opened, lost_claims, other_claim_until = 0, 0, 0.0
        call: Callable[[], Any] = store.get
        while True:
            try:
                seen: Item | None = yield call
                now = self._clock()
                if seen is not None and claim is not None and seen.version == claim.version:
                    return None, claim, breaker_item
                if seen is not None and seen.format > FORMAT:
                    raise StoreFailure(
                        "A newer version of the layer wrote the item. Update the layer of this function."
                    )
                if seen is not None and seen.is_usable(now) and seen.response != rejected and opened < _MAX_OPENED:
                    value = yield partial(open_item, seen)
                    if value is not None:
                        return value, None, None
                    rejected, opened, now = seen.response, opened + 1, self._clock()
                if lookup_only:
                    return None, None, None
                if seen is None or not seen.is_claimed(now, claim_seconds):
                    if seen is not None and seen.is_unshareable(now):
                        return None, None, None
                    if seen is not None and (left := seen.pause_left(now)):
                        raise _pause_error(seen, left)
                    lost_claims += isinstance(call, partial)  # the call was a claim, not a get
                    if lost_claims > _MAX_LOST_CLAIMS:
                        raise StoreFailure("The item is rewritten all the time. Check who has write access.")
                    if not admitted and (breaker_item is None or not breaker_item.failures):
                        breaker_item = yield from self._check_breaker(breaker, claim_seconds)
                    claim = self._claim(seen, self._clock(), claim_seconds, refused)
                    call = partial(store.swap, seen, claim)
                    continue
                other_claim_until, was_slow = seen.claimed_until, False  # the store works for another container
            except StoreBusy:
                now = self._clock()
                if now - began >= seconds / 2 and now >= other_claim_until:
                    raise  # half of the time is left for a request to Cerberus
            except StoreSlow:
                if was_slow:
                    raise
                was_slow = True
            if lookup_only:
                return None, None, None
            left = began + seconds - self._clock()
            if left <= 0:
                raise errors.DeadlineExceeded(
                    f"Another container of this role had no answer from Cerberus after {seconds:.3g} s. Retry, or increase "
                    f"timeout= or CERBERUS_TIMEOUT."
                )
            yield partial(self._sleep, min(left, _MIN_POLL_SECONDS + self._random() * jitter_seconds))
            jitter_seconds = min(2 * jitter_seconds, _MAX_JITTER_SECONDS)
            call = store.get

    @staticmethod
    def _claim(seen: Item | None, now: float, seconds: float, refused: bool) -> Item:
        """Return the item with a claim. It keeps its ciphertext, which other containers can use meanwhile."""
        # Also a refused token stays: while the database of Cerberus is down, Cerberus rejects every token.
        if seen is None:
            return Item(expires=now + EMPTY_TTL_SECONDS, claimed_until=now + seconds)
        failures = 0 if refused and now - seen.asked > _FAILURE_RESET_SECONDS else seen.failures
        kept = seen if seen.is_usable(now) else Item(asked=seen.asked, expires=now + EMPTY_TTL_SECONDS)
        return kept.replaced(claimed_until=now + seconds, paused_until=0, failures=failures, failure="")

    def _check_breaker(self, breaker: Store, claim_seconds: float) -> Operation[Item | None]:
        """Return the fleet's breaker item if it is closed. After its pause, claim the trial for this container.

        Raises
        ------
        CerberusUnavailable
            The breaker is open, or another container makes the trial.
        """
        seen: Item | None = yield breaker.get
        now = self._clock()
        if seen is None or seen.format > FORMAT:
            return None
        if not seen.failures:
            return seen
        left = seen.pause_left(now) or seen.is_claimed(now, claim_seconds)
        if not left:
            trial = seen.replaced(claimed_until=now + claim_seconds)
            stored: Item | None = yield partial(breaker.swap, seen, trial)
            if stored is not None and stored.version == trial.version:
                return trial
        error = errors.CerberusUnavailable(
            "Cerberus is unavailable: another container of this role could not reach it. If it persists, check Cerberus and "
            "the network of the functions with this role."
        )
        error.step, error.retry_after = "auth request", float(left or 1)
        raise error

    def _publish_success(
        self,
        store: Store,
        breaker: Store,
        claim: Item,
        breaker_item: Item | None,
        make_item: Callable[[], Any],
        on_failure: Callable[[StoreFailure], Any],
        refused: bool,
    ) -> Operation[None]:
        now = self._clock()
        try:
            new: Item = yield make_item
        except StoreFailure as failure:
            yield partial(on_failure, failure)
            new = Item(asked=now, expires=now + SUSPENSION_SECONDS, failure=UNSHARED)
        if refused and new.response:  # if this token is rejected too, all containers wait
            new.paused_until, new.failures = now + self._failure_pause(claim.failures), claim.failures + 1
            new.failure = errors.TokenRefused.__name__
        yield from self._publish(store, claim, new, on_failure)
        if breaker_item is not None and (breaker_item.failures or breaker_item.failure):
            closed = breaker_item.replaced(claimed_until=0, paused_until=0, failures=0, failure="")
            yield from self._publish(breaker, breaker_item, closed, on_failure)

    def _publish_failure(
        self,
        store: Store,
        breaker: Store,
        claim: Item,
        breaker_item: Item | None,
        name: str,
        error: errors.CerberusError,
        on_failure: Callable[[StoreFailure], Any],
    ) -> Operation[None]:
        now, known = self._clock(), breaker_item or Item()
        outage: Item | None = None
        kind = "UnknownRegion" if error.unknown_region else type(error).__name__
        is_shared = kind in _SHARED_ERRORS and not error.credentials_refused
        if error.step == "read" and error.status >= 500 and not error.other_paths_fail:
            is_shared = True  # and a 5xx of another path opens the breaker
            outage = known.replaced(failure=name, expires=now + EMPTY_TTL_SECONDS)
        elif errors.is_outage(error):
            seconds = _FIRST_OUTAGE_SECONDS * _OUTAGE_GROWTH ** min(known.failures, 9)
            seconds = min(MAX_PAUSE_SECONDS, seconds) * (1 - _JITTER * self._random())
            outage = known.replaced(
                claimed_until=0,
                paused_until=now + max(seconds, errors.requested_pause(error)),
                failures=known.failures + 1,
                failure="",
                expires=now + EMPTY_TTL_SECONDS,
            )
        released = claim.replaced(claimed_until=0)
        if is_shared:
            seconds = self._failure_pause(claim.failures)
            released = released.replaced(paused_until=now + seconds, failures=claim.failures + 1, failure=kind)
        if outage is not None:
            yield from self._publish(breaker, breaker_item, outage, on_failure)
        yield from self._publish(store, claim, released, on_failure)

    def _failure_pause(self, failures: int) -> float:
        seconds = min(MAX_PAUSE_SECONDS, _FIRST_FAILURE_SECONDS * 2.0 ** min(failures, 9))
        return seconds * (1 - _JITTER * self._random())

    def _publish(
        self, store: Store, seen: Item | None, new: Item, on_failure: Callable[[StoreFailure], Any]
    ) -> Operation[None]:
        for attempt in range(_PUBLISH_ATTEMPTS):
            try:
                stored: Item | None = yield partial(store.swap, seen, new)
            except StoreBusy:  # throttled by the containers that wait for this item
                yield partial(self._sleep, _MIN_POLL_SECONDS + self._random() * _FIRST_JITTER_SECONDS * 2**attempt)
                continue
            except StoreFailure as failure:
                if isinstance(failure, StoreSlow) and attempt == 0:
                    continue
                yield partial(on_failure, failure)
                return
            if not new.response or stored is None or stored.version == new.version or stored.asked >= new.asked:
                return
            seen = stored  # another container claimed after this claim had expired: replace its claim


def _no_renewal() -> Operation[None]:
    return
    yield


def _renew_both(first: Renewal, second: Renewal) -> Operation[None]:
    yield from first()
    yield from second()


def _value_or_raise(value: Any) -> Any:
    if isinstance(value, errors.CerberusError):
        raise value
    return value


def _pause_error(item: Item, seconds: float) -> errors.CerberusError:
    error = _SHARED_ERRORS.get(item.failure, errors.CerberusUnavailable)(
        f"Another container of this role failed with this error. Retry in {int(seconds) + 1} s, or see the log of that "
        f"container."
    )
    error.step = "shared cache"
    return error


class Sharing:
    """Share tokens and secrets: by a table between all containers of a role, by a file between processes."""

    def __init__(self, settings: Settings, aws: Aws) -> None:
        self._settings = settings
        self._aws = aws
        self._policy = Policy()
        self._table: StoreState | None = None
        self._file: StoreState | None = None
        self._key = StoreState("KMS key CERBERUS_SHARED_CACHE_KEY")
        self._oversized = Pauses()  # by name of a value too large to share: each is logged once a day
        self._rejected = Pauses()  # by name of a rejected value: each is logged once a minute
        self._thread = threading.local()  # ``admitted``: the breaker has admitted the secret's fetch in this thread
        if settings.shared_cache_table:
            from .table import TableStore

            table = partial(TableStore, aws, settings.shared_cache_table)
            self._table = StoreState(f"DynamoDB table {settings.shared_cache_table}", table)
        if settings.max_concurrency > 1:
            from .file import FileStore

            self._file = StoreState("Shared cache file", FileStore)

    @property
    def has_secrets(self) -> bool:
        """Whether secrets and STS tokens are shared now. They need the table and the key."""
        key = self._settings.shared_cache_key
        return self._table is not None and bool(key) and not self._table.is_suspended() and not self._key.is_suspended()

    def token(
        self,
        method: str,
        principal: str,
        region: str,
        deadline: Deadline,
        request: TokenRequest,
        open_response: Callable[[str, Moment], Token],
        fetch: Callable[[], tuple[Token, str]],
    ) -> Token:
        """Return the token of another container, or fetch one and share it.

        Parameters
        ----------
        method
            ``kms``, ``kms v1``, or ``sts``. An STS response is sealed.
        request
            Which token is accepted.
        open_response
            Returns the token in a response, given the moment of its request.
        fetch
            Returns a token and the response to share, which is empty if it cannot be shared.

        Raises
        ------
        CerberusError
            ``fetch`` failed, or ``open_response`` failed for a reason that a request to Cerberus does not change.
        """
        while request.publications:  # release earlier claims of this flight, or it waits for itself
            request.publications.pop(0)()
        seal = None
        states = [state for state in (self._table, self._file) if state is not None and not state.is_suspended()]
        if method == "sts":
            from .seal import Seal  # loaded only for STS: a KMS response is encrypted already

            seal = Seal(self._settings, self._aws, principal, deadline)
            states = [self._table] if self.has_secrets and self._table is not None else []

        def fetch_item(renew: Renewal, is_trial: bool) -> tuple[Any, Callable[[], Item]]:
            _prepare_attempts(deadline, renew, is_trial)
            try:
                token, response = fetch()
            finally:
                deadline.before_attempt = None  # the next method has its own claim
            if token.value == request.refused:
                raise _same_token_error()

            def make_item() -> Item:
                if not response:
                    return Item.unshareable(token.asked)
                shared = response if seal is None else seal.close(response.encode())
                return Item(shared, token.asked.wall, token.asked.wall + token.lease_seconds)

            return (token, make_item), make_item

        def open_item(item: Item) -> tuple[Token, Callable[[], Item]] | None:
            if not request.newer_than < item.asked <= time.time() + SKEW_SECONDS:
                return None
            try:
                response = item.response if seal is None else seal.open(item.response).decode()
                # The request time inside the seal cannot be forged. The ciphertext of Cerberus has none.
                asked = item.asked if seal is None else min(item.asked, seal.request_time(response))
                token = open_response(response, Moment.at(asked))
            except (errors.InvalidResponse, errors.DecryptionDenied, UnicodeDecodeError) as error:
                if getattr(error, "credentials_refused", False):
                    raise
                _logger.warning("Shared auth response rejected. %s: %s", type(error).__name__, error)
                return None
            usable = usable_seconds(token.lease_seconds, self._settings.expiry_margin)
            if token.value == request.refused or token.asked.age() >= usable:
                return None
            _logger.info("Using shared auth response (age %.0f s)", token.asked.age())
            return token, lambda: item

        scope = f"{method} {self._settings.url} {region}"
        refused, admitted = request.refused is not None, getattr(self._thread, "admitted", False)
        for state in states:
            fetch_item = partial(
                self._fetch_through,
                fetch_item,
                state,
                principal,
                scope,
                deadline,
                request.publications,
                open_item,
                refused,
                admitted,
                request.outage is not None,
            )
        found: tuple[Token, Callable[[], Item]] = fetch_item(_no_renewal, False)[0]
        return found[0]

    def secret(
        self,
        principal: str,
        name: str,
        deadline: Deadline,
        publications: list[Callable[[], Any]],
        accept: Callable[[Any, Moment, int, int], T | None],
        fetch: Callable[[], tuple[T | errors.CerberusError, Any, Moment, int]],
        seconds: float,
        lookup_only: bool = False,
    ) -> T:
        """Return the value that another container read, or read it from Cerberus and share it.

        Parameters
        ----------
        name
            The quoted path, and a query for a list, file or version.
        publications
            Receives the functions that publish.
        accept
            Called with a shared answer, the moment of its request, its size in bytes and its status. Returns the value, or
            None if the answer is not usable.
        fetch
            Reads from Cerberus. Returns the value or the error of a refusal, the answer, the moment of its request, its status.
        seconds
            How long other containers can use the answer.
        lookup_only
            Whether ``fetch`` only raises the error of an outage.

        Raises
        ------
        CerberusError
            ``accept`` or ``fetch`` raised or returned it.
        """
        from .seal import Seal, pack, unpack

        seal = Seal(self._settings, self._aws, principal, deadline, name)

        def fetch_item(renew: Renewal, is_trial: bool) -> tuple[Any, Callable[[], Item]]:
            _prepare_attempts(deadline, renew, is_trial)
            self._thread.admitted = True
            try:
                value, answer, asked, status = fetch()
            finally:
                self._thread.admitted = False

            def make_item() -> Item:
                packed = pack(answer, asked, status)
                if packed is None:
                    if not self._oversized.lasts(name):
                        self._oversized.start(name, _OVERSIZED_WARNING_SECONDS)
                        seal.warn_of_size()
                    return Item.unshareable(asked)
                return Item(seal.close(packed), asked.wall, asked.wall + seconds)

            return value, make_item

        def open_item(item: Item) -> T | None:
            try:
                answer, asked, size, status = unpack(seal.open(item.response))
            except errors.InvalidResponse as error:
                if not self._rejected.lasts(name):
                    self._rejected.start(name, _WARNING_SECONDS)
                    _logger.warning("Shared value of %s rejected. %s", name, error)
                return None
            return accept(answer, asked, size, status)

        read = partial(
            self._fetch_through,
            fetch_item,
            self._table,
            principal,
            self._scope(name),
            deadline,
            publications,
            open_item,
        )
        value: T = read(False, False, lookup_only, _no_renewal, False)[0]
        return value

    def forget(self, principal: str, name: str, deadline: Deadline) -> None:
        """Remove a shared value. Each container reads it from Cerberus when its own copy is due.

        Raises
        ------
        StoreFailure
            The table cannot be used.
        """
        assert self._table is not None and self._table.store is not None  # noqa: S101, PT018  (has_secrets)
        store = self._table.store(principal, self._scope(name), deadline)
        seen = store.get()
        for _ in range(_PUBLISH_ATTEMPTS):
            # Its request time is now, so that a container with an earlier request does not overwrite it.
            empty = Item(asked=time.time(), expires=time.time() + EMPTY_TTL_SECONDS)
            stored = store.swap(seen, empty)
            if stored is not None and stored.version == empty.version:
                return
            seen = stored
        raise StoreBusy("Other containers are writing the item. Retry in a few seconds.")

    def _scope(self, name: str) -> str:
        return f"secret {self._settings.url} {_hash(name)}"

    def _fetch_through(
        self,
        fetch_item: FetchItem,
        state: StoreState | None,
        principal: str,
        scope: str,
        deadline: Deadline,
        publications: list[Callable[[], Any]],
        open_item: Callable[[Item], Any],
        refused: bool,
        admitted: bool,
        lookup_only: bool,
        renew: Renewal,
        is_trial: bool,
    ) -> tuple[Any, Callable[[], Any]]:
        """Look in one store, and call ``fetch_item`` only if it has no usable value.

        With two stores, the outer one passes its ``renew`` and ``is_trial``: one fetch renews the claims in both.
        """
        assert state is not None and state.store is not None  # noqa: S101, PT018  (has_secrets)

        def fetch_with_renewals(own: Renewal, is_own_trial: bool) -> tuple[Any, Callable[[], Any]]:
            return fetch_item(partial(_renew_both, renew, own), is_trial or is_own_trial)

        def defer(operation: Operation[None]) -> None:
            # The file first: it is faster, and Lambda can freeze the process at any time.
            publications.insert(0 if state is self._file else len(publications), partial(run, operation))

        def on_failure(failure: StoreFailure) -> None:
            (self._key if isinstance(failure, SealFailure) else state).suspend(failure)

        value: Any = run(
            self._policy.get_or_fetch(
                state.store(principal, scope, deadline),
                state.store(principal, f"breaker {self._settings.url}", deadline),
                _hash(scope),
                deadline.remaining(),
                self._settings.read_timeout + 1,
                open_item,
                fetch_with_renewals,
                on_failure,
                defer,
                refused=refused,
                admitted=admitted,
                lookup_only=lookup_only,
            )
        )
        return value, value[1] if isinstance(value, tuple) else Item


def _prepare_attempts(deadline: Deadline, renew: Renewal, is_trial: bool) -> None:
    deadline.before_attempt = lambda: run(renew())
    if is_trial:
        deadline.attempts = 1


def _same_token_error() -> errors.TokenRefused:
    error = errors.TokenRefused("Cerberus returned the token that it rejected before. Retry in a few seconds.")
    error.step = "auth request"
    return error


def _hash(name: str) -> str:
    from ..aws.sigv4 import digest  # loaded already, unlike hashlib

    return digest(name.encode())


def run(operation: Operation[T]) -> T:
    """Make the calls of an operation and return its result."""
    resume: Callable[[], Callable[[], Any]] = partial(next, operation)
    while True:
        try:
            call = resume()
        except StopIteration as done:
            value: T = done.value
            return value
        try:
            resume = partial(operation.send, call())
        except Exception as error:
            resume = partial(operation.throw, error)
