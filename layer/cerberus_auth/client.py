"""``CerberusClient``: reads secrets with an auth."""

from __future__ import annotations

import threading
import time
from urllib.parse import quote

from . import errors
from .auth import TOKEN_HEADER, CerberusAuth, seconds_left
from .cerberus import CLIENT_HEADERS
from .clock import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any

    from .auth import LambdaContext
    from .transport import Response

_MAX_CACHED = 256  # secrets kept for max_age


class CerberusClient:
    """Reads from Cerberus as the function's execution role. Safe to share between threads; make one at module scope.

    Parameters
    ----------
    auth
        Shared with others; one of the environment's settings by default.
    """

    def __init__(self, auth: CerberusAuth | None = None) -> None:
        self._auth = auth or CerberusAuth()
        self._cached: MutableMapping[str, tuple[float, float, dict[str, Any]]] | None = None
        self._lock = threading.Lock()

    def read(
        self,
        path: str,
        *,
        max_age: float | None = None,
        fresh: bool = False,
        timeout: float | None = None,
        context: LambdaContext | None = None,
    ) -> dict[str, Any]:
        """The keys and values stored under a path such as ``app/orders/db``.

        Parameters
        ----------
        max_age
            Seconds: an answer read at most so long ago will do. By default, each call reads.
        fresh
            Read, whatever ``max_age`` says; the answer is kept for later calls.
        timeout
            Seconds for all of it; ``CERBERUS_TIMEOUT`` by default.
        context
            The handler's: also no longer than the invocation lasts, less 0.3 s to answer in.

        Raises
        ------
        SecretNotFound, AccessDenied, TokenRefused, CerberusUnavailable, InvalidResponse, DeadlineExceeded
            And whatever authenticating raises: see README, "Errors and what to do".
        """
        path = _checked(path)
        if max_age is not None and not fresh:
            with self._lock:
                read_at, read_at_wall, data = (self._cached or {}).get(path, (0.0, 0.0, None))
            # By both clocks: a frozen container stops the monotonic one, and the wall clock can be set back.
            if data is not None and max(time.monotonic() - read_at, time.time() - read_at_wall) < max_age:
                return dict(data)
        now = time.monotonic(), time.time()
        data = self._data(path, "", seconds_left(timeout, context))
        if max_age is not None or fresh:
            from cachetools import LRUCache  # not before somebody caches: its import is not free

            with self._lock:
                if self._cached is None:
                    self._cached = LRUCache(_MAX_CACHED)
                self._cached[path] = (*now, data)
        return dict(data)

    def list(self, path: str, *, timeout: float | None = None, context: LambdaContext | None = None) -> list[str]:
        """The names under a path; those that end in ``/`` hold more. ``timeout`` and ``context`` as in ``read``.

        Raises
        ------
        SecretNotFound, AccessDenied, TokenRefused, CerberusUnavailable, InvalidResponse, DeadlineExceeded
            And whatever authenticating raises.
        """
        keys = self._data(_checked(path), "?list=true", seconds_left(timeout, context)).get("keys")
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise errors.InvalidResponse(f"Cerberus answers the list of {path!r} without keys")
        return keys

    def _data(self, path: str, query: str, timeout: float | None) -> dict[str, Any]:
        limit = self._auth.settings.timeout
        deadline = Deadline(limit if timeout is None else min(timeout, limit))
        return errors.shielded(lambda: self._get(path, query, deadline))

    def _get(self, path: str, query: str, deadline: Deadline) -> dict[str, Any]:
        url = f"{self._auth.settings.url}/v1/secret/{quote(path)}{query}"
        token, response = self._send(url, deadline)
        for _ in range(self._auth.renewals):
            if response.status == 401:
                self._auth.renewed(token, deadline.remaining())
                token, response = self._send(url, deadline)
        if response.status == 200:
            data = (response.json_object() or {}).get("data")
            if isinstance(data, dict):
                return data
            raise errors.InvalidResponse(
                f"Cerberus answers {path!r} with something that is no secret: see CERBERUS_URL"
            )
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


def _refusal(status: int, path: str) -> errors.CerberusError:
    if status == 403:
        return errors.AccessDenied(
            f"this principal may not read {path!r} (403): give it a role in that safe deposit box"
        )
    if status == 404:
        return errors.SecretNotFound(f"nothing is stored under {path!r} (404): see its spelling, category/box/path")
    return errors.InvalidResponse(f"Cerberus answers {status} to a read of {path!r}: see CERBERUS_URL")


def _checked(path: str) -> str:
    """A path without slashes at its ends.

    Raises
    ------
    ConfigurationError
        It could lead elsewhere than to a secret.
    """
    stripped = path.strip("/")
    parts = stripped.split("/")
    if len(parts) < 2 or not all(part and part not in (".", "..") and part.isprintable() for part in parts):
        raise errors.ConfigurationError(f"not a path of a secret, category/box/path: {path[:100]!r}")
    return stripped
