"""The checks of the acceptance suite. No result contains a token or a value of a secret."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import requests

from cerberus_auth import AuthenticationFailed, CerberusAuth, CerberusClient, CerberusError, Settings

NOTHING = "cerberus-auth-acceptance-nothing"
TIMEOUT = (5, 15)
"""Seconds to connect, and to wait for a response."""


class Check(NamedTuple):
    """One check of the package or of the service."""

    name: str
    expected: tuple[str, ...]
    """The results that pass."""
    call: Callable[[], str]

    def run(self) -> tuple[str, str]:
        """Return the result, and the message of an error."""
        try:
            return self.call(), ""
        except AuthenticationFailed as error:
            kinds = {type(attempt.error).__name__ for attempt in error.attempts}
            return kinds.pop() if len(kinds) == 1 else type(error).__name__, str(error)
        except (CerberusError, requests.RequestException) as error:
            return type(error).__name__, str(error)


class Suite:
    """The checks against one Cerberus, as a context manager."""

    def __init__(self, settings: Settings, secret: str, box: str) -> None:
        self.settings = settings
        self.secret = secret
        self.box = box
        self._auths: list[CerberusAuth] = []
        self._auth = self._new_auth(settings)
        self._client = CerberusClient(self._auth)
        self._session = requests.Session()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()
        for auth in self._auths:
            auth.close()  # no revoke(): containers of this role can have the same token

    def checks(self) -> Iterator[Check]:
        """Yield the checks in order."""
        yield from self._service_checks()
        yield from self._authentication_checks()
        yield from self._read_checks()
        yield from self._contract_checks()

    def _service_checks(self) -> Iterator[Check]:
        yield Check("GET /healthcheck", ("200 UP",), lambda: self._field("/healthcheck", "status"))
        yield Check("GET /info", ("200 a version",), self._info)
        yield Check("GET /", ("302",), lambda: self._raw("/"))
        yield Check("GET the secret without a token", ("401 code 99105",), lambda: self._raw(self._path()))
        yield Check("GET the secret with a wrong token", ("401 code 99105",), lambda: self._raw(self._path(), "nobody"))

    def _authentication_checks(self) -> Iterator[Check]:
        yield Check("token()", ("a token",), lambda: self._token(self._auth))
        yield Check("token() again", ("the same token",), self._same_token)
        if not self.settings.token:
            yield Check("token() by KMS", ("a token", "MethodNotOffered"), lambda: self._token_by("kms"))
            yield Check("token() by STS", ("a token",), lambda: self._token_by("sts"))

    def _read_checks(self) -> Iterator[Check]:
        client, secret, box = self._client, self.secret, self.box
        yield Check("read(secret)", ("keys and values",), lambda: _kind(client.read(secret)))
        yield Check("read_version(secret, 'CURRENT')", ("the same secret",), self._current)
        yield Check("versions(secret)", ("CURRENT first",), lambda: f"{client.versions(secret)[0]['id']} first")
        yield Check("list(box)", ("the secret is there",), self._listed)
        yield Check("requests.get(…, auth=auth)", ("200",), lambda: self._raw(self._path(), auth=self._auth))
        yield Check("read(a missing path)", ("SecretNotFound",), lambda: _kind(client.read(f"{box}/{NOTHING}")))
        yield Check("read(a path with ;)", ("ConfigurationError",), lambda: _kind(client.read(f"{box}/a;b")))
        yield Check("read(a missing box)", ("SecretNotFound",), lambda: _kind(client.read(f"app/{NOTHING}/secret")))

    def _contract_checks(self) -> Iterator[Check]:
        box = quote(self.box)
        yield Check("GET the safe deposit boxes", ("200 the box is there",), self._boxes)
        yield Check("GET the versions of the secret", ("200 CURRENT first",), self._versions)
        for what, path, expected in [
            ("a missing path", f"{box}/{NOTHING}", "404 without a body"),
            ("a missing box", f"app/{NOTHING}/secret", "404 code 99996"),
            ("a path without a box", "app", "400 code 99999"),
            ("a path with ;", f"{box}/a;b", "401 code 99105"),
            ("a path with %", f"{box}/a%25b", "401 code 99105"),
            ("a path with a line break", f"{box}/a%0Ab", "401 code 99105"),
            ("a path with a backslash", f"{box}/a%5Cb", "400 HTML"),
        ]:
            yield Check(f"GET {what}", (expected,), partial(self._raw_read, path))
        yield Check("GET the list of a missing path", ("200 no keys",), self._empty_list)

    def _new_auth(self, settings: Settings) -> CerberusAuth:
        auth = CerberusAuth(settings)
        self._auths.append(auth)
        return auth

    def _token(self, auth: CerberusAuth) -> str:
        return "a token" if auth.token() else "nothing"

    def _token_by(self, method: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "CERBERUS_AUTH_METHOD"}
        return self._token(self._new_auth(Settings.from_env({**environment, "CERBERUS_AUTH_METHOD": method})))

    def _same_token(self) -> str:
        return "the same token" if self._auth.token() == self._auth.token() else "another token"

    def _current(self) -> str:
        same = self._client.read_version(self.secret, "CURRENT") == self._client.read(self.secret)
        return "the same secret" if same else "another secret"

    def _listed(self) -> str:
        first, slash, _ = self.secret.removeprefix(f"{self.box}/").partition("/")
        return "the secret is there" if first + slash in self._client.list(self.box) else "it is not there"

    def _path(self, kind: str = "secret") -> str:
        return f"/v1/{kind}/{quote(self.secret)}"

    def _get(self, path: str, token: str = "", auth: CerberusAuth | None = None) -> requests.Response:
        return self._session.get(
            self.settings.url + path,
            headers={"X-Cerberus-Client": "CerberusAuthAcceptance/1", **({"X-Cerberus-Token": token} if token else {})},
            auth=auth,
            timeout=TIMEOUT,
            allow_redirects=False,
        )

    def _raw(self, path: str, token: str = "", auth: CerberusAuth | None = None) -> str:
        """Request a path and return the status, for errors with the code or the kind of body."""
        response = self._get(path, token, auth)
        if response.status_code < 400:
            return str(response.status_code)
        if not response.content:
            return f"{response.status_code} without a body"
        if response.headers.get("Content-Type", "").startswith("text/html"):
            return f"{response.status_code} HTML"
        errors = _fields(response).get("errors")
        code = errors[0].get("code") if isinstance(errors, list) and errors and isinstance(errors[0], dict) else None
        return f"{response.status_code} code {code}" if isinstance(code, int) else str(response.status_code)

    def _raw_read(self, path: str) -> str:
        return self._raw(f"/v1/secret/{path}", self._auth.token())

    def _field(self, path: str, name: str) -> str:
        response = self._get(path)
        return f"{response.status_code} {str(_fields(response).get(name))[:12]}"

    def _info(self) -> str:
        response = self._get("/info")
        build = _fields(response).get("build")
        has_version = isinstance(build, dict) and isinstance(build.get("version"), str)
        return f"{response.status_code} {'a version' if has_version else 'no version'}"

    def _boxes(self) -> str:
        response = self._get("/v2/safe-deposit-box", self._auth.token())
        boxes = _json(response)
        paths = [box.get("path") for box in boxes if isinstance(box, dict)] if isinstance(boxes, list) else []
        return f"{response.status_code} {'the box is there' if f'{self.box}/' in paths else 'it is not there'}"

    def _versions(self) -> str:
        response = self._get(self._path("secret-versions"), self._auth.token())
        summaries = _fields(response).get("secure_data_version_summaries")
        first = summaries[0] if isinstance(summaries, list) and summaries else {}
        is_current = isinstance(first, dict) and first.get("id") == "CURRENT"
        return f"{response.status_code} {'CURRENT first' if is_current else 'no CURRENT'}"

    def _empty_list(self) -> str:
        response = self._get(f"/v1/secret/{quote(self.box)}/{NOTHING}?list=true", self._auth.token())
        data = _fields(response).get("data")
        return f"{response.status_code} {'no keys' if data == {'keys': []} else 'something'}"


def _kind(secret: object) -> str:
    return "keys and values" if isinstance(secret, dict) and secret else "nothing"


def _json(response: requests.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _fields(response: requests.Response) -> dict[str, Any]:
    fields = _json(response)
    return fields if isinstance(fields, dict) else {}
