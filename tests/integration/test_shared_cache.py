"""The fleet's table: what containers share, what planted items cannot do, and that no failure of it is anybody's failure."""

from __future__ import annotations

import base64
import json
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cerberus_auth import (
    AccessDenied,
    CerberusAuth,
    CerberusClient,
    CerberusError,
    CerberusUnavailable,
    SecretNotFound,
    Settings,
)
from cerberus_auth.aws.calls import connect
from cerberus_auth.caching.flight import Flight
from cerberus_auth.deadline import Deadline
from cerberus_auth.http.transport import Transport
from cerberus_auth.sharing.item import Item
from cerberus_auth.sharing.policy import Sharing
from cerberus_auth.sharing.table import TableStore
from cerberus_auth.testing.http_server import Fault, Request, Response
from integration.function import Function, Wire, closed_port
from local_stack.aws import Aws
from local_stack.stack import ROLE, SECRET, SECRET_PATH, TABLE, LocalStack, decrypt_statement, share_statement

CLIENTS = pytest.mark.parametrize("aws_client", ["signed", "sdk"])
OTHER_ROLE = f"arn:aws:iam::{Aws.FUNCTION_ACCOUNT}:role/other"
ATTACKER = "333333333333"
ALWAYS = None


FLIGHT = "cerberus-auth"  # the name of its thread


