"""What goes wrong between a function and its token: the error's class and advice, what it cost, and that it tells no secret."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from cerberus_auth import (
    AccessDenied,
    AuthenticationFailed,
    BlockedAtEdge,
    CerberusClient,
    CerberusError,
    CerberusUnavailable,
    ConfigurationError,
    DeadlineExceeded,
    DecryptionDenied,
    InvalidResponse,
    MethodNotOffered,
    PrincipalRejected,
    SecretNotFound,
    TokenRefused,
)
from cerberus_auth.testing.http_server import Fault, Request, Response, Server
from integration.function import Function, closed_port, renewed
from local_stack.certificates import CertificateAuthority
from local_stack.stack import ROLE, SECRET, SECRET_PATH, decrypt_statement

REGION, OTHER_REGION = "us-west-2", "us-east-1"
STRANGER = "arn:aws:iam::111111111111:role/stranger"
ROLE_WITH_PATH = "arn:aws:iam::111111111111:role/team/path/web"
STATEMENT = (
    '{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "arn:aws:kms:*:222222222222:key/*", '
    '"Condition": {"Null": {"kms:EncryptionContextKeys": "true"}}}'
)
MADE_UP_CIPHERTEXT = base64.b64encode(b"no ciphertext of KMS, " * 8).decode()
IMPATIENT = {"CERBERUS_READ_TIMEOUT": "0.3"}
ALWAYS = None


@dataclass(frozen=True)
class Row:
    """A way to fail: how it comes about, and what of it is seen."""

    name: str
    arrange: Callable[[Function], object]
    error: type[CerberusError]
    says: tuple[str, ...]
    cerberus: int = 1
    """Requests that reach Cerberus."""
    kms: int = 0
    """Calls of kms:Decrypt."""
    settings: Mapping[str, str] = field(default_factory=dict)


def table(*rows: Row) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", [pytest.param(row, id=row.name.replace(" ", "-")) for row in rows])


def check(function: Function, row: Row) -> CerberusError:
    """Let it fail, and compare."""
    function.configure(**row.settings)
    row.arrange(function)
    auth = function.auth()
    error = function.failure(auth.token)
    assert type(error) is row.error, repr(error)
    assert [phrase for phrase in row.says if phrase not in str(error)] == [], str(error)
    assert (len(function.cerberus.requests), function.decryptions) == (row.cerberus, row.kms)
    return error


def nothing(function: Function) -> None:
    """The settings alone are what is wrong."""


def is_authentication(request: Request) -> bool:
    return "/auth/" in request.path


def is_kms_authentication(request: Request) -> bool:
    return request.path.endswith("/iam-principal")


def is_decrypt(request: Request) -> bool:
    return (request.headers["X-Amz-Target"] or "").endswith(".Decrypt")


def at_cerberus(fault: Fault, times: int | None = 1, when: Callable[[Request], bool] = is_authentication) -> Any:
    return lambda function: function.stack.cerberus.server.faults.add(fault, when, times)


def at_kms(fault: Fault, times: int | None = 1) -> Any:
    return lambda function: function.stack.aws.server.faults.add(fault, is_decrypt, times)


def service(**attributes: object) -> Callable[[Function], None]:
    """Set attributes of the stand-in for Cerberus."""

    def arrange(function: Function) -> None:
        for name, value in attributes.items():
            assert hasattr(function.stack.cerberus, name)
            setattr(function.stack.cerberus, name, value)

    return arrange


def own(status: int, code: object, headers: Mapping[str, str] | None = None) -> Fault:
    """An error in Cerberus' own form."""
    body = json.dumps({"error_id": "1", "errors": [{"code": code, "message": "in the words of Cerberus"}]}).encode()
    return Fault.status(status, body, {"Content-Type": "application/json", **(headers or {})})


def switched_off(*methods: str) -> Any:
    """The web framework's answer for a path that nothing is mapped to."""
    page = Fault.status(404, b'{"status": 404, "error": "Not Found"}', {"Content-Type": "application/json"})
    return at_cerberus(page, ALWAYS, lambda request: request.path.endswith(methods))


KMS_PATHS, STS_PATH = ("/iam-principal", "/iam-role"), "/sts-identity"


def answer(body: bytes) -> Any:
    return at_cerberus(Fault.status(200, body, {"Content-Type": "application/json"}))


def plaintext(**fields: object) -> Callable[[Function], None]:
    """What Cerberus encrypts; a token and its lease unless told otherwise."""
    whole = {"client_token": "made-up-token-0123456789", "lease_duration": 3600, **fields}
    return service(
        plaintext_override=json.dumps({name: value for name, value in whole.items() if value != ...}).encode()
    )


def policy(*statements: Mapping[str, Any]) -> Callable[[Function], None]:
    document = {"Version": "2012-10-17", "Statement": list(statements)} if statements else None
    return lambda function: function.stack.aws.put_role_policy(ROLE, document)


# Cerberus refuses


def deny(function: Function) -> None:
    function.stack.cerberus.deny(ROLE)


