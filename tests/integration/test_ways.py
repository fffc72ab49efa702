"""Every way in: principals, regions, methods and faults, which combination wins, and what each server saw of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cerberus_auth import CerberusError, CerberusUnavailable
from cerberus_auth.testing.http_server import Fault, Request
from integration.function import Function, renewed
from local_stack.stack import ROLE, decrypt_statement

REGIONS = {"1": "us-west-2", "2": "us-east-1"}
ACCOUNT = "arn:aws:iam::111111111111"
PRINCIPALS = {
    "role": ROLE,
    "stranger": f"{ACCOUNT}:role/stranger",
    "path": f"{ACCOUNT}:role/team/path/web",
    "pathless": f"{ACCOUNT}:role/web",
    "user": f"{ACCOUNT}:user/somebody",
}
NAMES = {arn: name for name, arn in PRINCIPALS.items()}


def scope(request: Request) -> str:
    """Region and service of a signature."""
    return "/".join((request.headers["Authorization"] or "").split("/")[2:4])


def action(request: Request) -> str:
    return (request.headers["X-Amz-Target"] or "").rpartition(".")[2]


def at_aws(fault: Fault, when: Callable[[Request], bool]) -> Callable[[Function], object]:
    return lambda function: function.stack.aws.server.faults.add(fault, when, times=None)


def at_cerberus(fault: Fault, path: str) -> Callable[[Function], object]:
    return lambda function: function.stack.cerberus.server.faults.add(
        fault, lambda request: request.path.startswith(path), times=None
    )


def disable_key(function: Function) -> None:
    function.stack.aws.disable_key(function.stack.cerberus.key_arn(ROLE, REGIONS["1"]))


UNAVAILABLE, NOT_FOUND = Fault.status(503), Fault.status(404)
FAULTS: dict[str, Callable[[Function], object]] = {
    "v2 off": at_cerberus(NOT_FOUND, "/v2/auth/iam-principal"),
    "v1 off": at_cerberus(NOT_FOUND, "/v1/auth/iam-role"),
    "sts off": at_cerberus(NOT_FOUND, "/v2/auth/sts-identity"),
    "cerberus down": at_cerberus(UNAVAILABLE, "/"),
    "kms 1 down": at_aws(
        UNAVAILABLE, lambda request: scope(request) == f"{REGIONS['1']}/kms" and action(request) == "Decrypt"
    ),
    "kms 1 hangs": at_aws(
        Fault.hang(), lambda request: scope(request) == f"{REGIONS['1']}/kms" and action(request) == "Decrypt"
    ),
    "kms down": at_aws(UNAVAILABLE, lambda request: action(request) == "Decrypt"),
    "no key 1": at_aws(
        UNAVAILABLE, lambda request: scope(request) == f"{REGIONS['1']}/kms" and action(request) == "Encrypt"
    ),
    "sts 1 down": at_aws(UNAVAILABLE, lambda request: scope(request) == f"{REGIONS['1']}/sts"),
    "sts down": at_aws(UNAVAILABLE, lambda request: scope(request).endswith("/sts")),
    "key 1 disabled": disable_key,
    "no policy": lambda function: function.stack.aws.put_role_policy(ROLE, None),
    "another account": lambda function: function.configure(CERBERUS_KMS_ACCOUNT_ID="333333333333"),
}


@dataclass(frozen=True)
class Row:
    """One combination, and what comes of it. Lists are written with commas."""

    method: str
    principals: str
    regions: str
    faults: str
    asked: str
    """Of Cerberus: path, principal, region. When the last of it wins, it is all that is asked the next time."""
    decrypts: str = ""
    """The regions in which kms:Decrypt was called."""
    fails: str = ""
    """Where none wins, each attempt: principal, region, method, class of its error. One class: the error has it too."""


TABLE = [
    # One of them wins.
    Row("auto", "role", "1", "", "v2 role 1", "1"),
    Row("kms", "role", "1", "", "v2 role 1", "1"),
    Row("sts", "role", "1", "", "sts 1"),
    Row("auto", "stranger, role", "1", "", "v2 stranger 1, v2 role 1", "1"),
    Row("kms", "stranger, role", "1, 2", "", "v2 stranger 1, v2 role 1", "1"),
    Row("auto", "pathless, path", "1", "", "v2 pathless 1, v2 path 1", "1"),
    Row("auto", "role", "1, 2", "kms 1 down", "v2 role 1, v2 role 2", "1, 2"),
    Row("auto", "role", "1, 2", "kms 1 hangs", "v2 role 1, v2 role 2", "1, 2"),
    Row("auto", "role", "1, 2", "no key 1", "v2 role 1, v2 role 2", "2"),
    Row("auto", "role", "1, 2", "key 1 disabled", "v2 role 1, v2 role 2", "2"),
    Row("auto", "stranger, role", "1, 2", "kms 1 down", "v2 stranger 1, v2 role 1, v2 role 2", "1, 2"),
    Row("auto", "role", "1", "sts off", "v2 role 1", "1"),
    Row("auto", "role", "1", "v2 off, v1 off", "v2 role 1, sts 1"),
    Row("auto", "stranger, role", "1, 2", "v2 off", "v2 stranger 1, sts 1"),
    Row("auto", "role", "1, 2", "v2 off, sts 1 down", "v2 role 1, sts 1, sts 2"),
    Row("sts", "role", "1, 2", "sts 1 down", "sts 1, sts 2"),
    Row("kms", "role", "1", "v2 off", "v2 role 1, v1 role 1", "1"),
    Row("kms", "pathless, path", "1", "v2 off", "v2 pathless 1, v1 pathless 1, v1 path 1", "1"),
    Row("auto", "role", "1", "v2 off, sts off", "v2 role 1, sts 1, v1 role 1", "1"),
    Row("auto", "role", "1, 2", "v2 off, sts off, kms 1 down", "v2 role 1, sts 1, v1 role 1, v1 role 2", "1, 2"),
    Row("kms", "stranger, role", "1, 2", "v2 off, no key 1", "v2 stranger 1, v1 stranger 1, v1 role 1, v1 role 2", "2"),
    Row("kms", "user, role", "1", "v2 off", "v2 user 1, v1 role 1", "1"),
    # None of them wins.
    Row("auto", "", "1", "sts 1 down", "sts 1", fails="- 1 discovery CerberusUnavailable, - 1 sts CerberusUnavailable"),
    Row("auto", "stranger", "1, 2", "", "v2 stranger 1", fails="stranger 1 kms PrincipalRejected"),
    Row(
        "auto",
        "stranger, user",
        "1, 2",
        "",
        "v2 stranger 1, v2 user 1",
        fails="stranger 1 kms PrincipalRejected, user 1 kms PrincipalRejected",
    ),
    Row(
        "auto",
        "role",
        "1, 2",
        "v2 off, v1 off, sts off",
        "v2 role 1, sts 1, v1 role 1",
        fails="role 1 kms MethodNotOffered, - 1 sts MethodNotOffered, role 1 kms v1 MethodNotOffered",
    ),
    Row(
        "kms",
        "stranger, role",
        "1",
        "v2 off, v1 off",
        "v2 stranger 1, v1 stranger 1",
        fails="stranger 1 kms MethodNotOffered, stranger 1 kms v1 MethodNotOffered",
    ),
    Row("sts", "role", "1, 2", "sts off", "sts 1", fails="- 1 sts MethodNotOffered"),
    Row("sts", "path", "1, 2", "", "sts 1", fails="- 1 sts PrincipalRejected"),
    Row(
        "sts",
        "role",
        "1, 2",
        "sts down",
        "sts 1, sts 2",
        fails="- 1 sts CerberusUnavailable, - 2 sts CerberusUnavailable",
    ),
    Row(
        "auto",
        "role",
        "1, 2",
        "kms down",
        "v2 role 1, v2 role 2",
        "1, 2",
        "role 1 kms CerberusUnavailable, role 2 kms CerberusUnavailable",
    ),
    Row(
        "auto",
        "role",
        "1, 2",
        "kms down, no key 1",
        "v2 role 1, v2 role 2",
        "2",
        "role 1 kms CerberusUnavailable, role 2 kms CerberusUnavailable",
    ),
    Row(
        "kms",
        "role",
        "1, 2",
        "cerberus down",
        "v2 role 1, v2 role 2",
        fails="role 1 kms CerberusUnavailable, role 2 kms CerberusUnavailable",
    ),
    Row(
        "auto",
        "stranger, role",
        "1, 2",
        "no policy",
        "v2 stranger 1, v2 role 1, v2 role 2",
        "1, 2",
        "stranger 1 kms PrincipalRejected, role 1 kms DecryptionDenied, role 2 kms DecryptionDenied",
    ),
    Row(
        "auto",
        "stranger, role",
        "1, 2",
        "v2 off, sts off, no policy",
        "v2 stranger 1, sts 1, v1 stranger 1, v1 role 1, v1 role 2",
        "1, 2",
        "stranger 1 kms MethodNotOffered, - 1 sts MethodNotOffered, stranger 1 kms v1 PrincipalRejected, "
        "role 1 kms v1 DecryptionDenied, role 2 kms v1 DecryptionDenied",
    ),
    Row(
        "kms",
        "role",
        "1, 2",
        "another account",
        "v2 role 1, v2 role 2",
        "1, 2",
        "role 1 kms InvalidResponse, role 2 kms InvalidResponse",
    ),
    Row(
        "kms",
        "user",
        "1, 2",
        "v2 off",
        "v2 user 1",
        fails="user 1 kms MethodNotOffered, user 1 kms v1 ConfigurationError",
    ),
]


def split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def asked(function: Function) -> list[str]:
    """What was asked of Cerberus, as the table writes it."""
    numbers = {region: number for number, region in REGIONS.items()}
    result = []
    for request in function.cerberus.requests:
        if request.path == "/v2/auth/sts-identity":
            result.append(f"sts {numbers[scope(request).partition('/')[0]]}")
            continue
        body = json.loads(request.body)
        version = request.path[1:3]
        arn = body.get("iam_principal_arn") or f"arn:aws:iam::{body['account_id']}:role/{body['role_name']}"
        result.append(f"{version} {NAMES[arn]} {numbers[body['region']]}")
    return result


def aws_calls(function: Function) -> list[str]:
    """What the function called of AWS; what Cerberus calls, and replays, is not among it."""
    numbers = {region: number for number, region in REGIONS.items()}
    return [
        f"{call.action} {numbers[call.region]}"
        for call in function.stack.aws.calls
        if call.account == function.stack.aws.FUNCTION_ACCOUNT
    ]


@pytest.mark.parametrize(
    "row", TABLE, ids=lambda row: f"{row.method}-{row.principals}-{row.regions}-{row.faults}".replace(" ", "")
)
def test_which_way_wins(row: Row, function: Function) -> None:
    regions = [REGIONS[number] for number in split(row.regions)]
    principals = [PRINCIPALS[name] for name in split(row.principals)]
    if PRINCIPALS["path"] in principals:
        function.stack.create_role(PRINCIPALS["path"])
        function.become(PRINCIPALS["path"])
    function.configure(
        CERBERUS_AUTH_METHOD=row.method,
        CERBERUS_IAM_ROLE_ARN=",".join(principals),
        CERBERUS_FALLBACK_REGIONS=",".join(regions[1:]),
        CERBERUS_MAX_ATTEMPTS="1",
        CERBERUS_READ_TIMEOUT="2",
    )
    for name in regions:
        for arn in principals:
            if ":role/" in arn and arn not in (PRINCIPALS["stranger"], PRINCIPALS["pathless"]):
                function.stack.cerberus.key_arn(arn, name)  # so that the first answer is quick
    for fault in split(row.faults):
        FAULTS[fault](function)
    function.stack.aws.calls.clear()
    auth = function.auth()
    if row.fails:
        check_failure(row, function.failure(auth.token))
    else:
        assert auth.token()
    expected = split(row.asked)
    assert asked(function) == expected
    decrypts = [call for call in aws_calls(function) if call.startswith("Decrypt")]
    assert decrypts == [f"Decrypt {number}" for number in split(row.decrypts)]
    if not row.fails:
        auth.invalidate()
        assert auth.token()
        assert asked(function) == [*expected, expected[-1]]  # remembered for the container


def check_failure(row: Row, error: CerberusError) -> None:
    """It has the class in which all attempts failed, and lists them, each with its place and its reason."""
    expected = split(row.fails)
    classes = {attempt.rpartition(" ")[2] for attempt in expected}
    assert type(error).__name__ == (classes.pop() if len(classes) == 1 else "AuthenticationFailed")
    numbers = {region: number for number, region in REGIONS.items()}
    assert [
        f"{NAMES.get(attempt.principal, '-')} {numbers[attempt.region]} {attempt.method} {type(attempt.error).__name__}"
        for attempt in error.attempts
    ] == expected
    for number, attempt in enumerate(error.attempts, 1):
        assert attempt.step
        assert len(expected) == 1 or f"\n  {number}. {attempt}" in str(error)
        assert str(attempt.error) in str(attempt)


def test_a_switched_off_method_is_not_asked_again_though_the_other_fails(function: Function) -> None:
    function.configure(CERBERUS_MAX_ATTEMPTS="1")
    FAULTS["v2 off"](function)
    function.stack.cerberus.server.faults.add(
        UNAVAILABLE, lambda request: request.path.endswith("sts-identity"), times=1
    )
    auth = function.auth()
    function.failure(auth.token)
    auth.invalidate()
    assert auth.token()
    assert asked(function) == ["v2 role 1", "sts 1", "sts 1"]


def test_kms_switched_off_under_way(function: Function) -> None:
    """Moving from KMS to STS: the same container, no failure between."""
    auth = function.auth()
    auth.token()
    FAULTS["v2 off"](function)
    for _ in range(2):
        auth.invalidate()
        assert auth.token()
    assert asked(function) == ["v2 role 1", "v2 role 1", "sts 1", "sts 1"]


def test_kms_switched_on_again_under_way(function: Function) -> None:
    FAULTS["v2 off"](function)
    auth = function.auth()
    auth.token()
    function.stack.cerberus.server.faults.clear()
    FAULTS["sts off"](function)
    for _ in range(2):
        auth.invalidate()
        assert auth.token()
    assert asked(function) == ["v2 role 1", "sts 1", "sts 1", "v2 role 1", "v2 role 1"]


def test_a_refused_token_handed_out_again_is_replaced_by_the_other_method(function: Function) -> None:
    function.stack.cerberus.kms_cache_seconds = 60
    auth = function.auth()
    first = auth.token()
    function.stack.cerberus.revoke()
    assert renewed(auth) != first
    assert asked(function) == ["v2 role 1", "v2 role 1", "sts 1"]


def test_who_cannot_say_its_name_still_signs(function: Function) -> None:
    """Discovery fails where STS is out of reach for the function; Cerberus can reach it."""
    function.configure(CERBERUS_IAM_ROLE_ARN=None, CERBERUS_MAX_ATTEMPTS="1")
    function.configure(AWS_ENDPOINT_URL_STS="http://127.0.0.1:9")  # discard: nobody listens
    assert function.auth().token()
    assert asked(function) == ["sts 1"]


def test_who_cannot_say_its_name_in_time_still_signs(function: Function) -> None:
    """The function's own STS hangs, as without a way to it in a VPC; half of the time is left for what follows."""
    function.configure(CERBERUS_IAM_ROLE_ARN=None, CERBERUS_TIMEOUT="4")
    is_own = lambda request: b"GetCallerIdentity" in request.body and "localhost" in request.headers["Host"]  # noqa: E731
    function.stack.aws.server.faults.add(Fault.hang(), is_own, times=None)
    assert function.auth().token()
    assert asked(function) == ["sts 1"]


