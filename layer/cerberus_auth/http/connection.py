"""Connections with a deadline for every wait, including DNS look-ups."""

from __future__ import annotations

import _thread
import errno
import select
import socket
import ssl
import sys
import time

from ..deadline import Deadline
from ..errors import InvalidResponse
from .message import Answer, request_head
from .retry import NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Any

_IDLE_SECONDS = 20  # NAT gateways and load balancers drop idle connections silently
_MAX_SECONDS = 60  # maximum age of a connection: DNS entries change, and snapshots are restored later
_NOBODY: object = object()
_RECEIVE_BYTES = 1 << 14  # one TLS record
_MAX_HANGING = 4  # look-ups of one name that still run after their callers gave up, each in a thread


class Names:
    """Looks up the addresses of hosts. The look-up of the operating system has no timeout, so it runs in a thread."""

    def __init__(self) -> None:
        self._hanging: dict[str, set[object]] = {}

    def addresses(self, host: str, port: int, deadline: Deadline) -> list[Any]:
        """Return the addresses in the format of ``socket.getaddrinfo``.

        Raises
        ------
        OSError
            The name has no address. A ``TimeoutError``: the name server did not answer in time.
        """

        def look_up(flags: int = 0) -> list[Any]:
            # Bytes: for text, Python loads its tables of international names.
            return socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM, flags=flags)

        try:
            return look_up(socket.AI_NUMERICHOST)
        except socket.gaierror:  # a name
            pass
        hanging = self._hanging.setdefault(host, set())
        if len(hanging) >= _MAX_HANGING:
            raise OSError(errno.EAGAIN, "the name server does not answer")
        outcome: list[Any] = []
        done = _thread.allocate_lock()
        done.acquire()

        def run() -> None:
            try:
                outcome.append(look_up())
            except Exception as error:
                outcome.append(error)
            done.release()
            hanging.discard(done)

        try:
            _thread.start_new_thread(run, ())  # a daemon thread, for half the cost of threading.Thread
        except RuntimeError:  # at interpreter exit
            return look_up()
        try:
            done.acquire(timeout=deadline.check("looking up a name"))
        finally:
            if not outcome:
                hanging.add(done)
                if outcome:  # it ended in the meantime
                    hanging.discard(done)
        if not outcome:
            raise TimeoutError(errno.ETIMEDOUT, "the name server does not answer")
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        found: list[Any] = outcome[0]
        return found


def interruption(error: BaseException | None, before: BaseException | None) -> BaseException | None:
    """Return the exception of a signal handler that this error is, or was caused by; None if no handler ran.

    The ``TimeoutError`` of a handler is not a timeout of a socket. Python passes a handler the frame that it interrupts, so a
    frame of a handler has the previous frame of the traceback among its variables.

    Parameters
    ----------
    before
        The exception that the caller was already handling. It and its causes are ignored.
    """
    while error is not None and error is not before:
        trace: TracebackType | None = error.__traceback__
        interrupted: object = _NOBODY
        while trace is not None:
            for value in trace.tb_frame.f_locals.values():
                if value is interrupted or (type(value) is tuple and any(each is interrupted for each in value)):
                    return error
            interrupted = trace.tb_frame
            trace = trace.tb_next
        error = error.__context__
    return None