@table(
    Row("unknown principal", deny, PrincipalRejected, (ROLE, REGION, "99216", "exactly this ARN", "safe deposit box")),
    Row(
        "not an ARN that Cerberus takes",
        nothing,
        PrincipalRejected,
        ("99996", "CERBERUS_IAM_ROLE_ARN"),
        settings={"CERBERUS_IAM_ROLE_ARN": "arn:aws:iam::111111111111:root"},
    ),
    Row("partition off", service(partitions={"aws-cn"}), PrincipalRejected, ("99245", "partition")),
    Row(
        "blocked at the edge",
        at_cerberus(Fault.html(403)),
        BlockedAtEdge,
        ("403", "NAT", "firewall", "100 requests per hour", "CERBERUS_SHARED_CACHE_TABLE", "CERBERUS_SHARED_CACHE_KEY"),
        settings={"CERBERUS_IAM_ROLE_ARN": f"{ROLE},{STRANGER}", "CERBERUS_FALLBACK_REGIONS": OTHER_REGION},
    ),
    Row("too many requests, at the edge", at_cerberus(Fault.status(429)), BlockedAtEdge, ("429", "NAT")),
    Row("too many requests, at the edge, in HTML", at_cerberus(Fault.html(429)), BlockedAtEdge, ("429", "NAT")),
    Row("403 of Cerberus", at_cerberus(own(403, 99994)), PrincipalRejected, ("403, code 99994", "log")),
    Row("404 of a load balancer", at_cerberus(Fault.html(404)), CerberusUnavailable, ("404", "in front")),
    Row("400 of a load balancer", at_cerberus(Fault.html(400)), CerberusUnavailable, ("400", "in front")),
    Row("401 of a load balancer", at_cerberus(Fault.status(401)), CerberusUnavailable, ("401", "in front")),
    Row("a status that is none of its", at_cerberus(Fault.status(418)), CerberusUnavailable, ("418", "CERBERUS_URL")),
    Row("a code that is long", at_cerberus(own(400, 10**30)), PrincipalRejected, ("(400)", "log")),
    Row("a code that is text", at_cerberus(own(400, "forged\nline")), PrincipalRejected, ("(400)", "log")),
    Row("a code that is true", at_cerberus(own(400, True)), PrincipalRejected, ("(400)", "log")),
    Row("another method is wanted", at_cerberus(own(405, 120)), InvalidResponse, ("405, code 120", "CERBERUS_URL")),
    Row(
        "kms off",
        switched_off(*KMS_PATHS),
        MethodNotOffered,
        (
            f"1. {ROLE} in {REGION}, kms, auth request: MethodNotOffered",
            f"2. {ROLE} in {REGION}, kms v1, auth request: Method",
            "Cerberus returned 404 for /v2/auth/iam-principal: KMS authentication is disabled, or CERBERUS_URL has a path",
            "Set CERBERUS_AUTH_METHOD=sts",
        ),
        cerberus=2,
        settings={"CERBERUS_AUTH_METHOD": "kms"},
    ),
    Row(
        "sts off",
        switched_off(STS_PATH),
        MethodNotOffered,
        ("404", "STS authentication is disabled", "CERBERUS_AUTH_METHOD=kms", "CERBERUS_URL"),
        settings={"CERBERUS_AUTH_METHOD": "sts"},
    ),
    Row(
        "both off",
        switched_off(*KMS_PATHS, STS_PATH),
        MethodNotOffered,
        (
            f"1. {ROLE} in {REGION}, kms, auth request: MethodNotOffered",
            f"2. {REGION}, sts, auth request: MethodNotOffered",
        ),
        cerberus=3,
    ),
    Row(
        "unknown to sts",
        deny,
        PrincipalRejected,
        ("99216", "safe deposit box"),
        settings={"CERBERUS_AUTH_METHOD": "sts"},
    ),
    Row(
        "credentials that sts finds expired",
        lambda function: function.become(ROLE, duration_seconds=0),
        PrincipalRejected,
        ("401", "99238", "credentials have expired"),
        settings={"CERBERUS_AUTH_METHOD": "sts"},
    ),
    Row(
        "credentials that sts refuses",
        lambda function: function.configure(AWS_SESSION_TOKEN="not-the-session-token-of-these-keys"),
        PrincipalRejected,
        ("401", "99106", "AWS rejected"),
        settings={"CERBERUS_AUTH_METHOD": "sts"},
    ),
    Row(
        "a signature that does not match",
        lambda function: function.configure(AWS_SECRET_ACCESS_KEY="not-the-secret-key-of-this-access-key"),
        PrincipalRejected,
        ("400", "99237", "signature"),
        settings={"CERBERUS_AUTH_METHOD": "sts"},
    ),
)
def test_cerberus_refuses(function: Function, row: Row) -> None:
    check(function, row)


def test_sts_serves_where_kms_is_switched_off(function: Function) -> None:
    switched_off(*KMS_PATHS)(function)
    assert function.auth().token()
    assert [r.path for r in function.cerberus.requests] == ["/v2/auth/iam-principal", "/v2/auth/sts-identity"]
    assert function.decryptions == 0


# Cerberus answers something else than its contract says


