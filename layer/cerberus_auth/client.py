"""``CerberusClient`` reads secrets, secure files and lists from Cerberus."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from contextlib import suppress
from contextvars import copy_context
from urllib.parse import quote, urlencode

from . import errors
from .auth import CerberusAuth, caller_deadline, initialization_seconds
from .authentication.wire import read_refusal, shared_refusal
from .caching.cache import Cache
from .caching.flight import Flight
from .caching.kept import DUE, FRESH, GONE, OVERDUE, Kept, Lifetime
from .deadline import Deadline, Moment, Pauses
from .lifecycle.process import process
from .settings import Settings

TYPE_CHECKING = False
if not TYPE_CHECKING:

    def overload(function):  # noqa: D103  (typing's own costs the import of typing)
        return None


if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable
    from typing import Any, TypeVar, overload

    from .auth import LambdaContext, Service
    from .http.transport import Response

    T = TypeVar("T")
    Names = list[str]
    Versions = list[dict[str, Any]]
    Answer = tuple[Any, Moment, int]
    """A value, the moment just before its request was sent, and its size in bytes."""

_CAPACITY_BYTES = 8 << 20  # cache size of one client
_REFRESH_WINDOW = 0.1  # the last part of max_age, in which each container refreshes at a random point
_MAX_THREADS = 8  # per call; each thread uses one connection
_MAX_SECRETS = 1000  # per read_all call
_VERSIONS_PER_PAGE = 100
_SHARED_REFUSAL_SECONDS = 60.0  # how long a 403 or 404 that another container got is valid here
_UNCHANGED_SECONDS = 60.0  # with_secret waits this long before it reads an unchanged secret again
_WARNING_SECONDS = 60.0  # between two warnings about one path

_FORBIDDEN_CHARACTERS = "%;\\"
_SHARED_NAMES = (  # of the items that a fleet shares for one path; the last five belong to compat's default arguments
    *("{}", "{}?file", "{}?versions", "{}?list=true"),
    *("secret/{}?versionId=CURRENT", "secret/{}?list=true", "secret-versions/{}?limit=100&offset=0"),
    *("secure-file/{}?versionId=CURRENT", "secure-files/{}/?limit=100&offset=0"),
)

_logger = logging.getLogger("cerberus_auth")


class Secret(dict[str, "Any"]):
    """Hold the keys and values of a secret.

    A ``Secret`` is a ``dict``. Its ``repr`` and ``str`` show the keys and mask the values. It cannot be pickled.

    Examples
    --------
    >>> secret = Secret(user="orders", password="s3cret")
    >>> secret
    <Secret {'user': ***, 'password': ***}>
    >>> secret["user"]
    'orders'
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Secret {{{', '.join(f'{key!r}: ***' for key in self)}}}>"

    __str__ = __repr__

    def copy(self) -> Secret:
        """Return a shallow copy, which is a ``Secret`` too."""
        return Secret(self)

    __copy__ = copy

    def __deepcopy__(self, memo: object) -> Secret:
        return Secret({key: _copy_value(value) for key, value in self.items()})

    def __or__(self, other: Any) -> Any:
        return Secret(dict.__or__(self, other)) if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return Secret(dict.__or__(other, self)) if isinstance(other, dict) else NotImplemented

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError("A Secret cannot be pickled. Read it from Cerberus where you need it.")


