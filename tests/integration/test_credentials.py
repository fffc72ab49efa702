"""Whose credentials decrypt and sign: those of a role assumed first, and of those that rotate always the current ones."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator
from types import SimpleNamespace

import botocore.credentials
import pytest

from cerberus_auth import ConfigurationError
from cerberus_auth.aws import temporary
from cerberus_auth.aws.calls import Credentials
from cerberus_auth.testing.http_server import Fault, Request, Response, Server
from integration.function import Function
from local_stack.stack import ROLE, decrypt_statement

ASSUMED = "arn:aws:iam::111111111111:role/team/secrets"
SESSION = "arn:aws:sts::111111111111:assumed-role/secrets/cerberus-auth"
OWN = "arn:aws:sts::111111111111:assumed-role/orders/function"
ALLOW = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": ASSUMED}
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"AWS": ROLE}, "Action": "sts:AssumeRole"}],
}


def document(*statements: dict[str, str]) -> dict[str, object]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def own_calls(function: Function) -> list[tuple[str, str | None]]:
    """The function's calls of AWS, each with who made it; without those replayed by Cerberus."""
    return [
        (call.action, call.principal_arn)
        for call in function.stack.aws.calls
        if call.account == function.stack.aws.FUNCTION_ACCOUNT and call.action != "GetCallerIdentity"
    ]


# CERBERUS_ASSUME_ROLE_ARN


@pytest.fixture
def assuming(function: Function) -> Function:
    """The execution role may assume another and nothing else; that one is known to Cerberus, and may decrypt."""
    aws = function.stack.aws
    aws.create_role(ASSUMED, document(decrypt_statement()), TRUST)
    aws.put_role_policy(ROLE, document(ALLOW))
    function.stack.cerberus.deny(ROLE)
    function.stack.cerberus.grant(ASSUMED)
    function.configure(CERBERUS_ASSUME_ROLE_ARN=ASSUMED, CERBERUS_IAM_ROLE_ARN=None, CERBERUS_AUTH_METHOD="kms")
    return function


CLIENTS = pytest.mark.parametrize("aws_client", ["signed", "sdk"])


@CLIENTS
def test_the_assumed_role_is_offered_and_decrypts(aws_client: str, assuming: Function) -> None:
    assuming.configure(CERBERUS_AWS_CLIENT=aws_client)
    auth = assuming.auth()
    for _ in range(3):
        assert auth.token()
        auth.invalidate()
    assert assuming.posted == [(ASSUMED, "us-west-2")] * 3
    assert own_calls(assuming) == [("AssumeRole", OWN), *[("Decrypt", SESSION)] * 3]  # assumed once


@CLIENTS
def test_the_assumed_role_signs(aws_client: str, assuming: Function) -> None:
    """STS tells Cerberus an ARN without the role's path, so this one is granted without."""
    assuming.stack.cerberus.grant("arn:aws:iam::111111111111:role/secrets")
    assuming.configure(CERBERUS_AWS_CLIENT=aws_client, CERBERUS_AUTH_METHOD="sts")
    auth = assuming.auth()
    for _ in range(2):
        assert auth.token()
        auth.invalidate()
    assert {call.principal for call in assuming.stack.cerberus.calls} == {SESSION}
    assert own_calls(assuming) == [("AssumeRole", OWN)]


def test_the_assumed_role_is_named(assuming: Function, caplog: pytest.LogCaptureFixture) -> None:
    assuming.stack.cerberus.grant("arn:aws:iam::111111111111:role/secrets")
    assuming.configure(CERBERUS_AUTH_METHOD="sts")
    caplog.set_level("INFO", "cerberus_auth")
    auth = assuming.auth()
    auth.token()
    assert auth.authentications[-1].principal == ASSUMED
    assert ASSUMED in caplog.text
    assert "the execution role" not in caplog.text
    assuming.stack.cerberus.deny("arn:aws:iam::111111111111:role/secrets")
    auth.invalidate()
    assert f"Cerberus rejected {ASSUMED} in us-west-2" in str(assuming.failure(auth.token))


def test_a_principal_that_is_given_is_the_one_offered(assuming: Function) -> None:
    assuming.configure(CERBERUS_IAM_ROLE_ARN=f"{ROLE},{ASSUMED}")
    assert assuming.auth().token()
    assert [arn for arn, _ in assuming.posted] == [ROLE, ASSUMED]


