"""A connection whose every wait is bounded by a deadline, the look-up of its host's name included."""

from __future__ import annotations

import _thread
import errno
import http.client
import io
import re
import select
import socket
import ssl
import sys
import time

from ..deadline import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

_IDLE_SECONDS = 20  # NAT gateways and load balancers drop idle connections without a word; after this we open a new one
_MAX_SECONDS = 60  # a connection's age: names move, and a restored snapshot holds what nobody answers any more
_NOBODY: object = object()
_MAX_HANGING = 4  # look-ups of one name that nobody waits for any more, each in a thread


class Names:
    """Looks up the addresses of hosts. The system's look-up knows no limit, so it runs in a thread, left alone if it hangs."""

    def __init__(self) -> None:
        self._hanging: dict[str, set[object]] = {}

    def addresses(self, host: str, port: int, deadline: Deadline) -> list[Any]:
        """The addresses, as ``socket.getaddrinfo`` gives them.

        Raises
        ------
        OSError
            The name has no address, or (``TimeoutError``) the name server does not answer in time.
        """

        def look_up(flags: int = 0) -> list[Any]:
            # In bytes: for text, Python loads its tables of international names.
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
            _thread.start_new_thread(run, ())  # a daemon; half the cost of threading's
        except RuntimeError:  # at interpreter exit
            return look_up()
        try:
            done.acquire(timeout=deadline.check("looking up a name"))
        finally:
            if not outcome:
                hanging.add(done)
                if outcome:  # it ended in between
                    hanging.discard(done)
        if not outcome:
            raise TimeoutError(errno.ETIMEDOUT, "the name server does not answer")
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        found: list[Any] = outcome[0]
        return found


def interruption(error: BaseException | None, before: BaseException | None) -> BaseException | None:
    """The exception of a signal handler that an error is, or came from; None where no handler ran.

    A handler's ``TimeoutError`` is no timeout of a socket. Python gives a handler the frame that it interrupts: in a
    traceback, a frame that has the frame before it among its variables is a handler's.

    Parameters
    ----------
    before
        What the caller was handling already: that and what led to it does not count.
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


class _Answer(http.client.HTTPResponse):
    """An answer whose errors do not quote it: tools that trace http.client, such as X-Ray's, record their texts."""

    def begin(self) -> None:
        try:
            super().begin()
        except http.client.RemoteDisconnected:
            raise
        except http.client.HTTPException as error:
            raise http.client.HTTPException(type(error).__name__) from None


class Connection(http.client.HTTPConnection):
    """A connection whose every wait is bounded by a deadline, tunnelled through a proxy if there is one."""

    debuglevel = 0  # whoever sets that of http.client's own class has every header printed
    response_class = _Answer

    def __init__(
        self, host: str, port: int, deadline: Deadline, tls: ssl.SSLContext | None, proxy: str | None, names: Names
    ) -> None:
        self.origin = ("http" if tls is None else "https", host, port)
        self.deadline = deadline
        self.pool: object = None
        """Where it may be kept."""
        self.answering = False
        """Whether a byte of the answer to the last request has come."""
        self._tls = tls
        self._names = names
        if proxy is None:
            super().__init__(host, port)
        else:
            from .proxy import proxy_url, tunnel_headers

            parts = proxy_url(proxy)
            super().__init__(parts.hostname or "", parts.port or 80)
            self.set_tunnel(host, port, tunnel_headers(parts))
        self._tunnels = proxy is not None
        self._opened = self._rested = (0.0, 0.0)

    def connect(self) -> None:
        """Connect within the deadline, and agree on TLS."""
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
            name = self.origin[1].encode("ascii")
            secured = self._tls.wrap_socket(raw, server_hostname=name, do_handshake_on_connect=False)
            self.sock = _BoundedSocket(secured, self)  # first: what is interrupted in the handshake is closed
            secured.do_handshake()
        self._opened = (time.monotonic(), time.time())

    def _tcp(self) -> socket.socket:
        before = sys.exception()
        failure: OSError = OSError("the name has no address")
        found = self._names.addresses(self.host, self.port, self.deadline)
        for tried, (family, kind, protocol, _, address) in enumerate(found):
            raw = socket.socket(family, kind, protocol)
            try:
                # A share for each address: the first may be that of a zone that is down.
                raw.settimeout(self.deadline.check("connecting") / (len(found) - tried))
                raw.connect(address)
                return raw
            except BaseException as error:
                raw.close()
                if not isinstance(error, OSError) or interruption(error, before):
                    raise
                failure = error
        raise failure

    def rested(self) -> None:
        """Note when the connection went idle."""
        self._rested = (time.monotonic(), time.time())

    def usable(self) -> bool:
        """Whether the connection is young enough, and silent: one that can be read from while idle was closed."""
        if (
            not isinstance(self.sock, _BoundedSocket)
            or _since(self._rested) > _IDLE_SECONDS
            or _since(self._opened) > _MAX_SECONDS
        ):
            return False
        poll = select.poll()  # not select.select, which knows no descriptor over 1023
        poll.register(self.sock.fileno(), select.POLLIN)
        return not poll.poll(0) and not self.sock.pending()


def _since(moment: tuple[float, float]) -> float:
    """Seconds since a moment, by the clock that says more: a frozen container stops the monotonic one."""
    return max(time.monotonic() - moment[0], abs(time.time() - moment[1]))


class _BoundedSocket:
    """The part of a socket that http.client uses, each wait bounded by what is left of the connection's deadline."""

    def __init__(self, raw: socket.socket, connection: Connection) -> None:
        self._raw = raw
        self._connection = connection
        self._readers = 0
        self._closed = False

    def sendall(self, data: bytes) -> None:
        self._raw.settimeout(self._connection.deadline.check("sending"))
        self._raw.sendall(data)

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        self._raw.settimeout(self._connection.deadline.check("reading"))
        count = self._raw.recv_into(buffer)
        if count:
            self._connection.answering = True
        return count

    def makefile(self, mode: str) -> io.BufferedReader:
        self._readers += 1
        return io.BufferedReader(_BoundedReader(self))

    def fileno(self) -> int:
        return self._raw.fileno()

    def pending(self) -> int:
        """Bytes that TLS has decrypted and nobody has read."""
        return self._raw.pending() if isinstance(self._raw, ssl.SSLSocket) else 0

    def close(self) -> None:
        """Close once the answers are read: http.client closes before it reads one that ends with its connection."""
        self._closed = True
        if not self._readers:
            self._raw.close()

    def release(self) -> None:
        """A reader is closed."""
        self._readers -= 1
        if self._closed:
            self.close()


class _BoundedReader(io.RawIOBase):
    def __init__(self, socket: _BoundedSocket) -> None:
        self._socket = socket
        self.readinto = socket.recv_into  # type: ignore[method-assign,assignment]  # saves a call for each

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._socket.release()
        super().close()
