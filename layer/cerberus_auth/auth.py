"""``CerberusAuth`` provides the token."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

from .authentication.kms import KmsAuth, OlderKmsAuth
from .authentication.sequence import Sequence
from .authentication.token import TokenRequest, usable_seconds
from .authentication.wire import CLIENT_HEADERS, TOKEN_HEADER, read_refusal, transient
from .aws.calls import connect
from .caching.breaker import Breaker
from .caching.cache import PROBE_SECONDS, REFRESH_SECONDS, Cache
from .caching.kept import FRESH, GONE, Kept, Lifetime
from .deadline import Deadline, Moment, Pause
from .errors import (
    AccessDenied,
    CerberusError,
    CerberusUnavailable,
    DeadlineExceeded,
    SecretNotFound,
    TokenRefused,
)
from .http.transport import Transport
from .lifecycle.process import process
from .settings import MAX_SECONDS, Settings, unknown_variables

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
        """The part of the handler's context that this package uses."""

        def get_remaining_time_in_millis(self) -> int:
            """Return the time until Lambda ends the invocation, in milliseconds."""


_TOKEN = "token"  # noqa: S105  (the key of the token in its cache)
_REFRESH_WINDOW = 0.2  # the last part of a token's usable time, in which each container refreshes at a random point
_MAX_AUTHENTICATIONS = 16  # in the record of authentications
_RESPONSE_SECONDS = 0.3  # reserved at the end of an invocation for the handler's response
_FOREVER = Lifetime(float("inf"), float("inf"), float("inf"))
_OPERATIONS = {  # metric dimension by the first folder below the API version
    "auth": "auth",
    "secret": "read",
    "secure-file": "file",
    "secure-files": "list",
    "secret-versions": "versions",
    "safe-deposit-box": "list",
}

_logger = logging.getLogger("cerberus_auth")


