"""Proxies: what goes through one, what never does, and that it learns a host and a port and nothing else."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

import pytest

from cerberus_auth import CerberusClient, CerberusUnavailable, Settings
from cerberus_auth.http.proxy import proxy_for
from cerberus_auth.testing.http_server import Request, Response, Server
from integration.function import Function
from local_stack.stack import ROLE, SECRET, SECRET_PATH

CERBERUS, KMS, KMS_FIPS = "cerberus.example.com", "kms.us-west-2.amazonaws.com", "kms-fips.us-west-2.amazonaws.com"
REFUSAL = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"


class Proxy:
    """A context manager: takes CONNECT for the hosts it knows, and notes all that passes through it, to and fro.

    :param ports: where on this machine the hosts are.
    :param authorization: the ``Proxy-Authorization`` without which it refuses.
    """

    def __init__(self, ports: Mapping[str, int], authorization: str | None = None) -> None:
        self.tunnels: list[str] = []
        """What it was asked for, as ``host:port``."""
        self.heads: list[str] = []
        self.passed = b""
        self.silent = False
        self._ports = ports
        self._authorization = authorization
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self._lock = threading.Lock()
        self._closed = False
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()  # wakes the listener
        self._threads[0].join()
        with self._lock:
            for each in self._sockets[1:]:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with self._lock:
                self._sockets.append(client)
            if self._closed:
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            received = client.recv(1)
            if not received:
                return
            head += received
        lines = head.decode().split("\r\n")
        self.heads.append(head.decode())
        self.tunnels.append(lines[0].removeprefix("CONNECT ").rpartition(" ")[0])
        if self.silent:
            client.recv(1)
            return
        if self._authorization is not None and f"Proxy-Authorization: {self._authorization}" not in lines:
            client.sendall(REFUSAL)
            with contextlib.suppress(OSError):  # the client may have closed first
                client.shutdown(socket.SHUT_RDWR)
            return
        upstream = socket.create_connection(("127.0.0.1", self._ports[self.tunnels[-1].partition(":")[0]]))
        with self._lock:
            self._sockets.append(upstream)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self._start(self._copy, upstream, client)
        self._copy(client, upstream)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.passed += data
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def ports(function: Function) -> Iterator[dict[str, int]]:
    """Cerberus and KMS under names that only the proxy can find: their ports on this machine."""
    stack = function.stack
    with (
        Server(stack.cerberus.server.respond, stack.ca.server_context(CERBERUS)) as cerberus,
        Server(stack.aws.server.respond, stack.ca.server_context("*.us-west-2.amazonaws.com")) as aws,
    ):
        function.configure(CERBERUS_URL=f"https://{CERBERUS}", AWS_ENDPOINT_URL=None)
        yield {CERBERUS: cerberus.port, KMS: aws.port, KMS_FIPS: aws.port}


@pytest.fixture
def proxy(ports: dict[str, int], function: Function) -> Iterator[Proxy]:
    with Proxy(ports) as proxy:
        function.configure(HTTPS_PROXY=f"http://127.0.0.1:{proxy.port}")
        yield proxy
        for auth in function._auths:
            auth.close()


@pytest.mark.parametrize(
    ("variables", "kms"),
    [
        ({"CERBERUS_AWS_CLIENT": "signed"}, KMS),
        ({"CERBERUS_AWS_CLIENT": "sdk"}, KMS),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, KMS_FIPS),
    ],
    ids=["signed", "sdk", "fips"],
)
def test_all_goes_through_it_and_it_sees_hosts_and_ports_only(
    variables: dict[str, str], kms: str, function: Function, proxy: Proxy
) -> None:
    function.configure(**variables)
    auth = function.auth()
    cerberus = CerberusClient(auth)
    for _ in range(5):
        assert cerberus.read(SECRET_PATH) == SECRET
    assert proxy.tunnels == [f"{CERBERUS}:443", f"{kms}:443"]  # tunnels are kept
    token = auth.token()
    for head in proxy.heads:
        names = [line.partition(":")[0].lower() for line in head.split("\r\n")[1:] if line]
        assert not set(names) - {"host", "user-agent", "connection", "proxy-connection"}
    for secret in (token, SECRET["password"], SECRET_PATH, ROLE, function.environment["AWS_SESSION_TOKEN"], "auth"):
        assert secret.encode() not in proxy.passed
    assert len(proxy.passed) > 1000


def test_sts_authentication_goes_through_it_to_cerberus_alone(function: Function, proxy: Proxy) -> None:
    function.configure(CERBERUS_AUTH_METHOD="sts")
    assert function.auth().token()
    assert proxy.tunnels == [f"{CERBERUS}:443"]


@pytest.mark.parametrize("aws_client", ["signed", "sdk"])
def test_loopback_never_goes_through_it(aws_client: str, function: Function) -> None:
    with Proxy({}) as proxy:
        function.configure(HTTPS_PROXY=f"http://127.0.0.1:{proxy.port}", CERBERUS_AWS_CLIENT=aws_client)
        function.configure(HTTP_PROXY=f"http://127.0.0.1:{proxy.port}")
        assert CerberusClient(function.auth()).read(SECRET_PATH) == SECRET
        assert proxy.tunnels == []


@pytest.mark.parametrize("tls", [False, True])
def test_container_credentials_never_come_through_it(
    tls: bool, function: Function, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = function.stack.aws.assume(ROLE)
    document = {
        "AccessKeyId": credentials.access_key,
        "SecretAccessKey": credentials.secret_key,
        "Token": credentials.session_token,
        "Expiration": "2999-01-01T00:00:00Z",
    }
    asked: list[str] = []

    def respond(request: Request) -> Response:
        asked.append(request.headers["Authorization"])
        return Response(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    host = "credentials.example.com" if tls else "127.0.0.1"
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda name, *others, **more: resolve("127.0.0.1" if name in (host, host.encode()) else name, *others, **more),
    )
    with Server(respond, function.stack.ca.server_context(host) if tls else None) as endpoint:
        function.configure(
            AWS_ACCESS_KEY_ID=None,
            AWS_SECRET_ACCESS_KEY=None,
            AWS_SESSION_TOKEN=None,
            AWS_CONTAINER_CREDENTIALS_FULL_URI=f"{'https' if tls else 'http'}://{host}:{endpoint.port}/credentials",
            AWS_CONTAINER_AUTHORIZATION_TOKEN="container-token",
        )
        assert function.auth().token()
    assert asked == ["container-token"]
    assert sorted(proxy.tunnels) == [f"{CERBERUS}:443", f"{KMS}:443"]


def test_a_proxy_that_wants_to_know_who_asks(function: Function, ports: dict[str, int]) -> None:
    with Proxy(ports, "Basic dXNlcjpwQHNz") as proxy:  # user:p@ss
        function.configure(HTTPS_PROXY=f"http://user:p%40ss@127.0.0.1:{proxy.port}")
        auth = function.auth()
        assert auth.token()
        auth.close()
        function.configure(HTTPS_PROXY=f"http://user:another@127.0.0.1:{proxy.port}", CERBERUS_MAX_ATTEMPTS="2")
        error = function.failure(function.auth().token)
    assert isinstance(error, CerberusUnavailable)
    assert "no connection through HTTPS_PROXY (the proxy answers 407)" in str(error)
    assert "another" not in str(error)


def test_a_proxy_that_is_not_there(function: Function, ports: dict[str, int]) -> None:
    with Proxy(ports) as proxy:
        port = proxy.port
    function.configure(HTTPS_PROXY=f"http://127.0.0.1:{port}", CERBERUS_MAX_ATTEMPTS="1")
    error = function.failure(function.auth().token)
    assert isinstance(error, CerberusUnavailable)
    assert "through HTTPS_PROXY (Connection refused)" in str(error)


def test_a_silent_proxy_is_given_the_connect_timeout(function: Function, proxy: Proxy) -> None:
    proxy.silent = True
    function.configure(CERBERUS_CONNECT_TIMEOUT="0.2", CERBERUS_MAX_ATTEMPTS="2")
    error = function.failure(function.auth().token)
    assert isinstance(error, CerberusUnavailable)
    assert "no connection within 0.2 s (attempt 2 of 2)" in str(error)
    assert len(proxy.tunnels) == 2


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "proxied"),
    [
        ("", "cerberus.example.com", 443, True),
        ("cerberus.example.com", "cerberus.example.com", 443, False),
        ("CERBERUS.example.com", "cerberus.EXAMPLE.com", 443, False),
        ("example.com", "cerberus.example.com", 443, False),
        (".example.com", "cerberus.example.com", 443, False),
        ("*.example.com", "cerberus.example.com", 443, False),
        (".example.com", "example.com", 443, False),
        ("example.com", "notexample.com", 443, True),
        ("example.com", "example.com.evil.test", 443, True),
        ("other.test, example.com ,", "cerberus.example.com", 443, False),
        ("example.com:8443", "cerberus.example.com", 443, True),
        ("example.com:8443", "cerberus.example.com", 8443, False),
        ("*", "cerberus.example.com", 443, False),
        (",", "cerberus.example.com", 443, True),
        ("10.0.0.5", "10.0.0.5", 443, False),
        ("10.0.0.0/8", "10.0.0.5", 443, False),
        ("10.0.0.0/8", "11.0.0.5", 443, True),
        ("10.0.0.0/8", "cerberus.example.com", 443, True),
        ("10.0.0.0/99", "10.0.0.5", 443, True),
        ("fd00:ec2::23", "fd00:ec2::23", 443, False),
        ("FD00:ec2:0::23", "fd00:EC2::23", 443, False),
        ("fd00:ec2::23", "fd00:ec2::24", 443, True),
        ("[fd00::1]", "fd00::1", 443, False),
        ("[fd00::1]:8443", "fd00::1", 8443, False),
        ("[fd00::1]:8443", "fd00::1", 443, True),
        ("fd00::/8", "fd12::1", 443, False),
        ("fd00::/8", "fe12::1", 443, True),
        ("example.com, fd00::/8", "fd12::1", 443, False),
        ("", "localhost", 443, False),
        ("", "127.0.0.1", 8443, False),
        ("", "::1", 443, False),
    ],
)
def test_no_proxy(no_proxy: str, host: str, port: int, proxied: bool) -> None:
    proxy = "http://proxy.example.com:3128"
    settings = Settings(url="https://cerberus.example.com", region="us-west-2", proxy=proxy, no_proxy=no_proxy)
    assert proxy_for(settings, host, port) == (proxy if proxied else None)


@pytest.mark.parametrize(
    ("variables", "proxy", "no_proxy"),
    [
        ({"HTTPS_PROXY": "http://a:1", "NO_PROXY": "b"}, "http://a:1", "b"),
        ({"https_proxy": "http://a:1", "no_proxy": "b"}, "http://a:1", "b"),
        (
            {"https_proxy": "http://a:1", "HTTPS_PROXY": "http://c:1", "no_proxy": "b", "NO_PROXY": "d"},
            "http://a:1",
            "b",
        ),
        ({"HTTP_PROXY": "http://a:1", "ALL_PROXY": "http://a:1"}, "", ""),
    ],
)
def test_which_variables_are_read(variables: dict[str, str], proxy: str, no_proxy: str) -> None:
    settings = Settings.from_env(
        {"CERBERUS_URL": "https://cerberus.example.com", "AWS_REGION": "us-west-2", **variables}
    )
    assert (settings.proxy, settings.no_proxy) == (proxy, no_proxy)
