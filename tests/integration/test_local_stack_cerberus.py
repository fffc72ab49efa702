"""The stand-in for Cerberus does what the service does, over TLS, with AWS behind the gate."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
import requests
from botocore.exceptions import ClientError

from cerberus_auth.testing.cerberus import Call
from cerberus_auth.testing.http_server import Fault, Response, Server
from local_stack.aws import Aws, Credentials
from local_stack.cerberus import Cerberus
from local_stack.certificates import CertificateAuthority

REGION = "us-west-2"
ROLE = "arn:aws:iam::111111111111:role/web"
ROLE_WITH_PATH = "arn:aws:iam::111111111111:role/team/path/batch"
ROOT = "arn:aws:iam::111111111111:root"
MAY_DECRYPT = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "arn:aws:kms:*:222222222222:key/*"}],
}

KMS = "/v2/auth/iam-principal"
KMS_V1 = "/v1/auth/iam-role"
STS = "/v2/auth/sts-identity"


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def aws(ca: CertificateAuthority) -> Iterator[Aws]:
    with Aws(tls=ca.server_context(), ca_bundle=ca.bundle) as aws:
        for role in (ROLE, ROLE_WITH_PATH):
            aws.create_role(role, MAY_DECRYPT)
        yield aws


@pytest.fixture
def cerberus(aws: Aws, ca: CertificateAuthority) -> Iterator[Cerberus]:
    operator = aws.account_credentials(Aws.CERBERUS_ACCOUNT)
    with Cerberus(
        aws_url=aws.url,
        aws_ca=ca.bundle,
        access_key=operator.access_key,
        secret_key=operator.secret_key,
        tls=ca.server_context(),
    ) as cerberus:
        cerberus.grant(ROLE)
        yield cerberus
    aws.server.faults.clear()


class Client:
    """What speaks to the stand-in, on one kept connection."""

    def __init__(self, aws: Aws, url: str, bundle: Path) -> None:
        self.aws = aws
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = str(bundle)

    def request(self, method: str, path: str, token: str | None = None, **options: Any) -> requests.Response:
        headers = {"X-Cerberus-Token": token} if token else {}
        return self.session.request(method, self.url + path, timeout=20, **({"headers": headers} | options))

    def ask(self, principal: str = ROLE, region: str = REGION) -> requests.Response:
        return self.request("POST", KMS, json={"iam_principal_arn": principal, "region": region})

    def decrypt(self, auth_data: str, role: str = ROLE, region: str = REGION) -> bytes:
        kms = self.aws.client("kms", self.aws.assume(role), region)
        try:
            plaintext: bytes = kms.decrypt(CiphertextBlob=base64.b64decode(auth_data, validate=True))["Plaintext"]
            return plaintext
        finally:
            kms.close()

    def authenticate(self, principal: str = ROLE, role: str = ROLE) -> Any:
        return json.loads(self.decrypt(self.ask(principal).json()["auth_data"], role))

    def token(self) -> str:
        return str(self.authenticate()["client_token"])

    def sign(
        self,
        credentials: Credentials,
        region: str = REGION,
        host: str | None = None,
        more: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """The headers of a signed ``GetCallerIdentity``."""
        host = host or f"sts.{region}.amazonaws.com"
        body = "Action=GetCallerIdentity&Version=2011-06-15"
        request = botocore.awsrequest.AWSRequest("POST", f"https://{host}/", dict(more or {}), body)
        keys = botocore.credentials.Credentials(
            credentials.access_key, credentials.secret_key, credentials.session_token
        )
        botocore.auth.SigV4Auth(keys, "sts", region).add_auth(request)
        return dict(request.headers.items())


@pytest.fixture
def client(aws: Aws, cerberus: Cerberus, ca: CertificateAuthority) -> Iterator[Client]:
    client = Client(aws, cerberus.url, ca.bundle)
    with client.session:
        yield client


def error_of(response: requests.Response) -> tuple[int, int]:
    """The status and the code, once the rest has been seen to have the format of the service's errors."""
    answer = response.json()
    assert set(answer) == {"error_id", "errors"}
    (error,) = answer["errors"]
    assert set(error) == {"code", "message"}
    return response.status_code, error["code"]