class CerberusAuth:
    """Authenticate to Cerberus as the function's execution role, once per container and lease.

    Create one instance at module scope. It reads the environment and does not use the network. Instances with equal
    settings share one token in the process. You can pass an instance to ``requests`` as ``auth=``.

    Parameters
    ----------
    settings : Settings, optional
        Replaces the settings of the environment.

    Attributes
    ----------
    settings : Settings
        The settings in use.
    service : object
        Internal to the package.

    Raises
    ------
    ConfigurationError
        A setting is missing or invalid. The text lists every problem.
    TypeError
        ``settings`` is not a ``Settings``.

    Examples
    --------
    >>> auth = CerberusAuth()
    >>> token = auth.token()
    >>> response = requests.get(f"{url}/v1/secret/app/orders/db", auth=auth, timeout=(2, 5))
    >>> response.status_code
    200
    """

    __slots__ = ("_kept", "service", "settings")

    def __init__(self, settings: Settings | None = None) -> None:
        if settings is not None and not isinstance(settings, Settings):
            raise TypeError(f"settings must be a cerberus_auth.Settings, not {type(settings).__name__}.")
        if settings is None:
            settings = Settings.from_env()
            for name, near in unknown_variables(os.environ).items():
                advice = f"Use {near} or remove the variable" if near else "See the settings in the documentation"
                process.warn_once("Unknown variable %s. %s", name, advice)
        self.settings = settings
        self.service = process.share(self.settings, lambda: Service(self.settings))
        self._kept = self.service.tokens.kept
        if "AWS_LAMBDA_FUNCTION_NAME" in os.environ and not self.settings.token:
            self.service.initialize()

    def token(self, timeout: float | None = None, *, context: LambdaContext | None = None) -> str:
        """Return the cached token, or authenticate and return a new one.

        Parameters
        ----------
        timeout : float, optional
            Maximum time to wait, in seconds. The default is ``CERBERUS_TIMEOUT`` (10).
        context : LambdaContext, optional
            The context of the handler. The call then ends 0.3 seconds before the invocation times out.

        Returns
        -------
        str
            A token that is valid for at least ``CERBERUS_EXPIRY_MARGIN`` seconds (60), or a tenth of a shorter lease.

        Raises
        ------
        PrincipalRejected
            Cerberus rejected the principal, the region or the signature.
        MethodNotOffered
            The authentication method is disabled in Cerberus.
        DecryptionDenied
            KMS denied the decryption of the auth response. The text has the IAM statement to add.
        CerberusUnavailable, BlockedAtEdge
            Cerberus or an AWS service is unavailable, or a firewall rejected the request.
        InvalidResponse
            An answer of Cerberus or AWS does not have the expected format.
        AuthenticationFailed
            Several attempts failed for different reasons. ``attempts`` lists them.
        DeadlineExceeded
            The timeout expired.
        ConfigurationError
            The AWS credentials are missing, or the role is unknown.
        ValueError
            ``timeout`` is NaN.

        Examples
        --------
        >>> token = auth.token(timeout=3)
        """
        kept = self._kept.get(_TOKEN)
        if kept is not None and time.monotonic() < kept.fresh and time.time() < kept.fresh_wall:
            value: str = kept.value
            return value
        value = self.service.token(caller_deadline(self.settings, timeout, context)).value
        return value

    def invalidate(self) -> None:
        """Drop the cached token and all remembered failures. The next ``token()`` authenticates.

        Examples
        --------
        >>> auth.invalidate()
        """
        self.service.invalidate()

    def close(self, revoke: bool = False) -> None:
        """Drop the cached token and close the connections. The next ``token()`` authenticates.

        Parameters
        ----------
        revoke : bool, optional
            Also revoke the token in Cerberus. It then ends for every container that shares it.

        Raises
        ------
        CerberusError
            Cerberus did not confirm the revocation. The cached token is dropped anyway.

        Examples
        --------
        >>> auth.close(revoke=True)
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
        """The last authentications with these settings, oldest first, at most 16: outcome, duration and steps."""
        from .authentication.record import Authentication  # loaded on first use: its import costs time

        return tuple(Authentication(*each) for each in self.service.authentications)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the token to a request of ``requests``. After a 401, get a new token and retry once.

        Parameters
        ----------
        request : requests.PreparedRequest
            A request to ``CERBERUS_URL``.

        Returns
        -------
        requests.PreparedRequest
            The same request, with the header ``X-Cerberus-Token``.

        Raises
        ------
        ConfigurationError
            The request has another origin than ``CERBERUS_URL``.
        CerberusError
            Authentication failed. See ``token``.

        Examples
        --------
        >>> requests.get(f"{url}/v1/secret/app/orders/db", auth=auth, timeout=(2, 5)).json()["data"]["user"]
        'orders'
        """
        from .requests_auth import prepare  # loaded only where requests is used

        return prepare(self, request)

    def __repr__(self) -> str:
        settings = getattr(self, "settings", None)  # missing in a frame of a constructor that failed
        return f"<CerberusAuth for {settings.url}>" if settings else "<CerberusAuth>"


def caller_deadline(settings: Settings, timeout: float | None, context: LambdaContext | None) -> Deadline:
    """Return the deadline of a call: its timeout or CERBERUS_TIMEOUT, and at most a day and the rest of the invocation.

    Raises
    ------
    ValueError
        The timeout is NaN.
    """
    seconds = settings.timeout if timeout is None else timeout
    if math.isnan(seconds):
        raise ValueError("timeout is nan. Pass a number of seconds.")
    seconds = min(seconds, MAX_SECONDS)  # Python's locks accept no infinite timeout
    if context is not None:
        left = context.get_remaining_time_in_millis() / 1000
        process.warn_of_short_timeout(left, settings.timeout)
        seconds = min(seconds, left - _RESPONSE_SECONDS)
    return Deadline(seconds)


def initialization_seconds(settings: Settings) -> float:
    """Return how long initialization waits for a prefetch, in seconds.

    With provisioned concurrency, Lambda freezes the container after initialization, and a request in flight with it.
    """
    waits = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "provisioned-concurrency"
    return settings.timeout if waits else 0.0


