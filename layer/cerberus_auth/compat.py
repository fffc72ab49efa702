"""The reading part of Nike's Python client, for code that moves over by changing an import.

What was ``from cerberus.client import CerberusClient`` becomes ``from cerberus_auth.compat import CerberusClient``: the same
calls and answers. The token is the process' one, renewed as everywhere in this package; no instance sees another's; and nothing
is printed. Errors are this package's own.
"""

from __future__ import annotations

import os
import warnings
from binascii import a2b_base64, b2a_base64
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

from . import client
from .auth import CerberusAuth
from .errors import CerberusError, ConfigurationError, InvalidResponse
from .settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from requests.structures import CaseInsensitiveDict

    from .http.transport import Response

T = TypeVar("T")

CerberusClientException = CerberusError
"""What Nike's client raises, by its name there."""

_PAGE = 100


class CerberusClient(client.CerberusClient):
    """Nike's ``cerberus.client.CerberusClient``, for reading. It also has the methods of this package's own client.

    Like Nike's since 2.0 it authenticates by STS, unless ``CERBERUS_AUTH_METHOD`` is set; all other settings are those of the
    environment too.

    Parameters
    ----------
    cerberus_url
        In place of ``CERBERUS_URL``.
    region
        In place of ``CERBERUS_REGION``. Nike's is us-west-2 by default; here it is the function's own.
    token
        Use this token and never authenticate.
    verbose
        Has no effect: see the log of ``cerberus_auth``.
    username, password, aws_session
        Not taken: a function is its execution role.

    Raises
    ------
    ConfigurationError
        Names every problem of the settings at once.
    """

    def __init__(
        self,
        cerberus_url: str,
        username: str | None = None,
        password: str | None = None,
        region: str | None = None,
        token: str | None = None,
        aws_session: object = None,
        verbose: bool | None = None,
    ) -> None:
        identity = bool(username or password or aws_session is not None)
        del username, password, aws_session  # this frame is part of an error's traceback
        if identity:
            del cerberus_url, token
            raise ConfigurationError(
                "cerberus_auth authenticates as the execution role: no username, password or aws_session. A role to assume "
                "goes into CERBERUS_ASSUME_ROLE_ARN, a profile into AWS_PROFILE"
            )
        settings = _settings(cerberus_url, region, token)
        del cerberus_url, token  # this frame is part of an error's traceback
        if isinstance(settings, ConfigurationError):
            raise settings
        super().__init__(CerberusAuth(settings))
        self.cerberus_url = settings.url
        self.region = settings.region

    @property
    def token(self) -> str:
        """The token of this moment. Nike's is that of the start."""
        return self._auth.token()

    def get_token(self) -> str:
        """The token of this moment."""
        return self._auth.token()

    def get_secrets_data(self, secure_data_path: str, version: str | None = None) -> dict[str, Any]:
        """The keys and values stored under a path."""
        data: dict[str, Any] = self._secret_of(secure_data_path, version)["data"]
        return data

    def get_secrets(self, secure_data_path: str, version: str | None = None) -> dict[str, Any]:
        """Deprecated there: the service's whole answer, of which ``data`` holds the secret."""
        _deprecated("get_secrets")
        return self._secret_of(secure_data_path, version)

    def get_secret(self, secure_data_path: str, key: str, version: str | None = None) -> Any:
        """Return one value of a secret. Deprecated in Nike's client.

        Raises
        ------
        CerberusError
            The secret has no such key; and all that reading it raises.
        """
        _deprecated("get_secret")

        data = self._secret_of(secure_data_path, version)["data"]
        if key in data:
            return data[key]
        del data  # this frame is part of the error's traceback
        raise CerberusError(f"The secret {secure_data_path!r} has no key {key!r}. Check its spelling")

    def list_secrets(self, secure_data_path: str) -> dict[str, Any]:
        """The service's whole answer, of which ``["data"]["keys"]`` are the names under a path."""
        return self._object("secret", secure_data_path, "data", list="true")

    def get_secret_versions(
        self, secure_data_path: str, limit: int | None = None, offset: int | None = None
    ) -> dict[str, Any]:
        """A page of what is known of a secret's versions, newest first, in ``secure_data_version_summaries``."""
        return self._object("secret-versions", secure_data_path, **_page(limit, offset))

    def get_file_versions(
        self, secure_data_path: str, limit: int | None = None, offset: int | None = None
    ) -> dict[str, Any]:
        """The same of a file."""
        return self.get_secret_versions(secure_data_path, limit, offset)

    def list_files(self, secure_data_path: str, limit: int | None = None, offset: int | None = None) -> dict[str, Any]:
        """A page of what is known of the files under a path, in ``secure_file_summaries``."""
        return self._object("secure-files", secure_data_path, slash="/", **_page(limit, offset))

    def get_file_data(self, secure_data_path: str, version: str | None = None) -> bytes:
        """The content of a file, of at most a MiB."""
        content: bytes = a2b_base64(self._file_of(secure_data_path, version)["content"])
        return content

    def get_file(self, secure_data_path: str, version: str | None = None) -> CaseInsensitiveDict[Any]:
        """Return the headers that a file came with, its name as ``filename`` and its content as ``data``."""
        from requests.structures import CaseInsensitiveDict

        file = self._file_of(secure_data_path, version)
        found: CaseInsensitiveDict[Any] = CaseInsensitiveDict(file["headers"])
        found["filename"] = found.get("Content-Disposition", "").partition("=")[2].replace('"', "")
        found["data"] = a2b_base64(file["content"])
        return found

    def _get_all_secret_version_ids(self, secure_data_path: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
        page: dict[str, Any] = {"has_next": True, "next_offset": 0}
        while page["has_next"]:
            page = self.get_secret_versions(secure_data_path, limit, page["next_offset"])
            yield from page["secure_data_version_summaries"]

    def _secret_of(self, path: str, version: str | None) -> dict[str, Any]:
        return self._object("secret", path, "data", versionId=version or "CURRENT")

    def _file_of(self, path: str, version: str | None) -> dict[str, Any]:
        """Return the headers of a file and its content, as JSON: so it can be shared."""

        def parse(response: Response, path: str) -> dict[str, Any]:
            content = b2a_base64(response.body, newline=False).decode()
            return {"headers": dict(response.headers.items()), "content": content}

        return self._kept_answer("secure-file", path, parse, versionId=version or "CURRENT")

    def _object(self, kind: str, path: str, *holding: str, slash: str = "", **query: str) -> dict[str, Any]:
        """Return the JSON object that the service answers, in which these names hold objects."""

        def parse(response: Response, path: str) -> dict[str, Any]:
            fields = client.read_json(response, path)
            if not all(isinstance(fields.get(name), dict) for name in holding):
                raise InvalidResponse(f"Cerberus' answer to {path!r} is not what was asked for. Check CERBERUS_URL")
            return fields

        return self._kept_answer(kind, path, parse, slash, **query)

    def _kept_answer(
        self, kind: str, path: str, parse: Callable[[Response, str], dict[str, Any]], slash: str = "", **query: str
    ) -> dict[str, Any]:
        path = client.checked_path(path)
        part = f"{kind}/{quote(path)}{slash}?{urlencode(query)}"
        url, is_file = f"{self.cerberus_url}/v1/{part}", kind == "secure-file"
        fetch = self._fetcher(
            part, path, client.copy_json, lambda flight: self._send(url, path, flight, parse, is_file)
        )
        kept = self._get(("compat", part), path, fetch, None, None, False, None, None)
        answer: dict[str, Any] = kept.copy(kept.value)
        return answer


def _settings(cerberus_url: str, region: str | None, token: str | None) -> Settings | ConfigurationError:
    """Return the settings, or the error that they raise without the frames that hold the environment."""
    given = {"CERBERUS_URL": cerberus_url.rstrip("/"), "CERBERUS_REGION": region, "CERBERUS_TOKEN": token}
    environment = {"CERBERUS_AUTH_METHOD": "sts", **os.environ}
    try:
        return Settings.from_env(environment | {name: value for name, value in given.items() if value})
    except ConfigurationError as error:
        return error.fresh()


def _page(limit: int | None, offset: int | None) -> dict[str, str]:
    return {
        "limit": str(limit if limit and limit > 0 else _PAGE),
        "offset": str(offset if offset and offset > 0 else 0),
    }


def _deprecated(name: str) -> None:
    warnings.warn(f"{name} is deprecated: use get_secrets_data", DeprecationWarning, stacklevel=3)
