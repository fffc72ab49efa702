"""The gate before moto: it must refuse what AWS refuses, in the words of AWS, and let through what AWS lets through."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from botocore.exceptions import ClientError

from local_stack.aws import Aws, AwsCall, Credentials
from local_stack.certificates import CertificateAuthority
from local_stack.policies import UnsupportedPolicyError, Verdict, evaluate, parse
from local_stack.refusal import RefusedError

ROLE = f"arn:aws:iam::{Aws.FUNCTION_ACCOUNT}:role/web"
SESSION = f"arn:aws:sts::{Aws.FUNCTION_ACCOUNT}:assumed-role/web/function"
PATH_ROLE = f"arn:aws:iam::{Aws.FUNCTION_ACCOUNT}:role/team/path/web"
KEYS = f"arn:aws:kms:*:{Aws.CERBERUS_ACCOUNT}:key/*"
IDENTITY = b"Action=GetCallerIdentity&Version=2011-06-15"
FORM = "application/x-www-form-urlencoded; charset=utf-8"


def policy(*statements: Mapping[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(action: str = "kms:Decrypt", resource: str = KEYS, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def deny(action: str = "kms:Decrypt", resource: str = KEYS, **more: Any) -> dict[str, Any]:
    return {**allow(action, resource, **more), "Effect": "Deny"}


def key_policy(*consumers: str, **more: Any) -> dict[str, Any]:
    """As Cerberus has it: its own account manages the key, and the consumer decrypts."""
    return policy(
        allow("kms:*", "*", Principal={"AWS": f"arn:aws:iam::{Aws.CERBERUS_ACCOUNT}:root"}),
        *[allow(resource="*", Principal={"AWS": consumer}, **more) for consumer in consumers],
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def aws(authority: CertificateAuthority) -> Iterator[Aws]:
    with Aws(tls=authority.server_context(), ca_bundle=authority.bundle) as aws:
        yield aws


@contextlib.contextmanager
def refused(code: str, status: int = 400) -> Iterator[list[str]]:
    """Expect this refusal; the list then holds its text."""
    text: list[str] = []
    with pytest.raises(ClientError) as caught:
        yield text
    response: Any = caught.value.response
    text.append(response["Error"].get("Message", ""))
    assert (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)


def sealed(aws: Aws, *consumers: str, region: str = "us-west-2", context: Mapping[str, str] = {}) -> tuple[str, bytes]:
    """Make a key in Cerberus' account and encrypt something; give the key's ARN and the ciphertext."""
    kms = aws.client("kms", aws.account_credentials(Aws.CERBERUS_ACCOUNT), region)
    arn = kms.create_key(Policy=json.dumps(key_policy(*consumers)))["KeyMetadata"]["Arn"]
    return arn, kms.encrypt(KeyId=arn, Plaintext=b"hello", EncryptionContext=context)["CiphertextBlob"]


def function(aws: Aws, *statements: Mapping[str, Any], role: str = ROLE) -> Any:
    """Make the role, and give KMS as its function sees it."""
    aws.create_role(role, policy(*statements) if statements else None)
    return aws.client("kms", aws.assume(role))


class TestTwoAccounts:
    def test_what_both_policies_allow_is_decrypted(self, aws: Aws) -> None:
        kms = function(aws, allow())
        arn, ciphertext = sealed(aws, ROLE)
        answer = kms.decrypt(CiphertextBlob=ciphertext)
        assert (answer["Plaintext"], answer["KeyId"]) == (b"hello", arn)
        assert arn.startswith(f"arn:aws:kms:us-west-2:{Aws.CERBERUS_ACCOUNT}:key/")
        assert aws.calls[-1] == AwsCall("kms", "Decrypt", SESSION, 200, "us-west-2")
        assert aws.count("kms") == 3
        assert aws.count("kms", account=Aws.FUNCTION_ACCOUNT) == aws.count("kms", "Decrypt") == 1

    @pytest.mark.parametrize(
        "statements",
        [
            [],
            [allow("kms:Encrypt")],
            [allow(resource="arn:aws:kms:*:333333333333:key/*")],
            [allow(resource="arn:aws:kms:eu-*:222222222222:key/*")],
            [allow(resource="arn:aws:kms:*:key/*")],
        ],
        ids=["no policy", "another action", "another account", "another region", "not the shape of a key's ARN"],
    )
    def test_the_identity_policy_has_to_allow_it(self, aws: Aws, statements: list[Any]) -> None:
        kms = function(aws, *statements)
        _, ciphertext = sealed(aws, ROLE)
        with refused("AccessDeniedException") as text:
            kms.decrypt(CiphertextBlob=ciphertext)
        assert text == [
            f"User: {SESSION} is not authorized to perform: kms:Decrypt on the resource associated with this "
            "ciphertext because no identity-based policy allows the kms:Decrypt action"
        ]
        assert aws.calls[-1].status == 400

    def test_with_the_key_named_so_does_the_refusal(self, aws: Aws) -> None:
        kms = function(aws)
        arn, ciphertext = sealed(aws, ROLE)
        with refused("AccessDeniedException") as text:
            kms.decrypt(CiphertextBlob=ciphertext, KeyId=arn)
        assert f"kms:Decrypt on resource: {arn} because no identity-based policy allows" in text[0]

    def test_an_explicit_deny_wins(self, aws: Aws) -> None:
        kms = function(aws, allow(), deny(resource="*"))
        _, ciphertext = sealed(aws, ROLE)
        with refused("AccessDeniedException") as text:
            kms.decrypt(CiphertextBlob=ciphertext)
        assert text[0].endswith("with an explicit deny in an identity-based policy")

    def test_the_key_policy_has_to_allow_it(self, aws: Aws) -> None:
        kms = function(aws, allow())
        _, ciphertext = sealed(aws)
        with refused("AccessDeniedException") as text:
            kms.decrypt(CiphertextBlob=ciphertext)
        assert "does not exist in this Region, no resource-based policies allow access" in text[0]

    def test_a_deny_in_the_key_policy_wins(self, aws: Aws) -> None:
        kms = function(aws, allow())
        arn, ciphertext = sealed(aws, ROLE)
        denied = deny(resource="*", Principal={"AWS": ROLE})
        aws.put_key_policy(arn, policy(*key_policy(ROLE)["Statement"], denied))
        with refused("AccessDeniedException") as text:
            kms.decrypt(CiphertextBlob=ciphertext)
        assert text[0].endswith("or a resource-based policy explicitly denies access")

    @pytest.mark.parametrize(
        "consumer",
        [f"arn:aws:iam::{Aws.FUNCTION_ACCOUNT}:root", Aws.FUNCTION_ACCOUNT, SESSION, "*"],
        ids=["root", "account", "session", "anyone"],
    )
    def test_the_key_policy_may_name_more_than_the_role(self, aws: Aws, consumer: str) -> None:
        kms = function(aws, allow())
        _, ciphertext = sealed(aws, consumer)
        assert kms.decrypt(CiphertextBlob=ciphertext)["Plaintext"] == b"hello"
        aws.put_role_policy(ROLE, None)
        with refused("AccessDeniedException"):  # between accounts the key's policy is never enough
            kms.decrypt(CiphertextBlob=ciphertext)

    def test_another_role_is_refused(self, aws: Aws) -> None:
        function(aws, allow())
        other = function(aws, allow(), role=ROLE + "2")
        _, ciphertext = sealed(aws, ROLE)
        with refused("AccessDeniedException"):
            other.decrypt(CiphertextBlob=ciphertext)

    def test_a_role_made_again_is_another_until_the_policy_is_written_again(self, aws: Aws) -> None:
        function(aws, allow())
        before = aws.client("kms", aws.assume(ROLE))
        arn, ciphertext = sealed(aws, ROLE)
        aws.delete_role(ROLE)
        with refused("UnrecognizedClientException"):
            before.decrypt(CiphertextBlob=ciphertext)
        kms = function(aws, allow())
        with refused("AccessDeniedException"):
            kms.decrypt(CiphertextBlob=ciphertext)
        cerberus = aws.client("kms", aws.account_credentials(Aws.CERBERUS_ACCOUNT))
        assert '"AROA' in cerberus.get_key_policy(KeyId=arn, PolicyName="default")["Policy"]
        cerberus.put_key_policy(KeyId=arn, PolicyName="default", Policy=json.dumps(key_policy(ROLE)))
        assert ROLE in cerberus.get_key_policy(KeyId=arn, PolicyName="default")["Policy"]
        assert kms.decrypt(CiphertextBlob=ciphertext)["Plaintext"] == b"hello"

    def test_a_key_policy_cannot_name_a_role_that_is_not(self, aws: Aws) -> None:
        with refused("MalformedPolicyDocumentException"):
            sealed(aws, ROLE)
        arn, _ = sealed(aws)
        with pytest.raises(RefusedError):
            aws.put_key_policy(arn, key_policy(ROLE))

    def test_a_role_in_a_path(self, aws: Aws) -> None:
        kms = function(aws, allow(), role=PATH_ROLE)
        _, ciphertext = sealed(aws, PATH_ROLE)
        assert kms.decrypt(CiphertextBlob=ciphertext)["Plaintext"] == b"hello"
        assert aws.client("sts", aws.assume(PATH_ROLE)).get_caller_identity()["Arn"] == SESSION

    def test_china_is_a_partition_of_its_own(self, aws: Aws) -> None:
        role = ROLE.replace("arn:aws:", "arn:aws-cn:")
        statement = allow(resource=KEYS.replace("arn:aws:", "arn:aws-cn:"))
        aws.create_role(role, policy(statement))
        cerberus = aws.client("kms", aws.account_credentials(Aws.CERBERUS_ACCOUNT), "cn-north-1")
        document = json.dumps(key_policy(role)).replace("arn:aws:iam", "arn:aws-cn:iam")
        arn = cerberus.create_key(Policy=document)["KeyMetadata"]["Arn"]
        ciphertext = cerberus.encrypt(KeyId=arn, Plaintext=b"hello")["CiphertextBlob"]
        kms = aws.client("kms", aws.assume(role), "cn-north-1")
        assert kms.decrypt(CiphertextBlob=ciphertext)["KeyId"] == arn
        assert arn.startswith("arn:aws-cn:kms:cn-north-1:")
        with refused("UnrecognizedClientException"):
            aws.client("kms", aws.assume(role), "us-west-2").decrypt(CiphertextBlob=ciphertext)


class TestOneAccount:
    """Where key and caller are in one account, the key's policy may name the caller, or leave it to the account."""

    @pytest.fixture
    def role(self) -> str:
        return ROLE.replace(Aws.FUNCTION_ACCOUNT, Aws.CERBERUS_ACCOUNT)

    def test_a_key_policy_that_names_the_role_is_enough(self, aws: Aws, role: str) -> None:
        kms = function(aws, role=role)
        _, ciphertext = sealed(aws, role)
        assert kms.decrypt(CiphertextBlob=ciphertext)["Plaintext"] == b"hello"

    def test_one_that_names_the_account_is_not(self, aws: Aws, role: str) -> None:
        kms = function(aws, role=role)
        _, ciphertext = sealed(aws)
        with refused("AccessDeniedException") as text:
            kms.decrypt(CiphertextBlob=ciphertext)
        assert text[0].endswith("because no identity-based policy allows the kms:Decrypt action")
        aws.put_role_policy(role, policy(allow()))
        assert kms.decrypt(CiphertextBlob=ciphertext)["Plaintext"] == b"hello"

    def test_without_a_word_of_the_key_policy_nothing_helps(self, aws: Aws, role: str) -> None:
        kms = function(aws, allow("kms:*", "*"), role=role)
        arn, _ = sealed(aws)
        aws.put_key_policy(arn, policy())
        with refused("AccessDeniedException") as text:
            kms.encrypt(KeyId=arn, Plaintext=b"hello")
        assert text[0].endswith("because no resource-based policy allows the kms:Encrypt action")


