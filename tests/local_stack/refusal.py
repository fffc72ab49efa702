"""Error responses of AWS services, in each service's format."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from xml.sax.saxutils import escape

from cerberus_auth.testing.http_server import Response

CONTENT_TYPES = {
    "kms": "application/x-amz-json-1.1",
    "dynamodb": "application/x-amz-json-1.0",
    "sqs": "application/x-amz-json-1.0",
    "lambda": "application/json",
    "sts": "text/xml",
    "iam": "text/xml",
}
QUERY_SERVICES = ("sts", "iam")
"""Services with form requests and XML responses. STS returns JSON if the request accepts it."""

QUERY_CODES = {
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "UnrecognizedClientException": "InvalidClientTokenId",
    "UnknownOperationException": "InvalidAction",
    "ThrottlingException": "Throttling",
}
"""Error codes of these services that differ by more than the suffix ``Exception``."""


class RefusedError(Exception):
    """The error response to a refused call."""

    def __init__(self, code: str, message: str | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def response(self, service: str, accepts_json: bool = False) -> Response:
        """Return the response in the format of a service."""
        if service in QUERY_SERVICES:
            code = QUERY_CODES.get(self.code, self.code.removesuffix("Exception"))
            status = 400 if code in ("InvalidAction", "Throttling", "ValidationError") else 403
            fields = {"Type": "Sender", "Code": code, "Message": self.message or ""}
            if accepts_json and service == "sts":
                return json_response(status, {"Error": fields, "RequestId": str(uuid.uuid4())}, "application/json")
            inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
            xml = f"<ErrorResponse><Error>{inner}</Error><RequestId>{uuid.uuid4()}</RequestId></ErrorResponse>"
            return Response(status, xml.encode(), {"Content-Type": "text/xml"})
        text = {} if self.message is None else {_message_name(self.code): self.message}
        if service == "lambda":
            if self.code == "ThrottlingException":
                return json_response(
                    429, text, CONTENT_TYPES[service], {"x-amzn-ErrorType": "TooManyRequestsException"}
                )
            return json_response(403, text, CONTENT_TYPES[service], {"x-amzn-ErrorType": self.code})
        prefix = "com.amazon.coral.service#" if service == "dynamodb" else ""
        return json_response(400, {"__type": prefix + self.code, **text}, CONTENT_TYPES[service])


def unrecognized() -> RefusedError:
    """Return the error for an unknown access key or session token."""
    return RefusedError("UnrecognizedClientException", "The security token included in the request is invalid.")


def mismatch(message: str) -> RefusedError:
    """Return the error for an invalid signature."""
    return RefusedError("InvalidSignatureException", message)


def _message_name(code: str) -> str:
    """Return the field's name: AWS capitalizes it only if a policy denied the call."""
    return "Message" if code == "AccessDeniedException" else "message"


def json_response(status: int, value: object, content_type: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(status, json.dumps(value).encode(), {"Content-Type": content_type, **(headers or {})})
