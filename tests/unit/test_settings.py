"""Settings: what is read, what is refused, and that every problem is named at once."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from cerberus_auth import ConfigurationError, Settings

GOOD = {
    "CERBERUS_URL": "https://cerberus.example.com/",
    "CERBERUS_IAM_ROLE_ARN": "arn:aws:iam::111111111111:role/team/path/web, arn:aws:iam::111111111111:role/web",
    "AWS_REGION": "us-west-2",
}
SHARED = {"CERBERUS_SHARED_CACHE_TABLE": "table", "CERBERUS_KMS_ACCOUNT_ID": "222222222222"}


def test_reads_the_environment_and_fills_in_the_documented_defaults() -> None:
    settings = Settings.from_env(GOOD)
    assert settings.url == "https://cerberus.example.com"
    assert settings.iam_role_arns == (
        "arn:aws:iam::111111111111:role/team/path/web",
        "arn:aws:iam::111111111111:role/web",
    )
    assert (settings.region, settings.aws_region, settings.regions) == ("us-west-2", "us-west-2", ("us-west-2",))
    assert (settings.timeout, settings.connect_timeout, settings.read_timeout) == (10, 2, 5)
    assert (settings.max_attempts, settings.expiry_margin) == (3, 60)
    assert (settings.auth_method, settings.aws_client) == ("auto", "auto")


def test_cerberus_region_goes_before_the_region_the_function_runs_in() -> None:
    settings = Settings.from_env(
        GOOD | {"CERBERUS_REGION": "us-east-1", "CERBERUS_FALLBACK_REGIONS": "us-west-2,us-east-1"}
    )
    assert (settings.region, settings.aws_region) == ("us-east-1", "us-west-2")
    assert settings.regions == ("us-east-1", "us-west-2")


def test_an_endpoint_of_a_service_goes_before_that_of_all() -> None:
    settings = Settings.from_env(
        GOOD | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_KMS": "https://kms.example.com"}
    )
    assert settings.endpoint("kms") == "https://kms.example.com"
    assert settings.endpoint("sts") == "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"CERBERUS_URL": ""}, "CERBERUS_URL is not set"),
        ({"CERBERUS_URL": "cerberus.example.com"}, "CERBERUS_URL must be an https:// URL"),
        ({"CERBERUS_URL": "ftp://cerberus.example.com"}, "CERBERUS_URL must be an https:// URL"),
        ({"CERBERUS_URL": "http://cerberus.example.com"}, "Plain http is allowed for loopback hosts only"),
        ({"CERBERUS_URL": "http://127.0.0.1.example.com"}, "Plain http is allowed for loopback hosts only"),
        ({"CERBERUS_URL": "http://127.0.0.256"}, "Plain http is allowed for loopback hosts only"),
        ({"CERBERUS_URL": "http://127.0.0.08"}, "Plain http is allowed for loopback hosts only"),
        ({"CERBERUS_URL": "http://127.999.0.1"}, "Plain http is allowed for loopback hosts only"),
        ({"CERBERUS_URL": "https://user:word@cerberus.example.com"}, "must not have a user, query or fragment"),
        ({"CERBERUS_URL": "https://cerberus.example.com/?x=1"}, "must not have a user, query or fragment"),
        ({"CERBERUS_URL": "https://cerberus.example.com/v1"}, "must not have a path. Remove '/v1'"),
        ({"CERBERUS_URL": "https://cerberus.example.com:port"}, "CERBERUS_URL is not a valid URL"),
        ({"CERBERUS_URL": "https://cerb\r\nerus.example.com"}, "CERBERUS_URL"),
        ({"AWS_ENDPOINT_URL_KMS": "http://kms.example.com"}, "AWS_ENDPOINT_URL_KMS must use https"),
        ({"CERBERUS_IAM_ROLE_ARN": "web"}, "must be a role ARN"),
        ({"CERBERUS_IAM_ROLE_ARN": "arn:aws:iam::1111:role/web"}, "must be a role ARN"),
        # What sam local makes of !GetAtt OrdersFunctionRole.Arn, and of !Ref OrdersFunctionRole.
        (
            {"CERBERUS_IAM_ROLE_ARN": "arn:aws:lambda:us-east-1:123456789012:function:OrdersFunctionRole"},
            "sam local does not resolve !GetAtt and !Ref of a role. Run CERBERUS_IAM_ROLE_ARN= sam local invoke.",
        ),
        ({"CERBERUS_IAM_ROLE_ARN": "OrdersFunctionRole"}, "Run CERBERUS_IAM_ROLE_ARN= sam local invoke."),
        ({"CERBERUS_IAM_ROLE_ARN": "arn:aws-us-gov:iam::111111111111:role/web"}, "supports only aws and aws-cn"),
        ({"CERBERUS_AUTH_METHOD": "ldap"}, "CERBERUS_AUTH_METHOD must be kms, sts or auto"),
        ({"CERBERUS_PREFETCH": "always"}, "CERBERUS_PREFETCH must be init, off, or secret paths"),
        ({"CERBERUS_RENEWAL": "never"}, "CERBERUS_RENEWAL must be extension or inline"),
        ({"CERBERUS_AWS_CLIENT": "curl"}, "CERBERUS_AWS_CLIENT must be signed, sdk or auto"),
        ({"AWS_REGION": ""}, "The AWS region is not set"),
        ({"AWS_REGION": "mars"}, "must name a region such as us-west-2"),
        ({"CERBERUS_REGION": "us-gov-west-1"}, "us-gov-west-1 is in a partition that Cerberus does not support"),
        ({"CERBERUS_FALLBACK_REGIONS": "us-east-1,moon"}, "CERBERUS_FALLBACK_REGIONS must name a region"),
        ({"CERBERUS_KMS_ACCOUNT_ID": "12345"}, "CERBERUS_KMS_ACCOUNT_ID must be an AWS account ID of 12 digits"),
        ({"CERBERUS_SHARED_CACHE_TABLE": "no table"}, "must be the name of a DynamoDB table"),
        ({"CERBERUS_SHARED_CACHE_TABLE": "ab"}, "must be the name of a DynamoDB table"),
        ({"CERBERUS_SHARED_CACHE_TABLE": "table"}, "requires CERBERUS_KMS_ACCOUNT_ID"),
        (
            {"CERBERUS_SHARED_CACHE_KEY": "arn:aws:kms:us-west-2:111111111111:key/1"},
            "requires CERBERUS_SHARED_CACHE_TABLE",
        ),
        (SHARED | {"CERBERUS_SHARED_CACHE_KEY": "alias/seal"}, "must be the ARN of a KMS key"),
        (
            SHARED | {"CERBERUS_SHARED_CACHE_KEY": "arn:aws:kms:us-west-2:111111111111:alias/seal"},
            "the ARN of a KMS key",
        ),
        (SHARED | {"CERBERUS_SHARED_CACHE_KEY": "arn:aws-cn:kms:cn-north-1:111111111111:key/1"}, "in partition aws"),
        ({"CERBERUS_TOKEN": "to ken"}, "CERBERUS_TOKEN contains characters"),
        ({"CERBERUS_TIMEOUT": "-1"}, "CERBERUS_TIMEOUT must be more than 0"),
        ({"CERBERUS_TIMEOUT": "nan"}, "CERBERUS_TIMEOUT must be more than 0"),
        ({"CERBERUS_TIMEOUT": "soon"}, "CERBERUS_TIMEOUT must be a number of seconds"),
        ({"CERBERUS_CONNECT_TIMEOUT": "0"}, "CERBERUS_CONNECT_TIMEOUT must be more than 0"),
        ({"CERBERUS_READ_TIMEOUT": "inf"}, "CERBERUS_READ_TIMEOUT must be more than 0"),
        ({"CERBERUS_EXPIRY_MARGIN": "-1"}, "CERBERUS_EXPIRY_MARGIN must be from 0"),
        ({"CERBERUS_MAX_ATTEMPTS": "0"}, "CERBERUS_MAX_ATTEMPTS must be from 1 to 10"),
        ({"CERBERUS_MAX_ATTEMPTS": "1.5"}, "CERBERUS_MAX_ATTEMPTS must be an integer"),
        ({"AWS_CA_BUNDLE": "/nowhere/ca.pem"}, "/nowhere/ca.pem does not exist"),
        ({"HTTPS_PROXY": "http://user:s3#cret@proxy:3128"}, "HTTPS_PROXY must be an http:// URL"),
        ({"HTTPS_PROXY": "socks5://proxy:1080"}, "HTTPS_PROXY must be an http:// URL"),
        ({"CERBERUS_ASSUME_ROLE_ARN": "x"}, "CERBERUS_ASSUME_ROLE_ARN must be a role ARN"),
        (
            {"CERBERUS_ASSUME_ROLE_ARN": "arn:aws:iam::111111111111:user/x"},
            "CERBERUS_ASSUME_ROLE_ARN must be a role ARN",
        ),
        ({"CERBERUS_ASSUME_ROLE_ARN": "arn:aws-iso:iam::111111111111:role/x"}, "supports only aws and aws-cn"),
        (
            {"CERBERUS_ASSUME_ROLE_ARN": "arn:aws-cn:iam::111111111111:role/x"},
            "but us-west-2 is in aws. Use one partition",
        ),
        ({"CERBERUS_FALLBACK_REGIONS": "cn-north-1"}, "cn-north-1 is in partition aws-cn, but us-west-2 is in aws"),
        ({"CERBERUS_REGION": "cn-north-1"}, "Use one partition"),
    ],
)
def test_a_bad_setting_is_refused_by_its_name(variables: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env(GOOD | variables)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://localhost:8080", "http://127.0.0.1", "http://[::1]:8080", "https://x.example/"]
)
def test_good_addresses_are_taken(url: str) -> None:
    assert Settings.from_env(GOOD | {"CERBERUS_URL": url}).url == url.rstrip("/")


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env(
            {
                "CERBERUS_IAM_ROLE_ARN": "web",
                "CERBERUS_TIMEOUT": "soon",
                "CERBERUS_READ_TIMEOUT": "-5",
                "AWS_REGION": "mars",
            }
        )
    for name in ("CERBERUS_URL", "CERBERUS_IAM_ROLE_ARN", "CERBERUS_TIMEOUT", "CERBERUS_READ_TIMEOUT", "mars"):
        assert name in str(caught.value)


def test_settings_are_values() -> None:
    one, same, other = (
        Settings.from_env(GOOD),
        Settings.from_env(GOOD),
        Settings.from_env(GOOD | {"CERBERUS_TIMEOUT": "3"}),
    )
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    with pytest.raises(AttributeError):
        one.url = "https://elsewhere.example"


@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_a_token_and_a_proxy_password_do_not_show(show: Callable[[object], str]) -> None:
    settings = Settings.from_env(GOOD | {"CERBERUS_TOKEN": "s3cr3t", "HTTPS_PROXY": "http://user:pr0xy@proxy:3128"})
    assert "s3cr3t" not in show(settings)
    assert "pr0xy" not in show(settings)
    with pytest.raises(TypeError):
        pickle.dumps(settings)


def test_what_a_fleet_shares_by() -> None:
    key = "arn:aws:kms:us-west-2:111111111111:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    settings = Settings.from_env(GOOD | SHARED | {"CERBERUS_SHARED_CACHE_KEY": key})
    assert (settings.shared_cache_table, settings.shared_cache_key, settings.shares) == ("table", key, True)
    assert not Settings.from_env(GOOD).shares
    assert Settings.from_env(GOOD | {"CERBERUS_AUTH_METHOD": "sts", "CERBERUS_SHARED_CACHE_TABLE": "table"}).shares


@pytest.mark.parametrize(("value", "processes"), [("32", 32), ("1", 1), ("", 1), ("many", 1), ("-3", 1)])
def test_processes_of_one_environment(value: str, processes: int) -> None:
    settings = Settings.from_env(GOOD | {"AWS_LAMBDA_MAX_CONCURRENCY": value})
    assert (settings.max_concurrency, settings.shares) == (processes, processes > 1)
