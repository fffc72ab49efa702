"""A fleet of containers, which are processes, released all at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import cerberus_auth
from local_stack.stack import ROLE, TABLE, LocalStack, decrypt_statement, share_statement

CERBERUS_SECONDS = 0.3
MEMBER = Path(__file__).with_name("fleet_member.py")
LAYER = Path(cerberus_auth.__file__).parents[1]


@contextlib.contextmanager
def sharing_stack() -> Iterator[tuple[LocalStack, dict[str, str]]]:
    """A stack with a table, and the variables of a function that shares by it. Over plain HTTP, since hundreds of TLS
    handshakes would be what is measured; Cerberus takes 0.3 s for each answer."""
    with LocalStack(tls=False) as stack:
        stack.create_table()
        policy = {"Version": "2012-10-17", "Statement": [decrypt_statement(), share_statement(ROLE)]}
        stack.aws.put_role_policy(ROLE, policy)
        stack.cerberus.key_arn(ROLE, stack.region)  # so that every answer takes the same time
        stack.cerberus.answer_after_seconds = CERBERUS_SECONDS
        yield stack, stack.environment(ROLE, AWS_LAMBDA_FUNCTION_NAME="orders", CERBERUS_SHARED_CACHE_TABLE=TABLE)


class Result(NamedTuple):
    """What became of one container's wish for a token."""

    number: int
    phase: int
    process: int
    seconds: float
    token: str | None = None
    error: str | None = None
    revision: str | None = None


class Fleet:
    """A context manager: ``count`` processes that have imported the package and made their auth, and wait.

    :param environment: of each of them, and all of it.
    :param phases: how often they can be released.
    """

    def __init__(self, count: int, environment: Mapping[str, str], phases: int = 1) -> None:
        self.count = count
        pipes = [os.pipe() for _ in range(phases)]
        self._gates = [writer for _, writer in pipes]
        readers = [reader for reader, _ in pipes]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the fleet
        self._process = subprocess.Popen(
            [sys.executable, str(MEMBER), str(count), *map(str, readers)],
            env={"PYTHONPATH": str(LAYER), "PATH": os.defpath, **environment},
            pass_fds=readers,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        for reader in readers:
            os.close(reader)
        self._lines = self._process.stdout
        assert self._next() == {"ready": count}

    def release(self) -> list[Result]:
        """Open the next gate, and wait for all."""
        self.start()
        return self.results()

    def results(self) -> list[Result]:
        """Wait for all."""
        return [self.result() for _ in range(self.count)]

    def result(self) -> Result:
        """Wait for the next one."""
        return Result(**self._next())

    def start(self) -> None:
        """Open the next gate."""
        os.close(self._gates.pop(0))

    def kill(self) -> None:
        """End all of it at once, whatever it is doing (SIGKILL)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def log(self) -> str:
        """What has been logged so far: warnings, and worse."""
        self._log.seek(0)
        return self._log.read()

    def _next(self) -> dict[str, Any]:
        assert self._lines is not None
        line = self._lines.readline()
        assert line, "the fleet has ended"
        fields: dict[str, Any] = json.loads(line)
        return fields

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._log.close()
        for gate in self._gates:
            os.close(gate)
        if self._lines is not None:
            self._lines.close()
