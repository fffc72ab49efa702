"""Errors: equal, fresh, and without the frames they came through."""

from __future__ import annotations

import pickle
import traceback

import pytest

import cerberus_auth
from cerberus_auth import AuthenticationFailed, CerberusError, CerberusUnavailable, PrincipalRejected
from cerberus_auth.errors import Attempt, shielded

CLASSES = [
    value
    for name in cerberus_auth.__all__
    if isinstance(value := getattr(cerberus_auth, name), type) and issubclass(value, CerberusError)
]


def test_every_error_of_the_table_is_public() -> None:
    assert len(CLASSES) == 12


@pytest.mark.parametrize("error", CLASSES)
def test_a_fresh_error_is_equal_and_not_the_same(error: type[CerberusError]) -> None:
    original = error([]) if error is AuthenticationFailed else error("text")
    again = original.fresh()
    assert again == original
    assert again is not original
    assert hash(again) == hash(original)
    assert pickle.loads(pickle.dumps(original)) == original  # noqa: S301  (our own)


def test_several_attempts_are_listed_with_where_and_why() -> None:
    error = AuthenticationFailed(
        [
            Attempt("arn:one", "us-west-2", "kms", "auth request", PrincipalRejected("in no box")),
            Attempt("arn:two", "us-east-1", "kms", "kms:Decrypt", CerberusUnavailable("down")),
        ]
    )
    text = str(error)
    for part in ("arn:one", "us-west-2", "auth request", "in no box", "arn:two", "us-east-1", "kms:Decrypt", "down"):
        assert part in text
    assert [type(attempt.error) for attempt in error.attempts] == [PrincipalRejected, CerberusUnavailable]


def test_a_shielded_error_leaves_the_locals_it_came_through_behind() -> None:
    def deep() -> None:
        secret = "s3cr3t"
        try:
            raise ValueError(secret)
        except ValueError as error:
            raise CerberusUnavailable("down") from error

    with pytest.raises(CerberusUnavailable) as caught:
        shielded(deep)
    told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "deep" not in frames
    assert "ValueError" not in told