class TestKms:
    @pytest.fixture
    def kms(self, aws: Aws) -> Any:
        return function(aws, allow())

    def test_a_key_exists_in_its_region_only(self, aws: Aws, kms: Any) -> None:
        _, ciphertext = sealed(aws, ROLE, region="us-east-1")
        with refused("AccessDeniedException") as text:
            kms.decrypt(CiphertextBlob=ciphertext)
        assert "the resource does not exist in this Region" in text[0]
        elsewhere = aws.client("kms", aws.assume(ROLE), "us-east-1")
        assert elsewhere.decrypt(CiphertextBlob=ciphertext)["KeyId"].startswith("arn:aws:kms:us-east-1:")
        assert aws.calls[-1].region == "us-east-1"

    def test_a_disabled_key(self, aws: Aws, kms: Any) -> None:
        arn, ciphertext = sealed(aws, ROLE)
        aws.disable_key(arn)
        with refused("DisabledException") as text:
            kms.decrypt(CiphertextBlob=ciphertext)
        assert text == [f"{arn} is disabled."]
        aws.enable_key(arn)
        assert kms.decrypt(CiphertextBlob=ciphertext)["Plaintext"] == b"hello"

    def test_a_key_about_to_be_deleted(self, aws: Aws, kms: Any) -> None:
        arn, ciphertext = sealed(aws, ROLE)
        aws.schedule_deletion(arn)
        with refused("KMSInvalidStateException") as text:
            kms.decrypt(CiphertextBlob=ciphertext)
        assert text == [f"{arn} is pending deletion."]

    def test_policies_come_before_the_state_of_the_key(self, aws: Aws, kms: Any) -> None:
        arn, ciphertext = sealed(aws)
        aws.disable_key(arn)
        with refused("AccessDeniedException"):
            kms.decrypt(CiphertextBlob=ciphertext)

    def test_what_is_no_ciphertext(self, aws: Aws, kms: Any) -> None:
        _, ciphertext = sealed(aws, ROLE)
        for broken in (b"x", b"x" * 200, ciphertext[:40], ciphertext[:-1], ciphertext[:-1] + b"\0"):
            with refused("InvalidCiphertextException"):
                kms.decrypt(CiphertextBlob=broken)
        for size in (0, 6145):
            with refused("ValidationException"):
                raw_decrypt(kms, base64.b64encode(b"x" * size).decode())
        with refused("SerializationException"):
            raw_decrypt(kms, "*")

    def test_a_ciphertext_of_another_key(self, aws: Aws, kms: Any) -> None:
        _, ciphertext = sealed(aws, ROLE)
        other, _ = sealed(aws, ROLE)
        with refused("IncorrectKeyException"):
            kms.decrypt(CiphertextBlob=ciphertext, KeyId=other)

    def test_the_encryption_context_is_part_of_it(self, aws: Aws, kms: Any) -> None:
        _, ciphertext = sealed(aws, ROLE, context={"for": "web"})
        assert kms.decrypt(CiphertextBlob=ciphertext, EncryptionContext={"for": "web"})["Plaintext"] == b"hello"
        with refused("InvalidCiphertextException"):
            kms.decrypt(CiphertextBlob=ciphertext)

    def test_a_policy_can_demand_an_encryption_context(self, aws: Aws, kms: Any) -> None:
        _, ciphertext = sealed(aws, ROLE, context={"for": "web"})
        for wanted, allowed in (("web", True), ("shop", False)):
            condition = {"ForAllValues:StringEquals": {"kms:EncryptionContext:for": [wanted]}}
            aws.put_role_policy(ROLE, policy(allow(Condition=condition)))
            expected = contextlib.nullcontext() if allowed else refused("AccessDeniedException")
            with expected:
                kms.decrypt(CiphertextBlob=ciphertext, EncryptionContext={"for": "web"})

    def test_keys_that_are_not_there(self, aws: Aws) -> None:
        role = ROLE.replace(Aws.FUNCTION_ACCOUNT, Aws.CERBERUS_ACCOUNT)
        kms = function(aws, allow("kms:*", "*"), role=role)
        missing = "00000000-0000-0000-0000-000000000000"
        arn = f"arn:aws:kms:us-west-2:{Aws.CERBERUS_ACCOUNT}:key/{missing}"
        with refused("NotFoundException") as text:
            kms.encrypt(KeyId=missing, Plaintext=b"hello")
        assert text == [f"Key '{arn}' does not exist"]
        with refused("NotFoundException"):
            kms.encrypt(KeyId="alias/none", Plaintext=b"hello")
        with refused("NotFoundException") as text:
            kms.encrypt(KeyId=arn.replace("us-west-2", "us-east-1"), Plaintext=b"hello")
        assert text == ["Invalid arn us-east-1"]
        with refused("AccessDeniedException"):  # whether another account has it is not told
            kms.encrypt(KeyId=arn.replace(Aws.CERBERUS_ACCOUNT, "333333333333"), Plaintext=b"hello")

    def test_an_alias_stands_for_its_key(self, aws: Aws) -> None:
        arn, _ = sealed(aws)
        kms = aws.client("kms", aws.account_credentials(Aws.CERBERUS_ACCOUNT))
        kms.create_alias(AliasName="alias/shared", TargetKeyId=arn)
        for name in ("alias/shared", f"arn:aws:kms:us-west-2:{Aws.CERBERUS_ACCOUNT}:alias/shared"):
            data_key = kms.generate_data_key(KeyId=name, KeySpec="AES_256")
            assert data_key["KeyId"] == arn
            assert kms.decrypt(CiphertextBlob=data_key["CiphertextBlob"])["Plaintext"] == data_key["Plaintext"]

    def test_a_policy_that_is_not_understood_is_an_error_and_not_passed_over(self, aws: Aws) -> None:
        aws.create_role(ROLE, None)
        for condition in ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"StringLike": {"aws:userid": "${aws:x}"}}):
            with pytest.raises(UnsupportedPolicyError):
                aws.put_role_policy(ROLE, policy(allow(Condition=condition)))


