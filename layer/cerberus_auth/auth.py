"""``CerberusAuth``: what users hold."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from functools import partial

from .authentication.kms import KmsAuth, OlderKmsAuth
from .authentication.record import Authentication
from .authentication.sequence import Sequence
from .authentication.sts import StsAuth
from .authentication.token import ANY, Asked
from .authentication.wire import CLIENT_HEADERS, TOKEN_HEADER
from .aws.calls import connect
from .caching.cache import Held, TokenCache
from .deadline import Deadline
from .errors import CerberusError, RenewedElsewhere, TokenRefused, shielded
from .http.transport import Transport
from .lifecycle import extension
from .settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    import requests

    from .authentication.sequence import AuthMethod
    from .authentication.token import Token, Wanted
    from .aws.calls import Aws

    class LambdaContext(Protocol):
        """The part of a handler's context that is used here."""

        def get_remaining_time_in_millis(self) -> int:
            """Milliseconds until Lambda ends the invocation."""


_logger = logging.getLogger("cerberus_auth")

_MAX_SHARED = 32
_KEPT_AUTHENTICATIONS = 16
_ANSWER_SECONDS = 0.3  # of an invocation's remaining time, left to the handler to answer in


class CerberusAuth:
    """Authenticates to Cerberus as the function's execution role, once per container and lease.

    Make one at module scope: it reads the environment and does not use the network. Instances with equal settings share
    one cache in the process. It is also what ``requests`` takes as ``auth=``.

    Parameters
    ----------
    settings
        In place of those of the environment.

    Raises
    ------
    ConfigurationError
        Names every problem of the settings at once.

    Examples
    --------
    >>> auth = CerberusAuth()                                   # doctest: +SKIP
    >>> requests.get(f"{url}/v1/secret/app/orders/db", auth=auth)  # doctest: +SKIP
    """

    __slots__ = ("_cache", "_shared", "settings")

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_env()
        self._shared = _process.share(self.settings)
        self._cache = self._shared.cache
        if "AWS_LAMBDA_FUNCTION_NAME" in os.environ and not self.settings.token:
            self._shared.initialise()

    def token(self, timeout: float | None = None, *, context: LambdaContext | None = None) -> str:
        """The cached token, or a new one.

        Parameters
        ----------
        timeout
            Seconds to wait at the most; ``CERBERUS_TIMEOUT`` by default, and never more than that.
        context
            The handler's: also wait no longer than the invocation lasts, less 0.3 s to answer in.

        Raises
        ------
        CerberusError
            See README, "Errors and what to do".
        """
        held = self._cache.held
        if held is not None and time.monotonic() < held.fresh and time.time() < held.fresh_wall:
            return held.value
        return self.settings.token or self._cache.get(seconds_left(timeout, context))

    def invalidate(self) -> None:
        """Forget the token, and any remembered failure: the next ``token()`` authenticates."""
        self._cache.invalidate()

    def renewed(self, refused: str, timeout: float | None = None) -> str:
        """A token in place of one that Cerberus has refused with 401.

        However many callers come with the same refused token, at once or later, there is one authentication.

        Raises
        ------
        TokenRefused
            The token is ``CERBERUS_TOKEN``, or the service gives the refused token again.
        CerberusError
            See README, "Errors and what to do".
        """
        self._cache.invalidate(refused)
        del refused  # this frame may be part of an error's traceback
        if self.settings.token:
            raise TokenRefused("Cerberus refuses CERBERUS_TOKEN: remove it, or set one that has not ended")
        return self.token(timeout)

    def refused_again(self, token: str) -> TokenRefused:
        """The error for a new token that was refused like the one before; it is dropped, and callers fail fast for a while."""
        error = TokenRefused("Cerberus refuses (401) a token that it has just given: see the service's log")
        self._cache.give_up(token, error)
        return error

    def close(self, revoke: bool = False) -> None:
        """Forget the token and close the connections. The next ``token()`` starts anew.

        Parameters
        ----------
        revoke
            Also end the token at the service, for every container that shares it.

        Raises
        ------
        CerberusError
            The service could not be told; the token is forgotten all the same.
        """
        held = self._cache.held
        self._cache.invalidate()
        try:
            if revoke and held is not None and held.is_usable():
                shielded(partial(self._revoke, held))
                self._cache.invalidate(held.value)  # the service may hand it out again from its cache
        finally:
            self._shared.close()

    def _revoke(self, held: Held) -> None:
        headers = {**CLIENT_HEADERS, TOKEN_HEADER: held.value}
        url, deadline = f"{self.settings.url}/v1/auth", Deadline(self.settings.timeout)
        response = self.transport.request("Cerberus", "DELETE", url, deadline, headers=lambda: headers)
        if response.status not in (204, 200, 401):  # 401: it has ended already
            raise CerberusError(f"Cerberus does not revoke the token ({response.status}); it ends with its lease")

    @property
    def authentications(self) -> tuple[Authentication, ...]:
        """The last ones of these settings, at most 16, oldest first: what they came to and what their time went into."""
        return tuple(self._shared.authentications)

    @property
    def renewals(self) -> int:
        """How many new tokens a refused one is worth: one; where tokens are shared two, as the first may be shared too."""
        return 2 if self.settings.shares else 1

    @property
    def transport(self) -> Transport:
        """What carries the requests; shared with ``CerberusClient``."""
        return self._shared.transport

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the token to a request of ``requests``; after a 401, authenticate once more and send it once more.

        Raises
        ------
        ConfigurationError
            The request goes elsewhere than ``CERBERUS_URL``: a token is for its own service only.
        """
        from .requests_auth import prepare  # not where nobody uses requests

        return prepare(self, request)

    def __repr__(self) -> str:
        return f"<CerberusAuth for {self.settings.url}>"


def seconds_left(timeout: float | None, context: LambdaContext | None) -> float | None:
    """The shorter of a caller's timeout and what its invocation leaves; None where neither is given."""
    if context is None:
        return timeout
    left = context.get_remaining_time_in_millis() / 1000 - _ANSWER_SECONDS
    return left if timeout is None else min(timeout, left)