@CLIENTS
def test_its_credentials_are_kept_until_five_minutes_before_their_end(
    aws_client: str, assuming: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    assuming.configure(CERBERUS_AWS_CLIENT=aws_client)
    auth = assuming.auth()
    for seconds, current in [(0, True), (3600 - 310, True), (3600 - 290, False)]:
        monkeypatch.setattr(temporary, "time", SimpleNamespace(time=lambda seconds=seconds: time.time() + seconds))
        assert auth.token()
        auth.invalidate()
        assert (decrypters(assuming)[-1] == decrypters(assuming)[0]) is current


@CLIENTS
@pytest.mark.parametrize("missing", ["policy", "trust", "role"])
@pytest.mark.parametrize("method", ["kms", "sts"])
def test_a_refusal_says_which_two_policies_it_takes(
    method: str, missing: str, aws_client: str, assuming: Function
) -> None:
    aws = assuming.stack.aws
    if missing == "policy":
        aws.put_role_policy(ROLE, document(decrypt_statement()))
        aws.delete_role(ASSUMED)  # in one account, a trust policy that names the role would be enough
        trust = {"AWS": "arn:aws:iam::111111111111:root"}
        statement = {"Effect": "Allow", "Principal": trust, "Action": "sts:AssumeRole"}
        aws.create_role(ASSUMED, document(decrypt_statement()), document(statement))  # type: ignore[arg-type]
    else:
        aws.delete_role(ASSUMED)
    if missing == "trust":
        aws.create_role(ASSUMED, document(decrypt_statement()))
    assuming.configure(
        CERBERUS_AWS_CLIENT=aws_client, CERBERUS_AUTH_METHOD=method, CERBERUS_FALLBACK_REGIONS="us-east-1"
    )
    error = assuming.failure(assuming.auth().token)
    assert type(error) is ConfigurationError
    assert error.step == "sts:AssumeRole" or not error.step
    assert "CERBERUS_ASSUME_ROLE_ARN" in str(error)
    assert json.dumps(ALLOW) in str(error)
    assert f"to the trust policy of {ASSUMED}" in str(error)
    assert assuming.authentications == 0  # Cerberus is not asked in vain
    assert own_calls(assuming) == [("AssumeRole", OWN)]


@CLIENTS
def test_it_is_assumed_in_the_region_of_the_attempt(aws_client: str, assuming: Function) -> None:
    """So an outage of STS in one region does not keep the other from serving."""
    assuming.configure(CERBERUS_AWS_CLIENT=aws_client, CERBERUS_FALLBACK_REGIONS="us-east-1", CERBERUS_MAX_ATTEMPTS="1")
    assuming.stack.aws.server.faults.add(
        Fault.status(503), lambda request: "/us-west-2/sts/" in (request.headers["Authorization"] or ""), times=None
    )
    auth = assuming.auth()
    assert auth.token()
    assert assuming.posted == [(ASSUMED, "us-east-1")]


@CLIENTS
@pytest.mark.parametrize("method", ["kms", "sts"])
def test_refused_credentials_are_replaced_at_once(method: str, aws_client: str, assuming: Function) -> None:
    """A role deleted and made again ends the sessions of the old one. The region has done nothing, and is not skipped."""
    aws, cerberus = assuming.stack.aws, assuming.stack.cerberus
    cerberus.grant("arn:aws:iam::111111111111:role/secrets")
    assuming.configure(
        CERBERUS_AWS_CLIENT=aws_client, CERBERUS_AUTH_METHOD=method, CERBERUS_FALLBACK_REGIONS="us-east-1"
    )
    auth = assuming.auth()
    auth.token()
    aws.delete_role(ASSUMED)
    aws.create_role(ASSUMED, document(decrypt_statement()), TRUST)
    cerberus.check_key_policies()
    for _ in range(2):
        auth.invalidate()
        assert auth.token()
    assert aws.count("sts", "AssumeRole") == 2
    if method == "kms":
        assert {region for _, region in assuming.posted} == {"us-west-2"}
    else:
        scopes = [request.headers["Authorization"].split("/")[2] for request in assuming.cerberus.requests]
        assert set(scopes) == {"us-west-2"}


def test_refused_credentials_of_the_environment_are_tried_once(function: Function) -> None:
    """There are no others."""
    function.configure(CERBERUS_FALLBACK_REGIONS="us-east-1", CERBERUS_AUTH_METHOD="kms")
    function.become(ROLE, duration_seconds=0)
    error = function.failure(function.auth().token)
    assert (len(error.attempts), function.authentications, function.decryptions) == (1, 1, 1)


@CLIENTS
def test_a_client_that_is_closed_refers_to_no_credentials(aws_client: str, assuming: Function) -> None:
    """A snapshot of the process would hold them."""
    assuming.configure(CERBERUS_AWS_CLIENT=aws_client)
    auth = assuming.auth()
    auth.token()
    assumed = {key for key in decrypters(assuming) if key != assuming.environment["AWS_ACCESS_KEY_ID"]}
    assert len(assumed) == 1
    auth.close()
    assert held(assumed) == []
    assert auth.token()


# Credentials that rotate


@CLIENTS
@pytest.mark.parametrize("method", ["kms", "sts"])
def test_each_attempt_takes_the_keys_that_the_environment_has_then(
    method: str, aws_client: str, function: Function
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client, CERBERUS_AUTH_METHOD=method)
    keys = []

    def rotate(request: Request) -> bool:
        """While a first attempt is answered by 503, the environment gets new keys."""
        keys.append(access_key(request))
        credentials = function.stack.aws.assume(ROLE)
        function.configure(
            AWS_ACCESS_KEY_ID=credentials.access_key,
            AWS_SECRET_ACCESS_KEY=credentials.secret_key,
            AWS_SESSION_TOKEN=credentials.session_token,
        )
        return True

    def is_signed(request: Request) -> bool:
        target = request.headers["X-Amz-Target"] or ""
        return target.endswith(".Decrypt") if method == "kms" else request.path.endswith("/sts-identity")

    wire = function.aws if method == "kms" else function.cerberus
    server = function.stack.aws.server if method == "kms" else function.stack.cerberus.server
    server.faults.add(Fault.status(503), lambda request: is_signed(request) and rotate(request), times=2)
    assert function.auth().token()
    signers = [access_key(request) for request in wire.requests if is_signed(request)]
    assert len(set(signers)) == 3
    assert signers[:2] == keys
    assert signers[2] == function.environment["AWS_ACCESS_KEY_ID"]


def access_key(request: Request) -> str:
    return request.headers["Authorization"].partition("Credential=")[2].partition("/")[0]


class ContainerEndpoint:
    """What Lambda serves under SnapStart: another session's credentials at each request."""

    def __init__(self, function: Function) -> None:
        self.given: list[str] = []
        self.lasting = 3600.0
        self._function = function
        self.server = Server(self._respond)

    def _respond(self, request: Request) -> Response:
        assert request.headers["Authorization"] == "container-token"
        credentials = self._function.stack.aws.assume(ROLE)
        self.given.append(credentials.access_key)
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.lasting))
        answer = {
            "AccessKeyId": credentials.access_key,
            "SecretAccessKey": credentials.secret_key,
            "Token": credentials.session_token,
            "Expiration": end,
        }
        return Response(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})


