"""An outage of KMS in one region: another serves in time, and the first is left alone for a while. All on real sockets."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

import cerberus_auth.auth
import cerberus_auth.authentication.sequence
import cerberus_auth.authentication.token
import cerberus_auth.caching.cache
from cerberus_auth import AuthenticationFailed, CerberusUnavailable
from cerberus_auth.testing.http_server import Fault, Request
from integration.function import Function
from local_stack.stack import ROLE

FIRST, SECOND = "us-west-2", "us-east-1"
LEASE = 3600


@pytest.fixture
def function(function: Function) -> Function:
    """With two regions, in each of which Cerberus has the role's key already, and every timeout at its default."""
    function.configure(CERBERUS_FALLBACK_REGIONS=SECOND)
    for region in (FIRST, SECOND):
        function.stack.cerberus.key_arn(ROLE, region)
    return function


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Step the clocks by which tokens and regions age; timeouts and signatures keep the true time."""

    def step(seconds: float, *, frozen: bool = False) -> None:
        clock = SimpleNamespace(
            monotonic=lambda: time.monotonic() + (0 if frozen else seconds), time=lambda: time.time() + seconds
        )
        for module in (
            cerberus_auth.auth,
            cerberus_auth.caching.cache,
            cerberus_auth.authentication.sequence,
            cerberus_auth.authentication.token,
        ):
            monkeypatch.setattr(module, "time", clock)

    return step


def is_kms(region: str, *actions: str) -> Callable[[Request], bool]:
    """Requests to KMS in a region, of these actions or of any."""

    def matches(request: Request) -> bool:
        target = (request.headers["X-Amz-Target"] or "").rpartition(".")[2]
        return f"/{region}/kms/" in (request.headers["Authorization"] or "") and (not actions or target in actions)

    return matches


def decryptions(function: Function) -> list[str]:
    """The regions in which the function has asked KMS."""
    calls = [
        request for request in function.aws.requests if (request.headers["X-Amz-Target"] or "").endswith(".Decrypt")
    ]
    return [request.headers["Authorization"].split("/")[2] for request in calls]


@pytest.mark.parametrize(
    ("lane", "actions", "first_decrypts"),
    [("signed", ("Decrypt",), 1), ("sdk", ("Decrypt",), 1), ("signed", (), 0)],
    ids=["decrypt-signed", "decrypt-sdk", "all-of-kms"],
)
def test_kms_hangs_in_the_first_region(
    lane: str, actions: tuple[str, ...], first_decrypts: int, function: Function, later: Callable[..., None]
) -> None:
    """The token comes from the second within the default timeouts, and renewals go there at once."""
    function.configure(CERBERUS_AWS_CLIENT=lane)
    function.stack.aws.server.faults.add(Fault.hang(), is_kms(FIRST, *actions), times=None)
    auth = function.auth()
    first = auth.token()
    assert function.posted == [(ROLE, FIRST), (ROLE, SECOND)]
    assert decryptions(function)[-1] == SECOND
    assert decryptions(function).count(FIRST) == first_decrypts
    later(LEASE - 60 - 1)  # within the refresh window, in which a renewal has 2 s
    second = auth.token()
    assert second != first
    assert function.posted[2:] == [(ROLE, SECOND)]
    later(LEASE)  # the last renewal may come as late as at a lease's end
    auth.invalidate()
    assert auth.token(timeout=2) not in (first, second)
    assert function.posted[3:] == [(ROLE, SECOND)]
    assert decryptions(function)[-3:] == [SECOND] * 3


def test_a_region_that_begins_to_hang_does_not_cost_the_early_renewal(
    function: Function, later: Callable[..., None]
) -> None:
    auth = function.auth()
    first = auth.token()
    assert function.posted == [(ROLE, FIRST)]
    function.stack.aws.server.faults.add(Fault.hang(), is_kms(FIRST, "Decrypt"), times=None)
    later(LEASE - 60 - 1)
    assert auth.token() != first
    assert function.posted[1:] == [(ROLE, FIRST), (ROLE, SECOND)]


@pytest.mark.parametrize("frozen", [False, True], ids=["awake", "frozen"])
def test_the_first_region_is_tried_again_later(frozen: bool, function: Function, later: Callable[..., None]) -> None:
    """By whichever clock comes first: in a frozen container the monotonic one stands still."""
    function.stack.aws.server.faults.add(Fault.status(503), is_kms(FIRST, "Decrypt"), times=3)
    auth = function.auth()
    auth.token()
    assert function.posted == [(ROLE, FIRST), (ROLE, SECOND)]
    for seconds, region in [(LEASE, SECOND), (1.4 * LEASE, SECOND), (1.6 * LEASE, FIRST), (1.7 * LEASE, FIRST)]:
        later(seconds, frozen=frozen)
        auth.invalidate()
        auth.token()
        assert function.posted[-1] == (ROLE, region)
    assert len(function.posted) == 6


def test_a_long_lease_is_outlasted_too(function: Function, later: Callable[..., None]) -> None:
    function.stack.cerberus.lease_seconds = 10 * LEASE
    function.stack.aws.server.faults.add(Fault.status(503), is_kms(FIRST, "Decrypt"), times=None)
    auth = function.auth()
    auth.token()
    later(10 * LEASE - 60 - 1)
    auth.token()
    assert function.posted == [(ROLE, FIRST), (ROLE, SECOND), (ROLE, SECOND)]


def test_the_key_cannot_be_provisioned_in_the_first_region(function: Function) -> None:
    """Cerberus then answers 500 with code 99223."""
    function.stack.aws.server.faults.add(Fault.status(503), is_kms(FIRST, "Encrypt"), times=None)
    auth = function.auth()
    assert auth.token()
    assert function.posted == [(ROLE, FIRST)] * 3 + [(ROLE, SECOND)]
    assert decryptions(function) == [SECOND]
    auth.invalidate()
    assert auth.token()
    assert function.posted[4:] == [(ROLE, SECOND)]


def test_sts_fails_in_the_first_region(function: Function) -> None:
    """Cerberus replays the signature to STS in the region that it names."""
    function.configure(CERBERUS_AUTH_METHOD="sts")

    def is_replay(request: Request) -> bool:
        return f"/{FIRST}/sts/" in (request.headers["Authorization"] or "")

    function.stack.aws.server.faults.add(Fault.status(500), is_replay, times=None)
    auth = function.auth()
    for _ in range(2):
        assert auth.token()
        auth.invalidate()
    scopes = [request.headers["Authorization"].split("/")[2] for request in function.cerberus.requests]
    assert scopes == [FIRST] * 3 + [SECOND] * 2


def test_when_every_region_fails_each_is_listed_with_its_reason(function: Function) -> None:
    function.configure(CERBERUS_MAX_ATTEMPTS="1")
    faults = function.stack.aws.server.faults
    faults.add(Fault.status(503), is_kms(FIRST, "Encrypt"), times=None)
    faults.add(Fault.reset(), is_kms(SECOND, "Decrypt"), times=None)
    error = function.failure(function.auth().token)
    assert isinstance(error, AuthenticationFailed)
    assert [(attempt.region, attempt.step, type(attempt.error)) for attempt in error.attempts] == [
        (FIRST, "auth request", CerberusUnavailable),
        (SECOND, "kms:Decrypt", CerberusUnavailable),
    ]
    assert "it answered 500, code 99223: it could not make or use the principal's KMS key in this region" in str(error)
    assert f"KMS in {SECOND} is unavailable: the connection broke" in str(error)


def test_both_regions_are_tried_in_their_order_when_both_have_failed(function: Function) -> None:
    faults = function.stack.aws.server.faults
    function.configure(CERBERUS_MAX_ATTEMPTS="1")
    auth = function.auth()
    faults.add(Fault.status(503), is_kms(FIRST, "Decrypt"))
    auth.token()
    faults.add(Fault.status(503), is_kms(SECOND, "Decrypt"))
    auth.invalidate()
    auth.token()  # the second fails now, and the first, though skipped, still serves
    auth.invalidate()
    auth.token()
    assert [region for _, region in function.posted] == [FIRST, SECOND, SECOND, FIRST, FIRST]
