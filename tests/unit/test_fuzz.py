"""Whatever a service or an environment says, what reads it gives a value of its kind or an error of ours, and nothing else.

``make fuzz`` runs each of these far longer. What was found stays as an example.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cerberus_auth import CerberusError, ConfigurationError, Settings
from cerberus_auth.authentication import token as tokens
from cerberus_auth.authentication.kms import KmsAuth
from cerberus_auth.authentication.principal import is_for, role_arn
from cerberus_auth.authentication.sts import StsAuth
from cerberus_auth.authentication.token import Token
from cerberus_auth.authentication.wire import auth_refusal, error_code, read_refusal, transient
from cerberus_auth.aws.calls import AwsRefusal, Credentials, Decrypted
from cerberus_auth.aws.signed import SignedAws
from cerberus_auth.deadline import Deadline, Moment
from cerberus_auth.http.transport import Response, Transport
from cerberus_auth.sharing.item import Item
from cerberus_auth.sharing.table import TableStore

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
OURS = Settings(url="https://cerberus.example.com", region="us-west-2", kms_account_id="222222222222")
ROLE = "arn:aws:iam::111111111111:role/orders"

# JSON of any shape, and of the shapes that are looked for, with anything in their places.
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


def shaped(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects that have some of these fields, with what is meant for them or with anything."""
    return st.fixed_dictionaries({}, optional={name: value | anything for name, value in fields.items()})