class TestKmsAuthentication:
    def test_the_role_decrypts_a_token(self, client: Client) -> None:
        response = client.ask()
        assert response.status_code == 200
        assert set(response.json()) == {"auth_data"}
        token = json.loads(client.decrypt(response.json()["auth_data"]))
        assert token.pop("client_token")
        assert token == {
            "policies": [],
            "metadata": {
                "username": ROLE,
                "is_iam_principal": "true",
                "is_admin": "false",
                "groups": "registered-iam-principals",
                "aws_region": REGION,
                "aws_iam_principal_arn": ROLE,
            },
            "lease_duration": 3600,
            "renewable": False,
        }

    def test_the_older_path_names_account_and_role(self, client: Client) -> None:
        body = {"account_id": "111111111111", "role_name": "web", "region": REGION}
        response = client.request("POST", KMS_V1, json=body)
        metadata = json.loads(client.decrypt(response.json()["auth_data"]))["metadata"]
        assert metadata["aws_account_id"] == "111111111111"
        assert metadata["aws_iam_role_name"] == "web"
        assert "aws_iam_principal_arn" not in metadata

    def test_the_older_path_takes_a_role_with_its_path(self, client: Client, cerberus: Cerberus) -> None:
        cerberus.grant(ROLE_WITH_PATH)
        body = {"account_id": "111111111111", "role_name": "team/path/batch", "region": REGION}
        response = client.request("POST", KMS_V1, json=body)
        assert json.loads(client.decrypt(response.json()["auth_data"], ROLE_WITH_PATH))["client_token"]

    def test_one_key_for_each_principal_and_region(self, client: Client, cerberus: Cerberus, aws: Aws) -> None:
        cerberus.grant(ROLE_WITH_PATH)
        before = aws.count("kms", "CreateKey")
        for principal, region in [(ROLE, REGION), (ROLE, "eu-west-1"), (ROLE_WITH_PATH, REGION), (ROLE, REGION)]:
            auth_data = client.ask(principal, region).json()["auth_data"]
            assert json.loads(client.decrypt(auth_data, principal, region))["metadata"]["aws_region"] == region
        assert aws.count("kms", "CreateKey") - before == 3
        assert cerberus.key_arn(ROLE, "eu-west-1").startswith("arn:aws:kms:eu-west-1:222222222222:key/")

    def test_nobody_else_decrypts(self, client: Client) -> None:
        auth_data = client.ask().json()["auth_data"]
        with pytest.raises(ClientError, match="AccessDenied"):
            client.decrypt(auth_data, ROLE_WITH_PATH)

    @pytest.mark.parametrize(
        ("granted", "asked"),
        [
            (ROLE, "arn:aws:sts::111111111111:assumed-role/web/session"),
            (
                "arn:aws:sts::111111111111:assumed-role/web/session",
                "arn:aws:sts::111111111111:assumed-role/web/session",
            ),
            (ROOT, ROLE),
            (ROOT, "arn:aws:sts::111111111111:assumed-role/web/session"),
        ],
    )
    def test_found(self, client: Client, cerberus: Cerberus, granted: str, asked: str) -> None:
        cerberus.deny(ROLE)
        cerberus.grant(granted)
        assert client.ask(asked).status_code == 200
        assert cerberus.calls[-1].principal == asked

    def test_an_assumed_role_found_as_a_role_decrypts(self, client: Client) -> None:
        token = client.authenticate("arn:aws:sts::111111111111:assumed-role/web/session")
        assert token["metadata"]["aws_iam_principal_arn"] == "arn:aws:sts::111111111111:assumed-role/web/session"

    def test_an_assumed_role_has_lost_its_path(self, client: Client, cerberus: Cerberus) -> None:
        cerberus.grant(ROLE_WITH_PATH)
        assert client.ask(ROLE_WITH_PATH).status_code == 200
        assert error_of(client.ask("arn:aws:sts::111111111111:assumed-role/batch/session")) == (400, 99216)

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ({"iam_principal_arn": "arn:aws:iam::111111111111:role/other", "region": REGION}, (400, 99216)),
            ({"iam_principal_arn": "arn:aws:iam::333333333333:role/web", "region": REGION}, (400, 99216)),
            ({"iam_principal_arn": "web", "region": REGION}, (400, 99996)),
            ({"iam_principal_arn": "", "region": REGION}, (400, 99996)),
            ({"iam_principal_arn": "arn:aws-us-gov:iam::111111111111:role/web", "region": REGION}, (400, 99996)),
            ({"iam_principal_arn": "arn:aws:iam::111111111111:group/web", "region": REGION}, (400, 99996)),
            ({"region": REGION}, (500, 10)),
            (["not", "an", "object"], (500, 10)),
            ({"iam_principal_arn": ROLE, "region": "us-wset-2"}, (400, 99229)),
            ({"iam_principal_arn": ROLE, "region": "ca-west-1"}, (400, 99229)),
            ({"iam_principal_arn": ROLE, "region": " "}, (400, 99229)),
            ({"iam_principal_arn": ROLE}, (400, 99229)),
        ],
    )
    def test_refused(self, client: Client, body: object, expected: tuple[int, int]) -> None:
        assert error_of(client.request("POST", KMS, json=body)) == expected

    def test_partitions_are_switched_off_one_by_one(self, client: Client, cerberus: Cerberus) -> None:
        chinese = "arn:aws-cn:iam::111111111111:role/web"
        cerberus.partitions = {"aws-cn"}
        assert error_of(client.ask(ROLE)) == (401, 99245)
        assert error_of(client.ask(chinese)) == (400, 99216)
        cerberus.partitions = {"aws"}
        assert client.ask(ROLE).status_code == 200
        assert error_of(client.ask(chinese)) == (401, 99244)

    def test_switched_off(self, client: Client, cerberus: Cerberus) -> None:
        v1_body = {"account_id": "111111111111", "role_name": "web", "region": REGION}
        cerberus.v1_enabled = False
        assert client.request("POST", KMS_V1, json=v1_body).status_code == 404
        assert client.ask().status_code == 200
        cerberus.v1_enabled, cerberus.kms_enabled = True, False
        for response in (client.ask(), client.request("POST", KMS_V1, json=v1_body)):
            assert response.status_code == 404
            assert response.headers["Content-Type"] == "application/json"
            assert set(response.json()) == {"timestamp", "status", "error", "path"}
        page = client.request("POST", KMS_V1, json=v1_body, headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["Content-Type"]) == (404, "text/html;charset=UTF-8")

    def test_answers_are_cached_and_outlive_revocation(self, client: Client, cerberus: Cerberus) -> None:
        cerberus.kms_cache_seconds = 60
        first = client.ask().json()
        token = json.loads(client.decrypt(first["auth_data"]))["client_token"]
        cerberus.revoke(token)
        assert client.ask().json() == first
        assert error_of(client.request("GET", "/v1/secret/app/orders/db", token)) == (401, 99105)
        assert client.ask(region="eu-west-1").json() != first
        assert (cerberus.authentications, cerberus.cached_answers) == (2, 1)

    def test_cached_answers_end(self, client: Client, cerberus: Cerberus) -> None:
        cerberus.kms_cache_seconds = 0.01
        first = client.ask().json()
        time.sleep(0.02)
        assert client.ask().json() != first
        assert cerberus.cached_answers == 0

    def test_by_default_each_answer_has_its_own_token(self, client: Client, cerberus: Cerberus) -> None:
        assert client.token() != client.token()
        assert (cerberus.authentications, cerberus.cached_answers) == (2, 0)

    def test_what_is_too_long_for_kms_is_shortened(self, client: Client, cerberus: Cerberus) -> None:
        cerberus.lease_seconds = "x" * 3800
        token = client.authenticate()
        assert token["metadata"] == {"_truncated": "true"}
        assert token["policies"] == ["_truncated"]
        assert token["client_token"]

    def test_shortened_on_demand(self, client: Client, cerberus: Cerberus) -> None:
        cerberus.truncate_metadata = True
        token = client.authenticate()
        assert (token["metadata"], token["policies"]) == ({"_truncated": "true"}, ["_truncated"])
        assert token["lease_duration"] == 3600

    @pytest.mark.parametrize("lease", [0, -5, 1.5, 10**400, "x", [], float("inf")])
    def test_any_lease_goes_out_as_given(self, client: Client, cerberus: Cerberus, lease: Any) -> None:
        cerberus.lease_seconds = lease
        assert client.authenticate()["lease_duration"] == lease

    def test_a_lease_left_out(self, client: Client, cerberus: Cerberus) -> None:
        cerberus.lease_seconds = None
        assert "lease_duration" not in client.authenticate()

    def test_broken_ones(self, client: Client, cerberus: Cerberus) -> None:
        cerberus.plaintext_override = b"\xffnot JSON"
        assert client.decrypt(client.ask().json()["auth_data"]) == b"\xffnot JSON"
        cerberus.auth_data_override = "***"
        assert client.ask().json() == {"auth_data": "***"}

    def test_when_kms_fails(self, client: Client, cerberus: Cerberus, aws: Aws) -> None:
        aws.disable_key(cerberus.key_arn(ROLE, REGION))
        assert error_of(client.ask()) == (500, 99998)
        aws.server.faults.add(Fault.reset())
        assert error_of(client.ask(region="eu-west-1")) == (500, 99998)
        assert cerberus.authentications == 0

    def test_a_role_made_again_waits_for_the_check_of_key_policies(
        self, client: Client, cerberus: Cerberus, aws: Aws
    ) -> None:
        role = "arn:aws:iam::111111111111:role/again"
        aws.create_role(role, MAY_DECRYPT)
        cerberus.grant(role)
        assert client.authenticate(role, role)
        aws.delete_role(role)
        aws.create_role(role, MAY_DECRYPT)
        with pytest.raises(ClientError, match="AccessDenied"):
            client.authenticate(role, role)
        cerberus.check_key_policies()
        assert client.authenticate(role, role)


