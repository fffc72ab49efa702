"""The command line as an operator types it: each test starts the command, against the local stack."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from cerberus_auth import CerberusClient, __version__, compat
from cerberus_auth.testing.http_server import Fault
from integration.fleet import LAYER
from integration.function import Function
from local_stack.stack import ROLE, SECRET, SECRET_PATH, TABLE, decrypt_statement

READ = f"/v1/secret/{SECRET_PATH}"
Done = subprocess.CompletedProcess[str]


def run(function: Function, *arguments: str) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", "cerberus_auth", *arguments],
        env={**function.environment, "PYTHONPATH": str(LAYER), "AWS_EC2_METADATA_DISABLED": "true"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert not function.secrets_in(done.stderr)
    return done


def terminal(function: Function, *arguments: str) -> tuple[int, str]:
    """Run a command whose output goes to a terminal. Return its exit code and all that it printed."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cerberus_auth", *arguments],
        env={**function.environment, "PYTHONPATH": str(LAYER)},
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    printed = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # Linux' end of a terminal
            break
        if not chunk:
            break
        printed += chunk
    os.close(ours)
    return process.wait(60), printed.decode()


def test_the_console_script_is_the_same_command(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["cerberus-auth"].partition(":")
    with pytest.raises(SystemExit) as ended:
        getattr(import_module(module), name)(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"cerberus-auth {__version__}\n")


class TestUsage:
    @pytest.mark.parametrize("command", ["", "doctor", "read", "list", "token", "forget"])
    def test_help(self, function: Function, command: str) -> None:
        done = run(function, *command.split(), "--help")
        assert done.returncode == 0
        assert done.stdout.startswith(f"usage: cerberus-auth {command}".rstrip())
        codes = done.stdout.partition("exit codes:\n")[2].partition("\n\n")[0].splitlines()
        assert [row.split()[0] for row in codes] == ["0", "1", "2", "130"]
        assert ("--json" in done.stdout) or not command
        assert max(map(len, done.stdout.splitlines())) <= 100
        assert not function.stack.cerberus.calls

    def test_version(self, function: Function) -> None:
        assert run(function, "--version").stdout == f"cerberus-auth {__version__}\n"

    @pytest.mark.parametrize("arguments", ["", "write app/orders/db", "read", "read a b", "forget", "token --loud"])
    def test_wrong_usage(self, function: Function, arguments: str) -> None:
        done = run(function, *arguments.split())
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("usage: cerberus-auth")
        assert not function.stack.cerberus.calls


class TestRead:
    def test_a_line_for_each_key(self, function: Function) -> None:
        function.stack.cerberus.put_secret(SECRET_PATH, {**SECRET, "key": "two\nlines"})
        done = run(function, "read", SECRET_PATH)
        assert done.returncode == 0
        assert done.stdout.splitlines() == [*(f"{key}={value}" for key, value in SECRET.items()), 'key="two\\nlines"']

    def test_json(self, function: Function) -> None:
        assert json.loads(run(function, "read", SECRET_PATH, "--json").stdout) == SECRET

    @pytest.mark.parametrize("form", [[], ["--json"]])
    def test_a_terminal_needs_show(self, function: Function, form: list[str]) -> None:
        code, printed = terminal(function, "read", SECRET_PATH, *form)
        assert code == 2
        assert "cerberus-auth read: error: " in printed
        assert "Add --show" in printed
        assert not function.stack.cerberus.calls
        code, printed = terminal(function, "read", SECRET_PATH, "--show", *form)
        assert code == 0
        assert SECRET["password"] in printed

    @pytest.mark.parametrize(
        ("path", "error"),
        [("app/orders/nothing", "SecretNotFound"), ("app/web/db", "AccessDenied"), ("db", "ConfigurationError")],
    )
    def test_failures(self, function: Function, path: str, error: str) -> None:
        function.stack.cerberus.put_secret("app/web/db", SECRET)  # of another box
        done = run(function, "read", path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"{error}: ")
        done = run(function, "read", path, "--json")
        assert (done.returncode, done.stdout) == (1, "")
        told = json.loads(done.stderr)
        assert told["error"] == error
        assert path in told["message"]

    def test_settings_that_are_wrong(self, function: Function) -> None:
        function.configure(CERBERUS_URL=None)
        done = run(function, "read", SECRET_PATH)
        assert done.returncode == 1
        assert done.stderr.startswith("ConfigurationError: CERBERUS_URL")


class TestList:
    def test_the_names_below_a_path(self, function: Function) -> None:
        function.stack.cerberus.put_secret("app/orders/queue/primary", {"url": "amqps://…"})
        assert run(function, "list", "app/orders").stdout.splitlines() == ["db", "queue/"]
        assert json.loads(run(function, "list", "app/orders", "--json").stdout) == ["db", "queue/"]

    def test_without_a_path_the_boxes_of_this_principal(self, function: Function) -> None:
        function.stack.cerberus.grant(ROLE, "shared/certificates")
        function.stack.cerberus.grant("arn:aws:iam::111111111111:role/web", "app/web")
        done = run(function, "list")
        assert (done.returncode, done.stdout.splitlines()) == (0, ["app/orders", "shared/certificates"])
        assert json.loads(run(function, "list", "--json").stdout) == ["app/orders", "shared/certificates"]

    @pytest.mark.parametrize("body", [b"[1]", b'{"path": "app"}', b'[{"path": 1}]', b'[{"path": "\\u001b[2J"}]', b"["])
    def test_boxes_that_are_none(self, function: Function, body: bytes) -> None:
        function.stack.cerberus.server.faults.add(
            Fault.status(200, body, {"Content-Type": "application/json"}),
            lambda request: request.path == "/v2/safe-deposit-box",
        )
        done = run(function, "list")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(("InvalidResponse: ", "CerberusUnavailable: "))


class TestToken:
    def test_nothing_is_printed_without_show(self, function: Function) -> None:
        done = run(function, "token")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert function.stack.cerberus.authentications == 1

    def test_shown(self, function: Function) -> None:
        token = run(function, "token", "--show").stdout.strip()
        function.configure(CERBERUS_TOKEN=token)
        assert json.loads(run(function, "read", SECRET_PATH, "--json").stdout) == SECRET
        assert json.loads(run(function, "token", "--show", "--json").stdout) == {"token": token}

    def test_refused(self, function: Function) -> None:
        function.stack.cerberus.deny(ROLE)
        done = run(function, "token", "--show")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("PrincipalRejected: ")


class TestForget:
    @pytest.fixture
    def shared(self, function: Function) -> None:
        function.share()

    def containers(self, function: Function) -> Iterator[CerberusClient]:
        """One new container after the other, as far as this process can tell: by settings that differ."""
        for margin in range(60, 90):
            function.configure(CERBERUS_EXPIRY_MARGIN=str(margin))
            yield CerberusClient(function.auth())

    def test_each_container_reads_anew(self, function: Function, shared: None) -> None:
        container = self.containers(function)
        for _ in range(3):
            assert next(container).read(SECRET_PATH) == SECRET
        assert function.stack.cerberus.count(READ) == 1
        function.stack.cerberus.put_secret(SECRET_PATH, {"password": "rotated"})
        assert next(container).read(SECRET_PATH) == SECRET

        done = run(function, "forget", SECRET_PATH)
        assert done.returncode == 0, done.stderr
        for each in (SECRET_PATH, TABLE, ROLE, "within 300 s (CERBERUS_MAX_AGE)", "3600 s"):
            assert each in done.stdout
        assert function.stack.cerberus.count(READ) == 1  # the command itself reads nothing
        for _ in range(3):
            assert next(container).read(SECRET_PATH) == {"password": "rotated"}
        assert function.stack.cerberus.count(READ) == 2

    def test_a_container_that_runs_looks_when_its_own_copy_is_due(self, function: Function, shared: None) -> None:
        function.configure(CERBERUS_MAX_AGE="1")
        client = CerberusClient(function.auth())
        assert client.read(SECRET_PATH) == SECRET
        function.stack.cerberus.put_secret(SECRET_PATH, {"password": "rotated"})
        done = run(function, "forget", SECRET_PATH, "--json")
        assert json.loads(done.stdout) == {
            "path": SECRET_PATH,
            "principal": ROLE,
            "table": TABLE,
            "max_age": 1,
            "stale_if_error": 3600,
        }
        for _ in range(100):
            if client.read(SECRET_PATH) == {"password": "rotated"}:
                break
            function.stack.cerberus.server.pause(0.05)
        assert client.read(SECRET_PATH) == {"password": "rotated"}

    def test_files_lists_versions_and_compats_copies_are_forgotten_too(self, function: Function, shared: None) -> None:
        function.stack.cerberus.put_file(SECRET_PATH, b"a key")

        def read(margin: int) -> list[object]:
            function.configure(CERBERUS_EXPIRY_MARGIN=str(margin))
            client = compat.CerberusClient(function.stack.cerberus.url)
            function.closing(client._auth)
            versions = client.versions(SECRET_PATH)
            return [
                client.get_secrets_data(SECRET_PATH),
                client.read_file(SECRET_PATH),
                len(versions),
                client.list("app/orders"),
                client.get_file_data(SECRET_PATH),
                sorted(client.list_secrets("app/orders")["data"]["keys"]),
                len(client.get_secret_versions(SECRET_PATH)["secure_data_version_summaries"]),
                len(client.list_files("app/orders")["secure_file_summaries"]),
            ]

        before = read(60)
        function.stack.cerberus.put_file(SECRET_PATH, b"another")
        function.stack.cerberus.put_secret(SECRET_PATH, {"password": "rotated"})
        function.stack.cerberus.put_secret("app/orders/new", SECRET)
        function.stack.cerberus.put_file("app/orders/new", b"new")
        assert read(61) == before  # shared
        for path in (SECRET_PATH, "app/orders"):
            assert run(function, "forget", path).returncode == 0
        assert read(62) == [
            *({"password": "rotated"}, b"another", 2, ["db", "new"]),
            *(b"another", ["db", "new"], 2, 2),
        ]

    def test_a_path_that_nobody_has_read(self, function: Function, shared: None) -> None:
        assert run(function, "forget", "app/orders/new").returncode == 0
        function.stack.cerberus.put_secret("app/orders/new", {"key": "value"})
        assert next(self.containers(function)).read("app/orders/new") == {"key": "value"}

    def test_where_nothing_is_shared(self, function: Function) -> None:
        done = run(function, "forget", SECRET_PATH)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("ConfigurationError: No secrets are shared")
        assert "CERBERUS_SHARED_CACHE_TABLE" in done.stderr

    def test_a_table_that_cannot_be_written(self, function: Function, shared: None) -> None:
        function.stack.aws.put_role_policy(ROLE, {"Version": "2012-10-17", "Statement": [decrypt_statement()]})
        done = run(function, "forget", SECRET_PATH)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"Shared copies of {SECRET_PATH} not removed" in done.stderr


class TestDoctor:
    def test_it_finds_nothing_wrong(self, function: Function) -> None:
        assert run(function, "doctor", "--read", SECRET_PATH).returncode == 0
        assert json.loads(run(function, "doctor", "--json").stdout)["ok"]

    def test_it_finds_what_is_wrong(self, function: Function) -> None:
        function.stack.cerberus.deny(ROLE)
        done = run(function, "doctor")
        assert done.returncode == 1
        assert "FAILED  auth request" in done.stdout
