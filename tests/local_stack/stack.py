"""Cerberus and AWS, connected as in production: over TLS, in two AWS accounts."""

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
"""The execution role that exists from the start."""

SAFE_DEPOSIT_BOX = "app/orders"
TABLE = "cerberus-auth-shared-cache"
SECRET_PATH = "app/orders/db"
SECRET = {"username": "orders", "password": "correct-horse-battery-staple"}


def decrypt_statement(account: str = Aws.CERBERUS_ACCOUNT) -> dict[str, Any]:
    """Return the kms:Decrypt statement of the functions in ``template.yaml``, for Cerberus in an account."""
    return {
        "Effect": "Allow",
        "Action": "kms:Decrypt",
        "Resource": f"arn:aws:kms:*:{account}:key/*",
        "Condition": {"Null": {"kms:EncryptionContextKeys": "true"}},
    }


def share_statement(role_arn: str, table: str = TABLE, region: str = "us-west-2") -> dict[str, Any]:
    """Return the statement for the table items of one role. ``template.yaml`` uses a policy variable instead."""
    return {
        "Effect": "Allow",
        "Action": ["dynamodb:GetItem", "dynamodb:PutItem"],
        "Resource": f"arn:aws:dynamodb:{region}:{Aws.FUNCTION_ACCOUNT}:table/{table}",
        "Condition": {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": [role_arn]}},
    }


class LocalStack:
    """A certificate authority, AWS and Cerberus, as a context manager. It listens from construction on.

    It contains the role ``ROLE`` with a function's policy, and the secret ``SECRET`` at ``SECRET_PATH``. The role may read the
    safe deposit box ``SAFE_DEPOSIT_BOX``.

    Parameters
    ----------
    tls
        Whether both services use TLS.
    region
        The AWS region of the functions.
    port
        The port of Cerberus; 0 for a free one.

    Raises
    ------
    OSError
        The port is in use.
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
        """Stop both services and delete the authority's file. Repeated calls have no effect."""
        self._parts.close()

    def create_role(self, arn: str, statements: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Create an execution role and grant it access to ``SAFE_DEPOSIT_BOX``.

        Parameters
        ----------
        statements
            The statements of its policy; by default the kms:Decrypt statement of ``template.yaml``.
        """
        if statements is None:
            statements = [decrypt_statement()]
        self.aws.create_role(arn, {"Version": "2012-10-17", "Statement": list(statements)} if statements else None)
        self.cerberus.grant(arn, SAFE_DEPOSIT_BOX)

    def create_table(self, name: str = TABLE) -> None:
        """Create the table of the shared cache as in ``template.yaml``, in the functions' account."""
        client = self.aws.client("dynamodb", self.aws.account_credentials(Aws.FUNCTION_ACCOUNT), self.region)
        keys = {"principal": "HASH", "scope": "RANGE"}
        client.create_table(
            TableName=name,
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
            KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in keys.items()],
            BillingMode="PAY_PER_REQUEST",
        )
        client.close()

    def share(self, role_arn: str = ROLE) -> dict[str, str]:
        """Create the shared cache's table and key, and allow a role to use both. Return the variables to set."""
        self.create_table()
        kms = self.aws.client("kms", self.aws.account_credentials(Aws.FUNCTION_ACCOUNT), self.region)
        key = kms.create_key()["KeyMetadata"]["Arn"]
        kms.close()
        seal = {
            "Effect": "Allow",
            "Action": ["kms:Encrypt", "kms:Decrypt"],
            "Resource": key,
            "Condition": {"StringEquals": {"kms:EncryptionContext:principal": role_arn}},
        }
        statements = [decrypt_statement(), share_statement(role_arn), seal]
        self.aws.put_role_policy(role_arn, {"Version": "2012-10-17", "Statement": statements})
        return {"CERBERUS_SHARED_CACHE_TABLE": TABLE, "CERBERUS_SHARED_CACHE_KEY": key}

    def environment(self, role_arn: str, **extra: str) -> dict[str, str]:
        """Return the variables that Lambda and the template set for a function with this role, plus ``extra``."""
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
            # The AWS SDKs and this package read the first, requests and Nike's client the second.
            environment["AWS_CA_BUNDLE"] = environment["REQUESTS_CA_BUNDLE"] = str(self.ca.bundle)
        return environment | extra