documents = shaped(
    client_token=st.text(min_size=1),
    lease_duration=st.integers(-1, 10**9),
    metadata=shaped(
        _truncated=st.just("true"),
        aws_iam_principal_arn=st.just(ROLE),
        aws_iam_role_name=st.text(),
        aws_account_id=st.text(),
    ),
)
good = st.fixed_dictionaries(
    {
        "client_token": st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1),
        "lease_duration": st.integers(1, 10**9),
        "metadata": st.just({"aws_iam_principal_arn": ROLE}),
    }
)
failures = shaped(errors=st.lists(shaped(code=st.sampled_from([99216, 99996, 99223, 0]), message=st.text())))
refusals = shaped(
    __type=st.sampled_from(["AccessDeniedException", "ThrottlingException", "a#b:c", ""]),
    message=st.text(),
    Message=st.text(),
    Error=shaped(Code=st.text(), Message=st.text()),
    Item=anything,
)
decryptions = shaped(
    Plaintext=st.sampled_from(["", "e30=", "bm90IGpzb24="]) | st.text(),
    KeyId=st.just("arn:aws:kms:us-west-2:222222222222:key/1") | st.text(),
)
attributes = st.dictionaries(
    st.sampled_from([*Item.__slots__, "principal"]),
    st.fixed_dictionaries({}, optional={"S": st.text(), "N": st.text() | st.floats().map(str), "B": anything})
    | anything,
)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def bodies(*shapes: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Of answers: JSON of these shapes, any JSON, any bytes."""
    return st.one_of(*(shape.map(encoded) for shape in shapes), anything.map(encoded), st.binary())


def answers(*shapes: st.SearchStrategy[Any]) -> st.SearchStrategy[Response]:
    statuses = st.sampled_from([200, 400, 401, 403, 404, 429, 500, 503]) | st.integers(200, 599)
    headers = st.dictionaries(st.sampled_from(["x-amzn-errortype", "retry-after"]), st.text(max_size=40), max_size=2)

    def answer(status: int, body: bytes, given: dict[str, str]) -> Response:
        return Response(status, given, body)

    return st.builds(answer, statuses, bodies(*shapes), headers)


def decrypted(document: dict[str, Any]) -> Response:
    fields = {
        "Plaintext": base64.b64encode(encoded(document)).decode(),
        "KeyId": "arn:aws:kms:us-west-2:222222222222:key/1",
    }
    return Response(200, {}, encoded(fields))


class Answering(Transport):
    """Gives these answers, whatever is asked."""

    def __init__(self, *answers: Response) -> None:
        super().__init__(OURS)
        self._answers = list(answers)

    def request(self, *arguments: Any, headers: Callable[[], Any], **options: Any) -> Response:
        headers()
        return self._answers.pop(0)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ACCESS_KEY_ID": "AKIDEXAMPLE",
        "SECRET_ACCESS_KEY": "example",
        "SESSION_TOKEN": "example",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)


def is_token(token: Token) -> None:
    assert 0 < len(token.value) <= 16_384
    assert token.value.isascii()
    assert token.value.isprintable()
    assert " " not in token.value
    assert 0 < token.lease_seconds <= tokens.MAX_LEASE_SECONDS


@fuzz
@given(bodies(good, documents))
@example(b"[" * 100_000)
@example(b'{"client_token": "a\\r\\nX-Injected: b", "lease_duration": 60}')
@example(b'{"client_token": "a", "lease_duration": true}')
@example(b'{"client_token": "a", "lease_duration": 1e400}')
def test_a_decrypted_token(document: bytes) -> None:
    named = tokens.principal_of(document)
    assert named is None or isinstance(named, str)
    assert isinstance(is_for(ROLE, document), bool)
    try:
        token = tokens.parse(document, Moment(), ROLE, "us-west-2", "answer")
    except CerberusError as error:
        assert len(str(error)) < 400  # noqa: PT017  (either is right)
    else:
        is_token(token)


@fuzz
@given(answers(failures, documents))
def test_a_refusal_of_cerberus(response: Response) -> None:
    assert isinstance(error_code(response), int)
    assert isinstance(transient(response), str)
    for error in (auth_refusal(response, ROLE, "us-west-2"), read_refusal(response, "app/orders/db")):
        assert isinstance(error, CerberusError)
        assert len(str(error)) < 600


@fuzz
@given(
    st.just(Response(200, {}, encoded({"auth_data": base64.b64encode(bytes(200)).decode()})))
    | answers(shaped(auth_data=st.binary().map(lambda data: data.hex()))),
    good.map(decrypted) | answers(decryptions, refusals),
)
def test_an_authentication_by_kms(auth: Response, decryption: Response) -> None:
    transport = Answering(auth, decryption)
    try:
        token = KmsAuth(OURS, transport, SignedAws(OURS, transport)).authenticate(ROLE, "us-west-2", Deadline(5))
    except CerberusError:
        return
    is_token(token)


@fuzz
@given(answers(good, documents, failures))
def test_an_authentication_by_sts(response: Response) -> None:
    transport = Answering(response)
    try:
        token = StsAuth(OURS, transport, SignedAws(OURS, transport)).authenticate("", "us-west-2", Deadline(5))
    except CerberusError:
        return
    is_token(token)


@fuzz
@given(answers(decryptions, refusals, shaped(GetCallerIdentityResponse=anything, Role=anything)))
@example(Response(400, {}, b'{"__type": {"a": 1}, "message": ["b"]}'))
def test_an_answer_of_aws(response: Response) -> None:
    def calls(aws: SignedAws) -> list[Callable[[], object]]:
        deadline = Deadline(5)
        return [
            lambda: aws.decrypt("e30=", "us-west-2", deadline),
            lambda: aws.caller_identity("us-west-2", deadline),
            lambda: aws.function_role("orders", "us-west-2", deadline),
            lambda: aws.item("GetItem", {}, deadline),
        ]

    for number in range(4):
        try:
            answer = calls(SignedAws(OURS, Answering(response)))[number]()
        except (CerberusError, AwsRefusal):
            continue
        assert isinstance(answer, str | dict | Decrypted | Credentials)


@fuzz
@given(answers(shaped(Item=attributes), refusals))
@example(Response(200, {}, b'{"Item": {"asked": {"N": "nan"}, "expires": {"N": "1e999"}}}'))
def test_an_item_of_the_table(response: Response) -> None:
    store = TableStore(SignedAws(OURS, Answering(response)), "table", ROLE, "scope", Deadline(5))
    try:
        item = store.get()
    except Exception as error:
        assert type(error).__module__.startswith("cerberus_auth")  # noqa: PT017
        return
    if item is not None:
        assert isinstance(item.response, str)
        assert all(isinstance(value, float | int) for value in (item.asked, item.expires, item.claimed_until))
        item.is_usable(0)
        item.is_claimed(0, 6)


VARIABLES = [
    *("CERBERUS_URL", "CERBERUS_AUTH_METHOD", "CERBERUS_IAM_ROLE_ARN", "CERBERUS_ASSUME_ROLE_ARN", "CERBERUS_REGION"),
    *(
        "CERBERUS_FALLBACK_REGIONS",
        "CERBERUS_KMS_ACCOUNT_ID",
        "CERBERUS_TOKEN",
        "CERBERUS_TIMEOUT",
        "CERBERUS_MAX_ATTEMPTS",
    ),
    *("CERBERUS_EXPIRY_MARGIN", "CERBERUS_AWS_CLIENT", "CERBERUS_SHARED_CACHE_TABLE", "CERBERUS_SHARED_CACHE_KEY"),
    *(
        "AWS_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_KMS",
        "HTTPS_PROXY",
        "NO_PROXY",
        "AWS_LAMBDA_MAX_CONCURRENCY",
    ),
]
PLAUSIBLE = [
    *(
        "https://cerberus.example.com",
        "http://localhost:8080",
        "http://[::1]:1",
        "https://[",
        "https://a:99999",
        "kms",
        "sts",
    ),
    *(
        ROLE,
        f"{ROLE},{ROLE}",
        "us-west-2",
        "cn-north-1",
        "222222222222",
        "10",
        "-1",
        "nan",
        "inf",
        "1e9",
        "0x10",
        "\u0661\u0660",
        "²",
    ),
    *("https://user:password@host", "https://cerberus.example.com/v1", "arn:aws:kms:us-west-2:111111111111:key/1"),
]


@fuzz
@given(st.dictionaries(st.sampled_from(VARIABLES), st.sampled_from(PLAUSIBLE) | st.text()))
@example({"CERBERUS_URL": "https://[", "AWS_REGION": "us-west-2"})
@example({"CERBERUS_URL": "https://cerberus.example.com", "AWS_REGION": "us-west-2", "CERBERUS_MAX_ATTEMPTS": "²"})
def test_an_environment(environment: dict[str, str]) -> None:
    try:
        settings = Settings.from_env(environment)
    except ConfigurationError as error:
        assert "CERBERUS" in str(error) or "AWS" in str(error) or "PROXY" in str(error)  # noqa: PT017
        return
    assert settings.url.startswith(("https://", "http://"))
    assert settings.timeout > 0
    assert hash(settings) == hash(Settings.from_env(environment))
    if len(settings.token) > 3:
        assert settings.token not in repr(settings).replace(settings.url, "")


@fuzz
@given(st.text() | st.from_regex(r"arn:aws(-cn)?:(iam|sts)::\d{12}:(role|assumed-role)/[\w/+=,.@-]{0,80}"))
def test_an_arn(identity: str) -> None:
    assert role_arn(role_arn(identity)) == role_arn(identity)
    assert isinstance(is_for(identity, encoded({"metadata": {"aws_iam_principal_arn": identity}})), bool)
