"""Nothing secret comes out: every flow and every fault, with every log at DEBUG, and all that came out looked through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cerberus_auth.testing.http_server import Fault, Request, Response
from integration.function import SHORTEST_SECRET, Wire
from local_stack.stack import ROLE, SECRET, SECRET_PATH, TABLE, LocalStack, decrypt_statement, share_statement

ROOT = Path(__file__).resolve().parents[2]
ASSUMED = "arn:aws:iam::111111111111:role/secrets"

MAY_ASSUME = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": ASSUMED}
MAY_BE_ASSUMED = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": ROLE}}


def policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


FLOWS: dict[str, dict[str, str]] = {
    "kms": {},
    "kms by boto3": {"CERBERUS_AWS_CLIENT": "sdk"},
    "sts": {"CERBERUS_AUTH_METHOD": "sts"},
    "sts by boto3": {"CERBERUS_AUTH_METHOD": "sts", "CERBERUS_AWS_CLIENT": "sdk"},
    "discovery": {"CERBERUS_IAM_ROLE_ARN": ""},
    "a role assumed": {"CERBERUS_ASSUME_ROLE_ARN": ASSUMED, "CERBERUS_IAM_ROLE_ARN": ""},
    "a role assumed by boto3": {
        "CERBERUS_ASSUME_ROLE_ARN": ASSUMED,
        "CERBERUS_IAM_ROLE_ARN": "",
        "CERBERUS_AWS_CLIENT": "sdk",
    },
    "a fleet": {"CERBERUS_SHARED_CACHE_TABLE": TABLE},
    "a fleet by boto3": {"CERBERUS_SHARED_CACHE_TABLE": TABLE, "CERBERUS_AWS_CLIENT": "sdk"},
    "processes": {"AWS_LAMBDA_MAX_CONCURRENCY": "4"},
    "a token given": {"CERBERUS_TOKEN": "given-by-hand-and-secret"},
    "a proxy with a password": {"HTTPS_PROXY": "http://user:password-of-the-proxy@proxy.invalid:3128"},
}

Break = Callable[[LocalStack], None]


def everywhere(fault: Fault) -> Break:
    def plan(stack: LocalStack) -> None:
        stack.cerberus.server.faults.add(fault, times=None)

    return plan


def of_the_function(request: Request) -> bool:
    """Whether a request to AWS is not the stand-in's own."""
    target = request.headers["X-Amz-Target"] or ""
    return "localhost" in str(request.headers["Host"]) and target not in (
        "TrentService.Encrypt",
        "TrentService.CreateKey",
    )


def of_aws(fault: Fault) -> Break:
    def plan(stack: LocalStack) -> None:
        stack.aws.server.faults.add(fault, of_the_function, times=None)

    return plan


def echo(stack: LocalStack) -> None:
    """A service that answers with all that it was sent, and all that it would have said."""
    server = stack.cerberus.server
    respond = server.respond

    def echoed(request: Request) -> Response:
        told = {"code": 99996, "message": f"{list(request.headers.items())} {request.body!r} {respond(request).body!r}"}
        return Response(400, json.dumps({"errors": [told]}).encode(), {"Content-Type": "application/json"})

    server.respond = echoed


def echo_of_aws(stack: LocalStack) -> None:
    server = stack.aws.server
    respond = server.respond

    def echoed(request: Request) -> Response:
        if not of_the_function(request):
            return respond(request)
        told = f"{list(request.headers.items())} {request.body!r} {respond(request).body!r}"
        return Response(400, json.dumps({"__type": "ValidationException", "message": told}).encode())

    server.respond = echoed


def echo_reads(stack: LocalStack) -> None:
    """Authenticating works, and reading is answered by what it was asked with, as no secret."""
    server = stack.cerberus.server
    respond = server.respond

    def echoed(request: Request) -> Response:
        if not request.path.startswith("/v1/secret"):
            return respond(request)
        return Response(200, json.dumps({"data": [str(list(request.headers.items())), SECRET]}).encode())

    server.respond = echoed


def a_token_no_header_takes(stack: LocalStack) -> None:
    token = {"client_token": "secret-token-with\r\nX-Injected: header", "lease_duration": 3600}
    stack.cerberus.plaintext_override = json.dumps(token).encode()


def a_lease_of_nonsense(stack: LocalStack) -> None:
    stack.cerberus.lease_seconds = "forever"


def no_statement(stack: LocalStack) -> None:
    stack.aws.put_role_policy(ROLE, policy(share_statement(ROLE)))