@table(
    Row("no auth_data", answer(b"{}"), InvalidResponse, ("without auth_data", "CERBERUS_URL")),
    Row("auth_data that is a number", answer(b'{"auth_data": 5}'), InvalidResponse, ("without auth_data",)),
    Row("auth_data that is null", answer(b'{"auth_data": null}'), InvalidResponse, ("without auth_data",)),
    Row("not base64", service(auth_data_override="not base64!!"), InvalidResponse, ("not base64", "truncates")),
    Row(
        "base64 without its end", service(auth_data_override=MADE_UP_CIPHERTEXT[:-5]), InvalidResponse, ("not base64",)
    ),
    Row("base64 of a url", service(auth_data_override="_-_-" * 40), InvalidResponse, ("not base64",)),
    Row("base64 and more", service(auth_data_override=f"{MADE_UP_CIPHERTEXT}\n"), InvalidResponse, ("not base64",)),
    Row("empty auth_data", service(auth_data_override=""), InvalidResponse, ("0 bytes",)),
    Row(
        "too large auth_data",
        service(auth_data_override=base64.b64encode(b"x" * 6145).decode()),
        InvalidResponse,
        ("6145 bytes", "KMS ciphertext"),
    ),
    Row("a page", at_cerberus(Fault.html()), CerberusUnavailable, ("in front", "CERBERUS_URL")),
    Row("no body", at_cerberus(Fault.empty()), CerberusUnavailable, ("in front", "CERBERUS_URL")),
    Row("an array", answer(b'["auth_data"]'), InvalidResponse, ("without auth_data",)),
    Row("deep json", answer(b"[" * 200_000), InvalidResponse, ("without auth_data",)),
    Row("not utf-8", answer(b'{"auth_data": "\xff\xfe"}'), InvalidResponse, ("without auth_data",)),
    Row("compressed", at_cerberus(Fault.gzip_bomb(1 << 20)), InvalidResponse, ("compressed", "in front")),
    Row("too large a body", answer(b" " * ((1 << 20) + 1)), InvalidResponse, ("more than 1048576 bytes", "URL")),
    Row(
        "half a body",
        at_cerberus(Fault.half_body(), ALWAYS),
        CerberusUnavailable,
        ("closed before the answer was complete", "attempt 3 of 3"),
        cerberus=3,
    ),
)
def test_cerberus_answers_otherwise_than_agreed(function: Function, row: Row) -> None:
    check(function, row)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(function: Function, status: int) -> None:
    arrived: list[Request] = []
    with Server(lambda request: arrived.append(request) or Response(200)) as elsewhere:  # type: ignore[func-returns-value]
        fault = Fault.status(status, headers={"Location": f"{elsewhere.url}/v2/auth/iam-principal"})
        says = (f"redirects ({status})", "set its URL to the final address")
        check(function, Row("", at_cerberus(fault), CerberusUnavailable, says))
        assert elsewhere.connections == 0
    assert arrived == []


@table(
    Row(
        "not json",
        service(plaintext_override=b"no JSON, but made-up-token-0123456789"),
        InvalidResponse,
        ("not a JSON object",),
    ),
    Row("not an object", service(plaintext_override=b'["made-up-token"]'), InvalidResponse, ("not a JSON object",)),
    Row("not utf-8", service(plaintext_override=b'{"client_token": "\xff"}'), InvalidResponse, ("not a JSON object",)),
    Row("no client_token", plaintext(client_token=...), InvalidResponse, ("no client_token",)),
    Row("empty client_token", plaintext(client_token=""), InvalidResponse, ("no client_token",)),
    Row("client_token that is a number", plaintext(client_token=1234567890123), InvalidResponse, ("no client_token",)),
    Row(
        "client_token with a line break",
        plaintext(client_token="made-up\r\nX-Evil: 1"),
        InvalidResponse,
        ("invalid in a header",),
    ),
    Row(
        "client_token with a zero",
        plaintext(client_token="made-up-\0-token"),
        InvalidResponse,
        ("invalid in a header",),
    ),
    Row("client_token of no ascii", plaintext(client_token="made-up-tökén"), InvalidResponse, ("invalid in a header",)),
    Row("endless client_token", plaintext(client_token="t" * 4000, lease_duration=None), InvalidResponse, ("lease",)),
    Row("lease 0", service(lease_seconds=0), InvalidResponse, ("lease_duration",)),
    Row("negative lease", service(lease_seconds=-3600), InvalidResponse, ("lease_duration",)),
    Row("lease that is a string", service(lease_seconds="3600"), InvalidResponse, ("lease_duration",)),
    Row("no lease", service(lease_seconds=None), InvalidResponse, ("lease_duration",)),
    Row("lease that is true", service(lease_seconds=True), InvalidResponse, ("lease_duration",)),
    Row("lease of 30 thousand years", service(lease_seconds=10**12), InvalidResponse, ("from 1 to 31622400",)),
    Row("lease that is infinite", service(lease_seconds=float("inf")), InvalidResponse, ("lease_duration",)),
    Row("lease that is not a number", service(lease_seconds=float("nan")), InvalidResponse, ("lease_duration",)),
)
@pytest.mark.parametrize("method", ["kms", "sts"])
def test_a_token_that_is_none_is_refused_and_not_kept(function: Function, row: Row, method: str) -> None:
    function.configure(CERBERUS_AUTH_METHOD=method)
    row.arrange(function)
    auth = function.auth()
    error = function.failure(auth.token)
    assert type(error) is row.error
    assert all(phrase in str(error) for phrase in (*row.says, "CERBERUS_URL")), str(error)
    assert (function.authentications, function.decryptions) == (1, int(method == "kms"))

    service(plaintext_override=None, lease_seconds=3600)(function)  # the service is healed
    auth.invalidate()
    assert auth.token() == auth.token()
    assert function.authentications == 2
    assert CerberusClient(auth).read(SECRET_PATH) == SECRET


@pytest.mark.parametrize("metadata", [{}, {"aws_iam_principal_arn": STRANGER}], ids=["nobody", "another"])
def test_a_token_made_for_another_is_refused(function: Function, metadata: dict[str, str]) -> None:
    plaintext(metadata=metadata)(function)
    error = function.failure(function.auth().token)
    assert type(error) is InvalidResponse
    assert f"it is for another principal than {ROLE}" in str(error)


def test_truncated_metadata_say_nothing_of_the_principal(function: Function) -> None:
    plaintext(metadata={"_truncated": "true"}, policies=["_truncated"])(function)
    assert function.auth().token() == "made-up-token-0123456789"


# KMS


def once_encrypted(function: Function, end: Callable[[str], None]) -> None:
    """Do this to the key when Cerberus has encrypted with it: before that, it is Cerberus that would fail."""
    server = function.stack.cerberus.server
    respond = server.respond

    def respond_and_end(request: Request) -> Response:
        response = respond(request)
        if is_kms_authentication(request) and response.status == 200:
            end(function.stack.cerberus.key_arn(ROLE, json.loads(request.body)["region"]))
        return response

    server.respond = respond_and_end


