"""A Lambda container without Docker: AWS's Runtime Interface Emulator starts AWS's Runtime Interface Client, and that
loads the handler from the artifacts of ``sam build``."""

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
LAMBDA_HOME = "/home/sbx_user1051"  # of Lambda's own user: without it boto3 would find the developer's ~/.aws

_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
_PATH = "/2015-03-31/functions/function/invocations"
_EMULATOR_LINE = re.compile(r"\d+ \w+ \d{4} [\d:,]+ \[\w+\] \(rapid\) ")
_INIT_REPORT = re.compile(r"INIT REPORT\(durationMs: ([\d.]+)")
_START_SECONDS = 15.0
_END_SECONDS = 5.0
_TAIL_LINES = 60  # of the log, in an error: more than a traceback of the runtime client has


class MissingPrerequisiteError(Exception):
    """Something is not there that a command of this project makes; the text is one line and names that command."""


class ContainerError(Exception):
    """The emulator did not start, ended by itself or did not answer; the text ends with the last lines of its log."""


@dataclass(frozen=True)
class Invocation:
    """What one invocation gave."""

    payload: object
    """The function's answer, decoded from JSON; the text itself where it is not JSON."""
    milliseconds: float
    """As the caller saw it. In the first invocation of a container the initialisation is included."""
    log: str
    """What function and platform (START, END, REPORT) wrote during this invocation."""
    error: str | None
    """``<errorType>: <errorMessage>`` where the function failed, timed out or ended its process."""


def find_emulator(root: Path = ROOT) -> Path:
    """The emulator's binary for this machine, out of the SAM CLI's own environment.

    :raises MissingPrerequisiteError: no such machine, or not set up.
    """
    system, machine = platform.system(), platform.machine()
    architecture = _ARCHITECTURES.get(machine.lower())
    if system != "Linux" or architecture is None:
        raise MissingPrerequisiteError(
            f"AWS's runtime emulator exists for Linux on x86_64 and arm64 only, and this is {system} on {machine}: "
            "run the same command in a Linux container or virtual machine"
        )
    pattern = f".venv-sam/lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-{architecture}"
    found = sorted(root.glob(pattern))
    if not found:
        raise MissingPrerequisiteError("AWS's runtime emulator (in .venv-sam) is not set up: run `make setup`")
    return found[0]


def find_python(root: Path = ROOT) -> Path:
    """The interpreter of the environment that holds what Lambda's own runtime holds: awslambdaric and boto3.

    :raises MissingPrerequisiteError: no such machine, or not set up.
    """
    # `make test-all` has a pair of environments for each Python: .venv-3.13 beside .venv-3.13-runtime.
    own = Path(sys.prefix)
    name = f"{own.name if own.parent == root else '.venv'}-runtime"
    python = root / name / "bin" / "python"
    if not any(root.glob(f"{name}/lib/python3*/site-packages/awslambdaric")) or not python.exists():
        raise MissingPrerequisiteError(f"AWS's runtime client (in {name}) is not set up: run `make setup`")
    return python


class LambdaRuntime:
    """One container. It takes one invocation at a time, as Lambda's do, and initialises at the first.

    :param artifact: the function's folder under ``.aws-sam/build``; it is the task root and the working directory.
    :param handler: as in the template, ``app.handler``.
    :param layers: what Lambda would mount as ``/opt/python``, in the template's order; of two files with one name, the
        later layer's counts.
    :param environment: the function's variables, its credentials among them. Nothing of this process's own is added.
    :param python: the interpreter with awslambdaric; ``find_python()`` by default.
    :param emulator: the emulator's binary; ``find_emulator()`` by default.
    :param timeout: seconds an invocation may take before Lambda ends the container.
    :raises MissingPrerequisiteError: see ``find_python`` and ``find_emulator``.
    :raises ContainerError: the emulator does not start.
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
        # Bound and not listening, with SO_REUSEADDR: nobody else is given these ports, and the emulator, which sets the
        # same option, can still listen on them. To find a free port and let it go would leave a gap for others.
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
            # A session of its own: a Ctrl-C in the terminal is for us alone, and close() finds all that it started.
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
        """The emulator's process, and the number of the session in which all of the container's processes run."""
        return self._process.pid

    @property
    def log(self) -> str:
        """All that the function and the platform wrote so far; complete after close()."""
        with self._news:
            return "".join(line for line in self._lines if not _EMULATOR_LINE.match(line))

    @property
    def init_milliseconds(self) -> float | None:
        """How long the last initialisation took, by the emulator's account; None before the first invocation."""
        with self._news:
            found = [match for line in self._lines if (match := _INIT_REPORT.search(line))]
        return float(found[-1].group(1)) if found else None

    def invoke(self, event: object, timeout: float = 60) -> Invocation:
        """Invoke the function once and wait for its answer, ``timeout`` seconds at most.

        :raises ContainerError: no answer came. What the function itself raised is in ``Invocation.error``.
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
            raise self._failure(f"the function did not answer ({type(error).__name__}: {error})") from error
        finally:
            connection.close()
        milliseconds = (time.perf_counter() - start) * 1000
        # The log arrives by another way than the answer.
        self._await(lambda: any(_is_last(line) for line in self._lines[before:]), 2.0)
        with self._news:
            log = "".join(line for line in self._lines[before:] if not _EMULATOR_LINE.match(line))
        payload = _decoded(body)
        return Invocation(payload, milliseconds, log, _error(status, payload))

    def close(self) -> None:
        """End the emulator, the runtime client, and whatever the function started. Safe to call again."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        # The runtime client has a process group of its own, and is nobody's child once the emulator is gone.
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
                raise self._failure(f"AWS's runtime emulator ended at once with exit code {self._process.returncode}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            time.sleep(0.01)
        raise self._failure(f"AWS's runtime emulator was not ready after {_START_SECONDS:.0f} s")

    def _failure(self, what: str) -> ContainerError:
        with self._news:
            tail = "".join(self._lines[-_TAIL_LINES:])
        return ContainerError(f"{what}\n{tail}".rstrip())


def session_members(session: int) -> list[int]:
    """The living processes of a session."""
    return [pid for pid, _, of in processes() if of == session]


def descendants(pid: int) -> list[int]:
    """The living children of a process, their children, and so on."""
    parents = {child: parent for child, parent, _ in processes()}
    found = [pid]
    for each in found:
        found += (child for child, parent in parents.items() if parent == each)
    return found[1:]


def processes() -> Iterator[tuple[int, int, int]]:
    """Number, parent and session of each living process, from Linux's /proc."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                # "pid (name) state ppid pgrp session ...", where a name may hold spaces and brackets.
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
    """What Lambda itself puts into a Python function's environment, region and credentials aside."""
    library = next(python.parent.parent.glob("lib/python3*/site-packages"))
    return {
        "_HANDLER": handler,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{library.parent.name}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_FUNCTION_NAME": artifact.name,
        # Not one of Lambda's: the emulator takes the limit of an invocation from here.
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
        # /var/task and /opt are read-only on Lambda, so that no byte-code is ever kept there.
        "PYTHONDONTWRITEBYTECODE": "1",
        # The task, then the layers, the last one first. The runtime's own packages (boto3) come behind all of them.
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
    # The emulator answers 200 also where the function raised, and plain text where it ran out of time.
    if isinstance(payload, dict) and {"errorType", "errorMessage"} <= payload.keys():
        return f"{payload['errorType']}: {payload['errorMessage']}"
    if status != 200 or (isinstance(payload, str) and payload.startswith("Task timed out after ")):
        return f"{status}: {payload}"
    return None
