"""An outage of KMS in one region: another serves in time, and the first is left alone for a while. All on real sockets."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

import cerberus_auth.auth
import cerberus_auth.deadline
from cerberus_auth import CerberusUnavailable, PrincipalRejected, Settings
from cerberus_auth.authentication.sequence import Sequence
from cerberus_auth.authentication.token import Token, TokenRequest
from cerberus_auth.aws.calls import Credentials
from cerberus_auth.deadline import Deadline, Moment
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
        for module in (cerberus_auth.auth, cerberus_auth.deadline):
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
    ("aws_client", "actions", "first_decrypts"),
    [("signed", ("Decrypt",), 1), ("sdk", ("Decrypt",), 1), ("signed", (), 0)],
    ids=["decrypt-signed", "decrypt-sdk", "all-of-kms"],
)
def test_kms_hangs_in_the_first_region(
    aws_client: str, actions: tuple[str, ...], first_decrypts: int, function: Function, later: Callable[..., None]
) -> None:
    """The token comes from the second within the default timeouts, and renewals go there at once."""
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
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
    function: Function, later: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cerberus_auth.caching.cache.jitter", lambda: 1.0)  # the widest window
    auth = function.auth()
    first = auth.token()
    assert function.posted == [(ROLE, FIRST)]
    function.stack.aws.server.faults.add(Fault.hang(), is_kms(FIRST, "Decrypt"), times=None)
    later(LEASE - 60 - 60)
    assert auth.token() == first  # after two seconds; the flight goes on
    ends = time.monotonic() + 20
    while auth.token() == first and time.monotonic() < ends:
        time.sleep(0.05)
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
    """Cerberus then answers 500 with code 99998."""
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


# What is held against a region


def scopes(function: Function) -> list[str]:
    """The regions that requests to Cerberus were signed for."""
    return [request.headers["Authorization"].split("/")[2] for request in function.cerberus.requests if is_sts(request)]


def is_sts(request: Request) -> bool:
    return request.path.endswith("/sts-identity")


def is_asked_in(region: str) -> Callable[[Request], bool]:
    """Auth requests for a region, by KMS or by STS."""
    return lambda request: (
        region.encode() in request.body or f"/{region}/sts/" in (request.headers["Authorization"] or "")
    )


@pytest.mark.parametrize(
    "fault", [Fault.status(503), Fault.html(502), Fault.reset(), Fault.html()], ids=["503", "502-page", "reset", "page"]
)
def test_a_region_is_not_skipped_because_cerberus_was_out_of_reach(fault: Fault, function: Function) -> None:
    function.configure(CERBERUS_MAX_ATTEMPTS="1")
    function.stack.cerberus.server.faults.add(fault)
    auth = function.auth()
    for _ in range(2):
        assert auth.token()
        auth.invalidate()
    assert [region for _, region in function.posted] == [FIRST, SECOND, FIRST]


@pytest.mark.parametrize("code", [99223, 99998])
def test_a_region_is_skipped_in_which_cerberus_cannot_encrypt(code: int, function: Function) -> None:
    function.configure(CERBERUS_MAX_ATTEMPTS="1")
    body = f'{{"error_id": "1", "errors": [{{"code": {code}, "message": "no"}}]}}'.encode()
    function.stack.cerberus.server.faults.add(Fault.status(500, body))
    auth = function.auth()
    for _ in range(2):
        assert auth.token()
        auth.invalidate()
    assert [region for _, region in function.posted] == [FIRST, SECOND, SECOND]


@pytest.mark.parametrize("where", ["cerberus", "kms"])
def test_a_region_is_not_skipped_because_a_caller_was_in_a_hurry(where: str, function: Function) -> None:
    """Its share is less than the time of one request."""
    if where == "kms":
        function.stack.aws.server.faults.add(Fault.delay(1.5), is_kms(FIRST, "Decrypt"))
    else:
        function.stack.cerberus.server.faults.add(Fault.delay(1.5), is_asked_in(FIRST))
    function.configure(CERBERUS_TIMEOUT="2")
    auth = function.auth()
    assert auth.token()
    assert (ROLE, SECOND) in function.posted
    function.cerberus.requests.clear()
    auth.invalidate()
    assert auth.token()
    assert {region for _, region in function.posted} == {FIRST}


# A region newer than the service's AWS SDK


@pytest.fixture
def newer(function: Function) -> Function:
    """A function in a region that Cerberus does not know, with no other."""
    function.configure(CERBERUS_FALLBACK_REGIONS=None)
    unknown(function, FIRST)
    return function


def unknown(function: Function, region: str) -> None:
    """Have Cerberus answer as if it did not know the region."""
    for code, by_sts in ((99229, False), (99999, True)):
        body = f'{{"error_id": "1", "errors": [{{"code": {code}, "message": "no"}}]}}'.encode()
        function.stack.cerberus.server.faults.add(
            Fault.status(400, body, {"Content-Type": "application/json"}),
            lambda request, by_sts=by_sts: is_sts(request) is by_sts and is_asked_in(region)(request),  # type: ignore[misc]
            times=None,
        )


@pytest.mark.parametrize("method", ["auto", "sts"])
def test_sts_is_signed_for_a_region_that_cerberus_knows(method: str, newer: Function) -> None:
    newer.configure(CERBERUS_AUTH_METHOD=method)
    newer.stack.aws.calls.clear()
    auth = newer.auth()
    for _ in range(3):
        assert auth.token()
        auth.invalidate()
    assert newer.posted == ([(ROLE, FIRST)] if method == "auto" else [])
    assert scopes(newer) == [FIRST, *["us-east-1"] * 3]  # remembered
    replayed = [(call.service, call.action) for call in newer.stack.aws.calls]
    assert replayed == [("sts", "GetCallerIdentity")] * 3  # by Cerberus: the function calls nothing


def test_a_role_is_assumed_in_the_functions_own_region_all_the_same(newer: Function) -> None:
    assumed = "arn:aws:iam::111111111111:role/secrets"
    may = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": assumed}
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": ROLE}}
    newer.stack.aws.create_role(assumed, None, {"Version": "2012-10-17", "Statement": [trust]})
    newer.stack.aws.put_role_policy(ROLE, {"Version": "2012-10-17", "Statement": [may]})
    newer.stack.cerberus.grant(assumed)
    newer.configure(CERBERUS_ASSUME_ROLE_ARN=assumed, CERBERUS_IAM_ROLE_ARN=None)
    assert newer.auth().token()
    assert scopes(newer) == [FIRST, "us-east-1"]
    assert [call.region for call in newer.stack.aws.calls if call.action == "AssumeRole"] == [FIRST]


def test_in_china_sts_is_signed_for_a_chinese_region(function: Function) -> None:
    role, region = "arn:aws-cn:iam::111111111111:role/orders", "cn-northwest-1"
    function.stack.create_role(role)
    function.become(role)
    function.configure(AWS_REGION=region, CERBERUS_FALLBACK_REGIONS=None, CERBERUS_IAM_ROLE_ARN=role)
    unknown(function, region)
    assert function.auth().token()
    assert scopes(function) == [region, "cn-north-1"]


@pytest.mark.parametrize("fallbacks", ["", SECOND])
def test_kms_alone_names_the_settings_to_change(fallbacks: str, newer: Function) -> None:
    newer.configure(CERBERUS_AUTH_METHOD="kms", CERBERUS_FALLBACK_REGIONS=fallbacks)
    unknown(newer, SECOND)
    error = newer.failure(newer.auth().token)
    assert type(error) is PrincipalRejected
    assert len(error.attempts) == 1 + bool(fallbacks)
    for part in ("CERBERUS_REGION", "CERBERUS_FALLBACK_REGIONS", "99229", FIRST, fallbacks):
        assert part in str(error)


def test_kms_goes_on_to_a_region_that_cerberus_knows_and_remembers_it(function: Function) -> None:
    unknown(function, FIRST)
    auth = function.auth()
    for _ in range(2):
        assert auth.token()
        auth.invalidate()
    assert function.posted == [(ROLE, FIRST), (ROLE, SECOND), (ROLE, SECOND)]


def test_when_every_region_fails_each_is_listed_with_its_reason(function: Function) -> None:
    function.configure(CERBERUS_MAX_ATTEMPTS="1")
    faults = function.stack.aws.server.faults
    faults.add(Fault.status(503), is_kms(FIRST, "Encrypt"), times=None)
    faults.add(Fault.reset(), is_kms(SECOND, "Decrypt"), times=None)
    error = function.failure(function.auth().token)
    assert type(error) is CerberusUnavailable
    assert [(attempt.region, attempt.step, type(attempt.error)) for attempt in error.attempts] == [
        (FIRST, "auth request", CerberusUnavailable),
        (SECOND, "kms:Decrypt", CerberusUnavailable),
    ]
    assert re.search(r"it answered 500, code 99\d{3}: Cerberus could not .* in this region", str(error))
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


def test_a_region_is_not_skipped_because_a_look_in_the_shared_cache_found_nothing() -> None:
    """In an outage that a read met, with a shared token of the second region only."""
    tried: list[str] = []
    outage = CerberusUnavailable("down")
    outage.step = "read"

    class Kms:
        name = setting = "kms"

        def authenticate(
            self, principal: str, region: str, deadline: Deadline, request: TokenRequest, **_: Any
        ) -> Token:
            tried.append(region)
            if region == FIRST:
                request.check_outage()
            return Token("t0ken", 3600, Moment(), principal, region)

    class Aws:
        def credentials(self, region: str, deadline: Deadline) -> Credentials:
            return Credentials("AKIDEXAMPLE", "s3cret", None)

    settings = Settings(
        url="https://cerberus.example.com", region=FIRST, fallback_regions=[SECOND], iam_role_arns=[ROLE]
    )
    sequence = Sequence(settings, cast(Any, Aws()), {"kms": cast(Any, Kms)})
    sequence.authenticate(Deadline(10), TokenRequest(outage=outage))
    assert tried == [FIRST, SECOND]
    sequence.authenticate(Deadline(10))
    assert tried[2:] == [FIRST]
