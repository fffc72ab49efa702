"""HTTPS for the whole package, on http.client.

Connections are kept and checked before reuse; one TLS context serves all; every wait on a socket gets only what is left of
the request's time, so that a server which drips cannot stretch it (name resolution excepted); redirects are never followed.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from urllib.parse import urlsplit

from ..deadline import Deadline
from ..errors import CerberusUnavailable, DeadlineExceeded, InvalidResponse
from .connection import Connection
from .retry import NoAnswer, reason, with_retries
from .tls import tls_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from ..settings import Settings

MAX_BODY_BYTES = 1 << 20
_IDLE_CONNECTIONS = 8  # kept for one host


class Response:
    """A whole answer, read to its end. Its repr shows no body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json_object(self) -> dict[str, Any] | None:
        """The JSON object that the body is; None where it is anything else."""
        try:
            fields = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return fields if isinstance(fields, dict) else None

    def __reduce__(self) -> str:
        raise TypeError("an answer is not written anywhere: it may hold a secret")

    def __repr__(self) -> str:
        return f"<Response {self.status}, {len(self.body)} bytes>"


def overloaded(response: Response) -> str:
    """What 429 and 5xx say of a service; empty for any other status."""
    return f"it answered {response.status}" if response.status == 429 or response.status >= 500 else ""


class Transport:
    """Requests with a deadline, retries and kept connections. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: dict[tuple[str, str, int], list[Connection]] = {}
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = threading.Lock()

    def start_anew(self) -> None:
        """In a forked child or a restored container: leave the connections to the process that opened them."""
        self._tls_lock = threading.Lock()
        self.close()

    def load(self) -> None:
        """Load the certificate store now: at initialisation, where Lambda gives a full CPU."""
        self.tls_context()

    def close(self) -> None:
        """Close the kept connections. The transport stays usable."""
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
        """Send a request and read its answer, again after transient failures while attempts and time are left.

        Parameters
        ----------
        service
            How errors name the other side.
        headers
            Made anew for every attempt, since a signature holds its time.
        transient
            Why an answer is worth another attempt; empty where it is not.
        repeat_timeouts
            Whether a request that ran into its read timeout may be sent again.
        direct
            Never through a proxy.

        Raises
        ------
        CerberusUnavailable
            No answer, or a transient one, after the attempts allowed.
        InvalidResponse
            A redirect, a compressed, an oversized or a broken answer.
        DeadlineExceeded
            The time is up.
        """

        def once() -> Response:
            response = self._once(service, method, url, deadline, headers(), body, max_body_bytes, direct)
            if reason := transient(response):
                after = response.headers.get("Retry-After", "")
                seconds = int(after[:6]) if after.isascii() and after.isdigit() else 0
                raise NoAnswer(reason, retry_after=seconds)
            return response

        return with_retries(once, service, self._settings.max_attempts, deadline, repeat_timeouts)

    def _once(
        self,
        service: str,
        method: str,
        url: str,
        deadline: Deadline,
        headers: Mapping[str, str],
        body: bytes | None,
        max_body_bytes: int,
        direct: bool,
    ) -> Response:
        parts = urlsplit(url)
        connection = self._connection(service, parts.scheme, parts.hostname or "", parts.port, deadline, direct)
        answer: http.client.HTTPResponse | None = None
        reusable = False
        try:
            connection.deadline = deadline.within(self._settings.read_timeout)
            target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
            all_headers = {
                "Host": host_header(url),
                "Accept-Encoding": "identity",
                "Connection": "keep-alive",
                **headers,
            }
            connection.request(method, target, body, all_headers)
            answer = connection.getresponse()
            if answer.status < 200:  # the answer proper would be taken for that of the next request
                raise InvalidResponse(f"{service} sends an interim answer ({answer.status}), which nobody asked for")
            if 300 <= answer.status < 400:
                raise InvalidResponse(
                    f"{service} redirects ({answer.status}), which is never followed: set its URL to where it really is"
                )
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise InvalidResponse(
                    f"{service} answers compressed though asked not to: see what stands in front of it"
                )
            content = answer.read(max_body_bytes + 1)
            if len(content) > max_body_bytes:
                raise InvalidResponse(
                    f"{service} answers more than {max_body_bytes} bytes: see whether the URL is right"
                )
            if answer.length:
                raise NoAnswer("the connection was closed in mid-answer")
            reusable = not answer.will_close
            return Response(answer.status, answer.headers, content)
        except TimeoutError:
            raise NoAnswer(f"no whole answer within {connection.deadline.seconds:.3g} s", timed_out=True) from None
        except DeadlineExceeded:
            raise NoAnswer(f"no whole answer within {connection.deadline.seconds:.3g} s", timed_out=True) from None
        except http.client.IncompleteRead:
            raise NoAnswer("the connection was closed in mid-answer") from None
        except (http.client.RemoteDisconnected, OSError) as error:
            raise NoAnswer(f"the connection broke ({reason(error)})") from None
        except (http.client.HTTPException, ValueError) as error:
            raise InvalidResponse(f"{service} does not answer in HTTP ({type(error).__name__})") from None
        finally:
            if answer is not None:
                answer.close()
            if reusable:
                self._keep(connection)
            else:
                connection.close()

    def _connection(
        self, service: str, scheme: str, host: str, port: int | None, deadline: Deadline, direct: bool
    ) -> Connection:
        port = port or (443 if scheme == "https" else 80)
        kept = self._idle.get((scheme, host, port))
        while kept:
            try:
                connection = kept.pop()
            except IndexError:  # another thread took the last
                break
            if connection.usable():
                return connection
            connection.close()
        limit = deadline.within(self._settings.connect_timeout)
        limit.check(f"connecting to {service}")
        proxy = None if direct or scheme == "http" else self._proxy_for(host, port)
        connection = Connection(host, port, limit, self.tls_context() if scheme == "https" else None, proxy)
        try:
            connection.connect()
        except (TimeoutError, DeadlineExceeded):
            connection.close()
            raise NoAnswer(f"no connection within {limit.seconds:.3g} s", timed_out=deadline.remaining() <= 0) from None
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise CerberusUnavailable(
                f"the certificate of {service} is not trusted ({error.verify_message}): check the URL, and for a private "
                f"authority set REQUESTS_CA_BUNDLE or AWS_CA_BUNDLE to a file with its certificate and the public ones, which "
                f"that file replaces, for AWS too"
            ) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            connection.close()
            raise NoAnswer(f"no connection{' through HTTPS_PROXY' * bool(proxy)} ({reason(error)})") from None
        return connection

    def _keep(self, connection: Connection) -> None:
        kept = self._idle.setdefault(connection.origin, [])
        if len(kept) < _IDLE_CONNECTIONS:
            connection.rested()
            kept.append(connection)
        else:
            connection.close()

    def _proxy_for(self, host: str, port: int) -> str | None:
        if not self._settings.proxy:
            return None
        from .proxy import proxy_for  # not where there is none

        return proxy_for(self._settings, host, port)

    def tls_context(self) -> ssl.SSLContext:
        """What TLS trusts.

        Raises
        ------
        ConfigurationError
            A bundle of authorities cannot be used.
        """
        with self._tls_lock:
            if self._tls is None:
                self._tls = tls_context(self._settings.ca_bundles)
            return self._tls


def host_header(url: str) -> str:
    """The Host header of a URL: the port only where it is not the scheme's own, as SigV4 signs it."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    standard = {"https": 443, "http": 80}[parts.scheme]
    return host if parts.port in (None, standard) else f"{host}:{parts.port}"
