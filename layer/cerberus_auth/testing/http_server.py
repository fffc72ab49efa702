"""A threaded HTTP/1.1 server with faults on demand, which both stand-ins, of Cerberus and of AWS, stand on."""

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
"""Connections that may wait to be accepted: tests start hundreds of clients at the same moment."""

CHUNK = 8192
"""Bytes in one chunk of a body."""

NO_STATUS = 0
"""What stands for the status of a request that got no answer."""


class Request(NamedTuple):
    """One request as it arrived."""

    method: str
    path: str
    """Without the query, percent-encoding left as it was sent."""
    query: dict[str, str]
    """Decoded; of a parameter given twice, the last."""
    headers: Message
    """Looked up without regard to case."""
    body: bytes


class Response(NamedTuple):
    """One answer.

    The server adds ``Content-Length``, or sends the body in chunks where ``Transfer-Encoding: chunked`` is among the
    headers; ``Connection: close`` ends the connection.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


class _EndedError(ConnectionError):
    """The server or this connection is being closed: whoever waits in it gives up."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong with one answer. Made by the functions below.

    ``replacement`` is sent in place of the service's answer. Without one, ``reset`` and ``hang`` send nothing and do
    not ask the service; all other kinds distort the service's own answer.
    """

    kind: str
    seconds: float = 0
    content_type: str = ""
    replacement: Response | None = None

    @property
    def replaces(self) -> bool:
        """Whether the service is not asked at all."""
        return self.replacement is not None or self.kind in ("reset", "hang")

    @staticmethod
    def reset() -> Fault:
        """The connection is reset (RST) once the request has been read."""
        return Fault("reset")

    @staticmethod
    def hang() -> Fault:
        """Nothing is sent until the client gives up or the server is closed."""
        return Fault("hang")

    @staticmethod
    def hang_after_headers() -> Fault:
        """The status line and headers are sent, and then nothing."""
        return Fault("hang_after_headers")

    @staticmethod
    def drip_headers(every: float) -> Fault:
        """The status line and headers are sent one byte each ``every`` seconds, the body then at once."""
        return Fault("drip_headers", every)

    @staticmethod
    def drip_body(every: float) -> Fault:
        """The body is sent one byte each ``every`` seconds."""
        return Fault("drip_body", every)

    @staticmethod
    def half_body() -> Fault:
        """Half of the body that ``Content-Length`` promises is sent, and the connection closed."""
        return Fault("half_body")

    @staticmethod
    def status(code: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Fault:
        """Another answer, as from a proxy on the way: 503, 429 with ``Retry-After``, 302 with ``Location``."""
        return Fault("status", replacement=Response(code, body, headers or {}))

    @staticmethod
    def html(code: int = 200) -> Fault:
        """A page of a load balancer in place of the answer."""
        page = b"<!DOCTYPE html>\n<html><head><title>Sorry</title></head><body>We will be back soon.</body></html>\n"
        return Fault("html", replacement=Response(code, page, {"Content-Type": "text/html; charset=utf-8"}))

    @staticmethod
    def empty() -> Fault:
        """200 and no body."""
        return Fault("empty", replacement=Response(200))

    @staticmethod
    def wrong_content_type(content_type: str = "text/plain") -> Fault:
        """The service's own answer under another content type."""
        return Fault("wrong_content_type", content_type=content_type)

    @staticmethod
    def gzip_bomb(size: int = 64 * 1024 * 1024) -> Fault:
        """A small gzip body that unpacks to ``size`` bytes."""
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        return Fault("gzip_bomb", replacement=Response(200, _gzipped_spaces(size), headers))

    @staticmethod
    def delay(seconds: float) -> Fault:
        """The service's own answer, this much later."""
        return Fault("delay", seconds)


