"""The web server and framework of Cerberus: paths, error pages, headers and JSON."""

from __future__ import annotations

import json
import re
import unicodedata
import uuid
from datetime import UTC, datetime
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from .http_server import Request, Response

ACTUATOR = "application/vnd.spring-boot.actuator.v3+json"
"""The content type of ``/healthcheck`` and ``/info``."""

# The web server rejects these characters and invalid percent-encoding before the application gets the request.
_REJECTED_BY_SERVER = re.compile(r'[\x00-\x20"#<>\\^`{|}\x7f-\U0010ffff]|%2[fF]|%5[cC]|%(?![0-9A-Fa-f]{2})')
_REJECTED_CATEGORIES = ("Cc", "Zl", "Zp")  # control characters, U+2028, U+2029

_CONTENT_TYPES = {
    "crt": "application/x-x509-cert",
    "json": "application/json",
    "p12": "application/x-pkcs12",
    "pem": "application/x-x509-cert",
    "txt": "text/plain",
    "xml": "application/xml",
}


class RefusalError(Exception):
    """An error response of Cerberus, in its JSON error format."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        errors = [{"code": code, "message": message}]
        self.response = as_json(status, {"error_id": str(uuid.uuid4()), "errors": errors})


class PageError(Exception):
    """An error page of the web server, in HTML."""

    def __init__(self, status: int) -> None:
        phrase = f"HTTP Status {status}: {HTTPStatus(status).phrase}"
        super().__init__(phrase)
        page = (
            f'<!doctype html><html lang="en"><head><title>{phrase}</title></head><body><h1>{phrase}</h1></body></html>'
        )
        headers = {"Content-Type": "text/html;charset=utf-8", "Content-Language": "en", "Connection": "close"}
        self.response = Response(status, page.encode(), headers)


def unexpected_error() -> RefusalError:
    """Return the response of Cerberus to an error that it does not handle."""
    return RefusalError(500, 10, "An error occurred while fulfilling the request")


def resolve(path: str) -> str:
    """Decode a path, and resolve ``..`` and ``//`` in it.

    Parameters
    ----------
    path : str
        The percent-encoded path of a request.

    Returns
    -------
    str

    Raises
    ------
    PageError
        The web server rejects the path.
    RefusalError
        The firewall of the framework rejects the path.
    """
    if _REJECTED_BY_SERVER.search(path):
        raise PageError(400)
    decoded = unquote(path)
    if any(each in "%;" or unicodedata.category(each) in _REJECTED_CATEGORIES for each in decoded):
        raise RefusalError(401, 99105, "X-Vault-Token or X-Cerberus-Token header is malformed or invalid.")
    parts: list[str] = []
    for part in decoded.split("/"):
        if part == "..":
            if not parts:
                raise PageError(400)
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    slash = "/" if parts and decoded.endswith("/") else ""
    return f"/{'/'.join(parts)}{slash}"


def as_json(status: int, value: Any, content_type: str = "application/json") -> Response:
    """Return a JSON response as Cerberus writes it: indented and chunked."""
    body = json.dumps(value, indent=2, separators=(",", " : ")).encode()
    return Response(status, body, {"Content-Type": content_type, "Transfer-Encoding": "chunked"})


def not_mapped(request: Request) -> Response:
    """Return the response of the framework to an unknown path, or to a disabled authentication method."""
    if "text/html" in (request.headers["Accept"] or ""):
        page = b"<html><body><h1>Whitelabel Error Page</h1><div>(type=Not Found, status=404).</div></body></html>"
        return Response(404, page, {"Content-Type": "text/html;charset=UTF-8"})
    timestamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    return as_json(404, {"timestamp": timestamp, "status": 404, "error": "Not Found", "path": request.path})


def file_headers(name: str) -> dict[str, str]:
    """Return the headers of a file. Cerberus guesses the content type from the name."""
    content_type = _CONTENT_TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")
    return {"Content-Type": content_type, "Content-Disposition": f'attachment; filename="{name}"'}


def with_common_headers(response: Response, request: Request) -> Response:
    """Return a response with the headers that Cerberus adds to all responses."""
    headers = {
        "X-Refresh-Token": "false",
        "X-B3-TraceId": uuid.uuid4().hex[:16],
        "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        "X-Content-Type-Options": "nosniff",
        "X-XSS-Protection": "1; mode=block",
        "Cache-Control": "no-cache, no-store, max-age=0, must-revalidate",
        "Pragma": "no-cache",
        "Expires": "0",
        "X-Frame-Options": "DENY",
        "Date": formatdate(usegmt=True),
    }
    if (request.headers["Connection"] or "").lower() == "keep-alive":
        headers |= {"Keep-Alive": "timeout=60", "Connection": "keep-alive"}
    return response._replace(headers={**headers, **response.headers})
