"""The doctor is right: each set-up here is broken for real, and it names the step and how to fix it."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import cerberus_auth
from cerberus_auth.doctor import FAILED, Doctor, Finding, _extract_statements, format_finding, report
from cerberus_auth.testing.http_server import Fault, Response, Server
from integration.function import Function
from local_stack.stack import ROLE, SECRET, SECRET_PATH, TABLE, decrypt_statement, share_statement

STEPS = [
    "settings",
    "runtime",
    "credentials",
    "identity",
    "dns",
    "tcp",
    "tls",
    "http",
    "auth request",
    "kms:Decrypt",
    "token use",
    "boxes",
    "shared table",
    "shared key",
]
OTHER_ROLE = "arn:aws:iam::111111111111:role/web"
POLICY_OF_NOTHING = {"Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"}


class Broken(NamedTuple):
    step: str
    message: str
    """A part of what it says."""
    breaks: Callable[[Function], None]
    fix: str = ""
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


def no_database(function: Function) -> None:
    function.during(function.stack.cerberus.database_down())


def a_table(function: Function) -> None:
    function.stack.create_table()
    function.configure(CERBERUS_SHARED_CACHE_TABLE=TABLE)


def a_key(*actions: str) -> Callable[[Function], None]:
    """A table that can be used, and a key with which the role may do only this."""

    def arrange(function: Function) -> None:
        a_table(function)
        kms = function.stack.aws.client("kms", function.stack.aws.account_credentials("111111111111"))
        key = kms.create_key()["KeyMetadata"]["Arn"]
        kms.close()
        condition = {"StringEquals": {"kms:EncryptionContext:principal": ROLE}}
        sealing = {"Effect": "Allow", "Action": list(actions), "Resource": key, "Condition": condition}
        policy(decrypt_statement(), share_statement(ROLE), sealing)(function)
        function.configure(CERBERUS_SHARED_CACHE_KEY=key)

    return arrange


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
        f"the current role is {ROLE}",
        setting(CERBERUS_IAM_ROLE_ARN=OTHER_ROLE),
        fix=f"CERBERUS_IAM_ROLE_ARN={ROLE}",
    ),
    "a role that it may not assume": Broken(
        "credentials",
        "does not let the function assume",
        setting(CERBERUS_ASSUME_ROLE_ARN=OTHER_ROLE, CERBERUS_IAM_ROLE_ARN=None),
        fix=f'"AWS": "{ROLE}"',
    ),
    "a host that is none": Broken(
        "dns", "Cannot resolve nowhere.invalid", setting(CERBERUS_URL="https://nowhere.invalid")
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
    "a service that fails": Broken("http", "not from Cerberus (503)", everything_answers(Fault.html(503))),
    "a service without its database": Broken("http", "Cerberus reports DOWN (503)", no_database),
    "a firewall that blocks this address": Broken(
        "http", "BlockedAtEdge: A firewall in front of Cerberus rejected", everything_answers(Fault.html(403))
    ),
    "a firewall that counts requests": Broken(
        "http", "(429 without the error body of Cerberus)", everything_answers(Fault.status(429))
    ),
    "a service that has moved": Broken(
        "http", "redirects", everything_answers(Fault.status(302, headers={"Location": "https://other.example.com/"}))
    ),
    "a principal in no box": Broken(
        "auth request", f"{ROLE} in us-west-2 (400, code 99216)", lambda function: function.stack.cerberus.deny(ROLE)
    ),
    "a region that is none": Broken(
        "auth request", "Set CERBERUS_REGION", setting(CERBERUS_REGION="us-west-9", CERBERUS_AUTH_METHOD="kms")
    ),
    "no method switched on": Broken("auth request", "authentication is disabled", no_method),
    "a policy without kms:Decrypt": Broken(
        "kms:Decrypt", "do not allow kms:Decrypt", policy(POLICY_OF_NOTHING), fix='"Action": "kms:Decrypt"'
    ),
    "a role that was made again": Broken("kms:Decrypt", "five minutes", the_role_was_made_again),
    "a key of another account": Broken(
        "kms:Decrypt", "but CERBERUS_KMS_ACCOUNT_ID is", setting(CERBERUS_KMS_ACCOUNT_ID="333333333333")
    ),
    "KMS out of reach": Broken(
        "kms:Decrypt", "KMS in us-west-2 is unavailable", setting(AWS_ENDPOINT_URL_KMS="https://localhost:1")
    ),
    "a token that has ended": Broken(
        "token use", "Cerberus rejected CERBERUS_TOKEN", setting(CERBERUS_TOKEN="of-yesterday-and-over")
    ),
    "a table that is not there": Broken(
        "shared table",
        "ResourceNotFoundException",
        no_table,
    ),
    "a table that it may not use": Broken(
        "shared table",
        "AccessDenied",
        a_table,
        fix=f'"Resource": "arn:aws:dynamodb:us-west-2:111111111111:table/{TABLE}"',
    ),
    "a key that it may not seal with": Broken(
        "shared key", "AccessDenied", a_key("kms:Decrypt"), fix=f'"kms:EncryptionContext:principal": "{ROLE}"'
    ),
    "a key that it may not open with": Broken("shared key", "AccessDenied", a_key("kms:Encrypt"), fix='"kms:Decrypt"'),
}


class Left(NamedTuple):
    """A handler's context."""

    milliseconds: int

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