class TestStsAuthentication:
    def test_the_caller_gets_a_token_in_clear(self, client: Client, cerberus: Cerberus, aws: Aws) -> None:
        response = client.request("POST", STS, headers=client.sign(aws.assume(ROLE)))
        token = response.json()
        assert response.status_code == 200
        assert token["lease_duration"] == 3600
        assert "aws_region" not in token["metadata"]
        assert token["metadata"]["aws_iam_principal_arn"] == "arn:aws:sts::111111111111:assumed-role/web/function"
        assert cerberus.authentications == 1
        cerberus.put_secret("app/orders/db", {"password": "p"})
        assert client.request("GET", "/v1/secret/app/orders/db", token["client_token"]).status_code == 200

    def test_the_region_is_that_of_the_scope(self, client: Client, aws: Aws) -> None:
        response = client.request("POST", STS, headers=client.sign(aws.assume(ROLE), "eu-west-1"))
        assert response.status_code == 200
        assert (aws.calls[-1].action, aws.calls[-1].region) == ("GetCallerIdentity", "eu-west-1")

    @pytest.mark.parametrize(
        "more", [{"Content-Type": "application/x-www-form-urlencoded"}, {"X-Cerberus-Client": "a/1"}]
    )
    def test_a_signature_over_more_headers_cannot_match(self, client: Client, aws: Aws, more: dict[str, str]) -> None:
        headers = client.sign(aws.assume(ROLE), more=more)
        assert error_of(client.request("POST", STS, headers=headers)) == (400, 99237)

    def test_a_signature_over_the_content_type_that_the_service_sends_matches(self, client: Client, aws: Aws) -> None:
        content_type = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        headers = client.sign(aws.assume(ROLE), more=content_type)
        assert "content-type;" in headers["Authorization"]
        assert client.request("POST", STS, headers=headers).status_code == 200

    @pytest.mark.parametrize("region", ["il-central-1", "mx-central-1", "us-wset-2"])
    def test_a_region_that_the_service_does_not_know(self, client: Client, aws: Aws, region: str) -> None:
        headers = client.sign(aws.assume(ROLE), region)
        assert error_of(client.request("POST", STS, headers=headers)) == (400, 99999)

    @pytest.mark.parametrize("host", ["sts.amazonaws.com", "localhost", "sts-fips.us-west-2.amazonaws.com"])
    def test_a_signature_for_another_host_cannot_match(self, client: Client, aws: Aws, host: str) -> None:
        headers = client.sign(aws.assume(ROLE), host=host)
        assert error_of(client.request("POST", STS, headers=headers)) == (400, 99237)

    def test_expired_credentials(self, client: Client, aws: Aws) -> None:
        headers = client.sign(aws.assume(ROLE, duration_seconds=0))
        assert error_of(client.request("POST", STS, headers=headers)) == (401, 99238)

    def test_unknown_credentials(self, client: Client) -> None:
        headers = client.sign(Credentials("ASIAUNKNOWN", "secret", "token"))
        assert error_of(client.request("POST", STS, headers=headers)) == (401, 99106)

    @pytest.mark.parametrize("missing", ["Authorization", "X-Amz-Date"])
    def test_a_missing_header(self, client: Client, aws: Aws, missing: str) -> None:
        headers = client.sign(aws.assume(ROLE))
        del headers[missing]
        assert error_of(client.request("POST", STS, headers=headers)) == (400, 99236)

    def test_a_missing_session_token(self, client: Client, aws: Aws) -> None:
        headers = client.sign(aws.assume(ROLE))
        del headers["X-Amz-Security-Token"]
        assert error_of(client.request("POST", STS, headers=headers)) == (401, 99106)

    def test_no_signature_at_all(self, client: Client) -> None:
        headers = {"Authorization": "Bearer x", "X-Amz-Date": "20260101T000000Z"}
        assert error_of(client.request("POST", STS, headers=headers)) == (400, 99999)

    def test_not_granted(self, client: Client, aws: Aws) -> None:
        headers = client.sign(aws.assume(ROLE_WITH_PATH))
        assert error_of(client.request("POST", STS, headers=headers)) == (400, 99216)

    def test_when_sts_fails(self, client: Client, aws: Aws) -> None:
        for fault in (Fault.reset(), Fault.status(503)):
            aws.server.faults.add(fault)
            assert error_of(client.request("POST", STS, headers=client.sign(aws.assume(ROLE)))) == (503, 99995)

    def test_switched_off(self, client: Client, cerberus: Cerberus, aws: Aws) -> None:
        cerberus.sts_enabled = False
        response = client.request("POST", STS, headers=client.sign(aws.assume(ROLE)))
        assert response.status_code == 404
        assert response.headers["Content-Type"] == "application/json"


