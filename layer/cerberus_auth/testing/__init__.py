"""For users' own tests: a fake Cerberus over real HTTP, with secrets and faults of one's choice. Of the pip package only.

With pytest there is a fixture, ``fake_cerberus``; elsewhere ``FakeCerberus`` is a context manager.
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
    """Cerberus, and as much of AWS as authenticating to it takes, on loopback. A context manager; listens from construction on.

    Parameters
    ----------
    secrets
        By path, ``category/box/secret``: keys and values.
    role_arn
        The execution role of the function under test, which may read every box that holds something.

    Attributes
    ----------
    environment
        The variables that the function needs.
    """

    def __init__(self, secrets: Mapping[str, Mapping[str, str]] | None = None, *, role_arn: str = _ROLE) -> None:
        self.role_arn = role_arn
        self._aws = Aws(_CERBERUS_ACCOUNT, role_arn)
        self._cerberus = Cerberus(self._aws, self._aws)
        self._before: dict[str, dict[str, ModuleType]] = {}
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
        """Store a new version of a secret (``category/box/secret``), and give the version's ID."""
        self._grant(path)
        return self._cerberus.put_secret(path, dict(data))

    def put_file(self, path: str, content: bytes) -> str:
        """Store a new version of a secure file (``category/box/file``), and give the version's ID."""
        self._grant(path)
        return self._cerberus.put_file(path, content)

    def deny(self) -> None:
        """Take the role out of every box: it can no longer authenticate."""
        self._cerberus.deny(self.role_arn)

    def revoke(self) -> None:
        """End all tokens."""
        self._cerberus.revoke()

    def fail(
        self, fault: Fault, when: Callable[[Request], bool] = lambda request: True, times: int | None = None
    ) -> None:
        """Have requests to Cerberus for which ``when`` is true meet a fault, such as ``Fault.status(503)``.

        Parameters
        ----------
        times
            How many of them; by default all, until ``recover``.
        """
        self._cerberus.server.faults.add(fault, when, times)

    def recover(self) -> None:
        """Fail no more."""
        self._cerberus.server.faults.clear()

    def database_down(self) -> AbstractContextManager[None]:
        """Take Cerberus' database away until the end of a ``with`` block.

        Cerberus then refuses every token with 401 and answers 500 to authentications; no token ends by that.
        """
        return self._cerberus.database_down()

    def database_hanging(self, seconds: float = 60) -> AbstractContextManager[None]:
        """Have Cerberus' database not answer until the end of a ``with`` block: no request that needs it is answered.

        Parameters
        ----------
        seconds
            After so many, Cerberus gives up on a request, and answers as in ``database_down``.
        """
        return self._cerberus.database_hanging(seconds)

    @property
    def authentications(self) -> int:
        """How many tokens were made."""
        return self._cerberus.authentications

    @property
    def calls(self) -> list[Call]:
        """The requests to Cerberus, in the order of their answers."""
        return list(self._cerberus.calls)

    def cold_start(self, module: str) -> ModuleType:
        """Import the function's module, and those below it, as a new container does: anew, with no token or connection.

        The environment must be set. A client in a module elsewhere needs a cold start of that one first.
        """
        loaded = _loaded(module)
        self._before.setdefault(module, loaded)
        for name in loaded:
            del sys.modules[name]
        process.forget()
        return importlib.import_module(module)

    def close(self) -> None:
        """End the servers and the connections to them; put back what ``cold_start`` replaced. May be called again."""
        while self._before:
            _restore(*self._before.popitem())
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
    """What is loaded of a module and of those below it."""
    return {name: each for name, each in sys.modules.items() if name == module or name.startswith(f"{module}.")}


def _restore(module: str, before: Mapping[str, ModuleType]) -> None:
    for name in _loaded(module):
        del sys.modules[name]
    sys.modules.update(before)
    parent, _, name = module.rpartition(".")
    if parent in sys.modules:  # which names its modules too
        vars(sys.modules[parent]).pop(name, None)
        if module in before:
            setattr(sys.modules[parent], name, before[module])
