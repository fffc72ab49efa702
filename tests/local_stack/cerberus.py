"""A fake Cerberus that uses KMS and STS at an AWS endpoint: with real keys, ciphertexts and signatures."""

from __future__ import annotations

import functools
import http.client
import json
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cerberus_auth.testing import cerberus
from cerberus_auth.testing.cerberus import KeyUnusableError
from cerberus_auth.testing.http_server import Request
from cerberus_auth.testing.web import RefusalError

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

_STS_BODY = b"Action=GetCallerIdentity&Version=2011-06-15"
_FORWARDED_TO_STS = ("Authorization", "x-amz-date", "x-amz-security-token")


class Cerberus(cerberus.Cerberus):
    """Cerberus in its own AWS account.

    Parameters
    ----------
    aws_url
        The URL of KMS and STS.
    aws_ca
        The PEM file to trust for it; ``None`` for the system's.
    account_id
        The account that owns the KMS keys.
    access_key
        The access key of an administrator of that account.
    secret_key
        The secret key.
    tls
        The server's TLS context; ``None`` for plain http.
    port
        The port to listen on; 0 for a free one.

    Raises
    ------
    OSError
        The port is in use.
    """

    def __init__(
        self,
        *,
        aws_url: str,
        aws_ca: Path | None = None,
        account_id: str = "222222222222",
        access_key: str,
        secret_key: str,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self._kms = _Keys(aws_url, aws_ca, account_id, access_key, secret_key)
        super().__init__(self._kms, _Sts(aws_url, aws_ca), tls=tls, port=port)

    def check_key_policies(self) -> None:
        """Rewrite the policies of all keys, as the service does every five minutes, so that they name the current roles."""
        for (principal, region), key_arn in list(self._key_arns.items()):
            self._kms.put_policy(key_arn, principal, region)

    def close(self) -> None:
        """Stop the server. Repeated calls have no effect."""
        super().close()
        self._kms.close()


class _Keys:
    """The KMS keys in Cerberus' account."""

    def __init__(self, aws_url: str, aws_ca: Path | None, account_id: str, access_key: str, secret_key: str) -> None:
        self._aws_url = aws_url
        self._aws_ca = aws_ca
        self._account_id = account_id
        self._access_key, self._secret_key = access_key, secret_key
        self._clients: dict[str, KMSClient] = {}
        self._lock = threading.Lock()

    def create(self, principal: str, region: str) -> str:
        try:
            return self._client(region).create_key(Policy=self._policy(principal, region))["KeyMetadata"]["Arn"]
        except (BotoCoreError, ClientError) as error:
            raise KeyUnusableError(str(error)) from error

    def encrypt(self, plaintext: bytes, key_arn: str, region: str) -> bytes:
        try:
            return self._client(region).encrypt(KeyId=key_arn, Plaintext=plaintext)["CiphertextBlob"]
        except (BotoCoreError, ClientError) as error:
            raise KeyUnusableError(str(error)) from error

    def put_policy(self, key_arn: str, principal: str, region: str) -> None:
        policy = self._policy(principal, region)
        self._client(region).put_key_policy(KeyId=key_arn, PolicyName="default", Policy=policy)

    def close(self) -> None:
        with self._lock:
            for client in self._clients.values():
                client.close()

    def _policy(self, principal: str, region: str) -> str:
        partition = "aws-cn" if region.startswith("cn-") else "aws"
        root = f"arn:{partition}:iam::{self._account_id}:root"
        statements = [
            {"Sid": "Account", "Effect": "Allow", "Principal": {"AWS": root}, "Action": "kms:*", "Resource": "*"},
            {
                "Sid": "Consumer",
                "Effect": "Allow",
                "Principal": {"AWS": principal},
                "Action": "kms:Decrypt",
                "Resource": "*",
            },
        ]
        return json.dumps({"Version": "2012-10-17", "Statement": statements})

    def _client(self, region: str) -> KMSClient:
        with self._lock:
            client = self._clients.get(region)
            if client is None:
                client = self._clients[region] = _session().client(
                    "kms",
                    aws_access_key_id=self._access_key,
                    aws_secret_access_key=self._secret_key,
                    region_name=region,
                    endpoint_url=self._aws_url,
                    verify=None if self._aws_ca is None else str(self._aws_ca),
                    config=Config(
                        retries={"total_max_attempts": 1},  # a retry would hide an injected fault
                        read_timeout=10,
                        max_pool_connections=50,
                        # These environment variables are for the functions under test only.
                        proxies={},
                        use_fips_endpoint=False,
                        use_dualstack_endpoint=False,
                    ),
                )
            return client


class _Sts:
    """Identify callers: forwards their signed ``GetCallerIdentity`` request to STS."""

    def __init__(self, aws_url: str, aws_ca: Path | None) -> None:
        address = urlsplit(aws_url)
        self._host, self._port = address.hostname or "", address.port
        self._tls: ssl.SSLContext | None = None
        if address.scheme == "https":
            self._tls = ssl.create_default_context(cafile=None if aws_ca is None else str(aws_ca))

    def caller(self, request: Request, region: str) -> str:
        suffix = ".cn" if region.startswith("cn-") else ""
        headers = {
            "Host": f"sts.{region}.amazonaws.com{suffix}",
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
            # The service forwards only these headers.
            **{name: request.headers[name] for name in _FORWARDED_TO_STS if request.headers[name] is not None},
        }
        try:
            status, answer = self._post(headers)
        except (OSError, http.client.HTTPException) as error:
            raise RefusalError(503, 99995, f"STS cannot be reached: {error}") from error
        if status == 200:
            return str(json.loads(answer)["GetCallerIdentityResponse"]["GetCallerIdentityResult"]["Arn"])
        if status >= 500:
            raise RefusalError(503, 99995, "STS is unavailable.")
        if b"SignatureDoesNotMatch" in answer or b"IncompleteSignature" in answer:
            raise RefusalError(400, 99237, "The signature does not match the request, or has expired.")
        if b"ExpiredToken" in answer:
            raise RefusalError(401, 99238, "The AWS credentials have expired.")
        raise RefusalError(401, 99106, "AWS refused the credentials.")

    def _post(self, headers: Mapping[str, str]) -> tuple[int, bytes]:
        if self._tls is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=10)
        else:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=10, context=self._tls)
        try:
            connection.request("POST", "/", _STS_BODY, dict(headers))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@functools.cache
def _session() -> boto3.Session:
    """Return one session for all clients, because each session loads the service models again."""
    return boto3.Session()
