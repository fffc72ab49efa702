"""A provider for Powertools' parameters. That utility loads boto3, whoever's parameters it is used for."""

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


class CerberusProvider(BaseProvider):
    """Secrets by the interface of Powertools' parameters.

    A secret comes as the JSON text of its keys and values, as from Secrets Manager: ``transform="json"`` makes the dict.
    ``get_multiple`` gives all that is stored below a path, by the rest of each path. Other keywords go to
    ``CerberusClient.read`` or ``read_all`` (``timeout``, ``context``); ``version`` gives that of a secret.

    Parameters
    ----------
    client
        One of the environment's settings by default.

    Raises
    ------
    GetParameterError
        By ``get`` and ``get_multiple``, with the text of the ``CerberusError`` that is its cause.

    Examples
    --------
    >>> provider = CerberusProvider()  # doctest: +SKIP
    >>> provider.get("app/orders/db", transform="json", max_age=300)  # doctest: +SKIP
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
        with _telling_the_cause():
            return super().get(name, max_age, transform, force_fetch, fresh=force_fetch, **options)

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
        with _telling_the_cause():
            return super().get_multiple(
                path, max_age, transform, raise_on_transform_error, force_fetch, fresh=force_fetch, **options
            )

    def _get(self, name: str, version: str | None = None, **options: Any) -> str:
        # Of no age, and yet one reading for all threads that come while it is under way: Powertools keeps what it gave.
        options.setdefault("max_age", 0)
        read = (
            self._cerberus.read if version is None else functools.partial(self._cerberus.read_version, version=version)
        )
        return json.dumps(read(name, **options))

    def _get_multiple(self, path: str, **options: Any) -> dict[str, str]:
        options.setdefault("max_age", 0)
        return {name: json.dumps(data) for name, data in self._cerberus.read_all(path, **options).items()}


@contextmanager
def _telling_the_cause() -> Iterator[None]:
    """Powertools keeps of an error only its text; this adds the error itself, as the cause."""
    try:
        yield
    except GetParameterError as error:
        cause = error.__context__
        if isinstance(cause, CerberusError):
            raise error from cause
        raise