class _Shared:
    """What instances with equal settings have in common."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.transport = Transport(settings)
        self.authentications: deque[Authentication] = deque(maxlen=_KEPT_AUTHENTICATIONS)
        self.cache = TokenCache(self.authenticate, timeout=settings.timeout, margin=settings.expiry_margin)
        self._aws: Aws | None = None
        self._sequence: Sequence | None = None
        self._initialised = False
        self._lock = threading.RLock()

    def initialise(self) -> None:
        """What Lambda gives a full CPU for, and a small function's handler has not: once."""
        with self._lock:
            if self._initialised:
                return
            snapshot = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"
            if snapshot:
                _process.hook_snapshots()
            self.load()
            if self.settings.renewal == "extension":
                self.cache.renewed_beside = _process.has_extension()
            self._initialised = True
        if not snapshot:
            self.begin()

    def begin(self) -> None:
        """Authenticate ahead of the first use, if so set."""
        if self.settings.prefetch == "init":
            self.cache.prefetch()

    def load(self) -> Sequence:
        """Load the lane to AWS and the certificate store: no network."""
        with self._lock:
            if self._sequence is None:
                aws = self._aws = connect(self.settings, self.transport)
                self.transport.load()
                shared = None
                if self.settings.shares:
                    from .sharing.policy import SharedCache  # not where nobody shares: its import is not free

                    shared = SharedCache(self.settings, aws)
                methods: list[AuthMethod] = [
                    method(self.settings, self.transport, aws, shared)
                    for method in (KmsAuth, StsAuth, OlderKmsAuth)
                    if self.settings.auth_method in ("auto", method.setting)
                ]
                self._sequence = Sequence(self.settings, aws, methods)
            return self._sequence

    def authenticate(self, deadline: Deadline, wanted: Wanted = ANY) -> Token:
        """What the cache calls for a new token."""
        since, passed = Asked(), len(deadline.steps)

        def note(token: Token | None, error: CerberusError | None = None) -> None:
            number = self.authentications[-1].number + 1 if self.authentications else 1
            seconds, steps = time.monotonic() - since.monotonic, deadline.steps[passed:]
            done = Authentication(number, since.wall, seconds, steps, wanted.since > 0, token, error)
            self.authentications.append(done)

        try:
            token = self.load().authenticate(deadline, wanted)
        except RenewedElsewhere:
            raise
        except CerberusError as error:
            note(None, error)
            raise
        note(token)
        principal = token.principal or "the execution role"
        _logger.info("authenticated to Cerberus as %s in %s, for %s s", principal, token.region, token.lease_seconds)
        return token

    def forget(self) -> None:
        """Before a snapshot: no token, no credentials, no connection."""
        self.cache.invalidate()
        self.close()
        self._sequence = None

    def close(self) -> None:
        """Close the connections; what comes next opens others."""
        self.transport.close()
        if self._aws is not None:
            self._aws.close()

    def start_anew(self) -> None:
        """In a forked child or a restored container: no lock or connection of the process it was copied from."""
        self._lock = threading.RLock()
        self._sequence = None
        self.transport.start_anew()
        self.cache.start_anew()


class _Process:
    """The process-wide cache: what each settings' instances share, and what Lambda and the system do to all of it."""

    def __init__(self) -> None:
        self._shared: dict[Settings, _Shared] = {}
        self._all: weakref.WeakSet[_Shared] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._extension: bool | None = None
        self._hooked = False
        os.register_at_fork(after_in_child=self._forked)

    def share(self, settings: Settings) -> _Shared:
        with self._lock:
            shared = self._shared.pop(settings, None) or _Shared(settings)
            self._shared[settings] = shared  # the last used goes last; the first out is the one unused for longest
            self._all.add(shared)
            if len(self._shared) > _MAX_SHARED:
                del self._shared[next(iter(self._shared))]
            return shared

    def has_extension(self) -> bool:
        """Whether renewals run in an extension. The first to ask registers it, for all."""
        with self._lock:
            if self._extension is None:
                self._extension = extension.start(self._renew, self._extension_ended)
            return self._extension

    def hook_snapshots(self) -> None:
        """SnapStart: forget before the snapshot, start anew after each restore (Lambda's runtime hooks for Python)."""
        with self._lock:
            if self._hooked:
                return
            self._hooked = True
        from snapshot_restore_py import register_after_restore, register_before_snapshot

        register_before_snapshot(self._forget)
        register_after_restore(self._restored)

    def _renew(self, deadline: Deadline, ahead: float) -> None:
        for shared in list(self._all):
            if shared.settings.renewal == "extension":
                shared.cache.renew(deadline, ahead)

    def _extension_ended(self) -> None:
        self._extension = False
        for shared in list(self._all):
            shared.cache.renewed_beside = False

    def _forget(self) -> None:
        for shared in list(self._all):
            shared.forget()

    def _restored(self) -> None:
        for shared in list(self._all):
            beside = shared.cache.renewed_beside  # its thread is restored with the process
            shared.start_anew()
            shared.forget()  # also what another's hook fetched after ours had run
            shared.cache.renewed_beside = beside
            shared.begin()

    def _forked(self) -> None:
        self._lock = threading.RLock()
        self._extension = False  # its thread is the parent's
        for shared in list(self._all):
            shared.start_anew()


_process = _Process()