@pytest.fixture
def endpoint(function: Function) -> Iterator[ContainerEndpoint]:
    endpoint = ContainerEndpoint(function)
    with endpoint.server as server:
        function.configure(
            AWS_ACCESS_KEY_ID=None,
            AWS_SECRET_ACCESS_KEY=None,
            AWS_SESSION_TOKEN=None,
            AWS_CONTAINER_CREDENTIALS_FULL_URI=f"{server.url}/credentials",
            AWS_CONTAINER_AUTHORIZATION_TOKEN="container-token",
        )
        yield endpoint


def held(access_keys: set[str]) -> list[object]:
    """Live objects of the package and of botocore that hold these credentials."""
    gc.collect()
    kinds = (Credentials, botocore.credentials.Credentials, botocore.credentials.ReadOnlyCredentials)
    found = [each for each in gc.get_objects() if isinstance(each, kinds)]
    return [each for each in found if each.access_key in access_keys]


@CLIENTS
def test_a_client_that_is_closed_refers_to_no_credentials_of_the_container(
    aws_client: str, function: Function, endpoint: ContainerEndpoint
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    auth = function.auth()
    auth.token()
    auth.close()
    assert held(set(endpoint.given)) == []
    assert auth.token()
    assert len(endpoint.given) == 2


def decrypters(function: Function) -> list[str]:
    return [
        access_key(request)
        for request in function.aws.requests
        if (request.headers["X-Amz-Target"] or "").endswith("Decrypt")
    ]


@CLIENTS
def test_container_credentials_are_kept_while_they_last(
    aws_client: str, function: Function, endpoint: ContainerEndpoint
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    auth = function.auth()
    for _ in range(3):
        assert auth.token()
        auth.invalidate()
    assert decrypters(function) == [endpoint.given[0]] * 3
    assert len(endpoint.given) == 1


@CLIENTS
def test_container_credentials_near_their_end_are_fetched_anew(
    aws_client: str, function: Function, endpoint: ContainerEndpoint
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    endpoint.lasting = 120
    auth = function.auth()
    for _ in range(3):
        assert auth.token()
        auth.invalidate()
    used = decrypters(function)
    assert used[-1] != used[0]
    if aws_client == "signed":  # botocore keeps the old ones for a while where the endpoint is slow to answer
        assert len(set(used)) == 3
        assert used[-1] == endpoint.given[-1]


@CLIENTS
def test_container_credentials_that_are_refused_are_fetched_anew_at_once(
    aws_client: str, function: Function, endpoint: ContainerEndpoint
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    auth = function.auth()
    auth.token()
    function.stack.aws.delete_role(ROLE)
    function.stack.create_role(ROLE)
    function.stack.cerberus.check_key_policies()
    auth.invalidate()
    assert auth.token()
    assert len(endpoint.given) == 2


def test_the_container_assumes_a_role_with_its_credentials(assuming: Function, endpoint: ContainerEndpoint) -> None:
    assert assuming.auth().token()
    assert own_calls(assuming) == [("AssumeRole", OWN), ("Decrypt", SESSION)]
    assert len(endpoint.given) == 1