@pytest.mark.parametrize("page", [Fault.html(404), Fault.status(404, b"not here")], ids=["html", "text"])
def test_a_load_balancers_404_does_not_lead_from_kms_to_sts(page: Fault, function: Function) -> None:
    at_cerberus(page, "/v2/auth/iam-principal")(function)
    assert type(function.failure(function.auth().token)) is CerberusUnavailable
    assert asked(function) == ["v2 role 1"]


@pytest.mark.parametrize(
    "body",
    [b"", b'{"status": 404, "error": "Not Found"}', b'{"errors": [{"code": 99996}]}'],
    ids=["empty", "web", "own"],
)
def test_cerberus_own_404_leads_from_kms_to_sts(body: bytes, function: Function) -> None:
    at_cerberus(Fault.status(404, body), "/v2/auth/iam-principal")(function)
    assert function.auth().token()
    assert asked(function) == ["v2 role 1", "sts 1"]


CHINESE_ROLE = "arn:aws-cn:iam::111111111111:role/orders"


@pytest.mark.parametrize("aws_client", ["signed", "sdk"])
@pytest.mark.parametrize("method", ["kms", "sts"])
def test_partition_aws_cn(method: str, aws_client: str, function: Function) -> None:
    statement = {**decrypt_statement(), "Resource": "arn:aws-cn:kms:*:222222222222:key/*"}
    function.stack.create_role(CHINESE_ROLE, [statement])
    function.become(CHINESE_ROLE)
    function.configure(
        AWS_REGION="cn-north-1",
        AWS_DEFAULT_REGION="cn-north-1",
        CERBERUS_IAM_ROLE_ARN=CHINESE_ROLE,
        CERBERUS_AUTH_METHOD=method,
        CERBERUS_AWS_CLIENT=aws_client,
    )
    assert function.auth().token()
    assert function.stack.cerberus.authentications == 1


def test_the_older_path_is_not_asked_for_partition_aws_cn(function: Function) -> None:
    FAULTS["v2 off"](function)
    function.configure(AWS_REGION="cn-north-1", CERBERUS_IAM_ROLE_ARN=CHINESE_ROLE, CERBERUS_AUTH_METHOD="kms")
    error = function.failure(function.auth().token)
    assert "accepts roles of partition aws only" in str(error)
    assert function.authentications == 1
