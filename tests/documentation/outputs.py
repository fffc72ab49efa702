"""The error messages and command outputs that pages show, made with the local stack.

What a page shows, and how it is found there:

- an error: a block ``text`` that begins with the name of its class and a colon
- the output of a command: a block ``text`` directly below a block ``sh`` with one line, ``cerberus-auth ...``
- the output of the doctor: a block ``text`` that begins with "ok" and "settings"
- the log lines: the rows of a table that begin with a level

``make docs-outputs`` writes all of them into the pages, and ``tests/integration/test_docs.py`` fails if a page differs.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

from cerberus_auth.testing.http_server import Fault, Request
from local_stack.aws import Aws
from local_stack.stack import ROLE, SECRET_PATH, TABLE, LocalStack, decrypt_statement, share_statement

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 84  # the columns of the site at 1280 px
DENIED = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"}]}
COMMAND = re.compile(r"^```sh\ncerberus-auth ([^\n]+)\n```\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
DOCTOR = re.compile(r"^```text\n(ok +settings .*?)^```", re.DOTALL | re.MULTILINE)
TIMES = (0, 0, 6, 0, 0, 2, 2, 7, 4, 3, 3)  # milliseconds of the doctor's steps, as one run measured them
LOG_ROW = re.compile(r"^\| (DEBUG|INFO|WARNING|ERROR) \| `(.+?)` \| (.*) \|$", re.MULTILINE)
PLACEHOLDER = re.compile(r"%(?:\.\d)?[a-z]\b")
LEVELS = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "warn_once": "WARNING", "error": "ERROR"}
ERROR = re.compile(r"^```text\n(\w+): .*?^```$", re.DOTALL | re.MULTILINE)


def run(stack: LocalStack, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with the environment of a function.

    Parameters
    ----------
    stack
        The services.
    arguments
        Those of ``cerberus-auth``.
    variables
        Variables in addition; an empty text removes one.

    Returns
    -------
    subprocess.CompletedProcess
        Its output does not depend on the run: ports, identifiers and times are replaced.
    """
    environment = {**stack.environment(ROLE), **variables}
    done = subprocess.run(
        [sys.executable, "-m", "cerberus_auth", *arguments],
        env={
            **{name: value for name, value in environment.items() if value},
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "layer"),
            "COLUMNS": str(WIDTH),
        },
        cwd=stack.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    done.stdout, done.stderr = stable(done.stdout), stable(done.stderr)
    return done


def stable(text: str) -> str:
    """Replace what changes from run to run."""
    text = re.sub(r"localhost:\d{4,5}", "localhost:40311", text)
    times = iter(TIMES)
    text = re.sub(r" +\d+ ms\b", lambda found: f"{f'{next(times, 1)} ms':>{len(found[0])}}", text)
    return re.sub(r"(?<![\w-])[\w-]{64}(?![\w-])", "AQJ2example", text)


def share(stack: LocalStack) -> dict[str, str]:
    """Create the shared table and its key, and return the variables that name them."""
    stack.create_table()
    kms = stack.aws.client("kms", stack.aws.account_credentials(Aws.FUNCTION_ACCOUNT), stack.region)
    key = kms.create_key()["KeyMetadata"]["Arn"]
    kms.close()
    seal = {"Effect": "Allow", "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": key}
    statements = [decrypt_statement(), share_statement(ROLE), seal]
    stack.aws.put_role_policy(ROLE, {"Version": "2012-10-17", "Statement": statements})
    return {"CERBERUS_SHARED_CACHE_TABLE": TABLE, "CERBERUS_SHARED_CACHE_KEY": key}


def command_output(arguments: list[str]) -> str:
    """Return what a command prints."""
    with LocalStack() as stack:
        done = run(stack, *arguments, **(share(stack) if arguments[0] == "forget" else {}))
    return done.stdout + done.stderr


def doctor_output(may_decrypt: bool) -> str:
    """Return what the doctor prints, where the role may decrypt the auth response and where it may not."""
    with LocalStack() as stack:
        if not may_decrypt:
            stack.aws.put_role_policy(ROLE, DENIED)
        return run(stack, "doctor", "--read", SECRET_PATH).stdout


def updated(page: str, messages: Mapping[str, str]) -> str:
    """Return a page with the errors and outputs of this version of the package.

    Parameters
    ----------
    page
        The text of the page.
    messages
        Those of ``error_messages()``.
    """

    def show_error(found: re.Match[str]) -> str:
        message = messages.get(found[1])
        return found[0] if message is None else f"```text\n{message}\n```"

    def show_command(found: re.Match[str]) -> str:
        return found[0].replace(f"```text\n{found[2]}", f"```text\n{command_output(shlex.split(found[1]))}")

    def show_doctor(found: re.Match[str]) -> str:
        return f"```text\n{doctor_output('FAILED' not in found[1])}```"

    return COMMAND.sub(show_command, DOCTOR.sub(show_doctor, ERROR.sub(show_error, page)))


