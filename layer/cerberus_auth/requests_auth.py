"""The protocol of ``auth=`` in requests: the token in a header, and one retry after a 401."""

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
    """Add the token to a request; after a 401, authenticate once more and send it once more.

    Raises
    ------
    ConfigurationError
        The request goes elsewhere than ``CERBERUS_URL``: a token is for its own service only.
    """
    if not is_ours(auth, request.url):
        raise ConfigurationError("this auth is for requests to CERBERUS_URL only; its token was not sent elsewhere")
    token = auth.service.token(Deadline(auth.settings.timeout))
    request.headers[TOKEN_HEADER] = Masked(token.value)
    for name, value in CLIENT_HEADERS.items():
        request.headers.setdefault(name, value)
    request.register_hook("response", _Retry(auth, token, request.body))  # type: ignore[no-untyped-call]
    return request


def is_ours(auth: CerberusAuth, url: str | None) -> bool:
    """Whether a URL is of the service that the token is for."""
    return _origin(url or "") == _origin(auth.settings.url)


class _Retry:
    """A response hook of ``requests``: one retry after a 401, and no token to another origin after a redirect."""

    def __init__(self, auth: CerberusAuth, token: Kept, body: Any) -> None:
        self._auth = auth
        self._token = token
        self._position = _position(body)
        self._is_repeatable = body is None or isinstance(body, bytes | str) or self._position is not None
        self._is_replaced = False

    def __call__(self, response: requests.Response, **kwargs: Any) -> requests.Response:
        sent = response.request
        if not is_ours(self._auth, sent.url) or TOKEN_HEADER not in sent.headers:
            return response
        service, url = self._auth.service, str(sent.url)
        while response.status_code == 401 and self._is_repeatable and not self._is_replaced:
            try:
                self._is_replaced = service.replace(self._token, url, Deadline(self._auth.settings.timeout))
            except TokenRefused:  # the 401 concerns the path
                return response
            except CerberusError:
                response.close()
                raise
            response = self._repeat(response, **kwargs)
        if response.status_code == 401 and self._is_replaced:
            service.refusals.not_helped(self._token)
        elif response.status_code == 200:
            service.refusals.accepted(url)
        if response.is_redirect:  # requests copies the headers of the first request when it follows
            sent.headers[TOKEN_HEADER] = response.request.headers[TOKEN_HEADER]
            if not is_ours(self._auth, urljoin(sent.url or "", response.headers["location"])):
                del sent.headers[TOKEN_HEADER]
        return response

    def _repeat(self, response: requests.Response, **kwargs: Any) -> requests.Response:
        response.close()  # unread: its body may have any size
        self._token = self._auth.service.token(Deadline(self._auth.settings.timeout))
        request = response.request.copy()
        request.headers[TOKEN_HEADER] = Masked(self._token.value)
        if self._position is not None:
            request.body.seek(self._position)  # type: ignore[union-attr]
        second = response.connection.send(request, **kwargs)
        second.history.append(response)
        second.request = request
        return second


def _position(body: Any) -> int | None:
    """Where a body begins that can be sent again from there; None for any other."""
    try:
        return int(body.tell()) if body.seekable() else None
    except (AttributeError, OSError):
        return None


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
