"""A fake of the KMS and STS operations that authentication needs: Decrypt and GetCallerIdentity."""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import threading
import uuid
from urllib.parse import parse_qs

from .http_server import Request, Response, Server

_SCOPE = re.compile(r"Credential=[^/,\s]+/\d{8}/([^/,\s]+)/kms/aws4_request")
_XMLNS = "https://sts.amazonaws.com/doc/2011-06-15/"


class Aws:
    """Run a fake KMS and STS at one URL. It does not check signatures.

    Parameters
    ----------
    account_id : str
        The AWS account of the KMS keys, 12 digits.
    role_arn : str
        The ARN of the execution role of the function under test.
    """

    def __init__(self, account_id: str, role_arn: str) -> None:
        self._account_id = account_id
        _, self._partition, _, _, account, name = role_arn.split(":", 5)
        self._caller = f"arn:{self._partition}:sts::{account}:assumed-role/{name.rpartition('/')[2]}/function"
        self._encrypted: dict[bytes, tuple[bytes, str, str]] = {}
        self._lock = threading.Lock()
        self.server = Server(self._respond)
        self.url = self.server.url

    def close(self) -> None:
        """Stop the server. Safe to repeat."""
        self.server.close()

    def create(self, principal: str, region: str) -> str:
        """Return the ARN of a new key. See ``Keys``."""
        return f"arn:{self._partition}:kms:{region}:{self._account_id}:key/{uuid.uuid4()}"

    def encrypt(self, plaintext: bytes, key_arn: str, region: str) -> bytes:
        """Return a random ciphertext, and remember its plaintext. See ``Keys``."""
        ciphertext = secrets.token_bytes(128)
        with self._lock:
            self._encrypted[ciphertext] = plaintext, key_arn, region
        return ciphertext

    def caller(self, request: Request, region: str) -> str:
        """Return the ARN of the assumed role. See ``Callers``."""
        return self._caller

    def _respond(self, request: Request) -> Response:
        if request.headers["X-Amz-Target"] == "TrentService.Decrypt":
            return self._decrypt(request)
        if parse_qs(request.body.decode("latin-1")).get("Action") == ["GetCallerIdentity"]:
            return self._identity(request.headers["Accept"] == "application/json")
        return _json(
            400, {"__type": "UnknownOperationException", "message": "This fake does not implement the operation."}
        )

    def _identity(self, as_json: bool) -> Response:
        if as_json:
            answer = {"GetCallerIdentityResponse": {"GetCallerIdentityResult": {"Arn": self._caller}}}
            return Response(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
        result = f"<GetCallerIdentityResult><Arn>{self._caller}</Arn></GetCallerIdentityResult>"
        page = f'<GetCallerIdentityResponse xmlns="{_XMLNS}">{result}</GetCallerIdentityResponse>'
        return Response(200, page.encode(), {"Content-Type": "text/xml"})

    def _decrypt(self, request: Request) -> Response:
        try:
            ciphertext = base64.b64decode(json.loads(request.body)["CiphertextBlob"], validate=True)
        except (binascii.Error, KeyError, TypeError, ValueError):
            return _json(400, {"__type": "SerializationException"})
        with self._lock:
            plaintext, key_arn, region = self._encrypted.get(ciphertext, (b"", "", ""))
        if not key_arn:
            return _json(400, {"__type": "InvalidCiphertextException"})
        scope = _SCOPE.search(request.headers["Authorization"] or "")
        if scope is None or scope[1] != region:  # KMS returns the same error as for the policy of a key
            message = "The ciphertext refers to a key that is not in this region: no resource-based policy allows it."
            return _json(400, {"__type": "AccessDeniedException", "Message": message})
        return _json(200, {"KeyId": key_arn, "Plaintext": base64.b64encode(plaintext).decode()})


def _json(status: int, value: object) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/x-amz-json-1.1"})