class TestTokens:
    @pytest.fixture(autouse=True)
    def secrets(self, cerberus: Cerberus) -> None:
        cerberus.put_secret("app/orders/db", {"username": "orders", "password": "one"})
        cerberus.put_secret("app/orders/queue/in", {"url": "q"})
        cerberus.put_secret("app/payments/db", {"password": "other"})
        cerberus.put_file("app/orders/cert.p12", b"\x00\x01")

    @pytest.mark.parametrize("header", ["X-Cerberus-Token", "X-Vault-Token"])
    def test_reads(self, client: Client, header: str) -> None:
        response = client.request("GET", "/v1/secret/app/orders/db", headers={header: client.token()})
        assert response.status_code == 200
        answer = response.json()
        assert answer["data"] == {"username": "orders", "password": "one"}
        assert answer["request_id"]
        assert isinstance(answer["metadata"], dict)

    def test_versions(self, client: Client, cerberus: Cerberus) -> None:
        token = client.token()
        second = cerberus.put_secret("app/orders/db", {"password": "two"})
        cerberus.put_secret("app/orders/db", {"password": "three"})
        passwords = {
            version: client.request("GET", f"/v1/secret/app/orders/db{version}", token).json()["data"]["password"]
            for version in ("", "?versionId=CURRENT", f"?versionId={second}")
        }
        assert list(passwords.values()) == ["three", "three", "two"]

    def test_lists(self, client: Client) -> None:
        token = client.token()
        for path, keys in {
            "app/orders": ["queue/", "db"],  # unsorted
            "app/orders/": ["queue/", "db"],
            "app/orders/queue": ["in"],
            "app/orders/nothing": [],
        }.items():
            answer = client.request("GET", f"/v1/secret/{path}?list=true", token).json()
            assert answer["data"] == {"keys": keys}

    def test_files(self, client: Client) -> None:
        assert client.request("GET", "/v1/secure-file/app/orders/cert.p12", client.token()).content == b"\x00\x01"

    def test_versions_listed(self, client: Client, cerberus: Cerberus) -> None:
        second = cerberus.put_secret("app/orders/db", {"password": "two"})
        cerberus.put_secret("app/orders/db", {"password": "three"})
        token = client.token()
        answer = client.request("GET", "/v1/secret-versions/app/orders/db?limit=2", token).json()
        summaries = answer.pop("secure_data_version_summaries")
        assert [each["id"] for each in summaries] == ["CURRENT", second]
        assert {each["action"] for each in summaries} == {"UPDATE"}
        assert all(each["version_created_by"] and each["version_created_ts"] for each in summaries)
        assert summaries[1]["size_in_bytes"] == len('{"password": "two"}')
        assert answer == {
            "has_next": True,
            "next_offset": 2,
            "limit": 2,
            "offset": 0,
            "version_count_in_result": 2,
            "total_version_count": 3,
        }
        last = client.request("GET", "/v1/secret-versions/app/orders/db?limit=2&offset=2", token).json()
        assert (last["has_next"], last["next_offset"]) == (False, None)
        assert last["secure_data_version_summaries"][0]["action"] == "CREATE"

    def test_files_listed_and_their_versions(self, client: Client, cerberus: Cerberus) -> None:
        cerberus.put_file("app/orders/cert.p12", b"new")
        token = client.token()
        (file,) = client.request("GET", "/v1/secure-files/app/orders/", token).json()["secure_file_summaries"]
        assert (file["path"], file["name"], file["size_in_bytes"]) == ("orders/cert.p12", "cert.p12", 3)
        path = "app/orders/cert.p12"
        found = client.request("GET", f"/v1/secret-versions/{path}", token).json()["secure_data_version_summaries"]
        assert [each["type"] for each in found] == ["FILE"] * 2
        contents = [
            client.request("GET", f"/v1/secure-file/{path}?versionId={version}", token).content
            for version in ("CURRENT", *(each["id"] for each in found))
        ]
        assert contents == [b"new", b"new", b"\x00\x01"]

    @pytest.mark.parametrize("query", ["limit=x", "offset=-1"])
    def test_no_such_page(self, client: Client, query: str) -> None:
        assert client.request("GET", f"/v1/secure-files/app/orders/?{query}", client.token()).status_code == 400

    @pytest.mark.parametrize(
        "path", ["secret/app/orders/nothing", "secret/app/orders/db?versionId=none", "secret/app/orders/cert.p12"]
    )
    def test_nothing_there(self, client: Client, path: str) -> None:
        response = client.request("GET", f"/v1/{path}", client.token())
        assert (response.status_code, response.content) == (404, b"")

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("secure-file/app/orders/nothing", (404, 99996)),
            ("secure-file/app/orders/cert.p12?versionId=none", (404, 99996)),
            ("secure-file/app/orders/db", (404, 99996)),
            ("secret/app/nowhere/db", (404, 99996)),
            ("secret/app?list=true", (400, 99999)),
            ("secret-versions/app/orders/nothing", (400, 99999)),
            ("secret-versions/app/orders/db?offset=1", (400, 99999)),
        ],
    )
    def test_nothing_there_in_the_words_of_the_service(
        self, client: Client, path: str, expected: tuple[int, int]
    ) -> None:
        assert error_of(client.request("GET", f"/v1/{path}", client.token())) == expected

    @pytest.mark.parametrize(
        "path", ["secret/app/payments/db", "secret/app/payments?list=true", "secure-file/app/payments/x"]
    )
    def test_not_granted(self, client: Client, path: str) -> None:
        assert error_of(client.request("GET", f"/v1/{path}", client.token())) == (403, 99994)

    @pytest.mark.parametrize("token", [None, "made-up"])
    def test_no_token(self, client: Client, token: str | None) -> None:
        for method, path in [("GET", "/v1/secret/app/orders/db"), ("DELETE", "/v1/auth")]:
            assert error_of(client.request(method, path, token)) == (401, 99105)

    def test_revoked_by_its_holder(self, client: Client) -> None:
        token, other = client.token(), client.token()
        response = client.request("DELETE", "/v1/auth", token)
        assert (response.status_code, response.content) == (204, b"")
        assert error_of(client.request("GET", "/v1/secret/app/orders/db", token)) == (401, 99105)
        assert client.request("GET", "/v1/secret/app/orders/db", other).status_code == 200

    def test_all_revoked(self, client: Client, cerberus: Cerberus) -> None:
        tokens = [client.token(), client.token()]
        cerberus.revoke()
        assert {client.request("GET", "/v1/secret/app/orders/db", token).status_code for token in tokens} == {401}

    def test_expired(self, client: Client, cerberus: Cerberus) -> None:
        cerberus.lease_seconds = 0
        assert error_of(client.request("GET", "/v1/secret/app/orders/db", client.token())) == (401, 99105)

    def test_no_such_thing(self, client: Client) -> None:
        token = client.token()
        assert error_of(client.request("POST", "/v1/secret/app/orders/db", token)) == (403, 99994)
        assert error_of(client.request("POST", "/v1/secure-files/app/orders/", token)) == (405, 120)
        assert client.request("GET", "/v1/nothing", token).json()["error"] == "Not Found"

    def test_the_boxes_of_a_principal(self, client: Client, cerberus: Cerberus) -> None:
        cerberus.grant(ROOT, "web/shop")
        (one, other) = client.request("GET", "/v2/safe-deposit-box", client.token()).json()
        assert (one["name"], one["path"]) == ("orders", "app/orders/")
        assert (other["name"], other["path"]) == ("shop", "web/shop/")
        assert len({one["id"], other["id"], one["category_id"], other["category_id"]}) == 4