class Fleet:
    """A function's containers, in this process, and the table as its operator (or a hostile holder of access) sees it."""

    def __init__(self, function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
        self.function = function
        self.stack = function.stack
        self.stack.create_table()
        self.allow(ROLE)
        function.configure(CERBERUS_SHARED_CACHE_TABLE=TABLE, CERBERUS_AUTH_METHOD="kms")
        self.table = self.stack.aws.client("dynamodb", self.stack.aws.account_credentials(Aws.FUNCTION_ACCOUNT))
        self.stack.cerberus.key_arn(ROLE, "us-west-2")  # so that the first answer is quick
        self._containers: list[CerberusAuth] = []
        self._ahead = 0.0
        monotonic, wall = time.monotonic, time.time
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + self._ahead)
        monkeypatch.setattr(time, "time", lambda: wall() + self._ahead)

    def allow(self, role: str, *statements: dict[str, Any]) -> None:
        policy = [decrypt_statement(), share_statement(role), *statements]
        self.stack.aws.put_role_policy(role, {"Version": "2012-10-17", "Statement": policy})

    def container(self) -> CerberusAuth:
        """Another container: in one process, instances with different settings share nothing."""
        environment = self.function.environment | {"AWS_LAMBDA_FUNCTION_NAME": f"container-{len(self._containers)}"}
        auth = CerberusAuth(Settings.from_env(environment))
        self._containers.append(auth)
        return auth

    def step(self, seconds: float) -> None:
        self._ahead += seconds

    @property
    def authentications(self) -> int:
        return self.stack.cerberus.authentications

    def items(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.table.scan(TableName=TABLE)["Items"]
        return found

    def item(self) -> dict[str, Any]:
        (item,) = self.items()
        return item

    def plant(self, **attributes: Any) -> None:
        """Write into the item: attribute values by name, ``None`` takes one away."""
        item = self.item() | attributes
        self.table.put_item(TableName=TABLE, Item={name: value for name, value in item.items() if value is not None})

    def close(self) -> None:
        for thread in threading.enumerate():
            if thread.name == FLIGHT:  # what it publishes to a stack that is gone would be the next test's warning
                thread.join(5)
        for auth in self._containers:
            auth.close()
        self.table.close()


@pytest.fixture
def fleet(function: Function, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    fleet = Fleet(function, monkeypatch)
    yield fleet
    fleet.close()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "cerberus_auth" and record.levelno >= logging.WARNING
    ]


def is_publishing() -> bool:
    """Whether the thread of a flight, whose value is in hand, goes on."""
    return FLIGHT in [thread.name for thread in threading.enumerate()]


def settled(fleet: Fleet) -> None:
    """Wait until all is published: a slow publication goes on in the background."""
    end = time.monotonic() + 10
    while any(float(item["claimed_until"]["N"]) for item in fleet.items()):
        assert time.monotonic() < end
        time.sleep(0.02)


# What is shared


@CLIENTS
def test_one_container_authenticates_for_all(
    fleet: Fleet, function: Function, aws_client: str, caplog: pytest.LogCaptureFixture
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    tokens = {fleet.container().token() for _ in range(5)}
    assert (len(tokens), fleet.authentications) == (1, 1)
    assert warnings(caplog) == []


def test_both_clients_read_what_the_other_wrote(fleet: Fleet, function: Function) -> None:
    for first, second in (("signed", "sdk"), ("sdk", "signed")):
        function.configure(CERBERUS_AWS_CLIENT=first)
        token = fleet.container().token()
        function.configure(CERBERUS_AWS_CLIENT=second)
        assert fleet.container().token() == token


def test_a_container_that_finds_the_item_makes_one_call_in_the_place_of_the_question(fleet: Fleet) -> None:
    fleet.container().token()
    fleet.stack.aws.calls.clear()
    fleet.container().token()
    assert [(call.service, call.action) for call in fleet.stack.aws.calls] == [
        ("dynamodb", "GetItem"),
        ("kms", "Decrypt"),
    ]


def test_no_more_is_called_than_the_policy_has(fleet: Fleet) -> None:
    client = CerberusClient(fleet.container())
    client.read(SECRET_PATH)
    fleet.stack.cerberus.revoke()
    client.read(SECRET_PATH, fresh=True)
    actions = {
        call.action for call in fleet.stack.aws.calls if call.service == "dynamodb" and "function" in str(call[2])
    }
    assert actions == {"GetItem", "PutItem"}


def test_the_table_holds_nothing_but_the_response_as_it_came(fleet: Fleet, function: Function) -> None:
    token = fleet.container().token()
    item = fleet.item()
    assert item["principal"] == {"S": ROLE}
    assert item["scope"] == {"S": f"kms {fleet.stack.cerberus.url} us-west-2"}
    assert item["response"]["S"] in function.cerberus.secrets
    assert int(item["expires"]["N"]) - float(item["asked"]["N"]) == pytest.approx(3600, abs=1.01)
    assert set(item) == {"principal", "scope", *Item.__slots__}
    assert token not in json.dumps(item)


def test_urls_regions_and_principals_have_items_of_their_own(fleet: Fleet, function: Function) -> None:
    fleet.container().token()
    function.configure(CERBERUS_REGION="us-east-1")
    fleet.container().token()
    fleet.stack.create_role(OTHER_ROLE)
    fleet.allow(OTHER_ROLE)
    function.become(OTHER_ROLE)
    function.configure(CERBERUS_IAM_ROLE_ARN=OTHER_ROLE)
    fleet.container().token()
    function.configure(CERBERUS_URL=fleet.stack.cerberus.url.replace("localhost", "127.0.0.1"))
    fleet.container().token()
    assert (len(fleet.items()), fleet.authentications) == (4, 4)


def test_a_lease_counts_from_when_it_was_asked_for(fleet: Fleet, function: Function) -> None:
    function.configure(CERBERUS_EXPIRY_MARGIN="60")
    fleet.container().token()
    fleet.step(3000)
    late = fleet.container()
    token = late.token()
    assert fleet.authentications == 1
    fleet.step(539)
    assert late.token() != token or fleet.authentications == 2  # in its refresh window
    fleet.step(10)
    assert late.token() != token
    assert fleet.authentications == 2


def test_a_fleet_renews_once(fleet: Fleet) -> None:
    containers = [fleet.container() for _ in range(6)]
    first = {auth.token() for auth in containers}
    fleet.step(3600 - 59)  # no container has a usable token: each waits, however slow the machine is
    second = {auth.token() for auth in containers}
    assert (len(first), len(second), fleet.authentications) == (1, 1, 2)
    assert first != second


def test_while_one_renews_the_others_keep_theirs_in_silence(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    first, second = fleet.container(), fleet.container()
    token = first.token()
    assert second.token() == token
    fleet.step(3600 - 90)  # in the last fifth, and not over while it waits
    fleet.plant(claimed_until={"N": str(time.time() + 5)}, version={"S": "another's"})
    assert second.token() == token
    assert (fleet.authentications, warnings(caplog)) == (1, [])


@CLIENTS
def test_only_what_was_seen_is_replaced(fleet: Fleet, function: Function, aws_client: str) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    chosen = function.settings()
    transport = Transport(chosen)
    store = TableStore(connect(chosen, transport), TABLE, ROLE, "kms", Deadline(10))
    first, second, third = (Item(name, 1.25, 3600) for name in ("first", "second", "third"))
    assert store.get() is None
    assert store.swap(None, first) is first
    for seen in (None, third):
        found = store.swap(seen, second)
        assert found is not None
        assert (found.response, found.asked, found.version) == ("first", 1.25, first.version)
    assert store.swap(first, second) is second
    fleet.table.delete_item(TableName=TABLE, Key={"principal": {"S": ROLE}, "scope": {"S": "kms"}})
    assert store.swap(second, third) is None
    transport.close()


def test_a_revoked_token_is_replaced_once(fleet: Fleet) -> None:
    clients = [CerberusClient(fleet.container()) for _ in range(4)]
    for client in clients:
        client.read(SECRET_PATH)
    fleet.stack.cerberus.revoke()
    assert [client.read(SECRET_PATH, fresh=True) for client in clients] == [SECRET] * 4
    assert fleet.authentications == 2


def test_tokens_of_several_containers_that_are_revoked_together(fleet: Fleet) -> None:
    """A container that had no table holds a token of its own; what it finds after a revocation is revoked as well."""
    fleet.stack.aws.server.faults.add(Fault.status(500), is_table, ALWAYS)
    alone = CerberusClient(fleet.container())
    alone.read(SECRET_PATH)
    fleet.stack.aws.server.faults.clear()
    fleet.container().token()
    fleet.step(61)
    fleet.stack.cerberus.revoke()
    assert alone.read(SECRET_PATH, fresh=True) == SECRET
    assert fleet.authentications == 3


def test_invalidating_asks_for_a_newer_one(fleet: Fleet) -> None:
    auth = fleet.container()
    token = auth.token()
    auth.invalidate()
    assert auth.token() != token
    assert fleet.container().token() == auth.token()
    assert fleet.authentications == 2


def test_cerberus_down_for_the_rest_of_the_lease(fleet: Fleet, function: Function) -> None:
    function.configure(CERBERUS_MAX_ATTEMPTS="1")
    token = fleet.container().token()
    fleet.stack.cerberus.server.stop_listening()
    fleet.step(10)
    while fleet._ahead < 3500:
        auth = fleet.container()
        assert auth.token() == token
        assert auth.token() == token  # also in its refresh window, in which renewing fails
        fleet.step(250)
    fleet.step(100)
    assert isinstance(function.failure(fleet.container().token), CerberusUnavailable)


def test_a_fallback_region_has_its_own(fleet: Fleet, function: Function) -> None:
    function.configure(CERBERUS_FALLBACK_REGIONS="us-east-1", CERBERUS_MAX_ATTEMPTS="1")
    is_here = lambda request: is_decrypt(request) and "/us-west-2/kms/" in request.headers["Authorization"]  # noqa: E731
    fleet.stack.aws.server.faults.add(Fault.status(503), is_here, ALWAYS)
    tokens = {fleet.container().token() for _ in range(3)}
    assert len(tokens) == 1
    # Each container finds out by itself that it cannot decrypt here.
    assert [region for _, region in function.posted].count("us-east-1") == 1


def test_without_the_table_nothing_of_it_is_called(fleet: Fleet, function: Function) -> None:
    function.configure(CERBERUS_SHARED_CACHE_TABLE=None)
    assert len({fleet.container().token() for _ in range(3)}) == 3
    assert fleet.stack.aws.count("dynamodb", "GetItem") == 0


# What a planted item cannot do


def is_table(request: Request) -> bool:
    return (request.headers["X-Amz-Target"] or "").startswith("DynamoDB")


def is_decrypt(request: Request) -> bool:
    return (request.headers["X-Amz-Target"] or "").endswith(".Decrypt")


def response_of(fleet: Fleet, role: str) -> str:
    """A response that Cerberus has encrypted for another role."""
    fleet.stack.create_role(role)
    auth = fleet.stack.cerberus.server
    body = json.dumps({"iam_principal_arn": role, "region": "us-west-2"}).encode()
    answer = auth.respond(Request("POST", "/v2/auth/iam-principal", {}, _no_headers(), body))
    return str(json.loads(answer.body)["auth_data"])


def _no_headers() -> Any:
    from email.message import Message

    return Message()


def sealed_by(fleet: Fleet, account: str, document: bytes) -> str:
    """A ciphertext of a key of that account, which lets everybody decrypt."""
    kms = fleet.stack.aws.client("kms", fleet.stack.aws.account_credentials(account))
    statements = [
        {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{account}:root"}, "Action": "kms:*", "Resource": "*"},
        {"Effect": "Allow", "Principal": {"AWS": ROLE}, "Action": "kms:Decrypt", "Resource": "*"},
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    key = kms.create_key(Policy=policy)["KeyMetadata"]["Arn"]
    ciphertext: bytes = kms.encrypt(KeyId=key, Plaintext=document)["CiphertextBlob"]
    kms.close()
    return base64.b64encode(ciphertext).decode()


def document(principal: str = ROLE, token: str = "the-attackers-own-token", lease: int = 3600) -> bytes:
    metadata = {"aws_iam_principal_arn": principal}
    return json.dumps({"client_token": token, "lease_duration": lease, "metadata": metadata}).encode()


def anything(effect: str = "Allow") -> dict[str, Any]:
    """A careless policy: every key of everybody."""
    return {"Effect": effect, "Action": "kms:Decrypt", "Resource": "*"}


def check_replaced(fleet: Fleet, planted: str, *, asked_by: CerberusAuth | None = None) -> None:
    """A new container has a good token of its own role, and what was planted has gone."""
    before = fleet.authentications
    auth = asked_by or fleet.container()
    client = CerberusClient(auth)
    assert client.read(SECRET_PATH) == SECRET
    assert fleet.authentications == before + 1
    assert planted not in json.dumps(fleet.items())
    assert fleet.container().token() == auth.token()
    assert fleet.authentications == before + 1


@CLIENTS
def test_another_principals_response(
    fleet: Fleet, function: Function, aws_client: str, caplog: pytest.LogCaptureFixture
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    fleet.container().token()
    planted = response_of(fleet, OTHER_ROLE)
    fleet.plant(response={"S": planted})
    check_replaced(fleet, planted)
    (text,) = warnings(caplog)
    assert "DecryptionDenied" in text
    assert planted not in text


def test_another_principals_response_that_may_be_decrypted(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    fleet.container().token()
    planted = response_of(fleet, OTHER_ROLE)
    key = fleet.stack.cerberus.key_arn(OTHER_ROLE, "us-west-2")
    roles = [{"Effect": "Allow", "Principal": {"AWS": [ROLE, OTHER_ROLE]}, "Action": "kms:Decrypt", "Resource": "*"}]
    fleet.stack.aws.put_key_policy(key, {"Version": "2012-10-17", "Statement": roles})
    fleet.plant(response={"S": planted})
    check_replaced(fleet, planted)
    (text,) = warnings(caplog)
    assert f"it is for another principal than {ROLE}" in text


def test_a_response_by_the_older_path_is_checked_too(fleet: Fleet) -> None:
    fleet.container().token()
    metadata = {"aws_account_id": Aws.FUNCTION_ACCOUNT, "aws_iam_role_name": "other"}
    planted = sealed_by(
        fleet, Aws.CERBERUS_ACCOUNT, json.dumps({**json.loads(document()), "metadata": metadata}).encode()
    )
    fleet.plant(response={"S": planted})
    check_replaced(fleet, planted)


@pytest.mark.parametrize("metadata", [{}, [], "x", {"aws_iam_principal_arn": 5}, {"_truncated": True}, None])
def test_a_response_that_does_not_say_whose_it_is(fleet: Fleet, metadata: Any) -> None:
    fleet.container().token()
    planted = sealed_by(
        fleet, Aws.CERBERUS_ACCOUNT, json.dumps({**json.loads(document()), "metadata": metadata}).encode()
    )
    fleet.plant(response={"S": planted})
    check_replaced(fleet, planted)


def test_a_response_that_the_service_truncated_is_taken(fleet: Fleet) -> None:
    fleet.stack.cerberus.truncate_metadata = True
    assert len({fleet.container().token() for _ in range(2)}) == 1


def test_a_response_by_another_accounts_key(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    fleet.allow(ROLE, anything())
    fleet.container().token()
    planted = sealed_by(fleet, ATTACKER, document())
    fleet.plant(response={"S": planted})
    check_replaced(fleet, planted)
    (text,) = warnings(caplog)
    assert ATTACKER in text
    assert "CERBERUS_KMS_ACCOUNT_ID" in text


@pytest.mark.parametrize("ahead", [5, 3600, 1e9])
def test_an_item_asked_for_in_the_future(fleet: Fleet, ahead: float) -> None:
    fleet.container().token()
    planted = fleet.item()["version"]["S"]
    fleet.plant(asked={"N": repr(time.time() + ahead)}, expires={"N": "9" * 10})
    check_replaced(fleet, planted)


def test_a_clock_that_is_a_little_ahead_lends_no_longer_lease(fleet: Fleet, function: Function) -> None:
    function.configure(CERBERUS_EXPIRY_MARGIN="0")
    fleet.container().token()
    fleet.plant(asked={"N": repr(time.time() + 0.9)}, expires={"N": "9" * 10})
    auth, began = fleet.container(), time.time()
    auth.token()
    held = auth.service.tokens.kept["token"]
    assert held.asked.wall + held.lifetime.gone <= began + 3600 + 0.5
    assert fleet.authentications == 1


def test_an_item_that_says_its_lease_is_longer(fleet: Fleet) -> None:
    fleet.stack.cerberus.lease_seconds = 100
    fleet.container().token()
    fleet.step(95)
    planted = fleet.item()["version"]["S"]
    fleet.plant(expires={"N": "9" * 10})
    check_replaced(fleet, planted)


def test_an_older_response_of_the_same_role_once_revoked(fleet: Fleet) -> None:
    client = CerberusClient(fleet.container())
    client.read(SECRET_PATH)
    planted = fleet.item()["response"]["S"]
    fleet.stack.cerberus.revoke()
    client.read(SECRET_PATH, fresh=True)
    fleet.step(61)
    fleet.plant(response={"S": planted}, asked={"N": repr(time.time())})
    check_replaced(fleet, planted)


def test_the_refused_token_again_under_a_later_time(fleet: Fleet) -> None:
    client = CerberusClient(fleet.container())
    client.read(SECRET_PATH)
    fleet.stack.cerberus.revoke()
    fleet.plant(asked={"N": repr(time.time())}, version={"S": "another"})
    assert client.read(SECRET_PATH, fresh=True) == SECRET
    assert fleet.authentications == 2


GARBAGE: dict[str, dict[str, Any]] = {
    "no response": {"response": None},
    "a number for the response": {"response": {"N": "5"}},
    "bytes for the response": {"response": {"B": b"x" * 500}},
    "a list for the response": {"response": {"L": [{"S": "x"}]}},
    "an empty string for the response": {"response": {"S": ""}},
    "not base64": {"response": {"S": "***"}},
    "no ciphertext": {"response": {"S": base64.b64encode(b"x" * 200).decode()}},
    "a response larger than any": {"response": {"S": "A" * 350_000}},
    "much beside it": {"junk": {"S": "A" * 300_000}, "response": None},
    "no asked": {"asked": None},
    "a string for asked": {"asked": {"S": "soon"}},
    "asked long ago": {"asked": {"N": "-1e30"}},
    "asked at the end of time": {"asked": {"N": "9e99"}},
    "no expires": {"expires": None},
    "a map for expires": {"expires": {"M": {}}},
    "a claim for ever": {"response": None, "claimed_until": {"N": "9e20"}},
    "a claim for a day": {"response": None, "claimed_until": {"N": str(time.time() + 86_400)}},
    "a string for the claim": {"response": None, "claimed_until": {"S": "ever"}},
    "no version": {"version": None},
    "a number for the version": {"version": {"N": "7"}, "response": None},
    "an empty version": {"version": {"S": ""}, "response": None},
    "a map for the version": {"version": {"M": {"S": {"S": "x"}}}, "response": None},
    "true for the version": {"version": {"BOOL": True}, "response": None},
    "bytes for the version": {"version": {"B": b"x"}, "response": None},
    "nothing": dict.fromkeys(["response", "asked", "expires", "claimed_until", "version"]),
}


@pytest.mark.parametrize("name", ["not base64", "a response larger than any"])
def test_what_is_no_ciphertext_is_not_sent_to_kms(fleet: Fleet, name: str) -> None:
    fleet.container().token()
    fleet.plant(**GARBAGE[name])
    before = fleet.function.decryptions
    fleet.container().token()
    assert fleet.function.decryptions == before + 1  # of its own response


@CLIENTS
@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_ignored_and_replaced(fleet: Fleet, function: Function, name: str, aws_client: str) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    fleet.container().token()
    fleet.plant(**GARBAGE[name])
    before = fleet.authentications
    auth = fleet.container()
    assert auth.token()
    assert fleet.authentications == before + 1
    assert fleet.container().token() == auth.token()
    assert fleet.authentications == before + 1
    assert "junk" not in fleet.item()


def test_another_role_can_neither_read_nor_write_the_items(fleet: Fleet, function: Function) -> None:
    token = fleet.container().token()
    before = fleet.item()
    fleet.stack.create_role(OTHER_ROLE)
    fleet.allow(OTHER_ROLE)
    function.become(OTHER_ROLE)  # which claims to be the first
    function.failure(fleet.container().token)
    assert fleet.item() == before
    function.become(ROLE)
    assert fleet.container().token() == token


# Failures


def missing(fleet: Fleet) -> None:
    fleet.table.delete_table(TableName=TABLE)


def forbidden(fleet: Fleet) -> None:
    fleet.stack.aws.put_role_policy(ROLE, {"Version": "2012-10-17", "Statement": [decrypt_statement()]})


def read_only(fleet: Fleet) -> None:
    statement = share_statement(ROLE) | {"Action": ["dynamodb:GetItem"]}
    policy = {"Version": "2012-10-17", "Statement": [decrypt_statement(), statement]}
    fleet.stack.aws.put_role_policy(ROLE, policy)


def failing(fault: Fault, action: str = "") -> Callable[[Fleet], None]:
    def fail(fleet: Fleet) -> None:
        is_meant = lambda request: is_table(request) and request.headers["X-Amz-Target"].endswith(action)  # noqa: E731
        fleet.stack.aws.server.faults.add(fault, is_meant, ALWAYS)

    return fail


def refusal(code: str) -> Fault:
    body = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "no"}).encode()
    return Fault.status(400, body, {"Content-Type": "application/x-amz-json-1.0"})


def unreachable(fleet: Fleet) -> None:
    fleet.function.configure(AWS_ENDPOINT_URL_DYNAMODB=closed_port())


FAILURES: dict[str, Callable[[Fleet], None]] = {
    "missing": missing,
    "forbidden": forbidden,
    "read-only": read_only,
    "unreachable": unreachable,
    "hanging": failing(Fault.hang()),
    "hanging after the headers": failing(Fault.hang_after_headers()),
    "resetting": failing(Fault.reset()),
    "failing": failing(Fault.status(500)),
    "a page": failing(Fault.html()),
    "empty": failing(Fault.empty()),
    "half": failing(Fault.half_body()),
    "an array": failing(Fault.status(200, b"[]")),
    "compressed": failing(Fault.gzip_bomb(1 << 20)),
    "full": failing(refusal("ItemCollectionSizeLimitExceededException"), "PutItem"),
    "other keys": failing(refusal("ValidationException")),
    "writes hang": failing(Fault.hang(), "PutItem"),
    "writes fail": failing(Fault.status(503), "PutItem"),
}


DRIPPING = {
    "dripping": failing(Fault.drip_body(1))
}  # for the signed client alone: botocore has no deadline for an answer


@pytest.mark.parametrize(
    ("name", "aws_client"),
    [*((name, aws_client) for name in FAILURES for aws_client in ("signed", "sdk")), ("dripping", "signed")],
)
def test_the_token_comes_from_cerberus_with_one_warning(
    fleet: Fleet, function: Function, name: str, aws_client: str, caplog: pytest.LogCaptureFixture
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    (FAILURES | DRIPPING)[name](fleet)
    auth = fleet.container()
    token = auth.token()
    assert fleet.authentications == 1
    if aws_client == "sdk" and name in ("a page", "empty", "half"):
        return  # botocore does not tell that something is missing
    calls = fleet.stack.aws.count("dynamodb")
    auth.invalidate()
    assert auth.token() != token
    assert fleet.stack.aws.count("dynamodb") == calls  # it is left alone for a while
    (text,) = warnings(caplog)
    assert text.startswith(f"DynamoDB table {TABLE} cannot be used, sending requests to Cerberus instead. ")
    assert not any(secret in text for secret in function.cerberus.secrets)


@CLIENTS
def test_a_refusal_tells_the_statement_to_add(
    fleet: Fleet, function: Function, aws_client: str, caplog: pytest.LogCaptureFixture
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    forbidden(fleet)
    fleet.container().token()
    (text,) = warnings(caplog)
    statement = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert statement["Action"] == share_statement(ROLE)["Action"]
    assert statement["Condition"] == share_statement(ROLE)["Condition"]


def test_the_table_is_used_again_after_a_while(fleet: Fleet, function: Function) -> None:
    failing(Fault.status(500))(fleet)
    auth = fleet.container()
    auth.token()
    fleet.stack.aws.server.faults.clear()
    fleet.step(61)
    auth.invalidate()
    assert auth.token() == fleet.container().token()
    assert fleet.authentications == 2


@CLIENTS
@pytest.mark.parametrize(
    "code", ["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"]
)
def test_throttled_for_a_moment(fleet: Fleet, function: Function, code: str, aws_client: str) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    token = fleet.container().token()
    fleet.stack.aws.server.faults.add(refusal(code), is_table, 3)
    assert fleet.container().token() == token


@CLIENTS
def test_throttled_for_long(fleet: Fleet, function: Function, aws_client: str) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client, CERBERUS_TIMEOUT="2")
    fleet.stack.aws.throttle("dynamodb", times=ALWAYS)
    assert fleet.container().token()
    assert fleet.authentications == 1


def test_a_publication_that_is_held_up_holds_nobody_up(fleet: Fleet) -> None:
    respond, released, held = fleet.stack.aws.server.respond, threading.Event(), threading.Event()

    def hold(request: Request) -> Response:
        if (request.headers["X-Amz-Target"] or "").endswith(
            ".PutItem"
        ) and b'"response": {"S": ""}' not in request.body:
            held.set()
            released.wait(20)
        return respond(request)

    fleet.stack.aws.server.respond = hold
    token = fleet.container().token()
    assert held.wait(20)
    assert is_publishing()
    released.set()
    settled(fleet)
    assert fleet.container().token() == token


@CLIENTS
def test_slow_but_in_time(fleet: Fleet, function: Function, aws_client: str) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    failing(Fault.delay(0.2))(fleet)
    assert fleet.container().token() == fleet.container().token()


def test_half_of_a_short_time_is_left_for_cerberus(fleet: Fleet) -> None:
    failing(Fault.hang())(fleet)
    assert fleet.container().token(timeout=2.4)


def test_kms_out_of_reach_is_told_as_ever(fleet: Fleet, function: Function) -> None:
    function.configure(CERBERUS_MAX_ATTEMPTS="1")
    fleet.container().token()
    fleet.stack.aws.server.faults.add(Fault.status(503), is_decrypt, ALWAYS)
    assert "KMS in us-west-2 is unavailable" in str(function.failure(fleet.container().token))
    assert fleet.authentications == 1  # asking Cerberus would not mend it


def test_an_error_of_cerberus_is_told_as_ever_and_frees_the_claim(fleet: Fleet, function: Function) -> None:
    fleet.stack.cerberus.deny(ROLE)
    function.failure(fleet.container().token)
    assert float(fleet.item()["claimed_until"]["N"]) == 0


# STS: sealed


class Sealed:
    """A fleet that authenticates by STS, and a key of the functions' account."""

    def __init__(self, fleet: Fleet) -> None:
        self.kms = fleet.stack.aws.client("kms", fleet.stack.aws.account_credentials(Aws.FUNCTION_ACCOUNT))
        self.key_arn: str = self.kms.create_key()["KeyMetadata"]["Arn"]
        self.context = {"url": fleet.stack.cerberus.url, "principal": ROLE}
        self.fleet = fleet
        self.allow("kms:Encrypt", "kms:Decrypt")
        fleet.function.configure(CERBERUS_AUTH_METHOD="sts", CERBERUS_SHARED_CACHE_KEY=self.key_arn)

    def allow(self, *actions: str) -> None:
        condition = {"StringEquals": {"kms:EncryptionContext:principal": ROLE}}
        statement = {"Effect": "Allow", "Action": list(actions), "Resource": self.key_arn, "Condition": condition}
        self.fleet.allow(ROLE, statement)

    def seal(self, document: bytes, **context: str) -> str:
        answer = self.kms.encrypt(KeyId=self.key_arn, Plaintext=document, EncryptionContext=self.context | context)
        return base64.b64encode(answer["CiphertextBlob"]).decode()


@pytest.fixture
def sealed(fleet: Fleet) -> Iterator[Sealed]:
    sealed = Sealed(fleet)
    yield sealed
    sealed.kms.close()


@CLIENTS
def test_sealed_tokens_are_shared(
    fleet: Fleet, sealed: Sealed, function: Function, aws_client: str, caplog: pytest.LogCaptureFixture
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    tokens = {fleet.container().token() for _ in range(4)}
    assert (len(tokens), fleet.authentications) == (1, 1)
    assert tokens.pop() not in json.dumps(fleet.item())
    assert warnings(caplog) == []
    blob = base64.b64decode(fleet.item()["response"]["S"])
    assert sealed.kms.decrypt(CiphertextBlob=blob, EncryptionContext=sealed.context)["KeyId"] == sealed.key_arn


def test_without_a_key_nothing_of_sts_is_shared(fleet: Fleet, function: Function) -> None:
    function.configure(CERBERUS_AUTH_METHOD="sts")
    assert len({fleet.container().token() for _ in range(3)}) == 3
    assert fleet.items() == []


def test_without_a_name_nothing_of_sts_is_shared(fleet: Fleet, sealed: Sealed, function: Function) -> None:
    function.configure(CERBERUS_IAM_ROLE_ARN=None)
    assert len({fleet.container().token() for _ in range(2)}) == 2
    assert fleet.items() == []


def test_a_token_of_another_than_the_settings_name_is_not_shared(
    fleet: Fleet, sealed: Sealed, function: Function, caplog: pytest.LogCaptureFixture
) -> None:
    function.configure(CERBERUS_IAM_ROLE_ARN=OTHER_ROLE)
    fleet.stack.create_role(OTHER_ROLE)
    fleet.allow(ROLE, share_statement(OTHER_ROLE), {"Effect": "Allow", "Action": "kms:*", "Resource": sealed.key_arn})
    assert fleet.container().token()
    assert "response" not in fleet.item() or fleet.item()["response"] == {"S": ""}
    assert [OTHER_ROLE in text for text in warnings(caplog)] == [True]


@pytest.mark.parametrize(
    "plant",
    [
        lambda sealed: sealed.seal(document(), principal=OTHER_ROLE),
        lambda sealed: sealed.seal(document(), url="https://cerberus.example.com"),
        lambda sealed: sealed.seal(document(OTHER_ROLE)),
        lambda sealed: sealed_by(sealed.fleet, ATTACKER, document()),
        lambda sealed: sealed_by(sealed.fleet, Aws.FUNCTION_ACCOUNT, document()),
        lambda sealed: base64.b64encode(document()).decode(),
        lambda sealed: document().decode(),
    ],
    ids=["other-principal", "other-url", "other-role", "other-account", "other-key", "in-clear", "no-base64"],
)
@CLIENTS
def test_what_was_not_sealed_for_this_role_here(
    fleet: Fleet, sealed: Sealed, function: Function, plant: Callable[[Sealed], str], aws_client: str
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    fleet.container().token()
    planted = plant(sealed)
    fleet.plant(response={"S": planted})
    check_replaced(fleet, json.dumps(planted)[1:-1])


@CLIENTS
@pytest.mark.parametrize("actions", [[], ["kms:Encrypt"], ["kms:Decrypt"]])
def test_a_seal_that_cannot_be_used_makes_nobody_fail(
    fleet: Fleet,
    sealed: Sealed,
    function: Function,
    aws_client: str,
    actions: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    sealed.allow("kms:DescribeKey", *actions)
    assert len({fleet.container().token() for _ in range(2)}) == 2
    assert warnings(caplog)


def test_kms_that_hangs_makes_no_sts_fail(fleet: Fleet, sealed: Sealed, function: Function) -> None:
    fleet.container().token()
    is_kms = lambda request: (request.headers["X-Amz-Target"] or "").startswith("Trent")  # noqa: E731
    fleet.stack.aws.server.faults.add(Fault.hang(), is_kms, ALWAYS)
    function.configure(CERBERUS_TIMEOUT="4")
    assert fleet.container().token()
    assert fleet.authentications == 2


def test_a_document_too_large_to_seal_is_sealed_without_what_is_not_needed(fleet: Fleet, sealed: Sealed) -> None:
    large = json.loads(document(token="a-token")) | {"policies": ["x" * 5000]}
    large["metadata"]["groups"] = "y" * 5000
    fleet.stack.cerberus.plaintext_override = json.dumps(large).encode()
    fleet.container().token()
    fleet.stack.cerberus.server.stop_listening()
    assert fleet.container().token() == "a-token"


@CLIENTS
def test_a_token_too_long_to_seal_is_not_shared(
    fleet: Fleet, sealed: Sealed, function: Function, aws_client: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A JWT may have 16,000 characters, and KMS encrypts 4,096 bytes."""
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    token = "a-jwt." * 2500
    fleet.stack.cerberus.plaintext_override = document(token=token)
    assert [fleet.container().token() for _ in range(2)] == [token, token]
    assert fleet.authentications == 2
    assert "Token not shared" in warnings(caplog)[0]


# Secrets: sealed


READS = "/v1/secret/"


@pytest.fixture
def shared(sealed: Sealed) -> Sealed:
    """A fleet that shares secrets, and authenticates by KMS."""
    sealed.fleet.function.configure(CERBERUS_AUTH_METHOD="kms")
    return sealed


def secret_items(fleet: Fleet) -> list[dict[str, Any]]:
    return [item for item in fleet.items() if item["scope"]["S"].startswith("secret ")]


def plant_secret(fleet: Fleet, **attributes: Any) -> None:
    settled(fleet)
    (item,) = secret_items(fleet)
    fleet.table.put_item(TableName=TABLE, Item=item | attributes)


def opened(shared: Sealed, path: str = SECRET_PATH) -> dict[str, Any]:
    """What the one secret's item holds, as an administrator of the key opens it."""
    settled(shared.fleet)
    (item,) = secret_items(shared.fleet)
    blob = base64.b64decode(item["response"]["S"])
    answer = shared.kms.decrypt(CiphertextBlob=blob, EncryptionContext=shared.context | {"path": path})
    fields: dict[str, Any] = json.loads(zlib.decompress(answer["Plaintext"]))
    return fields


def packed(asked: float, value: Any = None, **fields: Any) -> bytes:
    document = {"asked": asked, "status": 200, "value": value or {"password": "the attacker's own"}} | fields
    return zlib.compress(json.dumps(document).encode())


@CLIENTS
def test_one_container_reads_for_all(
    fleet: Fleet, shared: Sealed, function: Function, aws_client: str, caplog: pytest.LogCaptureFixture
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    clients = [CerberusClient(fleet.container()) for _ in range(4)]
    began = time.time()
    assert [client.read(SECRET_PATH) for client in clients] == [SECRET] * 4
    assert (fleet.stack.cerberus.count(READS), fleet.authentications) == (1, 1)
    assert warnings(caplog) == []
    fields = opened(shared)
    assert fields["value"] == SECRET
    assert began - 1 < fields["asked"] <= time.time()
    assert SECRET["password"] not in json.dumps(fleet.items())
    assert SECRET_PATH not in json.dumps(secret_items(fleet))


def test_a_container_that_finds_the_secret_authenticates_nowhere(fleet: Fleet, shared: Sealed) -> None:
    CerberusClient(fleet.container()).read(SECRET_PATH)
    fleet.stack.aws.calls.clear()
    CerberusClient(fleet.container()).read(SECRET_PATH)
    assert [(call.service, call.action) for call in fleet.stack.aws.calls] == [
        ("dynamodb", "GetItem"),
        ("kms", "Decrypt"),
    ]


def test_a_fleet_refreshes_a_secret_once_in_a_max_age(fleet: Fleet, shared: Sealed) -> None:
    clients = [CerberusClient(fleet.container()) for _ in range(5)]
    for _ in range(3):
        for client in clients:
            client.read(SECRET_PATH)
        fleet.step(301)
    assert fleet.stack.cerberus.count(READS) == 3


def test_versions_files_and_lists_are_shared_and_apart(fleet: Fleet, shared: Sealed) -> None:
    cerberus = fleet.stack.cerberus
    cerberus.put_secret(SECRET_PATH, {"password": "a newer one"})
    cerberus.put_file(SECRET_PATH, b"\x00\xff" * 30)
    older = CerberusClient(fleet.container()).versions(SECRET_PATH)[1]["id"]

    def everything() -> list[Any]:
        client = CerberusClient(fleet.container())
        return [
            client.read(SECRET_PATH),
            client.read_version(SECRET_PATH, older),
            client.versions(SECRET_PATH),
            client.read_file(SECRET_PATH),
            client.list("app/orders"),
        ]

    first = everything()
    asked = len(cerberus.calls)
    assert everything() == first
    assert len(cerberus.calls) == asked
    assert first[0] == {"password": "a newer one"}
    assert first[1] == SECRET
    assert (first[3], first[4]) == (b"\x00\xff" * 30, ["db"])
    assert len(secret_items(fleet)) == 5


def test_a_secret_larger_than_kms_takes_is_not_shared(
    fleet: Fleet, shared: Sealed, caplog: pytest.LogCaptureFixture
) -> None:
    large = {"key": os.urandom(4000).hex()}
    fleet.stack.cerberus.put_secret("app/orders/large", large)
    clients = [CerberusClient(fleet.container()) for _ in range(3)]
    for _ in range(2):
        assert [client.read("app/orders/large") for client in clients] == [large] * 3
        fleet.step(301)
    assert fleet.stack.cerberus.count(READS) == 6
    (text,) = warnings(caplog)
    assert "app/orders/large" in text
    assert all(item["response"] == {"S": ""} for item in secret_items(fleet))


def test_a_compressible_secret_is_shared(fleet: Fleet, shared: Sealed) -> None:
    fleet.stack.cerberus.put_secret("app/orders/large", {"key": "A" * 40_000})
    for _ in range(2):
        CerberusClient(fleet.container()).read("app/orders/large")
    assert fleet.stack.cerberus.count(READS) == 1


def own_error(status: int) -> Fault:
    body = json.dumps({"error_id": "x", "errors": [{"code": 99998, "message": "no"}]}).encode()
    return Fault.status(status, b"" if status == 404 else body, {"Content-Type": "application/json"})


@pytest.mark.parametrize(("status", "kind"), [(403, AccessDenied), (404, SecretNotFound)])
def test_a_no_is_shared_for_a_minute(
    fleet: Fleet, shared: Sealed, function: Function, status: int, kind: type[CerberusError]
) -> None:
    CerberusClient(fleet.container()).read(SECRET_PATH)
    fleet.step(301)
    cerberus = fleet.stack.cerberus
    cerberus.server.faults.add(own_error(status), lambda request: request.path.startswith(READS), 1)
    for _ in range(3):  # the old secret is gone for all of them
        client = CerberusClient(fleet.container())
        assert type(function.failure(lambda client=client: client.read(SECRET_PATH))) is kind  # type: ignore[misc]
    assert cerberus.count(READS) == 2
    assert opened(shared)["status"] == status
    fleet.step(61)
    assert CerberusClient(fleet.container()).read(SECRET_PATH) == SECRET
    assert cerberus.count(READS) == 3


def test_a_cold_container_in_an_outage_takes_what_is_there(fleet: Fleet, shared: Sealed, function: Function) -> None:
    function.configure(CERBERUS_MAX_ATTEMPTS="1")
    CerberusClient(fleet.container()).read(SECRET_PATH)
    settled(fleet)
    fleet.stack.cerberus.server.stop_listening()
    fleet.step(3800)
    assert CerberusClient(fleet.container()).read(SECRET_PATH) == SECRET
    fleet.step(101)  # past max_age and stale_if_error
    function.failure(lambda: CerberusClient(fleet.container()).read(SECRET_PATH))
    settled(fleet)
    fleet.stack.cerberus.server.resume()
    fleet.step(61)
    assert CerberusClient(fleet.container()).read(SECRET_PATH) == SECRET


@pytest.mark.parametrize("age", [30, 1000], ids=["fresh", "overdue"])
def test_a_cold_container_in_an_outage_takes_a_second_secret_too(
    fleet: Fleet, shared: Sealed, function: Function, age: float
) -> None:
    """Its own breaker is open by then: the table is asked before."""
    other, unshared = {"user": "queue"}, "app/orders/unshared"
    fleet.stack.cerberus.put_secret("app/orders/queue", other)
    fleet.stack.cerberus.put_secret(unshared, other)
    function.configure(CERBERUS_MAX_ATTEMPTS="1")
    first = CerberusClient(fleet.container())
    assert (first.read(SECRET_PATH), first.read("app/orders/queue")) == (SECRET, other)
    settled(fleet)
    fleet.stack.cerberus.server.stop_listening()
    fleet.step(age)
    cold = CerberusClient(fleet.container())
    error = function.failure(lambda: cold.read(unshared))  # opens the breaker
    assert isinstance(error, CerberusUnavailable)
    assert cold.read(SECRET_PATH) == SECRET
    assert cold.read("app/orders/queue") == other
    assert cold.read_many([SECRET_PATH, "app/orders/queue"]) == {SECRET_PATH: SECRET, "app/orders/queue": other}


def test_a_cold_container_in_an_outage_takes_the_token_too(fleet: Fleet, shared: Sealed, function: Function) -> None:
    function.configure(CERBERUS_MAX_ATTEMPTS="1")
    token = fleet.container().token()
    settled(fleet)
    fleet.stack.cerberus.server.stop_listening()
    auth = fleet.container()
    auth.service.breaker.failed(outage(), "a read", Flight(10))
    assert auth.token() == token


def test_a_look_up_for_a_token_in_an_outage_is_not_another_failed_authentication(
    fleet: Fleet, shared: Sealed, function: Function
) -> None:
    auth = fleet.container()
    auth.service.breaker.failed(outage(), "a read", Flight(10))
    assert isinstance(function.failure(auth.token), CerberusUnavailable)
    assert (list(auth.authentications), fleet.authentications) == ([], 0)


def test_while_cerberus_is_tried_a_cold_read_takes_what_is_there(
    fleet: Fleet, shared: Sealed, function: Function
) -> None:
    CerberusClient(fleet.container()).read(SECRET_PATH)
    settled(fleet)
    cold = CerberusClient(fleet.container())
    breaker, trial = cold._service.breaker, Flight(10)
    breaker.failed(outage(), "a read", Flight(10))
    fleet.step(2)
    assert breaker.admit(trial) is None
    asked = len(fleet.stack.cerberus.calls)
    assert cold.read(SECRET_PATH) == SECRET
    assert len(fleet.stack.cerberus.calls) == asked


def test_while_the_breaker_is_open_the_table_is_asked_once_a_pause(
    fleet: Fleet, shared: Sealed, function: Function
) -> None:
    """An outage must not become a storm of reads of the table; nor does a claim, or a throttled table, hold a caller up."""
    CerberusClient(fleet.container()).read("app/orders/db")
    settled(fleet)
    cold = CerberusClient(fleet.container())
    breaker, error = cold._service.breaker, outage()
    breaker.failed(error, "a read", Flight(10))
    fleet.stack.aws.calls.clear()
    for _ in range(5):
        assert str(function.failure(lambda: cold.read("app/orders/other"))) == str(error)
    assert [call.action for call in fleet.stack.aws.calls] == ["GetItem"]
    table = Wire(fleet.stack.aws.server)  # which also sees the requests that a fault answers
    for fault in ("ProvisionedThroughputExceededException", "claimed"):
        if fault == "claimed":
            fleet.stack.aws.server.faults.clear()
            plant_secret(fleet, claimed_until={"N": repr(time.time() + 5)}, response={"S": ""})
        else:
            body = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{fault}"}).encode()
            fleet.stack.aws.server.faults.add(Fault.status(400, body), is_table, ALWAYS)
        table.requests.clear()
        assert str(function.failure(lambda: cold.read(SECRET_PATH))) == str(error)
        assert sum(map(is_table, table.requests)) == 1  # it does not poll, and claims nothing
        breaker.forget()
        breaker.failed(error, "a read", Flight(10))
    assert fleet.stack.cerberus.count(READS) == 1


def outage() -> CerberusUnavailable:
    error = CerberusUnavailable("Cerberus is out of reach. Connection refused")
    error.step = "read"
    return error


PLANTED: dict[str, Callable[[Sealed], dict[str, Any]]] = {
    "another principal's": lambda shared: {
        "response": {"S": shared.seal(packed(time.time()), principal=OTHER_ROLE, path=SECRET_PATH)}
    },
    "another path's": lambda shared: {"response": {"S": shared.seal(packed(time.time()), path="app/orders/other")}},
    "another kind's": lambda shared: {"response": {"S": shared.seal(packed(time.time()), path=f"{SECRET_PATH}?file")}},
    "another Cerberus'": lambda shared: {
        "response": {"S": shared.seal(packed(time.time()), url="https://other.example.com", path=SECRET_PATH)}
    },
    "a token's": lambda shared: {"response": {"S": shared.seal(document())}},
    "another key's": lambda shared: {
        "response": {"S": sealed_by(shared.fleet, Aws.FUNCTION_ACCOUNT, packed(time.time()))}
    },
    "not sealed": lambda shared: {"response": {"S": base64.b64encode(packed(time.time())).decode()}},
    "in the future": lambda shared: {
        "response": {"S": shared.seal(packed(time.time() + 1e6), path=SECRET_PATH)},
        "asked": {"N": repr(time.time())},
    },
    "at no time": lambda shared: {"response": {"S": shared.seal(packed(float("nan")), path=SECRET_PATH)}},
    "no JSON": lambda shared: {"response": {"S": shared.seal(zlib.compress(b"{"), path=SECRET_PATH)}},
    "no value": lambda shared: {"response": {"S": shared.seal(zlib.compress(b'{"asked": 1}'), path=SECRET_PATH)}},
    "deep": lambda shared: {"response": {"S": shared.seal(zlib.compress(b"[" * 60_000), path=SECRET_PATH)}},
    "not compressed": lambda shared: {"response": {"S": shared.seal(b'{"asked": 1}', path=SECRET_PATH)}},
    "a bomb": lambda shared: {
        "response": {"S": shared.seal(zlib.compress(b" " * (3 << 20), 9), path=SECRET_PATH)},
    },
    "a number": lambda shared: {"response": {"N": "5"}},
    "a list": lambda shared: {"response": {"L": [{"S": "x"}]}},
    "not base64": lambda shared: {"response": {"S": "***"}},
}


@CLIENTS
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_secret_is_not_used_and_replaced(
    fleet: Fleet, shared: Sealed, function: Function, name: str, aws_client: str
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    CerberusClient(fleet.container()).read(SECRET_PATH)
    plant_secret(fleet, **PLANTED[name](shared))
    assert CerberusClient(fleet.container()).read(SECRET_PATH) == SECRET
    assert fleet.stack.cerberus.count(READS) == 2
    assert opened(shared)["value"] == SECRET
    assert CerberusClient(fleet.container()).read(SECRET_PATH) == SECRET
    assert fleet.stack.cerberus.count(READS) == 2


def test_a_planted_secret_is_warned_of_once_a_minute(
    fleet: Fleet, shared: Sealed, function: Function, caplog: pytest.LogCaptureFixture
) -> None:
    function.configure(CERBERUS_MAX_AGE="10")
    client = CerberusClient(fleet.container())
    client.read(SECRET_PATH)
    for seconds, warned in ((11, 1), (11, 1), (61, 2)):
        fleet.step(seconds)
        plant_secret(fleet, **PLANTED["no JSON"](shared), expires={"N": "9999999999"})
        assert client.read(SECRET_PATH) == SECRET
        assert caplog.text.count("rejected. The sealed") == warned


@CLIENTS
def test_a_seal_that_another_key_opens_is_not_used(
    fleet: Fleet, shared: Sealed, function: Function, aws_client: str
) -> None:
    function.configure(CERBERUS_AWS_CLIENT=aws_client)
    CerberusClient(fleet.container()).read(SECRET_PATH)
    settled(fleet)
    respond = fleet.stack.aws.server.respond

    def other_key(request: Request) -> Response:
        answer = respond(request)
        if is_decrypt(request) and b"EncryptionContext" in request.body:
            other = shared.key_arn.replace(Aws.FUNCTION_ACCOUNT, ATTACKER)
            return answer._replace(body=answer.body.replace(shared.key_arn.encode(), other.encode()))
        return answer

    fleet.stack.aws.server.respond = other_key
    assert CerberusClient(fleet.container()).read(SECRET_PATH) == SECRET
    assert fleet.stack.cerberus.count(READS) == 2


def test_an_older_secret_under_a_later_time_is_not_used(fleet: Fleet, shared: Sealed) -> None:
    CerberusClient(fleet.container()).read(SECRET_PATH)
    (old,) = secret_items(fleet)
    fleet.stack.cerberus.put_secret(SECRET_PATH, {"password": "the new one"})
    fleet.step(301)
    later = {"asked": {"N": repr(time.time())}, "expires": {"N": "9999999999"}}
    plant_secret(fleet, **old | later)
    assert CerberusClient(fleet.container()).read(SECRET_PATH) == {"password": "the new one"}


@pytest.mark.parametrize("age", [3800, 3901])
def test_in_an_outage_too_a_later_time_makes_no_secret_younger(
    fleet: Fleet, shared: Sealed, function: Function, age: float
) -> None:
    """Its own time is inside the seal: max_age + stale_if_error bound it, with the breaker closed and open."""
    function.configure(CERBERUS_MAX_ATTEMPTS="1")
    CerberusClient(fleet.container()).read(SECRET_PATH)
    settled(fleet)
    (old,) = secret_items(fleet)
    fleet.stack.cerberus.server.stop_listening()
    fleet.step(age)
    for is_open in (False, True):
        cold = CerberusClient(fleet.container())
        if is_open:
            cold._service.breaker.failed(outage(), "a read", Flight(10))
        plant_secret(fleet, **old | {"asked": {"N": repr(time.time())}, "expires": {"N": "9999999999"}})
        if age < 3900:
            assert cold.read(SECRET_PATH) == SECRET
        else:
            assert isinstance(function.failure(lambda cold=cold: cold.read(SECRET_PATH)), CerberusUnavailable)  # type: ignore[misc]
        settled(fleet)


def test_without_the_key_nothing_of_the_table_can_be_read(
    fleet: Fleet, shared: Sealed, caplog: pytest.LogCaptureFixture
) -> None:
    CerberusClient(fleet.container()).read(SECRET_PATH)
    shared.allow("kms:DescribeKey")
    fleet.stack.cerberus.put_secret(SECRET_PATH, {"password": "the new one"})
    assert CerberusClient(fleet.container()).read(SECRET_PATH) == {"password": "the new one"}
    (text,) = warnings(caplog)
    assert "CERBERUS_SHARED_CACHE_KEY" in text
    assert fleet.authentications == 1  # its token is shared all the same


def test_a_key_that_hangs_holds_nobody_up(fleet: Fleet, shared: Sealed) -> None:
    """The secret is in hand: sealing it is part of its publication."""
    respond, released, held = fleet.stack.aws.server.respond, threading.Event(), threading.Event()

    def hold(request: Request) -> Response:
        if (request.headers["X-Amz-Target"] or "").endswith(".Encrypt") and request.headers["X-Amz-Security-Token"]:
            held.set()
            released.wait(20)
        return respond(request)

    fleet.stack.aws.server.respond = hold
    assert CerberusClient(fleet.container()).read(SECRET_PATH) == SECRET
    assert held.wait(20)
    assert is_publishing()  # the secret is here, and the seal is not
    released.set()


def test_forgetting_has_containers_read_anew(fleet: Fleet, shared: Sealed, function: Function) -> None:
    CerberusClient(fleet.container()).read(SECRET_PATH)
    fleet.stack.cerberus.put_secret(SECRET_PATH, {"password": "the new one"})
    assert CerberusClient(fleet.container()).read(SECRET_PATH) == SECRET
    settings = function.settings()
    transport = Transport(settings)
    Sharing(settings, connect(settings, transport)).forget(ROLE, SECRET_PATH, Deadline(10))
    transport.close()
    for _ in range(2):
        assert CerberusClient(fleet.container()).read(SECRET_PATH) == {"password": "the new one"}
    assert fleet.stack.cerberus.count(READS) == 2


@CLIENTS
def test_a_reader_role_shares_with_its_own_credentials(
    fleet: Fleet, shared: Sealed, function: Function, aws_client: str, caplog: pytest.LogCaptureFixture
) -> None:
    reader = f"arn:aws:iam::{Aws.FUNCTION_ACCOUNT}:role/reader"
    trust = {"Effect": "Allow", "Principal": {"AWS": ROLE}, "Action": "sts:AssumeRole"}
    assume = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": reader}
    fleet.stack.aws.put_role_policy(ROLE, {"Version": "2012-10-17", "Statement": [assume]})
    condition = {"StringEquals": {"kms:EncryptionContext:principal": reader}}
    use_key = {"Effect": "Allow", "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": shared.key_arn}
    statements = [decrypt_statement(), share_statement(reader), use_key | {"Condition": condition}]
    fleet.stack.aws.create_role(
        reader, {"Version": "2012-10-17", "Statement": statements}, {"Version": "2012-10-17", "Statement": [trust]}
    )
    fleet.stack.cerberus.grant(reader)
    function.configure(CERBERUS_AWS_CLIENT=aws_client, CERBERUS_ASSUME_ROLE_ARN=reader, CERBERUS_IAM_ROLE_ARN=None)
    for _ in range(3):
        assert CerberusClient(fleet.container()).read(SECRET_PATH) == SECRET
    assert (fleet.authentications, fleet.stack.cerberus.count(READS)) == (1, 1)
    assert warnings(caplog) == []
    assert {item["principal"]["S"] for item in fleet.items()} == {reader}


# Beside a release before


class Before:
    """An item as the release before this one (0.9, format 1) writes and reads it."""

    FIELDS = ("asked", "claimed_until", "expires", "response", "version")
    CLAIM_SECONDS, SKEW_SECONDS = 2.0, 1.0

    @classmethod
    def attributes(cls, response: str, asked: float, lease: float, claimed_until: float = 0) -> dict[str, Any]:
        return {
            "response": {"S": response},
            "asked": {"N": repr(asked)},
            "expires": {"N": str(int(asked + lease) + 1)},
            "claimed_until": {"N": repr(claimed_until)},
            "version": {"S": os.urandom(8).hex()},
        }

    @classmethod
    def offers(cls, item: dict[str, Any], now: float) -> bool:
        """Whether it opens the item's response."""
        response, asked, expires = (next(iter(item[name].values())) for name in ("response", "asked", "expires"))
        return bool(response) and 0 < float(asked) <= now + cls.SKEW_SECONDS and now < float(expires)

    @classmethod
    def waits(cls, item: dict[str, Any], now: float) -> bool:
        return now < float(item["claimed_until"]["N"]) <= now + cls.CLAIM_SECONDS + cls.SKEW_SECONDS


def test_the_release_before_takes_what_this_one_wrote(fleet: Fleet) -> None:
    fleet.container().token()
    item = fleet.item()
    assert set(Before.FIELDS) <= set(item)
    assert Before.offers(item, time.time())
    assert not Before.waits(item, time.time())
    assert item["scope"] == {"S": f"kms {fleet.stack.cerberus.url} us-west-2"}


def test_this_one_takes_and_replaces_what_the_release_before_wrote(fleet: Fleet) -> None:
    token = fleet.container().token()
    item = fleet.item()
    key = {name: item[name] for name in ("principal", "scope")}
    written = Before.attributes(item["response"]["S"], float(item["asked"]["N"]), 3600)
    fleet.table.put_item(TableName=TABLE, Item=key | written)
    assert fleet.container().token() == token
    assert fleet.authentications == 1
    fleet.step(3600)
    fleet.container().token()
    assert fleet.authentications == 2
    assert fleet.item()["format"] == {"N": "2"}


def test_this_one_waits_for_a_claim_of_the_release_before(fleet: Fleet) -> None:
    fleet.container().token()
    key = {name: fleet.item()[name] for name in ("principal", "scope")}
    fleet.table.put_item(TableName=TABLE, Item=key | Before.attributes("", 0, 0, time.time() + 1))
    began = time.monotonic()
    fleet.container().token()
    assert time.monotonic() - began > 0.8
    assert fleet.authentications == 2


# Beside all that


def test_the_stack_starts_without_a_table() -> None:
    with LocalStack() as stack:
        assert stack.aws.count("dynamodb") == 0