def log_lines() -> dict[str, str]:
    """Return the level of each line that the package logs, by the line, in which "…" stands for each value."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "layer" / "cerberus_auth").rglob("*.py")):
        if "testing" in path.parts or path.name == "__main__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
                level, values = LEVELS[node.func.attr], node.args[:1]
            elif isinstance(node, ast.Constant) and PLACEHOLDER.search(str(node.value)):
                level, values = "WARNING", [node]  # logged by a method of ours
            else:
                continue
            for value in values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str) and " " in value.value:
                    found.setdefault(PLACEHOLDER.sub("…", value.value), level)
    return found


def with_log_lines(page: str) -> str:
    """Return a page with the log lines of this version. A row whose line was reworded keeps its last cell.

    A line without a row gets one without a meaning, which a test reports.
    """
    rows = list(LOG_ROW.finditer(page))
    if not rows:
        return page
    lines = log_lines()
    gone = [row for row in rows if row[2] not in lines]
    for line in sorted(lines.keys() - {row[2] for row in rows}):
        near = difflib.get_close_matches(line, [row[2] for row in gone], 1, 0.4)
        if near:
            (row, *_) = [row for row in gone if row[2] == near[0]]
            page = page.replace(row[0], f"| {lines[line]} | `{line}` | {row[3]} |")
            gone.remove(row)
        else:
            (*_, last) = LOG_ROW.finditer(page)
            page = f"{page[: last.end()]}\n| {lines[line]} | `{line}` |  |{page[last.end() :]}"
    for row in gone:
        page = page.replace(f"{row[0]}\n", "")
    return page


def update() -> None:
    """Write the errors, outputs and log lines into all pages."""
    messages = error_messages()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        page = path.read_text(encoding="utf-8")
        if (new := with_log_lines(updated(page, messages))) != page:
            path.write_text(new, encoding="utf-8")
            print(f"Updated {path.relative_to(ROOT)}")


def error_messages() -> dict[str, str]:
    """Provoke each error, and return its message by the name of its class."""

    def is_auth(request: Request) -> bool:
        return "/auth/" in request.path

    def blocked(stack: LocalStack) -> dict[str, str]:
        stack.cerberus.server.faults.add(Fault.html(403), is_auth, None)
        return {}

    def down(stack: LocalStack) -> dict[str, str]:
        stack.cerberus.server.faults.add(Fault.status(503), is_auth, None)
        return {}

    def slow(stack: LocalStack) -> dict[str, str]:
        stack.cerberus.server.faults.add(Fault.hang(), is_auth, None)
        return {"CERBERUS_TIMEOUT": "0.5"}

    def not_offered(stack: LocalStack) -> dict[str, str]:
        stack.cerberus.kms_enabled = False
        return {"CERBERUS_AUTH_METHOD": "kms"}

    def not_granted(stack: LocalStack) -> dict[str, str]:
        return {"CERBERUS_IAM_ROLE_ARN": ROLE.replace("orders", "payments"), "CERBERUS_AUTH_METHOD": "kms"}

    def not_decrypted(stack: LocalStack) -> dict[str, str]:
        stack.aws.put_role_policy(ROLE, DENIED)
        return {}

    def mixed(stack: LocalStack) -> dict[str, str]:
        stack.aws.put_role_policy(ROLE, DENIED)
        return {"CERBERUS_IAM_ROLE_ARN": f"{ROLE.replace('orders', 'payments')},{ROLE}", "CERBERUS_AUTH_METHOD": "kms"}

    def without_url(stack: LocalStack) -> dict[str, str]:
        return {"CERBERUS_URL": "", "CERBERUS_KMS_ACCOUNT_ID": "2222"}

    def another_account(stack: LocalStack) -> dict[str, str]:
        return {"CERBERUS_KMS_ACCOUNT_ID": "333333333333"}

    def bad_token(stack: LocalStack) -> dict[str, str]:
        return {"CERBERUS_TOKEN": "not-a-token"}

    def nothing(stack: LocalStack) -> dict[str, str]:
        return {}

    def other_box(stack: LocalStack) -> dict[str, str]:
        stack.cerberus.put_secret("app/payments/db", {"username": "payments"})
        stack.cerberus.grant(ROLE.replace("orders", "payments"), "app/payments")
        return {}

    cases: list[tuple[str, Callable[[LocalStack], dict[str, str]], str]] = [
        ("ConfigurationError", without_url, SECRET_PATH),
        ("PrincipalRejected", not_granted, SECRET_PATH),
        ("BlockedAtEdge", blocked, SECRET_PATH),
        ("MethodNotOffered", not_offered, SECRET_PATH),
        ("DecryptionDenied", not_decrypted, SECRET_PATH),
        ("InvalidResponse", another_account, SECRET_PATH),
        ("CerberusUnavailable", down, SECRET_PATH),
        ("DeadlineExceeded", slow, SECRET_PATH),
        ("TokenRefused", bad_token, SECRET_PATH),
        ("AccessDenied", other_box, "app/payments/db"),
        ("SecretNotFound", nothing, "app/orders/nothing"),
        ("AuthenticationFailed", mixed, SECRET_PATH),
    ]
    found = {}
    for name, prepare, path in cases:
        with LocalStack() as stack:
            done = run(stack, "read", path, **prepare(stack))
        raised, _, message = done.stderr.strip().partition(": ")
        assert raised == name, f"{name}: {done.stderr}"
        found[name] = wrapped(f"{raised}: {message}")
    return found


def wrapped(text: str) -> str:
    """Break long lines for a page; a continued line is indented."""
    return "\n".join(
        textwrap.fill(line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )


if __name__ == "__main__":
    update()
