"""The SAM template: what it refuses, what it allows, and what it tells the functions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cfnlint import decode, lint

from cerberus_auth.auth import _OPERATIONS
from cerberus_auth.powertools.middleware import STEP_METRICS
from cerberus_auth.powertools.queue import visibility
from local_stack.stack import decrypt_statement, share_statement

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE: dict[str, Any] = decode.cfn_yaml.load(str(ROOT / "template.yaml"))
FUNCTIONS = [
    name for name, resource in TEMPLATE["Resources"].items() if resource["Type"] == "AWS::Serverless::Function"
]
LAYERS = {"CerberusAuthLayer": "CerberusAuthLayerArn", "PowertoolsLayer": "PowertoolsLayerParameter"}
"""Each layer and the SSM parameter that names it."""


POWERTOOLS = {"Fn::If": ["BuildsPowertools", {"Ref": "PowertoolsLayer"}, {"Ref": "PowertoolsLayerArn"}]}


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = TEMPLATE["Resources"][name]["Properties"]
    return found


def test_lint_finds_nothing() -> None:
    assert lint((ROOT / "template.yaml").read_text()) == []


def test_every_function_is_there() -> None:
    assert FUNCTIONS == ["ReadSecretFunction", "ProcessOrdersFunction", "NightlyReportFunction", "DiagnoseFunction"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_may_decrypt_with_the_keys_of_cerberus_and_no_more(name: str) -> None:
    statement = {
        **decrypt_statement(),
        "Resource": {"Fn::Sub": "arn:${AWS::Partition}:kms:*:${CerberusAccountId}:key/*"},
    }
    own, shared = properties(name)["Policies"]
    assert [each for each in own["Statement"] if "kms" in each["Action"]] == [statement]
    assert len(own["Statement"]) == (2 if name == "ProcessOrdersFunction" else 1)
    assert shared == {"Fn::If": ["HasSharedCache", {"Ref": "SharedCachePolicy"}, {"Ref": "AWS::NoValue"}]}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_told_its_role_and_where_cerberus_is(name: str) -> None:
    variables = {
        **TEMPLATE["Globals"]["Function"]["Environment"]["Variables"],
        **properties(name)["Environment"]["Variables"],
    }
    assert variables["CERBERUS_IAM_ROLE_ARN"] == {"Fn::GetAtt": [f"{name}Role", "Arn"]}
    assert variables["CERBERUS_URL"] == {"Ref": "CerberusUrl"}
    assert variables["CERBERUS_KMS_ACCOUNT_ID"] == {"Ref": "CerberusAccountId"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_one_module_and_brings_no_packages(name: str) -> None:
    source = ROOT / properties(name)["CodeUri"]
    assert [path.name for path in source.iterdir() if path.name != "__pycache__"] == ["app.py"]


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        ("CerberusUrl", ["https://cerberus.example.com", "https://cerberus:8443", "https://192.0.2.7", "https://a"]),
        ("CerberusAccountId", ["222222222222", "000000000001"]),
        ("SecretPath", ["app/orders/db", "app/my-orders/team/db.v2"]),
        ("OrganizationId", ["", "o-a1b2c3d4e5"]),
        (
            "AlarmTopicArn",
            ["", "arn:aws:sns:us-west-2:111111111111:on-call", "arn:aws-cn:sns:cn-north-1:111111111111:a"],
        ),
        (
            "PowertoolsLayerArn",
            ["", "arn:aws:lambda:us-west-2:017000801446:layer:AWSLambdaPowertoolsPythonV3-python313-arm64:7"],
        ),
    ],
)
def test_a_parameter_takes(parameter: str, values: list[str]) -> None:
    assert [value for value in values if not accepts(parameter, value)] == []


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        (
            "CerberusUrl",
            ["", "cerberus.example.com", "http://cerberus.example.com", "ftp://a", "https://", "https:///a"],
        ),
        (
            "CerberusUrl",
            ["https://a/", "https://a/path", "https://a?b=c", "https://a#b", "https://a:port", "https://a b"],
        ),
        (
            "CerberusUrl",
            ["https://user:password@a", "https://-a", "https://a.", " https://a", "https://a\n", "HTTPS//a"],
        ),
        ("CerberusAccountId", ["", "22222222222", "2222222222222", "2222-2222-2222", "orders", "222222222222\n", "*"]),
        (
            "SecretPath",
            ["", "db", "app/orders", "/app/orders/db", "app/orders/db/", "app//db", "app/orders/db?list=true"],
        ),
        ("OrganizationId", ["o-", "a1b2c3d4e5", "o-A1B2C3D4E5", "*"]),
        ("AlarmTopicArn", ["on-call", "arn:aws:sqs:us-west-2:111111111111:on-call", "arn:aws:sns:us-west-2:1:a"]),
        ("PowertoolsLayerArn", ["powertools", "arn:aws:lambda:us-west-2:111111111111:layer:powertools"]),
    ],
)
def test_a_parameter_refuses(parameter: str, values: list[str]) -> None:
    assert [value for value in values if accepts(parameter, value)] == []


@pytest.mark.parametrize(
    "parameter",
    ["CerberusUrl", "CerberusAccountId", "SecretPath", "OrganizationId", "AlarmTopicArn", "PowertoolsLayerArn"],
)
def test_a_refusal_says_what_is_wanted(parameter: str) -> None:
    assert TEMPLATE["Parameters"][parameter]["ConstraintDescription"].startswith("must be ")


def accepts(parameter: str, value: str) -> bool:
    """CloudFormation matches the whole value."""
    return re.fullmatch(TEMPLATE["Parameters"][parameter]["AllowedPattern"], value) is not None


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_serves_every_python_and_both_architectures_and_is_kept(name: str) -> None:
    layer = properties(name)
    assert sorted(layer["CompatibleRuntimes"]) == ["python3.11", "python3.12", "python3.13", "python3.14"]
    assert layer["CompatibleRuntimes"][0] == TEMPLATE["Globals"]["Function"]["Runtime"]  # of SAM's build container
    assert sorted(layer["CompatibleArchitectures"]) == ["arm64", "x86_64"]
    assert layer["RetentionPolicy"] == "Retain"
    assert TEMPLATE["Resources"][name]["Metadata"] == {"BuildMethod": "makefile"}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_published_to_other_stacks_and_an_organisation(name: str) -> None:
    used = {"Ref": name} if name == "CerberusAuthLayer" else POWERTOOLS
    assert TEMPLATE["Outputs"][f"{name}Arn"]["Value"] == used
    assert TEMPLATE["Resources"][LAYERS[name]]["Type"] == "AWS::SSM::Parameter"
    assert properties(LAYERS[name])["Value"] == used
    permission = TEMPLATE["Resources"][f"{name}Permission"]
    shared = {"CerberusAuthLayer": "IsSharedWithOrganization", "PowertoolsLayer": "SharesPowertools"}
    assert permission["Condition"] == shared[name]
    assert permission["Properties"] == {
        "Action": "lambda:GetLayerVersion",
        "LayerVersionArn": {"Ref": name},
        "OrganizationId": {"Ref": "OrganizationId"},
        "Principal": "*",
    }


def test_a_powertools_layer_that_is_there_takes_the_place_of_ours() -> None:
    assert TEMPLATE["Parameters"]["PowertoolsLayerArn"]["Default"] == ""
    assert TEMPLATE["Conditions"]["BuildsPowertools"] == {"Fn::Equals": [{"Ref": "PowertoolsLayerArn"}, ""]}
    assert TEMPLATE["Resources"]["PowertoolsLayer"]["Condition"] == "BuildsPowertools"
    used = [layer for name in FUNCTIONS for layer in properties(name).get("Layers", [])]
    assert used == [POWERTOOLS] * 2


# What a fleet shares


def test_a_role_may_use_its_own_items_and_no_more() -> None:
    assert TEMPLATE["Resources"]["SharedCachePolicy"]["Condition"] == "HasSharedCache"
    items, key = properties("SharedCachePolicy")["PolicyDocument"]["Statement"]
    assert items == {**share_statement("${aws:PrincipalArn}"), "Resource": {"Fn::GetAtt": ["SharedCacheTable", "Arn"]}}
    assert key == {
        "Effect": "Allow",
        "Action": ["kms:Encrypt", "kms:Decrypt"],
        "Resource": {"Fn::GetAtt": ["SharedCacheKey", "Arn"]},
        "Condition": {"StringEquals": {"kms:EncryptionContext:principal": "${aws:PrincipalArn}"}},
    }


def test_the_policies_use_the_version_that_knows_variables() -> None:
    documents = [properties("SharedCachePolicy")["PolicyDocument"], properties("SharedCacheKey")["KeyPolicy"]]
    assert [document["Version"] for document in documents] == ["2012-10-17"] * 2


def test_the_table_is_on_demand_forgets_and_costs_no_kms_call() -> None:
    table = properties("SharedCacheTable")
    assert TEMPLATE["Resources"]["SharedCacheTable"]["Condition"] == "HasSharedCache"
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert "SSESpecification" not in table  # with SSEEnabled, DynamoDB uses a KMS key that is billed
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires", "Enabled": True}
    assert [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]] == [
        ("principal", "HASH"),
        ("scope", "RANGE"),
    ]


def test_there_is_no_table_unless_asked_for() -> None:
    assert TEMPLATE["Parameters"]["SharedCache"]["Default"] == "false"
    variables = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]
    assert variables["CERBERUS_SHARED_CACHE_TABLE"] == {"Fn::If": ["HasSharedCache", {"Ref": "SharedCacheTable"}, ""]}
    key = {"Fn::GetAtt": ["SharedCacheKey", "Arn"]}
    assert variables["CERBERUS_SHARED_CACHE_KEY"] == {"Fn::If": ["HasSharedCache", key, ""]}
    assert TEMPLATE["Resources"]["SharedCacheKey"]["Condition"] == "HasSharedCache"


def test_a_record_stays_hidden_for_six_timeouts_of_its_function() -> None:
    timeout = TEMPLATE["Globals"]["Function"]["Timeout"]
    assert properties("OrdersQueue")["VisibilityTimeout"] == 6 * timeout


def test_failed_orders_go_back_alone_and_end_in_a_queue_of_their_own() -> None:
    event = properties("ProcessOrdersFunction")["Events"]["Orders"]["Properties"]
    assert event["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert properties("OrdersQueue")["RedrivePolicy"]["deadLetterTargetArn"] == {
        "Fn::GetAtt": ["FailedOrdersQueue", "Arn"]
    }


def test_orders_survive_an_hour_of_outage() -> None:
    receives = properties("OrdersQueue")["RedrivePolicy"]["maxReceiveCount"]
    assert sum(visibility(receive) for receive in range(1, receives + 1)) > 3600


def test_a_dead_letter_sets_off_an_alarm() -> None:
    alarm = properties("FailedOrders")
    assert alarm["Namespace"] == "AWS/SQS"
    assert alarm["MetricName"] == "ApproximateNumberOfMessagesVisible"
    queue = {"Fn::GetAtt": ["FailedOrdersQueue", "QueueName"]}
    assert alarm["Dimensions"] == [{"Name": "QueueName", "Value": queue}]
    assert (alarm["Threshold"], alarm["ComparisonOperator"]) == (1, "GreaterThanOrEqualToThreshold")


@pytest.mark.parametrize("name", ["OrdersQueue", "FailedOrdersQueue"])
def test_a_queue_is_encrypted(name: str) -> None:
    assert properties(name)["SqsManagedSseEnabled"] is True


# Alarms and dashboard


MEASURED = {
    "CerberusAuthentications",
    "CerberusAuthenticationFailures",
    "CerberusAuthenticationTime",
    "CerberusRequests",
    "CerberusSharedCacheHits",
    "CerberusTokenCacheHits",
    "CerberusTokenRenewals",
    "StaleAge",
    "StaleReads",
    *STEP_METRICS.values(),
}


def alarms() -> dict[str, dict[str, Any]]:
    return {name: each for name, each in TEMPLATE["Resources"].items() if each["Type"] == "AWS::CloudWatch::Alarm"}


def services() -> set[str]:
    """Of the functions that measure."""
    variables = [properties(name)["Environment"]["Variables"] for name in FUNCTIONS]
    measuring = [each for each in variables if "POWERTOOLS_METRICS_NAMESPACE" in each]
    assert {each["POWERTOOLS_METRICS_NAMESPACE"] for each in measuring} == {"CerberusAuth"}
    return {each["POWERTOOLS_SERVICE_NAME"] for each in measuring}


def test_alarms_watch_what_every_measuring_function_measures() -> None:
    assert set(alarms()) == {
        "AuthenticationFailures",
        "AuthenticationLatency",
        "CerberusRequestsPerHour",
        "FailedOrders",
        "StaleAge",
        "StaleReads",
    }
    assert {alarm["Condition"] for alarm in alarms().values()} == {"HasAlarms"}
    ours = [each["Properties"] for each in alarms().values() if each["Properties"].get("Namespace") == "CerberusAuth"]
    assert len(ours) == 4
    for watched in ours:
        assert watched["Namespace"] == "CerberusAuth"
        assert watched["MetricName"] in MEASURED
        assert {dimension["Value"] for dimension in watched["Dimensions"]} == services()


def test_an_alarm_counts_the_requests_of_all_operations() -> None:
    total, *counted = properties("CerberusRequestsPerHour")["Metrics"]
    assert total["Expression"] == "SUM(METRICS())"
    assert {each["Id"] for each in counted} == {*_OPERATIONS.values(), "other"}
    for each in counted:
        metric = each["MetricStat"]["Metric"]
        assert (metric["Namespace"], metric["MetricName"]) == ("CerberusAuth", "CerberusRequests")
        assert [d["Value"] for d in metric["Dimensions"]] == [*services(), each["Id"]]
        assert (each["ReturnData"], each["MetricStat"]["Period"]) == (False, 3600)
    assert properties("CerberusRequestsPerHour")["Threshold"] == 100  # Cerberus' limit


def test_the_dashboard_shows_what_is_measured() -> None:
    assert TEMPLATE["Resources"]["AuthenticationDashboard"]["Condition"] == "HasDashboard"
    body = properties("AuthenticationDashboard")["DashboardBody"]["Fn::Sub"]
    shown = json.loads(re.sub(r"\$\{[^}]+\}", "x", body))
    assert len(shown["widgets"]) == 6
    named = set(re.findall(r"MetricName=\\*\"(\w+)", json.dumps(shown)))
    named |= set(re.findall(r"Cerberus(?!Auth,|\b)\w+", json.dumps(shown)))
    assert named <= MEASURED
    assert {"CerberusTokenCacheHits", "CerberusAuthentications", "CerberusAuthRequestTime"} <= named
    assert {"CerberusRequests", "StaleReads", "StaleAge"} <= named


@pytest.mark.parametrize("parameter", ["Alarms", "Dashboard", "Diagnose"])
def test_none_of_it_is_there_unless_asked_for(parameter: str) -> None:
    assert TEMPLATE["Parameters"][parameter]["Default"] == "false"
