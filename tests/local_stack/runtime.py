"""A Lambda container without Docker, for the artifacts of ``sam build``.

AWS's Runtime Interface Emulator starts AWS's Runtime Interface Client, which loads the handler.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
LAMBDA_HOME = "/home/sbx_user1051"  # the home of Lambda's user: boto3 must not find the developer's ~/.aws

_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
_PATH = "/2015-03-31/functions/function/invocations"
_EMULATOR_LINE = re.compile(r"\d+ \w+ \d{4} [\d:,]+ \[\w+\] \(rapid\) ")
_INIT_REPORT = re.compile(r"INIT REPORT\(durationMs: ([\d.]+)")
_START_SECONDS = 15.0
_END_SECONDS = 5.0
_TAIL_LINES = 60  # log lines in an error: more than a traceback of the runtime client


class MissingPrerequisiteError(Exception):
    """A prerequisite is missing. The message is one line and names the command that creates it."""


class ContainerError(Exception):
    """The emulator failed. The message ends with the last lines of its log."""


@dataclass(frozen=True)
class Invocation:
    """The result of one invocation."""

    payload: object
    """The function's response, decoded from JSON if possible."""
    milliseconds: float
    """The duration for the caller. The first invocation of a container includes the initialization."""
    log: str
    """The log of the function and the platform (START, END, REPORT) for this invocation."""
    error: str | None
    """``<errorType>: <errorMessage>`` if the function failed, timed out or exited."""


def find_emulator(root: Path = ROOT) -> Path:
    """Return the emulator's binary for this machine, from the SAM CLI's environment.

    Raises
    ------
    MissingPrerequisiteError
        The platform is not supported, or the SAM CLI is not installed.
    """
    system, machine = platform.system(), platform.machine()
    architecture = _ARCHITECTURES.get(machine.lower())
    if system != "Linux" or architecture is None:
        raise MissingPrerequisiteError(
            f"AWS's runtime emulator requires Linux on x86_64 or arm64, but this is {system} on {machine}. "
            "Run the command in a Linux container or virtual machine"
        )
    pattern = f".venv-sam/lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-{architecture}"
    found = sorted(root.glob(pattern))
    if not found:
        raise MissingPrerequisiteError("AWS's runtime emulator is missing from .venv-sam. Run `make setup`")
    return found[0]


def find_python(root: Path = ROOT) -> Path:
    """Return the interpreter of the environment with the packages of Lambda's runtime: awslambdaric and boto3.

    Raises
    ------
    MissingPrerequisiteError
        The environment is missing.
    """
    # `make test-all` creates a pair of environments for each Python: .venv-3.13 and .venv-3.13-runtime.
    own = Path(sys.prefix)
    name = f"{own.name if own.parent == root else '.venv'}-runtime"
    python = root / name / "bin" / "python"
    if not any(root.glob(f"{name}/lib/python3*/site-packages/awslambdaric")) or not python.exists():
        raise MissingPrerequisiteError(f"AWS's runtime client is missing from {name}. Run `make setup`")
    return python