class CerberusClient:
    """Read secrets from Cerberus as the function's execution role.

    Create one client at module scope. It is thread-safe and does not use the network when you create it.

    The client caches a secret for ``CERBERUS_MAX_AGE`` seconds (300 by default). In the last tenth of that time one caller
    refreshes it; the others get the cached value. While Cerberus is unavailable, the client serves the cached value for
    ``CERBERUS_STALE_IF_ERROR`` more seconds (3,600 by default). Each caller gets its own copy.

    Parameters
    ----------
    auth : CerberusAuth, optional
        Provides the token. By default the client uses the settings of the environment.
    url : str, optional
        Replaces ``CERBERUS_URL``. All other settings come from the environment.

    Raises
    ------
    TypeError
        ``auth`` is not a ``CerberusAuth``.
    ValueError
        You passed both ``auth`` and ``url``.
    ConfigurationError
        A setting is missing or invalid. The text lists every problem.

    Examples
    --------
    >>> cerberus = CerberusClient()
    >>> cerberus.read("app/orders/db")["user"]
    'orders'
    """

    def __init__(self, auth: CerberusAuth | None = None, *, url: str | None = None) -> None:
        if auth is not None and not isinstance(auth, CerberusAuth):
            raise TypeError(f"auth must be a cerberus_auth.CerberusAuth, not {type(auth).__name__}.")
        if auth is not None and url is not None:
            raise ValueError("Pass auth or url, not both. An auth already has a URL.")
        if auth is None:
            try:
                auth = CerberusAuth(Settings.from_env() if url is None else Settings.from_env(url=url))
            except errors.ConfigurationError:
                del url  # a URL can hold a password, and error reporters send the locals of this frame
                raise
        self._auth = auth
        self._settings = settings = auth.settings
        self._service: Service = auth.service
        self._cache = Cache(
            self._service.breaker,
            timeout=settings.timeout,
            attempt_seconds=settings.read_timeout,
            capacity=_CAPACITY_BYTES,
            is_shared=bool(settings.shared_cache_table and settings.shared_cache_key),
        )
        self._kept = self._cache.kept
        self._context: LambdaContext | None = None
        self._lock = threading.Lock()
        self._warned = Pauses()  # by path
        self._unchanged = Pauses()  # by path
        process.register(self)
        if self._service.is_initialized and os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "snap-start":
            self._prefetch()
        self._set_renewed_by_extension(self._service.tokens.renewed_by_extension)

    @overload
    def read(
        self,
        path: str,
        *,
        max_age: float | None = None,
        stale_if_error: float | None = None,
        fresh: bool = False,
        model: None = None,
        timeout: float | None = None,
        context: LambdaContext | None = None,
    ) -> Secret: ...

    @overload
    def read(
        self,
        path: str,
        *,
        max_age: float | None = None,
        stale_if_error: float | None = None,
        fresh: bool = False,
        model: Callable[..., T],
        timeout: float | None = None,
        context: LambdaContext | None = None,
    ) -> T: ...

    def read(
        self,
        path: str,
        *,
        max_age: float | None = None,
        stale_if_error: float | None = None,
        fresh: bool = False,
        model: Callable[..., Any] | None = None,
        timeout: float | None = None,
        context: LambdaContext | None = None,
    ) -> Any:
        """Return the keys and values of a secret, from the cache or from Cerberus.

        Parameters
        ----------
        path : str
            Category, safe deposit box and name, such as ``app/orders/db``.
        max_age : float, optional
            Maximum age of a cached value, in seconds. 0 always sends a request and caches nothing.
            The default is ``CERBERUS_MAX_AGE`` (300).
        stale_if_error : float, optional
            Number of seconds past ``max_age`` for which a cached value is served while Cerberus is unavailable.
            0 never serves an older value. The default is ``CERBERUS_STALE_IF_ERROR`` (3,600).
        fresh : bool, optional
            Send a request now and cache the answer. You cannot combine it with ``max_age`` or ``stale_if_error``.
        model : callable, optional
            Called as ``model(**secret)``: a dataclass, a Pydantic model or any other callable.
        timeout : float, optional
            Maximum time to wait, in seconds. The default is ``CERBERUS_TIMEOUT`` (10).
        context : LambdaContext, optional
            The context of the handler. The call then ends 0.3 seconds before the invocation times out.

        Returns
        -------
        Secret
            A ``dict`` that you may change; its ``repr`` masks the values. With ``model``, the result of ``model``.

        Raises
        ------
        SecretNotFound
            Cerberus returned 404: no secret has this path.
        AccessDenied
            Cerberus returned 403: the principal has no access to this path.
        TokenRefused
            Cerberus returned 401 and a new token did not help.
        CerberusUnavailable, BlockedAtEdge
            Cerberus is unavailable, or a firewall rejected the request, and no usable value is cached.
        InvalidResponse
            The answer does not have the expected format, or the secret does not fit ``model``.
        DeadlineExceeded
            The timeout expired.
        ConfigurationError
            The path is invalid.
        ValueError
            The arguments contradict each other.
        CerberusError
            Authentication failed. See ``CerberusAuth.token``.

        Examples
        --------
        >>> secret = cerberus.read("app/orders/db")
        >>> secret["user"]
        'orders'
        >>> secret
        <Secret {'user': ***, 'password': ***}>

        Accept a value that is at most 30 seconds old, and wait at most 2 seconds:

        >>> cerberus.read("app/orders/db", max_age=30, timeout=2)["user"]
        'orders'
        """
        kept = self._kept.get(path)
        if kept is not None and not fresh and model is None:
            now = time.monotonic()
            if max_age is None:
                if now < kept.fresh and time.time() < kept.fresh_wall:
                    kept.used = now
                    return kept.copy(kept.value)
            elif stale_if_error is None:
                age = max_age * (1 - _REFRESH_WINDOW * self._cache.jitter)
                if now - kept.asked.monotonic < age and time.time() - kept.asked.wall < age:
                    kept.used = now
                    return kept.copy(kept.value)
        path = checked_path(path)
        kept = self._get(path, path, self._secret_fetcher(path), max_age, stale_if_error, fresh, timeout, context)
        secret = kept.copy(kept.value)
        return secret if model is None else _build_model(model, secret, path)

    def read_version(
        self,
        path: str,
        version: str,
        *,
        max_age: float | None = None,
        stale_if_error: float | None = None,
        fresh: bool = False,
        timeout: float | None = None,
        context: LambdaContext | None = None,
    ) -> Secret:
        """Return an earlier version of a secret.

        Parameters
        ----------
        path : str
            Path of the secret.
        version : str
            ID of the version, as ``versions`` returns it.
        max_age, stale_if_error, fresh, timeout, context
            See ``read``.

        Returns
        -------
        Secret
            The keys and values of that version.

        Raises
        ------
        ConfigurationError
            The path or the version ID is invalid.
        CerberusError
            See ``read``.

        Examples
        --------
        >>> oldest = cerberus.versions("app/orders/db")[-1]["id"]
        >>> cerberus.read_version("app/orders/db", oldest)["user"]
        'orders'
        """
        path = checked_path(path)
        if not (version.isascii() and version.isprintable() and version):
            raise errors.ConfigurationError(
                f"{version[:60]!r} is not a version ID. Use an ID that versions({path!r}) returns."
            )
        fetch = self._secret_fetcher(path, f"?{urlencode({'versionId': version})}")
        kept = self._get(("version", path, version), path, fetch, max_age, stale_if_error, fresh, timeout, context)
        secret: Secret = kept.copy(kept.value)
        return secret

    def versions(
        self,
        path: str,
        *,
        max_age: float | None = None,
        stale_if_error: float | None = None,
        fresh: bool = False,
        timeout: float | None = None,
        context: LambdaContext | None = None,
    ) -> Versions:
        """Return the metadata of each version of a secret, the current version first.

        Parameters
        ----------
        path : str
            Path of the secret.
        max_age, stale_if_error, fresh, timeout, context
            See ``read``.

        Returns
        -------
        list of dict
            Each has ``id`` (``CURRENT`` for the latest), ``action``, ``action_principal``, ``action_ts``,
            ``version_created_by`` and ``version_created_ts``, and other fields that Cerberus adds.

        Raises
        ------
        CerberusError
            See ``read``.

        Examples
        --------
        >>> cerberus.versions("app/orders/db")[0]["id"]
        'CURRENT'
        """
        path = checked_path(path)
        kept = self._get(
            ("versions", path), path, self._versions_fetcher(path), max_age, stale_if_error, fresh, timeout, context
        )
        found: Versions = kept.copy(kept.value)
        return found

    def read_file(
        self,
        path: str,
        *,
        max_age: float | None = None,
        stale_if_error: float | None = None,
        fresh: bool = False,
        timeout: float | None = None,
        context: LambdaContext | None = None,
    ) -> bytes:
        """Return the content of a secure file of at most 1 MiB.

        Parameters
        ----------
        path : str
            Path of the file, such as ``app/orders/tls.pem``.
        max_age, stale_if_error, fresh, timeout, context
            See ``read``.

        Returns
        -------
        bytes
            The content.

        Raises
        ------
        CerberusError
            See ``read``.

        Examples
        --------
        >>> cerberus.read_file("app/orders/tls.pem")
        b'-----BEGIN CERTIFICATE-----'
        """
        path = checked_path(path)
        kept = self._get(
            ("file", path), path, self._file_fetcher(path), max_age, stale_if_error, fresh, timeout, context
        )
        content: bytes = kept.value
        return content

    def list(
        self,
        path: str,
        *,
        max_age: float | None = None,
        stale_if_error: float | None = None,
        fresh: bool = False,
        timeout: float | None = None,
        context: LambdaContext | None = None,
    ) -> Names:
        """Return the names below a path, sorted.

        Parameters
        ----------
        path : str
            Path of a safe deposit box, such as ``app/orders``, or of a folder in it.
        max_age, stale_if_error, fresh, timeout, context
            See ``read``.

        Returns
        -------
        list of str
            A name that ends in ``/`` is a folder. The others are secrets.

        Raises
        ------
        CerberusError
            See ``read``.

        Examples
        --------
        >>> cerberus.list("app/orders")
        ['db', 'queue/']
        """
        path = checked_path(path)
        kept = self._get(
            ("list", path), path, self._names_fetcher(path), max_age, stale_if_error, fresh, timeout, context
        )
        names: Names = kept.copy(kept.value)
        return names

    def read_many(
        self,
        paths: Iterable[str],
        *,
        max_age: float | None = None,
        stale_if_error: float | None = None,
        fresh: bool = False,
        timeout: float | None = None,
        context: LambdaContext | None = None,
    ) -> dict[str, Secret]:
        """Return several secrets, read in parallel over at most 8 connections.

        Parameters
        ----------
        paths : iterable of str
            Paths of the secrets.
        max_age, stale_if_error, fresh, context
            See ``read``.
        timeout : float, optional
            Maximum time to wait for all secrets together, in seconds. The default is ``CERBERUS_TIMEOUT`` (10).

        Returns
        -------
        dict of str to Secret
            The secrets by path, as you passed it.

        Raises
        ------
        InvalidResponse
            The secrets have more than 8 MiB together.
        CerberusError
            A secret cannot be read. See ``read``.

        Examples
        --------
        >>> secrets = cerberus.read_many(["app/orders/db", "app/orders/queue/primary"])
        >>> secrets["app/orders/db"]["user"]
        'orders'
        """
        deadline = self._deadline(timeout, context)

        def read(path: str) -> Kept:
            return self._get(
                path, path, self._secret_fetcher(path), max_age, stale_if_error, fresh, deadline.remaining(), None
            )

        named = {path: checked_path(path) for path in paths}
        found = _in_parallel(read, dict.fromkeys(named.values()))
        return {path: found[name].copy(found[name].value) for path, name in named.items()}

    def read_all(
        self,
        path: str,
        *,
        max_age: float | None = None,
        stale_if_error: float | None = None,
        fresh: bool = False,
        timeout: float | None = None,
        context: LambdaContext | None = None,
    ) -> dict[str, Secret]:
        """Return all secrets below a path, read in parallel over at most 8 connections.

        The client sends one request for each folder and one for each secret. It omits a secret that is deleted meanwhile.

        Parameters
        ----------
        path : str
            Path of a safe deposit box, such as ``app/orders``, or of a folder in it.
        max_age, stale_if_error, fresh, context
            See ``read``.
        timeout : float, optional
            Maximum time to wait for all secrets together, in seconds. The default is ``CERBERUS_TIMEOUT`` (10).

        Returns
        -------
        dict of str to Secret
            The secrets by their path relative to ``path``, such as ``db`` and ``queue/primary``.

        Raises
        ------
        SecretNotFound
            No secret is stored below the path.
        InvalidResponse
            More than 1,000 secrets are below the path, or they have more than 8 MiB together.
        CerberusError
            A secret or a list cannot be read. See ``read``.

        Examples
        --------
        >>> sorted(cerberus.read_all("app/orders"))
        ['db', 'queue/primary']
        """
        path = checked_path(path)
        deadline = self._deadline(timeout, context)

        def names(level: str) -> Kept:
            fetch, left = self._names_fetcher(level), deadline.remaining()
            return self._get(("list", level), level, fetch, max_age, stale_if_error, fresh, left, None)

        def read(name: str) -> Kept | None:
            try:
                return self._get(
                    name, name, self._secret_fetcher(name), max_age, stale_if_error, fresh, deadline.remaining(), None
                )
            except errors.SecretNotFound:
                return None

        secrets: dict[str, None] = {}
        levels = [path]
        while levels:
            listed = _in_parallel(names, levels)
            levels = []
            for level, kept in listed.items():
                for name in kept.value:
                    if name.endswith("/"):
                        levels.append(f"{level}/{name[:-1]}")
                    else:
                        secrets[f"{level}/{name}"] = None
            if len(secrets) + len(levels) > _MAX_SECRETS:
                raise errors.InvalidResponse(
                    f"More than {_MAX_SECRETS} secrets are stored below {path!r}. Read them with read_many."
                )
        if not secrets:
            raise errors.SecretNotFound(
                f"No secret is stored below {path!r}. Check the spelling of the path: category/box/path."
            )
        found = _in_parallel(read, secrets)
        return {
            name.removeprefix(f"{path}/"): kept.copy(kept.value) for name, kept in found.items() if kept is not None
        }

    def with_secret(
        self,
        path: str,
        connect: Callable[[Secret], T],
        *,
        refused: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool],
        max_age: float | None = None,
        stale_if_error: float | None = None,
        timeout: float | None = None,
        context: LambdaContext | None = None,
    ) -> T:
        """Call a function with a secret, and call it again with the new value if the secret was rotated.

        If ``connect`` raises ``refused``, the client reads the secret again. If the value changed, it calls ``connect``
        once more. All threads share one read. An unchanged secret is not read again for 60 seconds.

        Parameters
        ----------
        path : str
            Path of the secret.
        connect : callable
            Called with the secret.
        refused : exception class, tuple of exception classes, or callable
            The exceptions of ``connect`` that mean that the secret is no longer valid. A callable gets the exception and
            returns a bool.
        max_age, stale_if_error, context
            See ``read``.
        timeout : float, optional
            Maximum time to wait for Cerberus, in seconds. The default is ``CERBERUS_TIMEOUT`` (10).

        Returns
        -------
        object
            The result of ``connect``.

        Raises
        ------
        Exception
            The exception of ``connect``, if the secret is unchanged, cannot be read, or is refused again.
        CerberusError
            The secret cannot be read the first time. See ``read``.

        Examples
        --------
        >>> def connect(secret):
        ...     return f"connected as {secret['user']}"
        >>> cerberus.with_secret("app/orders/db", connect, refused=PermissionError)
        'connected as orders'
        """
        path = checked_path(path)
        deadline = self._deadline(timeout, context)
        fetch = self._secret_fetcher(path)
        kept = self._get(path, path, fetch, max_age, stale_if_error, False, deadline.remaining(), None)
        try:
            return connect(kept.copy(kept.value))
        except Exception as error:
            is_refused = isinstance(error, refused) if isinstance(refused, type | tuple) else refused(error)
            if not is_refused or (newer := self._rotated(path, kept, fetch, deadline)) is None:
                raise
        return connect(newer.copy(newer.value))

    def within(self, context: LambdaContext) -> CerberusClient:
        """Return a client that shares this cache and whose calls end 0.3 seconds before the invocation times out.

        Parameters
        ----------
        context : LambdaContext
            The context of the handler.

        Returns
        -------
        CerberusClient
            Use it during this invocation only.

        Examples
        --------
        >>> cerberus.within(context).read("app/orders/db")["user"]
        'orders'
        """
        client = object.__new__(type(self))
        vars(client).update(vars(self))
        client._context = context
        return client

    # What the command line calls

    def boxes(self) -> Names:
        """Return the paths of the safe deposit boxes that this principal can read, sorted. Always send a request.

        Returns
        -------
        list of str
            Paths such as ``app/orders``.

        Raises
        ------
        CerberusError
            See ``read``.

        Examples
        --------
        >>> cerberus.boxes()
        ['app/orders']
        """
        url, name = f"{self._settings.url}/v2/safe-deposit-box", "the list of safe deposit boxes"

        def fetch(flight: Flight) -> Kept:
            return Kept(*self._send(url, name, flight, _parse_boxes)[:2], self._lifetime(None, None))

        boxes: Names = self._cache.get_alone("boxes", fetch, self._deadline(None, None)).value
        return boxes

    def forget_shared(self, path: str) -> str:
        """Remove the shared copies of a path. Each container reads it from Cerberus when its own copy is due.

        Parameters
        ----------
        path : str
            Path of the secret.

        Returns
        -------
        str
            ARN of the principal whose containers share the secret.

        Raises
        ------
        ConfigurationError
            The settings do not share secrets.
        CerberusError
            The table cannot be used, or the authentication that finds the principal fails.

        Examples
        --------
        >>> cerberus.forget_shared("app/orders/db")  # doctest: +SKIP
        'arn:aws:iam::111111111111:role/orders'
        """
        from .sharing.item import StoreFailure  # loaded only where secrets are shared

        path, deadline = checked_path(path), self._deadline(None, None)
        shared = self._service.secret_sharing(Flight(deadline.remaining()))
        if shared is None:
            raise errors.ConfigurationError(
                "No secrets are shared with these settings. Set CERBERUS_SHARED_CACHE_TABLE and CERBERUS_SHARED_CACHE_KEY to "
                "the values of the fleet's functions. Without sharing, each container reads again within CERBERUS_MAX_AGE."
            )
        sharing, principal = shared
        problem = ""
        try:
            for name in _SHARED_NAMES:
                sharing.forget(principal, name.format(quote(path)), deadline)
        except StoreFailure as failure:
            problem = str(failure)
        if problem:
            raise errors.CerberusError(f"Shared copies of {path} not removed. {problem}")
        return principal

    # Called by lifecycle.process

    def _reset_after_fork(self) -> None:
        """Replace the locks and flights of the parent process. Keep the secrets."""
        self._lock = threading.Lock()
        self._cache.reset()

    def _forget(self) -> None:
        """Drop every cached secret."""
        self._cache.forget()

    def _prefetch(self) -> None:
        """Start reading the paths in ``CERBERUS_PREFETCH``."""
        deadline = Deadline(initialization_seconds(self._settings))
        for path in map(checked_path, self._settings.prefetch_paths):
            with suppress(errors.CerberusError):  # only start the flight
                self._cache.get(path, self._secret_fetcher(path), Deadline(0))
        for path in map(checked_path, self._settings.prefetch_paths):
            if deadline.remaining() > 0:
                with suppress(errors.CerberusError):
                    self._cache.get(path, self._secret_fetcher(path), deadline)

    def _refresh(self, deadline: Deadline, ahead: float) -> None:
        """Refresh the secrets that are due within ``ahead`` seconds, if the extension renews."""
        if self._settings.renewal == "extension":
            self._cache.renew(deadline, ahead)

    def _wait_for_flights(self, seconds: float) -> None:
        """Wait for the requests in flight, at most ``seconds``."""
        self._cache.wait_for_flights(seconds)

    def _set_renewed_by_extension(self, is_renewed: bool) -> None:
        """Set whether the extension refreshes due secrets, so that callers do not."""
        self._cache.renewed_by_extension = is_renewed and self._settings.renewal == "extension"

    # Called by powertools

    def _has_fallback(self, service: Service) -> bool:
        """Return whether reads with the settings of ``service`` can succeed while Cerberus is unavailable."""
        return self._service is service and self._cache.has_fallback()

    # Cached reads

    def _deadline(self, timeout: float | None, context: LambdaContext | None) -> Deadline:
        return caller_deadline(self._settings, timeout, context or self._context)

    def _get(
        self,
        key: Hashable,
        path: str,
        fetch: Callable[[Flight], Kept],
        max_age: float | None,
        stale_if_error: float | None,
        fresh: bool,
        timeout: float | None,
        context: LambdaContext | None,
    ) -> Kept:
        _check(max_age, stale_if_error, fresh)
        deadline = self._deadline(timeout, context)
        lifetime = self._lifetime(max_age, stale_if_error)
        if not lifetime.due and not fresh:
            return self._cache.get_alone(key, fetch, deadline)
        began = Moment()
        accepts = (lambda kept: not kept.asked.is_before(began)) if fresh else None
        kept = self._cache.get(key, fetch, deadline, lifetime=lifetime, accepts=accepts)
        kept.used = began.monotonic
        # An answer to this call can be older than a short max_age, but it is not a cached value.
        if not fresh and kept.asked.is_before(began) and kept.stage(lifetime) >= OVERDUE:
            self._service.usage.count_stale(kept.asked.age())
            self._warn(path, "Cerberus unavailable, serving cached %s (age %.0f s)", path, kept.asked.age())
        return kept

    def _lifetime(self, max_age: float | None, stale_if_error: float | None) -> Lifetime:
        due = self._settings.max_age if max_age is None else max_age
        stale = self._settings.stale_if_error if stale_if_error is None else stale_if_error
        return Lifetime(due * (1 - _REFRESH_WINDOW * self._cache.jitter), due, due + stale)

    def _warn(self, path: str, text: str, *values: object) -> None:
        """Log a warning about a path, at most once a minute."""
        with self._lock:
            if self._warned.lasts(path):
                return
            self._warned.start(path, _WARNING_SECONDS)
        _logger.warning(text, *values)

    def _rotated(self, path: str, kept: Kept, fetch: Callable[[Flight], Kept], deadline: Deadline) -> Kept | None:
        """Return a value that differs from the refused one; None if it is unchanged or cannot be read."""
        newest = self._kept.get(path)
        if newest is None or newest is kept or newest.value == kept.value:
            if self._unchanged.lasts(path):
                return None
            try:
                newest = self._cache.get(
                    path,
                    fetch,
                    deadline,
                    # The shared item can be the refused value. It then has the same wall clock time, to the microsecond.
                    accepts=lambda each: (
                        each.asked.wall != kept.asked.wall and each.asked.monotonic > kept.asked.monotonic
                    ),
                )
            except errors.CerberusError as error:
                text = "Rotated secret not read: %s. %s: %s"
                self._warn(path, text, path, type(error).__name__, error)
                return None
        if newest.value != kept.value:
            return newest
        self._unchanged.start(path, _UNCHANGED_SECONDS)
        return None

    def _secret_fetcher(self, path: str, query: str = "") -> Callable[[Flight], Kept]:
        url = f"{self._settings.url}/v1/secret/{quote(path)}{query}"
        return self._fetcher(
            f"{quote(path)}{query}", path, copy_json, lambda flight: self._send(url, path, flight, _parse_secret)
        )

    def _names_fetcher(self, path: str) -> Callable[[Flight], Kept]:
        url = f"{self._settings.url}/v1/secret/{quote(path)}?list=true"
        return self._fetcher(
            f"{quote(path)}?list=true", path, list, lambda flight: self._send(url, path, flight, _parse_names)
        )

    def _file_fetcher(self, path: str) -> Callable[[Flight], Kept]:
        url = f"{self._settings.url}/v1/secure-file/{quote(path)}"
        return self._fetcher(
            f"{quote(path)}?file", path, bytes, lambda flight: self._send(url, path, flight, _parse_file, True)
        )

    def _versions_fetcher(self, path: str) -> Callable[[Flight], Kept]:
        url = f"{self._settings.url}/v1/secret-versions/{quote(path)}"

        def send(flight: Flight) -> Answer:
            found: Versions = []
            first: Moment | None = None
            size, offset = 0, 0
            while offset >= 0 and len(found) < _MAX_SECRETS:
                query = urlencode({"limit": _VERSIONS_PER_PAGE, "offset": offset})
                page, asked, length = self._send(f"{url}?{query}", path, flight, _parse_versions)
                found += page["secure_data_version_summaries"]
                first, size = first or asked, size + length
                offset = int(page.get("next_offset") or -1) if page.get("has_next") else -1
            return found, first or Moment(), size

        return self._fetcher(f"{quote(path)}?versions", path, copy_json, send)

    def _send(
        self, url: str, path: str, flight: Flight, parse: Callable[[Response, str], Any], is_file: bool = False
    ) -> Answer:
        response, value, asked = self._service.read(url, path, flight, lambda answer: parse(answer, path), is_file)
        return value, asked, len(response.body)

    def _fetcher(
        self, name: str, path: str, copy: Callable[[Any], Any], send: Callable[[Flight], Answer]
    ) -> Callable[[Flight], Kept]:
        """Return a function that reads a value from the shared cache, or from Cerberus.

        Parameters
        ----------
        name
            Identifies the value in the shared cache: the quoted path and the query.
        copy
            Copies the value for each caller.
        send
            Reads the value from Cerberus.
        """

        def kept(value: Any, asked: Moment, size: int) -> Kept:
            is_flat = copy is copy_json and isinstance(value, dict) and not any(map(_is_nested, value.values()))
            return Kept(value, asked, self._lifetime(None, None), size, Secret if is_flat else copy)

        def fetch(flight: Flight) -> Kept:
            shared = self._service.secret_sharing(flight) if flight.keep is not None else None
            if shared is None:
                return kept(*send(flight))
            sharing, principal = shared

            def accept(value: Any, asked: Moment, size: int, status: int) -> Kept | None:
                if status != 200:
                    if flight.terms.accepts is not None or asked.age() > _SHARED_REFUSAL_SECONDS:
                        return None
                    raise shared_refusal(status, path)
                found = kept(value, asked, size)
                stage = flight.terms.stage(found)
                if DUE <= stage < GONE:
                    flight.offer(found)  # callers can fall back on it while this flight asks Cerberus
                return found if stage == FRESH else None

            def request() -> tuple[Kept | errors.CerberusError, Any, Moment, int]:
                began = Moment()
                try:
                    value, asked, size = send(flight)
                except (errors.AccessDenied, errors.SecretNotFound) as error:
                    return error.fresh(), None, began, 403 if isinstance(error, errors.AccessDenied) else 404
                return kept(value, asked, size), value, asked, 200

            seconds = self._lifetime(None, None).gone
            lookup_only = flight.outage is not None
            return sharing.secret(
                principal, name, flight.deadline, flight.publications, accept, request, seconds, lookup_only
            )

        return fetch

    def __repr__(self) -> str:
        settings = getattr(self, "_settings", None)  # missing in a frame of a constructor that failed
        return f"<CerberusClient for {settings.url}>" if settings else "<CerberusClient>"


