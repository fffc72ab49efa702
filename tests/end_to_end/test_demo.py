"""The two programs of the local stack, as a person runs them."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from local_stack.application import Application
from local_stack.demo import Result, Usage, table
from local_stack.runtime import ROOT, descendants, processes
from local_stack.stack import SECRET

SECONDS = 120
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT / "layer"), str(ROOT / "tests")]),
}

Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run() -> Iterator[Run]:
    programs: list[subprocess.Popen[str]] = []

    def run(module: str, *arguments: str, environment: dict[str, str] = ENVIRONMENT) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        programs.append(program)
        return program

    yield run
    for program in programs:
        program.terminate()
        try:
            program.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            for pid in [*descendants(program.pid), program.pid]:
                os.kill(pid, signal.SIGKILL)
            program.communicate()


def read_until(stream: IO[str] | None, text: str) -> str:
    """Read lines, up to and with the one that holds the text."""
    assert stream is not None
    lines = []
    for line in stream:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"ended without {text!r}:\n{''.join(lines)}")


def test_demo_shows_one_authentication_and_one_decrypt_for_each_function(run: Run, application: Application) -> None:
    demo = run("local_stack.demo")
    output, progress = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 0, progress
    assert "Traceback" not in progress
    for name in application.functions:
        (row,) = [line.split() for line in output.splitlines() if line.startswith(name)]
        _, cold, warm, authentications, decrypts, identity_calls, reads, *source = row
        assert float(cold) > 0
        assert float(warm) > 0
        assert (authentications, decrypts, identity_calls) == ("1", "1", "0")
        assert int(reads) > 0
        assert " ".join(source) == "KMS decrypt, then cache hits"
        assert name in progress
    assert SECRET["password"] not in output + progress


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_demo_leaves_nothing_behind(run: Run, application: Application, number: signal.Signals) -> None:
    demo = run("local_stack.demo")
    read_until(demo.stderr, next(iter(application.functions)))
    deadline = time.monotonic() + SECONDS
    while not (started := descendants(demo.pid)) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert started
    # As the terminal does: to every process of the group.
    os.killpg(demo.pid, number)
    output, progress = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 130
    assert "Interrupted" in progress
    assert "Traceback" not in output + progress
    assert not {pid for pid, *_ in processes()}.intersection(started)


def test_demo_interrupted_at_its_very_start(run: Run) -> None:
    demo = run("local_stack.demo")
    read_until(demo.stderr, "Starting")
    os.killpg(demo.pid, signal.SIGINT)
    output, progress = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 130
    assert "Traceback" not in output + progress


@pytest.mark.parametrize("module", ["local_stack", "local_stack.demo"])
def test_a_port_in_use_is_said_clearly(run: Run, module: str, application: Application) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        program = run(module, "--port", port)
        output, errors = program.communicate(timeout=SECONDS)
    assert program.returncode == 2
    assert f"port {port}" in errors
    assert "Traceback" not in output + errors


def test_demo_without_a_build_names_the_command(run: Run, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "local_stack", tmp_path / "tests" / "local_stack")
    demo = run("local_stack.demo", environment={**ENVIRONMENT, "PYTHONPATH": f"{ROOT / 'layer'}:{tmp_path / 'tests'}"})
    output, errors = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 2
    assert "make build" in errors.splitlines()[-1]
    assert "Traceback" not in output + errors


def test_the_commands_that_local_stack_prints_read_a_secret(run: Run) -> None:
    stack = run("local_stack")
    printed = read_until(stack.stdout, "CerberusClient")
    (bundle,) = [shlex.split(line)[1] for line in printed.splitlines() if line.startswith("export AWS_CA_BUNDLE=")]
    read = subprocess.run(
        ["bash", "-e"],
        input=printed,
        env={"PATH": ENVIRONMENT["PATH"]},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (read.stderr, read.stdout) == ("", f"{SECRET}\n")
    os.killpg(stack.pid, signal.SIGINT)
    _, errors = stack.communicate(timeout=SECONDS)
    assert stack.returncode == 0
    assert "Traceback" not in errors
    assert not Path(bundle.partition("=")[2]).exists()


def test_demo_fails_where_a_function_does(run: Run, application: Application, tmp_path: Path) -> None:
    (tmp_path / "broken_demo.py").write_text(
        "from cerberus_auth.testing import cerberus\nfrom local_stack import demo\n"
        "cerberus.DEFAULT_LEASE_SECONDS = -1\nraise SystemExit(demo.main())\n"
    )
    path = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    demo = run("broken_demo", environment={**ENVIRONMENT, "PYTHONPATH": path})
    output, errors = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 1
    assert "source of the" in output
    for name in application.functions:
        assert f"{name}: " in errors
    assert "InvalidResponse" in errors


def test_results_that_are_not_as_they_must_be_are_named() -> None:
    one = Usage(authentications=1, decrypts=1, identity_calls=0, reads=1, methods=("KMS decrypt",))
    two = Usage(authentications=2, decrypts=1, identity_calls=1, reads=6, methods=("KMS decrypt", "STS identity"))
    none = Usage(authentications=0, decrypts=0, identity_calls=0, reads=0, methods=())
    good = Result("Good", 400.4, 2.25, one, one)
    again = Result("Again", 400.4, 2.25, one, two)
    failed = Result("Failed", 400.4, 2.25, none, none, errors=("ValueError: on purpose",))
    assert list(good.problems) == []
    assert list(again.problems) == ["Again: 2 authentications, expected 1"]
    assert "Failed: ValueError: on purpose" in list(failed.problems)
    *_, first, second, third = table([good, again, failed]).splitlines()
    assert first.split(maxsplit=7) == ["Good", "400", "2.2", "1", "1", "0", "1", "KMS decrypt, then cache hits"]
    assert second.split(maxsplit=7) == ["Again", "400", "2.2", "2", "1", "1", "6", "KMS decrypt, then 1 more"]
    assert third.split(maxsplit=7) == ["Failed", "400", "2.2", "0", "0", "0", "0", "no token"]
    assert first.index("KMS") == second.index("KMS") == third.index("no token")
