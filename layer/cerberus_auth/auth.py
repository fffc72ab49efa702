"""``CerberusAuth``: the token."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

from .authentication.kms import KmsAuth, OlderKmsAuth
from .authentication.sequence import Sequence
from .authentication.token import Wanted, usable_seconds
from .authentication.wire import CLIENT_HEADERS, TOKEN_HEADER, read_refusal, transient
from .aws.calls import connect
from .caching.breaker import Breaker
from .caching.cache import Cache
from .caching.kept import GONE, Kept, Lifetime
from .deadline import Deadline, Moment, Pause
from .errors import AccessDenied, CerberusError, CerberusUnavailable, SecretNotFound, TokenRefused
from .http.transport import Transport
from .lifecycle.process import process
from .settings import Settings, unknown_variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol, TypeVar

    import requests

    from .authentication.record import Authentication
    from .authentication.sequence import AuthMethod
    from .authentication.token import Token
    from .aws.calls import Aws
    from .caching.flight import Flight
    from .http.transport import Response
    from .sharing.policy import Sharing

    T = TypeVar("T")

    class LambdaContext(Protocol):
        """The part of a handler's context that is used here."""

        def get_remaining_time_in_millis(self) -> int:
            """Return the milliseconds until Lambda ends the invocation."""


_TOKEN = "token"  # noqa: S105  (the key of the token in its cache)
_REFRESH_WINDOW = 0.2  # of the usable life: where containers refresh their tokens, each at a random point
_KEPT_AUTHENTICATIONS = 16
_ANSWER_SECONDS = 0.3  # of an invocation's remaining time, left to the handler to answer in
_FOREVER = Lifetime(float("inf"), float("inf"), float("inf"))
# Of the request's target: the folder below the version.
_OPERATIONS = {
    "auth": "auth",
    "secret": "read",
    "secure-file": "file",
    "secure-files": "list",
    "secret-versions": "versions",
    "safe-deposit-box": "list",
}

_logger = logging.getLogger("cerberus_auth")


