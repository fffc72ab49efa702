"""The shared cache: of a fleet's containers one authenticates, and the others take what it was given.

What is shared is the *encrypted* auth response, as it came, and when it was asked for: in a DynamoDB table between the
containers of a fleet, in a file between the processes of one environment. Whoever takes it decrypts it as if it had just come
from Cerberus, and trusts nothing else of what is stored.

Nothing fails because of it: whatever is wrong with a store, the token comes from Cerberus.
"""

from __future__ import annotations

import logging
import time
from functools import partial

from ..authentication.token import Asked, usable_seconds
from ..deadline import jitter
from ..errors import DecryptionDenied, InvalidResponse, RenewedElsewhere
from .item import CLAIM_SECONDS, SKEW_SECONDS, Item, StoreBusy, StoreFailure, StoreSlow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from ..authentication.token import Token, Wanted
    from ..aws.calls import Aws
    from ..deadline import Deadline
    from ..settings import Settings
    from .item import Store

    Answer = tuple[Token, str | None]  # a token, and the encrypted response to share; None: it cannot be shared
    Plan = Generator[Callable[[], Any], Any, Answer]


WAIT_SECONDS = 4.0  # for a claim that crashed and the one after it
_MIN_PAUSE_SECONDS = 0.05
_FIRST_PAUSE_SECONDS = 0.1
_MAX_PAUSE_SECONDS = 0.8
_SUSPEND_SECONDS = 60.0  # a store that failed is left alone for so long
_CLAIM_KEPT_SECONDS = 3600.0  # for DynamoDB to delete a claim that came to nothing
_PUBLISH_ATTEMPTS = 5

_logger = logging.getLogger("cerberus_auth")