def _check(max_age: float | None, stale_if_error: float | None, fresh: bool) -> None:
    for name, value in (("max_age", max_age), ("stale_if_error", stale_if_error)):
        if value is not None and not value >= 0:
            raise ValueError(f"{name} is {value}. Pass 0 or more seconds.")
    if fresh and (max_age is not None or stale_if_error is not None):
        raise ValueError("fresh=True excludes max_age and stale_if_error. Remove them.")
    if max_age == 0 and stale_if_error:
        raise ValueError("max_age=0 caches nothing, so it excludes stale_if_error. Remove stale_if_error.")


def read_json(response: Response, path: str) -> dict[str, Any]:
    """Return the JSON object in an answer with status 200.

    Raises
    ------
    CerberusUnavailable
        The answer is a page of a proxy or load balancer.
    InvalidResponse
        The answer is not a JSON object.
    """
    fields = response.json_object()
    if fields is None:
        raise read_refusal(response, path)
    return fields


def _parse_secret(response: Response, path: str) -> dict[str, Any]:
    data = read_json(response, path).get("data")
    if not isinstance(data, dict):
        raise errors.InvalidResponse(f"Cerberus returned no secret for a read of {path!r} (200). Check CERBERUS_URL.")
    return data


def _parse_names(response: Response, path: str) -> Names:
    keys = _parse_secret(response, path).get("keys", [])
    if not isinstance(keys, list) or not all(
        isinstance(key, str) and _is_path_segment(key.removesuffix("/")) for key in keys
    ):
        raise errors.InvalidResponse(f"Cerberus returned no list of names for {path!r} (200). Check CERBERUS_URL.")
    return sorted(keys)


