"""``CerberusClient``: secrets."""

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
from .auth import CerberusAuth, caller_deadline, initialisation_seconds
from .authentication.wire import read_refusal, shared_refusal
from .caching.cache import Cache
from .caching.flight import Flight
from .caching.kept import DUE, FRESH, GONE, OVERDUE, Kept, Lifetime
from .deadline import Deadline, Moment, Pause
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
    """A value, the moment just before its request was sent, and its bytes."""

_CAPACITY_BYTES = 8 << 20  # of all that a client keeps
_EARLY = 0.1  # of max_age: containers refresh a secret at a random point in its last tenth
_CONNECTIONS = 8  # for the reads of one call
_MAX_BELOW = 1000  # secrets read in one call
_PAGE = 100  # versions in one request
_REFUSED_SECONDS = 60.0  # for which a 403 or 404 that another container got counts here
_UNCHANGED_SECONDS = 60.0  # with_secret does not read an unchanged secret again for so long
_WARNING_SECONDS = 60.0  # between two warnings about one path

_SHARED_NAMES = (  # of what the fleet keeps of a path; the second half is compat's, of its default arguments
    *("{}", "{}?file", "{}?versions", "{}?list=true"),
    *("secret/{}?versionId=CURRENT", "secret/{}?list=true", "secret-versions/{}?limit=100&offset=0"),
    *("secure-file/{}?versionId=CURRENT", "secure-files/{}/?limit=100&offset=0"),
)

_logger = logging.getLogger("cerberus_auth")


