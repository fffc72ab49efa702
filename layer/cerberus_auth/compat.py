"""A replacement for the reading methods of Nike's Python client. To migrate, change the import.

Replace ``from cerberus.client import CerberusClient`` by ``from cerberus_auth.compat import CerberusClient``. The methods take
the same arguments and return the same results. These things differ:

- All clients with the same settings share one token, and the package renews it.
- A client never uses the token of a client with other settings.
- Nothing is printed.
- Errors are subclasses of ``cerberus_auth.CerberusError``.
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
"""The name that Nike's client gives to its error."""

_PAGE_SIZE = 100


class CerberusClient(client.CerberusClient):
    """Read secrets with the methods of Nike's ``cerberus.client.CerberusClient``.

    The class also has the methods of ``cerberus_auth.CerberusClient``. It authenticates by STS, as Nike's client does since
    version 2.0, unless ``CERBERUS_AUTH_METHOD`` is set. All other settings come from the environment.

    Parameters
    ----------
    cerberus_url : str
        Used instead of ``CERBERUS_URL``.
    username, password
        Not supported. The function authenticates as its execution role.
    region : str, optional
        Used instead of ``CERBERUS_REGION``. The default is the region of the function; in Nike's client it is us-west-2.
    token : str, optional
        A Cerberus token to use. With one, the client never authenticates.
    aws_session
        Not supported. Set ``AWS_PROFILE`` or ``CERBERUS_ASSUME_ROLE_ARN`` instead.
    verbose : bool, optional
        Has no effect. The logger ``cerberus_auth`` writes the log.

    Raises
    ------
    ConfigurationError
        At least one setting is not valid, or an argument is not supported. The text lists all problems.

    Examples
    --------
    >>> client = CerberusClient("https://cerberus.example.com")  # doctest: +SKIP
    >>> client.get_secrets_data("app/orders/db")["username"]  # doctest: +SKIP
    'orders'
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
        has_identity = bool(username or password or aws_session is not None)
        del username, password, aws_session  # error reporters send the locals of this frame
        if has_identity:
            del cerberus_url, token
            raise ConfigurationError(
                "cerberus_auth authenticates as the execution role and does not support username, password and aws_session. "
                "Remove them. To use another identity, set CERBERUS_ASSUME_ROLE_ARN or AWS_PROFILE."
            )
        settings = _settings(cerberus_url, region, token)
        del cerberus_url, token  # error reporters send the locals of this frame
        if isinstance(settings, ConfigurationError):
            raise settings
        super().__init__(CerberusAuth(settings))
        self.cerberus_url = settings.url
        self.region = settings.region

    @property
    def token(self) -> str:
        """The current token. It changes when the package renews it; Nike's client keeps the first one.

        Raises
        ------
        CerberusError
            The authentication failed.
        """
        return self._auth.token()

    def get_token(self) -> str:
        """Return the current token.

        Returns
        -------
        str

        Raises
        ------
        CerberusError
            The authentication failed.
        """
        return self._auth.token()

    def get_secrets_data(self, secure_data_path: str, version: str | None = None) -> dict[str, Any]:
        """Return the keys and values of a secret.

        Parameters
        ----------
        secure_data_path : str
            The path: ``category/box/path``.
        version : str, optional
            The ID of a version. The current version by default.

        Returns
        -------
        dict of str to str

        Raises
        ------
        CerberusError
            The secret cannot be read.
        """
        data: dict[str, Any] = self._secret_response(secure_data_path, version)["data"]
        return data

    def get_secrets(self, secure_data_path: str, version: str | None = None) -> dict[str, Any]:
        """Return the whole response for a secret. Deprecated, as in Nike's client: use ``get_secrets_data``.

        Parameters
        ----------
        secure_data_path : str
            The path: ``category/box/path``.
        version : str, optional
            The ID of a version. The current version by default.

        Returns
        -------
        dict
            ``["data"]`` holds the keys and values.

        Raises
        ------
        CerberusError
            The secret cannot be read.
        """
        _deprecated("get_secrets")
        return self._secret_response(secure_data_path, version)

    def get_secret(self, secure_data_path: str, key: str, version: str | None = None) -> Any:
        """Return one value of a secret. Deprecated, as in Nike's client: use ``get_secrets_data``.

        Parameters
        ----------
        secure_data_path : str
            The path: ``category/box/path``.
        key : str
            The key of the value.
        version : str, optional
            The ID of a version. The current version by default.

        Returns
        -------
        str

        Raises
        ------
        CerberusError
            The secret cannot be read, or it has no such key.
        """
        _deprecated("get_secret")

        data = self._secret_response(secure_data_path, version)["data"]
        if key in data:
            return data[key]
        del data  # this frame is part of the error's traceback
        raise CerberusError(f"Secret {secure_data_path!r} has no key {key!r}. Check the spelling of the key.")

    def list_secrets(self, secure_data_path: str) -> dict[str, Any]:
        """List the names below a path.

        Parameters
        ----------
        secure_data_path : str
            ``category/box``, or a path in it.

        Returns
        -------
        dict
            The whole response. ``["data"]["keys"]`` holds the names.

        Raises
        ------
        CerberusError
            The path cannot be read.
        """
        return self._object("secret", secure_data_path, "data", list="true")

    def get_secret_versions(
        self, secure_data_path: str, limit: int | None = None, offset: int | None = None
    ) -> dict[str, Any]:
        """List the versions of a secret, newest first, one page per call.

        Parameters
        ----------
        secure_data_path : str
            The path: ``category/box/path``.
        limit : int, optional
            The maximum number of versions in the page. 100 by default.
        offset : int, optional
            The number of versions to skip. 0 by default.

        Returns
        -------
        dict
            The whole response. ``["secure_data_version_summaries"]`` holds the versions.

        Raises
        ------
        CerberusError
            The path cannot be read.
        """
        return self._object("secret-versions", secure_data_path, **_page_query(limit, offset))

    def get_file_versions(
        self, secure_data_path: str, limit: int | None = None, offset: int | None = None
    ) -> dict[str, Any]:
        """List the versions of a file, newest first, as ``get_secret_versions`` does."""
        return self.get_secret_versions(secure_data_path, limit, offset)

    def list_files(self, secure_data_path: str, limit: int | None = None, offset: int | None = None) -> dict[str, Any]:
        """List the files below a path, one page per call.

        Parameters
        ----------
        secure_data_path : str
            ``category/box``, or a path in it.
        limit : int, optional
            The maximum number of files in the page. 100 by default.
        offset : int, optional
            The number of files to skip. 0 by default.

        Returns
        -------
        dict
            The whole response. ``["secure_file_summaries"]`` holds the files.

        Raises
        ------
        CerberusError
            The path cannot be read.
        """
        return self._object("secure-files", secure_data_path, slash="/", **_page_query(limit, offset))

    def get_file_data(self, secure_data_path: str, version: str | None = None) -> bytes:
        """Return the content of a file.

        Parameters
        ----------
        secure_data_path : str
            The path: ``category/box/file``.
        version : str, optional
            The ID of a version. The current version by default.

        Returns
        -------
        bytes
            1 MiB at most.

        Raises
        ------
        CerberusError
            The file cannot be read.
        """
        content: bytes = a2b_base64(self._file_response(secure_data_path, version)["content"])
        return content

    def get_file(self, secure_data_path: str, version: str | None = None) -> CaseInsensitiveDict[Any]:
        """Return the content of a file with its name and the headers of the response.

        Parameters
        ----------
        secure_data_path : str
            The path: ``category/box/file``.
        version : str, optional
            The ID of a version. The current version by default.

        Returns
        -------
        requests.structures.CaseInsensitiveDict
            The headers, the name as ``filename`` and the content as ``data`` (bytes).

        Raises
        ------
        CerberusError
            The file cannot be read.
        """
        from requests.structures import CaseInsensitiveDict

        file = self._file_response(secure_data_path, version)
        found: CaseInsensitiveDict[Any] = CaseInsensitiveDict(file["headers"])
        found["filename"] = found.get("Content-Disposition", "").partition("=")[2].replace('"', "")
        found["data"] = a2b_base64(file["content"])
        return found

    def _get_all_secret_version_ids(self, secure_data_path: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
        page: dict[str, Any] = {"has_next": True, "next_offset": 0}
        while page["has_next"]:
            page = self.get_secret_versions(secure_data_path, limit, page["next_offset"])
            yield from page["secure_data_version_summaries"]

    def _secret_response(self, path: str, version: str | None) -> dict[str, Any]:
        return self._object("secret", path, "data", versionId=version or "CURRENT")

    def _file_response(self, path: str, version: str | None) -> dict[str, Any]:
        """Return the headers of a file and its base64 content as JSON, a form that can be shared."""

        def parse(response: Response, path: str) -> dict[str, Any]:
            content = b2a_base64(response.body, newline=False).decode()
            return {"headers": dict(response.headers), "content": content}

        return self._cached_response("secure-file", path, parse, versionId=version or "CURRENT")

    def _object(self, kind: str, path: str, *object_fields: str, slash: str = "", **query: str) -> dict[str, Any]:
        """Return the JSON object of a response, in which the names of ``object_fields`` hold objects."""

        def parse(response: Response, path: str) -> dict[str, Any]:
            fields = client.read_json(response, path)
            if not all(isinstance(fields.get(name), dict) for name in object_fields):
                raise InvalidResponse(
                    f"The response for {path!r} does not have the documented form. Check CERBERUS_URL."
                )
            return fields

        return self._cached_response(kind, path, parse, slash, **query)

    def _cached_response(
        self, kind: str, path: str, parse: Callable[[Response, str], dict[str, Any]], slash: str = "", **query: str
    ) -> dict[str, Any]:
        path = client.checked_path(path)
        part = f"{kind}/{quote(path)}{slash}?{urlencode(query)}"
        url, is_file = f"{self.cerberus_url}/v1/{part}", kind == "secure-file"
        fetch = self._fetcher(
            part, path, client.copy_json, lambda flight: self._send(url, path, flight, parse, is_file)
        )
        kept = self._get(("compat", part), path, fetch, None, None, False, None, None)
        response: dict[str, Any] = kept.copy(kept.value)
        return response


def _settings(cerberus_url: str, region: str | None, token: str | None) -> Settings | ConfigurationError:
    """Return the settings, or the error without the frames whose locals hold the environment."""
    given = {"CERBERUS_URL": cerberus_url.rstrip("/"), "CERBERUS_REGION": region, "CERBERUS_TOKEN": token}
    environment = {"CERBERUS_AUTH_METHOD": "sts", **os.environ}
    try:
        return Settings.from_env(environment | {name: value for name, value in given.items() if value})
    except ConfigurationError as error:
        return error.fresh()


def _page_query(limit: int | None, offset: int | None) -> dict[str, str]:
    return {
        "limit": str(limit if limit and limit > 0 else _PAGE_SIZE),
        "offset": str(offset if offset and offset > 0 else 0),
    }


def _deprecated(name: str) -> None:
    warnings.warn(f"{name} is deprecated. Use get_secrets_data.", DeprecationWarning, stacklevel=3)