def disable_key(function: Function, *regions: str) -> None:
    aws = function.stack.aws
    once_encrypted(function, lambda arn: aws.disable_key(arn) if arn.split(":")[3] in (regions or [REGION]) else None)


def delete_key(function: Function) -> None:
    once_encrypted(function, function.stack.aws.schedule_deletion)


def make_role_again(function: Function) -> None:
    function.stack.cerberus.key_arn(ROLE, REGION)  # its policy names the role of now
    function.stack.aws.delete_role(ROLE)
    function.stack.create_role(ROLE)
    function.become(ROLE)


def encrypt_elsewhere(function: Function) -> None:
    """Have Cerberus hand out what it encrypted in another region."""
    with requests.Session() as session:
        session.verify = function.environment["REQUESTS_CA_BUNDLE"]
        asked = {"iam_principal_arn": ROLE, "region": OTHER_REGION}
        url = f"{function.stack.cerberus.url}/v2/auth/iam-principal"
        function.stack.cerberus.auth_data_override = session.post(url, json=asked).json()["auth_data"]
    function.cerberus.requests.clear()


def hang_at_kms(function: Function) -> None:
    function.stack.cerberus.key_arn(ROLE, REGION)  # made beforehand, so that Cerberus is quick
    at_kms(Fault.hang(), ALWAYS)(function)


THROTTLED = Fault.status(400, b'{"__type": "ThrottlingException", "message": "Rate exceeded"}')
OTHER_ACCOUNT = decrypt_statement("333333333333")
DENY = {"Effect": "Deny", "Action": "kms:*", "Resource": "*"}


@table(
    Row("no policy", policy(), DecryptionDenied, ("execution role", STATEMENT), kms=1),
    Row("policy for another account", policy(OTHER_ACCOUNT), DecryptionDenied, ("execution role", STATEMENT), kms=1),
    Row("explicit deny", policy(decrypt_statement(), DENY), DecryptionDenied, ("Deny",), kms=1),
    Row("role made again", make_role_again, DecryptionDenied, ("created again", "five minutes"), kms=1),
    Row(
        "encrypted in another region",
        encrypt_elsewhere,
        DecryptionDenied,
        ("the region", "CERBERUS_REGION"),
        kms=1,
    ),
    Row("disabled key", disable_key, DecryptionDenied, ("DisabledException", "CERBERUS_FALLBACK_REGIONS"), kms=1),
    Row("key to be deleted", delete_key, DecryptionDenied, ("KMSInvalidStateException", "operator"), kms=1),
    Row(
        "key of another account",
        nothing,
        InvalidResponse,
        ("222222222222", "333333333333", "CERBERUS_KMS_ACCOUNT_ID", "rejected"),
        kms=1,
        settings={"CERBERUS_KMS_ACCOUNT_ID": "333333333333"},
    ),
    Row(
        "no ciphertext of KMS",
        service(auth_data_override=MADE_UP_CIPHERTEXT),
        InvalidResponse,
        ("InvalidCiphertextException", "CERBERUS_URL"),
        kms=1,
    ),
    Row(
        "throttled",
        at_kms(THROTTLED, ALWAYS),
        CerberusUnavailable,
        ("KMS in us-west-2", "attempt 3 of 3"),
        kms=3,
    ),
    Row(
        "expired credentials",
        lambda function: function.become(ROLE, duration_seconds=0),
        DecryptionDenied,
        ("ExpiredTokenException", "AWS_SESSION_TOKEN"),
        kms=1,
    ),
    Row(
        "wrong secret key",
        lambda function: function.configure(AWS_SECRET_ACCESS_KEY="not-the-secret-key-of-this-access-key"),
        DecryptionDenied,
        ("InvalidSignatureException", "AWS_SECRET_ACCESS_KEY"),
        kms=1,
    ),
    Row("KMS failing", at_kms(Fault.html(500), ALWAYS), CerberusUnavailable, ("KMS", "answered 500"), kms=3),
    Row("KMS resetting", at_kms(Fault.reset(), ALWAYS), CerberusUnavailable, ("KMS", "connection broke"), kms=3),
    Row(
        "KMS hanging",
        hang_at_kms,
        CerberusUnavailable,
        ("KMS", "no complete answer within 1 s", "attempt 2 of 2"),
        kms=2,
        settings={"CERBERUS_READ_TIMEOUT": "1", "CERBERUS_MAX_ATTEMPTS": "2"},
    ),
    Row("a page for KMS", at_kms(Fault.html()), InvalidResponse, ("KMS", "AWS_ENDPOINT_URL_KMS"), kms=1),
    Row("nothing from KMS", at_kms(Fault.empty()), InvalidResponse, ("KMS", "AWS_ENDPOINT_URL_KMS"), kms=1),
    Row("no plaintext from KMS", at_kms(Fault.status(200, b"{}")), InvalidResponse, ("without plaintext",), kms=1),
    Row(
        "a plaintext that is not base64",
        at_kms(Fault.status(200, b'{"KeyId": "arn:aws:kms:us-west-2:222222222222:key/1", "Plaintext": "?"}')),
        InvalidResponse,
        ("not base64",),
        kms=1,
    ),
    Row(
        "a key that is none",
        at_kms(Fault.status(200, b'{"KeyId": "key/1", "Plaintext": "e30="}')),
        InvalidResponse,
        ("invalid key ARN",),
        kms=1,
    ),
)
def test_kms_refuses_or_fails(function: Function, row: Row) -> None:
    check(function, row)


@pytest.mark.parametrize("statements", [[], [OTHER_ACCOUNT]], ids=["no policy", "another account"])
def test_the_statement_that_the_error_names_is_enough(function: Function, statements: list[dict[str, Any]]) -> None:
    policy(*statements)(function)
    auth = function.auth()
    advice = re.search(r"\{.*\}", str(function.failure(auth.token)))
    assert advice is not None
    policy(json.loads(advice[0]))(function)
    auth.invalidate()
    assert auth.token()


