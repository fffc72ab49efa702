"""Attacks: what a hostile Cerberus, caller's input, host name or table may try. SECURITY.md counts the rows of these tables.

Each row says what is tried. The outcome is a right value or an error of this package, in bounded time and memory; a token
goes to Cerberus alone, and no answer is taken for that of another request.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from email.message import Message
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest
import requests

from cerberus_auth import CerberusAuth, CerberusClient, CerberusError, ConfigurationError, Settings
from cerberus_auth.testing.http_server import Fault, Request, Response, Server
from integration.function import Function
from integration.sockets import crowd
from local_stack.aws import Aws
from local_stack.certificates import CertificateAuthority
from local_stack.stack import ROLE, SECRET, SECRET_PATH, TABLE, decrypt_statement, share_statement

TOKEN = "token-of-the-environment"
SECONDS = 1.0  # CERBERUS_TIMEOUT
SLACK_SECONDS = 4.0  # of a busy machine
MOST_BYTES = 24 << 20  # at once, for one answer


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A function with a token, and nothing else."""
    for name in [*os.environ]:
        if name.startswith(("AWS_", "CERBERUS_")) or name.lower().endswith(("_proxy", "_ca_bundle")):
            monkeypatch.delenv(name)
    settings = {"TOKEN": TOKEN, "TIMEOUT": str(SECONDS), "READ_TIMEOUT": "0.5", "MAX_ATTEMPTS": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"CERBERUS_{name}", value)
    return monkeypatch


class Reader(NamedTuple):
    """A client, and what its Cerberus gets."""

    client: CerberusClient
    auth: CerberusAuth
    server: Server
    arrived: list[Request]


@pytest.fixture
def reader(environment: pytest.MonkeyPatch) -> Iterator[Reader]:
    arrived: list[Request] = []

    def respond(request: Request) -> Response:
        arrived.append(request)
        return Response(200, json.dumps({"data": SECRET}).encode())

    with Server(respond) as server:
        environment.setenv("CERBERUS_URL", server.url)
        auth = CerberusAuth()
        yield Reader(CerberusClient(auth), auth, server, arrived)
        auth.close()


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    """Where nothing may go."""
    with Server(lambda request: Response(200, b'{"data": {}}')) as server:
        yield server


# What a caller's input may try

PATHS = [
    *(
        "",
        "/",
        "//",
        ".",
        "..",
        "app",
        "app/",
        "/app",
        "app//db",
        "app/orders//db",
        "app/./db",
        "app/../db",
        "app/orders/..",
    ),
    *("../app/orders/db", "app/orders/../../../v1/auth", "./app/orders", "app/orders/.", "http://evil.example/app/db"),
    *("app/orders/db%", "app/%2e%2e/db", "app/orders/%2fdb", "app/orders/db%00", "app/orders/db%0d%0aX-Injected: yes"),
    *("app/orders/db;v=1", "app;/orders/db", "app\\orders\\db", "app/orders\\..\\db", "\\\\evil.example\\db/x"),
    *(
        "app/orders/db\r\nX-Injected: yes",
        "app/orders/db\n",
        "app/orders/\rdb",
        "app/orders/db\0",
        "app/orders/\x1b[2J",
    ),
    *("app/orders/db\u2028x", "app/orders/\u202edb", "app/orders/\ud800", "app/orders/\U0001f600", "app/orders/\x7f"),
    *(
        "app/orders/db?versionId=1",
        "app/orders/db?list=true",
        "app/orders/db#x",
        "app/orders/db&list=true",
        "app/orders/db x",
    ),
    *(
        "app/orders/@evil.example",
        "app/orders/:80",
        "//evil.example/app",
        "app/orders/db HTTP/1.1",
        "app/orders/\u0430dmin",
    ),
    *("app/orders/" + "x" * 4000, "app/" + "x/" * 400 + "x", "app/orders/ db ", "app/orders/\u3000db", "app/orders/~"),
]
VERSIONS = [
    *("", "\n", "\r\nX-Injected: yes", "\0", "\u2028", "\ud800", "\U0001f600", "1\x7f", "é", "\x1b[2J"),
    *(
        "../../auth",
        "1&list=true",
        "1#x",
        "1?x",
        "1 HTTP/1.1",
        "%0d%0a",
        "%00",
        "CURRENT;x",
        " ",
        "x" * 2000,
        "+",
        "1/2",
    ),
]
METHODS = ("read", "list", "read_file", "versions", "read_all", "with_secret", "read_many")