class TestWebServer:
    """Paths that never reach the application, and what its answers look like."""

    @pytest.fixture
    def token(self, client: Client, cerberus: Cerberus) -> str:
        cerberus.put_secret("app/orders/Größe & Maß (ünï)", {"size": "XL"})
        return client.token()

    @pytest.mark.parametrize(
        "name", ["a%25b", "a;b", "a%3Bb", "a%00b", "a%09b", "a%0Db", "a%7Fb", "a%C2%85b", "a%E2%80%A8b", "a%E2%80%A9b"]
    )
    def test_refused_by_the_firewall(self, client: Client, token: str, name: str) -> None:
        assert error_of(client.request("GET", f"/v1/secret/app/orders/{name}", token)) == (401, 99105)
        assert error_of(client.request("GET", f"/v1/secret/app/orders/{name}")) == (401, 99105)

    @pytest.mark.parametrize("name", ["a%5Cb", "a%5cb", "a%2Fb", "a%2fb"])
    def test_refused_by_the_server(self, client: Client, token: str, name: str) -> None:
        response = client.request("GET", f"/v1/secret/app/orders/{name}", token)
        assert response.status_code == 400
        assert response.headers["Content-Type"] == "text/html;charset=utf-8"
        assert response.text.startswith("<!doctype html>")
        assert "X-Refresh-Token" not in response.headers

    def test_beyond_the_database(self, client: Client, token: str, cerberus: Cerberus) -> None:
        cerberus.put_secret("app/payments/db", {"password": "other"})
        for path in ("app/orders/%F0%9F%98%80", "app/%F0%9F%98%80/a", "app/orders/%F0%9F%98%80?list=true"):
            assert error_of(client.request("GET", f"/v1/secret/{path}", token)) == (500, 10)
        assert error_of(client.request("GET", "/v1/secret/app/payments/%F0%9F%98%80", token)) == (403, 99994)

    def test_any_script_and_spaces(self, client: Client, token: str) -> None:
        path = "/v1/secret/app/orders/Gr%C3%B6%C3%9Fe%20%26%20Ma%C3%9F%20(%C3%BCn%C3%AF)"
        assert client.request("GET", path, token).json()["data"] == {"size": "XL"}

    def test_json_is_indented_and_comes_in_chunks(self, client: Client, cerberus: Cerberus, token: str) -> None:
        cerberus.put_secret("app/orders/large", {"value": "x" * 100_000})
        response = client.request("GET", "/v1/secret/app/orders/large", token)
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in response.headers
        assert response.json()["data"] == {"value": "x" * 100_000}
        assert '\n  "data" : {\n    "value" : "' in response.text

    def test_the_headers_of_all_answers(self, client: Client, token: str) -> None:
        for path in ("/v1/secret/app/orders/nothing", "/info", "/v1/secret/app/orders/a;b"):
            headers = client.request("GET", path, token).headers
            assert headers["Cache-Control"] == "no-cache, no-store, max-age=0, must-revalidate"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Refresh-Token"] == "false"

    def test_the_dashboard(self, client: Client) -> None:
        response = client.request("GET", "/")
        assert response.url.endswith("/dashboard/index.html")
        assert (response.status_code, response.headers["Content-Type"]) == (200, "text/html")

    def test_its_version(self, client: Client) -> None:
        assert client.request("GET", "/info").json()["build"]["version"] == "4.13.0"