def test_a_role_made_again_is_let_in_once_cerberus_has_mended_its_key(function: Function) -> None:
    make_role_again(function)
    auth = function.auth()
    assert isinstance(function.failure(auth.token), DecryptionDenied)
    function.stack.cerberus.check_key_policies()
    auth.invalidate()
    assert auth.token()


def test_a_throttled_decrypt_is_repeated(function: Function) -> None:
    at_kms(THROTTLED, times=2)(function)
    assert function.auth().token()
    assert (function.authentications, function.decryptions) == (1, 3)


# The network


@pytest.fixture
def other_ca(tmp_path: Path) -> str:
    """The certificate of an authority that has nothing to do with the stack's."""
    return str(CertificateAuthority(tmp_path).bundle)


@table(
    Row(
        "refused",
        lambda function: function.stack.cerberus.server.stop_listening(),
        CerberusUnavailable,
        ("no connection", "refused", "attempt 3 of 3", "VPC"),
        cerberus=0,
    ),
    Row("reset", at_cerberus(Fault.reset(), ALWAYS), CerberusUnavailable, ("connection broke", "3 of 3"), cerberus=3),
    Row("503", at_cerberus(Fault.status(503), ALWAYS), CerberusUnavailable, ("answered 503", "3 of 3"), cerberus=3),
    Row("502 page", at_cerberus(Fault.html(502), ALWAYS), CerberusUnavailable, ("answered 502", "3 of 3"), cerberus=3),
    Row("429", at_cerberus(own(429, 99999), ALWAYS), CerberusUnavailable, ("answered 429", "3 of 3"), cerberus=3),
    Row(
        "429 for longer than there is time",
        at_cerberus(own(429, 99999, {"Retry-After": "60"}), ALWAYS),
        CerberusUnavailable,
        ("answered 429", "attempt 1 of 3"),
    ),
    Row(
        "one attempt only",
        at_cerberus(Fault.status(503), ALWAYS),
        CerberusUnavailable,
        ("attempt 1 of 1",),
        settings={"CERBERUS_MAX_ATTEMPTS": "1"},
    ),
    Row(
        "hanging",
        at_cerberus(Fault.hang(), ALWAYS),
        CerberusUnavailable,
        ("no complete answer within 0.3 s", "3 of 3"),
        cerberus=3,
        settings=IMPATIENT,
    ),
    Row(
        "hanging after the headers",
        at_cerberus(Fault.hang_after_headers(), ALWAYS),
        CerberusUnavailable,
        ("no complete answer within 0.3 s",),
        cerberus=3,
        settings=IMPATIENT,
    ),
    Row(
        "dripping headers",
        at_cerberus(Fault.drip_headers(0.02), ALWAYS),
        CerberusUnavailable,
        ("no complete answer within 0.3 s",),
        cerberus=3,
        settings=IMPATIENT,
    ),
    Row(
        "dripping body",
        at_cerberus(Fault.drip_body(0.02), ALWAYS),
        CerberusUnavailable,
        ("no complete answer within 0.3 s",),
        cerberus=3,
        settings=IMPATIENT,
    ),
    Row(
        "dripping for longer than the deadline",
        at_cerberus(Fault.drip_body(0.02), ALWAYS),
        DeadlineExceeded,
        ("timeout of 1 s", "waiting for Cerberus", "CERBERUS_TIMEOUT"),
        settings={"CERBERUS_TIMEOUT": "1"},
    ),
    Row(
        "hanging for longer than the deadline",
        at_cerberus(Fault.hang(), ALWAYS),
        DeadlineExceeded,
        ("timeout of 1 s", "waiting for Cerberus"),
        settings={"CERBERUS_TIMEOUT": "1"},
    ),
    Row(
        "its key cannot be used",
        at_cerberus(Fault.status(500, b'{"errors": [{"code": 99223, "message": "key"}]}'), ALWAYS),
        CerberusUnavailable,
        ("answered 500",),
        cerberus=3,
    ),
)
def test_cerberus_is_out_of_reach(function: Function, row: Row) -> None:
    check(function, row)


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        pytest.param(Fault.status(503), 2, id="503"),
        pytest.param(Fault.reset(), 2, id="reset"),
        pytest.param(Fault.half_body(), 1, id="half-body"),
        pytest.param(own(500, 10), 2, id="key-race"),
        pytest.param(own(429, 99999, {"Retry-After": "1"}), 1, id="429"),
        pytest.param(own(429, 99999, {"Retry-After": "soon"}), 1, id="429-without-a-number"),
    ],
)
def test_a_passing_failure_is_overcome(function: Function, fault: Fault, times: int) -> None:
    at_cerberus(fault, times)(function)
    assert function.auth().token()
    assert (function.authentications, function.decryptions) == (times + 1, 1)


def test_an_untrusted_certificate_is_not_tried_twice(function: Function, other_ca: str) -> None:
    settings = {"AWS_CA_BUNDLE": other_ca, "REQUESTS_CA_BUNDLE": other_ca}
    says = ("certificate of Cerberus is not trusted", "REQUESTS_CA_BUNDLE")
    check(function, Row("", nothing, CerberusUnavailable, says, cerberus=0, settings=settings))
    assert function.stack.cerberus.server.connections == 1


def test_a_connection_closed_while_idle_costs_nothing(function: Function) -> None:
    auth = function.auth()
    auth.token()
    function.stack.cerberus.server.drop_connections()
    function.stack.aws.server.drop_connections()
    auth.invalidate()
    assert auth.token()
    assert (function.authentications, function.decryptions) == (2, 2)