def test_a_policy_that_it_says_to_add_mends_the_step(function: Function) -> None:
    """As it stands, without anything to fill in."""
    a_key("kms:DescribeKey")(function)
    found: dict[str, Finding] = {}
    statements = [decrypt_statement()]
    for step in ("shared table", "shared key"):
        policy(*statements, POLICY_OF_NOTHING)(function)
        found = {each.step: each for each in Doctor().examine()}
        assert found[step].status == FAILED
        statements += map(json.loads, found[step].fix)
    policy(*statements)(function)
    assert FAILED not in [each.status for each in Doctor().examine()]
    assert "<" not in json.dumps(statements)


def test_a_timeout_of_the_function_that_is_too_short(function: Function) -> None:
    function.configure(AWS_LAMBDA_FUNCTION_NAME="diagnose")
    (failed,) = [each for each in Doctor(context=Left(2_900)).examine() if each.status == FAILED]
    assert (failed.step, failed.message[:27]) == ("runtime", "The function has 2.9 s left")
    assert "CERBERUS_TIMEOUT (10 s)" in failed.message


def test_a_pythonpath_that_hides_the_layers(
    function: Function, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function.configure(AWS_LAMBDA_FUNCTION_NAME="diagnose", PYTHONPATH="/var/task/lib")
    monkeypatch.setattr(cerberus_auth.doctor, "_LAYER_FOLDER", str(tmp_path))
    (failed,) = [each for each in Doctor().examine() if each.status == FAILED]
    assert (failed.step, failed.fix) == ("runtime", (f"PYTHONPATH={tmp_path}:/var/task/lib",))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert FAILED not in [each.status for each in Doctor().examine()]


@pytest.mark.parametrize("status", [407, 200])
def test_http_clients_debug_switch_prints_no_password_of_a_proxy(
    status: int, function: Function, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    with Server(lambda request: Response(status)) as proxy:
        secret = "password-of-the-proxy"
        function.configure(
            HTTPS_PROXY=f"http://user:{secret}@127.0.0.1:{proxy.port}", CERBERUS_URL="https://cerberus.example.com"
        )
        findings = {each.step: each for each in Doctor().examine()}
    assert findings["tls"].status == FAILED
    out = "".join(capfd.readouterr())
    assert base64.b64encode(f"user:{secret}".encode()).decode() not in out
    assert secret not in out


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_set_up(name: str, function: Function) -> None:
    broken = BROKEN[name]
    broken.breaks(function)
    told: list[Finding] = []
    findings = Doctor(on_finding=told.append).examine()
    assert told == findings
    failed = next(each for each in findings if each.status == FAILED)
    assert (failed.step, broken.message in failed.message) == (broken.step, True), failed
    assert broken.fix in "".join(failed.fix)
    assert bool(failed.fix) == bool(broken.fix)
    assert '{"Effect"' not in failed.message  # the statement is in the fix, once
    assert len(set(failed.fix)) == len(failed.fix)
    # A fix stands as it is, so that it can be copied.
    rows = [row for each in findings for row in format_finding(replace(each, fix=())).splitlines()]
    assert max(map(len, rows)) <= 100
    assert [each.step for each in findings] == (["settings"] if broken.step == "settings" else STEPS)
    # What rests on the step that failed was not tried, and what does not was.
    if broken.step in ("credentials", "dns", "tcp", "tls", "http"):
        later = {each.step: each.status for each in findings}
        assert later["auth request"] == later["kms:Decrypt"] == later["token use"] == "skipped"
    assert not function.secrets_in(json.dumps(report(findings)) + "".join(map(format_finding, findings)))


def test_a_certificate_file_that_is_none_is_a_finding_in_lambda_too(function: Function, tmp_path: Path) -> None:
    """There, what authenticates loads it when it is made, before any step."""
    (tmp_path / "bundle.pem").write_text("no certificate")
    function.configure(AWS_LAMBDA_FUNCTION_NAME="diagnose", AWS_CA_BUNDLE=str(tmp_path / "bundle.pem"))
    findings = {each.step: each for each in Doctor().examine()}
    assert list(findings) == STEPS
    assert findings["auth request"].status == FAILED
    assert "AWS_CA_BUNDLE" in findings["auth request"].message


def test_all_is_well(function: Function) -> None:
    a_key("kms:Encrypt", "kms:Decrypt")(function)
    function.configure(AWS_LAMBDA_FUNCTION_NAME="diagnose")
    findings = Doctor(path=SECRET_PATH, context=Left(15_000)).examine()
    assert [(each.step, each.status) for each in findings] == [(step, "ok") for step in STEPS]
    message = {each.step: each.message for each in findings}
    assert message["http"] == "Cerberus is up, version 4.13.0"
    assert message["token use"] == f"Read {SECRET_PATH}: 2 keys"
    assert message["boxes"] == "This principal can read app/orders"
    assert report(findings)["ok"]
    assert not function.secrets_in(json.dumps(report(findings)))


def test_it_asks_anew_each_time_and_shares_nothing(function: Function) -> None:
    function.auth().token()
    for _ in range(2):
        Doctor().examine()
    assert function.authentications == 3


@pytest.mark.parametrize(
    ("path", "message"),
    [("web/shop/db", "AccessDenied"), ("web/other/db", "SecretNotFound"), ("app/orders/no", "SecretNotFound")],
)
def test_a_secret_that_cannot_be_read(function: Function, path: str, message: str) -> None:
    function.stack.cerberus.put_secret("web/shop/db", {"password": "not for this principal"})
    function.stack.cerberus.grant(ROLE, "web/reports")
    findings = Doctor(path=path).examine()
    failed = [each for each in findings if each.status == FAILED]
    assert [each.step for each in failed] == ["token use"]
    assert failed[0].message.startswith(message)
    messages = {each.step: each.message for each in findings}
    assert messages["boxes"] == "This principal can read app/orders, web/reports"


def test_many_boxes(function: Function) -> None:
    for number in range(25):
        function.stack.cerberus.grant(ROLE, f"app/box{number:02}")
    (boxes,) = [each for each in Doctor().examine() if each.step == "boxes"]
    assert boxes.message.endswith("app/box19 and 6 more")


def test_a_list_of_boxes_that_does_not_come(function: Function) -> None:
    function.stack.cerberus.server.faults.add(
        Fault.html(200), lambda request: request.path == "/v2/safe-deposit-box", times=None
    )
    findings = {each.step: each for each in Doctor().examine()}
    assert (findings["boxes"].status, findings["token use"].status) == (FAILED, "ok")
    assert "Cerberus returned no list of safe deposit boxes (200)" in findings["boxes"].message


@pytest.mark.parametrize(
    "fault", [Fault.status(404), Fault.html(200), Fault.status(200, b'{"build": {"version": "\\u001b[2J"}}')]
)
def test_any_answer_proves_the_host(function: Function, fault: Fault) -> None:
    """As from a service that is older, or one behind a proxy that lets only its API through."""
    faults = function.stack.cerberus.server.faults
    faults.add(fault, lambda request: request.path in ("/healthcheck", "/info"), times=None)
    findings = {each.step: each for each in Doctor().examine()}
    assert FAILED not in [each.status for each in findings.values()]
    assert findings["http"].message.endswith("but without the health of Cerberus. Check the host in CERBERUS_URL")
    assert findings["token use"].status == "ok"


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


STATEMENT = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": OTHER_ROLE}
TRUST = {**STATEMENT, "Resource": ROLE}


class TestText:
    """What a finding looks like, in lines of at most 100 columns."""

    @pytest.mark.parametrize(
        ("text", "message", "statements"),
        [
            ("nothing to add", "nothing to add", []),
            (f"Add {json.dumps(STATEMENT)}.", "Add the policy statement below.", [STATEMENT]),
            (
                f"Add {json.dumps(STATEMENT)}, and again {json.dumps(STATEMENT)}",
                "Add the policy statement below, and again the policy statement below",
                [STATEMENT],
            ),
            (
                f"{json.dumps(STATEMENT)} and {json.dumps(TRUST)}",
                "policy statement 1 below and policy statement 2 below",
                [STATEMENT, TRUST],
            ),
        ],
    )
    def test_a_statement_is_taken_out_of_the_message(
        self, text: str, message: str, statements: list[dict[str, str]]
    ) -> None:
        found, fix = _extract_statements(text)
        assert (found, [json.loads(each) for each in fix]) == (message, statements)

    def test_a_long_message_wraps_below_its_beginning(self) -> None:
        message = " ".join(["word"] * 60)
        rows = format_finding(Finding("kms:Decrypt", FAILED, 0.004, message)).splitlines()
        assert rows[0].startswith("FAILED  kms:Decrypt          4 ms  word word")
        assert len(rows) > 1
        assert all(row.startswith(" " * 35 + "word") and len(row) <= 100 for row in rows[1:])
        assert " ".join(" ".join(rows).split()).endswith(message)

    def test_a_name_is_never_broken(self) -> None:
        arn = f"arn:aws:iam::111111111111:role/{'r' * 50}"
        rows = format_finding(Finding("identity", FAILED, 0, f"The role is {arn}. Check it.")).splitlines()
        assert [row for row in rows if arn in row]
        assert max(map(len, rows)) <= 100
        endless = "x" * 200
        assert format_finding(Finding("identity", "ok", 0, endless)).count(endless) == 1

    def test_each_line_of_a_message_has_its_own_row(self) -> None:
        rows = format_finding(Finding("auth request", "skipped", 0, "All failed:\n1. one\n2. two")).splitlines()
        assert [row[35:] for row in rows] == ["All failed:", "1. one", "2. two"]
        assert format_finding(Finding("tls", "skipped", 0, "")) == "skipped tls"

    def test_a_fix_can_be_copied(self) -> None:
        fixes = (json.dumps(STATEMENT, indent=2), json.dumps(TRUST, indent=2), "CERBERUS_IAM_ROLE_ARN=arn")
        text = format_finding(Finding("identity", FAILED, 0, "message", fixes))
        for title in ("Policy statement 1 to add:", "Policy statement 2 to add:", "Set this variable:"):
            assert title in text
        for fix in fixes:
            assert fix in "\n".join(row[12:] for row in text.splitlines())
        alone = format_finding(Finding("identity", FAILED, 0, "message", fixes[:1]))
        assert "\n          The policy statement to add:\n            {" in alone


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
        rows = done.stdout.splitlines()
        assert [row[8:23].strip() for row in rows if not row.startswith(" ")] == STEPS
        assert max(map(len, rows)) <= 100
        assert SECRET["password"] not in done.stdout

    def test_for_machines(self) -> None:
        policy(POLICY_OF_NOTHING)(self.function)
        done = self.doctor("doctor", "--json")
        assert done.returncode == 1
        found = json.loads(done.stdout)
        assert not found["ok"]
        (failed,) = [each for each in found["findings"] if each["status"] == FAILED]
        assert failed["step"] == "kms:Decrypt"
        assert json.loads(failed["fix"][0]) == decrypt_statement()

    def test_no_command(self) -> None:
        assert self.doctor().returncode == 2