class TestKeyRace:
    """The first authentication of a principal in a region makes its key."""

    def test_forty_at_once_make_forty_keys(self, client: Client, cerberus: Cerberus, aws: Aws) -> None:
        before = aws.count("kms", "CreateKey")
        cerberus.key_creation_seconds = 1
        together = threading.Barrier(40)

        def ask(_: int) -> requests.Response:
            together.wait(30)
            return requests.post(
                cerberus.url + KMS,
                json={"iam_principal_arn": ROLE, "region": REGION},
                timeout=30,
                verify=client.session.verify,
            )

        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(ask, range(40)))
        lost = [error_of(answer) for answer in answers if answer.status_code != 200]
        assert cerberus.keys_made == aws.count("kms", "CreateKey") - before
        assert cerberus.keys_made == len(lost) + 1
        assert len(lost) > 20  # all 39, unless the machine is so busy that some come late
        assert set(lost) == {(500, 10)}
        (kept,) = [answer for answer in answers if answer.status_code == 200][:1]
        assert client.decrypt(kept.json()["auth_data"])

    def test_afterwards_the_key_is_there(self, client: Client, cerberus: Cerberus) -> None:
        assert [client.ask().status_code for _ in range(3)] == [200] * 3
        assert client.ask(region="eu-west-1").status_code == 200
        assert cerberus.keys_made == 2

    def test_one_made_beforehand(self, client: Client, cerberus: Cerberus) -> None:
        key = cerberus.key_arn(ROLE, REGION)
        with ThreadPoolExecutor(8) as pool:
            assert {each.status_code for each in pool.map(lambda _: client.ask(), range(8))} == {200}
        assert (cerberus.keys_made, cerberus.key_arn(ROLE, REGION)) == (1, key)


class TestDatabase:
    @pytest.fixture
    def token(self, client: Client, cerberus: Cerberus) -> str:
        cerberus.put_secret("app/orders/db", {"password": "one"})
        return client.token()

    def read(self, client: Client, token: str) -> requests.Response:
        return client.request("GET", "/v1/secret/app/orders/db", token)

    def test_down(self, client: Client, cerberus: Cerberus, aws: Aws, token: str) -> None:
        with cerberus.database_down():
            assert error_of(self.read(client, token)) == (401, 99105)
            assert error_of(client.request("GET", "/v2/safe-deposit-box", token)) == (401, 99105)
            assert error_of(client.request("DELETE", "/v1/auth", token)) == (401, 99105)
            assert error_of(client.ask()) == (500, 10)
            assert error_of(client.request("POST", STS, headers=client.sign(aws.assume(ROLE)))) == (500, 10)
            health = client.request("GET", "/healthcheck")
            assert (health.status_code, health.json()) == (503, {"status": "DOWN"})
            assert client.request("GET", "/info").status_code == 200
        assert self.read(client, token).status_code == 200
        assert client.request("GET", "/healthcheck").json() == {"status": "UP"}
        assert client.ask().status_code == 200

    def test_what_needs_no_database_is_refused_as_ever(self, client: Client, cerberus: Cerberus) -> None:
        with cerberus.database_down():
            assert error_of(client.ask("nonsense")) == (400, 99996)
            assert error_of(client.request("POST", STS)) == (400, 99236)

    def test_hanging(self, client: Client, cerberus: Cerberus, token: str) -> None:
        with ThreadPoolExecutor(1) as pool:
            with cerberus.database_hanging():
                for path, given in [("/v1/secret/app/orders/db", token), ("/healthcheck", None)]:
                    with pytest.raises(requests.Timeout):
                        client.session.get(cerberus.url + path, headers={"X-Cerberus-Token": given}, timeout=0.2)
                with pytest.raises(requests.Timeout):
                    client.session.post(
                        cerberus.url + KMS, json={"iam_principal_arn": ROLE, "region": REGION}, timeout=0.2
                    )
                assert client.request("GET", "/info").status_code == 200
                waits = pool.submit(self.read, client, token)
                time.sleep(0.1)
                assert not waits.done()
            assert waits.result(20).status_code == 200  # the end of the hang releases those that wait

    def test_a_hang_ends_in_refusals(self, client: Client, cerberus: Cerberus, token: str) -> None:
        with cerberus.database_hanging(0.1):
            started = time.monotonic()
            assert error_of(self.read(client, token)) == (401, 99105)
            assert time.monotonic() - started >= 0.1
            assert error_of(client.ask()) == (500, 10)
        assert self.read(client, token).status_code == 200

    def test_the_end_of_the_server_ends_a_hang(self, client: Client, cerberus: Cerberus, token: str) -> None:
        with cerberus.database_hanging(), ThreadPoolExecutor(1) as pool:
            waits = pool.submit(self.read, client, token)
            while cerberus.server.connections < 2 and not waits.running():
                time.sleep(0.01)
            time.sleep(0.1)
            cerberus.close()
            with pytest.raises(requests.ConnectionError):
                waits.result(20)