class Service:
    """The state that all instances with equal settings share: token cache, breaker, connections and counters."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.usage = Usage()
        self.transport = Transport(settings, self.usage.count_request)
        self.breaker = Breaker()
        self.tokens = Cache(
            self.breaker,
            timeout=settings.timeout,
            attempt_seconds=settings.read_timeout,
            is_shared=settings.shares,
        )
        self.authentications: deque[tuple[Any, ...]] = deque(maxlen=_MAX_AUTHENTICATIONS)
        self._authenticated = 0
        self._was_shared = False  # whether the last token came from the shared cache
        self.reauthentication = ReauthenticationLimit()
        self._aws: Aws | None = None
        self._sequence: Sequence | None = None
        self._sharing: Sharing | None = None
        self._principal = settings.principal
        self.is_initialized = False
        self._dropped_at = 0.0  # request time of the last dropped token, in seconds since the epoch
        self._lock = threading.RLock()
        self.invalidate()
        process.register(self)

    # Tokens and reads

    def token(self, deadline: Deadline, within: Flight | None = None) -> Kept:
        """Return the cached token, or authenticate. ``within`` is the flight of a read that needs the token."""
        return self.tokens.get(_TOKEN, self._authenticate, deadline, within=within)

    def has_fresh_token(self) -> bool:
        """Return whether ``token`` returns at once, without a refresh."""
        kept = self.tokens.kept.get(_TOKEN)
        return kept is not None and kept.stage() == FRESH

    def try_token(self, context: LambdaContext) -> None:
        """Get a token for a caller that can continue without one. It waits as for the refresh of a cached value.

        Raises
        ------
        CerberusError
            See ``CerberusAuth.token``.
        """
        patience = PROBE_SECONDS if self.breaker.has_failed else REFRESH_SECONDS
        deadline = caller_deadline(self.settings, min(patience, self.settings.timeout), context)
        try:
            self.token(deadline)
        except DeadlineExceeded:
            self.breaker.is_slow |= deadline.seconds >= PROBE_SECONDS
            raise

    def read(
        self, url: str, path: str, flight: Flight, parse: Callable[[Response], T], is_file: bool = False
    ) -> tuple[Response, T, Moment]:
        """Send a read with the token. After a 401, retry with another token.

        Parameters
        ----------
        path
            Named in errors.
        parse
            Returns the value in an answer with status 200.

        Returns
        -------
        tuple
            The answer, the value, and the moment just before the request was sent.

        Raises
        ------
        CerberusError
            See ``CerberusClient.read``.
        """
        flight.check_outage()
        authenticated, retries = False, 3  # a token from the shared cache can be revoked too
        while True:
            token, response, asked = self._send(url, flight)
            if response.status != 401:
                break
            if authenticated or not retries:
                self.reauthentication.record_useless(token)
                raise TokenRefused(
                    f"Cerberus rejected a read of {path!r} (401), also with a new token. Check the path and Cerberus' log."
                )
            authenticated, retries = self.replace_token(token, url, flight.deadline, flight), retries - 1
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
        self.reauthentication.record_accepted(url)
        if refusal is not None:
            raise refusal
        return response, value, asked

    def secret_sharing(self, flight: Flight) -> tuple[Sharing, str] | None:
        """Return the shared cache and the principal's ARN; None where secrets are not shared."""
        if not self.settings.shared_cache_key or self.settings.token:
            return None
        self.load()
        if not self._principal:
            self.token(flight.deadline, flight)  # the auth response names the principal
        if self._sharing is None or not self._sharing.has_secrets or not self._principal:
            return None
        return self._sharing, self._principal

    def _send(self, url: str, flight: Flight) -> tuple[Kept, Response, Moment]:
        token, asked = self.token(flight.deadline, flight), Moment()

        def headers() -> dict[str, str]:
            nonlocal token, asked
            token, asked = (
                self.token(flight.deadline, flight),
                Moment(),
            )  # a short lease can expire between two attempts
            return {**CLIENT_HEADERS, TOKEN_HEADER: token.value}

        with flight.deadline.step("read"):
            response = self.transport.request(
                "Cerberus", "GET", url, flight.deadline, headers=headers, transient=transient
            )
        return token, response, asked

    def replace_token(self, refused: Kept, url: str, deadline: Deadline, within: Flight | None = None) -> bool:
        """Replace a token that Cerberus rejected with 401. All callers with the same token share one authentication.

        Parameters
        ----------
        url
            Of the rejected request.
        within
            The flight of the read.

        Returns
        -------
        bool
            Whether this process authenticated. False: the cache or another container had another token.

        Raises
        ------
        TokenRefused
            The 401 concerns the path and not the token.
        CerberusUnavailable
            The authentication failed because Cerberus is unavailable. The cached token stays.
        """
        if self.settings.token:
            raise TokenRefused("Cerberus rejected CERBERUS_TOKEN (401). Remove the variable or set a valid token.")
        if self._has_other_than(refused):
            return False
        if not self.reauthentication.may_authenticate(url, within is not None and within.is_trial):
            if self._has_other_than(refused):
                return False
            raise TokenRefused(
                f"Cerberus rejected a read of {urlsplit(url).path} (401), and a new token did not help before. Check the path "
                f"and Cerberus' log."
            )
        try:
            self.tokens.get(
                _TOKEN,
                self._authenticate,
                deadline,
                accepts=lambda kept: kept.value != refused.value and not kept.asked.is_before(refused.asked),
                within=within,
            )
        except TokenRefused:  # Cerberus returned the same token from its cache
            self.reauthentication.record_useless(refused)
            raise
        finally:
            self.reauthentication.record_finished()
        return not self._was_shared

    def _has_other_than(self, refused: Kept) -> bool:
        kept = self.tokens.kept.get(_TOKEN)
        return kept is not None and kept.value != refused.value and kept.stage() < GONE

    def _authenticate(self, flight: Flight) -> Kept:
        """Authenticate and return the token. The token cache calls this in the flight's thread."""
        began, held = Moment(), self.tokens.kept.get(_TOKEN)
        accepts = flight.terms.accepts
        refused = held.value if held is not None and accepts is not None and not accepts(held) else None
        request = TokenRequest(
            refused, held.asked.wall if held is not None else self._dropped_at, flight.publications, flight.outage
        )
        first_step = len(flight.deadline.steps)
        token: Token | None = None
        error: CerberusError | None = None
        try:
            token = self.load().authenticate(flight.deadline, request)
        except CerberusError as failure:
            error = failure.fresh()
            if held is not None and held.stage() < GONE:
                _logger.warning("Token not renewed, using the cached token. %s: %s", type(error).__name__, error)
        steps = tuple(flight.deadline.steps[first_step:])
        seconds = time.monotonic() - began.monotonic
        if token is not None or flight.outage is None:  # a look-up during an outage is not another failure
            self._authenticated += 1
            who = (token.principal, token.region) if token is not None else ("", "")
            self.authentications.append(
                (self._authenticated, began.wall, seconds, steps, held is not None, *who, error)
            )
        if token is None:
            raise error or CerberusError("Authentication returned no token. Report it as a defect.")
        self._was_shared = not any(step.name == "auth request" for step in steps)
        if not self._was_shared:
            self.breaker.answered()
        self._principal = self._principal or token.principal
        _logger.info(
            "Authenticated to Cerberus as %s in %s (lease %s s%s)",
            token.principal or "the execution role",
            token.region,
            token.lease_seconds,
            ", shared" * self._was_shared,
        )
        usable = usable_seconds(token.lease_seconds, self.settings.expiry_margin)
        fresh = usable * (1 - _REFRESH_WINDOW * self.tokens.jitter)
        kept = Kept(token.value, token.asked, Lifetime(fresh, usable, usable))
        if kept.stage() == GONE:
            raise CerberusUnavailable(
                f"The token expired before it arrived (lease {token.lease_seconds} s). Check the lease setting of Cerberus."
            )
        self.reauthentication.record_renewed(after_401=refused is not None)
        return kept

    # Process lifecycle

    def initialize(self) -> None:
        """Load modules and certificates, and start the prefetch, once. Initialization has a full CPU, a handler may not."""
        with self._lock:
            if self.is_initialized:
                return
            self.is_initialized = True
            snapshot = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"
            if snapshot:
                process.hook_snapshots()
            self.load()
        if not snapshot:
            self._prefetch()
        if self.settings.renewal == "extension":  # after the prefetch: the extension's first Next ends initialization
            self._set_renewed_by_extension(process.has_extension())

    def _prefetch(self) -> None:
        """Start the first authentication, if ``CERBERUS_PREFETCH`` says so."""
        if self.settings.prefetch.lower() != "off" and self.is_initialized:
            with suppress(CerberusError):  # only start the flight
                self.token(Deadline(initialization_seconds(self.settings)))

    def _refresh(self, deadline: Deadline, ahead: float) -> None:
        """Refresh the token if it is due within ``ahead`` seconds and the extension renews."""
        if self.settings.renewal == "extension":
            self.tokens.renew(deadline, ahead)

    def _wait_for_flights(self, seconds: float) -> None:
        """Wait for the authentication in flight, at most ``seconds``."""
        self.tokens.wait_for_flights(seconds)

    def _set_renewed_by_extension(self, is_renewed: bool) -> None:
        """Set whether the extension refreshes the token, so that callers do not."""
        self.tokens.renewed_by_extension = is_renewed and self.settings.renewal == "extension"

    def load(self) -> Sequence:
        """Load the AWS client and the certificate store, and return the authentication sequence. Does not use the network."""
        with self._lock:
            if self._sequence is None:
                aws = self._aws = connect(self.settings, self.transport)
                self.transport.load()
                if self.settings.shares:
                    from .sharing.policy import Sharing  # loaded only where containers share: its import costs time

                    self._sharing = Sharing(self.settings, aws)
                parts = (self.settings, self.transport, aws, self._sharing)

                def sts() -> AuthMethod:
                    from .authentication.sts import StsAuth  # loaded only where STS is used: its import costs time

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
        """Drop the token and all remembered failures. From then on, only a newer shared token is accepted."""
        if (held := self.tokens.kept.get(_TOKEN)) is not None:
            self._dropped_at = held.asked.wall
        self.tokens.forget()
        self.breaker.forget()
        self.reauthentication.reset()
        if self.settings.token:
            self.tokens.kept[_TOKEN] = Kept(self.settings.token, Moment(), _FOREVER)

    def revoke(self, token: Kept) -> None:
        """Revoke a token in Cerberus.

        Raises
        ------
        CerberusError
            Cerberus did not confirm the revocation.
        """

        def headers() -> dict[str, str]:
            return {**CLIENT_HEADERS, TOKEN_HEADER: token.value}

        url, deadline = f"{self.settings.url}/v1/auth", Deadline(self.settings.timeout)
        error: CerberusError | None = None
        try:
            response = self.transport.request("Cerberus", "DELETE", url, deadline, headers=headers)
            if response.status not in (204, 200, 401):  # 401: it has expired already
                error = CerberusError(
                    f"Cerberus did not revoke the token ({response.status}). Retry, or wait for the end of its lease."
                )
        except CerberusError as failure:
            error = failure.fresh()
        if error is not None:
            raise error

    def _forget(self) -> None:
        """Drop the token, credentials and connections, before a snapshot."""
        self.invalidate()
        self.close()
        self._sequence = self._aws = self._sharing = None

    def close(self) -> None:
        """Close the connections. The next request opens new ones."""
        self.transport.close()
        if self._aws is not None:
            self._aws.close()

    def _reset_after_fork(self) -> None:
        """Replace the locks, flights and connections of the parent process. Keep the token."""
        self._lock = threading.RLock()
        self._sequence = self._aws = self._sharing = None
        self.usage.reset()
        self.transport.reset()
        self.breaker.reset()
        self.tokens.reset()
        self.reauthentication.reset()