def raw_decrypt(kms: Any, blob: str) -> None:
    """Send this as the ciphertext, past boto3's own checks."""

    def replace_body(request: AWSRequest, **_: object) -> None:
        request.data = json.dumps({"CiphertextBlob": blob}).encode()

    kms.meta.events.register_first("before-sign.kms.Decrypt", replace_body)
    try:
        kms.decrypt(CiphertextBlob=b"x")
    finally:
        kms.meta.events.unregister("before-sign.kms.Decrypt", replace_body)


SERVICES: dict[str, Callable[[Any], object]] = {
    "kms": lambda client: client.list_keys(),
    "dynamodb": lambda client: client.list_tables(),
    "lambda": lambda client: client.get_function_configuration(FunctionName="f"),
    "sts": lambda client: client.get_caller_identity(),
    "iam": lambda client: client.list_roles(),
}
"""A call to each service. The role may make none of them but that to STS."""


def code_of(service: str, code: str) -> tuple[str, int]:
    """The name and status that a service has for an error of authentication."""
    if service in ("sts", "iam"):
        renamed = {
            "InvalidSignatureException": "SignatureDoesNotMatch",
            "UnrecognizedClientException": "InvalidClientTokenId",
        }
        return renamed.get(code, code.removesuffix("Exception")), 403
    return code, 403 if service == "lambda" else 400