# Which principal


def identity_calls(function: Function) -> tuple[int, int]:
    aws = function.stack.aws
    return aws.count("sts", "GetCallerIdentity"), aws.count("lambda", "GetFunctionConfiguration")


def arrange_role_with_path(function: Function, *, may_read_itself: bool = True) -> None:
    """A function whose role has a path, granted under its full ARN only, and no word of it in the environment."""
    of_itself = {
        "Effect": "Allow",
        "Action": "lambda:GetFunctionConfiguration",
        "Resource": "arn:aws:lambda:us-west-2:111111111111:function:web",
    }
    function.stack.create_role(ROLE_WITH_PATH, [decrypt_statement(), *([of_itself] if may_read_itself else [])])
    function.stack.aws.create_function("web", ROLE_WITH_PATH)
    function.become(ROLE_WITH_PATH)
    function.configure(CERBERUS_IAM_ROLE_ARN=None, AWS_LAMBDA_FUNCTION_NAME="web")


def test_a_configured_role_needs_no_identity_call(function: Function) -> None:
    function.configure(AWS_LAMBDA_FUNCTION_NAME="web")
    assert function.auth().token()
    assert function.posted == [(ROLE, REGION)]
    assert identity_calls(function) == (0, 0)


def test_the_role_is_discovered_by_one_call(function: Function) -> None:
    function.configure(CERBERUS_IAM_ROLE_ARN=None, AWS_LAMBDA_FUNCTION_NAME="web")
    assert function.auth().token()
    assert function.posted == [(ROLE, REGION)]
    assert identity_calls(function) == (1, 0)


def test_a_role_with_a_path_is_discovered_and_kept(function: Function) -> None:
    arrange_role_with_path(function)
    auth = function.auth()
    assert auth.token()
    without_path = "arn:aws:iam::111111111111:role/web"
    assert function.posted == [(without_path, REGION), (ROLE_WITH_PATH, REGION)]
    assert identity_calls(function) == (1, 1)
    auth.invalidate()
    assert auth.token()
    assert function.posted[2:] == [(ROLE_WITH_PATH, REGION)]
    assert identity_calls(function) == (1, 1)


def test_a_role_with_a_path_that_may_not_read_its_function(function: Function) -> None:
    arrange_role_with_path(function, may_read_itself=False)
    check(function, Row("", nothing, PrincipalRejected, ("99216", "with the role's path", "safe deposit box")))
    assert identity_calls(function) == (1, 1)


def test_the_functions_configuration_is_asked_where_sts_is_down(function: Function) -> None:
    arrange_role_with_path(function)
    function.configure(AWS_ENDPOINT_URL_STS=closed_port())
    assert function.auth().token()
    assert function.posted == [(ROLE_WITH_PATH, REGION)]
    assert identity_calls(function) == (0, 1)


def test_no_way_to_learn_the_role(function: Function) -> None:
    arrange_role_with_path(function, may_read_itself=False)
    says = (
        f"1. {REGION}, discovery, sts:GetCallerIdentity: CerberusUnavailable: STS in {REGION} is unavailable",
        f"2. {REGION}, discovery, lambda:GetFunctionConfiguration: ConfigurationError: Lambda in {REGION} did not return",
        "AccessDeniedException",
        "Set CERBERUS_IAM_ROLE_ARN",
    )
    settings = {"AWS_ENDPOINT_URL_STS": closed_port(), "CERBERUS_AUTH_METHOD": "kms"}
    check(function, Row("", nothing, AuthenticationFailed, says, cerberus=0, settings=settings))


def test_several_principals_are_tried_in_order_and_the_one_that_works_is_kept(function: Function) -> None:
    function.configure(CERBERUS_IAM_ROLE_ARN=f"{STRANGER},{ROLE},{STRANGER}-2")
    auth = function.auth()
    assert auth.token()
    assert function.posted == [(STRANGER, REGION), (ROLE, REGION)]
    auth.invalidate()
    assert auth.token()
    assert function.posted[2:] == [(ROLE, REGION)]
    deny(function)
    auth.invalidate()
    function.failure(auth.token)
    assert function.posted[3:] == [(ROLE, REGION), (STRANGER, REGION), (f"{STRANGER}-2", REGION)]


def test_several_failures_are_listed_each_with_where_and_why(function: Function) -> None:
    disable_key(function, REGION, OTHER_REGION)
    settings = {"CERBERUS_IAM_ROLE_ARN": f"{STRANGER},{ROLE}", "CERBERUS_FALLBACK_REGIONS": OTHER_REGION}
    says = (
        f"1. {STRANGER} in {REGION}, kms, auth request: PrincipalRejected: Cerberus rejected",
        f"2. {ROLE} in {REGION}, kms, kms:Decrypt: DecryptionDenied: KMS in {REGION} cannot use the key",
        f"3. {ROLE} in {OTHER_REGION}, kms, kms:Decrypt: DecryptionDenied: KMS in {OTHER_REGION} cannot use the key",
    )
    error = check(function, Row("", nothing, AuthenticationFailed, says, cerberus=3, kms=2, settings=settings))
    assert isinstance(error, AuthenticationFailed)
    assert [(attempt.principal, attempt.region, attempt.step) for attempt in error.attempts] == [
        (STRANGER, REGION, "auth request"),
        (ROLE, REGION, "kms:Decrypt"),
        (ROLE, OTHER_REGION, "kms:Decrypt"),
    ]


# Which region


def test_a_region_that_fails_is_passed_over_at_the_next_renewal(function: Function) -> None:
    disable_key(function)
    function.configure(CERBERUS_FALLBACK_REGIONS=OTHER_REGION)
    auth = function.auth()
    assert auth.token()
    assert function.posted == [(ROLE, REGION), (ROLE, OTHER_REGION)]
    auth.invalidate()
    assert auth.token()
    assert function.posted[2:] == [(ROLE, OTHER_REGION)]
    assert function.decryptions == 3