class ReauthenticationLimit:
    """Limit how often a 401 leads to a new authentication.

    For a path that this process has read before, and for a token that Cerberus has not accepted yet: at once, then after
    5 s, doubling to 60 s while a new token does not help. For all other paths together: once in five minutes.
    """

    _FIRST_SECONDS, _LONGEST_SECONDS, _OTHERS_SECONDS = 5.0, 60.0, 300.0
    _MAX_PATHS = 4096

    def __init__(self) -> None:
        self._paths: dict[str, None] = {}  # paths that Cerberus answered, the latest last
        self.reset()

    def reset(self) -> None:
        """Drop what is known of 401s and of the token. Keep the known paths."""
        self._lock = threading.Lock()
        # Whether Cerberus has accepted the current token, and how many new tokens in a row did not help.
        self._is_accepted = False
        self._count = 0
        self._pause = self._others = Pause(0)  # for known paths; for all others together
        self._useless: str | None = None  # the last token that did not help
        self._in_progress = 0  # callers that authenticate after a 401

    def may_authenticate(self, path: str, is_trial: bool) -> bool:
        """Return whether a 401 for a path may start an authentication, or join the one in progress.

        ``is_trial``: the read is the breaker's trial, which has to find out whether Cerberus is available.
        """
        with self._lock:
            if not (self._in_progress or is_trial):
                is_known = path in self._paths or not self._is_accepted
                if (self._pause if is_known else self._others).lasts():
                    return False
                self._others = Pause(self._OTHERS_SECONDS)
            self._in_progress += 1
            return True

    def record_finished(self) -> None:
        """Record that a caller's authentication, which ``may_authenticate`` allowed, succeeded or failed."""
        with self._lock:
            if self._in_progress:  # reset() can have set it to 0 in the meantime
                self._in_progress -= 1

    def record_renewed(self, *, after_401: bool) -> None:
        """Record a new token. After a 401 it inherits the old token's acceptance: the path can have caused the 401."""
        self._is_accepted = self._is_accepted and after_401

    def record_useless(self, token: Kept) -> None:
        """Record that a new token was rejected too, or was the same token."""
        with self._lock:
            if token.value != self._useless:
                self._useless = token.value
                seconds = min(self._LONGEST_SECONDS, self._FIRST_SECONDS * 2.0 ** min(self._count, 9))
                self._pause = Pause(seconds * 0.98)
                self._count += 1

    def record_accepted(self, path: str) -> None:
        """Record that Cerberus accepted the token for a path."""
        if self._is_accepted and not self._count and path in self._paths:
            return
        with self._lock:
            self._is_accepted, self._count, self._pause = True, 0, Pause(0)
            self._paths[path] = self._paths.pop(path, None)
            if len(self._paths) > self._MAX_PATHS:
                del self._paths[next(iter(self._paths))]