def methods(client: CerberusClient, path: str) -> Iterator[Callable[[], object]]:
    yield lambda: client.read(path)
    yield lambda: client.read(path, max_age=0)
    yield lambda: client.list(path)
    yield lambda: client.read_file(path)
    yield lambda: client.versions(path)
    yield lambda: client.read_all(path)
    yield lambda: client.read_many([path])
    yield lambda: client.with_secret(path, dict, refused=OSError)


def sent_well(arrived: list[Request]) -> None:
    """Each request is for one kind of thing below /v1, with the token in its header and nowhere else."""
    for request in arrived:
        kind, _, rest = request.path.removeprefix("/v1/").partition("/")
        assert kind in ("secret", "secure-file", "secret-versions")
        assert all(part not in ("", ".", "..") for part in rest.split("/"))
        assert rest.count("/") >= 1
        assert set(rest) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/%")
        assert set(request.query) <= {"list", "versionId", "limit", "offset"}
        assert request.headers["X-Cerberus-Token"] == TOKEN
        assert request.headers["X-Injected"] is None
        assert TOKEN not in request.path


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_a_path_reaches_what_it_names_or_nothing(path: str, reader: Reader) -> None:
    for call in methods(reader.client, path):
        with contextlib.suppress(CerberusError):
            call()
    sent_well(reader.arrived)
    if reader.arrived:  # it is a name that Cerberus may have: all that arrived is quoted
        (named,) = {unquote(request.path).partition("/v1/")[2].partition("/")[2] for request in reader.arrived}
        assert named == path.strip("/")
        assert {(*request.query.items(),) for request in reader.arrived if request.path.startswith("/v1/secret/")} <= {
            (),
            (("list", "true"),),
        }


@pytest.mark.parametrize("version", VERSIONS, ids=range(len(VERSIONS)))
def test_a_version_is_one_parameter_or_nothing(version: str, reader: Reader) -> None:
    with contextlib.suppress(ConfigurationError):
        reader.client.read_version(SECRET_PATH, version)
    sent_well(reader.arrived)
    assert [(request.path, request.query) for request in reader.arrived] in (
        [],
        [(f"/v1/secret/{SECRET_PATH}", {"versionId": version})],
    )


# Host confusion

