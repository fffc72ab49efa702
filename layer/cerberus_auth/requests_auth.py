"""Implements the ``auth=`` protocol of requests: a token in the header, and one retry after a 401."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from .authentication.wire import CLIENT_HEADERS, TOKEN_HEADER
from .deadline import Deadline
from .errors import CerberusError, ConfigurationError, TokenRefused
from .http.transport import Masked

if TYPE_CHECKING:
    import requests

    from .auth import CerberusAuth
    from .caching.kept import Kept

_DEFAULT_PORTS = {"https": 443, "http": 80}


def prepare(auth: CerberusAuth, request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Add the token to a request, and a hook that gets a new token and retries once after a 401.

    Raises
    ------
    ConfigurationError
        The request has another origin than ``CERBERUS_URL``.
    CerberusError
        Authentication failed.
    """
    if not is_cerberus(auth, request.url):
        raise ConfigurationError(
            "Token not sent: the request has another origin than CERBERUS_URL. Pass auth= for requests to CERBERUS_URL only."
        )
    token = auth.service.token(Deadline(auth.settings.timeout))
    request.headers[TOKEN_HEADER] = Masked(token.value)
    for name, value in CLIENT_HEADERS.items():
        request.headers.setdefault(name, value)
    request.register_hook("response", _Retry(auth, token, request.body))  # type: ignore[no-untyped-call]
    return request


def is_cerberus(auth: CerberusAuth, url: str | None) -> bool:
    """Return whether a URL has the origin of ``CERBERUS_URL``."""
    return _origin(url or "") == _origin(auth.settings.url)


class _Retry:
    """Handle responses of ``requests``: retry once after a 401, and drop the token from a redirect to another origin."""

    def __init__(self, auth: CerberusAuth, token: Kept, body: Any) -> None:
        self._auth = auth
        self._token = token
        self._position = _seek_position(body)
        self._is_repeatable = body is None or isinstance(body, bytes | str) or self._position is not None
        self._is_replaced = False

    def __call__(self, response: requests.Response, **kwargs: Any) -> requests.Response:
        sent = response.request
        if not is_cerberus(self._auth, sent.url) or TOKEN_HEADER not in sent.headers:
            return response
        service, url = self._auth.service, str(sent.url)
        while response.status_code == 401 and self._is_repeatable and not self._is_replaced:
            try:
                self._is_replaced = service.replace_token(self._token, url, Deadline(self._auth.settings.timeout))
            except TokenRefused:  # the path caused the 401, not the token
                return response
            except CerberusError:
                response.close()
                raise
            response = self._repeat(response, **kwargs)
        if response.status_code == 401 and self._is_replaced:
            service.reauthentication.record_useless(self._token)
        elif response.status_code == 200:
            service.reauthentication.record_accepted(url)
        if response.is_redirect:  # requests copies the headers of this request to the next one
            sent.headers[TOKEN_HEADER] = response.request.headers[TOKEN_HEADER]
            if not is_cerberus(self._auth, urljoin(sent.url or "", response.headers["location"])):
                del sent.headers[TOKEN_HEADER]
        return response

    def _repeat(self, response: requests.Response, **kwargs: Any) -> requests.Response:
        response.close()  # without reading it: the body can have any size
        self._token = self._auth.service.token(Deadline(self._auth.settings.timeout))
        request = response.request.copy()
        request.headers[TOKEN_HEADER] = Masked(self._token.value)
        if self._position is not None:
            request.body.seek(self._position)  # type: ignore[union-attr]
        second = response.connection.send(request, **kwargs)
        second.history.append(response)
        second.request = request
        return second


def _seek_position(body: Any) -> int | None:
    """Return the position of a seekable body, from which it can be sent again; None for any other body."""
    try:
        return int(body.tell()) if body.seekable() else None
    except (AttributeError, OSError):
        return None


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
