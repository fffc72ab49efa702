"""The servers for the benchmarks, all in this process: Cerberus, AWS, Secrets Manager and a minimal loopback server."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import boto3
import certifi
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.test import Client

from cerberus_auth.testing.http_server import Fault, Request, Response, Server
from local_stack.stack import ROLE, SECRET, SECRET_PATH, LocalStack, decrypt_statement, share_statement

_HOP_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Services:
    """All servers, as a context manager. They use TLS, except for the loopback server."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as parts:
            self._stack = parts.enter_context(LocalStack())
            self.bundle = self._stack.folder / "bundle.pem"
            """The authorities to trust: the public ones and the stack's."""
            self.bundle.write_bytes(Path(certifi.where()).read_bytes() + self._stack.ca.bundle.read_bytes())
            self._manager = parts.enter_context(_secrets_manager(self._stack))
            self._hop = parts.enter_context(_Hop())
            self.environment = self._stack.environment(
                ROLE,
                AWS_CA_BUNDLE=str(self.bundle),
                REQUESTS_CA_BUNDLE=str(self.bundle),
                AWS_ENDPOINT_URL_SECRETS_MANAGER=self._manager.url,
                AWS_LAMBDA_FUNCTION_NAME="orders",
                BENCH_SECRET=SECRET_PATH,
                BENCH_HOP_URL=self._hop.url,
            )
            self._put_secret()
            self._stack.create_table()
            statements = [decrypt_statement(), share_statement(ROLE)]
            self._stack.aws.put_role_policy(ROLE, {"Version": "2012-10-17", "Statement": statements})
            self._parts = parts.pop_all()

    def _put_secret(self) -> None:
        keys = self._stack.aws.account_credentials(self._stack.aws.FUNCTION_ACCOUNT)
        manager = boto3.client(
            "secretsmanager",
            region_name=self._stack.region,
            endpoint_url=self._manager.url,
            verify=str(self.bundle),
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key,
        )
        manager.create_secret(Name=SECRET_PATH, SecretString=json.dumps(SECRET))
        manager.close()

    @contextlib.contextmanager
    def latency(self, cerberus_seconds: float, aws_seconds: float) -> Iterator[None]:
        """Delay the responses of each service by these seconds."""
        delays = {
            self._stack.cerberus.server: cerberus_seconds,
            self._stack.aws.server: aws_seconds,
            self._manager: aws_seconds,
        }
        try:
            for server, seconds in delays.items():
                server.faults.add(Fault.delay(seconds), times=None)
            yield
        finally:
            for server in delays:
                server.faults.clear()

    @property
    def certificates(self) -> int:
        """Return the number of authorities in the bundle."""
        return self.bundle.read_text().count("BEGIN CERTIFICATE")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.close()


def _secrets_manager(stack: LocalStack) -> Server:
    """Forward a call of Secrets Manager to moto without the gate: permissions are not measured here."""
    application = Client(DomainDispatcherApplication(create_backend_app), use_cookies=False)
    lock = threading.Lock()

    def respond(request: Request) -> Response:
        headers = {name: request.headers[name] for name in ("X-Amz-Target", "Content-Type") if name in request.headers}
        headers |= {"Host": f"secretsmanager.{stack.region}.amazonaws.com", "x-moto-account-id": "111111111111"}
        headers["Authorization"] = request.headers["Authorization"]
        with lock:
            answer = application.open(request.path, method=request.method, data=request.body, headers=headers)
        return Response(answer.status_code, answer.get_data(), {"Content-Type": "application/x-amz-json-1.1"})

    return Server(respond, stack.ca.server_context())


class _Hop:
    """A minimal server: it sends the same response to everything without parsing it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while connection.recv(65536):
                connection.sendall(_HOP_ANSWER)