class LambdaRuntime:
    """One container. Like Lambda's, it handles one invocation at a time and initializes in the first one.

    Parameters
    ----------
    artifact
        The function's folder under ``.aws-sam/build``: the task root and working directory.
    handler
        The handler as in the template, for example ``app.handler``.
    layers
        The ``/opt/python`` folders in the template's order; later layers override earlier ones.
    environment
        The function's variables, including its credentials. It inherits no variable of this process.
    python
        The interpreter with awslambdaric; by default ``find_python()``.
    emulator
        The emulator's binary; by default ``find_emulator()``.
    timeout
        The function's timeout in seconds.

    Raises
    ------
    MissingPrerequisiteError
        See ``find_python`` and ``find_emulator``.
    ContainerError
        The emulator does not start.
    """

    def __init__(
        self,
        artifact: Path,
        handler: str,
        layers: Sequence[Path],
        environment: Mapping[str, str],
        python: Path | None = None,
        *,
        emulator: Path | None = None,
        timeout: int = 30,
    ) -> None:
        python, emulator = python or find_python(), emulator or find_emulator()
        self.environment = lambda_environment(artifact, handler, layers, python, timeout) | dict(environment)
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        # Keeps the ports bound with SO_REUSEADDR, so that no other process gets them. The emulator, which sets the same option,
        # can still listen on them.
        self._reserved = [_reserved_port(), _reserved_port()]
        self.port, api_port = (reserved.getsockname()[1] for reserved in self._reserved)
        self._process = subprocess.Popen(
            [
                *(emulator, "--runtime-interface-emulator-address", f"127.0.0.1:{self.port}"),
                *("--runtime-api-address", f"127.0.0.1:{api_port}"),
                *(python, "-m", "awslambdaric", handler),
            ],
            cwd=artifact,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # In a new session, Ctrl-C does not reach it, and close() finds all its processes.
            start_new_session=True,
        )
        atexit.register(self.close)
        self._reader = threading.Thread(target=self._read, name=f"log-{self._process.pid}", daemon=True)
        self._reader.start()
        try:
            self._await_start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Return the emulator's process ID, which is also the session ID of all processes of the container."""
        return self._process.pid

    @property
    def log(self) -> str:
        """Return the log of the function and the platform. It is complete after ``close()``."""
        with self._news:
            return "".join(line for line in self._lines if not _EMULATOR_LINE.match(line))

    @property
    def init_milliseconds(self) -> float | None:
        """Return the duration of the last initialization; None before the first invocation."""
        with self._news:
            found = [match for line in self._lines if (match := _INIT_REPORT.search(line))]
        return float(found[-1].group(1)) if found else None

    def invoke(self, event: object, timeout: float = 60) -> Invocation:
        """Invoke the function once.

        Parameters
        ----------
        event
            The event.
        timeout
            Maximum seconds to wait.

        Raises
        ------
        ContainerError
            There is no response. Errors of the function are in ``Invocation.error``.
        """
        with self._news:
            before = len(self._lines)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        start = time.perf_counter()
        try:
            connection.request("POST", _PATH, json.dumps(event).encode(), {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, body = response.status, response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise self._failure(f"The function did not respond ({type(error).__name__}: {error})") from error
        finally:
            connection.close()
        milliseconds = (time.perf_counter() - start) * 1000
        # The log can arrive after the response.
        self._await(lambda: any(_is_last(line) for line in self._lines[before:]), 2.0)
        with self._news:
            log = "".join(line for line in self._lines[before:] if not _EMULATOR_LINE.match(line))
        payload = _decoded(body)
        return Invocation(payload, milliseconds, log, _error(status, payload))

    def close(self) -> None:
        """Stop the emulator, the runtime client and all their processes. Repeated calls have no effect."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        # The runtime client has its own process group and survives the emulator.
        deadline = time.monotonic() + _END_SECONDS
        while (members := session_members(self.pid)) and time.monotonic() < deadline:
            for member in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)
            time.sleep(0.01)
        self._reader.join(_END_SECONDS)
        for reserved in self._reserved:
            reserved.close()
        atexit.unregister(self.close)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                with self._news:
                    self._lines.append(line.decode(errors="replace"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _await(self, condition: Callable[[], bool], timeout: float) -> None:
        with self._news:
            self._news.wait_for(lambda: self._ended or condition(), timeout)

    def _await_start(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._await(lambda: False, 1.0)
                raise self._failure(f"AWS's runtime emulator exited with code {self._process.returncode}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            time.sleep(0.01)
        raise self._failure(f"AWS's runtime emulator was not ready after {_START_SECONDS:.0f} s")

    def _failure(self, what: str) -> ContainerError:
        with self._news:
            tail = "".join(self._lines[-_TAIL_LINES:])
        return ContainerError(f"{what}\n{tail}".rstrip())


def session_members(session: int) -> list[int]:
    """Return the running processes of a session."""
    return [pid for pid, _, of in processes() if of == session]


def descendants(pid: int) -> list[int]:
    """Return the running descendants of a process."""
    parents = {child: parent for child, parent, _ in processes()}
    found = [pid]
    for each in found:
        found += (child for child, parent in parents.items() if parent == each)
    return found[1:]


def processes() -> Iterator[tuple[int, int, int]]:
    """Yield the ID, parent and session of each running process, from Linux's /proc."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                # "pid (name) state ppid pgrp session ...": a name can contain spaces and brackets.
                fields = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    yield int(entry), int(fields[1]), int(fields[3])


def _reserved_port() -> socket.socket:
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def lambda_environment(
    artifact: Path, handler: str, layers: Sequence[Path], python: Path, timeout: int
) -> dict[str, str]:
    """Return the variables that Lambda sets for a Python function, without region and credentials."""
    library = next(python.parent.parent.glob("lib/python3*/site-packages"))
    return {
        "_HANDLER": handler,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{library.parent.name}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_FUNCTION_NAME": artifact.name,
        # For the emulator only: the timeout of an invocation.
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout),
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_FORMAT": "Text",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{artifact.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0123456789abcdef0123456789abcdef",
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "HOME": LAMBDA_HOME,
        "LAMBDA_RUNTIME_DIR": str(library),
        "LAMBDA_TASK_ROOT": str(artifact),
        "LANG": "en_US.UTF-8",
        "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin:/opt/bin",
        # Lambda mounts /var/task and /opt read-only, so it never writes byte-code there.
        "PYTHONDONTWRITEBYTECODE": "1",
        # The function, then the layers from last to first. The runtime's own packages (boto3) follow.
        "PYTHONPATH": os.pathsep.join(map(str, (artifact, *reversed(layers)))),
        "TZ": ":UTC",
    }


def _is_last(line: str) -> bool:
    return line.startswith("REPORT RequestId:") or "Invoke DONE failed" in line


def _decoded(body: str) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return body


def _error(status: int, payload: object) -> str | None:
    # The emulator returns 200 for errors of the function too, and plain text for a timeout.
    if isinstance(payload, dict) and {"errorType", "errorMessage"} <= payload.keys():
        return f"{payload['errorType']}: {payload['errorMessage']}"
    if status != 200 or (isinstance(payload, str) and payload.startswith("Task timed out after ")):
        return f"{status}: {payload}"
    return None
