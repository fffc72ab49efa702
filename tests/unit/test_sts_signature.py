"""The signature of STS authentication: equal to botocore's, over what the service forwards, and nothing more."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cerberus_auth import Settings
from cerberus_auth.authentication.sts import StsAuth
from cerberus_auth.aws import sigv4
from cerberus_auth.aws.calls import Credentials, connect
from cerberus_auth.deadline import Deadline
from cerberus_auth.http.transport import Response, Transport

BODY = b"Action=GetCallerIdentity&Version=2011-06-15"
REGIONS = sorted(
    region
    for partition in ("aws", "aws-cn")
    for region in boto3.Session().get_available_regions("sts", partition_name=partition)
)
FORWARDED = {"authorization", "x-amz-date", "x-amz-security-token"}  # contract page
KEYS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=16, max_size=128)
TOKENS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=1200)
MOMENTS = st.datetimes(datetime(2001, 1, 1), datetime(2199, 12, 31)).map(lambda moment: moment.replace(microsecond=0))
CASES = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Service(Transport):
    """A transport that notes what it is to send, and answers with a token."""

    def __init__(self) -> None:
        self.url = ""
        self.sent: dict[str, str] = {}
        self.body: bytes | None = None

    def request(
        self,
        service: str,
        method: str,
        url: str,
        deadline: Deadline,
        *,
        headers: Callable[[], Mapping[str, str]],
        body: bytes | None = None,
        **others: Any,
    ) -> Response:
        assert (service, method) == ("Cerberus", "POST")
        self.url, self.sent, self.body = url, {name.lower(): value for name, value in headers().items()}, body
        return Response(200, {}, b'{"client_token": "a-token", "lease_duration": 3600}')


def sent(region: str, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The headers of an STS authentication in this environment, by the client that it calls for."""
    with monkeypatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        chosen = Settings.from_env(
            {"CERBERUS_URL": "https://cerberus.example.com", "AWS_REGION": region, **environment}
        )
        service = Service()
        method = StsAuth(chosen, service, connect(chosen, service))
        assert method.authenticate("", region, Deadline(5)).value == "a-token"
    assert service.url == "https://cerberus.example.com/v2/auth/sts-identity"
    assert service.body == b""
    return service.sent


def botocores(region: str, key: str, secret: str, token: str | None, moment: datetime) -> dict[str, str]:
    """What botocore would send to the public regional host."""
    suffix = ".cn" if region.startswith("cn-") else ""
    request = AWSRequest("POST", f"https://sts.{region}.amazonaws.com{suffix}/", data=BODY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: moment)
        botocore.auth.SigV4Auth(BotocoreCredentials(key, secret, token), "sts", region).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


@CASES
@given(st.sampled_from(REGIONS), KEYS, TOKENS, st.none() | TOKENS, MOMENTS)
def test_it_equals_botocores(region: str, key: str, secret: str, token: str | None, moment: datetime) -> None:
    environment = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    if token:
        environment["AWS_SESSION_TOKEN"] = token
    with pytest.MonkeyPatch.context() as patch:
        seconds = moment.replace(tzinfo=UTC).timestamp()
        clock = SimpleNamespace(strftime=time.strftime, gmtime=lambda now: time.gmtime(seconds if now is None else now))
        patch.setattr(sigv4, "time", clock)
        headers = sent(region, environment, patch)
    expected = botocores(region, key, secret, token, moment)
    assert {name: value for name, value in headers.items() if name in FORWARDED} == expected
    # The service forwards nothing else: whatever else goes with the request is not signed.
    signed = re.search("SignedHeaders=([^,]+), ", headers["authorization"])
    assert signed is not None
    names = ["host", "x-amz-date", *(["x-amz-security-token"] if token else [])]
    assert signed[1].split(";") == names
    assert set(headers) - FORWARDED == {"accept", "x-cerberus-client"}


@CASES
@given(
    st.sampled_from(["GET", "POST", "PUT"]),
    st.sampled_from(REGIONS),
    st.sampled_from(["kms", "lambda", "dynamodb", "sts"]),
    st.dictionaries(
        st.text("abcdefghijklmnopqrstuvwxyz-", min_size=3, max_size=20).map("x-amz-{}".format),
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40),
        max_size=4,
    ),
    st.binary(max_size=200),
    MOMENTS,
)
def test_the_signer_equals_botocores_for_the_other_calls_too(
    method: str, region: str, service: str, headers: dict[str, str], body: bytes, moment: datetime
) -> None:
    headers.pop("x-amz-security-token", None)
    host = f"{service}.{region}.amazonaws.com"
    request = AWSRequest(method, f"https://{host}/2015-03-31/functions/web/configuration", data=body, headers=headers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: moment)
        botocore.auth.SigV4Auth(BotocoreCredentials("AKIDEXAMPLE", "secret"), service, region).add_auth(request)
    ours = sigv4.sign(
        method,
        host,
        "/2015-03-31/functions/web/configuration",
        headers,
        body,
        service=service,
        region=region,
        credentials=Credentials("AKIDEXAMPLE", "secret", None),
        now=moment.replace(tzinfo=UTC).timestamp(),
    )
    assert ours["authorization"] == request.headers["Authorization"]


@pytest.mark.parametrize("region", ["us-west-2", "cn-north-1"])
@pytest.mark.parametrize(
    "own",
    [
        {"AWS_ENDPOINT_URL": "https://aws.example.com"},
        {"AWS_ENDPOINT_URL_STS": "https://sts.example.com"},
        {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
        {"HTTPS_PROXY": "http://proxy.example.com:3128"},
        {"CERBERUS_AWS_CLIENT": "sdk"},
    ],
    ids=lambda own: next(iter(own)),
)
def test_it_is_for_the_public_host_whatever_our_own_calls_use(
    region: str, own: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "session"}
    headers = sent(region, keys | own, monkeypatch)
    moment = datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
    assert headers["authorization"] == botocores(region, "AKIDEXAMPLE", "secret", "session", moment)["authorization"]


def test_each_attempt_is_signed_by_the_credentials_of_its_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    for aws_client in ("signed", "sdk"):
        chosen = Settings(url="https://cerberus.example.com", region="us-west-2", aws_client=aws_client)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FIRST")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "first")
        service = Service()
        method = StsAuth(chosen, service, connect(chosen, service))
        for key in ("FIRST", "SECOND", "THIRD"):
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
            monkeypatch.setenv("AWS_SESSION_TOKEN", key.lower())
            method.authenticate("", "us-west-2", Deadline(5))
            assert f"Credential={key}/" in service.sent["authorization"], aws_client
            assert service.sent["x-amz-security-token"] == key.lower()
