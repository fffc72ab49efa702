"""What a function under test calls of AWS, in memory: KMS decrypts what the fake Cerberus encrypted, STS says who one is."""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import threading
from urllib.parse import parse_qs

from .http_server import Request, Response, Server

_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")


class Aws:
    """A context manager: KMS and STS at one URL, for whoever asks; signatures are not looked at.

    :param account_id: of the keys.
    :param role_arn: the execution role of the function under test.
    """

    def __init__(self, account_id: str, role_arn: str) -> None:
        self._account_id = account_id
        account, _, name = role_arn.removeprefix("arn:aws:iam::").partition(":role/")
        self._caller = f"arn:aws:sts::{account}:assumed-role/{name.rpartition('/')[2]}/function"
        self._encrypted: dict[bytes, tuple[bytes, str]] = {}
        self._lock = threading.Lock()
        self.server = Server(self._respond)
        self.url = self.server.url

    def close(self) -> None:
        """End the server. May be called again."""
        self.server.close()

    def encrypt(self, plaintext: bytes, principal: str, region: str) -> bytes:
        """See ``Keys``. The ciphertext is a name for the plaintext, and nothing more."""
        ciphertext = secrets.token_bytes(128)
        with self._lock:
            self._encrypted[ciphertext] = plaintext, f"arn:aws:kms:{region}:{self._account_id}:key/{principal[-8:]}"
        return ciphertext

    def knows(self, region: str) -> bool:
        """See ``Keys``."""
        return _REGION.fullmatch(region) is not None

    def caller(self, request: Request, region: str) -> str:
        """See ``Callers``."""
        return self._caller

    def _respond(self, request: Request) -> Response:
        if request.headers["X-Amz-Target"] == "TrentService.Decrypt":
            return self._decrypt(request.body)
        if parse_qs(request.body.decode("latin-1")).get("Action") == ["GetCallerIdentity"]:
            answer = {"GetCallerIdentityResponse": {"GetCallerIdentityResult": {"Arn": self._caller}}}
            return _json(200, answer)
        return _json(400, {"__type": "UnknownOperationException", "message": "Not among what this fake knows of AWS."})

    def _decrypt(self, body: bytes) -> Response:
        try:
            ciphertext = base64.b64decode(json.loads(body)["CiphertextBlob"], validate=True)
        except (binascii.Error, KeyError, TypeError, ValueError):
            return _json(400, {"__type": "SerializationException"})
        with self._lock:
            plaintext, key_arn = self._encrypted.get(ciphertext, (b"", ""))
        if not key_arn:
            return _json(400, {"__type": "InvalidCiphertextException"})
        return _json(200, {"KeyId": key_arn, "Plaintext": base64.b64encode(plaintext).decode()})


def _json(status: int, value: object) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/x-amz-json-1.1"})
