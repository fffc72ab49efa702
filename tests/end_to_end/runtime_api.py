"""Lambda's Runtime API, as little of it as Lambda's own runtime client needs, SnapStart's ``restore/next`` included."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cerberus_auth.testing.http_server import Request, Response, Server
from local_stack.runtime import find_python, lambda_environment, session_members

_INVOCATION = "/2018-06-01/runtime/invocation/"
_RESTORE = "/2018-06-01/runtime/restore/next"
_TIMEOUT = 30.0


class RuntimeApi:
    """A context manager: the API, and the runtime client with a function, started at once. There is no Extensions API.

    :param artifact: the function's folder, with ``app.handler`` in it.
    :param layers: as ``LambdaRuntime`` takes them.
    :param environment: the function's variables.
    """

    initialized: threading.Event
    """The function is ready for its snapshot (with SnapStart), or for an invocation."""

    def __init__(self, artifact: Path, layers: Sequence[Path], environment: Mapping[str, str]) -> None:
        self.initialized = threading.Event()
        self._restored = threading.Event()
        self._events: queue.Queue[Any] = queue.Queue()
        self._answers: queue.Queue[Any] = queue.Queue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._server = Server(self._respond)
        python = find_python()
        variables = lambda_environment(artifact, "app.handler", layers, python, 30) | dict(environment)
        self._process = subprocess.Popen(
            [python, "-m", "awslambdaric", "app.handler"],
            cwd=artifact,
            env={**variables, "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.port}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def restore(self) -> None:
        """Let ``restore/next`` return."""
        self._restored.set()

    def invoke(self, event: object) -> Any:
        """Have one of the processes that ask for it handle an event.

        :raises AssertionError: no answer came, or an error.
        """
        self._events.put(event)
        try:
            return self._answers.get(timeout=_TIMEOUT)
        except queue.Empty:
            raise AssertionError(f"no answer; the function's log:\n{self.close()}") from None

    def invoke_at_once(self, events: Sequence[object]) -> list[Any]:
        """Once as many processes ask for an event, have each of them handle one. In the order of the answers.

        :raises AssertionError: an answer did not come.
        """
        deadline = time.monotonic() + _TIMEOUT
        while self._waiting < len(events):
            assert time.monotonic() < deadline, f"{self._waiting} processes ask; the function's log:\n{self.close()}"
            time.sleep(0.02)
        for event in events:
            self._events.put(event)
        return [self._answers.get(timeout=_TIMEOUT) for _ in events]

    def close(self) -> str:
        """End the function, and give all that it has logged."""
        for pid in session_members(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        log, _ = self._process.communicate()
        self._server.close()
        return log

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self.close()

    def _respond(self, request: Request) -> Response:
        if request.path == _RESTORE:
            self.initialized.set()
            self._wait(self._restored.is_set)
            return Response(200)
        if request.path == f"{_INVOCATION}next":
            self.initialized.set()
            return self._next()
        if request.path.startswith(_INVOCATION) or request.path.endswith("/error"):
            self._answers.put(json.loads(request.body))
            return Response(202)
        return Response(404)

    def _next(self) -> Response:
        with self._lock:
            self._waiting += 1
        while True:
            with contextlib.suppress(queue.Empty):
                event = self._events.get_nowait()
                break
            self._server.pause(0.02)
        with self._lock:
            self._waiting -= 1
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": str(uuid.uuid4()),
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + _TIMEOUT) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-west-2:111111111111:function:function",
        }
        return Response(200, json.dumps(event).encode(), headers)

    def _wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._server.pause(0.02)
