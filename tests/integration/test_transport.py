"""The transport against servers that take liberties with HTTP: raw sockets, over TLS and without."""

from __future__ import annotations

import _thread
import contextlib
import email.utils
import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import authorities
import cerberus_auth
from cerberus_auth import CerberusUnavailable, ConfigurationError, DeadlineExceeded, InvalidResponse, Settings
from cerberus_auth.deadline import Deadline
from cerberus_auth.http.connection import Connection, Names
from cerberus_auth.http.transport import Response, Transport, json_object
from cerberus_auth.testing.http_server import Request, Server
from cerberus_auth.testing.http_server import Response as Answer
from integration.sockets import crowd
from local_stack.certificates import CertificateAuthority

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
Serve = Callable[[socket.socket], None]


@contextlib.contextmanager
def server(serve: Serve, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve each connection in turn; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with contextlib.suppress(OSError), connection:
                    if tls is None:
                        serve(connection)
                    else:
                        with tls.wrap_socket(connection, server_side=True) as secured:
                            serve(secured)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextlib.contextmanager
def transport(**settings: str) -> Iterator[Transport]:
    environment = {"CERBERUS_URL": "https://localhost", "AWS_REGION": "us-west-2", "CERBERUS_READ_TIMEOUT": "1"}
    transport = Transport(Settings.from_env(environment | settings))
    yield transport
    transport.close()


def get(transport: Transport, url: str, deadline: Deadline | None = None) -> Response:
    return transport.request("the server", "GET", url, deadline or Deadline(5), headers=dict)


def answers(*parts: bytes, keep: bool = False) -> Serve:
    """Answers each request with the parts, each in a segment of its own; closes after the first unless it keeps."""

    def serve(connection: socket.socket) -> None:
        while connection.recv(65536):
            for part in parts:
                connection.sendall(part)
                time.sleep(0.02)
            if not keep:
                return

    return serve


@pytest.mark.parametrize("length", [b"Content-Length: 2\r\n", b""])
def test_an_answer_that_closes_is_read_to_its_end(length: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + length + b"\r\n"
    with server(answers(head, b"{", b"}")) as port, transport() as sender:
        assert get(sender, f"http://127.0.0.1:{port}/").body == b"{}"


def test_a_chunked_answer_is_read_to_its_end_and_its_connection_kept() -> None:
    parts = (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n{\r\n", b"1\r\n}\r\n0\r\n\r\n")
    with server(answers(*parts, keep=True)) as port, transport() as sender:
        assert [get(sender, f"http://127.0.0.1:{port}/").body for _ in range(3)] == [b"{}"] * 3


def test_an_interim_answer_is_refused_and_its_connection_is_not_used_again() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    with server(answers(early, OK, keep=True)) as port, transport() as sender:
        for _ in range(2):
            with pytest.raises(InvalidResponse, match="interim"):
                get(sender, f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("padding", [0, 8192])
def test_what_follows_an_answer_is_not_taken_for_the_next_one(tmp_path: Path, padding: int) -> None:
    authority = CertificateAuthority(tmp_path)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Padding: "
    first = head + b"x" * max(0, padding - len(head) - 6) + b"\r\n\r\n{}"
    planted = b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"evil": true}'
    with (
        server(answers(first + planted), authority.server_context()) as port,
        transport(AWS_CA_BUNDLE=str(authority.bundle)) as sender,
    ):
        for _ in range(2):
            assert get(sender, f"https://localhost:{port}/").body == b"{}"


def test_a_dead_first_address_leaves_time_for_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(answers(OK)) as port, socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        fillers = [socket.socket() for _ in range(8)]
        for filler in fillers:  # a listener whose queue is full drops what comes, as a dead host does
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
            for address in (full.getsockname(), ("127.0.0.1", port))
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        with transport(CERBERUS_CONNECT_TIMEOUT="0.6", CERBERUS_MAX_ATTEMPTS="1") as sender:
            assert get(sender, f"http://127.0.0.1:{port}/").body == b"{}"
        for filler in fillers:
            filler.close()


def test_what_is_not_http_is_an_invalid_response() -> None:
    with (
        server(answers(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")) as port,
        transport() as sender,
        pytest.raises(InvalidResponse, match="does not speak HTTP"),
    ):
        get(sender, f"http://127.0.0.1:{port}/")


def test_nobody_listening_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with transport() as sender, pytest.raises(CerberusUnavailable, match="Connection refused"):
        get(sender, f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    ("trusts", "variables", "outcome"),
    [
        ("ours", {}, "200"),
        ("another", {}, "CerberusUnavailable"),
        ("another", {"SSL_CERT_FILE": "ours"}, "200"),
        ("ours", {"SSL_CERT_FILE": "another"}, "CerberusUnavailable"),
        ("another", {"AWS_CA_BUNDLE": "ours"}, "200"),
        ("ours", {"REQUESTS_CA_BUNDLE": "another"}, "CerberusUnavailable"),
    ],
)
def test_a_layer_trusts_the_authorities_it_brings_unless_told_otherwise(
    trusts: str, variables: dict[str, str], outcome: str, tmp_path: Path
) -> None:
    folders = {name: tmp_path / name for name in ("ours", "another")}
    for folder in folders.values():
        folder.mkdir()
    known = {name: CertificateAuthority(folder) for name, folder in folders.items()}
    package = tmp_path / "layer" / "cerberus_auth"
    shutil.copytree(Path(cerberus_auth.__file__).parent, package)
    authorities.main(known[trusts].bundle, package / "authorities")
    code = """if True:
        import sys
        from cerberus_auth import CerberusError, Settings
        from cerberus_auth.deadline import Deadline
        from cerberus_auth.http.transport import Transport
        transport = Transport(Settings.from_env())
        try:
            print(transport.request("the server", "GET", sys.argv[1], Deadline(5), headers=dict).status)
        except CerberusError as error:
            print(type(error).__name__)
        transport.close()"""
    environment = {
        "PYTHONPATH": str(package.parent),
        "CERBERUS_URL": "https://localhost",
        "AWS_REGION": "us-west-2",
        **{name: str(known[value].bundle) for name, value in variables.items()},
    }
    with server(answers(OK), known["ours"].server_context()) as port:
        command = [sys.executable, "-W", "error", "-c", code, f"https://localhost:{port}/"]
        ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=30)
    assert ended.stdout.strip() == outcome


# Kept connections


def test_after_a_timeout_on_a_kept_connection_no_other_kept_one_is_tried() -> None:
    together = threading.Barrier(4)

    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        if number < 4:
            together.wait(5)
        connection.sendall(OK)
        while number >= 4 or connection.recv(65536):  # the first four: their other ends are gone, without a word
            if number >= 4:
                if not connection.recv(65536):
                    return
                connection.sendall(OK)

    with crowd(serve) as port, transport(CERBERUS_READ_TIMEOUT="0.3") as sender:
        url = f"http://127.0.0.1:{port}/"
        readers = [threading.Thread(target=get, args=(sender, url)) for _ in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert get(sender, url, Deadline(5, attempts=2)).body == b"{}"


def closing_at_the_second_request(arrived: list[int], answer: bytes = b"") -> Callable[[socket.socket, int], None]:
    """Answers the first request of each connection; takes the second, and closes after a part of an answer or none."""

    def serve(connection: socket.socket, number: int) -> None:
        for part in (OK, answer):
            if not connection.recv(65536):
                return
            arrived.append(number)
            connection.sendall(part)

    return serve


def test_a_kept_connection_that_is_closed_at_the_wrong_moment_costs_no_attempt() -> None:
    arrived: list[int] = []
    with crowd(closing_at_the_second_request(arrived)) as port, transport(CERBERUS_MAX_ATTEMPTS="1") as sender:
        for _ in range(3):
            assert get(sender, f"http://127.0.0.1:{port}/").body == b"{}"
    assert arrived == [0, 0, 1, 1, 2]


def test_a_kept_connection_that_is_closed_in_mid_answer_costs_an_attempt() -> None:
    arrived: list[int] = []
    with (
        crowd(closing_at_the_second_request(arrived, OK[:-1])) as port,
        transport(CERBERUS_MAX_ATTEMPTS="1") as sender,
    ):
        get(sender, f"http://127.0.0.1:{port}/")
        with pytest.raises(CerberusUnavailable, match="closed before the answer was complete"):
            get(sender, f"http://127.0.0.1:{port}/")
    assert arrived == [0, 0]


@pytest.mark.parametrize("clock", ["time", "monotonic"])
def test_a_connection_older_than_a_minute_is_not_used_again(clock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def serve(connection: socket.socket, number: int) -> None:
        while connection.recv(65536):
            used.append(number)
            connection.sendall(OK)

    passed, real = [0], getattr(time, clock)
    monkeypatch.setattr(time, clock, lambda: real() + passed[-1])
    with crowd(serve) as port, transport() as sender:
        for seconds in (0, 15, 30, 45, 59, 74):
            passed.append(seconds)
            get(sender, f"http://127.0.0.1:{port}/")
    assert used == [0, 0, 0, 0, 0, 1]


# Ends of answers


@pytest.mark.parametrize(
    ("head", "body", "told"),
    [
        (b"Connection: close\r\n", b"{}", True),
        (b"Content-Length: 2\r\nConnection: close\r\n", b"{}", False),
        (b"Transfer-Encoding: chunked\r\nConnection: close\r\n", b"2\r\n{}\r\n0\r\n\r\n", False),
    ],
    ids=["closing", "length", "chunks"],
)
def test_an_answer_says_whether_only_the_closing_told_its_end(head: bytes, body: bytes, told: bool) -> None:
    with server(answers(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body)) as port, transport() as sender:
        response = get(sender, f"http://127.0.0.1:{port}/")
    assert (response.body, response.ends_with_connection) == (b"{}", told)


@pytest.mark.parametrize(
    "head", [b"Content-Length: 9\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n9\r\n{}"], ids=["length", "chunks"]
)
def test_an_answer_that_is_cut_is_none(head: bytes) -> None:
    with (
        server(answers(b"HTTP/1.1 200 OK\r\n" + head)) as port,
        transport() as sender,
        pytest.raises(CerberusUnavailable, match="closed before the answer was complete"),
    ):
        get(sender, f"http://127.0.0.1:{port}/", Deadline(5, attempts=1))


# What answers say


def reply(status: str, *headers: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", "Content-Length: 0", *headers, "", "")).encode()


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
def test_a_redirect_is_out_of_reach_and_not_asked_again(status: int) -> None:
    arrived: list[int] = []

    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        arrived.append(number)
        connection.sendall(reply(f"{status} Elsewhere", "Location: https://elsewhere.example.com/"))

    with crowd(serve) as port, transport() as sender, pytest.raises(CerberusUnavailable, match="redirects") as raised:
        get(sender, f"http://127.0.0.1:{port}/")
    assert (arrived, raised.value.status) == ([0], status)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_answered_failure_carries_its_status(status: int) -> None:
    with server(answers(reply(f"{status} Failing"))) as port, transport() as sender:
        with pytest.raises(CerberusUnavailable) as raised:
            get(sender, f"http://127.0.0.1:{port}/", Deadline(5, attempts=1))
        assert (raised.value.status, raised.value.retry_after) == (status, 0)
        assert raised.value.fresh().status == status
    with transport() as sender, pytest.raises(CerberusUnavailable) as raised:
        get(sender, f"http://127.0.0.1:{port}/", Deadline(5, attempts=1))
    assert raised.value.status == 0


def in_seconds(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        (lambda: "7", 7, 7),
        (lambda: "999999999", 60, 60),
        (lambda: in_seconds(30), 25, 30),
        (lambda: in_seconds(3600), 60, 60),
        (lambda: in_seconds(-30), 0, 0),
        (lambda: "soon", 0, 0),
        (lambda: "-7", 0, 0),
        (lambda: "Mon, 99 Foo 2026 25:61:61 GMT", 0, 0),
    ],
    ids=["seconds", "too many", "date", "far date", "past", "word", "negative", "no date"],
)
def test_how_long_a_service_wants_to_be_left_alone_is_told(value: Callable[[], str], least: int, most: int) -> None:
    with (
        server(answers(reply("503 Busy", f"Retry-After: {value()}"))) as port,
        transport() as sender,
        pytest.raises(CerberusUnavailable) as raised,
    ):
        get(sender, f"http://127.0.0.1:{port}/", Deadline(5, attempts=1))
    assert least <= raised.value.retry_after <= most
    assert raised.value.fresh().retry_after == raised.value.retry_after


def test_a_date_is_waited_for_between_attempts() -> None:
    moments: list[float] = []

    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        moments.append(time.time())
        connection.sendall(OK if number else reply("503 Busy", f"Retry-After: {in_seconds(2)}"))  # whole seconds

    with crowd(serve) as port, transport() as sender:
        assert get(sender, f"http://127.0.0.1:{port}/").body == b"{}"
    assert moments[1] - moments[0] >= 0.9


@pytest.mark.parametrize(("attempts", "requests"), [(None, 2), (1, 1), (4, 4)])
def test_a_deadline_says_how_often_a_request_is_sent(attempts: int | None, requests: int) -> None:
    arrived: list[int] = []

    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        arrived.append(number)
        connection.sendall(reply("503 Busy"))

    with (
        crowd(serve) as port,
        transport(CERBERUS_MAX_ATTEMPTS="2") as sender,
        pytest.raises(CerberusUnavailable, match=f"attempt {requests} of {requests}"),
    ):
        get(sender, f"http://127.0.0.1:{port}/", Deadline(20, attempts=attempts).within(15))
    assert len(arrived) == requests


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 planted-status\r\n\r\n",
        b"planted-protocol 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nplanted header: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: planted\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: planted\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nplanted\r\n",
    ],
)
def test_an_invalid_answer_is_not_quoted(answer: bytes) -> None:
    with server(answers(answer)) as port, transport() as sender, pytest.raises(InvalidResponse) as caught:
        get(sender, f"http://127.0.0.1:{port}/")
    assert "planted" not in "".join(traceback.format_exception(caught.value))


def test_tools_that_trace_http_client_see_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """X-Ray's patch of http.client records URLs, and the texts of errors."""

    def traced(*arguments: object, **keywords: object) -> None:
        raise AssertionError("a request went through http.client")

    monkeypatch.setattr(http.client.HTTPConnection, "request", traced)
    monkeypatch.setattr(http.client.HTTPConnection, "getresponse", traced)
    with server(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")) as port, transport() as sender:
        assert get(sender, f"http://127.0.0.1:{port}/").status == 200


# JSON


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_json_is_read_to_a_depth_of_64(opening: str, closing: str) -> None:
    levels = opening.count("[") + opening.count("{")
    for depth, taken in ((62, True), (66, False), (100_000, False)):
        times = depth // levels
        document = '{"data": ' + opening * times + "1" + closing * times + "}"
        assert (json_object(document.encode()) is not None) is taken, depth
        assert json_object(('{"data": ' + opening * times).encode()) is None


@pytest.mark.parametrize(
    "text", ["[{" * 500, '\\"[' * 500, "\\" + "[" * 500, '"' + "]" * 500, "\\\\" + "{" * 70, "é[" * 500 + "\u2028"]
)
def test_brackets_in_strings_are_no_depth(text: str) -> None:
    for document in ({"data": text, text: [text]}, {"data": [text] * 70}):
        assert json_object(json.dumps(document).encode()) == document
        assert json_object(json.dumps(document, ensure_ascii=False).encode()) == document


def test_depth_after_a_string_that_ends_in_backslashes_counts() -> None:
    assert json_object(b'{"a": "\\\\", "b": ' + b"[" * 64 + b"]" * 64 + b"}") is None
    assert json_object(b'{"a": "\\\\", "b": ' + b"[" * 63 + b"]" * 63 + b"}") is not None


# Names


class NameServer:
    """Answers for 127.0.0.1 by any name, once it is let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers = threading.Event()
        self.asked = 0
        original = socket.getaddrinfo

        def look_up(host: bytes, port: int, **options: int) -> object:
            if options.get("flags") == socket.AI_NUMERICHOST:
                return original(host, port, **options)
            self.asked += 1
            self.answers.wait(30)
            return original("127.0.0.1", port, **options)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    name_server = NameServer(monkeypatch)
    yield name_server
    name_server.answers.set()


def test_a_stalled_name_server_holds_nobody_past_its_time(name_server: NameServer) -> None:
    with transport() as sender:
        since = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            get(sender, "http://localhost:9/", Deadline(0.3))
        assert time.monotonic() - since < 5


def test_a_name_server_that_is_stalled_is_asked_four_times_and_no_more(name_server: NameServer) -> None:
    with server(answers(OK)) as port, transport(CERBERUS_CONNECT_TIMEOUT="0.05", CERBERUS_MAX_ATTEMPTS="1") as sender:
        url = f"http://localhost:{port}/"
        for _ in range(6):
            with pytest.raises(CerberusUnavailable, match="the name server does not answer"):
                get(sender, url)
        assert name_server.asked == 4
        assert get(sender, f"http://127.0.0.1:{port}/").body == b"{}"
        name_server.answers.set()
        until = time.monotonic() + 10
        while True:
            try:
                assert get(sender, url).body == b"{}"
                break
            except CerberusUnavailable:
                assert time.monotonic() < until
                time.sleep(0.01)


def test_where_no_thread_can_be_started_names_are_looked_up_all_the_same(
    name_server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    name_server.answers.set()
    with server(answers(OK)) as port, transport() as sender:
        monkeypatch.setattr(_thread, "start_new_thread", refuse)
        assert get(sender, f"http://localhost:{port}/").body == b"{}"
        monkeypatch.undo()


def test_an_unknown_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with transport() as sender, pytest.raises(CerberusUnavailable, match="no connection"):
        get(sender, "http://nobody.invalid/", Deadline(5, attempts=1))


# Signals


class Alarm(Exception):
    """A handler's own."""


def at_connect(connection: socket.socket) -> None:
    time.sleep(0.5)  # in the handshake: the client speaks TLS


def at_the_head(connection: socket.socket) -> None:
    connection.recv(65536)
    time.sleep(0.5)


def at_the_body(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{")
    time.sleep(0.5)


def at_a_chunk(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
    time.sleep(0.5)


@pytest.mark.parametrize("moment", [at_connect, at_the_head, at_the_body, at_a_chunk])
@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("mine"),
        OSError("mine"),
        ConnectionResetError("mine"),
        ValueError("mine"),
        http.client.IncompleteRead(b"mine"),
        DeadlineExceeded("mine"),
        CerberusUnavailable("mine"),
        Alarm("mine"),
        KeyboardInterrupt("mine"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_signal_handler_raises_reaches_the_caller(moment: Serve, error: BaseException) -> None:
    def handler(*given: object) -> None:
        raise error

    scheme = "https" if moment is at_connect else "http"
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with server(moment) as port, transport() as sender:
            sender.load()
            signal.setitimer(signal.ITIMER_REAL, 0.15)
            with pytest.raises(type(error)) as raised:
                get(sender, f"{scheme}://127.0.0.1:{port}/")
            assert raised.value is error
            assert not any(sender._idle.values())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_handler_interrupts_a_look_up(name_server: NameServer) -> None:
    def handler(signum: int, frame: object) -> None:
        raise TimeoutError("mine")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with transport() as sender:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(TimeoutError, match="mine"):
                get(sender, "http://localhost:9/")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_timeout_within_a_handler_is_a_timeout_all_the_same() -> None:
    """What the caller is handling already is no interruption."""

    def handler(*given: object) -> None:
        with server(at_the_head) as port, transport(CERBERUS_READ_TIMEOUT="0.1") as sender:
            get(sender, f"http://127.0.0.1:{port}/", Deadline(5, attempts=1))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(CerberusUnavailable, match="no complete answer within"):
            signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)


# TLS


def common_name_only(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A bundle, and the server's side of TLS with a certificate for localhost by its common name alone."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    bundle, chain = folder / "ca.pem", folder / "server.pem"
    bundle.write_bytes(pem)
    chain.write_bytes(private + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return bundle, context


def test_a_certificate_with_only_a_common_name_is_refused(tmp_path: Path) -> None:
    bundle, context = common_name_only(tmp_path)
    with (
        server(answers(OK), context) as port,
        transport(AWS_CA_BUNDLE=str(bundle)) as sender,
        pytest.raises(CerberusUnavailable, match="certificate"),
    ):
        get(sender, f"https://localhost:{port}/")


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("there", [False, True], ids=["missing", "unusable"])
def test_authorities_that_cannot_be_used_are_told(
    variable: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "authorities"
    if there:
        path.write_text("no certificate")
    monkeypatch.setenv(variable, str(path))
    with transport() as sender, pytest.raises(ConfigurationError, match=variable):
        sender.load()


def test_a_connection_in_use_while_the_transport_is_closed_is_not_kept() -> None:
    asked, answer = threading.Event(), threading.Event()

    def respond(request: Request) -> Answer:
        asked.set()
        assert answer.wait(30)
        return Answer(200, b"{}")

    with Server(respond) as server, ThreadPoolExecutor(1) as pool:
        transport = Transport(Settings(url=server.url, region="us-west-2"))
        pending = pool.submit(transport.request, "Cerberus", "GET", f"{server.url}/", Deadline(30), headers=lambda: {})
        assert asked.wait(30)
        transport.close()
        answer.set()
        assert pending.result().status == 200
        assert not transport._idle


def test_a_connection_can_be_closed_while_another_thread_looks_at_it() -> None:
    class Closing(socket.socket):
        def fileno(self) -> int:
            connection.close()
            return super().fileno()

    connection = Connection("127.0.0.1", 1, Deadline(1), None, None, Names())
    connection._socket = Closing()
    connection._opened = (time.monotonic(), time.time())
    connection.rested()
    assert not connection.usable()
