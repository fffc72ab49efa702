"""A function under test, and what it may never tell."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
import traceback
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

import cerberus_auth
from cerberus_auth import CerberusAuth, CerberusError, Settings
from cerberus_auth.deadline import Deadline
from cerberus_auth.testing.http_server import Request, Response, Server
from local_stack.stack import ROLE, SECRET_PATH, LocalStack

PACKAGE = Path(cerberus_auth.__file__).parent
SHORTEST_SECRET = 8  # characters: less would be found by chance


class Wire:
    """What passes through a server: its requests, in the order of their arrival, and the secrets in both directions."""

    def __init__(self, server: Server) -> None:
        self.requests: list[Request] = []
        self.secrets: set[str] = set()
        self.ciphertexts: set[str] = set()
        """Those among the secrets that only a holder of the role can use."""
        respond, replaced = server.respond, server.replaced

        def see(request: Request) -> Response:
            self._see(request)
            response = respond(request)
            self._take(response.body)
            return response

        def see_replaced(request: Request, status: int) -> None:
            self._see(request)
            replaced(request, status)

        server.respond, server.replaced = see, see_replaced

    def _see(self, request: Request) -> None:
        self.requests.append(request)
        for name in ("Authorization", "X-Cerberus-Token", "X-Amz-Security-Token"):
            if value := request.headers[name]:
                self.secrets.update([value, *re.findall("Signature=([0-9a-f]+)", value)])
        self._take(request.body)

    def _take(self, body: bytes) -> None:
        try:
            fields = json.loads(body)
        except ValueError:
            return
        if not isinstance(fields, dict):
            return
        for name in ("auth_data", "client_token", "CiphertextBlob", "Plaintext", "SecretAccessKey", "Token"):
            if isinstance(value := fields.get(name), str):
                self.secrets.add(value)
                if name in ("auth_data", "CiphertextBlob"):
                    self.ciphertexts.add(value)
                if name == "Plaintext":
                    self._take_plaintext(value)

    def _take_plaintext(self, value: str) -> None:
        try:
            plaintext = base64.b64decode(value, validate=True)
        except binascii.Error:
            return
        self.secrets.add(plaintext.decode("utf-8", "replace"))
        self._take(plaintext)


class Function:
    """A context manager: a function's execution environment, which is this process."""

    def __init__(self, stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stack = stack
        self.environment: dict[str, str] = {}
        self.cerberus = Wire(stack.cerberus.server)
        self.aws = Wire(stack.aws.server)
        self._monkeypatch = monkeypatch
        self._auths: list[CerberusAuth] = []
        self._contexts = contextlib.ExitStack()
        self._credentials: set[str] = set()
        self.become(ROLE)

    def become(self, role: str, duration_seconds: float = 3600) -> None:
        """Have the credentials of this role. The rest of the environment stays."""
        if not self.environment:
            self.configure(**self.stack.environment(role))
        credentials = self.stack.aws.assume(role, duration_seconds=duration_seconds)
        self.configure(
            AWS_ACCESS_KEY_ID=credentials.access_key,
            AWS_SECRET_ACCESS_KEY=credentials.secret_key,
            AWS_SESSION_TOKEN=credentials.session_token,
        )

    def configure(self, **variables: str | None) -> None:
        """Set variables of the environment; ``None`` takes one away."""
        for name, value in variables.items():
            if value is None:
                self.environment.pop(name, None)
                self._monkeypatch.delenv(name, raising=False)
            else:
                self.environment[name] = value
                self._monkeypatch.setenv(name, value)
                if name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "CERBERUS_TOKEN"):
                    self._credentials.add(value)

    def share(self) -> None:
        """Share by a table and a key from now on, and allow the role ``ROLE`` to use both."""
        self.configure(**self.stack.share())

    def settings(self) -> Settings:
        return Settings.from_env(self.environment)

    def auth(self) -> CerberusAuth:
        return self.closing(CerberusAuth(self.settings()))

    def closing(self, auth: CerberusAuth) -> CerberusAuth:
        """Close its connections with the test."""
        self._auths.append(auth)
        return auth

    def during(self, context: AbstractContextManager[object]) -> None:
        """Enter a context for the rest of the test."""
        self._contexts.enter_context(context)

    @property
    def posted(self) -> list[tuple[str, str]]:
        """Whom, and for which region, the function has asked Cerberus to authenticate by KMS."""
        bodies = [json.loads(r.body) for r in self.cerberus.requests if r.path == "/v2/auth/iam-principal"]
        return [(body["iam_principal_arn"], body["region"]) for body in bodies]

    @property
    def authentications(self) -> int:
        """The auth requests so far."""
        return sum("/auth/" in request.path for request in self.cerberus.requests)

    @property
    def decryptions(self) -> int:
        """The calls of kms:Decrypt so far; the stand-in makes none."""
        return self.stack.aws.count("kms", "Decrypt")

    @property
    def secrets(self) -> set[str]:
        """All that must not show anywhere: the credentials, and what has passed over the wire."""
        return {
            each
            for each in self._credentials | self.cerberus.secrets | self.aws.secrets
            if len(each) >= SHORTEST_SECRET
        }

    def secrets_in(self, text: str) -> int:
        """How many of them show there."""
        return sum(secret in text for secret in self.secrets)

    def failure(self, call: Callable[[], object]) -> CerberusError:
        """The error that the call raises, which is clean of all that has passed over the wire."""
        with pytest.raises(CerberusError) as caught:
            call()
        assert_clean(caught.value, self.secrets)
        return caught.value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._contexts.close()
        for auth in self._auths:
            auth.close()


def renewed(auth: CerberusAuth) -> str:
    """Return the token after the one that is held was answered with 401."""
    deadline = Deadline(auth.settings.timeout)
    auth.service.replace_token(auth.service.token(deadline), f"{auth.settings.url}/v1/secret/{SECRET_PATH}", deadline)
    return auth.token()


def assert_clean(error: CerberusError, secrets: Iterable[str]) -> None:
    """No secret in the error, in the errors it lists, nor in the frames of the package that it came through."""
    texts = [str(error), repr(error), repr(error.args), repr(vars(error))]
    assert error.__cause__ is None
    assert error.__context__ is None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            where = frame.f_code.co_qualname
            texts += [f"{where}: {name} = {_repr(value)}" for name, value in frame.f_locals.items()]
    for secret in secrets:
        for text in texts if len(secret) >= SHORTEST_SECRET else ():
            # Not `assert … not in …`, which would print the secret's neighbours, but which place it is.
            if secret in text or repr(secret)[1:-1] in text:
                pytest.fail(f"a secret shows in {text!r}")
    for attempt in error.attempts:
        assert attempt.error.__traceback__ is None
        assert_clean(attempt.error, secrets)


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as broken:  # a frame is cut off in the middle of making an object
        return type(broken).__name__


def closed_port() -> str:
    """Return the URL of a server that is no more."""
    with Server(lambda request: Response(200)) as server:
        return server.url