class Secret(dict[str, "Any"]):
    """Keys and values of a secret. Its ``repr`` and ``str`` show the keys and mask the values; it does not pickle."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Secret {{{', '.join(f'{key!r}: ***' for key in self)}}}>"

    __str__ = __repr__

    def copy(self) -> Secret:
        """Return a shallow copy."""
        return Secret(self)

    __copy__ = copy

    def __deepcopy__(self, memo: object) -> Secret:
        return Secret({key: _plain(value) for key, value in self.items()})

    def __or__(self, other: Any) -> Any:
        return Secret(dict.__or__(self, other)) if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return Secret(dict.__or__(other, self)) if isinstance(other, dict) else NotImplemented

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError("a Secret is never written anywhere: read it where it is needed")


class CerberusClient:
    """Reads from Cerberus as the function's execution role. Thread-safe; create one at module scope.

    What is read is kept for ``CERBERUS_MAX_AGE`` seconds (300 by default). In the last tenth of that, one caller refreshes
    it while the others still get it. While Cerberus is out of reach, it is served for ``CERBERUS_STALE_IF_ERROR`` seconds
    more (3,600 by default). Callers get copies of their own.

    Parameters
    ----------
    auth
        The token to read with; by default that of the environment's settings.
    url
        In place of ``CERBERUS_URL``; all other settings come from the environment.

    Raises
    ------
    TypeError
        ``auth`` is not a ``CerberusAuth``.
    ValueError
        Both ``auth`` and ``url`` are given.
    ConfigurationError
        Names every problem of the settings at once.
    """

    def __init__(self, auth: CerberusAuth | None = None, *, url: str | None = None) -> None:
        if auth is not None and not isinstance(auth, CerberusAuth):
            raise TypeError(f"auth must be a cerberus_auth.CerberusAuth, not {type(auth).__name__}")
        if auth is not None and url is not None:
            raise ValueError("give auth or url, not both: an auth has a URL already")
        if auth is None:
            try:
                auth = CerberusAuth(Settings.from_env() if url is None else Settings.from_env(url=url))
            except errors.ConfigurationError:
                del url  # an error reporter sends the locals of this frame, and a URL can hold a password
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
        self._warned: dict[str, Pause] = {}
        self._unchanged: dict[str, Pause] = {}
        process.register(self)
        if self._service.is_initialised and os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "snap-start":
            self.begin()
        self.renewed_beside(self._service.tokens.renewed_beside)

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
        """Return the keys and values of a secret.

        Parameters
        ----------
        path
            Category, safe deposit box and name, such as ``app/orders/db``.
        max_age
            Seconds: accept an answer up to this old. 0 always asks, and keeps nothing. ``CERBERUS_MAX_AGE`` by default.
        stale_if_error
            Seconds past ``max_age`` for which an answer is served while Cerberus is out of reach; 0: never.
            ``CERBERUS_STALE_IF_ERROR`` by default.
        fresh
            Ask now, and keep the answer.
        model
            Called as ``model(**secret)``: a dataclass, a Pydantic model, any callable.
        timeout
            Seconds to wait at most; ``CERBERUS_TIMEOUT`` by default.
        context
            The handler's: wait no longer than the invocation lasts, less 0.3 s to answer in.

        Returns
        -------
        Secret
            A dict of your own, whose ``repr`` masks the values; or what ``model`` returns.

        Raises
        ------
        SecretNotFound, AccessDenied
            Cerberus answered 404 or 403.
        TokenRefused
            Cerberus answered 401, with a new token too.
        CerberusUnavailable, BlockedAtEdge
            Cerberus is out of reach, and there is no answer to fall back on.
        InvalidResponse
            The answer is not as in the contract, or does not fit ``model``.
        DeadlineExceeded
            The time is up.
        ConfigurationError
            No Cerberus accepts the path.
        ValueError
            The arguments contradict each other.

        Examples
        --------
        >>> cerberus.read("app/orders/db")["password"]  # doctest: +SKIP
        """
        kept = self._kept.get(path)
        if kept is not None and not fresh and model is None:
            now = time.monotonic()
            if max_age is None:
                if now < kept.fresh and time.time() < kept.fresh_wall:
                    kept.used = now
                    return kept.copy(kept.value)
            elif stale_if_error is None:
                age = max_age * (1 - _EARLY * self._cache.early)
                if now - kept.asked.monotonic < age and time.time() - kept.asked.wall < age:
                    kept.used = now
                    return kept.copy(kept.value)
        path = checked(path)
        kept = self._get(path, path, self._secret(path), max_age, stale_if_error, fresh, timeout, context)
        secret = kept.copy(kept.value)
        return secret if model is None else _modelled(model, secret, path)

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
        """Return a secret as it was in a version, by its ID: see ``versions``. Keywords as in ``read``."""
        path = checked(path)
        if not (version.isascii() and version.isprintable() and version):
            raise errors.ConfigurationError(
                f"{version[:60]!r} is not the ID of a version. See versions(path) for the IDs"
            )
        fetch = self._secret(path, f"?{urlencode({'versionId': version})}")
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
        """Return what Cerberus tells of each version of a secret, the current one first. Keywords as in ``read``.

        Returns
        -------
        list of dict
            ``id`` (``CURRENT`` for the latest), ``action``, ``action_principal``, ``action_ts``,
            ``version_created_by``, ``version_created_ts`` and what else the service adds.
        """
        path = checked(path)
        kept = self._get(
            ("versions", path), path, self._versions(path), max_age, stale_if_error, fresh, timeout, context
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
        """Return the content of a secure file, of at most a MiB. Keywords as in ``read``."""
        path = checked(path)
        kept = self._get(("file", path), path, self._file(path), max_age, stale_if_error, fresh, timeout, context)
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
        """Return the names under a path, sorted; those that end in ``/`` hold more. Keywords as in ``read``."""
        path = checked(path)
        kept = self._get(("list", path), path, self._names(path), max_age, stale_if_error, fresh, timeout, context)
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
        """Return several secrets by path, read at the same time over at most 8 connections. Keywords as in ``read``.

        Raises
        ------
        CerberusError
            Any one of them cannot be read: as in ``read``.
        InvalidResponse
            Together they have more than 8 MiB.
        """
        deadline = self._deadline(timeout, context)

        def read(path: str) -> Kept:
            return self._get(path, path, self._secret(path), max_age, stale_if_error, fresh, deadline.remaining(), None)

        named = {path: checked(path) for path in paths}
        found = _at_once(read, dict.fromkeys(named.values()))
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
        """Return all secrets below a path, such as the safe deposit box ``app/orders``. Keywords as in ``read``.

        It takes a request for each secret, and one for each level. They are read at the same time over at most 8
        connections. A secret that is deleted meanwhile is left out.

        Returns
        -------
        dict of Secret
            By the rest of their paths: ``db``, ``queue/primary``.

        Raises
        ------
        SecretNotFound
            There is nothing below the path.
        InvalidResponse
            There are more than 1,000, or they have more than 8 MiB together.
        """
        path = checked(path)
        deadline = self._deadline(timeout, context)

        def names(level: str) -> Kept:
            fetch, left = self._names(level), deadline.remaining()
            return self._get(("list", level), level, fetch, max_age, stale_if_error, fresh, left, None)

        def read(name: str) -> Kept | None:
            try:
                return self._get(
                    name, name, self._secret(name), max_age, stale_if_error, fresh, deadline.remaining(), None
                )
            except errors.SecretNotFound:
                return None

        secrets: dict[str, None] = {}
        levels = [path]
        while levels:
            listed = _at_once(names, levels)
            levels = []
            for level, kept in listed.items():
                for name in kept.value:
                    if name.endswith("/"):
                        levels.append(f"{level}/{name[:-1]}")
                    else:
                        secrets[f"{level}/{name}"] = None
            if len(secrets) + len(levels) > _MAX_BELOW:
                raise errors.InvalidResponse(
                    f"There are more than {_MAX_BELOW} secrets below {path!r}. Read them by their paths"
                )
        if not secrets:
            raise errors.SecretNotFound(
                f"Nothing is stored below {path!r}. Check the path's spelling: category/box/path"
            )
        found = _at_once(read, secrets)
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
        """Call ``connect`` with a secret; if it is refused, read the secret anew and, if it changed, call it once more.

        However many threads are refused, the secret is read once. If it has not changed, it is not read again for 60 s.

        Parameters
        ----------
        connect
            Takes the secret; its result is returned.
        refused
            The exceptions of ``connect`` that say that the secret is not valid any more, or a function that tells.

        Raises
        ------
        Exception
            What ``connect`` raised, if the secret has not changed, cannot be read anew, or is refused again.
        CerberusError
            The secret cannot be read: as in ``read``.
        """
        path = checked(path)
        deadline = self._deadline(timeout, context)
        fetch = self._secret(path)
        kept = self._get(path, path, fetch, max_age, stale_if_error, False, deadline.remaining(), None)
        try:
            return connect(kept.copy(kept.value))
        except Exception as error:
            is_refused = isinstance(error, refused) if isinstance(refused, type | tuple) else refused(error)
            if not is_refused or (newer := self._newer(path, kept, fetch, deadline)) is None:
                raise
        return connect(newer.copy(newer.value))

    def within(self, context: LambdaContext) -> CerberusClient:
        """Return the same client for one invocation: each call waits no longer than it lasts, less 0.3 s to answer in."""
        client = object.__new__(type(self))
        vars(client).update(vars(self))
        client._context = context
        return client

    # What the command line calls

    def boxes(self) -> Names:
        """Return the paths of the safe deposit boxes that this principal can read, sorted. Always asks.

        Raises
        ------
        CerberusError
            As in ``read``.
        """
        url, name = f"{self._settings.url}/v2/safe-deposit-box", "the list of safe deposit boxes"

        def fetch(flight: Flight) -> Kept:
            return Kept(*self._ask(url, name, flight, _boxes)[:2], self._lifetime(None, None))

        boxes: Names = self._cache.get_alone("boxes", fetch, self._deadline(None, None)).value
        return boxes

    def forget_shared(self, path: str) -> str:
        """Remove what the fleet shares of a path: each container reads it anew when its own copy is due.

        Returns
        -------
        str
            The principal whose containers share.

        Raises
        ------
        ConfigurationError
            These settings share no secrets.
        CerberusError
            The table cannot be used, or it needs an authentication to know the principal, and that fails.
        """
        from .sharing.item import StoreFailure  # not where nobody shares

        path, deadline = checked(path), self._deadline(None, None)
        shared = self._service.sharing(Flight(deadline.remaining()))
        if shared is None:
            raise errors.ConfigurationError(
                "No secrets are shared with these settings, so there is nothing to forget: each container reads anew within "
                "CERBERUS_MAX_AGE. For a fleet that shares, set CERBERUS_SHARED_CACHE_TABLE and CERBERUS_SHARED_CACHE_KEY as "
                "in its functions"
            )
        sharing, principal = shared
        problem = ""
        try:
            for name in _SHARED_NAMES:
                sharing.forget(principal, name.format(quote(path)), deadline)
        except StoreFailure as failure:
            problem = str(failure)
        if problem:
            raise errors.CerberusError(f"{path} is not forgotten. {problem}")
        return principal

    # What the process calls

    def start_anew(self) -> None:
        """Drop locks and flights of the process that this one was copied from; keep the secrets."""
        self._lock = threading.Lock()
        self._cache.start_anew()

    def forget(self) -> None:
        """Drop every secret."""
        self._cache.forget()

    def begin(self) -> None:
        """Start to read the secrets of ``CERBERUS_PREFETCH``."""
        deadline = Deadline(initialisation_seconds(self._settings))
        for path in map(checked, self._settings.prefetch_paths):
            with suppress(errors.CerberusError):  # the flight is under way
                self._cache.get(path, self._secret(path), Deadline(0))
        for path in map(checked, self._settings.prefetch_paths):
            if deadline.remaining() > 0:
                with suppress(errors.CerberusError):
                    self._cache.get(path, self._secret(path), deadline)

    def renew(self, deadline: Deadline, ahead: float) -> None:
        """Refresh the secrets that are due, or will be in so many seconds."""
        if self._settings.renewal == "extension":
            self._cache.renew(deadline, ahead)

    def settle(self, seconds: float) -> None:
        """Wait for what is under way."""
        self._cache.settle(seconds)

    def renewed_beside(self, beside: bool) -> None:
        """Note whether an extension renews."""
        self._cache.renewed_beside = beside and self._settings.renewal == "extension"

    # How reads work

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
        if not fresh and kept.stage(lifetime) >= OVERDUE:
            self._service.usage.served_stale(kept.asked.age())
            self._warn(path, "Cerberus unavailable, serving cached %s (age %.0f s)", path, kept.asked.age())
        return kept

    def _lifetime(self, max_age: float | None, stale_if_error: float | None) -> Lifetime:
        due = self._settings.max_age if max_age is None else max_age
        stale = self._settings.stale_if_error if stale_if_error is None else stale_if_error
        return Lifetime(due * (1 - _EARLY * self._cache.early), due, due + stale)

    def _warn(self, path: str, text: str, *values: object) -> None:
        """Log a warning about a path, at most once a minute."""
        with self._lock:
            if path in self._warned and self._warned[path].lasts():
                return
            self._warned[path] = Pause(_WARNING_SECONDS)
        _logger.warning(text, *values)

    def _newer(self, path: str, kept: Kept, fetch: Callable[[Flight], Kept], deadline: Deadline) -> Kept | None:
        """Return a secret that differs from one that was refused; None if there is none, or it cannot be read."""
        newest = self._kept.get(path)
        if newest is None or newest is kept or newest.value == kept.value:
            if path in self._unchanged and self._unchanged[path].lasts():
                return None
            try:
                newest = self._cache.get(
                    path,
                    fetch,
                    deadline,
                    # The fleet's item can be what was refused: then its wall clock is the same, to the microsecond.
                    accepts=lambda each: (
                        each.asked.wall != kept.asked.wall and each.asked.monotonic > kept.asked.monotonic
                    ),
                )
            except errors.CerberusError as error:
                text = "%s was refused and cannot be read anew. %s: %s"
                self._warn(path, text, path, type(error).__name__, error)
                return None
        if newest.value != kept.value:
            return newest
        self._unchanged[path] = Pause(_UNCHANGED_SECONDS)
        return None

    def _secret(self, path: str, query: str = "") -> Callable[[Flight], Kept]:
        url = f"{self._settings.url}/v1/secret/{quote(path)}{query}"
        return self._fetch(f"{quote(path)}{query}", path, copied, lambda flight: self._ask(url, path, flight, _data))

    def _names(self, path: str) -> Callable[[Flight], Kept]:
        url = f"{self._settings.url}/v1/secret/{quote(path)}?list=true"
        return self._fetch(f"{quote(path)}?list=true", path, list, lambda flight: self._ask(url, path, flight, _listed))

    def _file(self, path: str) -> Callable[[Flight], Kept]:
        url = f"{self._settings.url}/v1/secure-file/{quote(path)}"
        return self._fetch(
            f"{quote(path)}?file", path, bytes, lambda flight: self._ask(url, path, flight, _content, True)
        )

    def _versions(self, path: str) -> Callable[[Flight], Kept]:
        url = f"{self._settings.url}/v1/secret-versions/{quote(path)}"

        def ask(flight: Flight) -> Answer:
            found: Versions = []
            first: Moment | None = None
            size, offset = 0, 0
            while offset >= 0 and len(found) < _MAX_BELOW:
                query = urlencode({"limit": _PAGE, "offset": offset})
                page, asked, length = self._ask(f"{url}?{query}", path, flight, _summaries)
                found += page["secure_data_version_summaries"]
                first, size = first or asked, size + length
                offset = int(page.get("next_offset") or -1) if page.get("has_next") else -1
            return found, first or Moment(), size

        return self._fetch(f"{quote(path)}?versions", path, copied, ask)

    def _ask(
        self, url: str, path: str, flight: Flight, parse: Callable[[Response, str], Any], is_file: bool = False
    ) -> Answer:
        response, value, asked = self._service.ask(url, path, flight, lambda answer: parse(answer, path), is_file)
        return value, asked, len(response.body)

    def _fetch(
        self, name: str, path: str, copy: Callable[[Any], Any], ask: Callable[[Flight], Answer]
    ) -> Callable[[Flight], Kept]:
        """Return what brings a value: from another container of the fleet, or from Cerberus."""

        def kept(value: Any, asked: Moment, size: int) -> Kept:
            is_flat = copy is copied and isinstance(value, dict) and not any(map(_is_nested, value.values()))
            return Kept(value, asked, self._lifetime(None, None), size, Secret if is_flat else copy)

        def fetch(flight: Flight) -> Kept:
            shared = self._service.sharing(flight) if flight.keep is not None else None
            if shared is None:
                return kept(*ask(flight))
            sharing, principal = shared

            def take(value: Any, asked: Moment, size: int, status: int) -> Kept | None:
                if status != 200:
                    if flight.terms.accepts is not None or asked.age() > _REFUSED_SECONDS:
                        return None
                    raise shared_refusal(status, path)
                found = kept(value, asked, size)
                stage = flight.terms.stage(found)
                if DUE <= stage < GONE:
                    flight.offer(found)
                return found if stage == FRESH else None

            def request() -> tuple[Kept | errors.CerberusError, Any, Moment, int]:
                began = Moment()
                try:
                    value, asked, size = ask(flight)
                except (errors.AccessDenied, errors.SecretNotFound) as error:
                    return error.fresh(), None, began, 403 if isinstance(error, errors.AccessDenied) else 404
                return kept(value, asked, size), value, asked, 200

            seconds = self._lifetime(None, None).gone
            looks = flight.outage is not None
            return sharing.secret(principal, name, flight.deadline, flight.after, take, request, seconds, looks)

        return fetch

    def __repr__(self) -> str:
        return f"<CerberusClient for {self._settings.url}>"


def _check(max_age: float | None, stale_if_error: float | None, fresh: bool) -> None:
    for name, value in (("max_age", max_age), ("stale_if_error", stale_if_error)):
        if value is not None and not value >= 0:
            raise ValueError(f"{name} must be 0 or more seconds, not {value}")
    if fresh and (max_age is not None or stale_if_error is not None):
        raise ValueError("fresh=True asks now: max_age and stale_if_error would be ignored. Remove them")
    if max_age == 0 and stale_if_error:
        raise ValueError("max_age=0 keeps nothing: stale_if_error would be ignored. Remove it")


def read_json(response: Response, path: str) -> dict[str, Any]:
    """Return the JSON object of an answer with status 200.

    Raises
    ------
    CerberusUnavailable, InvalidResponse
        It is a page of something in front of Cerberus; it is not as in the contract.
    """
    fields = response.json_object()
    if fields is None:
        raise read_refusal(response, path)
    return fields


def _data(response: Response, path: str) -> dict[str, Any]:
    data = read_json(response, path).get("data")
    if not isinstance(data, dict):
        raise errors.InvalidResponse(f"Cerberus' answer to a read of {path!r} holds no secret. Check CERBERUS_URL")
    return data


def _listed(response: Response, path: str) -> Names:
    keys = _data(response, path).get("keys", [])
    if not isinstance(keys, list) or not all(isinstance(key, str) and _is_name(key.removesuffix("/")) for key in keys):
        raise errors.InvalidResponse(
            f"Cerberus' answer to the list of {path!r} is not a list of names. Check CERBERUS_URL"
        )
    return sorted(keys)


def _boxes(response: Response, path: str) -> Names:
    try:
        paths = sorted(box["path"].strip("/") for box in json.loads(response.body))
        if all(path.isprintable() for path in paths):
            return paths
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass  # its frames hold the answer
    raise errors.InvalidResponse(f"Cerberus' answer to {path} is not a list of boxes. Check CERBERUS_URL")


def _content(response: Response, path: str) -> bytes:
    if response.ends_with_connection:
        raise errors.InvalidResponse(
            f"Cerberus' answer to {path!r} has no length: it may be cut short. Check the proxy"
        )
    return response.body


def _summaries(response: Response, path: str) -> dict[str, Any]:
    page = read_json(response, path)
    if not isinstance(page.get("secure_data_version_summaries"), list):
        raise errors.InvalidResponse(f"Cerberus' answer to the versions of {path!r} is not a list. Check CERBERUS_URL")
    return page


def copied(value: Any) -> Any:
    """Return a copy of JSON that a caller may change."""
    return Secret({key: _plain(each) for key, each in value.items()}) if isinstance(value, dict) else _plain(value)


def _is_nested(value: object) -> bool:
    return isinstance(value, dict | list)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _modelled(model: Callable[..., T], secret: Secret, path: str) -> T:
    """Return ``model(**secret)``.

    Raises
    ------
    InvalidResponse
        It does not fit: names the fields, never values.
    """
    try:
        return model(**secret)
    except Exception as error:
        listed = getattr(error, "errors", None)  # Pydantic's
        try:
            found = [".".join(map(str, each["loc"])) for each in listed()] if callable(listed) else []
        except (TypeError, LookupError):
            found = []
        named = re.findall(r"'(\w+)'", str(error)) if not found else []
        fields = found or [name for name in named if name in secret or name in _parameters(model)]
    name = getattr(model, "__name__", type(model).__name__)
    raise errors.InvalidResponse(
        f"The secret {path!r} does not fit {name}: check the fields {', '.join(fields) or ', '.join(secret)}"
    )


def _parameters(model: Callable[..., Any]) -> Iterable[str]:
    from inspect import signature

    try:
        return signature(model).parameters
    except (TypeError, ValueError):
        return ()


def _at_once(read: Callable[[str], T], names: Iterable[str]) -> dict[str, T]:
    """Read all at the same time, by at most 8 threads; of several errors, raise the first by order."""
    found: dict[str, T] = {}
    failed: dict[str, errors.CerberusError] = {}
    left = iter(names := [*names])
    lock = threading.Lock()
    spent = 0

    def work() -> None:
        nonlocal spent
        while not failed:
            with lock:
                name = next(left, None)
            if name is None:
                return
            try:
                value = read(name)
            except errors.CerberusError as error:
                failed[name] = error.fresh()
                return
            found[name] = value
            with lock:
                spent += getattr(value, "size", 0)
                if spent > _CAPACITY_BYTES:
                    failed[name] = errors.InvalidResponse(
                        f"The secrets have more than {_CAPACITY_BYTES >> 20} MiB together. Read them by their paths"
                    )

    threads = [threading.Thread(target=copy_context().run, args=(work,), daemon=True) for _ in names[1:_CONNECTIONS]]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    for name in names:
        if name in failed:
            raise failed[name]
    return {name: found[name] for name in names}


_REFUSED = "%;\\"


def checked(path: str) -> str:
    """Return a path without slashes at its ends.

    Raises
    ------
    ConfigurationError
        No Cerberus accepts it. Names the character.
    """
    if not isinstance(path, str):
        raise TypeError(f"a path must be a str, not {type(path).__name__}")
    stripped = path.strip("/")
    for character in stripped:
        if character in _REFUSED or character > "\uffff" or not character.isprintable():
            raise errors.ConfigurationError(
                f"Cerberus accepts no path with the character {character!a}: {stripped[:100]!a}. Remove it"
            )
    parts = stripped.split("/")
    if len(parts) < 2 or not all(map(_is_name, parts)):
        raise errors.ConfigurationError(f"{stripped[:100]!r} is not the path of a secret. Use category/box/path")
    return stripped


def _is_name(part: str) -> bool:
    return bool(part) and part not in (".", "..") and "/" not in part and part.isprintable()
