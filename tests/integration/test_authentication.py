"""The main job against the stand-ins, over TLS: a token, its use, and what of it is shared."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator

import pytest
import requests
from cerberus.client import CerberusClient as NikesClient

from cerberus_auth import CerberusAuth, CerberusClient, ConfigurationError, Settings, TokenRefused
from cerberus_auth.testing.http_server import Fault
from local_stack.stack import ROLE, SECRET, SECRET_PATH, LocalStack


@pytest.fixture(scope="module")
def running() -> Iterator[LocalStack]:
    with LocalStack() as stack:
        yield stack


@pytest.fixture
def stack(running: LocalStack, monkeypatch: pytest.MonkeyPatch) -> LocalStack:
    """The stack with nothing counted yet, and the environment that Lambda would set."""
    running.cerberus.calls.clear()
    running.aws.calls.clear()
    running.cerberus.revoke()
    for name, value in running.environment(ROLE).items():
        monkeypatch.setenv(name, value)
    return running


@pytest.fixture
def auth(stack: LocalStack) -> Iterator[CerberusAuth]:
    auth = CerberusAuth()
    auth.invalidate()  # another test's token
    yield auth
    auth.close()


def authentications(stack: LocalStack) -> int:
    return stack.cerberus.count("/v2/auth/")


def secret_url(stack: LocalStack) -> str:
    return f"{stack.cerberus.url}/v1/secret/{SECRET_PATH}"


def test_twenty_uses_cost_one_authentication_and_one_decrypt_and_no_identity_call(
    auth: CerberusAuth, stack: LocalStack
) -> None:
    assert len({auth.token() for _ in range(20)}) == 1
    assert authentications(stack) == 1
    assert [(call.service, call.action) for call in stack.aws.calls if call.account == stack.aws.FUNCTION_ACCOUNT] == [
        ("kms", "Decrypt")
    ]
    sent = stack.cerberus.calls[0]
    assert sent.body == {"iam_principal_arn": ROLE, "region": "us-west-2"}
    assert sent.client is not None
    assert sent.client.startswith("CerberusAuthLambda/")


def test_instances_with_equal_settings_share_a_token_and_others_do_not(auth: CerberusAuth, stack: LocalStack) -> None:
    auth.token()
    assert CerberusAuth().token() == auth.token()
    assert authentications(stack) == 1
    other = CerberusAuth(Settings.from_env({**stack.environment(ROLE), "CERBERUS_TIMEOUT": "9"}))
    assert other.token() != auth.token()
    other.close()


def test_reading_and_listing(auth: CerberusAuth, stack: LocalStack) -> None:
    cerberus = CerberusClient(auth)
    assert cerberus.read(SECRET_PATH) == SECRET
    assert cerberus.list("app/orders") == ["db"]
    assert authentications(stack) == 1


def test_a_secret_is_cached(auth: CerberusAuth, stack: LocalStack) -> None:
    cerberus = CerberusClient(auth)
    first = cerberus.read(SECRET_PATH, max_age=60)
    first["password"] = "changed by the caller"
    assert cerberus.read(SECRET_PATH, max_age=60) == SECRET
    assert stack.cerberus.count("/v1/secret/") == 1
    assert cerberus.read(SECRET_PATH) == SECRET
    assert stack.cerberus.count("/v1/secret/") == 1
    assert cerberus.read(SECRET_PATH, fresh=True) == SECRET
    assert cerberus.read(SECRET_PATH, max_age=0) == SECRET
    assert stack.cerberus.count("/v1/secret/") == 3


def test_a_fresh_read_is_what_later_calls_get(auth: CerberusAuth, stack: LocalStack) -> None:
    cerberus = CerberusClient(auth)
    cerberus.read(SECRET_PATH, max_age=60)
    stack.cerberus.put_secret(SECRET_PATH, {"password": "rotated"})
    try:
        cerberus.read(SECRET_PATH, fresh=True)
        assert cerberus.read(SECRET_PATH, max_age=60) == {"password": "rotated"}
    finally:
        stack.cerberus.put_secret(SECRET_PATH, SECRET)


def test_nikes_own_client_works_beside_it(auth: CerberusAuth, stack: LocalStack) -> None:
    theirs = NikesClient(stack.cerberus.url, token=auth.token(), verbose=False)
    assert theirs.get_secrets_data(SECRET_PATH) == CerberusClient(auth).read(SECRET_PATH) == SECRET
    assert authentications(stack) == 1


def test_requests_takes_it_as_auth(auth: CerberusAuth, stack: LocalStack) -> None:
    for _ in range(2):
        assert requests.get(secret_url(stack), auth=auth, timeout=5).json()["data"] == SECRET
    assert authentications(stack) == 1


def test_requests_authenticates_once_more_after_a_401(auth: CerberusAuth, stack: LocalStack) -> None:
    with requests.Session() as session:
        session.get(secret_url(stack), auth=auth)
        stack.cerberus.revoke()
        answer = session.get(secret_url(stack), auth=auth)
    assert answer.status_code == 200
    assert [earlier.status_code for earlier in answer.history] == [401]
    assert authentications(stack) == 2


class Stream(io.BytesIO):
    """A body that can be read once, of known length."""

    def __len__(self) -> int:
        return len(self.getbuffer())

    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize(("body", "sent"), [(b"{}", 2), (io.BytesIO(b"{}"), 2), (Stream(b"{}"), 1)])
def test_a_body_is_sent_again_only_where_it_can_be(
    auth: CerberusAuth, stack: LocalStack, body: bytes | io.BytesIO, sent: int
) -> None:
    auth.token()
    stack.cerberus.revoke()
    stack.cerberus.server.faults.add(Fault.status(401))
    answer = requests.post(secret_url(stack), data=body, auth=auth, timeout=5)
    assert (answer.status_code == 401) is (sent == 1)
    assert [call.body for call in stack.cerberus.calls if call.method == "POST" and "/secret/" in call.path] == [
        {}
    ] * sent


def test_new_tokens_that_are_refused_too_make_callers_fail_fast(auth: CerberusAuth, stack: LocalStack) -> None:
    cerberus = CerberusClient(auth)
    stack.cerberus.server.faults.add(Fault.status(401), lambda request: request.path.startswith("/v1/secret/"), None)
    try:
        for _ in range(5):
            with pytest.raises(TokenRefused):
                cerberus.read(SECRET_PATH)
    finally:
        stack.cerberus.server.faults.clear()
    assert authentications(stack) == 2


def test_many_readers_of_a_revoked_token_cost_one_more_authentication(auth: CerberusAuth, stack: LocalStack) -> None:
    cerberus = CerberusClient(auth)
    cerberus.read(SECRET_PATH)
    stack.cerberus.revoke()
    results: list[dict[str, str]] = []
    threads = [
        threading.Thread(target=lambda: results.append(cerberus.read(SECRET_PATH, max_age=0))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [SECRET] * 16
    assert authentications(stack) == 2


def test_a_token_of_the_environment_is_used_and_never_replaced(
    stack: LocalStack, auth: CerberusAuth, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = auth.token()
    monkeypatch.setenv("CERBERUS_TOKEN", token)
    with contextlib.closing(CerberusAuth()) as override:
        cerberus = CerberusClient(override)
        assert override.token() == token
        assert cerberus.read(SECRET_PATH) == SECRET
        stack.cerberus.revoke()
        with pytest.raises(TokenRefused, match="CERBERUS_TOKEN"):
            cerberus.read(SECRET_PATH, max_age=0)
        assert cerberus.read(SECRET_PATH) == SECRET
        assert authentications(stack) == 1


def test_close_forgets_and_revokes_where_asked(auth: CerberusAuth, stack: LocalStack) -> None:
    first = auth.token()
    auth.close()
    second = auth.token()
    assert second != first
    auth.close(revoke=True)
    answers = [
        requests.get(secret_url(stack), headers={"X-Cerberus-Token": token}, timeout=5).status_code
        for token in (first, second)
    ]
    assert answers == [200, 401]
    assert auth.token() not in (first, second)


def test_a_token_goes_to_its_own_service_only(auth: CerberusAuth, stack: LocalStack) -> None:
    with pytest.raises(ConfigurationError, match="CERBERUS_URL only"):
        requests.get(f"{stack.aws.url}/anywhere", auth=auth, timeout=5)
    assert not stack.aws.calls


def test_sts_where_kms_is_switched_off(auth: CerberusAuth, stack: LocalStack) -> None:
    stack.cerberus.kms_enabled = False
    try:
        assert CerberusClient(auth).read(SECRET_PATH) == SECRET
        auth.invalidate()
        auth.token()
    finally:
        stack.cerberus.kms_enabled = True
    assert stack.cerberus.count("/v2/auth/iam-principal") == 1  # remembered
    assert stack.cerberus.count("/v2/auth/sts-identity") == 2


def test_connections_are_kept(auth: CerberusAuth, stack: LocalStack) -> None:
    before = stack.cerberus.server.connections
    cerberus = CerberusClient(auth)
    for _ in range(10):
        cerberus.read(SECRET_PATH)
    assert stack.cerberus.server.connections == before + 1


def test_nothing_secret_shows(auth: CerberusAuth) -> None:
    token = auth.token()
    shown = f"{auth!r} {auth} {auth.settings!r} {CerberusClient(auth)!r}"
    assert token not in shown
