"""``CerberusClient``: reads secrets with an auth."""

from __future__ import annotations

import threading
from urllib.parse import quote

from . import errors
from .auth import CerberusAuth, seconds_left
from .authentication.wire import CLIENT_HEADERS, TOKEN_HEADER
from .deadline import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypedDict, Unpack

    from .auth import LambdaContext
    from .caching.secrets import SecretCache
    from .http.transport import Response

    class Options(TypedDict, total=False):
        """What every method of ``CerberusClient`` takes by keyword."""

        max_age: float | None
        stale: float
        fresh: bool
        timeout: float | None
        context: LambdaContext | None


_MAX_BELOW = 1000  # secrets read in one call


class CerberusClient:
    """Reads from Cerberus as the function's execution role. Safe to share between threads; make one at module scope.

    Every method takes these by keyword, all of them optional:

    ``max_age``
        Seconds: an answer read at most so long ago will do. By default, each call reads. Threads that come for the same
        share one reading.
    ``stale``
        Seconds beyond ``max_age``, for which an answer serves on while Cerberus is out of reach; each time that is logged.
    ``fresh``
        Read, whatever ``max_age`` says; the answer is kept for later calls.
    ``timeout``
        Seconds for all of it; ``CERBERUS_TIMEOUT`` by default.
    ``context``
        The handler's: also no longer than the invocation lasts, less 0.3 s to answer in.

    And each raises ``SecretNotFound``, ``AccessDenied``, ``TokenRefused``, ``CerberusUnavailable``, ``InvalidResponse``,
    ``DeadlineExceeded``, ``ConfigurationError`` for a path that is none, and whatever authenticating raises: see README,
    "Errors and what to do".

    Parameters
    ----------
    auth
        Shared with others; one of the environment's settings by default.
    """

    def __init__(self, auth: CerberusAuth | None = None) -> None:
        self._auth = auth or CerberusAuth()
        self._cache: SecretCache | None = None
        self._lock = threading.Lock()

    def read(self, path: str, **options: Unpack[Options]) -> dict[str, Any]:
        """The keys and values stored under a path such as ``app/orders/db``."""
        path = checked(path)
        data: dict[str, Any] = self._get(path, lambda deadline: self._data(path, "", deadline), **options)
        return data

    def read_version(self, path: str, version: str, **options: Unpack[Options]) -> dict[str, Any]:
        """The same as it was in a version, by its ID, as Cerberus' dashboard shows them."""
        path, query = checked(path), f"?versionId={quote(version, safe='')}"
        data: dict[str, Any] = self._get(path + query, lambda deadline: self._data(path, query, deadline), **options)
        return data

    def read_file(self, path: str, **options: Unpack[Options]) -> bytes:
        """The content of a secure file, of at most a MiB."""
        path = checked(path)
        url = f"{self._auth.settings.url}/v1/secure-file/{quote(path)}"
        content: bytes = self._get(f"file {path}", lambda deadline: self._answer(url, path, deadline).body, **options)
        return content

    def read_all(self, path: str, **options: Unpack[Options]) -> dict[str, dict[str, Any]]:
        """All that is stored below a path, such as the safe deposit box ``app/orders``: keys and values by the rest of
        their paths (``db``, ``queue/primary``). It takes a request for each, and one for each level."""
        path = checked(path)
        found: dict[str, dict[str, Any]] = self._get(
            f"all {path}", lambda deadline: self._below(path, deadline), **options
        )
        return found

    def list(self, path: str, **options: Unpack[Options]) -> list[str]:
        """The names under a path; those that end in ``/`` hold more."""
        path = checked(path)
        keys: list[str] = self._get(f"list {path}", lambda deadline: self._names(path, deadline), **options)
        return keys

    def within(self, context: LambdaContext) -> CerberusClient:
        """The same client, each of whose calls waits no longer than this invocation lasts, less 0.3 s to answer in."""
        return _Within(self, context)

    def _get(
        self,
        name: str,
        read: Callable[[Deadline], Any],
        *,
        max_age: float | None = None,
        stale: float = 0,
        fresh: bool = False,
        timeout: float | None = None,
        context: LambdaContext | None = None,
    ) -> Any:
        seconds = seconds_left(timeout, context)
        limit = self._auth.settings.timeout
        deadline = Deadline(limit if seconds is None else min(seconds, limit))
        if max_age is None and not fresh:
            return errors.shielded(lambda: read(deadline))
        get = self._secrets().get
        return errors.shielded(lambda: get(name, read, deadline, max_age=max_age or 0, stale=stale, fresh=fresh))

    def _secrets(self) -> SecretCache:
        from .caching.secrets import SecretCache  # not before somebody caches: its import is not free

        with self._lock:
            if self._cache is None:
                self._cache = SecretCache()
            return self._cache

    def _data(self, path: str, query: str, deadline: Deadline) -> dict[str, Any]:
        url = f"{self._auth.settings.url}/v1/secret/{quote(path)}{query}"
        data = (self._answer(url, path, deadline).json_object() or {}).get("data")
        if isinstance(data, dict):
            return data
        raise errors.InvalidResponse(f"Cerberus answers {path!r} with something that is no secret: see CERBERUS_URL")

    def _names(self, path: str, deadline: Deadline) -> Sequence[str]:
        keys = self._data(path, "?list=true", deadline).get("keys")
        if not isinstance(keys, list) or not all(
            isinstance(key, str) and _is_name(key.removesuffix("/")) for key in keys
        ):
            raise errors.InvalidResponse(
                f"Cerberus answers the list of {path!r} with something that is no list of names"
            )
        return keys

    def _below(self, path: str, deadline: Deadline) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        levels = [""]
        while levels:
            level = levels.pop()
            for name in self._names(f"{path}/{level}".rstrip("/"), deadline):
                if len(found) + len(levels) >= _MAX_BELOW:
                    raise errors.InvalidResponse(
                        f"more than {_MAX_BELOW} secrets below {path!r}: read them by their paths"
                    )
                if name.endswith("/"):
                    levels.append(level + name)
                else:
                    found[level + name] = self._data(f"{path}/{level}{name}", "", deadline)
        return found

    def _answer(self, url: str, path: str, deadline: Deadline) -> Response:
        token, response = self._send(url, deadline)
        for _ in range(self._auth.renewals):
            if response.status == 401:
                self._auth.renewed(token, deadline.remaining())
                token, response = self._send(url, deadline)
        if response.status == 200:
            return response
        if response.status == 401:
            raise self._auth.refused_again(token)
        raise _refusal(response.status, path)

    def _send(self, url: str, deadline: Deadline) -> tuple[str, Response]:
        """The answer, and the token that brought it."""
        token = ""

        def headers() -> dict[str, str]:
            nonlocal token
            token = self._auth.token(deadline.remaining())  # for each attempt: a short lease can end between two
            return {**CLIENT_HEADERS, TOKEN_HEADER: token}

        response = self._auth.transport.request("Cerberus", "GET", url, deadline, headers=headers)
        return token, response

    def __repr__(self) -> str:
        return f"<CerberusClient for {self._auth.settings.url}>"


