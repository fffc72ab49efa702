"""HTTPS for the whole package, on http.client.

Connections are kept and checked before reuse; one TLS context serves all; every wait on a socket gets only what is left of
the request's time, so that a server which drips cannot stretch it (name resolution excepted); redirects are never followed.

Proxies: https goes through ``HTTPS_PROXY`` (an ``http://`` proxy, with ``user:password@`` if it wants them) by ``CONNECT``, so
that it learns the host and port and nothing else. Never through it go plain http (which is for loopback hosts only), loopback
hosts, the endpoint of container credentials, and what ``NO_PROXY`` names: hosts by comma, each of them with all below it
(``example.com``, ``.example.com`` and ``*.example.com`` are the same), with ``:port`` for that port only, ``*`` for all.
Addresses are compared as they are written; ranges such as ``10.0.0.0/8`` are not known. ``HTTP_PROXY`` and ``ALL_PROXY`` are
not read. Of a variable in both spellings, the lower-case one counts.
"""

from __future__ import annotations

import errno
import http.client
import io
import json
import os
import re
import select
import socket
import ssl
import threading
import time
from base64 import b64encode
from urllib.parse import unquote, urlsplit

from .clock import Deadline, jitter
from .errors import CerberusUnavailable, ConfigurationError, DeadlineExceeded, InvalidResponse
from .settings import is_loopback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar
    from urllib.parse import SplitResult

    from .settings import Settings

    T = TypeVar("T")

MAX_BODY_BYTES = 1 << 20
# The layer's, of certifi (layer/authorities.py); the pip package has none. Loading a store as a whole takes 16 ms.
_AUTHORITIES = os.path.join(os.path.dirname(__file__), "authorities")
_IDLE_SECONDS = 20  # NAT gateways and load balancers drop idle connections without a word; after this we open a new one
_IDLE_CONNECTIONS = 8  # kept for one host
_BACKOFF_SECONDS = 0.2
_MAX_BACKOFF_SECONDS = 2.0


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
        self._idle: dict[tuple[str, str, int], list[_Connection]] = {}
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
    ) -> _Connection:
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
        proxy = None if direct or scheme == "http" else self.proxy_for(host, port)
        connection = _Connection(host, port, limit, self.tls_context() if scheme == "https" else None, proxy)
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

    def _keep(self, connection: _Connection) -> None:
        kept = self._idle.setdefault(connection.origin, [])
        if len(kept) < _IDLE_CONNECTIONS:
            connection.rested()
            kept.append(connection)
        else:
            connection.close()

    def proxy_for(self, host: str, port: int) -> str | None:
        """The proxy that https to this host goes through, if any."""
        if not self._settings.proxy or is_loopback(host):
            return None
        for entry in self._settings.no_proxy.lower().split(","):
            name, _, entry_port = entry.strip().partition(":")
            name = name.lstrip("*").lstrip(".")
            if entry.strip() == "*":
                return None
            if (
                name
                and (not entry_port or entry_port == str(port))
                and (host.lower() == name or host.lower().endswith("." + name))
            ):
                return None
        return self._settings.proxy

    def tls_context(self) -> ssl.SSLContext:
        """What TLS trusts.

        Raises
        ------
        ConfigurationError
            A bundle of authorities cannot be used.
        """
        with self._tls_lock:
            if self._tls is None:
                self._tls = _tls_context(self._settings.ca_bundles)
            return self._tls


