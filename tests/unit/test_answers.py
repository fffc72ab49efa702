"""What each answer of Cerberus means, and whether Cerberus gave it. Bodies as measured on the service, version 4.13.0."""

from __future__ import annotations

import json

import pytest

from cerberus_auth import (
    AccessDenied,
    BlockedAtEdge,
    CerberusError,
    CerberusUnavailable,
    InvalidResponse,
    SecretNotFound,
)
from cerberus_auth.authentication.wire import error_code, own_error, read_refusal, transient
from cerberus_auth.http.transport import Response

PATH = "app/orders/db"
PAGE = b"<html><body>Service Temporarily Unavailable</body></html>"
WEB = b'{"timestamp": "2026-01-01T00:00:00Z", "status": 404, "error": "Not Found", "path": "/v2/nothing"}'
FORGED = ["x" * 100, "7\nERROR forged", 10**30, 1_000_000, -1, 0, True, 1.5, None, [7], {"code": 7}]


def own(code: object) -> bytes:
    return json.dumps({"error_id": "1", "errors": [{"code": code, "message": "in the words of Cerberus"}]}).encode()


def answer(status: int, body: bytes) -> Response:
    return Response(status, {}, body)


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (403, own(99994), AccessDenied, "403, code 99994"),
        (403, PAGE, BlockedAtEdge, "NAT"),
        (403, b"", BlockedAtEdge, "firewall"),
        (403, b'{"message": "Forbidden"}', BlockedAtEdge, "firewall"),
        (404, b"", SecretNotFound, f"Nothing is stored at '{PATH}'"),
        (404, own(99996), SecretNotFound, "safe deposit box 'app/orders' does not exist"),
        (404, PAGE, CerberusUnavailable, "in front"),
        (404, WEB, CerberusUnavailable, "in front"),
        (404, own(99999), InvalidResponse, "404, code 99999"),
        (429, own(99999), CerberusUnavailable, "429"),
        (429, PAGE, BlockedAtEdge, "NAT"),
        (429, b"", BlockedAtEdge, "CERBERUS_SHARED_CACHE_TABLE"),
        (500, own(10), CerberusUnavailable, "500, code 10"),
        (502, PAGE, CerberusUnavailable, "502"),
        (503, b"", CerberusUnavailable, "503"),
        (200, PAGE, CerberusUnavailable, "in front"),
        (200, b"", CerberusUnavailable, "in front"),
        (200, b'{"data": []}', InvalidResponse, "CERBERUS_URL"),
        (200, b"[" * 100_000, InvalidResponse, "CERBERUS_URL"),
        (204, b"", CerberusUnavailable, "in front"),
        (302, b"", CerberusUnavailable, "in front"),
        (400, own(99999), InvalidResponse, "400, code 99999"),
        (400, PAGE, CerberusUnavailable, "in front"),
        (405, own(120), InvalidResponse, "405, code 120"),
        (418, b"", CerberusUnavailable, "in front"),
    ],
)
def test_an_answer_to_a_read(status: int, body: bytes, error: type[CerberusError], says: str) -> None:
    raised = read_refusal(answer(status, body), PATH)
    assert type(raised) is error
    assert says in str(raised)
    assert PATH in str(raised)


def test_a_missing_file_is_not_told_as_a_missing_box() -> None:
    """The service answers both with one code."""
    error = read_refusal(answer(404, own(99996)), "app/orders/key.pem", file=True)
    assert type(error) is SecretNotFound
    assert "The file 'app/orders/key.pem' or its safe deposit box 'app/orders' does not exist" in str(error)


@pytest.mark.parametrize("code", FORGED)
def test_only_an_integer_below_a_million_is_quoted(code: object) -> None:
    refused = answer(400, own(code))
    assert error_code(refused) == 0
    assert own_error(refused)
    assert str(read_refusal(refused, PATH)).startswith(f"Cerberus returned 400 for a read of '{PATH}'")


@pytest.mark.parametrize(
    "body", [b"", PAGE, WEB, b"[]", b"{}", b'{"errors": []}', b'{"errors": ["x"]}', b'{"errors": {"code": 7}}', b"{"]
)
def test_any_other_body_is_not_cerberus_own_error(body: bytes) -> None:
    assert not own_error(answer(403, body))


@pytest.mark.parametrize(
    ("status", "body", "repeated"),
    [
        (500, own(10), True),
        (503, PAGE, True),
        (504, b"", True),
        (429, own(99999), True),
        (429, PAGE, False),
        (403, PAGE, False),
        (404, PAGE, False),
        (200, PAGE, False),
        (400, own(99216), False),
    ],
)
def test_which_answers_are_worth_another_attempt(status: int, body: bytes, repeated: bool) -> None:
    assert bool(transient(answer(status, body))) is repeated


def test_the_key_of_a_principal_is_told() -> None:
    assert transient(answer(500, own(99223))).endswith("the principal's KMS key in this region")