@pytest.mark.parametrize("service", SERVICES)
class TestCredentials:
    @pytest.fixture
    def credentials(self, aws: Aws) -> Credentials:
        aws.create_role(ROLE, None)
        return aws.assume(ROLE)

    def call(self, aws: Aws, service: str, credentials: Credentials) -> None:
        SERVICES[service](aws.client(service, credentials))

    def test_good_ones_are_let_through_to_the_policies(self, aws: Aws, service: str, credentials: Credentials) -> None:
        if service == "sts":
            self.call(aws, service, credentials)
        else:
            with refused(*code_of(service, "AccessDeniedException")) as text:
                self.call(aws, service, credentials)
            assert text[0].startswith(f"User: {SESSION} is not authorized to perform: {service}:")
        assert aws.calls[-1].principal_arn == SESSION

    def test_a_wrong_secret(self, aws: Aws, service: str, credentials: Credentials) -> None:
        with refused(*code_of(service, "InvalidSignatureException")):
            self.call(aws, service, replace(credentials, secret_key="x" * 40))
        assert aws.calls[-1].principal_arn is None

    def test_an_unknown_access_key(self, aws: Aws, service: str, credentials: Credentials) -> None:
        with refused(*code_of(service, "UnrecognizedClientException")) as text:
            self.call(aws, service, replace(credentials, access_key="ASIA0000000000000000"))
        assert text == ["The security token included in the request is invalid."]

    @pytest.mark.parametrize("token", [None, "another"])
    def test_a_wrong_session_token(self, aws: Aws, service: str, credentials: Credentials, token: str | None) -> None:
        with refused(*code_of(service, "UnrecognizedClientException")):
            self.call(aws, service, replace(credentials, session_token=token))

    def test_expired_ones(self, aws: Aws, service: str, credentials: Credentials) -> None:
        with refused(*code_of(service, "ExpiredTokenException")) as text:
            self.call(aws, service, aws.assume(ROLE, duration_seconds=0))
        assert text == ["The security token included in the request is expired"]

    def test_a_region_that_is_none(self, aws: Aws, service: str, credentials: Credentials) -> None:
        client = aws.client(service, credentials, "us-nowhere-1")
        if service == "iam":
            return  # boto3 signs it for the partition's own region
        with refused(*code_of(service, "InvalidSignatureException")) as text:
            SERVICES[service](client)
        assert "valid region" in text[0]