class TestCalls:
    def test_what_is_recorded(self, client: Client, cerberus: Cerberus) -> None:
        body = {"iam_principal_arn": ROLE, "region": REGION}
        headers = {"X-Cerberus-Client": "CerberusAuth/1.0.0"}
        client.request("POST", KMS, json=body, headers=headers)
        token = client.token()
        client.request("GET", "/v1/secret/app/orders/db?versionId=CURRENT", token)
        client.request("GET", "/v1/secret/app/orders/db")
        assert cerberus.calls == [
            Call("POST", KMS, 200, ROLE, body, "CerberusAuth/1.0.0"),
            Call("POST", KMS, 200, ROLE, body, None),
            Call("GET", "/v1/secret/app/orders/db", 404, ROLE, None, None),
            Call("GET", "/v1/secret/app/orders/db", 401, None, None, None),
        ]
        assert (cerberus.count("/v2/auth"), cerberus.count("/v1/secret"), cerberus.count("/")) == (2, 2, 4)

    def test_faulted_requests_are_recorded(self, client: Client, cerberus: Cerberus) -> None:
        cerberus.server.faults.add(Fault.status(503))
        cerberus.server.faults.add(Fault.reset())
        cerberus.server.faults.add(Fault.half_body())
        assert client.ask().status_code == 503
        for _ in range(2):
            with pytest.raises(requests.RequestException):
                client.ask()
        assert [call.status for call in cerberus.calls] == [503, 0, 200]
        assert cerberus.authentications == 1

    def test_an_answer_takes_the_time_chosen(self, client: Client, cerberus: Cerberus) -> None:
        cerberus.answer_after_seconds = 0.2
        started = time.monotonic()
        assert client.ask().status_code == 200
        assert time.monotonic() - started >= 0.2

    def test_many_at_once(self, client: Client, cerberus: Cerberus) -> None:
        cerberus.key_arn(ROLE, REGION)
        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(lambda _: client.ask(), range(80)))
        assert len({answer.json()["auth_data"] for answer in answers}) == 80
        assert cerberus.authentications == len(cerberus.calls) == 80


def echo(request: Any) -> Response:
    return Response(200, b'{"answer": "%s"}' % request.path.encode(), {"Content-Type": "application/json"})