class CerberusAuth:
    """Authenticates to Cerberus as the function's execution role, once for each container and lease.

    Create one at module scope: it reads the environment and does not use the network. Instances with equal settings share
    one token in the process. It is also what ``requests`` takes as ``auth=``.

    Parameters
    ----------
    settings
        In place of those of the environment.

    Raises
    ------
    ConfigurationError
        Names every problem of the settings at once.
    TypeError
        ``settings`` is not a ``Settings``.

    Examples
    --------
    >>> auth = CerberusAuth()                                   # doctest: +SKIP
    >>> requests.get(f"{url}/v1/secret/app/orders/db", auth=auth)  # doctest: +SKIP
    """

    __slots__ = ("_kept", "service", "settings")

    def __init__(self, settings: Settings | None = None) -> None:
        if settings is not None and not isinstance(settings, Settings):
            raise TypeError(f"settings must be a cerberus_auth.Settings, not {type(settings).__name__}")
        if settings is None:
            settings = Settings.from_env()
            for name, near in unknown_variables(os.environ).items():
                advice = f"The nearest setting is {near}" if near else "See the settings in the documentation"
                process.warn_once("Unknown variable %s. %s", name, advice)
        self.settings = settings
        self.service = process.share(self.settings, lambda: Service(self.settings))
        self._kept = self.service.tokens.kept
        if "AWS_LAMBDA_FUNCTION_NAME" in os.environ and not self.settings.token:
            self.service.initialise()

    def token(self, timeout: float | None = None, *, context: LambdaContext | None = None) -> str:
        """Return the cached token, or a new one.

        Parameters
        ----------
        timeout
            Seconds to wait at most; ``CERBERUS_TIMEOUT`` by default.
        context
            The handler's: wait no longer than the invocation lasts, less 0.3 s to answer in.

        Raises
        ------
        CerberusError
            See the documentation, "Errors".
        """
        kept = self._kept.get(_TOKEN)
        if kept is not None and time.monotonic() < kept.fresh and time.time() < kept.fresh_wall:
            value: str = kept.value
            return value
        value = self.service.token(caller_deadline(self.settings, timeout, context)).value
        return value

    def invalidate(self) -> None:
        """Forget the token and any remembered failure. The next ``token()`` authenticates."""
        self.service.invalidate()

    def close(self, revoke: bool = False) -> None:
        """Forget the token and close the connections. The next ``token()`` starts anew.

        Parameters
        ----------
        revoke
            Also end the token at the service, for every container that shares it.

        Raises
        ------
        CerberusError
            The service could not be told. The token is forgotten all the same.
        """
        kept = self._kept.get(_TOKEN)
        self.service.invalidate()
        try:
            if revoke and kept is not None and kept.stage() < GONE:
                self.service.revoke(kept)
        finally:
            self.service.close()

    @property
    def authentications(self) -> tuple[Authentication, ...]:
        """The last ones with these settings, at most 16, oldest first: their outcome, and what their time went into."""
        from .authentication.record import Authentication  # not where nobody asks

        return tuple(Authentication(*each) for each in self.service.authentications)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the token to a request of ``requests``. After a 401, authenticate once more and send it once more.

        Raises
        ------
        ConfigurationError
            The request goes elsewhere than ``CERBERUS_URL``: a token is for its own service only.
        """
        from .requests_auth import prepare  # not where nobody uses requests

        return prepare(self, request)

    def __repr__(self) -> str:
        return f"<CerberusAuth for {self.settings.url}>"


def caller_deadline(settings: Settings, timeout: float | None, context: LambdaContext | None) -> Deadline:
    """Return when a caller's time is up: its timeout or the settings', and what its invocation leaves."""
    seconds = settings.timeout if timeout is None else timeout
    if context is not None:
        left = context.get_remaining_time_in_millis() / 1000
        process.used_with(left, settings.timeout)
        seconds = min(seconds, left - _ANSWER_SECONDS)
    return Deadline(seconds)


def initialisation_seconds(settings: Settings) -> float:
    """Return how long to wait for a prefetch. With provisioned concurrency, Lambda freezes what is still under way."""
    waits = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "provisioned-concurrency"
    return settings.timeout if waits else 0.0


class Service:
    """One Cerberus as this process uses it: what all instances with equal settings share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.usage = Usage()
        self.transport = Transport(settings, self.usage.sent)
        self.breaker = Breaker()
        self.tokens = Cache(self.breaker, timeout=settings.timeout, attempt_seconds=settings.read_timeout)
        self.authentications: deque[tuple[Any, ...]] = deque(maxlen=_KEPT_AUTHENTICATIONS)
        self._authenticated = 0
        self._was_shared = False  # whether another container of the fleet had the last token
        self.refusals = Refusals()
        self._aws: Aws | None = None
        self._sequence: Sequence | None = None
        self._sharing: Sharing | None = None
        self._principal = settings.principal
        self.is_initialised = False
        self._since = 0.0  # when the token that was forgotten had been requested
        self._lock = threading.RLock()
        self.invalidate()
        process.register(self)

    # What callers ask for

    def token(self, deadline: Deadline, within: Flight | None = None) -> Kept:
        """Return the token that is kept, or the one of an authentication."""
        return self.tokens.get(_TOKEN, self._authenticate, deadline, within=within)

    def ask(
        self, url: str, path: str, flight: Flight, parse: Callable[[Response], T], is_file: bool = False
    ) -> tuple[Response, T, Moment]:
        """Send a read with the token, and again with another token after a 401.

        Parameters
        ----------
        path
            As errors name it.
        parse
            Makes a value of an answer with status 200.

        Returns
        -------
        tuple
            The answer, the value, and the moment just before the request was sent.

        Raises
        ------
        CerberusError
            As ``CerberusClient.read``.
        """
        authenticated, left = False, 3  # a token that others shared can be dead too
        while True:
            token, response, asked = self._send(url, flight)
            if response.status != 401:
                break
            if authenticated or not left:
                self.refusals.not_helped(token)
                raise TokenRefused(
                    f"Cerberus answered 401 to {path!r}, with a new token too. Check the path, and Cerberus' log"
                )
            authenticated, left = self.replace(token, url, flight.deadline, flight), left - 1
        refusal: CerberusError | None = None
        value: Any = None
        with flight.deadline.step("read"):
            if response.status == 200:
                value = parse(response)
            else:
                refusal = read_refusal(response, path, file=is_file)
                if not isinstance(refusal, AccessDenied | SecretNotFound):
                    raise refusal
        self.breaker.answered()
        self.refusals.accepted(url)
        if refusal is not None:
            raise refusal
        return response, value, asked

    def sharing(self, flight: Flight) -> tuple[Sharing, str] | None:
        """Return what shares secrets, and the principal; None where they are not shared."""
        if not self.settings.shared_cache_key or self.settings.token:
            return None
        self.load()
        if not self._principal:
            self.token(flight.deadline, flight)  # whose answer names it
        if self._sharing is None or not self._sharing.has_secrets or not self._principal:
            return None
        return self._sharing, self._principal

    def _send(self, url: str, flight: Flight) -> tuple[Kept, Response, Moment]:
        token, asked = self.token(flight.deadline, flight), Moment()

        def headers() -> dict[str, str]:
            nonlocal token, asked
            token, asked = self.token(flight.deadline, flight), Moment()  # a short lease can end between two attempts
            return {**CLIENT_HEADERS, TOKEN_HEADER: token.value}

        with flight.deadline.step("read"):
            response = self.transport.request(
                "Cerberus", "GET", url, flight.deadline, headers=headers, transient=transient
            )
        return token, response, asked

    def replace(self, refused: Kept, url: str, deadline: Deadline, within: Flight | None = None) -> bool:
        """Have another token than one that Cerberus answered with 401 (see the documentation, "A 401").

        However many callers come with the same token, there is one authentication.

        Returns
        -------
        bool
            Whether an authentication brought it; otherwise it was there already, or another container's.

        Raises
        ------
        TokenRefused
            The 401 concerns the path.
        CerberusUnavailable
            The authentication shows that Cerberus is out of reach. The token stays.
        """
        if self.settings.token:
            raise TokenRefused("Cerberus rejected CERBERUS_TOKEN (401). Remove it, or set one that is valid")
        if self._has_other_than(refused):
            return False
        if not self.refusals.may_authenticate(url, within is not None and within.is_trial):
            if self._has_other_than(refused):
                return False
            raise TokenRefused(
                f"Cerberus answered 401 to {urlsplit(url).path}, and a new token did not help before. Check the path, and "
                f"Cerberus' log"
            )
        try:
            self.tokens.get(
                _TOKEN,
                self._authenticate,
                deadline,
                accepts=lambda kept: kept.value != refused.value and not kept.asked.is_before(refused.asked),
                within=within,
            )
        except TokenRefused:  # the same token again: Cerberus caches its answers
            self.refusals.not_helped(refused)
            raise
        finally:
            self.refusals.authenticated()
        return not self._was_shared

    def _has_other_than(self, refused: Kept) -> bool:
        kept = self.tokens.kept.get(_TOKEN)
        return kept is not None and kept.value != refused.value and kept.stage() < GONE

    def _authenticate(self, flight: Flight) -> Kept:
        """Bring a token: what the cache calls."""
        began, held = Moment(), self.tokens.kept.get(_TOKEN)
        accepts = flight.terms.accepts
        refused = held.value if held is not None and accepts is not None and not accepts(held) else None
        wanted = Wanted(refused, held.asked.wall if held is not None else self._since, flight.after)
        passed = len(flight.deadline.steps)
        token: Token | None = None
        error: CerberusError | None = None
        try:
            token = self.load().authenticate(flight.deadline, wanted)
        except CerberusError as failure:
            error = failure.fresh()
            if held is not None and held.stage() < GONE:
                _logger.warning("Token not renewed, the cached one serves on. %s: %s", type(error).__name__, error)
        steps = tuple(flight.deadline.steps[passed:])
        seconds = time.monotonic() - began.monotonic
        self._authenticated += 1
        who = (token.principal, token.region) if token is not None else ("", "")
        self.authentications.append((self._authenticated, began.wall, seconds, steps, held is not None, *who, error))
        if token is None:
            raise error or CerberusError("no token")
        self._was_shared = not any(step.name == "auth request" for step in steps)
        if not self._was_shared:
            self.breaker.answered()
        self._principal = self._principal or token.principal
        _logger.info(
            "Authenticated to Cerberus as %s in %s, lease %s s%s",
            token.principal or "the execution role",
            token.region,
            token.lease_seconds,
            ", shared" * self._was_shared,
        )
        usable = usable_seconds(token.lease_seconds, self.settings.expiry_margin)
        fresh = usable * (1 - _REFRESH_WINDOW * self.tokens.early)
        kept = Kept(token.value, token.asked, Lifetime(fresh, usable, usable))
        if kept.stage() == GONE:
            raise CerberusUnavailable(
                f"The token's lease of {token.lease_seconds} s was over when it arrived. Check Cerberus' lease setting"
            )
        self.refusals.renewed(kept, refused is not None)
        return kept

    # What happens to the process

    def initialise(self) -> None:
        """Do what Lambda gives a full CPU for, and a small function's handler has not: once."""
        with self._lock:
            if self.is_initialised:
                return
            self.is_initialised = True
            snapshot = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"
            if snapshot:
                process.hook_snapshots()
            self.load()
        if not snapshot:
            self.prefetch()
        if self.settings.renewal == "extension":  # whose first Next ends the initialisation: after the prefetch
            self.renewed_by_extension(process.has_extension())

    def prefetch(self) -> None:
        """Authenticate ahead of the first use, if so set."""
        if self.settings.prefetch.lower() != "off" and self.is_initialised:
            with suppress(CerberusError):  # the flight is under way
                self.token(Deadline(initialisation_seconds(self.settings)))

    def renew(self, deadline: Deadline, ahead: float) -> None:
        """Refresh the token if it is due, or will be in so many seconds."""
        if self.settings.renewal == "extension":
            self.tokens.renew(deadline, ahead)

    def settle(self, seconds: float) -> None:
        """Wait for what is under way."""
        self.tokens.settle(seconds)

    def renewed_by_extension(self, renewed: bool) -> None:
        """Note whether an extension renews."""
        self.tokens.renewed_by_extension = renewed and self.settings.renewal == "extension"

    def load(self) -> Sequence:
        """Load the lane to AWS and the certificate store: no network."""
        with self._lock:
            if self._sequence is None:
                aws = self._aws = connect(self.settings, self.transport)
                self.transport.load()
                if self.settings.shares:
                    from .sharing.policy import Sharing  # not where nobody shares: its import is not free

                    self._sharing = Sharing(self.settings, aws)
                parts = (self.settings, self.transport, aws, self._sharing)

                def sts() -> AuthMethod:
                    from .authentication.sts import StsAuth  # not where KMS works: its import is not free

                    return StsAuth(*parts)

                methods: dict[str, Callable[[], AuthMethod]] = {
                    "kms": partial(KmsAuth, *parts),
                    "sts": sts,
                    "kms v1": partial(OlderKmsAuth, *parts),
                }
                if self.settings.auth_method == "sts":
                    methods = {"sts": sts}
                elif self.settings.auth_method == "kms":
                    del methods["sts"]
                self._sequence = Sequence(self.settings, aws, methods)
            return self._sequence

    def invalidate(self) -> None:
        """Forget the token and every failure. A shared token is taken only if it is newer."""
        if (held := self.tokens.kept.get(_TOKEN)) is not None:
            self._since = held.asked.wall
        self.tokens.forget()
        self.breaker.forget()
        self.refusals.start_anew()
        if self.settings.token:
            self.tokens.kept[_TOKEN] = Kept(self.settings.token, Moment(), _FOREVER)

    def revoke(self, token: Kept) -> None:
        """End a token at the service.

        Raises
        ------
        CerberusError
            The service did not confirm it.
        """

        def headers() -> dict[str, str]:
            return {**CLIENT_HEADERS, TOKEN_HEADER: token.value}

        url, deadline = f"{self.settings.url}/v1/auth", Deadline(self.settings.timeout)
        error: CerberusError | None = None
        try:
            response = self.transport.request("Cerberus", "DELETE", url, deadline, headers=headers)
            if response.status not in (204, 200, 401):  # 401: it has ended already
                error = CerberusError(f"Cerberus did not revoke the token ({response.status}). It ends with its lease")
        except CerberusError as failure:
            error = failure.fresh()
        if error is not None:
            raise error

    def forget(self) -> None:
        """Drop the token, credentials and connections: before a snapshot."""
        self.invalidate()
        self.close()
        self._sequence = self._aws = self._sharing = None

    def close(self) -> None:
        """Close the connections. The next request opens others."""
        self.transport.close()
        if self._aws is not None:
            self._aws.close()

    def start_anew(self) -> None:
        """Drop locks, flights and connections of the process that this one was copied from; keep the token."""
        self._lock = threading.RLock()
        self._sequence = self._aws = self._sharing = None
        self.usage.start_anew()
        self.transport.start_anew()
        self.breaker.start_anew()
        self.tokens.start_anew()
        self.refusals.start_anew()