class Policy:
    """When to take what is stored, to claim, to wait, and to ask Cerberus. It does nothing of that itself.

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

    def plan(
        self,
        store: Store,
        wanted: Wanted,
        seconds: float,
        take: Callable[[Item], Token | None],
        ask: Callable[[], Answer],
        failed: Callable[[StoreFailure], Any],
    ) -> Plan:
        """The way to a token, as a generator: it yields each call to make, for its driver to send the result of or to throw
        its exception into, and returns the token. So a simulation drives it in a time of its own.

        Parameters
        ----------
        seconds
            That the caller has; at most half of it is spent on waiting for others.
        take
            The token of an item; None where it is of no use.
        ask
            Authenticates.
        failed
            Takes note of a store that cannot be used.

        Raises
        ------
        RenewedElsewhere
            Somebody else is about to, and the caller holds a token that serves for a while.
        CerberusError
            What ``take`` and ``ask`` raise.
        """
        began = self._clock()
        last, end = began + seconds, began + min(WAIT_SECONDS, seconds / 2)
        pause, works = _FIRST_PAUSE_SECONDS, True
        seen: Item | None = None
        claim: Item | None = None
        claimed = slow = False
        useless: object = None
        call: Callable[[], Any] = store.get
        try:
            while True:
                try:
                    seen = yield call
                except StoreBusy:
                    now = self._clock()
                except StoreSlow:
                    if slow or wanted.early:
                        raise
                    now, slow = self._clock(), True
                else:
                    now = self._clock()
                    if claim is not None and seen is not None and seen.version == claim.version:
                        claimed = True
                        break
                    offered = seen if seen is not None and seen.is_offered(now) else None
                    if offered is not None and offered.asked > wanted.since and offered.version != useless:
                        token = yield partial(take, offered)
                        if token is not None:
                            return token, offered.response
                        useless = offered.version
                        now = self._clock()
                    if now < end and (seen is None or not seen.is_claimed(now)):
                        # Meanwhile it still serves the others, unless it is what Cerberus refuses.
                        kept = offered if wanted.refused is None else None
                        claim = (kept or Item("", 0, now + _CLAIM_KEPT_SECONDS)).claim(now + CLAIM_SECONDS)
                        call = partial(store.swap, seen, claim)
                        continue
                if wanted.early:
                    raise RenewedElsewhere("another container of the fleet is renewing the token")
                if now >= end:
                    break
                yield partial(self._sleep, _MIN_PAUSE_SECONDS + self._random() * pause)
                pause = min(2 * pause, _MAX_PAUSE_SECONDS)
                call = store.get
        except StoreFailure as failure:
            works = False
            yield partial(failed, failure)
        try:
            token, response = yield ask
        except Exception:
            if claimed and claim is not None:
                yield from self._publish(store, claim, claim.claim(0), last, failed)
            raise
        if works and response is not None and token.value != wanted.refused:
            new = Item(response, token.asked.wall, token.asked.wall + token.lease_seconds)
            yield from self._publish(store, claim if claimed else seen, new, last, failed)
        elif claimed and claim is not None:
            yield from self._publish(store, claim, claim.claim(0), last, failed)
        return token, response

    def _publish(
        self, store: Store, seen: Item | None, new: Item, last: float, failed: Callable[[StoreFailure], Any]
    ) -> Generator[Callable[[], Any], Any, None]:
        for attempt in range(_PUBLISH_ATTEMPTS):
            try:
                stored: Item | None = yield partial(store.swap, seen, new)
            except StoreBusy:  # by those who wait for this very item: without it all of them would go to Cerberus
                pause = _MIN_PAUSE_SECONDS + self._random() * _FIRST_PAUSE_SECONDS * 2**attempt
                if not new.response or self._clock() + pause >= last:
                    return
                yield partial(self._sleep, pause)
                continue
            except StoreFailure as failure:
                if isinstance(failure, StoreSlow) and attempt == 0:
                    continue
                yield partial(failed, failure)
                return
            if not new.response or (
                stored is not None and (stored.version == new.version or stored.asked >= new.asked)
            ):
                return
            seen = stored  # a claim of somebody who took us for crashed, or an item that is no more


def run(plan: Plan) -> Answer:
    """Drive a plan."""
    go_on: Callable[[], Callable[[], Any]] = partial(next, plan)
    while True:
        try:
            call = go_on()
        except StopIteration as done:
            answer: Answer = done.value
            return answer
        try:
            go_on = partial(plan.send, call())
        except Exception as error:
            go_on = partial(plan.throw, error)


class _Shelf:
    """A kind of store, and whether it is left alone for now."""

    def __init__(self, name: str, methods: tuple[str, ...], store: Callable[[str, str, Deadline], Store]) -> None:
        self.name = name
        self.methods = methods
        self.store = store
        self._until = (0.0, 0.0)
        self._warned = False

    def serves(self, method: str) -> bool:
        # By both clocks, as with a token: a frozen container stops one of them.
        rests = time.monotonic() < self._until[0] and time.time() < self._until[1]
        return method in self.methods and not rests

    def failed(self, failure: StoreFailure) -> None:
        self._until = (time.monotonic() + _SUSPEND_SECONDS, time.time() + _SUSPEND_SECONDS)
        if not self._warned:
            self._warned = True
            _logger.warning("%s cannot be used; tokens come from Cerberus meanwhile. %s", self.name, failure)


class SharedCache:
    """The stores of this environment: a file between its processes, and behind that the fleet's table."""

    def __init__(self, settings: Settings, aws: Aws) -> None:
        self._settings = settings
        self._policy = Policy()
        self._shelves: list[_Shelf] = []  # each asks the one before it
        if settings.shared_cache_table:
            from .table import TableStore

            methods = ("kms", "sts") if settings.shared_cache_key else ("kms",)
            table = partial(TableStore, aws, settings.shared_cache_table)
            self._shelves.append(_Shelf(f"the table {settings.shared_cache_table}", methods, table))
        if settings.max_concurrency > 1:
            from .file import FileStore

            self._shelves.append(_Shelf("the file that processes share", ("kms",), FileStore))

    def token(
        self,
        method: str,
        principal: str,
        region: str,
        deadline: Deadline,
        wanted: Wanted,
        open_response: Callable[[str, Asked], Token],
        ask: Callable[[], Answer],
    ) -> Token:
        """A shared token, or one that ``ask`` gives, which is then shared.

        Parameters
        ----------
        method
            ``kms`` or ``sts``.
        open_response
            The token of an encrypted response that was asked for then; checks that it is for this principal.

        Raises
        ------
        CerberusError
            What ``ask`` raises, and ``open_response`` where asking Cerberus would not mend it.
        RenewedElsewhere
            As wanted early, and another container is renewing.
        """
        scope = f"{method} {self._settings.url} {region}"
        take = partial(self._take, open_response=open_response, wanted=wanted)
        for shelf in self._shelves:
            if shelf.serves(method):
                store = shelf.store(principal, scope, deadline)
                ask = partial(self._through, shelf, store, wanted, deadline, take, ask)
        return ask()[0]

    def _through(
        self,
        shelf: _Shelf,
        store: Store,
        wanted: Wanted,
        deadline: Deadline,
        take: Callable[[Item], Token | None],
        ask: Callable[[], Answer],
    ) -> Answer:
        return run(self._policy.plan(store, wanted, deadline.remaining(), take, ask, shelf.failed))

    def _take(self, item: Item, *, open_response: Callable[[str, Asked], Token], wanted: Wanted) -> Token | None:
        now = time.time()
        if item.asked > now + SKEW_SECONDS:
            _logger.warning("a shared auth response says that it was asked for in the future; it is not used")
            return None
        try:
            token = open_response(item.response, Asked.at(item.asked))
        except (InvalidResponse, DecryptionDenied) as error:
            _logger.warning("a shared auth response is not used. %s: %s", type(error).__name__, error)
            return None
        usable = usable_seconds(token.lease_seconds, self._settings.expiry_margin)
        if token.value == wanted.refused or now >= token.asked.wall + usable:
            return None
        _logger.info("took an auth response that was asked for %.0f s ago from those who share it", now - item.asked)
        return token
