"""A threaded HTTP/1.1 server that can inject faults. The fake Cerberus and the fake AWS use it."""

from __future__ import annotations

import contextlib
import functools
import http.server
import selectors
import socket
import ssl
import struct
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from types import TracebackType
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qsl

BACKLOG = 512
"""The number of connections that can wait to be accepted. Tests start hundreds of clients at once."""

CHUNK = 8192
"""The size of one chunk of a body, in bytes."""

NO_STATUS = 0
"""The status that is recorded for a request without a response."""


class Request(NamedTuple):
    """One HTTP request."""

    method: str
    path: str
    """Without the query, percent-encoded as sent."""
    query: dict[str, str]
    """Decoded. If a parameter is repeated, its last value."""
    headers: Message
    """Look-up ignores case."""
    body: bytes


class Response(NamedTuple):
    """One HTTP response.

    The server adds ``Content-Length``. With the header ``Transfer-Encoding: chunked`` it sends the body in chunks instead. With
    ``Connection: close`` it closes the connection.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


class _ServerClosedError(ConnectionError):
    """The server is closed. Ends the threads that wait."""


@dataclass(frozen=True)
class Fault:
    """A fault in the response to a request. Use the static methods to create one.

    A fault with a ``replacement`` sends that response instead of the service's. The kinds ``reset`` and ``hang`` send
    nothing, and do not call the service. All other kinds change how the response of the service is sent.
    """

    kind: str
    seconds: float = 0
    content_type: str = ""
    replacement: Response | None = None

    @property
    def replaces(self) -> bool:
        """Whether the service is not called."""
        return self.replacement is not None or self.kind in ("reset", "hang")

    @staticmethod
    def reset() -> Fault:
        """Reset the connection (RST) after the request."""
        return Fault("reset")

    @staticmethod
    def hang() -> Fault:
        """Send nothing until the client disconnects or the server is closed."""
        return Fault("hang")

    @staticmethod
    def hang_after_headers() -> Fault:
        """Send the status line and the headers, and then nothing."""
        return Fault("hang_after_headers")

    @staticmethod
    def drip_headers(every: float) -> Fault:
        """Send one byte of the status line and the headers every ``every`` seconds, then the whole body."""
        return Fault("drip_headers", every)

    @staticmethod
    def drip_body(every: float) -> Fault:
        """Send the headers, and then one byte of the body every ``every`` seconds."""
        return Fault("drip_body", every)

    @staticmethod
    def half_body() -> Fault:
        """Send half of the body that ``Content-Length`` announces, and close the connection."""
        return Fault("half_body")

    @staticmethod
    def status(code: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Fault:
        """Send another response, as a proxy does.

        Parameters
        ----------
        code : int
            The HTTP status, such as 503.
        body : bytes
            The body. Empty by default.
        headers : mapping of str to str, optional
            The headers, such as ``Retry-After`` or ``Location``.
        """
        return Fault("status", replacement=Response(code, body, headers or {}))

    @staticmethod
    def html(code: int = 200) -> Fault:
        """Send an HTML page, as a load balancer does."""
        page = b"<!DOCTYPE html>\n<html><head><title>Sorry</title></head><body>We will be back soon.</body></html>\n"
        return Fault("html", replacement=Response(code, page, {"Content-Type": "text/html; charset=utf-8"}))

    @staticmethod
    def empty() -> Fault:
        """Send status 200 without a body."""
        return Fault("empty", replacement=Response(200))

    @staticmethod
    def wrong_content_type(content_type: str = "text/plain") -> Fault:
        """Send the response of the service with another content type."""
        return Fault("wrong_content_type", content_type=content_type)

    @staticmethod
    def gzip_bomb(size: int = 64 * 1024 * 1024) -> Fault:
        """Send a small gzip body that decompresses to ``size`` bytes."""
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        return Fault("gzip_bomb", replacement=Response(200, _gzipped_spaces(size), headers))

    @staticmethod
    def delay(seconds: float) -> Fault:
        """Send the response of the service ``seconds`` later."""
        return Fault("delay", seconds)


@functools.cache
def _gzipped_spaces(size: int) -> bytes:
    block = b" " * min(size, 1024 * 1024)
    packer = zlib.compressobj(wbits=31)  # 31: gzip format
    packed = [packer.compress(block) for _ in range(size // len(block))]
    return b"".join([*packed, packer.compress(block[: size % len(block)]), packer.flush()])


def _chunked(body: bytes) -> bytes:
    starts = range(0, len(body), CHUNK)
    chunks = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (body[start : start + CHUNK] for start in starts)]
    return b"".join([*chunks, b"0\r\n\r\n"])


@dataclass
class _PlannedFault:
    fault: Fault
    when: Callable[[Request], bool]
    left: int | None


class Faults:
    """The planned faults of a server. Each request gets the first one that matches it, if any."""

    def __init__(self) -> None:
        self._planned: list[_PlannedFault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault, when: Callable[[Request], bool] = lambda request: True, times: int | None = 1) -> None:
        """Plan a fault.

        Parameters
        ----------
        fault : Fault
            The fault.
        when : callable
            Takes a ``Request``, and returns whether the fault applies to it. All requests by default.
        times : int or None
            The number of requests that get the fault. ``None``: all, until ``clear``.
        """
        with self._lock:
            self._planned.append(_PlannedFault(fault, when, times))

    def clear(self) -> None:
        """Remove all planned faults. A request that already has its fault keeps it."""
        with self._lock:
            self._planned.clear()

    @property
    def planned(self) -> int:
        """The number of planned faults."""
        with self._lock:
            return len(self._planned)

    def take(self, request: Request) -> Fault | None:
        """Return the fault for a request, and count it as used once. ``None`` if no fault matches."""
        with self._lock:
            for planned in self._planned:
                if planned.when(request):
                    if planned.left is not None:
                        planned.left -= 1
                        if planned.left <= 0:
                            self._planned.remove(planned)
                    return planned.fault
        return None


class Server:
    """Run an HTTP server on 127.0.0.1, until ``close`` or the end of the ``with`` block. Each connection has a daemon thread.

    Parameters
    ----------
    respond : callable
        Takes a ``Request`` and returns a ``Response``. Many threads call it. If it raises an error, the server prints the
        traceback to standard error and returns 500.
    tls : ssl.SSLContext, optional
        The TLS context of the server. Plain HTTP by default.
    port : int
        The port. 0: the operating system chooses a free one.
    replaced : callable
        Called with each request whose response a fault replaced, and with the status that was sent (0: none).

    Raises
    ------
    OSError
        The port is in use.
    """

    port: int
    url: str
    faults: Faults
    connections: int
    """The number of connections accepted so far."""

    def __init__(
        self,
        respond: Callable[[Request], Response],
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        *,
        replaced: Callable[[Request, int], None] = lambda request, status: None,
    ) -> None:
        self.respond = respond
        self.replaced = replaced
        self.faults = Faults()
        self.connections = 0
        self._tls = tls
        self._listener: _Listener | None = _Listener(self, tls, port)
        self.port = self._listener.port
        self.url = f"https://localhost:{self.port}" if tls else f"http://127.0.0.1:{self.port}"
        self._listener.start()

    def stop_listening(self) -> None:
        """Close all connections and refuse new ones, as a server does whose process ended."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def resume(self) -> None:
        """Listen again on the same port."""
        if self._listener is None:
            self._listener = _Listener(self, self._tls, self.port)
            self._listener.start()

    def drop_connections(self) -> None:
        """Close all connections and accept new ones, as a server does with idle connections."""
        if self._listener is not None:
            self._listener.drop_connections()

    def pause(self, seconds: float) -> None:
        """Sleep within ``respond``, until the server is closed at most.

        Parameters
        ----------
        seconds : float
            The time to sleep.

        Raises
        ------
        ConnectionError
            The server is closed.
        """
        listener = self._listener
        if listener is None or listener.ended.wait(seconds):
            raise _ServerClosedError

    def close(self) -> None:
        """Stop the server, and close all connections at once. Safe to repeat."""
        self.stop_listening()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Listener:
    """A listening socket with its threads and connections."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None, port: int) -> None:
        self.server = server
        self.ended = threading.Event()
        self._tls = tls
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._socket = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._wakened, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name=f"listener:{self.port}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.ended.set()
        self._waker.close()  # makes the other end readable
        self._thread.join()
        self._socket.close()
        self._wakened.close()
        self.drop_connections()
        with self._lock:
            threads = list(self._open)
        deadline = time.monotonic() + 2  # for threads whose response waits for something else
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))

    def drop_connections(self) -> None:
        with self._lock:
            for connection in self._open.values():
                with contextlib.suppress(OSError):
                    # SSLSocket.shutdown would remove the TLS state while another thread reads.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._wakened, selectors.EVENT_READ)
            while not self.ended.is_set():
                selector.select()
                try:
                    connection, _ = self._socket.accept()
                except OSError:  # the client has disconnected, or the waker was closed
                    continue
                self.server.connections += 1
                connection.setblocking(True)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                with self._lock:
                    self._open[thread] = connection
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                # In this thread, so that a client that stalls in its handshake does not block others.
                connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                with self._lock:
                    self._open[threading.current_thread()] = connection
                if self.ended.is_set():
                    return
                connection.do_handshake()
            _Handler(connection, connection.getpeername(), cast(Any, self))
        except (OSError, ValueError):  # the client went away, or the server is ending
            pass
        finally:
            with self._lock:
                del self._open[threading.current_thread()]
            connection.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Handle one connection. The base class reads the requests."""

    protocol_version = "HTTP/1.1"
    server: _Listener  # type: ignore[assignment]  # the base class only stores it

    def log_message(self, format: str, *args: object) -> None:
        """Write no access log."""

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        if "Transfer-Encoding" in self.headers:
            self._send(Response(411, headers={"Connection": "close"}))
            return
        if len(self.headers.get_all("Content-Length", ())) > 1:  # as nginx and other servers do
            self._send(Response(400, headers={"Connection": "close"}))
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parameters = dict(parse_qsl(query, keep_blank_values=True))
        request = Request(self.command, path, parameters, self.headers, body)
        server = self.server.server
        fault = server.faults.take(request)
        if fault is None:
            self._send(self._respond(request))
        elif fault.replaces:
            server.replaced(request, fault.replacement.status if fault.replacement else NO_STATUS)
            if fault.replacement:
                self._send(fault.replacement)
            else:
                self._send_nothing(fault)
        else:
            self._distort(fault, request)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = _answer  # noqa: N815

    def _respond(self, request: Request) -> Response:
        try:
            return self.server.server.respond(request)
        except _ServerClosedError:
            raise
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return Response(500, b"The fake server failed. See its standard error.")

    def _send_nothing(self, fault: Fault) -> None:
        if fault.kind == "reset":
            # With a linger time of 0, close() resets the connection.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self._wait_for_disconnect()
        self.close_connection = True

    def _distort(self, fault: Fault, request: Request) -> None:
        if fault.kind == "delay":
            self._wait(fault.seconds)
        response = self._respond(request)
        if fault.kind == "wrong_content_type":
            response = response._replace(headers={**response.headers, "Content-Type": fault.content_type})
        head, body = self._encoded(response)
        if fault.kind == "hang_after_headers":
            self.connection.sendall(head)
            self._wait_for_disconnect()
            self.close_connection = True
        elif fault.kind == "half_body":
            self.connection.sendall(head + body[: len(body) // 2])
            self.close_connection = True
        elif fault.kind == "drip_headers":
            self._drip(head, fault.seconds)
            self.connection.sendall(body)
        elif fault.kind == "drip_body":
            self.connection.sendall(head)
            self._drip(body, fault.seconds)
        else:
            self.connection.sendall(head + body)

    def _send(self, response: Response) -> None:
        head, body = self._encoded(response)
        self.connection.sendall(head + body)  # one call, so that most responses fit one packet

    def _encoded(self, response: Response) -> tuple[bytes, bytes]:
        """Return the head and the body to send."""
        headers = dict(response.headers)
        names = {name.lower(): value for name, value in headers.items()}
        bodiless = response.status in (204, 304)
        body = response.body
        if names.get("transfer-encoding") == "chunked":
            body = _chunked(body)
        elif not bodiless and "content-length" not in names:
            headers["Content-Length"] = str(len(body))
        if names.get("connection", "").lower() == "close":
            self.close_connection = True
        try:
            phrase = HTTPStatus(response.status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {response.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head, b"" if bodiless or self.command == "HEAD" else body

    def _drip(self, data: bytes, every: float) -> None:
        for index in range(len(data)):
            self._wait(every)
            self.connection.sendall(data[index : index + 1])

    def _wait(self, seconds: float) -> None:
        if self.server.ended.wait(seconds):
            raise _ServerClosedError

    def _wait_for_disconnect(self) -> None:
        while self.connection.recv(65536):
            pass