def _parse_boxes(response: Response, path: str) -> Names:
    try:
        paths = sorted(box["path"].strip("/") for box in json.loads(response.body))
        if all(path.isprintable() for path in paths):
            return paths
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass  # raised below instead: the frames of this exception hold the answer
    raise errors.InvalidResponse(f"Cerberus returned an unexpected answer for {path} (200). Check CERBERUS_URL.")


def _parse_file(response: Response, path: str) -> bytes:
    if response.ends_with_connection:
        raise errors.InvalidResponse(
            f"Cerberus returned the file {path!r} without its length, so it can be incomplete. Check the proxy."
        )
    return response.body


def _parse_versions(response: Response, path: str) -> dict[str, Any]:
    page = read_json(response, path)
    if not isinstance(page.get("secure_data_version_summaries"), list):
        raise errors.InvalidResponse(f"Cerberus returned no list of versions for {path!r} (200). Check CERBERUS_URL.")
    return page


def copy_json(value: Any) -> Any:
    """Return a deep copy of a JSON value, with an object as a ``Secret``."""
    if isinstance(value, dict):
        return Secret({key: _copy_value(each) for key, each in value.items()})
    return _copy_value(value)


def _is_nested(value: object) -> bool:
    return isinstance(value, dict | list)


def _copy_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy_value(each) for key, each in value.items()}
    return [_copy_value(each) for each in value] if isinstance(value, list) else value