class Refusals:
    """How often a 401 is worth an authentication (see the documentation, "A 401").

    For a path that this process has read before, and for a token that nothing has accepted yet: at once, then after 5 s,
    doubling to 60 s while it does not help. For all other paths together: once in five minutes.
    """

    _FIRST_SECONDS, _LONGEST_SECONDS, _OTHERS_SECONDS = 5.0, 60.0, 300.0
    _MOST_PATHS = 4096

    def __init__(self) -> None:
        self._paths: dict[str, None] = {}  # that Cerberus has answered for, the latest last
        self.start_anew()

    def start_anew(self) -> None:
        """Forget every 401."""
        self._lock = threading.Lock()
        self._is_accepted = False
        self._count = 0
        self._pause = self._others = Pause(0)
        self._useless: str | None = None  # the last token that did not help
        self._under_way = 0

    def may_authenticate(self, path: str, is_trial: bool) -> bool:
        """Tell whether a 401 to a path is worth an authentication now, or one is under way that is to be joined."""
        with self._lock:
            if not (self._under_way or is_trial):
                is_known = path in self._paths or not self._is_accepted
                if (self._pause if is_known else self._others).lasts():
                    return False
                self._others = Pause(self._OTHERS_SECONDS)
            self._under_way += 1
            return True

    def authenticated(self) -> None:
        """Note that a caller who was allowed to authenticate has done so, or failed to."""
        with self._lock:
            self._under_way -= 1

    def renewed(self, token: Kept, after_401: bool) -> None:
        """Note a new token. In place of a refused one it is taken for as good: the path can have been at fault."""
        self._is_accepted = self._is_accepted and after_401

    def not_helped(self, token: Kept) -> None:
        """Note that a token in place of a refused one was refused too, or was the same."""
        with self._lock:
            if token.value != self._useless:
                self._useless = token.value
                seconds = min(self._LONGEST_SECONDS, self._FIRST_SECONDS * 2.0 ** min(self._count, 9))
                self._pause = Pause(seconds * 0.98)
                self._count += 1

    def accepted(self, path: str) -> None:
        """Note that Cerberus answered for a path."""
        if self._is_accepted and not self._count and path in self._paths:
            return
        with self._lock:
            self._is_accepted, self._count, self._pause = True, 0, Pause(0)
            self._paths[path] = self._paths.pop(path, None)
            if len(self._paths) > self._MOST_PATHS:
                del self._paths[next(iter(self._paths))]


class Usage:
    """Counts the requests that were sent to Cerberus, by operation, and the stale values that were served."""

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """Count from 0, with a lock of its own: in a forked child."""
        self._lock = threading.Lock()
        self._requests: dict[str, int] = {}
        self._stale = 0
        self._stale_age = 0.0

    def sent(self, service: str, target: str) -> None:
        """Note a request by its service and its target, such as ``/v1/secret/app/orders/db``."""
        if service != "Cerberus":
            return
        folder, _, _ = target.lstrip("/").partition("/")[2].partition("/")
        operation = "list" if target.endswith("?list=true") else _OPERATIONS.get(folder.partition("?")[0], "other")
        with self._lock:
            self._requests[operation] = self._requests.get(operation, 0) + 1

    def served_stale(self, age: float) -> None:
        """Note a value that was served past its ``max_age``, and its age in seconds."""
        with self._lock:
            self._stale += 1
            self._stale_age = max(self._stale_age, age)

    def take(self) -> tuple[dict[str, int], int, float]:
        """Return the requests by operation, the stale values and the age of the oldest, and count from 0 again."""
        with self._lock:
            taken = self._requests, self._stale, self._stale_age
            self._requests, self._stale, self._stale_age = {}, 0, 0.0
        return taken