def test_a_region_that_hangs_is_asked_once_while_another_remains(function: Function) -> None:
    def for_first_region(request: Request) -> bool:
        return is_authentication(request) and REGION.encode() in request.body

    function.stack.cerberus.key_arn(ROLE, OTHER_REGION)  # made beforehand, so that the second region is quick
    at_cerberus(Fault.hang(), ALWAYS, for_first_region)(function)
    function.configure(CERBERUS_FALLBACK_REGIONS=OTHER_REGION, CERBERUS_READ_TIMEOUT="1")
    assert function.auth().token()
    assert function.posted == [(ROLE, REGION), (ROLE, OTHER_REGION)]


# After a failure


def test_a_failure_is_remembered_for_a_moment_until_it_is_forgotten(function: Function) -> None:
    deny(function)
    auth = function.auth()
    first, second = function.failure(auth.token), function.failure(auth.token)
    assert first == second
    assert first is not second
    assert function.authentications == 1
    auth.invalidate()
    assert function.failure(auth.token) == first
    assert function.authentications == 2


# Reading


def reads(function: Function) -> int:
    return sum(request.path.startswith("/v1/secret/") for request in function.cerberus.requests)


def is_read(request: Request) -> bool:
    return request.path.startswith("/v1/secret/")


def read_secret(function: Function) -> Callable[[], object]:
    client = CerberusClient(function.auth())
    return lambda: client.read(SECRET_PATH, max_age=0)


@dataclass(frozen=True)
class Reading:
    """A read that fails."""

    name: str
    arrange: Callable[[Function], object]
    error: type[CerberusError]
    says: str
    path: str = SECRET_PATH
    authentications: int = 1
    reads: int = 1


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name)
        for row in (
            Reading(
                "401", at_cerberus(Fault.status(401), ALWAYS, is_read), TokenRefused, "log", authentications=2, reads=2
            ),
            Reading("403", nothing, AccessDenied, "Give it a role in that safe deposit box", "app/other/db"),
            Reading("404", nothing, SecretNotFound, "spelling", "app/orders/nothing"),
            Reading("page", at_cerberus(Fault.html(), 1, is_read), CerberusUnavailable, "CERBERUS_URL"),
            Reading("empty", at_cerberus(Fault.empty(), 1, is_read), CerberusUnavailable, "CERBERUS_URL"),
            Reading(
                "no-data", at_cerberus(Fault.status(200, b'{"data": []}'), 1, is_read), InvalidResponse, "no secret"
            ),
            Reading("400", at_cerberus(Fault.status(400), 1, is_read), CerberusUnavailable, "CERBERUS_URL"),
            Reading(
                "503", at_cerberus(Fault.status(503), ALWAYS, is_read), CerberusUnavailable, "answered 503", reads=3
            ),
            Reading("half", at_cerberus(Fault.half_body(), ALWAYS, is_read), CerberusUnavailable, "complete", reads=3),
            Reading("climbs", nothing, ConfigurationError, "category/box/path", "app/../x", 0, 0),
            Reading("climbs-at-its-end", nothing, ConfigurationError, "category/box/path", "app/orders/..", 0, 0),
            Reading("dot", nothing, ConfigurationError, "category/box/path", "app/./orders", 0, 0),
            Reading("empty-part", nothing, ConfigurationError, "category/box/path", "app//orders", 0, 0),
            Reading("no-path", nothing, ConfigurationError, "category/box/path", "", 0, 0),
            Reading("category-only", nothing, ConfigurationError, "category/box/path", "x", 0, 0),
            Reading("line-break", nothing, ConfigurationError, "character", "app/orders/a\r\nb", 0, 0),
        )
    ],
)
def test_a_read_fails(function: Function, row: Reading) -> None:
    function.stack.cerberus.put_secret("app/other/db", {"password": "of-somebody-else"})
    row.arrange(function)
    client = CerberusClient(function.auth())
    error = function.failure(lambda: client.read(row.path))
    assert type(error) is row.error, repr(error)
    assert row.says in str(error)
    assert (function.authentications, reads(function)) == (row.authentications, row.reads)


def test_a_redirected_read_is_not_followed(function: Function) -> None:
    with Server(lambda request: Response(200)) as elsewhere:
        at_cerberus(Fault.status(302, headers={"Location": elsewhere.url}), 1, is_read)(function)
        assert isinstance(function.failure(read_secret(function)), CerberusUnavailable)
        assert elsewhere.connections == 0


def test_a_revoked_token_costs_one_more_authentication(function: Function) -> None:
    read = read_secret(function)
    read()
    function.stack.cerberus.revoke()
    assert read() == SECRET
    assert (function.authentications, reads(function)) == (2, 3)


def test_a_refused_token_handed_out_again_is_a_failure(function: Function) -> None:
    function.stack.cerberus.kms_cache_seconds = 60
    function.configure(CERBERUS_AUTH_METHOD="kms")  # by itself it would go on to STS
    read = read_secret(function)
    read()
    function.stack.cerberus.revoke()
    error = function.failure(read)
    assert type(error) is TokenRefused
    assert "Retry in a few seconds" in str(error)
    assert (function.authentications, reads(function)) == (2, 2)


def test_a_failing_renewal_after_a_refusal_tells_no_token(function: Function) -> None:
    auth = function.auth()
    read = read_secret(function)
    read()
    function.stack.cerberus.revoke()
    deny(function)
    assert isinstance(function.failure(read), PrincipalRejected)
    with requests.Session() as session:
        assert isinstance(function.failure(lambda: renewed(auth)), PrincipalRejected)
        auth.invalidate()
        assert isinstance(function.failure(lambda: session.get(secret_url(function), auth=auth)), PrincipalRejected)


