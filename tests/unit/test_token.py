"""Reading a token out of what was decrypted."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerberus_auth import InvalidResponse
from cerberus_auth.authentication.token import Token, parse, principal_of, usable_seconds
from cerberus_auth.deadline import Moment

GOOD: dict[str, Any] = {"client_token": "t0ken", "lease_duration": 3600}


def read(document: bytes) -> Token:
    return parse(document, Moment(), "arn:aws:iam::111111111111:role/web", "us-west-2", "answer")


def test_only_the_token_and_the_lease_are_relied_on() -> None:
    token = read(json.dumps(GOOD | {"metadata": {"_truncated": "true"}, "policies": ["_truncated"]}).encode())
    assert (token.value, token.lease_seconds) == ("t0ken", 3600)


def test_a_jwt_is_as_long_as_the_service_allows() -> None:
    assert len(read(json.dumps(GOOD | {"client_token": "x" * 16_384}).encode()).value) == 16_384


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b"{}",
        *(
            json.dumps(GOOD | change).encode()
            for change in (
                {"client_token": None},
                {"client_token": ""},
                {"client_token": 7},
                {"client_token": "to\r\nken"},
                {"client_token": "to ken"},
                {"client_token": "tok\u00e9n"},
                {"client_token": "x" * 16_385},
                {"lease_duration": 0},
                {"lease_duration": -1},
                {"lease_duration": True},
                {"lease_duration": "3600"},
                {"lease_duration": 1.5},
                {"lease_duration": None},
                {"lease_duration": 10**12},
            )
        ),
    ],
)
def test_anything_else_is_an_invalid_response(document: bytes) -> None:
    with pytest.raises(InvalidResponse):
        read(document)


@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["client_token", "lease_duration", "x"]), inner)
        ),
    ).map(lambda v: json.dumps(v).encode())
)
def test_no_document_raises_anything_but_an_invalid_response(document: bytes) -> None:
    try:
        token = read(document)
    except InvalidResponse:
        return
    assert token.value.isascii()
    assert token.value.isprintable()
    assert token.lease_seconds > 0


def test_a_token_does_not_show() -> None:
    token = read(json.dumps(GOOD).encode())
    assert "t0ken" not in f"{token!r} {token!s} {token}"
    with pytest.raises(TypeError):
        pickle.dumps(token)
    with pytest.raises(AttributeError):
        token.value = "other"


def test_a_moment_of_another_process_counts_by_both_clocks() -> None:
    now = Moment()
    earlier, later = Moment.at(now.wall - 100), Moment.at(now.wall + 100)
    assert earlier.wall == now.wall - 100
    assert earlier.monotonic - now.monotonic == pytest.approx(-100, abs=5)
    for moment in (later.wall - now.wall, later.monotonic - now.monotonic):
        assert 0 <= moment < 5


@pytest.mark.parametrize(("lease", "seconds"), [(3600, 3540), (600, 540), (599, 539.1), (61, 54.9), (60, 54), (1, 0.9)])
def test_the_margin_is_at_most_a_tenth_of_the_lease(lease: int, seconds: float) -> None:
    assert usable_seconds(lease, 60) == pytest.approx(seconds)


ROLE = "arn:aws:iam::111111111111:role/team/web"


@pytest.mark.parametrize(
    ("metadata", "principal"),
    [
        ({"aws_iam_principal_arn": ROLE}, ROLE),
        ({"aws_account_id": "111111111111", "aws_iam_role_name": "team/web"}, ROLE),
        ({"_truncated": "true"}, None),
        ({}, ""),
        ("x", ""),
        (None, ""),
    ],
)
def test_whose_a_response_is(metadata: Any, principal: str | None) -> None:
    assert principal_of(json.dumps(GOOD | {"metadata": metadata}).encode()) == principal


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_what_is_no_response_is_nobodys(document: bytes) -> None:
    assert principal_of(document) == ""