def revoked_all_the_time(stack: LocalStack) -> None:
    server = stack.cerberus.server
    respond = server.respond

    def revoking(request: Request) -> Response:
        answer = respond(request)
        stack.cerberus.revoke()
        return answer

    server.respond = revoking


FAULTS: dict[str, Break] = {
    "nothing": lambda stack: None,
    "Cerberus: 503": everywhere(Fault.status(503)),
    "Cerberus: HTML": everywhere(Fault.html()),
    "Cerberus: half a body": everywhere(Fault.half_body()),
    "Cerberus: reset": everywhere(Fault.reset()),
    "Cerberus: redirect": everywhere(Fault.status(302, headers={"Location": "https://127.0.0.1:1/"})),
    "Cerberus: echo": echo,
    "Cerberus: echo of reads": echo_reads,
    "Cerberus: denied": lambda stack: stack.cerberus.deny(ROLE),
    "Cerberus: revoked": revoked_all_the_time,
    "Cerberus: a token no header takes": a_token_no_header_takes,
    "Cerberus: a lease of nonsense": a_lease_of_nonsense,
    "AWS: 503": of_aws(Fault.status(503)),
    "AWS: HTML": of_aws(Fault.html()),
    "AWS: half a body": of_aws(Fault.half_body()),
    "AWS: echo": echo_of_aws,
    "AWS: no statement": no_statement,
}


class Talker:
    """The function, in a process of its own, and all that it has said."""

    def __init__(self, folder: Path) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(ROOT / "layer"), str(ROOT / "tests")]),
            "PYTHONWARNINGS": "always",
            "PYTHONMALLOC": "pymalloc",  # of -X dev all but the checks of the heap, which take a third of the time
            "TMPDIR": str(folder),
            "HOME": str(folder),
        }
        self.said: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-m", "integration.flow"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self.said += self._process.stderr

    def do(self, environment: dict[str, str]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"environment": environment, "read": SECRET_PATH}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line == "done\n":
                return
            self.said.append(line)
        raise AssertionError("".join(self.said[-40:]))

    def close(self) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._reader.join(30)
        assert self._process.stderr is not None
        self._process.stderr.close()
        return "".join(self.said)


def written(folder: Path) -> str:
    return "".join(file.read_bytes().decode("latin-1") for file in folder.rglob("*") if file.is_file())


@pytest.fixture
def talker(tmp_path: Path) -> Iterator[Talker]:
    talker = Talker(tmp_path)
    yield talker
    talker.close()


@pytest.mark.parametrize("flow", FLOWS)
def test_nothing_secret_comes_out(flow: str, talker: Talker, tmp_path: Path) -> None:
    secrets: set[str] = set()
    ciphertexts: set[str] = set()
    for breaks in FAULTS.values():
        with LocalStack() as stack:
            wires = [Wire(stack.cerberus.server), Wire(stack.aws.server)]
            stack.create_table()
            stack.aws.put_role_policy(ROLE, policy(decrypt_statement(), share_statement(ROLE), MAY_ASSUME))
            stack.aws.create_role(ASSUMED, policy(decrypt_statement()), policy(MAY_BE_ASSUMED))
            stack.cerberus.grant(ASSUMED)
            environment = stack.environment(ROLE, **FLOWS[flow])
            environment |= {"CERBERUS_TIMEOUT": "1.5", "CERBERUS_READ_TIMEOUT": "0.5", "CERBERUS_MAX_ATTEMPTS": "1"}
            environment["POWERTOOLS_TRACE_DISABLED"] = "true"
            breaks(stack)
            talker.do({key: value for key, value in environment.items() if value})
            secrets |= {environment[f"AWS_{key}"] for key in ("SECRET_ACCESS_KEY", "SESSION_TOKEN")}
            secrets.update(*(wire.secrets for wire in wires))
            ciphertexts.update(*(wire.ciphertexts for wire in wires))
    secrets |= {SECRET["password"], "given-by-hand-and-secret", "password-of-the-proxy", "secret-token-with"}
    out = talker.close()
    searched = {secret for secret in secrets if len(secret) >= SHORTEST_SECRET}
    found = [secret for secret in searched if any(form in out for form in {secret, repr(secret)[1:-1]})]
    before = [out[max(0, out.find(secret) - 200) : max(0, out.find(secret))] for secret in found[:1]]
    assert not before, f"{len(found)} of {len(searched)} secrets came out"
    assert len(searched) > 5
    assert len(out) > 20_000  # it was talkative indeed
    # In files nothing but the ciphertext that processes share.
    files = written(tmp_path)
    assert not [secret for secret in searched - ciphertexts if secret in files]