class NoAnswer(Exception):
    """One attempt brought no answer, or a transient one. Stays inside the package."""

    def __init__(self, reason: str, *, timed_out: bool = False, retry_after: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.timed_out = timed_out
        self.retry_after = retry_after


def with_retries(
    once: Callable[[], T], service: str, attempts: int, deadline: Deadline, repeat_timeouts: bool = True
) -> T:
    """Call ``once`` until it does not raise ``NoAnswer``, with full jitter between, while attempts and time are left.

    Raises
    ------
    CerberusUnavailable
        No answer after the attempts allowed, or none can follow within the time left.
    DeadlineExceeded
        The time is up.
    """
    for attempt in range(1, attempts + 1):
        deadline.check(f"asking {service}")
        try:
            return once()
        except NoAnswer as failure:
            cause, timed_out, retry_after = failure.reason, failure.timed_out, failure.retry_after
        if timed_out:
            deadline.check(f"waiting for {service}")
        pause = max(retry_after, jitter() * min(_MAX_BACKOFF_SECONDS, _BACKOFF_SECONDS * 2**attempt))
        if attempt == attempts or (timed_out and not repeat_timeouts) or pause >= deadline.remaining():
            break
        time.sleep(pause)
    raise CerberusUnavailable(
        f"{service} is unavailable: {cause} (attempt {attempt} of {attempts}). If it lasts, see whether that service is "
        f"healthy and the function's network (VPC, security group, NAT, endpoint, proxy) reaches it"
    )


class _Connection(http.client.HTTPConnection):
    """A connection whose every wait is bounded by a deadline, tunnelled through a proxy if there is one."""

    debuglevel = 0  # whoever sets that of http.client's own class has every header printed

    def __init__(self, host: str, port: int, deadline: Deadline, tls: ssl.SSLContext | None, proxy: str | None) -> None:
        self.origin = ("http" if tls is None else "https", host, port)
        self.deadline = deadline
        self._tls = tls
        if proxy is None:
            super().__init__(host, port)
        else:
            parts = proxy_url(proxy)
            super().__init__(parts.hostname or "", parts.port or 80)
            self.set_tunnel(host, port, tunnel_headers(parts))
        self._tunnels = proxy is not None
        self._rested = (0.0, 0.0)

    def connect(self) -> None:
        raw = self._tcp()
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = _BoundedSocket(raw, self)
        if self._tunnels:
            try:
                self._tunnel()  # type: ignore[attr-defined]  # http.client's own
            except OSError as error:
                refused = re.match(r"Tunnel connection failed: (\d{3})", str(error))
                raise OSError(errno.EACCES, f"the proxy answers {refused[1]}") if refused else error from None
        if self._tls is not None:
            raw.settimeout(self.deadline.check("connecting"))
            secured = self._tls.wrap_socket(raw, server_hostname=self.origin[1].encode("ascii"))
            self.sock = _BoundedSocket(secured, self)

    def _tcp(self) -> socket.socket:
        failure: OSError = OSError("the name has no address")
        # In bytes: for text, Python loads its tables of international names.
        found = socket.getaddrinfo(self.host.encode("ascii"), self.port, type=socket.SOCK_STREAM)
        for tried, (family, kind, protocol, _, address) in enumerate(found):
            raw = socket.socket(family, kind, protocol)
            try:
                # A share for each address: the first may be that of a zone that is down.
                raw.settimeout(self.deadline.check("connecting") / (len(found) - tried))
                raw.connect(address)
                return raw
            except OSError as error:
                raw.close()
                failure = error
            except BaseException:
                raw.close()
                raise
        raise failure

    def rested(self) -> None:
        """Note when the connection went idle, by both clocks: a frozen container stops the monotonic one."""
        self._rested = (time.monotonic(), time.time())

    def usable(self) -> bool:
        """Whether the connection is young enough, and silent: one that can be read from while idle was closed."""
        idle = max(time.monotonic() - self._rested[0], abs(time.time() - self._rested[1]))
        if not isinstance(self.sock, _BoundedSocket) or idle > _IDLE_SECONDS:
            return False
        poll = select.poll()  # not select.select, which knows no descriptor over 1023
        poll.register(self.sock.fileno(), select.POLLIN)
        return not poll.poll(0) and not self.sock.pending()


class _BoundedSocket:
    """The part of a socket that http.client uses, each wait bounded by what is left of the connection's deadline."""

    def __init__(self, raw: socket.socket, connection: _Connection) -> None:
        self._raw = raw
        self._connection = connection

    def sendall(self, data: bytes) -> None:
        self._raw.settimeout(self._connection.deadline.check("sending"))
        self._raw.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_BoundedReader(self._raw, self._connection))

    def fileno(self) -> int:
        return self._raw.fileno()

    def pending(self) -> int:
        """Bytes that TLS has decrypted and nobody has read."""
        return self._raw.pending() if isinstance(self._raw, ssl.SSLSocket) else 0

    def close(self) -> None:
        self._raw.close()


class _BoundedReader(io.RawIOBase):
    def __init__(self, raw: socket.socket, connection: _Connection) -> None:
        self._raw = raw
        self._file = raw.makefile(
            "rb", buffering=0
        )  # keeps the socket open until the answer is read, as http.client expects
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # any writable buffer
        self._raw.settimeout(self._connection.deadline.check("reading"))
        return self._file.readinto(buffer) or 0

    def close(self) -> None:
        self._file.close()
        super().close()


def _tls_context(ca_bundles: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in ca_bundles:
        try:
            context.load_verify_locations(path)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE: {path} holds no certificates ({reason(error)})"
            ) from None
    if ca_bundles:
        return context
    if os.path.isdir(_AUTHORITIES) and not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & os.environ.keys():
        context.load_verify_locations(capath=_AUTHORITIES)  # OpenSSL reads there, when it verifies, only what it needs
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if not context.cert_store_stats()["x509_ca"]:
            try:  # a Python without a store of its own; requests brings certifi
                import certifi
            except ImportError:
                pass
            else:
                context.load_verify_locations(certifi.where())
    return context


def proxy_url(proxy: str) -> SplitResult:
    """The parts of a proxy's URL, which may come without its scheme."""
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def tunnel_headers(proxy: SplitResult) -> dict[str, str]:
    """What a proxy wants to see besides the host: who asks, where its URL says that."""
    if not proxy.username:
        return {}
    credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {b64encode(credentials).decode()}"}


def host_header(url: str) -> str:
    """The Host header of a URL: the port only where it is not the scheme's own, as SigV4 signs it."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    standard = {"https": 443, "http": 80}[parts.scheme]
    return host if parts.port in (None, standard) else f"{host}:{parts.port}"


def reason(error: BaseException) -> str:
    """What to tell of an error: system and TLS errors by their own names; never text that came over the wire."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or type(error).__name__}"
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or type(error).__name__
    return type(error).__name__
