"""Run in the CDK's environment: synthesises docs/examples/cdk, asserts with the CDK's own module, and writes the template."""

import json
import runpy
import sys
from pathlib import Path

import aws_cdk as cdk
from aws_cdk.assertions import Match, Template

example = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "examples" / "cdk" / "app.py"), run_name="example")


def synthesised() -> Template:
    return Template.from_stack(example["OrdersStack"](cdk.App(outdir=sys.argv[1]), "Orders"))


template = synthesised()
template.resource_count_is("AWS::Lambda::Function", 1)
template.has_resource_properties(
    "AWS::Lambda::Function",
    {
        "Handler": "app.handler",
        "Runtime": "python3.13",
        "Timeout": 15,
        "Layers": [example["LAYER_ARN"]],
        "TracingConfig": {"Mode": "Active"},
        "LoggingConfig": {"LogFormat": "JSON"},
        "Environment": {
            "Variables": {
                "CERBERUS_URL": example["CERBERUS_URL"],
                "CERBERUS_KMS_ACCOUNT_ID": example["CERBERUS_ACCOUNT"],
                "CERBERUS_IAM_ROLE_ARN": {"Fn::GetAtt": [Match.string_like_regexp("^OrdersRole"), "Arn"]},
                "CERBERUS_SHARED_CACHE_TABLE": example["SHARED_CACHE_TABLE"],
                "CERBERUS_SHARED_CACHE_KEY": example["SHARED_CACHE_KEY"],
            }
        },
    },
)
template.has_resource_properties(
    "AWS::IAM::Role", {"ManagedPolicyArns": Match.array_with([example["SHARED_CACHE_POLICY"]])}
)
template.has_resource_properties("AWS::Lambda::Alias", {"Name": "live"})

example["OrdersStack"].__init__.__globals__["LAYER_ARN"] = example["LAYER_ARN"][:-1] + "2"
versions = [set(each.find_resources("AWS::Lambda::Version")) for each in (template, synthesised())]
assert versions[0].isdisjoint(versions[1]), "a new layer version makes no new function version"
print(json.dumps(template.to_json()))
