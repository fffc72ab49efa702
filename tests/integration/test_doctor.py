"""The doctor is right: each set-up here is broken for real, and it names the step and what mends it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cerberus_auth.doctor import FAILED, Doctor, Finding, line, report
from cerberus_auth.testing.http_server import Fault
from integration.function import Function
from local_stack.stack import ROLE, SECRET, SECRET_PATH, TABLE, decrypt_statement, share_statement

STEPS = [
    "settings",
    "credentials",
    "identity",
    "dns",
    "tcp",
    "tls",
    "http",
    "auth request",
    "kms:Decrypt",
    "token use",
    "shared table",
]
OTHER_ROLE = "arn:aws:iam::111111111111:role/web"
POLICY_OF_NOTHING = {"Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"}


class Broken(NamedTuple):
    step: str
    said: str
    """A part of what it says."""
    breaks: Callable[[Function], None]
    mend: str = ""
    """A part of what it says to add; empty where it says only what to look at."""


def setting(**variables: str | None) -> Callable[[Function], None]:
    return lambda function: function.configure(**variables)


def policy(*statements: dict[str, Any]) -> Callable[[Function], None]:
    return lambda function: function.stack.aws.put_role_policy(
        ROLE, {"Version": "2012-10-17", "Statement": list(statements)}
    )


def everything_answers(fault: Fault) -> Callable[[Function], None]:
    def plan(function: Function) -> None:
        function.stack.cerberus.server.faults.add(fault, times=None)

    return plan


def the_role_was_made_again(function: Function) -> None:
    function.stack.cerberus.key_arn(ROLE, "us-west-2")
    function.stack.aws.delete_role(ROLE)
    function.stack.create_role(ROLE)
    function.become(ROLE)


def a_port_without(function: Function) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        function.configure(CERBERUS_URL=f"https://localhost:{unused.getsockname()[1]}")


def no_method(function: Function) -> None:
    function.stack.cerberus.kms_enabled = function.stack.cerberus.sts_enabled = False


def a_table(function: Function) -> None:
    function.stack.create_table()
    function.configure(CERBERUS_SHARED_CACHE_TABLE=TABLE)


def no_table(function: Function) -> None:
    policy(decrypt_statement(), share_statement(ROLE))(function)
    function.configure(CERBERUS_SHARED_CACHE_TABLE=TABLE)


BROKEN = {
    "no URL": Broken("settings", "CERBERUS_URL is not set", setting(CERBERUS_URL=None)),
    "a URL of plain http": Broken("settings", "CERBERUS_URL", setting(CERBERUS_URL="http://cerberus.example.com")),
    "two settings at once": Broken(
        "settings", "CERBERUS_TIMEOUT", setting(CERBERUS_TIMEOUT="soon", CERBERUS_AUTH_METHOD="magic")
    ),
    "no credentials": Broken("credentials", "AWS credentials", setting(AWS_ACCESS_KEY_ID=None)),
    "credentials that are no good": Broken(
        "identity", "credentials", setting(AWS_SECRET_ACCESS_KEY="of-somebody-else-altogether")
    ),
    "another function's role": Broken(
        "identity",
        f"this runs as {ROLE}",
        setting(CERBERUS_IAM_ROLE_ARN=OTHER_ROLE),
        mend=f"CERBERUS_IAM_ROLE_ARN={ROLE}",
    ),
    "a host that is none": Broken(
        "dns", "nowhere.invalid has no address", setting(CERBERUS_URL="https://nowhere.invalid")
    ),
    "a port that nobody listens at": Broken("tcp", "Connection refused", a_port_without),
    "a proxy that is not there": Broken(
        "dns",
        "(HTTPS_PROXY)",
        setting(CERBERUS_URL="https://cerberus.example.com", HTTPS_PROXY="http://proxy.invalid:3128"),
    ),
    "an authority that nobody knows": Broken(
        "tls", "set AWS_CA_BUNDLE", setting(AWS_CA_BUNDLE=None, REQUESTS_CA_BUNDLE=None)
    ),
    "a service that fails": Broken("http", "it answered 503", everything_answers(Fault.status(503))),
    "a service that has moved": Broken(
        "http", "redirects", everything_answers(Fault.status(302, headers={"Location": "https://other.example.com/"}))
    ),
    "a principal in no box": Broken(
        "auth request", f"{ROLE} in us-west-2 (400, code 99216)", lambda function: function.stack.cerberus.deny(ROLE)
    ),
    "a region that is none": Broken("auth request", "see CERBERUS_REGION", setting(CERBERUS_REGION="us-west-9")),
    "no method switched on": Broken("auth request", "switched off", no_method),
    "a policy without kms:Decrypt": Broken(
        "kms:Decrypt", "do not let it decrypt", policy(POLICY_OF_NOTHING), mend='"Action": "kms:Decrypt"'
    ),
    "a role that was made again": Broken("kms:Decrypt", "within five minutes", the_role_was_made_again),
    "a key of another account": Broken(
        "kms:Decrypt", "not of CERBERUS_KMS_ACCOUNT_ID", setting(CERBERUS_KMS_ACCOUNT_ID="333333333333")
    ),
    "KMS out of reach": Broken(
        "kms:Decrypt", "KMS in us-west-2 is unavailable", setting(AWS_ENDPOINT_URL_KMS="https://localhost:1")
    ),
    "a token that has ended": Broken(
        "token use", "Cerberus refuses CERBERUS_TOKEN", setting(CERBERUS_TOKEN="of-yesterday-and-over")
    ),
    "a table that is not there": Broken(
        "shared table",
        "ResourceNotFoundException",
        no_table,
    ),
    "a table that it may not use": Broken("shared table", "AccessDenied", a_table, mend='"dynamodb:PutItem"'),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_set_up(name: str, function: Function) -> None:
    broken = BROKEN[name]
    broken.breaks(function)
    told: list[Finding] = []
    findings = Doctor(tell=told.append).examine()
    assert told == findings
    failed = next(each for each in findings if each.status == FAILED)
    assert (failed.step, broken.said in failed.said) == (broken.step, True), failed
    assert broken.mend in "".join(failed.mend)
    assert bool(failed.mend) == bool(broken.mend)
    assert [each.step for each in findings] == (["settings"] if broken.step == "settings" else STEPS)
    # What rests on the step that failed was not tried, and what does not was.
    if broken.step in ("credentials", "dns", "tcp", "tls", "http"):
        later = {each.step: each.status for each in findings}
        assert later["auth request"] == later["kms:Decrypt"] == later["token use"] == "skipped"
    assert not function.secrets_in(json.dumps(report(findings)) + "".join(map(line, findings)))


def test_all_is_well(function: Function) -> None:
    policy(decrypt_statement(), share_statement(ROLE))(function)
    a_table(function)
    findings = Doctor(path=SECRET_PATH).examine()
    assert [(each.step, each.status) for each in findings] == [(step, "ok") for step in STEPS]
    assert findings[-2].said == f"read {SECRET_PATH}: 2 keys"
    assert report(findings)["ok"]
    assert not function.secrets_in(json.dumps(report(findings)))


def test_it_asks_anew_each_time_and_shares_nothing(function: Function) -> None:
    function.auth().token()
    for _ in range(2):
        Doctor().examine()
    assert function.authentications == 3


@pytest.mark.parametrize(("path", "said"), [("web/other/db", "AccessDenied"), ("app/orders/no", "SecretNotFound")])
def test_a_secret_that_cannot_be_read(function: Function, path: str, said: str) -> None:
    failed = [each for each in Doctor(path=path).examine() if each.status == FAILED]
    assert [each.step for each in failed] == ["token use"]
    assert failed[0].said.startswith(said)


def test_sts_needs_no_decryption(function: Function) -> None:
    function.configure(CERBERUS_AUTH_METHOD="sts")
    findings = {each.step: each.status for each in Doctor().examine()}
    assert findings["kms:Decrypt"] == "skipped"
    assert FAILED not in findings.values()


def test_a_role_with_a_path_is_its_own(function: Function) -> None:
    role = "arn:aws:iam::111111111111:role/team/path/orders-with-path"
    function.stack.create_role(role)
    function.become(role)
    function.configure(CERBERUS_IAM_ROLE_ARN=role)
    assert FAILED not in [each.status for each in Doctor().examine()]


def test_without_sts_a_role_that_is_named_will_do(function: Function) -> None:
    function.configure(AWS_ENDPOINT_URL_STS="https://localhost:1")
    findings = {each.step: each.status for each in Doctor().examine()}
    assert findings["identity"] == "skipped"
    assert findings["token use"] == "ok"


class TestCommand:
    @pytest.fixture(autouse=True)
    def environment(self, function: Function) -> None:
        self.function = function

    def doctor(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        layer = Path(__file__).parents[2] / "layer"
        command = [sys.executable, "-m", "cerberus_auth", *arguments]
        return subprocess.run(
            command, cwd=layer, env=self.function.environment, capture_output=True, text=True, timeout=60
        )

    def test_for_people(self) -> None:
        done = self.doctor("doctor", "--read", SECRET_PATH)
        assert (done.returncode, done.stderr) == (0, "")
        assert [row[8:23].strip() for row in done.stdout.splitlines()] == STEPS
        assert SECRET["password"] not in done.stdout

    def test_for_machines(self) -> None:
        policy(POLICY_OF_NOTHING)(self.function)
        done = self.doctor("doctor", "--json")
        assert done.returncode == 1
        found = json.loads(done.stdout)
        assert not found["ok"]
        (failed,) = [each for each in found["findings"] if each["status"] == FAILED]
        assert failed["step"] == "kms:Decrypt"
        assert json.loads(failed["mend"][0]) == decrypt_statement()

    def test_no_command(self) -> None:
        assert self.doctor().returncode == 2
