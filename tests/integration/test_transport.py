"""The transport against servers that take liberties with HTTP: raw sockets, over TLS and without."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import authorities
import cerberus_auth
from cerberus_auth import CerberusUnavailable, InvalidResponse, Settings
from cerberus_auth.deadline import Deadline
from cerberus_auth.http.transport import Response, Transport
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


def get(transport: Transport, url: str) -> Response:
    return transport.request("the server", "GET", url, Deadline(5), headers=dict)


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
        pytest.raises(InvalidResponse, match="does not answer in HTTP"),
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
