"""A fake Cerberus for the tests of your functions. It serves secrets and faults over HTTP.

With pytest, use the fixture ``fake_cerberus``. Elsewhere, use ``FakeCerberus`` as a context manager. This module is part of the
pip package, not of the Lambda layer.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import ModuleType, TracebackType
from typing import Self

from ..lifecycle.process import process
from .aws import Aws
from .cerberus import Call, Cerberus
from .http_server import Fault, Request

__all__ = ["Call", "FakeCerberus", "Fault", "Request"]

_ROLE = "arn:aws:iam::111111111111:role/function"
_CERBERUS_ACCOUNT = "222222222222"


class FakeCerberus:
    """Run a fake Cerberus, KMS and STS on loopback addresses.

    The servers run until ``close`` or until the end of the ``with`` block.

    Parameters
    ----------
    secrets : mapping, optional
        The keys and values of each secret, by its path: ``category/box/path``.
    role_arn : str
        The ARN of the execution role of the function under test. It can read all boxes that hold a secret or a file.

    Attributes
    ----------
    environment : dict of str to str
        The environment variables that the function needs.
    role_arn : str
        The ARN of the execution role.

    Examples
    --------
    >>> with FakeCerberus({"app/orders/db": {"username": "orders"}}) as fake:
    ...     fake.environment["CERBERUS_IAM_ROLE_ARN"]
    'arn:aws:iam::111111111111:role/function'
    """

    def __init__(self, secrets: Mapping[str, Mapping[str, str]] | None = None, *, role_arn: str = _ROLE) -> None:
        self.role_arn = role_arn
        self._aws = Aws(_CERBERUS_ACCOUNT, role_arn)
        self._cerberus = Cerberus(self._aws, self._aws)
        self._replaced_modules: dict[str, dict[str, ModuleType]] = {}
        self.environment = {
            "AWS_REGION": "us-west-2",
            "AWS_DEFAULT_REGION": "us-west-2",
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "example-of-a-secret-key",
            "AWS_SESSION_TOKEN": "example-of-a-session-token",
            "AWS_ENDPOINT_URL_KMS": self._aws.url,
            "AWS_ENDPOINT_URL_STS": self._aws.url,
            "CERBERUS_URL": self._cerberus.url,
            "CERBERUS_IAM_ROLE_ARN": role_arn,
            "CERBERUS_KMS_ACCOUNT_ID": _CERBERUS_ACCOUNT,
        }
        for path, data in (secrets or {}).items():
            self.put_secret(path, data)

    def put_secret(self, path: str, data: Mapping[str, str]) -> str:
        """Store a new version of a secret.

        Parameters
        ----------
        path : str
            ``category/box/path``. The execution role gets access to the box.
        data : mapping of str to str
            The keys and values.

        Returns
        -------
        str
            The ID of the version.
        """
        self._grant(path)
        return self._cerberus.put_secret(path, dict(data))

    def put_file(self, path: str, content: bytes) -> str:
        """Store a new version of a file.

        Parameters
        ----------
        path : str
            ``category/box/file``. The execution role gets access to the box.
        content : bytes
            The content of the file.

        Returns
        -------
        str
            The ID of the version.
        """
        self._grant(path)
        return self._cerberus.put_file(path, content)

    def deny(self) -> None:
        """Remove the execution role from all boxes. It can then no longer authenticate."""
        self._cerberus.deny(self.role_arn)

    def revoke(self) -> None:
        """Revoke all tokens."""
        self._cerberus.revoke()

    def fail(
        self, fault: Fault, when: Callable[[Request], bool] = lambda request: True, times: int | None = None
    ) -> None:
        """Let requests to Cerberus fail.

        Parameters
        ----------
        fault : Fault
            What happens to the request, such as ``Fault.status(503)``.
        when : callable
            Takes a ``Request``, and returns whether the request fails. By default all requests do.
        times : int, optional
            The number of requests that fail. By default requests fail until you call ``recover``.

        Examples
        --------
        >>> fake.fail(Fault.status(503), when=lambda request: request.path.startswith("/v1/secret"))  # doctest: +SKIP
        """
        self._cerberus.server.faults.add(fault, when, times)

    def recover(self) -> None:
        """Remove all faults that ``fail`` added."""
        self._cerberus.server.faults.clear()

    def database_down(self) -> AbstractContextManager[None]:
        """Return a context manager that makes the database of Cerberus unavailable.

        Cerberus then returns 401 for each request with a token, and 500 for each authentication. All tokens stay valid.
        """
        return self._cerberus.database_down()

    def database_hanging(self, seconds: float = 60) -> AbstractContextManager[None]:
        """Return a context manager that makes the database of Cerberus hang. Requests that need it get no response.

        Parameters
        ----------
        seconds : float
            The time after which Cerberus gives up on a request and responds as in ``database_down``.
        """
        return self._cerberus.database_hanging(seconds)

    @property
    def authentications(self) -> int:
        """The number of tokens that Cerberus has issued."""
        return self._cerberus.authentications

    @property
    def calls(self) -> list[Call]:
        """The requests to Cerberus, in the order of their responses."""
        return list(self._cerberus.calls)

    def cold_start(self, module: str) -> ModuleType:
        """Import a module again, as a new container does: without a cached token, secret or connection.

        Set the environment variables first. If the client is in another module, call ``cold_start`` for that one first.

        Parameters
        ----------
        module : str
            The name of the module. Its submodules are imported again too.

        Returns
        -------
        module
            The new module.
        """
        loaded = _loaded(module)
        self._replaced_modules.setdefault(module, loaded)
        for name in loaded:
            del sys.modules[name]
        process.forget()
        return importlib.import_module(module)

    def close(self) -> None:
        """Stop the servers, close the connections and restore the modules that ``cold_start`` replaced. Safe to repeat."""
        while self._replaced_modules:
            _restore(*self._replaced_modules.popitem())
        process.forget()
        self._cerberus.close()
        self._aws.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _grant(self, path: str) -> None:
        self._cerberus.grant(self.role_arn, "/".join(path.split("/")[:2]))


def _loaded(module: str) -> dict[str, ModuleType]:
    """Return the loaded modules among a module and its submodules, by name."""
    return {name: each for name, each in sys.modules.items() if name == module or name.startswith(f"{module}.")}


def _restore(module: str, before: Mapping[str, ModuleType]) -> None:
    """Put back the modules that were loaded before ``cold_start``."""
    for name in _loaded(module):
        del sys.modules[name]
    sys.modules.update(before)
    parent, _, name = module.rpartition(".")
    if parent in sys.modules:  # a package has its submodules as attributes
        vars(sys.modules[parent]).pop(name, None)
        if module in before:
            setattr(sys.modules[parent], name, before[module])