def test_a_refused_token_of_the_settings_is_not_told(function: Function) -> None:
    function.configure(CERBERUS_TOKEN="made-up-token-of-somebody")
    assert isinstance(function.failure(read_secret(function)), TokenRefused)
    auth = function.auth()
    assert isinstance(function.failure(lambda: renewed(auth)), TokenRefused)
    assert function.authentications == 0


@pytest.mark.parametrize("fault", [Fault.status(500), Fault.status(403), Fault.reset()], ids=["500", "403", "reset"])
def test_a_revocation_that_fails_tells_no_token_and_forgets_it(function: Function, fault: Fault) -> None:
    auth = function.auth()
    token = auth.token()
    at_cerberus(fault, ALWAYS, lambda request: request.method == "DELETE")(function)
    function.failure(lambda: auth.close(revoke=True))
    assert auth.token() != token


# With requests


def secret_url(function: Function) -> str:
    return f"{function.stack.cerberus.url}/v1/secret/{SECRET_PATH}"


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    """Another origin."""
    with Server(lambda request: Response(200, b"{}")) as server:
        yield server


@pytest.fixture
def arrived(elsewhere: Server) -> list[Request]:
    """What the other origin has got."""
    requests_there: list[Request] = []
    respond = elsewhere.respond

    def see(request: Request) -> Response:
        requests_there.append(request)
        return respond(request)

    elsewhere.respond = see
    return requests_there


def test_requests_gets_a_new_token_for_a_refused_one(function: Function, session: requests.Session) -> None:
    auth = function.auth()
    auth.token()
    function.stack.cerberus.revoke()
    response = session.get(secret_url(function), auth=auth)
    assert response.json()["data"] == SECRET
    assert [earlier.status_code for earlier in response.history] == [401]
    assert (function.authentications, reads(function)) == (2, 2)


def test_requests_shows_a_second_refusal_to_its_user(function: Function, session: requests.Session) -> None:
    at_cerberus(Fault.status(401), ALWAYS, is_read)(function)
    assert session.get(secret_url(function), auth=function.auth()).status_code == 401
    assert (function.authentications, reads(function)) == (2, 2)


def test_a_failing_renewal_within_requests_tells_no_token(function: Function, session: requests.Session) -> None:
    auth = function.auth()
    auth.token()
    function.stack.cerberus.revoke()
    deny(function)
    assert isinstance(function.failure(lambda: session.get(secret_url(function), auth=auth)), PrincipalRejected)
    assert (function.authentications, reads(function)) == (2, 1)


def test_the_token_is_not_for_another_origin(function: Function, session: requests.Session, elsewhere: Server) -> None:
    auth = function.auth()
    error = function.failure(lambda: session.get(f"{elsewhere.url}/v1/secret/{SECRET_PATH}", auth=auth))
    assert type(error) is ConfigurationError
    assert "CERBERUS_URL" in str(error)
    assert elsewhere.connections == 0
    assert function.cerberus.requests == []


@pytest.mark.parametrize("refused_first", [False, True], ids=["at once", "after a refusal"])
def test_the_token_does_not_follow_a_redirect_to_another_origin(
    function: Function, session: requests.Session, elsewhere: Server, arrived: list[Request], refused_first: bool
) -> None:
    if refused_first:
        at_cerberus(Fault.status(401), 1, is_read)(function)
    at_cerberus(Fault.status(302, headers={"Location": f"{elsewhere.url}/there"}), 1, is_read)(function)
    assert session.get(secret_url(function), auth=function.auth()).status_code == 200
    assert [(request.path, request.headers["X-Cerberus-Token"]) for request in arrived] == [("/there", None)]


def test_the_token_follows_a_redirect_within_cerberus_and_no_further(
    function: Function, session: requests.Session, elsewhere: Server, arrived: list[Request]
) -> None:
    at_cerberus(Fault.status(302, headers={"Location": "/v1/secret/app/orders/moved"}), 1, is_read)(function)
    at_cerberus(Fault.status(302, headers={"Location": f"{elsewhere.url}/there"}), 1, is_read)(function)
    assert session.get(secret_url(function), auth=function.auth()).status_code == 200
    assert [request.headers["X-Cerberus-Token"] is not None for request in function.cerberus.requests] == [
        False,
        True,
        True,
    ]
    assert [(request.path, request.headers["X-Cerberus-Token"]) for request in arrived] == [("/there", None)]


def test_a_redirect_within_cerberus_after_a_refusal_carries_the_new_token(
    function: Function, session: requests.Session
) -> None:
    auth = function.auth()
    refused = auth.token()
    function.stack.cerberus.revoke()
    at_cerberus(Fault.status(401), 1, is_read)(function)
    at_cerberus(Fault.status(302, headers={"Location": f"/v1/secret/{SECRET_PATH}"}), 1, is_read)(function)
    assert session.get(secret_url(function), auth=auth).json()["data"] == SECRET
    sent = [request.headers["X-Cerberus-Token"] for request in function.cerberus.requests if is_read(request)]
    assert sent == [refused, auth.token(), auth.token()]


def test_a_request_that_comes_back_from_elsewhere_has_no_token_and_no_error(
    function: Function, session: requests.Session, elsewhere: Server
) -> None:
    """As a browser's would: what went elsewhere may not come back with the token."""
    elsewhere.respond = lambda request: Response(302, headers={"Location": secret_url(function)})
    at_cerberus(Fault.status(302, headers={"Location": f"{elsewhere.url}/there"}), 1, is_read)(function)
    assert session.get(secret_url(function), auth=function.auth()).status_code == 401
    assert function.authentications == 1
