"""The SAM template: what it refuses, what it allows, and what it tells the functions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cfnlint import decode, lint

from cerberus_auth.powertools.middleware import STEP_METRICS
from local_stack.stack import share_statement

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE: dict[str, Any] = decode.cfn_yaml.load(str(ROOT / "template.yaml"))
FUNCTIONS = [
    name for name, resource in TEMPLATE["Resources"].items() if resource["Type"] == "AWS::Serverless::Function"
]
LAYERS = ["CerberusAuthLayer", "PowertoolsLayer"]


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
        "Effect": "Allow",
        "Action": "kms:Decrypt",
        "Resource": {"Fn::Sub": "arn:${AWS::Partition}:kms:*:${CerberusAccountId}:key/*"},
    }
    assert properties(name)["Policies"] == [{"Statement": [statement]}]


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
    ],
)
def test_a_parameter_refuses(parameter: str, values: list[str]) -> None:
    assert [value for value in values if accepts(parameter, value)] == []


@pytest.mark.parametrize(
    "parameter", ["CerberusUrl", "CerberusAccountId", "SecretPath", "OrganizationId", "AlarmTopicArn"]
)
def test_a_refusal_says_what_is_wanted(parameter: str) -> None:
    assert TEMPLATE["Parameters"][parameter]["ConstraintDescription"].startswith("must be ")


def accepts(parameter: str, value: str) -> bool:
    """CloudFormation matches the whole value."""
    return re.fullmatch(TEMPLATE["Parameters"][parameter]["AllowedPattern"], value) is not None


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_serves_every_python_and_both_architectures_and_is_kept(name: str) -> None:
    layer = properties(name)
    assert layer["CompatibleRuntimes"] == ["python3.11", "python3.12", "python3.13", "python3.14"]
    assert sorted(layer["CompatibleArchitectures"]) == ["arm64", "x86_64"]
    assert layer["RetentionPolicy"] == "Retain"
    assert TEMPLATE["Resources"][name]["Metadata"] == {"BuildMethod": "makefile"}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_published_to_other_stacks_and_an_organisation(name: str) -> None:
    reference = {"Ref": name}
    assert TEMPLATE["Outputs"][f"{name}Arn"]["Value"] == reference
    assert TEMPLATE["Resources"][f"{name}Arn"]["Type"] == "AWS::SSM::Parameter"
    assert properties(f"{name}Arn")["Value"] == reference
    permission = TEMPLATE["Resources"][f"{name}Permission"]
    assert permission["Condition"] == "IsSharedWithOrganization"
    assert permission["Properties"] == {
        "Action": "lambda:GetLayerVersion",
        "LayerVersionArn": reference,
        "OrganizationId": {"Ref": "OrganizationId"},
        "Principal": "*",
    }


# What a fleet shares


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_may_use_its_own_items_and_no_more(name: str) -> None:
    policy = TEMPLATE["Resources"][f"{name}Sharing"]
    condition = "HasSharingDiagnose" if name == "DiagnoseFunction" else "HasSharingSampleFunctions"
    assert (policy["Type"], policy["Condition"]) == ("AWS::IAM::RolePolicy", condition)
    assert policy["Properties"]["RoleName"] == {"Ref": f"{name}Role"}
    own = {"dynamodb:LeadingKeys": [{"Fn::GetAtt": [f"{name}Role", "Arn"]}]}
    assert policy["Properties"]["PolicyDocument"]["Statement"] == [
        {
            "Effect": "Allow",
            "Action": share_statement("")["Action"],
            "Resource": {"Fn::GetAtt": ["SharedCacheTable", "Arn"]},
            "Condition": {"ForAllValues:StringEquals": own},
        }
    ]


def test_the_table_is_encrypted_on_demand_and_forgets() -> None:
    table = properties("SharedCacheTable")
    assert TEMPLATE["Resources"]["SharedCacheTable"]["Condition"] == "HasSharedCache"
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["SSESpecification"] == {"SSEEnabled": True}
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires", "Enabled": True}
    assert [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]] == [
        ("principal", "HASH"),
        ("scope", "RANGE"),
    ]


def test_there_is_no_table_unless_asked_for() -> None:
    assert TEMPLATE["Parameters"]["SharedCache"]["Default"] == "false"
    variables = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]
    assert variables["CERBERUS_SHARED_CACHE_TABLE"] == {"Fn::If": ["HasSharedCache", {"Ref": "SharedCacheTable"}, ""]}


def test_a_record_stays_hidden_for_six_timeouts_of_its_function() -> None:
    timeout = TEMPLATE["Globals"]["Function"]["Timeout"]
    assert properties("OrdersQueue")["VisibilityTimeout"] == 6 * timeout


def test_failed_orders_go_back_alone_and_end_in_a_queue_of_their_own() -> None:
    event = properties("ProcessOrdersFunction")["Events"]["Orders"]["Properties"]
    assert event["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert properties("OrdersQueue")["RedrivePolicy"]["deadLetterTargetArn"] == {
        "Fn::GetAtt": ["FailedOrdersQueue", "Arn"]
    }


@pytest.mark.parametrize("name", ["OrdersQueue", "FailedOrdersQueue"])
def test_a_queue_is_encrypted(name: str) -> None:
    assert properties(name)["SqsManagedSseEnabled"] is True


# Alarms and dashboard


MEASURED = {
    "CerberusAuthentications",
    "CerberusAuthenticationFailures",
    "CerberusAuthenticationTime",
    "CerberusSharedCacheHits",
    "CerberusTokenCacheHits",
    "CerberusTokenRenewals",
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
    assert set(alarms()) == {"AuthenticationFailures", "AuthenticationLatency"}
    for alarm in alarms().values():
        assert alarm["Condition"] == "HasAlarms"
        watched = alarm["Properties"]
        assert watched["Namespace"] == "CerberusAuth"
        assert watched["MetricName"] in MEASURED
        assert {dimension["Value"] for dimension in watched["Dimensions"]} == services()


def test_the_dashboard_shows_what_is_measured() -> None:
    assert TEMPLATE["Resources"]["AuthenticationDashboard"]["Condition"] == "HasDashboard"
    body = properties("AuthenticationDashboard")["DashboardBody"]["Fn::Sub"]
    shown = json.loads(re.sub(r"\$\{[^}]+\}", "x", body))
    assert len(shown["widgets"]) == 4
    named = set(re.findall(r"Cerberus(?!Auth,)\w+", json.dumps(shown)))
    assert named <= MEASURED
    assert {"CerberusTokenCacheHits", "CerberusAuthentications", "CerberusAuthRequestTime"} <= named


@pytest.mark.parametrize("parameter", ["Alarms", "Dashboard", "Diagnose"])
def test_none_of_it_is_there_unless_asked_for(parameter: str) -> None:
    assert TEMPLATE["Parameters"][parameter]["Default"] == "false"