def _build_model(model: Callable[..., T], secret: Secret, path: str) -> T:
    """Return ``model(**secret)``.

    Raises
    ------
    InvalidResponse
        The secret does not fit. The text names the fields, never their values.
    """
    try:
        return model(**secret)
    except Exception as error:
        listed = getattr(error, "errors", None)  # a Pydantic ValidationError has it
        try:
            found = [".".join(map(str, each["loc"])) for each in listed()] if callable(listed) else []
        except (TypeError, LookupError):
            found = []
        named = re.findall(r"'(\w+)'", str(error)) if not found else []
        fields = found or [name for name in named if name in secret or name in _parameters(model)]
    name = getattr(model, "__name__", type(model).__name__)
    raise errors.InvalidResponse(
        f"The secret {path!r} does not fit {name}. Check the fields {', '.join(fields) or ', '.join(secret)}."
    )


def _parameters(model: Callable[..., Any]) -> Iterable[str]:
    from inspect import signature

    try:
        return signature(model).parameters
    except (TypeError, ValueError):
        return ()


def _in_parallel(read: Callable[[str], T], names: Iterable[str]) -> dict[str, T]:
    """Read all names in parallel with at most 8 threads. If several fail, raise the error of the first name."""
    found: dict[str, T] = {}
    failed: dict[str, errors.CerberusError] = {}
    remaining = iter(names := [*names])
    lock = threading.Lock()
    size = 0

    def work() -> None:
        nonlocal size
        while not failed:
            with lock:
                name = next(remaining, None)
            if name is None:
                return
            try:
                value = read(name)
            except errors.CerberusError as error:
                failed[name] = error.fresh()
                return
            found[name] = value
            with lock:
                size += getattr(value, "size", 0)
                if size > _CAPACITY_BYTES:
                    failed[name] = errors.InvalidResponse(
                        f"The secrets have more than {_CAPACITY_BYTES >> 20} MiB together. Read fewer paths in one call."
                    )

    threads = [threading.Thread(target=copy_context().run, args=(work,), daemon=True) for _ in names[1:_MAX_THREADS]]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    for name in names:
        if name in failed:
            raise failed[name]
    return {name: found[name] for name in names}


def checked_path(path: str) -> str:
    """Return the path without leading and trailing slashes.

    Raises
    ------
    ConfigurationError
        The path is invalid. The text names the character or shows the expected form.
    """
    if not isinstance(path, str):
        raise TypeError(f"path must be a str, not {type(path).__name__}.")
    stripped = path.strip("/")
    for character in stripped:
        if character in _FORBIDDEN_CHARACTERS or character > "\uffff" or not character.isprintable():
            raise errors.ConfigurationError(
                f"The path {stripped[:100]!a} has the character {character!a}, which Cerberus rejects. Remove it."
            )
    parts = stripped.split("/")
    if len(parts) < 2 or not all(map(_is_path_segment, parts)):
        raise errors.ConfigurationError(f"The path {stripped[:100]!r} is invalid. Use category/box/path.")
    return stripped


def _is_path_segment(part: str) -> bool:
    return bool(part) and part not in (".", "..") and "/" not in part and part.isprintable()
