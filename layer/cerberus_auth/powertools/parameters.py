"""A provider for the parameters utility of Powertools. Importing that utility loads boto3."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.parameters.base import BaseProvider
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError

from ..client import CerberusClient
from ..errors import CerberusError

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.parameters.types import TransformOptions

_KEYWORDS = "cerberus_keywords"


class CerberusProvider(BaseProvider):
    """Read secrets with the interface of the parameters utility of Powertools.

    ``CerberusClient`` caches the secrets, and serves them while Cerberus is out of reach. The cache of Powertools is off,
    because with two caches a secret could be twice as old as ``max_age``.

    Parameters
    ----------
    client : CerberusClient, optional
        By default one with the settings of the environment.

    Raises
    ------
    ConfigurationError
        At least one setting is not valid.

    Examples
    --------
    >>> provider = CerberusProvider()  # doctest: +SKIP
    >>> provider.get("app/orders/db", transform="json")  # doctest: +SKIP
    {'username': 'orders', 'password': '…'}
    """

    def __init__(self, client: CerberusClient | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cerberus = client or CerberusClient()

    def get(
        self,
        name: str,
        max_age: int | None = None,
        transform: TransformOptions = None,
        force_fetch: bool = False,
        **options: Any,
    ) -> Any:
        """Return a secret as JSON text.

        Parameters
        ----------
        name : str
            The path of the secret: ``category/box/path``.
        max_age : int, optional
            Seconds for which a cached secret is fresh. ``CERBERUS_MAX_AGE`` by default.
        transform : str, optional
            ``"json"`` returns a dict instead of text.
        force_fetch : bool
            Read the secret from Cerberus now, and cache it.
        **options
            ``version`` selects a version of the secret. Others go to ``CerberusClient.read``: ``stale_if_error``,
            ``timeout``, ``context``.

        Returns
        -------
        str or dict

        Raises
        ------
        GetParameterError
            The secret cannot be read. ``__cause__`` is the ``CerberusError``.
        """
        # max_age=0 turns off the cache of Powertools.
        with _cerberus_error_as_cause():
            return super().get(name, 0, transform, **_read_keywords(max_age, force_fetch), **options)

    def get_multiple(
        self,
        path: str,
        max_age: int | None = None,
        transform: TransformOptions = None,
        raise_on_transform_error: bool = False,
        force_fetch: bool = False,
        **options: Any,
    ) -> Any:
        """Return all secrets below a path as JSON text.

        Parameters
        ----------
        path : str
            ``category/box``, or a path in it.
        max_age : int, optional
            Seconds for which a cached secret is fresh. ``CERBERUS_MAX_AGE`` by default.
        transform : str, optional
            ``"json"`` returns dicts instead of text.
        raise_on_transform_error : bool
            Raise an error if a transformation fails. By default the value of that secret is ``None``.
        force_fetch : bool
            Read the secrets from Cerberus now, and cache them.
        **options
            Keywords of ``CerberusClient.read_all``: ``stale_if_error``, ``timeout``, ``context``.

        Returns
        -------
        dict
            The secrets by their paths, relative to ``path``.

        Raises
        ------
        GetParameterError
            A secret cannot be read. ``__cause__`` is the ``CerberusError``.
        """
        with _cerberus_error_as_cause():
            keywords = _read_keywords(max_age, force_fetch)
            return super().get_multiple(path, 0, transform, raise_on_transform_error, **keywords, **options)

    def clear_cache(self) -> None:
        """Remove all secrets from the cache of the client."""
        self._cerberus._forget()

    def _get(self, name: str, version: str | None = None, **options: Any) -> str:
        read = (
            self._cerberus.read if version is None else functools.partial(self._cerberus.read_version, version=version)
        )
        return json.dumps(read(name, **options.pop(_KEYWORDS), **options))

    def _get_multiple(self, path: str, **options: Any) -> dict[str, str]:
        found = self._cerberus.read_all(path, **options.pop(_KEYWORDS), **options)
        return {name: json.dumps(data) for name, data in found.items()}


def _read_keywords(max_age: float | None, force_fetch: bool) -> dict[str, Any]:
    """Return the keywords of ``CerberusClient.read`` under one name: Powertools would take ``max_age`` for its own cache."""
    return {_KEYWORDS: {"fresh": True} if force_fetch else {"max_age": max_age}}


@contextmanager
def _cerberus_error_as_cause() -> Iterator[None]:
    """Set the ``CerberusError`` as the cause of a ``GetParameterError``: Powertools copies only its text."""
    try:
        yield
    except GetParameterError as error:
        cause = error.__context__
        if isinstance(cause, CerberusError):
            raise error from cause
        raise
