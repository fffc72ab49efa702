"""A connection whose every wait is bounded by a deadline."""

from __future__ import annotations

import errno
import http.client
import io
import re
import select
import socket
import ssl
import time

from ..deadline import Deadline

_IDLE_SECONDS = 20  # NAT gateways and load balancers drop idle connections without a word; after this we open a new one


class Connection(http.client.HTTPConnection):
    """A connection whose every wait is bounded by a deadline, tunnelled through a proxy if there is one."""

    debuglevel = 0  # whoever sets that of http.client's own class has every header printed

    def __init__(self, host: str, port: int, deadline: Deadline, tls: ssl.SSLContext | None, proxy: str | None) -> None:
        self.origin = ("http" if tls is None else "https", host, port)
        self.deadline = deadline
        self._tls = tls
        if proxy is None:
            super().__init__(host, port)
        else:
            from .proxy import proxy_url, tunnel_headers

            parts = proxy_url(proxy)
            super().__init__(parts.hostname or "", parts.port or 80)
            self.set_tunnel(host, port, tunnel_headers(parts))
        self._tunnels = proxy is not None
        self._rested = (0.0, 0.0)

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

    def __init__(self, raw: socket.socket, connection: Connection) -> None:
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
    def __init__(self, raw: socket.socket, connection: Connection) -> None:
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