class Raw:
    """Requests made by hand: signed well, and then changed as a test wishes."""

    def __init__(self, aws: Aws, credentials: Credentials, authority: CertificateAuthority) -> None:
        self.aws = aws
        self.authority = authority
        self.credentials = BotocoreCredentials(
            credentials.access_key, credentials.secret_key, credentials.session_token
        )

    def signed(
        self,
        body: bytes,
        headers: Mapping[str, str],
        service: str = "sts",
        host: str = "sts.us-west-2.amazonaws.com",
        made: timedelta = timedelta(0),
        region: str = "us-west-2",
    ) -> dict[str, str]:
        """Give the headers, signed as of ``made`` from now."""
        request = AWSRequest("POST", f"https://{host}/", {"Host": host, **headers}, body)
        signer = SigV4Auth(self.credentials, service, region)
        request.context["timestamp"] = (datetime.now(UTC) + made).strftime("%Y%m%dT%H%M%SZ")
        signer._modify_request_before_signing(request)  # type: ignore[attr-defined]
        canonical = signer.canonical_request(request)
        signer._inject_signature_to_request(  # type: ignore[attr-defined]
            request, signer.signature(signer.string_to_sign(request, canonical), request)
        )
        return dict(request.headers.items())

    def send(self, body: bytes, headers: Mapping[str, str], method: str = "POST", path: str = "/") -> tuple[int, Any]:
        """Send it, and give the status and the body, which must be JSON."""
        host, port = urlsplit(self.aws.url).hostname, urlsplit(self.aws.url).port
        connection = http.client.HTTPSConnection(
            host or "", port, context=ssl.create_default_context(cafile=str(self.authority.bundle))
        )
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Accept": "application/json", **headers})
            answer = connection.getresponse()
            assert answer.headers["x-amzn-RequestId"]
            assert answer.headers["Content-Type"].startswith("application/")
            return answer.status, json.loads(answer.read())


@pytest.fixture
def raw(aws: Aws, authority: CertificateAuthority) -> Raw:
    aws.create_role(ROLE, None)
    return Raw(aws, aws.assume(ROLE), authority)


