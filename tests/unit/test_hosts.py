"""Where our own calls go: for every region of both partitions, the hosts that botocore's rules give."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import EndpointProviderError
from botocore.loaders import Loader

from cerberus_auth import ConfigurationError, Settings
from cerberus_auth.aws.calls import connect, host
from cerberus_auth.aws.sdk import SdkAws
from cerberus_auth.aws.signed import SignedAws
from cerberus_auth.deadline import Deadline
from cerberus_auth.http.transport import Transport

if TYPE_CHECKING:
    from cerberus_auth.aws.calls import Aws

SERVICES = ("kms", "sts", "lambda", "dynamodb")
REGIONS = {
    partition: sorted(
        {region for service in SERVICES for region in boto3.Session().get_available_regions(service, partition)}
    )
    for partition in ("aws", "aws-cn")
}
ALL_REGIONS = [*REGIONS["aws"], *REGIONS["aws-cn"]]
VARIANTS = {
    "plain": {},
    "fips": {"AWS_USE_FIPS_ENDPOINT": "true"},
    "dualstack": {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
    "both": {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
}
CIPHERTEXT = "Y2lwaGVydGV4dA=="


@functools.cache
def rules(service: str) -> EndpointProvider:
    loader = Loader()
    return EndpointProvider(loader.load_service_model(service, "endpoint-rule-set-1"), loader.load_data("partitions"))


def botocores(service: str, region: str, variant: str = "plain") -> str:
    """The host that the service's own rules name, without any client of botocore's."""
    given = {
        "Region": region,
        "UseFIPS": variant in ("fips", "both"),
        "UseDualStack": variant in ("dualstack", "both"),
    }
    if service == "sts":
        given["UseGlobalEndpoint"] = False
    return urlsplit(rules(service).resolve_endpoint(**given).url).hostname or ""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "AWS_USE_FIPS_ENDPOINT",
        "AWS_USE_DUALSTACK_ENDPOINT",
        "AWS_CA_BUNDLE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    monkeypatch.setenv("CERBERUS_URL", "https://cerberus.example.com")
    return monkeypatch


def aws_client() -> Aws:
    settings = Settings.from_env()
    return connect(settings, Unsent(settings))


def test_there_are_regions_to_compare() -> None:
    assert len(REGIONS["aws"]) >= 30
    assert REGIONS["aws-cn"] == ["cn-north-1", "cn-northwest-1"]


@pytest.mark.parametrize("region", ALL_REGIONS)
def test_the_signed_client_calls_botocores_hosts(region: str) -> None:
    assert isinstance(aws_client(), SignedAws)
    assert {service: host(service, region) for service in SERVICES} == {
        service: botocores(service, region) for service in SERVICES
    }


class Reached(Exception):
    """A request was about to be sent to this host."""


class Unsent(Transport):
    """Sends nothing."""

    def once(self, service: str, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        raise Reached(urlsplit(url).hostname)


def reached(action: Callable[[], Any]) -> str:
    """Call, and give the host to which the SDK's request would have gone."""
    with pytest.raises(Reached) as raised:
        action()
    return str(raised.value)


def ask(aws: SdkAws, service: str, region: str) -> None:
    deadline = Deadline(5)
    if service == "kms":
        aws.decrypt(CIPHERTEXT, region, deadline)
    elif service == "sts":
        aws.caller_identity(region, deadline)
    elif service == "lambda":
        aws.function_role("web", region, deadline)
    else:
        aws._call(service, region, deadline, lambda client: client.list_tables())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_sdk_client_reaches_the_hosts_of_the_variant(variant: str, environment: pytest.MonkeyPatch) -> None:
    """In every region for every service for which botocore's rules name a host."""
    for name, value in VARIANTS[variant].items():
        environment.setenv(name, value)
    if variant == "plain":
        environment.setenv("CERBERUS_AWS_CLIENT", "sdk")
    aws = aws_client()
    assert isinstance(aws, SdkAws)
    compared = 0
    for region in ALL_REGIONS:
        for service in SERVICES:
            try:
                expected = botocores(service, region, variant)
            except EndpointProviderError:  # this partition has none such
                continue
            assert reached(partial(ask, aws, service, region)) == expected
            compared += 1
    assert compared == len(ALL_REGIONS) * len(SERVICES)


@pytest.mark.parametrize(
    ("variant", "region", "expected"),
    [
        ("plain", "us-west-2", "kms.us-west-2.amazonaws.com"),
        ("plain", "cn-north-1", "kms.cn-north-1.amazonaws.com.cn"),
        ("fips", "us-west-2", "kms-fips.us-west-2.amazonaws.com"),
        ("dualstack", "us-west-2", "kms.us-west-2.api.aws"),
        ("dualstack", "cn-north-1", "kms.cn-north-1.api.amazonwebservices.com.cn"),
        ("both", "us-west-2", "kms-fips.us-west-2.api.aws"),
    ],
)
def test_botocores_rules_are_those_of_the_manual(variant: str, region: str, expected: str) -> None:
    assert botocores("kms", region, variant) == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_endpoint_of_ones_own_goes_before_a_variant(variant: str, environment: pytest.MonkeyPatch) -> None:
    for name, value in VARIANTS[variant].items():
        environment.setenv(name, value)
    environment.setenv("AWS_ENDPOINT_URL_KMS", "https://vpce-0123.kms.us-west-2.vpce.amazonaws.com")
    environment.setenv("CERBERUS_AWS_CLIENT", "sdk")
    aws = aws_client()
    assert isinstance(aws, SdkAws)
    called = reached(lambda: aws.decrypt(CIPHERTEXT, "us-west-2", Deadline(5)))
    assert called == "vpce-0123.kms.us-west-2.vpce.amazonaws.com"
    called = reached(lambda: aws.caller_identity("us-west-2", Deadline(5)))
    assert called == botocores("sts", "us-west-2", variant)


@pytest.mark.parametrize(
    "region",
    ["us-gov-west-1", "us-iso-east-1", "us-isob-east-1", "eu-isoe-west-1", "us-isof-south-1", "eusc-de-east-1"],
)
def test_regions_of_other_partitions_are_refused(region: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_REGION", region)
    with pytest.raises(ConfigurationError, match="Use a region of aws or aws-cn"):
        aws_client()


def test_every_region_that_botocore_knows_is_taken_or_refused_by_its_partition(environment: pytest.MonkeyPatch) -> None:
    session = boto3.Session()
    for partition in session.get_available_partitions():
        for region in session.get_available_regions("kms", partition):
            environment.setenv("AWS_REGION", region)
            if partition in REGIONS:
                assert aws_client()
            else:
                with pytest.raises(ConfigurationError, match=region):
                    aws_client()