URLS = [
    *("http://evil.example", "http://127.0.0.1.evil.example", "http://localhost.evil.example", "http://evil.localhost"),
    *(
        "http://127.0.0.256",
        "http://127.0.0.08",
        "http://0x7f.0.0.1",
        "http://2130706433",
        "http://0177.0.0.1",
        "http://127.1",
    ),
    *(
        "http://[::ffff:127.0.0.1]",
        "http://[::]",
        "http://0.0.0.0",
        "http://localhost.",
        "http://10.0.0.1",
        "http://[fe80::1]",
    ),
    *(
        "http://127.0.0.1@evil.example",
        "https://cerberus.example@evil.example",
        "https://evil.example\\@cerberus.example",
    ),
    *(
        "https://cerberus.example?@evil.example",
        "https://cerberus.example#@evil.example",
        "https://",
        "https:///x",
        "//x",
    ),
    *(
        "file:///etc/passwd",
        "ftp://127.0.0.1",
        "javascript:x",
        "https://cerberus.example:99999",
        "https://cerberus.example:x",
    ),
    *(
        "https://cerb\r\nerus.example",
        "https://cerb erus.example",
        "https://cerb\terus.example",
        "https://cerberüs.example",
    ),
    *(
        "http://\uff11\uff12\uff17.0.0.1",
        "http://localhost%00.evil.example",
        "https://[",
        "https://[::1",
        "HTTP://EVIL.EXAMPLE",
    ),
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("name", ["CERBERUS_URL", "AWS_ENDPOINT_URL_KMS"])
def test_an_address_in_plain_text_or_of_two_hosts_is_refused(url: str, name: str) -> None:
    good = {"CERBERUS_URL": "https://cerberus.example.com", "AWS_REGION": "us-west-2"}
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_env(good | {name: url})


ORIGINS: dict[str, Callable[[str, str, str], str]] = {
    "another host": lambda ours, port, other: f"http://localhost:{other}/",
    "another port": lambda ours, port, other: f"http://127.0.0.1:{other}/",
    "another scheme": lambda ours, port, other: f"https://127.0.0.1:{port}/",
    "no port": lambda ours, port, other: "http://127.0.0.1/",
    "our host as user": lambda ours, port, other: f"http://127.0.0.1:{port}@localhost:{other}/",
    "our host as user and password": lambda ours, port, other: f"http://127.0.0.1:x@127.0.0.1:{other}/",
    "a backslash": lambda ours, port, other: f"http://localhost:{other}\\@127.0.0.1:{port}/",
    "a backslash after ours": lambda ours, port, other: f"http://127.0.0.1:{port}\\@localhost:{other}/",
    "our host in the path": lambda ours, port, other: f"http://localhost:{other}/{ours}",
    "our host in the query": lambda ours, port, other: f"http://localhost:{other}/?{ours}",
    "our host in the fragment": lambda ours, port, other: f"http://localhost:{other}#@127.0.0.1:{port}",
    "a host below": lambda ours, port, other: f"http://127.0.0.1.localhost:{other}/",
    "a name for our address": lambda ours, port, other: f"http://localhost:{port}/",
    "a short form of our address": lambda ours, port, other: f"http://127.1:{port}/",
    "our address as a number": lambda ours, port, other: f"http://2130706433:{port}/",
    "a trailing dot": lambda ours, port, other: f"http://127.0.0.1.:{port}/",
    "a percent-encoded dot": lambda ours, port, other: f"http://127%2E0.0.1:{other}/",
    "IPv6": lambda ours, port, other: f"http://[::ffff:127.0.0.1]:{port}/",
    "upper-case scheme": lambda ours, port, other: f"HTTP://localhost:{other}/",
    "white space": lambda ours, port, other: f" http://localhost:{other}/",
    "a tab in the host": lambda ours, port, other: f"http://local\thost:{other}/",
}


@pytest.mark.parametrize("origin", ORIGINS)
def test_requests_to_another_origin_get_no_token(origin: str, reader: Reader, elsewhere: Server) -> None:
    url = ORIGINS[origin](reader.server.url, str(reader.server.port), str(elsewhere.port))
    stolen: list[Request] = []
    elsewhere.respond = lambda request: stolen.append(request) or Response(200)  # type: ignore[func-returns-value]
    with requests.Session() as session:
        session.trust_env = False
        with contextlib.suppress(ConfigurationError, requests.RequestException, ValueError):
            session.get(url, auth=reader.auth, timeout=2, allow_redirects=False)
    assert [request.headers["X-Cerberus-Token"] for request in stolen] in ([], [None])
    assert all(request.headers["X-Cerberus-Token"] in (None, TOKEN) for request in reader.arrived)


STATUSES = (300, 301, 302, 303, 304, 305, 307, 308)
LOCATIONS = {
    "another host": "http://localhost:{other}/v1/secret/app/orders/db",
    "without a scheme": "//127.0.0.1:{other}/v1/secret/app/orders/db",
    "ours as user": "http://127.0.0.1:{port}@localhost:{other}/",
    "a backslash": "http://localhost:{other}\\@127.0.0.1:{port}/",
    "itself": "/v1/secret/app/orders/db",
    "two lines": "/x\r\n\tX-Injected: yes",
    "no location": "",
}


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("status", STATUSES)
def test_no_redirect_is_followed(status: int, location: str, reader: Reader, elsewhere: Server) -> None:
    target = LOCATIONS[location].format(other=elsewhere.port, port=reader.server.port)
    reader.server.faults.add(Fault.status(status, headers={"Location": target} if target else {}))
    says = "invalid header" if location == "two lines" else f"redirects \\({status}\\)"
    with pytest.raises(CerberusError, match=says):
        reader.client.read(SECRET_PATH)
    assert (elsewhere.connections, reader.arrived) == (0, [])


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_requests_takes_no_token_along(status: int, location: str, reader: Reader, elsewhere: Server) -> None:
    """requests follows redirects with the headers of the first request; ours is taken out on the way to another origin."""
    stolen: list[Request] = []
    elsewhere.respond = lambda request: stolen.append(request) or Response(200)  # type: ignore[func-returns-value]
    target = LOCATIONS[location].format(other=elsewhere.port, port=reader.server.port)
    reader.server.faults.add(Fault.status(status, headers={"Location": target} if target else {}))
    with requests.Session() as session, contextlib.suppress(requests.RequestException, ConfigurationError):
        session.trust_env = False
        session.get(f"{reader.server.url}/v1/secret/{SECRET_PATH}", auth=reader.auth, timeout=2)
    assert {request.headers["X-Cerberus-Token"] for request in stolen} <= {None}


# TLS: which host a certificate is for

CERTIFICATES = {
    "the host": (["localhost"], "localhost", True),
    "the address": (["127.0.0.1"], "127.0.0.1", True),
    "a name where an address is asked": (["localhost"], "127.0.0.1", False),
    "an address where a name is asked": (["127.0.0.1"], "localhost", False),
    "another host": (["cerberus.example.com"], "localhost", False),
    "a host below": (["x.localhost"], "localhost", False),
    "a host above": (["localhost.example.com"], "localhost", False),
    "a wildcard for hosts below": (["*.localhost"], "localhost", False),
    "a wildcard for an address": (["*.0.0.1"], "127.0.0.1", False),
    "upper case": (["LOCALHOST"], "localhost", True),
    "another address": (["127.0.0.2"], "127.0.0.1", False),
    "a range of addresses": (["127.0.0.0/8"], "127.0.0.1", False),
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_a_certificate_is_for_its_hosts_alone(name: str, environment: pytest.MonkeyPatch, tmp_path: Any) -> None:
    names, host, taken = CERTIFICATES[name]
    authority = CertificateAuthority(tmp_path)
    with Server(lambda request: Response(200, b'{"data": {}}'), authority.server_context(*names)) as server:
        environment.setenv("CERBERUS_URL", f"https://{host}:{server.port}")
        environment.setenv("AWS_CA_BUNDLE", str(authority.bundle))
        auth = CerberusAuth()
        try:
            if taken:
                assert CerberusClient(auth).read(SECRET_PATH) == {}
            else:
                with pytest.raises(CerberusError, match="certificate"):
                    CerberusClient(auth).read(SECRET_PATH)
        finally:
            auth.close()


# HTTP


def answer(body: bytes, *headers: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    lines = [status, *headers, *([b"Content-Length: %d" % len(body)] if not headers else [])]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


FIRST, GOOD, EVIL = (json.dumps({"data": {"is": value}}).encode() for value in ("first", "good", "evil"))
PLANTED = answer(EVIL)
KEPT = b"Connection: keep-alive"
LENGTH = b"Content-Length: %d" % len(FIRST)
CHUNKED = b"Transfer-Encoding: chunked"
ONE_CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(FIRST), FIRST)


def forever(*parts: bytes, every: float = 0) -> Callable[[], Iterator[bytes]]:
    """The parts, and then the last one again and again."""

    def make() -> Iterator[bytes]:
        yield from parts
        while True:
            time.sleep(every)
            yield parts[-1]

    return make


def drip(data: bytes, every: float, head: bytes = b"") -> Callable[[], Iterator[bytes]]:
    def make() -> Iterator[bytes]:
        yield head
        for index in range(len(data)):
            yield data[index : index + 1]
            time.sleep(every)

    return make


ATTACKS: dict[str, bytes | Callable[[], Iterator[bytes]]] = {
    # An answer with another one in it, or two lengths of which somebody may believe the other.
    "a second answer behind the first": answer(FIRST, LENGTH) + PLANTED,
    "a second answer behind chunks": answer(ONE_CHUNK, CHUNKED) + PLANTED,
    "two lengths": answer(FIRST + PLANTED, LENGTH, b"Content-Length: %d" % len(FIRST + PLANTED)),
    "two lengths, the longer first": answer(FIRST + PLANTED, b"Content-Length: %d" % len(FIRST + PLANTED), LENGTH),
    "a list of lengths": answer(FIRST + PLANTED, b"Content-Length: %d, 5" % len(FIRST)),
    "a length and chunks": answer(ONE_CHUNK + PLANTED, b"Content-Length: 5", CHUNKED),
    "chunks, otherwise written": answer(ONE_CHUNK, b"Transfer-Encoding: xchunked"),
    "chunks within chunks": answer(ONE_CHUNK, b"Transfer-Encoding: chunked, chunked"),
    "chunks after identity": answer(ONE_CHUNK, b"Transfer-Encoding: identity, chunked"),
    "a length with a sign": answer(FIRST + PLANTED, b"Content-Length: +%d" % len(FIRST)),
    "a length with an underscore": answer(FIRST + PLANTED, b"Content-Length: 2_2"),
    "a length below zero": answer(FIRST, b"Content-Length: -1") + PLANTED,
    "a length that is text": answer(FIRST, b"Content-Length: all"),
    "a length beyond all": answer(FIRST, b"Content-Length: 99999999999999999999"),
    "a length that is too short": answer(FIRST, b"Content-Length: 3") + PLANTED,
    "a length that is too long": answer(FIRST, b"Content-Length: 300"),
    "a chunk below zero": answer(b"-5\r\n" + FIRST, CHUNKED) + PLANTED,
    "a chunk that is text": answer(b"many\r\n" + FIRST, CHUNKED) + PLANTED,
    "a chunk beyond all": answer(b"ffffffffffffffff\r\n" + FIRST, CHUNKED),
    "a chunk with an extension": answer(b"%x;%b\r\n%b\r\n0\r\n\r\n" % (len(FIRST), b"x" * 70_000, FIRST), CHUNKED),
    "chunks without an end": answer(b"%x\r\n%b\r\n" % (len(FIRST), FIRST), CHUNKED),
    "204 with a body": answer(PLANTED, b"Content-Length: 0", status=b"HTTP/1.1 204 No Content"),
    "304 with a body": answer(PLANTED, LENGTH, status=b"HTTP/1.1 304 Not Modified"),
    # What comes before.
    "an interim answer": answer(b"", KEPT, status=b"HTTP/1.1 103 Early Hints") + PLANTED,
    "100, unasked": answer(b"", KEPT, status=b"HTTP/1.1 100 Continue") + answer(FIRST) + PLANTED,
    "another protocol": answer(b"", b"Upgrade: h2c", status=b"HTTP/1.1 101 Switching Protocols") + PLANTED,
    "100 without end": forever(b"HTTP/1.1 100 Continue\r\n\r\n"),
    # Heads.
    "a header of a megabyte": answer(FIRST, LENGTH, b"X: " + b"x" * (1 << 20)),
    "ten thousand headers": answer(FIRST, LENGTH, *(b"X-%d: x" % number for number in range(10_000))),
    "headers without end": forever(b"HTTP/1.1 200 OK\r\n", b"X: x\r\n"),
    "a header line without end": forever(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536),
    "a status line without end": forever(b"HTTP/1.1 200 ", b"O" * 65536),
    "a header that is folded": answer(FIRST, LENGTH, b"X: a\r\n Content-Length: 5"),
    "a header with a zero byte": answer(FIRST, LENGTH, b"X: a\0b"),
    "a header without a colon": answer(FIRST, LENGTH, b"no colon here"),
    "a space before the colon": answer(FIRST + PLANTED, LENGTH, b"Content-Length : 5"),
    "lines that end in LF": answer(FIRST, LENGTH).replace(b"\r\n", b"\n"),
    "a lone CR in a header": answer(FIRST, LENGTH, b"X: a\rContent-Length: 5"),
    "HTTP/0.9": FIRST,
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18,
    "HTTP/9.9": answer(FIRST, LENGTH, status=b"HTTP/9.9 200 OK"),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a status of two digits": answer(FIRST, LENGTH, status=b"HTTP/1.1 20 OK"),
    "a status of four digits": answer(FIRST, LENGTH, status=b"HTTP/1.1 2000 OK"),
    "a status that is text": answer(FIRST, LENGTH, status=b"HTTP/1.1 ok OK"),
    "nothing": b"",
    "a byte": b"H",
    "random bytes": bytes(range(256)) * 40,
    # Slow.
    "a head that drips": drip(answer(FIRST), 0.2),
    "a body that drips": drip(FIRST, 0.2, answer(b"", LENGTH)),
    "chunks that drip": drip(ONE_CHUNK, 0.2, answer(b"", CHUNKED)),
    # Large.
    "a body without end": forever(answer(b"", KEPT), b"x" * 65536),
    "chunks without limit": forever(answer(b"", CHUNKED), b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "a trailer without end": forever(answer(ONE_CHUNK[:-2], CHUNKED), b"X: x\r\n"),
    "gzip": answer(gzip.compress(FIRST), b"Content-Encoding: gzip"),
    "a gzip bomb": answer(gzip.compress(bytes(200 << 20), 9), b"Content-Encoding: gzip"),
    "deflate": answer(zlib.compress(FIRST), b"Content-Encoding: deflate"),
    "brotli": answer(FIRST, LENGTH, b"Content-Encoding: br"),
    "gzip as a transfer coding": answer(gzip.compress(FIRST), b"Transfer-Encoding: gzip"),
    "two codings": answer(gzip.compress(FIRST), b"Content-Encoding: identity, gzip"),
    # JSON.
    "arrays in arrays": answer(b'{"data": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
    "objects in objects": answer(b'{"data": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001),
    "a number of a million digits": answer(b'{"data": {"a": ' + b"9" * 1_000_000 + b"}}"),
    "a number that is none": answer(b'{"data": {"a": NaN, "b": 1e999}}'),
    "a lone surrogate": answer(b'{"data": {"a": "\\ud800"}}'),
    "no UTF-8": answer(b'{"data": {"a": "\xff"}}'),
    "a byte order mark": answer(b"\xef\xbb\xbf" + FIRST),
    "a key twice": answer(b'{"data": {"is": "evil"}, "data": {"is": "first"}}'),
}


@contextlib.contextmanager
def attacker(attack: Iterable[bytes]) -> Iterator[int]:
    """Answers the first request by the attack, and all others as they should be; yields the port."""
    lock, asked = threading.Lock(), 0
    over = threading.Event()

    def serve(connection: socket.socket, _: int) -> None:
        nonlocal asked
        while connection.recv(65536):
            with lock:
                asked += 1
                number = asked
            if number > 1:
                connection.sendall(answer(GOOD))
                continue
            for part in attack:
                connection.sendall(part)
                if over.is_set():
                    return
            time.sleep(0.05)
            # An answer without a length ends with its connection; the others stay open, for what may follow.

    with crowd(serve) as port:
        try:
            yield port
        finally:
            over.set()


@pytest.mark.parametrize("max_age", [0, None])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_by_http(name: str, max_age: float | None, environment: pytest.MonkeyPatch) -> None:
    attack = ATTACKS[name]
    with attacker([attack] if isinstance(attack, bytes) else attack()) as port:
        environment.setenv("CERBERUS_URL", f"http://127.0.0.1:{port}")
        auth = CerberusAuth()
        client = CerberusClient(auth)
        began = time.monotonic()
        tracemalloc.start()
        try:
            found = client.read(SECRET_PATH, max_age=max_age)
        except CerberusError as error:
            assert "evil" not in str(error)  # noqa: PT017  (either is right)
        else:
            assert found.get("is", "first") == "first"
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert time.monotonic() - began < SECONDS + SLACK_SECONDS
        assert peak < MOST_BYTES
        auth.invalidate()  # the breaker too
        client._forget()
        assert client.read(SECRET_PATH, max_age=max_age) == {"is": "good"}
        auth.close()


# requests reads what it is given: but not the answer that auth= replaces

BOMB_BYTES = 64 << 20


def bomb(request: Request) -> Response:
    packed = gzip.compress(bytes(BOMB_BYTES), 9)
    return Response(401, packed, {"Content-Encoding": "gzip", "Content-Type": "application/json"})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["a gzip bomb", "a drip"])
def test_a_401_is_closed_unread(kind: str, stream: bool, function: Function) -> None:
    auth = function.auth()
    auth.token()
    url = f"{function.stack.cerberus.url}/v1/secret/{SECRET_PATH}"
    server = function.stack.cerberus.server
    if kind == "a drip":
        function.stack.cerberus.revoke()
        server.faults.add(Fault.drip_body(1), lambda request: request.path.startswith("/v1/secret"))
    else:
        server.faults.add(Fault("status", replacement=bomb(Request("GET", url, {}, Message(), b""))))
    with requests.Session() as session:
        began = time.monotonic()
        tracemalloc.start()
        response = session.get(url, auth=auth, timeout=20, stream=stream)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert time.monotonic() - began < 15  # the body drips for more than a minute
        assert peak < BOMB_BYTES / 2
        assert response.json()["data"] == SECRET
        (refused,) = response.history
        assert refused.raw.closed
        assert not vars(refused)["_content"]  # requests' mark of a body that was not read


@pytest.mark.parametrize("stream", [False, True])
def test_a_401_for_which_no_token_can_be_had_is_closed_unread(stream: bool, function: Function) -> None:
    auth = function.auth()
    auth.token()
    url = f"{function.stack.cerberus.url}/v1/secret/{SECRET_PATH}"
    server = function.stack.cerberus.server
    server.faults.add(Fault("status", replacement=bomb(Request("GET", url, {}, Message(), b""))))
    function.stack.cerberus.deny(ROLE)
    with requests.Session() as session:
        tracemalloc.start()
        function.failure(lambda: session.get(url, auth=auth, timeout=20, stream=stream))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < BOMB_BYTES / 2


# The table: somebody may write to it who means harm


class Attacker:
    """Writes to the fleet's table what it likes. The function's containers are in this process."""

    def __init__(self, function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
        self.function = function
        self.stack = function.stack
        self.stack.create_table()
        account = self.stack.aws.account_credentials(Aws.FUNCTION_ACCOUNT)
        self.table = self.stack.aws.client("dynamodb", account)
        self.kms = self.stack.aws.client("kms", account)
        self.key_arn: str = self.kms.create_key()["KeyMetadata"]["Arn"]
        sealing = {"Effect": "Allow", "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": self.key_arn}
        policy = {"Version": "2012-10-17", "Statement": [decrypt_statement(), share_statement(ROLE), sealing]}
        self.stack.aws.put_role_policy(ROLE, policy)
        function.configure(CERBERUS_SHARED_CACHE_TABLE=TABLE)
        self._ahead, self._containers = 0.0, 0
        monotonic, wall = time.monotonic, time.time
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + self._ahead)
        monkeypatch.setattr(time, "time", lambda: wall() + self._ahead)

    def container(self) -> CerberusClient:
        """Another container: instances with different settings share nothing in a process."""
        self._containers += 1
        environment = self.function.environment | {"AWS_LAMBDA_FUNCTION_NAME": f"container-{self._containers}"}
        return CerberusClient(self.function.closing(CerberusAuth(Settings.from_env(environment))))

    def step(self, seconds: float) -> None:
        self._ahead += seconds

    def items(self, scope: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.table.scan(TableName=TABLE)["Items"]
        return [item for item in found if item["scope"]["S"].startswith(scope)]

    def rewrite(self, scope: str, **attributes: Any) -> None:
        for item in self.items(scope):
            self.table.put_item(TableName=TABLE, Item=item | attributes | {"version": {"S": os.urandom(8).hex()}})

    def rewrites(self, scope: str, action: str, **attributes: Any) -> None:
        """From now on the item is another one each time that the function calls this action on it."""
        respond = self.stack.aws.server.respond

        def rewritten(request: Request) -> Response:
            is_ours = (request.headers["X-Amz-Target"] or "").endswith(action) and request.headers[
                "X-Amz-Security-Token"
            ]
            if is_ours and f'"{scope} ' in request.body.decode():
                self.rewrite(scope, **rejuvenated(), **attributes)
            answered: Response = respond(request)
            return answered

        self.stack.aws.server.respond = rewritten

    def close(self) -> None:
        self.table.close()
        self.kms.close()


@pytest.fixture
def attacking(function: Function, monkeypatch: pytest.MonkeyPatch) -> Iterator[Attacker]:
    attacking = Attacker(function, monkeypatch)
    yield attacking
    attacking.close()


def rejuvenated() -> dict[str, Any]:
    return {"asked": {"N": str(time.time() - 1)}, "expires": {"N": str(time.time() + 3000)}}


def test_a_raised_time_makes_a_kms_token_serve_until_it_is_refused(attacking: Attacker, function: Function) -> None:
    """Nothing in the response of Cerberus tells when it was made; a 401 ends it."""
    function.configure(CERBERUS_AUTH_METHOD="kms")
    old = attacking.container()._auth.token()
    attacking.step(3700)
    function.become(ROLE)
    attacking.rewrite("kms", **rejuvenated())
    late = attacking.container()
    assert late.read(SECRET_PATH) == SECRET
    assert late._auth.token() != old
    assert function.authentications == 2


def test_a_raised_time_does_not_lengthen_a_sealed_token(attacking: Attacker, function: Function) -> None:
    function.configure(CERBERUS_AUTH_METHOD="sts", CERBERUS_SHARED_CACHE_KEY=attacking.key_arn)
    old = attacking.container()._auth.token()
    attacking.step(3700)
    function.become(ROLE)
    attacking.rewrite("sts", **rejuvenated())
    assert attacking.container()._auth.token() != old
    assert function.authentications == 2


def test_a_raised_time_does_not_make_a_secret_fresh(attacking: Attacker, function: Function) -> None:
    function.configure(CERBERUS_SHARED_CACHE_KEY=attacking.key_arn)
    assert attacking.container().read(SECRET_PATH) == SECRET
    changed = SECRET | {"password": "the-one-after-it"}
    function.stack.cerberus.put_secret(SECRET_PATH, changed)
    assert attacking.container().read(SECRET_PATH) == SECRET  # shared
    attacking.step(310)
    attacking.rewrite("secret", **rejuvenated())
    assert attacking.container().read(SECRET_PATH) == changed


def test_a_secret_of_another_path_is_not_taken(attacking: Attacker, function: Function) -> None:
    function.configure(CERBERUS_SHARED_CACHE_KEY=attacking.key_arn)
    other = "app/orders/other"
    function.stack.cerberus.put_secret(other, {"password": "of-the-other-path"})
    container = attacking.container()
    container.read(other)
    (planted,) = attacking.items("secret")
    container.read(SECRET_PATH)
    attacking.rewrite("secret", response=planted["response"])
    assert attacking.container().read(SECRET_PATH) == SECRET


MOST_TAKEN = 2


@pytest.mark.parametrize("action", ["GetItem", "PutItem"])
@pytest.mark.parametrize("scope", ["kms", "sts", "secret"])
def test_an_item_that_is_rewritten_costs_two_decryptions(
    scope: str, action: str, attacking: Attacker, function: Function
) -> None:
    """Whatever is written, and however often: the value comes from Cerberus, in time."""
    method = "sts" if scope == "sts" else "kms"
    function.configure(CERBERUS_AUTH_METHOD=method, CERBERUS_SHARED_CACHE_KEY=attacking.key_arn)
    attacking.container().read(SECRET_PATH)
    sealed = self_made(attacking)
    attacking.rewrite(scope, response={"S": sealed}, **rejuvenated())
    attacking.rewrites(scope, action, response={"S": sealed})
    before, began = function.decryptions, time.monotonic()
    late = attacking.container()
    if scope == "secret":
        assert late.read(SECRET_PATH, timeout=8) == SECRET
    else:
        assert late._auth.token(timeout=8)
    assert time.monotonic() - began < 8
    # Of the token's item and of the secret's, and of the response of Cerberus itself.
    assert function.decryptions - before <= MOST_TAKEN + 2


def self_made(attacking: Attacker) -> str:
    """A ciphertext of the attacker's own key."""
    key = attacking.kms.create_key()["KeyMetadata"]["Arn"]
    return base64.b64encode(attacking.kms.encrypt(KeyId=key, Plaintext=b"{}")["CiphertextBlob"]).decode()


# More than the memory of a small function

SECRETS_BELOW = 900


def test_all_of_a_box_of_a_gigabyte(reader: Reader) -> None:
    """900 answers of a MiB each: reading stops when there are more than 8 MiB."""
    value = json.dumps({"data": {"value": "x" * ((1 << 20) - 100)}}).encode()
    names = json.dumps({"data": {"keys": [f"secret-{number}" for number in range(SECRETS_BELOW)]}}).encode()
    sent = 0

    def respond(request: Request) -> Response:
        nonlocal sent
        sent += not request.query
        return Response(200, names if request.query else value)

    reader.server.respond = respond
    tracemalloc.start()
    with pytest.raises(CerberusError, match="8 MiB"):
        reader.client.read_all("app/orders", timeout=60)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sent < 40
    assert peak < 80 << 20
    assert sum(kept.size for kept in reader.client._cache.kept.values()) <= 8 << 20


def test_claims_forged_for_ever_hold_a_cold_container_no_longer_than_its_caller(
    attacking: Attacker, function: Function
) -> None:
    """SECURITY.md lists it under what is not stopped; a container with a token is not concerned."""
    function.configure(CERBERUS_AUTH_METHOD="kms")
    warm = attacking.container()
    assert warm.read(SECRET_PATH) == SECRET
    respond = attacking.stack.aws.server.respond

    def claimed(request: Request) -> Response:
        if (request.headers["X-Amz-Target"] or "").endswith("GetItem") and request.headers["X-Amz-Security-Token"]:
            attacking.rewrite("kms", response={"S": ""}, claimed_until={"N": str(time.time() + 5)})
        answered: Response = respond(request)
        return answered

    attacking.stack.aws.server.respond = claimed
    began = time.monotonic()
    function.failure(lambda: attacking.container()._auth.token(timeout=1.5))
    assert time.monotonic() - began < 1.5 + SLACK_SECONDS
    assert warm.read(SECRET_PATH, max_age=0) == SECRET