class Usage:
    """Count the requests sent to Cerberus, by operation, and the stale values served."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Set all counts to 0 and replace the lock, which a forked child cannot use."""
        self._lock = threading.Lock()
        self._requests: dict[str, int] = {}
        self._stale = 0
        self._stale_age = 0.0

    def count_request(self, service: str, target: str) -> None:
        """Count a request by its service and its target, such as ``/v1/secret/app/orders/db``."""
        if service != "Cerberus":
            return
        folder, _, _ = target.lstrip("/").partition("/")[2].partition("/")
        operation = "list" if target.endswith("?list=true") else _OPERATIONS.get(folder.partition("?")[0], "other")
        with self._lock:
            self._requests[operation] = self._requests.get(operation, 0) + 1

    def count_stale(self, age: float) -> None:
        """Count a value served past its ``max_age``. ``age`` is its age in seconds."""
        with self._lock:
            self._stale += 1
            self._stale_age = max(self._stale_age, age)

    def take_counts(self) -> tuple[dict[str, int], int, float]:
        """Return the requests by operation, the number of stale values and the highest age in seconds. Reset all to 0."""
        with self._lock:
            taken = self._requests, self._stale, self._stale_age
            self._requests, self._stale, self._stale_age = {}, 0, 0.0
        return taken
