"""HTTPS requests of the whole package.

Connections are reused. One TLS context serves all of them. Every wait on a socket is limited by the deadline of the request, so
a slow server or name server cannot exceed it. Redirects are never followed.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
from urllib.parse import urlsplit

from ..deadline import Deadline
from ..errors import CerberusUnavailable, DeadlineExceeded, InvalidResponse
from .connection import Connection, Names, interruption
from .message import Answer
from .retry import NoAnswer, reason, retry_after, with_retries
from .tls import tls_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any
    from urllib.parse import SplitResult

    from ..settings import Settings

MAX_BODY_BYTES = 1 << 20
_IDLE_CONNECTIONS = 8  # kept for one host
_MAX_DEPTH = 64  # of JSON
# For ``bytes.translate``: brackets only, all of one kind. No multibyte character of UTF-8 contains such a byte.
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class Masked(str):
    """A header value that its repr does not show, so that no dump of a frame shows it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Response:
    """A complete answer. Its repr does not show the body.

    Parameters
    ----------
    ends_with_connection
        Whether only the end of the connection marked the end of the body, which can then be cut short.
    """

    __slots__ = ("body", "ends_with_connection", "headers", "status")

    def __init__(
        self, status: int, headers: Mapping[str, str], body: bytes, ends_with_connection: bool = False
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.ends_with_connection = ends_with_connection

    def json_object(self) -> dict[str, Any] | None:
        """See the function ``json_object``."""
        return json_object(self.body)

    def __reduce__(self) -> str:
        raise TypeError("A response cannot be pickled: it can contain a secret.")

    def __repr__(self) -> str:
        return f"<Response {self.status}, {len(self.body)} bytes>"


def json_object(document: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a document, nested at most 64 deep; None for anything else."""
    try:
        fields = None if too_deep(document) else json.loads(document.decode())
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def too_deep(document: bytes) -> bool:
    """Return whether JSON is nested deeper than 64. The parser would raise RecursionError with the text in its frames."""
    if document.count(b"[") + document.count(b"{") <= _MAX_DEPTH:
        return False
    outside = b"".join(document.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])  # without strings
    brackets = outside.translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(_MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # removes one level everywhere
    return bool(brackets)


def overloaded(response: Response) -> str:
    """Return the reason to retry for status 429 and 5xx; empty for any other status."""
    return f"it answered {response.status}" if response.status == 429 or response.status >= 500 else ""


class Transport:
    """Sends requests with a deadline, retries and connection reuse. Safe to share between threads.

    Parameters
    ----------
    sent
        Called with the service and the target of each sent request.
    """

    def __init__(self, settings: Settings, sent: Callable[[str, str], object] = lambda service, target: None) -> None:
        self._settings = settings
        self._sent = sent
        self._idle: dict[tuple[str, str, int], list[Connection]] = {}
        self._names = Names()
        self._origins: dict[tuple[str, str], tuple[tuple[str, str, int], str]] = {}
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = threading.Lock()

    def reset(self) -> None:
        """Drop the connections and locks of the original process, in a forked child or a restored container."""
        self._tls_lock = threading.Lock()
        self._names = Names()
        self.close()

    def load(self) -> None:
        """Load the certificate store during initialization, when Lambda gives a full CPU."""
        self.tls_context()

    def close(self) -> None:
        """Close idle connections. The transport stays usable."""
        idle = self._idle
        self._idle = {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def request(
        self,
        service: str,
        method: str,
        url: str,
        deadline: Deadline,
        *,
        headers: Callable[[], Mapping[str, str]],
        body: bytes | None = None,
        transient: Callable[[Response], str] = overloaded,
        repeat_timeouts: bool = True,
        max_body_bytes: int = MAX_BODY_BYTES,
        direct: bool = False,
    ) -> Response:
        """Send a request and read its answer. Retry transient failures while attempts and time are left.

        Parameters
        ----------
        service
            The name of the other side in errors.
        headers
            Called for each attempt, because a signature contains its time.
        transient
            Returns the reason to retry after an answer; empty if there is none.
        repeat_timeouts
            Whether to retry a request after a read timeout.
        direct
            Use no proxy.

        Raises
        ------
        CerberusUnavailable
            No answer, or a transient failure, after all attempts; or a redirect.
        InvalidResponse
            The answer is compressed, too large or invalid.
        DeadlineExceeded
            The deadline is over.
        """

        def once() -> Response:
            response = self.once(
                service,
                method,
                url,
                deadline,
                headers=headers(),
                body=body,
                max_body_bytes=max_body_bytes,
                direct=direct,
            )
            if reason := transient(response):
                after = retry_after(response.headers.get("retry-after", ""))
                raise NoAnswer(reason, status=response.status, retry_after=after)
            return response

        return with_retries(once, service, self._settings.max_attempts, deadline, repeat_timeouts)

    def once(
        self,
        service: str,
        method: str,
        url: str,
        deadline: Deadline,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        direct: bool = False,
    ) -> Response:
        """Send a request and read its answer, in one attempt. Parameters and errors are those of ``request``.

        The other side can close an idle connection at any time. If it sends no byte of an answer, the request is sent again on
        a new connection.

        Raises
        ------
        NoAnswer
            There was none, or a transient failure.
        """
        parts = urlsplit(url)
        origin, host = self._origin(parts)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        all_headers = {"Host": host, "Accept-Encoding": "identity", "Connection": "keep-alive"}
        all_headers |= {name: Masked(value) for name, value in headers.items()}
        del headers  # an exception of a signal handler keeps this frame

        def exchange(connection: Connection, kept: bool = False) -> Response | None:
            connection.deadline = deadline.within(self._settings.read_timeout)
            return self._exchange(connection, kept, service, method, target, all_headers, body, max_body_bytes)

        kept = self._kept(origin)
        response = exchange(kept, kept=True) if kept is not None else None
        if response is None:
            response = exchange(self._open(service, origin, deadline, direct))
            assert response is not None  # noqa: S101  (a new connection gives an answer or an error)
        return response

    def _exchange(
        self,
        connection: Connection,
        kept: bool,
        service: str,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        max_body_bytes: int,
    ) -> Response | None:
        """Return the answer; None if the other side had closed a reused connection."""
        before = sys.exception()
        reusable = False
        try:
            connection.request(method, target, headers, body)
            self._sent(service, target)
            answer = Answer(connection.receive, service)
            if answer.status < 200:  # the final answer would be read as the answer to the next request
                raise InvalidResponse(
                    f"{service} sent an interim answer that was not requested ({answer.status}). "
                    f"Check the proxy or load balancer in front of it."
                )
            if 300 <= answer.status < 400:
                raise CerberusUnavailable(
                    f"{service} redirects ({answer.status}). Redirects are not followed: set its URL to the final address.",
                    status=answer.status,
                )
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise InvalidResponse(
                    f"{service} sent a compressed answer that was not requested. "
                    f"Check the proxy or load balancer in front of it."
                )
            content = answer.read(max_body_bytes)
            reusable = answer.keeps_connection
            return Response(answer.status, answer.headers, content, answer.ends_with_connection)
        except Exception as error:
            interrupted = interruption(error, before)
            if interrupted is None and kept and not connection.answering and _is_broken(error):
                return None
            failure = interrupted or _failure(error, service, connection.deadline)
            if kept and isinstance(failure, NoAnswer) and failure.timed_out:
                self._forget(connection.origin)  # the others to this host are probably lost too
        finally:
            if reusable:
                self._keep(connection)
            else:
                connection.close()
        raise failure

    def _origin(self, parts: SplitResult) -> tuple[tuple[str, str, int], str]:
        """Return scheme, host and port of a URL, and its Host header. Parsed once per URL."""
        known = self._origins.get((parts.scheme, parts.netloc))
        if known is None:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            known = (parts.scheme, parts.hostname or "", port), host_header(parts.geturl())
            self._origins[parts.scheme, parts.netloc] = known
        return known

    def _kept(self, origin: tuple[str, str, int]) -> Connection | None:
        kept = self._idle.get(origin)
        while kept:
            try:
                connection = kept.pop()
            except IndexError:  # another thread took the last
                break
            if connection.usable():
                return connection
            connection.close()
        return None

    def _open(self, service: str, origin: tuple[str, str, int], deadline: Deadline, direct: bool) -> Connection:
        scheme, host, port = origin
        before = sys.exception()
        limit = deadline.within(self._settings.connect_timeout)
        limit.check(f"connecting to {service}")
        proxy = None if direct or scheme == "http" else self._proxy_for(host, port)
        tls = self.tls_context() if scheme == "https" else None
        connection = Connection(host, port, limit, tls, proxy, self._names)
        connection.pool = self._idle
        try:
            connection.connect()
            return connection
        except BaseException as error:
            connection.close()
            interrupted = interruption(error, before)
            if interrupted is None and not isinstance(error, OSError | ValueError | DeadlineExceeded):
                raise
            failure = interrupted or _no_connection(error, service, limit, proxy is not None)
        if isinstance(failure, NoAnswer) and failure.timed_out:
            failure.timed_out = deadline.remaining() <= 0
        raise failure

    def _keep(self, connection: Connection) -> None:
        if connection.pool is not self._idle:  # close() ran in the meantime: it would stay open for ever
            connection.close()
            return
        kept = self._idle.setdefault(connection.origin, [])
        if len(kept) < _IDLE_CONNECTIONS:
            connection.rested()
            kept.append(connection)
        else:
            connection.close()

    def _forget(self, origin: tuple[str, str, int]) -> None:
        for connection in self._idle.pop(origin, []):
            connection.close()

    def _proxy_for(self, host: str, port: int) -> str | None:
        if not self._settings.proxy:
            return None
        from .proxy import proxy_for  # loaded only with a proxy

        return proxy_for(self._settings, host, port)

    def tls_context(self) -> ssl.SSLContext:
        """Return the TLS context with the trusted certificate authorities.

        Raises
        ------
        ConfigurationError
            A bundle of certificate authorities cannot be loaded.
        """
        with self._tls_lock:
            if self._tls is None:
                self._tls = tls_context(self._settings.ca_bundles)
            return self._tls


def host_header(url: str) -> str:
    """Return the Host header of a URL, with the port only if it is not the default, as SigV4 requires."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    standard = {"https": 443, "http": 80}[parts.scheme]
    return host if parts.port in (None, standard) else f"{host}:{parts.port}"


def _is_broken(error: Exception) -> bool:
    """Return whether the other side closed or reset the connection."""
    return isinstance(error, OSError) and not isinstance(error, TimeoutError)


def _failure(error: Exception, service: str, deadline: Deadline) -> Exception:
    """Return the exception of this package for an error of a request."""
    if isinstance(error, TimeoutError | DeadlineExceeded):
        return NoAnswer(f"no complete answer within {deadline.seconds:.3g} s", timed_out=True)
    if isinstance(error, OSError):
        return NoAnswer(f"the connection broke ({reason(error)})")
    if isinstance(error, ValueError):
        return InvalidResponse(f"The request to {service} was not sent: {error}.")
    return error


def _no_connection(error: BaseException, service: str, deadline: Deadline, proxied: bool) -> Exception:
    """Return the exception of this package for an error of connecting."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CerberusUnavailable(
            f"The certificate of {service} is not trusted ({error.verify_message}). Check the URL. For a private certificate "
            f"authority, set REQUESTS_CA_BUNDLE or AWS_CA_BUNDLE to a file with its certificate and the public ones: the file "
            f"replaces the public authorities, for AWS too."
        )
    if isinstance(error, TimeoutError | DeadlineExceeded):
        why = f" ({error.strerror})" if isinstance(error, TimeoutError) and error.strerror else ""
        return NoAnswer(f"no connection within {deadline.seconds:.3g} s{why}", timed_out=True)
    return NoAnswer(f"no connection{' through HTTPS_PROXY' * proxied} ({reason(error)})")
