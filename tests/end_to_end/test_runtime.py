"""The container itself, with handlers made on the spot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from local_stack.application import Application
from local_stack.runtime import ContainerError, LambdaRuntime, MissingPrerequisiteError, find_emulator, find_python
from local_stack.runtime import session_members as members

pytestmark = pytest.mark.usefixtures("application")  # for its message where nothing is built

Handler = Callable[[str], Path]


@pytest.fixture
def handler(tmp_path: Path) -> Handler:
    def write(source: str) -> Path:
        folder = tmp_path / "Function"
        folder.mkdir()
        (folder / "app.py").write_text(textwrap.dedent(source))
        return folder

    return write


def test_environment_is_lambdas_and_nothing_else(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "of-the-developer")
    monkeypatch.setenv("CERBERUS_TOKEN", "of-the-developer")
    artifact = handler(
        """
        import os, sys
        from pathlib import Path
        def handler(event, context):
            return {"environment": dict(os.environ), "path": sys.path, "cwd": os.getcwd(), "home": str(Path.home())}
        """
    )
    credentials = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "session"}
    layers = [artifact.parent / "first", artifact.parent / "second"]
    with LambdaRuntime(artifact, "app.handler", layers, {"AWS_REGION": "us-west-2", **credentials}) as container:
        answer = container.invoke({}).payload
    assert isinstance(answer, dict)
    environment = answer["environment"]
    assert "of-the-developer" not in environment.values()
    assert environment.items() >= credentials.items()
    assert environment["AWS_REGION"] == "us-west-2"
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == "Function"
    assert environment["AWS_EXECUTION_ENV"].startswith("AWS_Lambda_python3.")
    assert environment["LAMBDA_TASK_ROOT"] == answer["cwd"] == str(artifact)
    assert not Path(answer["home"]).exists()
    # Of two layers the later one wins, as the files of the later one do in /opt.
    order = [answer["path"].index(str(folder)) for folder in (artifact, *reversed(layers))]
    runtime = next(number for number, entry in enumerate(answer["path"]) if entry.endswith("site-packages"))
    assert [*order, runtime] == sorted([*order, runtime])
    assert not list(artifact.rglob("*.pyc"))


def test_an_invocation_tells_its_answer_its_log_and_its_error(handler: Handler) -> None:
    artifact = handler(
        """
        import os, time
        print("initialized")
        def handler(event, context):
            print("invoked with", event)
            if event == "raise":
                raise ValueError("on purpose")
            if event == "exit":
                os._exit(3)
            if event == "sleep":
                time.sleep(60)
            return [event, os.getpid()]
        """
    )
    with LambdaRuntime(artifact, "app.handler", [], {}, timeout=1) as container:
        assert container.init_milliseconds is None
        cold, warm, *failed = (container.invoke(event) for event in (1, 2, "raise", "exit", "sleep"))
        again = container.invoke(3)
        assert container.init_milliseconds is not None
    assert isinstance(cold.payload, list)
    assert isinstance(again.payload, list)
    process = cold.payload[1]
    assert (cold.payload, warm.payload) == ([1, process], [2, process])
    assert cold.milliseconds > 0
    assert "initialized" in cold.log
    assert "initialized" not in warm.log
    assert "invoked with 2" in warm.log
    assert "invoked with 1" not in warm.log
    assert [invocation.error is None for invocation in (cold, warm, again)] == [True] * 3
    raised, exited, slept = (invocation.error or "" for invocation in failed)
    assert raised == "ValueError: on purpose"
    assert "exit status 3" in exited
    assert "timed out after 1.00 seconds" in slept
    assert again.payload[1] != process
    assert "invoked with 3" in container.log


def test_a_handler_that_cannot_be_imported_is_an_error(handler: Handler) -> None:
    with LambdaRuntime(handler("import does_not_exist"), "app.handler", [], {}) as container:
        assert "does_not_exist" in str(container.invoke({}).error)


def test_close_leaves_no_process(handler: Handler) -> None:
    artifact = handler(
        """
        import subprocess
        def handler(event, context):
            return subprocess.Popen(["sleep", "600"]).pid
        """
    )
    container = LambdaRuntime(artifact, "app.handler", [], {})
    stray = container.invoke({}).payload
    running = members(container.pid)
    assert {container.pid, stray} < set(running)
    container.close()
    container.close()
    assert members(container.pid) == []


def test_a_program_that_does_not_close_leaves_no_process(handler: Handler) -> None:
    artifact = handler("def handler(event, context): return 1")
    program = textwrap.dedent(
        f"""
        from pathlib import Path
        from local_stack.runtime import LambdaRuntime
        container = LambdaRuntime(Path({str(artifact)!r}), "app.handler", [], {{}})
        container.invoke({{}})
        print(container.pid)
        raise SystemExit("left without close()")
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.stderr == "left without close()\n"
    assert members(int(ended.stdout)) == []


def test_a_container_that_was_ended_says_so_with_its_log(handler: Handler) -> None:
    with LambdaRuntime(handler("def handler(event, context): return 1"), "app.handler", [], {}) as container:
        container.invoke({})
        os.kill(container.pid, 9)
        with pytest.raises(ContainerError, match=r"(?s)did not respond.*REPORT RequestId"):
            container.invoke({})


def test_an_emulator_that_does_not_start_is_an_error(handler: Handler, tmp_path: Path) -> None:
    broken = tmp_path / "emulator"
    broken.write_text("#!/bin/sh\necho 'cannot run here' >&2\nexit 5\n")
    broken.chmod(0o755)
    with pytest.raises(ContainerError, match=r"(?s)with code 5.*cannot run here"):
        LambdaRuntime(handler("def handler(event, context): return 1"), "app.handler", [], {}, emulator=broken)


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    for find in (find_emulator, find_python):
        with pytest.raises(MissingPrerequisiteError, match="make setup"):
            find(tmp_path)
    with pytest.raises(MissingPrerequisiteError, match="make build"):
        Application(root=tmp_path)


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "riscv64")])
def test_a_machine_without_emulator_is_named(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(MissingPrerequisiteError, match=f"this is {system} on {machine}"):
        find_emulator()


def test_json_goes_in_and_out_as_it_is(handler: Handler) -> None:
    artifact = handler("def handler(event, context): return event")
    event = {"text": "äöü €", "number": 1.5, "nothing": None, "list": [1, {"two": []}]}
    with LambdaRuntime(artifact, "app.handler", [], {}) as container:
        assert container.invoke(event).payload == json.loads(json.dumps(event))