class _Within(CerberusClient):
    """A client for one invocation; what it keeps is kept by the client it was made of."""

    def __init__(self, client: CerberusClient, context: LambdaContext) -> None:
        self._auth = client._auth
        self._secrets = client._secrets  # type: ignore[method-assign]
        self._context = context

    def _get(self, name: str, read: Callable[[Deadline], Any], **options: Unpack[Options]) -> Any:
        options.setdefault("context", self._context)
        return super()._get(name, read, **options)


def _refusal(status: int, path: str) -> errors.CerberusError:
    if status == 403:
        return errors.AccessDenied(
            f"this principal may not read {path!r} (403): give it a role in that safe deposit box"
        )
    if status == 404:
        return errors.SecretNotFound(f"nothing is stored under {path!r} (404): see its spelling, category/box/path")
    return errors.InvalidResponse(f"Cerberus answers {status} to a read of {path!r}: see CERBERUS_URL")


def checked(path: str) -> str:
    """A path without slashes at its ends.

    Raises
    ------
    ConfigurationError
        It could lead elsewhere than to a secret.
    """
    stripped = path.strip("/")
    parts = stripped.split("/")
    if len(parts) < 2 or not all(map(_is_name, parts)):
        raise errors.ConfigurationError(f"not a path of a secret, category/box/path: {path[:100]!r}")
    return stripped


def _is_name(part: str) -> bool:
    return bool(part) and part not in (".", "..") and "/" not in part and part.isprintable()
