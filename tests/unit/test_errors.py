"""Errors: equal, fresh, and without the frames they came through."""

from __future__ import annotations

import pickle
import traceback

import pytest

import cerberus_auth
from cerberus_auth import AuthenticationFailed, BlockedAtEdge, CerberusError, CerberusUnavailable, PrincipalRejected
from cerberus_auth.errors import Attempt, combined_error, without_inner_frames

CLASSES = [
    value
    for name in cerberus_auth.__all__
    if isinstance(value := getattr(cerberus_auth, name), type) and issubclass(value, CerberusError)
]


def test_every_error_of_the_table_is_public() -> None:
    assert len(CLASSES) == 13
    assert BlockedAtEdge in CLASSES


@pytest.mark.parametrize("error", CLASSES)
def test_a_fresh_error_is_equal_and_not_the_same(error: type[CerberusError]) -> None:
    original = error([]) if error is AuthenticationFailed else error("text")
    again = original.fresh()
    assert again == original
    assert again is not original
    assert hash(again) == hash(original)
    assert pickle.loads(pickle.dumps(original)) == original  # noqa: S301  (our own)


@pytest.mark.parametrize("error", CLASSES)
def test_a_fresh_error_has_all_attributes(error: type[CerberusError]) -> None:
    attempt = Attempt("arn:one", "us-west-2", "kms", "auth request", PrincipalRejected("in no box"))
    original = error([attempt]) if error is AuthenticationFailed else error("text")
    original.step, original.attempts, original.regional = "auth request", (attempt,), True
    assert vars(original.fresh()) == vars(original)
    assert original.fresh().attempts == (attempt,)


def test_an_error_without_attempts_lists_none() -> None:
    assert CerberusUnavailable("down").attempts == ()


REJECTED = Attempt("arn:one", "us-west-2", "kms", "auth request", PrincipalRejected("in no box"))
DOWN = Attempt("arn:two", "us-east-1", "kms", "kms:Decrypt", CerberusUnavailable("down"))


@pytest.mark.parametrize(
    ("attempts", "raised"),
    [
        ([REJECTED], PrincipalRejected),
        ([REJECTED, REJECTED], PrincipalRejected),
        ([DOWN, DOWN, DOWN], CerberusUnavailable),
        ([REJECTED, DOWN], AuthenticationFailed),
        ([DOWN, DOWN, REJECTED], AuthenticationFailed),
    ],
)
def test_the_class_says_in_which_way_attempts_failed(attempts: list[Attempt], raised: type[CerberusError]) -> None:
    error = combined_error(attempts)
    assert type(error) is raised
    assert error.attempts == tuple(attempts)
    assert all(str(attempt.error) in str(error) for attempt in attempts)
    again = error.fresh()
    assert (again, str(again), again.attempts) == (error, str(error), error.attempts)
    for each in (error, again):
        assert pickle.loads(pickle.dumps(each)).attempts == error.attempts  # noqa: S301  (our own)


def test_the_error_of_a_single_attempt_is_as_it_was() -> None:
    assert combined_error([DOWN]) == DOWN.error


def test_several_attempts_are_listed_with_where_and_why() -> None:
    error = AuthenticationFailed([REJECTED, DOWN])
    text = str(error)
    for part in ("arn:one", "us-west-2", "auth request", "in no box", "arn:two", "us-east-1", "kms:Decrypt", "down"):
        assert part in text
    assert [type(attempt.error) for attempt in error.attempts] == [PrincipalRejected, CerberusUnavailable]


def test_an_error_without_frames_holds_no_locals() -> None:
    def deep() -> None:
        secret = "s3cr3t"
        try:
            raise ValueError(secret)
        except ValueError as error:
            raise CerberusUnavailable("down") from error

    with pytest.raises(CerberusUnavailable) as caught:
        without_inner_frames(deep)
    told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "deep" not in frames
    assert "ValueError" not in told
