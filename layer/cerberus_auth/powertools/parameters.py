"""A provider for Powertools' parameters. That utility loads boto3, whatever the parameters are."""

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
    """Reads secrets through the interface of Powertools' parameters.

    ``get`` returns a secret as JSON text, as Secrets Manager does: ``transform="json"`` makes a dict of it.
    ``get_multiple`` returns all secrets below a path, by the rest of their paths. The client keeps what it reads, also while
    Cerberus is out of reach. Powertools' own cache is off: with both, a secret could be twice as old as ``max_age``.

    ``max_age`` is that of ``CerberusClient.read``, ``CERBERUS_MAX_AGE`` by default. ``force_fetch=True`` is its
    ``fresh=True``. Other keywords go to ``CerberusClient.read`` or ``read_all``: ``stale_if_error``, ``timeout``,
    ``context``. ``version`` selects a version of a secret.

    Parameters
    ----------
    client
        By default one with the environment's settings.

    Raises
    ------
    GetParameterError
        By ``get`` and ``get_multiple``, with the text of the ``CerberusError`` that is its cause.

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
        """See ``BaseProvider.get``."""
        # With a max_age of 0, Powertools keeps nothing.
        with _naming_the_cause():
            return super().get(name, 0, transform, **_wanted(max_age, force_fetch), **options)

    def get_multiple(
        self,
        path: str,
        max_age: int | None = None,
        transform: TransformOptions = None,
        raise_on_transform_error: bool = False,
        force_fetch: bool = False,
        **options: Any,
    ) -> Any:
        """See ``BaseProvider.get_multiple``."""
        with _naming_the_cause():
            wanted = _wanted(max_age, force_fetch)
            return super().get_multiple(path, 0, transform, raise_on_transform_error, **wanted, **options)

    def clear_cache(self) -> None:
        """Drop every secret that the client keeps."""
        self._cerberus._forget()

    def _get(self, name: str, version: str | None = None, **options: Any) -> str:
        read = (
            self._cerberus.read if version is None else functools.partial(self._cerberus.read_version, version=version)
        )
        return json.dumps(read(name, **options.pop(_KEYWORDS), **options))

    def _get_multiple(self, path: str, **options: Any) -> dict[str, str]:
        found = self._cerberus.read_all(path, **options.pop(_KEYWORDS), **options)
        return {name: json.dumps(data) for name, data in found.items()}


def _wanted(max_age: float | None, force_fetch: bool) -> dict[str, Any]:
    """Return the keywords of ``CerberusClient.read``, under a name that passes Powertools, which has its own ``max_age``."""
    return {_KEYWORDS: {"fresh": True} if force_fetch else {"max_age": max_age}}


@contextmanager
def _naming_the_cause() -> Iterator[None]:
    """Add the error itself as the cause: Powertools keeps only its text."""
    try:
        yield
    except GetParameterError as error:
        cause = error.__context__
        if isinstance(cause, CerberusError):
            raise error from cause
        raise
