"""An AWS CDK app: a function with the CerberusAuth layer. Deploy it with ``cdk deploy --app "python app.py"``."""

from pathlib import Path
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

ORDERS = Path(__file__).resolve().parents[1] / "orders"

# Copy these from the outputs of the stack that deployed the layers, or from the JSON file that `make publish` writes.
LAYER_ARN = "arn:aws:lambda:us-west-2:111111111111:layer:cerberus-auth:1"
SHARED_CACHE_TABLE = "cerberus-auth-SharedCacheTable-EXAMPLE"
SHARED_CACHE_KEY = "arn:aws:kms:us-west-2:111111111111:key/1234abcd-12ab-34cd-56ef-1234567890ab"
SHARED_CACHE_POLICY = "arn:aws:iam::111111111111:policy/cerberus-auth-SharedCachePolicy-EXAMPLE"

CERBERUS_URL = "https://cerberus.example.com"
CERBERUS_ACCOUNT = "222222222222"


class OrdersStack(cdk.Stack):
    """A function, its execution role, and an alias that points to a new version after each change of code or layer."""

    def __init__(self, scope: Construct, name: str, **options: Any) -> None:
        super().__init__(scope, name, **options)
        role = iam.Role(
            self,
            "OrdersRole",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            managed_policies=[
                iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AWSLambdaBasicExecutionRole"),
                iam.ManagedPolicy.from_managed_policy_arn(self, "SharedCachePolicy", SHARED_CACHE_POLICY),
            ],
        )
        role.add_to_policy(
            iam.PolicyStatement(
                actions=["kms:Decrypt"],
                resources=[f"arn:{cdk.Aws.PARTITION}:kms:*:{CERBERUS_ACCOUNT}:key/*"],
                conditions={"Null": {"kms:EncryptionContextKeys": "true"}},
            )
        )
        function = lambda_.Function(
            self,
            "OrdersFunction",
            role=role,
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            handler="app.handler",
            code=lambda_.Code.from_asset(str(ORDERS)),
            timeout=cdk.Duration.seconds(15),  # above the 10 s that authenticating can take (CERBERUS_TIMEOUT)
            memory_size=256,
            tracing=lambda_.Tracing.ACTIVE,
            logging_format=lambda_.LoggingFormat.JSON,
            layers=[lambda_.LayerVersion.from_layer_version_arn(self, "CerberusAuthLayer", LAYER_ARN)],
            environment={
                "CERBERUS_URL": CERBERUS_URL,
                "CERBERUS_KMS_ACCOUNT_ID": CERBERUS_ACCOUNT,
                "CERBERUS_IAM_ROLE_ARN": role.role_arn,
                "CERBERUS_SHARED_CACHE_TABLE": SHARED_CACHE_TABLE,
                "CERBERUS_SHARED_CACHE_KEY": SHARED_CACHE_KEY,
            },
        )
        lambda_.Alias(self, "Live", alias_name="live", version=function.current_version)


if __name__ == "__main__":
    app = cdk.App()
    OrdersStack(app, "Orders", env=cdk.Environment(region="us-west-2"))
    app.synth()