@functools.cache
def _gzipped_spaces(size: int) -> bytes:
    block = b" " * min(size, 1024 * 1024)
    packer = zlib.compressobj(wbits=31)  # 31: with the header and trailer of gzip
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
    """The faults planned for a server. Each request meets the first one that is meant for it, or none."""

    def __init__(self) -> None:
        self._planned: list[_PlannedFault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault, when: Callable[[Request], bool] = lambda request: True, times: int | None = 1) -> None:
        """Plan a fault for the next ``times`` requests for which ``when`` is true (``None``: until cleared)."""
        with self._lock:
            self._planned.append(_PlannedFault(fault, when, times))

    def clear(self) -> None:
        """Forget every fault that has not fired. One that is under way goes on."""
        with self._lock:
            self._planned.clear()

    @property
    def planned(self) -> int:
        """How many plans are not used up."""
        with self._lock:
            return len(self._planned)

    def take(self, request: Request) -> Fault | None:
        """Give the fault for this request, which is thereby used up once."""
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
    """A context manager that listens on 127.0.0.1 from its construction to its end, with a daemon thread a connection.

    :param respond: makes the answer to a request; called from many threads at once. What it raises is printed on the
        standard error, and answered by 500.
    :param tls: a server's context, or ``None`` for plain HTTP.
    :param port: 0 for one that the system chooses.
    :param replaced: told of each request whose answer a fault replaced, with the status sent in its place (0: none).
    :raises OSError: the port is in use.
    """

    port: int
    url: str
    faults: Faults
    connections: int
    """Accepted so far."""

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
        """Be as a server whose process ended: open connections close, hanging ones too, and new ones are refused."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def resume(self) -> None:
        """Listen again on the same port."""
        if self._listener is None:
            self._listener = _Listener(self, self._tls, self.port)
            self._listener.start()

    def drop_connections(self) -> None:
        """Close the open connections and go on listening, as a server does with idle ones."""
        if self._listener is not None:
            self._listener.drop_connections()

    def pause(self, seconds: float) -> None:
        """Sleep while making an answer; the server's end cuts it short.

        :raises ConnectionError: the server has ended.
        """
        listener = self._listener
        if listener is None or listener.ended.wait(seconds):
            raise _EndedError

    def close(self) -> None:
        """End every thread and connection at once. May be called again."""
        self.stop_listening()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Listener:
    """A listening socket with its threads and connections, from one start to one end."""

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
        deadline = time.monotonic() + 2  # for those whose answer waits for something else
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))

    def drop_connections(self) -> None:
        with self._lock:
            for connection in self._open.values():
                with contextlib.suppress(OSError):
                    # Not SSLSocket.shutdown, which takes the TLS state away under the thread that is reading.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._wakened, selectors.EVENT_READ)
            while not self.ended.is_set():
                selector.select()
                try:
                    connection, _ = self._socket.accept()
                except OSError:  # the client is gone already, or it was the waker
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
                # In this thread, so that a client that stops in its handshake holds up nobody else.
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
    """One connection. The base class reads requests; here they are answered."""

    protocol_version = "HTTP/1.1"
    server: _Listener  # type: ignore[assignment]  # all that the base class does with it is to keep it

    def log_message(self, format: str, *args: object) -> None:
        """No access log."""

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        if "Transfer-Encoding" in self.headers:
            self._send(Response(411, headers={"Connection": "close"}))
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
        except _EndedError:
            raise
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return Response(500, b"The stand-in failed: see its standard error.")

    def _send_nothing(self, fault: Fault) -> None:
        if fault.kind == "reset":
            # A linger of zero seconds: close() then resets instead of ending the stream.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self._wait_for_the_client_to_go()
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
            self._wait_for_the_client_to_go()
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
        self.connection.sendall(head + body)  # in one piece: one packet, for most

    def _encoded(self, response: Response) -> tuple[bytes, bytes]:
        """Make the head and the body to send; both follow the request's method and the status."""
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
            raise _EndedError

    def _wait_for_the_client_to_go(self) -> None:
        while self.connection.recv(65536):
            pass
