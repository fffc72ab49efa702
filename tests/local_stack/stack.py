"""The services of the local stack, wired together as they are in production: over TLS, in two AWS accounts."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .aws import Aws
from .cerberus import Cerberus
from .certificates import CertificateAuthority

ROLE = f"arn:aws:iam::{Aws.FUNCTION_ACCOUNT}:role/orders"
"""The execution role that is there from the start."""

SAFE_DEPOSIT_BOX = "app/orders"
TABLE = "cerberus-auth-shared-cache"
SECRET_PATH = "app/orders/db"
SECRET = {"username": "orders", "password": "correct-horse-battery-staple"}


def decrypt_statement(account: str = Aws.CERBERUS_ACCOUNT) -> dict[str, Any]:
    """The one statement that ``template.yaml`` gives a function, for Cerberus in this account."""
    return {
        "Effect": "Allow",
        "Action": "kms:Decrypt",
        "Resource": f"arn:aws:kms:*:{account}:key/*",
        "Condition": {"Null": {"kms:EncryptionContextKeys": "true"}},
    }


def share_statement(role_arn: str, table: str = TABLE, region: str = "us-west-2") -> dict[str, Any]:
    """The statement for the items of one role: what ``template.yaml`` says of every role by a policy variable."""
    return {
        "Effect": "Allow",
        "Action": ["dynamodb:GetItem", "dynamodb:PutItem"],
        "Resource": f"arn:aws:dynamodb:{region}:{Aws.FUNCTION_ACCOUNT}:table/{table}",
        "Condition": {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": [role_arn]}},
    }


class LocalStack:
    """A certificate authority, AWS and Cerberus. A context manager; listens from construction on.

    It starts with the role ``ROLE``, which has a function's policy and is granted the safe deposit box
    ``SAFE_DEPOSIT_BOX``, in which the secret ``SECRET`` lies at ``SECRET_PATH``.

    :param tls: whether both services speak TLS, with certificates of this stack's own authority.
    :param region: where the functions run.
    :param port: Cerberus' port; 0 for one that the system chooses.
    :raises OSError: the port is in use.
    """

    ca: CertificateAuthority
    aws: Aws
    cerberus: Cerberus

    def __init__(self, *, tls: bool = True, region: str = "us-west-2", port: int = 0) -> None:
        self.tls = tls
        self.region = region
        with contextlib.ExitStack() as parts:
            self.folder = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="cerberus-auth-")))
            self.ca = CertificateAuthority(self.folder)
            self.aws = parts.enter_context(
                Aws(tls=self.ca.server_context() if tls else None, ca_bundle=self.ca.bundle if tls else None)
            )
            operator = self.aws.account_credentials(Aws.CERBERUS_ACCOUNT)
            self.cerberus = parts.enter_context(
                Cerberus(
                    aws_url=self.aws.url,
                    aws_ca=self.ca.bundle if tls else None,
                    account_id=Aws.CERBERUS_ACCOUNT,
                    access_key=operator.access_key,
                    secret_key=operator.secret_key,
                    tls=self.ca.server_context() if tls else None,
                    port=port,
                )
            )
            self.cerberus.put_secret(SECRET_PATH, SECRET)
            self.create_role(ROLE)
            self._parts = parts.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End both services and remove the authority's file. May be called again."""
        self._parts.close()

    def create_role(self, arn: str, statements: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Create an execution role and grant it ``SAFE_DEPOSIT_BOX``.

        :param statements: its policy; by default that which ``template.yaml`` gives a function.
        """
        if statements is None:
            statements = [decrypt_statement()]
        self.aws.create_role(arn, {"Version": "2012-10-17", "Statement": list(statements)} if statements else None)
        self.cerberus.grant(arn, SAFE_DEPOSIT_BOX)

    def create_table(self, name: str = TABLE) -> None:
        """Create the fleet's shared cache as ``template.yaml`` does, in the functions' account."""
        client = self.aws.client("dynamodb", self.aws.account_credentials(Aws.FUNCTION_ACCOUNT), self.region)
        keys = {"principal": "HASH", "scope": "RANGE"}
        client.create_table(
            TableName=name,
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
            KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in keys.items()],
            BillingMode="PAY_PER_REQUEST",
        )
        client.close()

    def environment(self, role_arn: str, **extra: str) -> dict[str, str]:
        """What Lambda and the template set for a function with this role, and ``extra`` above it."""
        credentials = self.aws.assume(role_arn)
        environment = {
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
            "AWS_SESSION_TOKEN": credentials.session_token or "",
            "AWS_ENDPOINT_URL": self.aws.url,
            "CERBERUS_URL": self.cerberus.url,
            "CERBERUS_IAM_ROLE_ARN": role_arn,
            "CERBERUS_KMS_ACCOUNT_ID": Aws.CERBERUS_ACCOUNT,
        }
        if self.tls:
            # The AWS SDKs and this package read the first, requests (and Nike's client upon it) the second.
            environment["AWS_CA_BUNDLE"] = environment["REQUESTS_CA_BUNDLE"] = str(self.ca.bundle)
        return environment | extra