class Connection:
    """A connection with a deadline for every wait, through a proxy if there is one.

    Attributes
    ----------
    deadline
        Limits every wait. Set for each request.
    pool
        The idle connections of the transport that this one can join.
    answering
        Whether a byte of the current answer has arrived.
    """

    def __init__(
        self, host: str, port: int, deadline: Deadline, tls: ssl.SSLContext | None, proxy: str | None, names: Names
    ) -> None:
        self.origin = ("http" if tls is None else "https", host, port)
        self.deadline = deadline
        self.pool: object = None
        self.answering = False
        self._tls = tls
        self._proxy = proxy
        self._names = names
        self._socket: socket.socket | None = None
        self._opened = self._rested = (0.0, 0.0)

    def connect(self) -> None:
        """Connect, through the proxy if there is one, and do the TLS handshake."""
        _, host, port = self.origin
        if self._proxy is None:
            self._socket = self._tcp(host, port)
        else:
            self._tunnel(self._proxy)
        if self._tls is not None:
            raw = self._open()
            raw.settimeout(self.deadline.check("connecting"))
            # Set before the handshake, so that close() reaches it if a signal handler interrupts.
            self._socket = secured = self._tls.wrap_socket(
                raw, server_hostname=host.encode("ascii"), do_handshake_on_connect=False
            )
            secured.do_handshake()
        self._opened = (time.monotonic(), time.time())

    def _tunnel(self, proxy: str) -> None:
        from .proxy import proxy_url, tunnel_headers

        parts = proxy_url(proxy)
        self._socket = self._tcp(parts.hostname or "", parts.port or 80)
        _, host, port = self.origin
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.request("CONNECT", target, {"Host": target, **tunnel_headers(parts)})
        try:
            status = Answer(self.receive, "the proxy").status
        except (InvalidResponse, NoAnswer):
            raise OSError(errno.EPROTO, "the proxy does not speak HTTP/1.1") from None
        if status != 200:
            raise OSError(errno.EACCES, f"the proxy answers {status}")

    def _tcp(self, host: str, port: int) -> socket.socket:
        before = sys.exception()
        failure: OSError = OSError("the name has no address")
        found = self._names.addresses(host, port, self.deadline)
        for tried, (family, kind, protocol, _, address) in enumerate(found):
            raw = socket.socket(family, kind, protocol)
            try:
                # Each address gets a share: the first one can be in a zone that is down.
                raw.settimeout(self.deadline.check("connecting") / (len(found) - tried))
                raw.connect(address)
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return raw
            except BaseException as error:
                raw.close()
                if not isinstance(error, OSError) or interruption(error, before):
                    raise
                failure = error
        raise failure

    def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None) -> None:
        """Send a request."""
        data = memoryview(request_head(method, target, headers, body) + (body or b""))  # whose repr shows no token
        del headers, body  # an exception of a signal handler keeps this frame
        self.answering = False
        connected = self._open()
        connected.settimeout(self.deadline.check("sending"))
        connected.sendall(data)

    def receive(self) -> bytes:
        """Return the next bytes, or none after the other side closed the connection."""
        connected = self._open()
        connected.settimeout(self.deadline.check("reading"))
        data = connected.recv(_RECEIVE_BYTES)
        if data:
            self.answering = True
        return data

    def close(self) -> None:
        """Close the connection. It can be called at any time, more than once."""
        connected, self._socket = self._socket, None
        if connected is not None:
            connected.close()

    def tls_version(self) -> str:
        """Return the TLS version, such as ``TLSv1.3``; empty without TLS."""
        return (self._socket.version() or "") if isinstance(self._socket, ssl.SSLSocket) else ""

    def rested(self) -> None:
        """Note when the connection went idle."""
        self._rested = (time.monotonic(), time.time())

    def usable(self) -> bool:
        """Return whether it is young enough and has nothing to read: a readable idle connection was closed."""
        connected = self._socket
        if connected is None or _since(self._rested) > _IDLE_SECONDS or _since(self._opened) > _MAX_SECONDS:
            return False
        poll = select.poll()  # select.select() takes no descriptor over 1023
        try:
            poll.register(connected.fileno(), select.POLLIN)
            return not poll.poll(0) and not (isinstance(connected, ssl.SSLSocket) and connected.pending())
        except (OSError, ValueError):  # another thread has closed it in the meantime
            return False

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise OSError(errno.ENOTCONN, "the connection is closed")
        return self._socket


def _since(moment: tuple[float, float]) -> float:
    """Return the seconds since a moment, by the clock that shows more: a frozen container stops the monotonic clock."""
    return max(time.monotonic() - moment[0], abs(time.time() - moment[1]))