class TestSignature:
    def test_sts_as_cerberus_replays_it(self, aws: Aws, raw: Raw) -> None:
        """The signature is for the regional host; other headers may be added on the way."""
        headers = raw.signed(IDENTITY, {})
        status, answer = raw.send(IDENTITY, {**headers, "Content-Type": FORM})
        assert status == 200
        result = answer["GetCallerIdentityResponse"]["GetCallerIdentityResult"]
        assert (result["Account"], result["Arn"]) == (Aws.FUNCTION_ACCOUNT, SESSION)
        assert result["UserId"].startswith("AROA")
        assert answer["GetCallerIdentityResponse"]["ResponseMetadata"]["RequestId"]
        assert aws.calls == [AwsCall("sts", "GetCallerIdentity", SESSION, 200, "us-west-2")]

    @pytest.mark.parametrize(
        "change",
        [
            {"Host": "sts.us-east-1.amazonaws.com"},
            {"X-Amz-Content-Sha256": "0" * 64},
            {"Body": "Action=GetCallerIdentity&Version=2011-06-15&"},
            {"Signature": "0" * 64},
            {"X-Amz-Date": "20200101T000000Z"},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_anything_changed_is_noticed(self, raw: Raw, change: dict[str, str]) -> None:
        headers, body = raw.signed(IDENTITY, {}), IDENTITY
        if "Body" in change:
            body = change["Body"].encode()
        elif "Signature" in change:
            headers["Authorization"] = headers["Authorization"][:-64] + change["Signature"]
        else:
            headers.update(change)
        status, answer = raw.send(body, headers)
        assert (status, answer["Error"]["Code"]) == (403, "SignatureDoesNotMatch")

    def test_a_wrong_hash_of_the_body_that_is_signed(self, raw: Raw) -> None:
        status, answer = raw.send(IDENTITY, raw.signed(IDENTITY, {"X-Amz-Content-SHA256": "0" * 64}))
        assert (status, answer["Error"]["Code"]) == (403, "SignatureDoesNotMatch")

    def test_one_for_another_service(self, raw: Raw) -> None:
        status, answer = raw.send(IDENTITY, raw.signed(IDENTITY, {}, service="kms"))
        assert (status, answer["Error"]["Code"]) == (403, "SignatureDoesNotMatch")
        assert "correct service: 'sts'" in answer["Error"]["Message"]

    def test_one_for_another_region_than_the_host(self, raw: Raw) -> None:
        status, answer = raw.send(IDENTITY, raw.signed(IDENTITY, {}, region="us-east-1"))
        assert (status, answer["Error"]["Code"]) == (403, "SignatureDoesNotMatch")
        assert "valid region" in answer["Error"]["Message"]

    @pytest.mark.parametrize(("service", "minutes"), [("sts", 15), ("kms", 5)])
    def test_it_has_to_be_made_now(self, raw: Raw, service: str, minutes: int) -> None:
        body, more = (IDENTITY, {}) if service == "sts" else (b"{}", {"X-Amz-Target": "TrentService.ListKeys"})
        for sign, word in ((-1, "expired"), (1, "not yet current")):
            for off, good in ((minutes - 1, True), (minutes + 1, False)):
                made = timedelta(minutes=sign * off)
                _, answer = raw.send(body, raw.signed(body, more, service, f"{service}.us-west-2.amazonaws.com", made))
                assert (f"Signature {word}" in json.dumps(answer)) is not good

    def test_none(self, aws: Aws, raw: Raw) -> None:
        for header, code in ((None, "MissingAuthenticationToken"), ("Bearer x", "IncompleteSignature")):
            status, answer = raw.send(IDENTITY, {"Authorization": header} if header else {})
            assert (status, answer["Error"]["Code"]) == (403, code)
        target = {"X-Amz-Target": "TrentService.ListKeys"}
        assert raw.send(b"{}", target) == (
            400,
            {"__type": "MissingAuthenticationTokenException", "message": "Missing Authentication Token"},
        )
        assert [call.action for call in aws.calls] == ["GetCallerIdentity", "GetCallerIdentity", "ListKeys"]

    def test_the_host_has_to_be_signed(self, raw: Raw) -> None:
        headers = raw.signed(IDENTITY, {})
        headers["Authorization"] = headers["Authorization"].replace("host;", "")
        status, answer = raw.send(IDENTITY, headers)
        assert (status, answer["Error"]["Code"]) == (403, "IncompleteSignature")

    def test_a_refusal_of_kms_as_it_is_on_the_wire(self, raw: Raw) -> None:
        body = b"{}"
        headers = raw.signed(body, {"X-Amz-Target": "TrentService.ListKeys"}, "kms", "kms.us-west-2.amazonaws.com")
        assert raw.send(body, headers) == (
            400,
            {
                "__type": "AccessDeniedException",
                "Message": f"User: {SESSION} is not authorized to perform: kms:ListKeys on resource: * because no "
                "identity-based policy allows the kms:ListKeys action",
            },
        )


class TestAssumeRole:
    OTHER = f"arn:aws:iam::{Aws.CERBERUS_ACCOUNT}:role/reader"

    def trust(self, *principals: str, **more: Any) -> dict[str, Any]:
        """A trust policy, which speaks of no resource."""
        statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": list(principals)}}
        return policy({**statement, **more})

    def test_both_sides_have_to_allow_it(self, aws: Aws) -> None:
        may = policy(allow("sts:AssumeRole", self.OTHER))
        aws.create_role(ROLE, None)
        aws.create_role(self.OTHER, None, self.trust(ROLE))
        sts = aws.client("sts", aws.assume(ROLE))
        with refused("AccessDenied", 403) as text:
            sts.assume_role(RoleArn=self.OTHER, RoleSessionName="job")
        assert text == [f"User: {SESSION} is not authorized to perform: sts:AssumeRole on resource: {self.OTHER}"]
        aws.put_role_policy(ROLE, may)
        answer = sts.assume_role(RoleArn=self.OTHER, RoleSessionName="job", DurationSeconds=900)
        arn = f"arn:aws:sts::{Aws.CERBERUS_ACCOUNT}:assumed-role/reader/job"
        assert answer["AssumedRoleUser"]["Arn"] == arn
        keys = answer["Credentials"]
        assert 890 < (keys["Expiration"] - datetime.now(UTC)).total_seconds() <= 900
        credentials = Credentials(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
        assert aws.client("sts", credentials).get_caller_identity()["Arn"] == arn

    def test_who_is_not_trusted_is_refused(self, aws: Aws) -> None:
        aws.create_role(ROLE, policy(allow("sts:AssumeRole", "*")))
        aws.create_role(self.OTHER, None)
        sts = aws.client("sts", aws.assume(ROLE))
        for role in (self.OTHER, self.OTHER + "2", "arn:aws:iam::x:role/y-and-twenty"):
            with refused("AccessDenied", 403):
                sts.assume_role(RoleArn=role, RoleSessionName="job")

    def test_an_external_id(self, aws: Aws) -> None:
        aws.create_role(ROLE, policy(allow("sts:AssumeRole", "*")))
        condition = {"StringEquals": {"sts:ExternalId": "secret handshake"}}
        aws.create_role(self.OTHER, None, self.trust(ROLE, Condition=condition))
        sts = aws.client("sts", aws.assume(ROLE))
        sts.assume_role(RoleArn=self.OTHER, RoleSessionName="job", ExternalId="secret handshake")
        for external_id in ({}, {"ExternalId": "another"}):
            with refused("AccessDenied", 403):
                sts.assume_role(RoleArn=self.OTHER, RoleSessionName="job", **external_id)

    def test_in_json(self, aws: Aws, raw: Raw) -> None:
        aws.put_role_policy(ROLE, policy(allow("sts:AssumeRole", "*")))
        aws.create_role(self.OTHER, None, self.trust(ROLE))
        body = f"Action=AssumeRole&Version=2011-06-15&RoleArn={self.OTHER}&RoleSessionName=job".encode()
        status, answer = raw.send(body, raw.signed(body, {"Content-Type": FORM}))
        assert status == 200
        expiration = answer["AssumeRoleResponse"]["AssumeRoleResult"]["Credentials"]["Expiration"]
        assert 3590 < expiration - datetime.now(UTC).timestamp() <= 3601


class TestLambda:
    FUNCTION = f"arn:aws:lambda:us-west-2:{Aws.FUNCTION_ACCOUNT}:function:web"

    def test_the_configuration_knows_the_path_of_the_role(self, aws: Aws) -> None:
        aws.create_role(PATH_ROLE, policy(allow("lambda:GetFunctionConfiguration", self.FUNCTION)))
        aws.create_function("web", PATH_ROLE)
        client = aws.client("lambda", aws.assume(PATH_ROLE))
        for name in ("web", self.FUNCTION):
            assert client.get_function_configuration(FunctionName=name)["Role"] == PATH_ROLE
        assert aws.calls[-1] == AwsCall("lambda", "GetFunctionConfiguration", SESSION, 200, "us-west-2")

    def test_it_needs_permission(self, aws: Aws) -> None:
        aws.create_role(ROLE, policy(allow("lambda:GetFunctionConfiguration", self.FUNCTION + "2")))
        aws.create_function("web", ROLE)
        client = aws.client("lambda", aws.assume(ROLE))
        with refused("AccessDeniedException", 403) as text:
            client.get_function_configuration(FunctionName="web")
        assert f"lambda:GetFunctionConfiguration on resource: {self.FUNCTION} because no identity" in text[0]
        with refused("AccessDeniedException", 403):
            client.get_function_configuration(FunctionName="web2", Qualifier="1")
        with refused("ResourceNotFoundException", 404):
            client.get_function_configuration(FunctionName="web2")


class TestDynamoDb:
    TABLE = f"arn:aws:dynamodb:us-west-2:{Aws.FUNCTION_ACCOUNT}:table/tokens"

    @pytest.fixture
    def table(self, aws: Aws) -> Any:
        """The table, as the role sees it."""
        aws.create_role(ROLE, None)
        aws.client("dynamodb", aws.account_credentials(Aws.FUNCTION_ACCOUNT)).create_table(
            TableName="tokens",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        return aws.client("dynamodb", aws.assume(ROLE))

    def test_policies_name_tables(self, aws: Aws, table: Any) -> None:
        aws.put_role_policy(ROLE, policy(allow("dynamodb:*Item", self.TABLE)))
        table.put_item(TableName="tokens", Item={"id": {"S": "a"}, "value": {"B": b"x"}})
        assert table.get_item(TableName=self.TABLE, Key={"id": {"S": "a"}})["Item"]["value"] == {"B": b"x"}
        with refused("AccessDeniedException") as text:
            table.get_item(TableName="others", Key={"id": {"S": "a"}})
        assert f"dynamodb:GetItem on resource: {self.TABLE.replace('tokens', 'others')} because" in text[0]
        with refused("AccessDeniedException"):
            table.describe_table(TableName="tokens")

    def test_policies_name_leading_keys(self, aws: Aws, table: Any) -> None:
        condition = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["web#*"]}}
        aws.put_role_policy(ROLE, policy(allow("dynamodb:*", self.TABLE, Condition=condition)))
        for key, expected in (("web#1", contextlib.nullcontext()), ("shop#1", refused("AccessDeniedException"))):
            with expected:
                table.put_item(TableName="tokens", Item={"id": {"S": key}})
        for key, expected in (("web#1", contextlib.nullcontext()), ("shop#1", refused("AccessDeniedException"))):
            with expected:
                table.query(
                    TableName="tokens",
                    KeyConditionExpression="#id = :id",
                    ExpressionAttributeNames={"#id": "id"},
                    ExpressionAttributeValues={":id": {"S": key}},
                )


class TestServer:
    def test_connections_are_kept(self, aws: Aws) -> None:
        sts = aws.client("sts", aws.account_credentials(Aws.FUNCTION_ACCOUNT))
        before = aws.server.connections
        for _ in range(20):
            sts.get_caller_identity()
        assert aws.server.connections == before + 1
        with refused("InvalidAction"):
            sts.get_session_token()
        sts.get_caller_identity()
        assert aws.server.connections == before + 1

    @pytest.mark.parametrize(
        ("service", "code", "status"),
        [
            ("kms", "ThrottlingException", 400),
            ("dynamodb", "ThrottlingException", 400),
            ("sts", "Throttling", 400),
            ("lambda", "TooManyRequestsException", 429),
        ],
    )
    def test_too_many_calls(self, aws: Aws, service: str, code: str, status: int) -> None:
        administrator = aws.account_credentials(Aws.FUNCTION_ACCOUNT)
        aws.create_role(ROLE, None)
        aws.create_function("f", ROLE)
        client = aws.client(service, administrator)
        aws.throttle(service)
        with refused(code, status) as text:
            SERVICES[service](client)
        assert text == ["Rate exceeded"]
        SERVICES[service](client)
        assert [(call.status, call.account) for call in aws.calls] == [
            (status, Aws.FUNCTION_ACCOUNT),
            (200, Aws.FUNCTION_ACCOUNT),
        ]

    def test_many_at_once(self, aws: Aws) -> None:
        aws.create_role(ROLE, policy(allow()))
        _, ciphertext = sealed(aws, ROLE)
        kms, answers = aws.client("kms", aws.assume(ROLE)), []
        threads = [
            threading.Thread(target=lambda: answers.append(kms.decrypt(CiphertextBlob=ciphertext)["Plaintext"]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [b"hello"] * 8
        assert aws.count("kms", "Decrypt") == 8

    def test_each_starts_empty_and_alone(self) -> None:
        for _ in range(2):
            with Aws() as aws:
                assert aws.url.startswith("http://127.0.0.1:")
                aws.create_role(ROLE, None)  # it would be there already
                with pytest.raises(RuntimeError, match="Another Aws is open"):
                    Aws()
                assert aws.client("sts", aws.assume(ROLE)).get_caller_identity()["Account"] == Aws.FUNCTION_ACCOUNT

    def test_an_administrator_changes_policies_through_iam(self, aws: Aws, tmp_path: Path) -> None:
        kms = function(aws)
        _, ciphertext = sealed(aws, ROLE)
        iam = aws.client("iam", aws.account_credentials(Aws.FUNCTION_ACCOUNT))
        iam.put_role_policy(RoleName="web", PolicyName="more", PolicyDocument=json.dumps(policy(allow())))
        assert kms.decrypt(CiphertextBlob=ciphertext)["Plaintext"] == b"hello"


class TestPolicies:
    def verdict(self, *statements: Mapping[str, Any], action: str = "kms:Decrypt", **context: str) -> Verdict:
        arn = f"arn:aws:kms:us-west-2:{Aws.CERBERUS_ACCOUNT}:key/1-a"
        values = {name.replace("__", ":"): tuple(value.split()) for name, value in context.items()}
        return evaluate(parse(policy(*statements)), action, arn, values)

    @pytest.mark.parametrize("action", ["*", "kms:*", "kms:Dec*", "kms:Decryp?", "KMS:decrypt"])
    def test_actions(self, action: str) -> None:
        assert self.verdict(allow(action)) is Verdict.ALLOW

    @pytest.mark.parametrize("action", ["kms:Decrypt?", "kms:Encrypt", "sts:*", "kms.Decrypt"])
    def test_other_actions(self, action: str) -> None:
        assert self.verdict(allow(action)) is Verdict.IMPLICIT_DENY

    @pytest.mark.parametrize(
        "condition",
        [
            {"StringEquals": {"aws:requestedregion": ["eu-west-1", "us-west-2"]}},
            {"StringLike": {"aws:RequestedRegion": "us-*"}, "Null": {"kms:ViaService": "true"}},
            {"Null": {"aws:RequestedRegion": False}},
            {"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["a", "b", "c"]}},
            {"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "a"}},
            {"ForAllValues:StringEquals": {"not:there": "a"}},
        ],
    )
    def test_conditions(self, condition: Mapping[str, Any]) -> None:
        context = {"aws__requestedregion": "us-west-2", "kms__encryptioncontextkeys": "a b"}
        assert self.verdict(allow(Condition=condition), **context) is Verdict.ALLOW

    @pytest.mark.parametrize(
        "condition",
        [
            {"StringEquals": {"aws:RequestedRegion": "us-*"}},
            {"StringEquals": {"not:there": "a"}},
            {"StringLike": {"aws:RequestedRegion": "us-*"}, "Null": {"kms:ViaService": "false"}},
            {"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": "a"}},
            {"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "c"}},
            {"ForAnyValue:StringEquals": {"not:there": "a"}},
        ],
    )
    def test_conditions_that_do_not_hold(self, condition: Mapping[str, Any]) -> None:
        context = {"aws__requestedregion": "us-west-2", "kms__encryptioncontextkeys": "a b"}
        assert self.verdict(allow(Condition=condition), **context) is Verdict.IMPLICIT_DENY

    @pytest.mark.parametrize("quantifier", ["", "ForAllValues:"])
    def test_a_policy_variable_stands_for_the_caller(self, quantifier: str) -> None:
        condition = {f"{quantifier}StringEquals": {"a:owner": ["${aws:PrincipalArn}"]}}
        context = {"aws__principalarn": ROLE}
        assert self.verdict(allow(Condition=condition), a__owner=ROLE, **context) is Verdict.ALLOW
        assert self.verdict(allow(Condition=condition), a__owner=ROLE + "2", **context) is Verdict.IMPLICIT_DENY
        for owner in (ROLE, "${aws:PrincipalArn}"):  # the variable has no value, and is not that text
            assert self.verdict(allow(Condition=condition), a__owner=owner) is Verdict.IMPLICIT_DENY

    @pytest.mark.parametrize(
        "document",
        [
            "not json",
            {"Statement": allow(Condition={"StringEquals": {"a:b": "${aws:PrincipalArn}"}})},  # an older version: text
            policy(allow(Condition={"StringLike": {"a:b": "${aws:PrincipalArn}"}})),
            policy(allow(Condition={"StringEquals": {"a:b": "x${aws:PrincipalArn}"}})),
            policy(allow(Condition={"Null": {"a:b": "${aws:PrincipalArn}"}})),
            policy(allow(resource="arn:aws:kms:*:222222222222:key/${aws:PrincipalArn}")),
            "[]",
            "{}",
            policy({"Effect": "Perhaps", "Action": "*", "Resource": "*"}),
            policy({"Effect": "Allow", "NotAction": "*", "Resource": "*"}),
            policy(allow(Condition={"StringEqualsIfExists": {"a:b": "c"}})),
            policy(allow(Condition={"ForSomeValues:StringEquals": {"a:b": "c"}})),
            policy(allow(resource="arn:aws:kms:*:222222222222:key/${aws:username}")),
            policy(allow(Principal={"Federated": "x"})),
            policy(allow(Principal="everyone")),
        ],
    )
    def test_what_is_not_understood(self, document: Any) -> None:
        with pytest.raises(UnsupportedPolicyError):
            parse(document)