class TestServer:
    """The server that both stand-ins stand on."""

    @pytest.fixture
    def server(self, ca: CertificateAuthority) -> Iterator[Server]:
        with Server(echo, ca.server_context()) as server:
            yield server

    @pytest.fixture
    def get(self, server: Server, ca: CertificateAuthority) -> Iterator[Callable[..., requests.Response]]:
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(ca.bundle)

            def get(path: str = "/a", timeout: float = 20) -> requests.Response:
                return session.get(server.url + path, timeout=timeout, allow_redirects=False)

            yield get

    @pytest.mark.parametrize("fault", [Fault.reset(), Fault.half_body()], ids=lambda fault: fault.kind)
    def test_broken_connections(self, server: Server, get: Callable[..., requests.Response], fault: Fault) -> None:
        server.faults.add(fault)
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            get()
        assert get().json() == {"answer": "/a"}

    @pytest.mark.parametrize("fault", [Fault.hang(), Fault.hang_after_headers()], ids=lambda fault: fault.kind)
    def test_silence(self, server: Server, get: Callable[..., requests.Response], fault: Fault) -> None:
        server.faults.add(fault)
        with pytest.raises((requests.Timeout, requests.ConnectionError), match="timed out"):
            get(timeout=0.1)
        assert get().json() == {"answer": "/a"}

    @pytest.mark.parametrize(
        "fault", [Fault.drip_headers(0.001), Fault.drip_body(0.001), Fault.delay(0.05)], ids=lambda fault: fault.kind
    )
    def test_slowness(self, server: Server, get: Callable[..., requests.Response], fault: Fault) -> None:
        server.faults.add(fault)
        assert get().json() == {"answer": "/a"}
        assert get().json() == {"answer": "/a"}
        assert server.connections == 1

    def test_one_byte_at_a_time(self, server: Server, get: Callable[..., requests.Response]) -> None:
        started = time.monotonic()
        server.faults.add(Fault.drip_body(0.01))
        size = len(get().content)
        assert time.monotonic() - started >= size * 0.01

    @pytest.mark.parametrize(
        ("fault", "status", "content_type", "body"),
        [
            (Fault.status(504, b"x"), 504, None, b"x"),
            (Fault.status(299), 299, None, b""),
            (Fault.html(502), 502, "text/html; charset=utf-8", None),
            (Fault.empty(), 200, None, b""),
            (Fault.wrong_content_type("text/plain"), 200, "text/plain", b'{"answer": "/a"}'),
        ],
    )
    def test_other_answers(
        self,
        server: Server,
        get: Callable[..., requests.Response],
        fault: Fault,
        status: int,
        content_type: str | None,
        body: bytes | None,
    ) -> None:
        server.faults.add(fault)
        response = get()
        assert (response.status_code, response.headers.get("Content-Type")) == (status, content_type)
        assert response.content == body or (body is None and b"<html>" in response.content)

    def test_headers_of_a_fault(self, server: Server, get: Callable[..., requests.Response]) -> None:
        server.faults.add(Fault.status(429, headers={"Retry-After": "7"}))
        server.faults.add(Fault.status(302, headers={"Location": "https://example.com/"}))
        assert get().headers["Retry-After"] == "7"
        assert get().headers["Location"] == "https://example.com/"

    def test_a_gzip_bomb(self, server: Server, get: Callable[..., requests.Response]) -> None:
        server.faults.add(Fault.gzip_bomb(5_000_001))
        response = get()
        assert int(response.headers["Content-Length"]) < 10_000
        assert len(response.content) == 5_000_001

    def test_which_requests_meet_a_fault(self, server: Server, get: Callable[..., requests.Response]) -> None:
        server.faults.add(Fault.status(500), times=2)
        server.faults.add(Fault.status(503), when=lambda request: request.path == "/b", times=None)
        assert [get(path).status_code for path in ("/a", "/b", "/a", "/b", "/b")] == [500, 500, 200, 503, 503]
        server.faults.clear()
        assert get("/b").status_code == 200

    def test_connections_are_kept(self, server: Server, get: Callable[..., requests.Response]) -> None:
        assert [get().status_code for _ in range(3)] == [200] * 3
        assert server.connections == 1

    def test_connections_can_be_dropped(self, server: Server, get: Callable[..., requests.Response]) -> None:
        get()
        server.drop_connections()
        assert get().status_code == 200
        assert server.connections == 2

    def test_a_stopped_listener_refuses_until_resumed(
        self, server: Server, get: Callable[..., requests.Response]
    ) -> None:
        assert get().status_code == 200
        server.stop_listening()
        with pytest.raises(requests.ConnectionError, match="refused"):
            get()
        server.resume()
        assert get().status_code == 200

    def test_a_client_stuck_in_its_handshake_blocks_nobody(
        self, server: Server, get: Callable[..., requests.Response]
    ) -> None:
        with socket.create_connection(("127.0.0.1", server.port)):
            assert get().status_code == 200

    def test_two_hundred_clients_at_once(self, server: Server, ca: CertificateAuthority) -> None:
        together = threading.Barrier(200)

        def ask(_: int) -> int:
            together.wait(30)
            return requests.get(server.url, timeout=30, verify=str(ca.bundle)).status_code

        with ThreadPoolExecutor(200) as pool:
            assert list(pool.map(ask, range(200))) == [200] * 200
        assert server.connections == 200

    def test_the_end_ends_everything(self, ca: CertificateAuthority) -> None:
        before = set(threading.enumerate())
        with Server(echo, ca.server_context()) as server:
            server.faults.add(Fault.hang())
            server.faults.add(Fault.delay(3600))
            with (
                ThreadPoolExecutor(2) as pool,
                socket.create_connection(("127.0.0.1", server.port)),
            ):
                stuck = [pool.submit(requests.get, server.url, timeout=60, verify=str(ca.bundle)) for _ in range(2)]
                while server.faults.planned:
                    time.sleep(0.01)
                server.close()
                assert all(isinstance(one.exception(), requests.ConnectionError) for one in stuck)
        server.close()
        assert set(threading.enumerate()) == before
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))

    def test_a_port_in_use(self, server: Server) -> None:
        with pytest.raises(OSError, match="in use"):
            Server(echo, port=server.port)

    def test_the_system_chooses_the_port(self) -> None:
        with Server(echo) as one, Server(echo) as other:
            assert one.port != other.port
            assert one.url == f"http://127.0.0.1:{one.port}"

    def test_a_mistake_in_the_service_shows(self, ca: CertificateAuthority, capsys: pytest.CaptureFixture[str]) -> None:
        def fail(request: Any) -> Response:
            raise LookupError("a mistake")

        with Server(fail) as server:
            assert requests.get(server.url, timeout=20).status_code == 500
        assert "LookupError: a mistake" in capsys.readouterr().err

    def test_it_writes_nothing_else(
        self, server: Server, get: Callable[..., requests.Response], capfd: pytest.CaptureFixture[str]
    ) -> None:
        get()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"this is no handshake")
        server.faults.add(Fault.drip_body(0.01))
        with pytest.raises(requests.RequestException):
            get(timeout=0.001)
        server.close()
        assert capfd.readouterr() == ("", "")

    def test_clients_that_do_not_know_the_authority_refuse(self, server: Server, tmp_path: Path) -> None:
        other = CertificateAuthority(tmp_path)
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(server.url, timeout=20, verify=str(other.bundle))
