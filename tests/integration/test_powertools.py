"""Powertools' habits: parameters by provider, metrics by EMF, a handler that is handed what it needs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aws_lambda_powertools import Metrics
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError, TransformParameterError

from cerberus_auth import CerberusClient, DeadlineExceeded, PrincipalRejected, SecretNotFound
from cerberus_auth.powertools import STEP_METRICS, CerberusMiddleware, CerberusProvider
from integration.function import Function
from local_stack.stack import ROLE as ROLE_ARN
from local_stack.stack import SECRET, SECRET_PATH, TABLE, decrypt_statement, share_statement

READ = f"/v1/secret/{SECRET_PATH}"


class Context:
    def __init__(self, seconds: float = 5) -> None:
        self.seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(1000 * self.seconds)


@pytest.fixture
def provider(function: Function) -> CerberusProvider:
    return CerberusProvider(CerberusClient(function.auth()))


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    metrics = Metrics(namespace="CerberusAuth", service="orders")
    metrics.clear_metrics()
    yield metrics
    metrics.clear_metrics()


class TestProvider:
    def test_a_secret_is_json_text_unless_transformed(self, provider: CerberusProvider) -> None:
        assert json.loads(provider.get(SECRET_PATH)) == SECRET
        assert provider.get(SECRET_PATH, transform="json") == SECRET

    def test_it_is_kept_for_max_age_unless_forced_or_cleared(
        self, function: Function, provider: CerberusProvider
    ) -> None:
        def reads() -> int:
            return function.stack.cerberus.count(READ)

        for _ in range(3):
            provider.get(SECRET_PATH, transform="json", max_age=60)
        assert reads() == 1
        function.stack.cerberus.put_secret(SECRET_PATH, {"username": "new"})
        assert provider.get(SECRET_PATH, max_age=60, transform="json") == SECRET
        assert provider.get(SECRET_PATH, transform="json", force_fetch=True) == {"username": "new"}
        assert reads() == 2
        provider.clear_cache()  # type: ignore[no-untyped-call]
        provider.get(SECRET_PATH, transform="json")
        assert reads() == 3
        for _ in range(2):
            provider.get(SECRET_PATH, transform="json", max_age=0, force_fetch=True)
        assert reads() == 5

    def test_all_below_a_path_come_by_name(self, function: Function, provider: CerberusProvider) -> None:
        function.stack.cerberus.put_secret("app/orders/queue/primary", {"url": "amqps://…"})
        assert provider.get_multiple("app/orders", transform="json") == {
            "db": SECRET,
            "queue/primary": {"url": "amqps://…"},
        }
        before = len(function.stack.cerberus.calls)
        provider.get_multiple("app/orders", transform="json")
        assert len(function.stack.cerberus.calls) == before

    def test_an_older_version(self, function: Function, provider: CerberusProvider) -> None:
        version = function.stack.cerberus.put_secret(SECRET_PATH, {"username": "older"})
        function.stack.cerberus.put_secret(SECRET_PATH, {"username": "newer"})
        assert provider.get(SECRET_PATH, transform="json", version=version) == {"username": "older"}

    def test_errors_are_powertools_and_tell_their_cause(self, provider: CerberusProvider) -> None:
        with pytest.raises(GetParameterError, match="nothing is stored under 'app/orders/nothing'") as caught:
            provider.get("app/orders/nothing")
        assert isinstance(caught.value.__cause__, SecretNotFound)
        with pytest.raises(GetParameterError) as caught:
            provider.get_multiple("app/orders/nothing")
        assert isinstance(caught.value.__cause__, SecretNotFound)

    def test_what_cannot_be_transformed(self, provider: CerberusProvider) -> None:
        with pytest.raises(TransformParameterError) as caught:
            provider.get(SECRET_PATH, transform="binary")
        assert SECRET["password"] not in str(caught.value)

    def test_threads_share_one_reading(self, function: Function, provider: CerberusProvider) -> None:
        function.stack.cerberus.answer_after_seconds = 0.2
        together = threading.Barrier(8)
        found: list[Any] = []

        def get() -> None:
            together.wait()
            found.append(provider.get(SECRET_PATH, transform="json", max_age=60))

        threads = [threading.Thread(target=get) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [SECRET] * 8
        assert function.stack.cerberus.count(READ) == 1


class TestMiddleware:
    @pytest.fixture
    def middleware(self, function: Function, metrics: Metrics) -> CerberusMiddleware:
        return CerberusMiddleware(function.auth(), metrics=metrics)

    def test_it_hands_a_client_or_a_token(self, middleware: CerberusMiddleware) -> None:
        @middleware.client
        def by_client(event: str, context: Context, cerberus: CerberusClient) -> str:
            """Read."""
            return event + str(cerberus.read(SECRET_PATH)["username"])

        @middleware.token
        def by_token(event: str, context: Context, cerberus_token: str) -> bool:
            return cerberus_token == middleware.auth.token()

        assert by_client("user ", Context()) == "user orders"
        assert by_token("", Context())
        assert (by_client.__name__, by_client.__doc__) == ("by_client", "Read.")

    def test_authenticating_ends_before_the_invocation_does(
        self, function: Function, middleware: CerberusMiddleware
    ) -> None:
        function.stack.cerberus.answer_after_seconds = 1

        @middleware.token
        def handler(event: object, context: Context, cerberus_token: str) -> str:
            raise AssertionError("there is no token")

        with pytest.raises(DeadlineExceeded, match=r"the 0\.2 s allowed"):
            handler({}, Context(0.5))

    def test_so_do_the_calls_of_the_client(self, function: Function, middleware: CerberusMiddleware) -> None:
        @middleware.client
        def handler(event: object, context: Context, cerberus: CerberusClient) -> None:
            function.stack.cerberus.answer_after_seconds = 1
            context.seconds = 0.5
            with pytest.raises(DeadlineExceeded):
                cerberus.read(SECRET_PATH)
            context.seconds = 5
            cerberus.read(SECRET_PATH, max_age=60)
            cerberus.read(SECRET_PATH, max_age=60)

        handler({}, Context())
        handler_reads = function.stack.cerberus.count(READ)

        @middleware.client
        def another(event: object, context: Context, cerberus: CerberusClient) -> None:
            cerberus.read(SECRET_PATH, max_age=60)

        another({}, Context())
        assert function.stack.cerberus.count(READ) == handler_reads  # kept across invocations

    def test_cold_warm_renewed(
        self, function: Function, middleware: CerberusMiddleware, metrics: Metrics, capsys: pytest.CaptureFixture[str]
    ) -> None:
        @metrics.log_metrics
        @middleware.client
        def handler(event: object, context: Context, cerberus: CerberusClient) -> None:
            if event == "refused":
                function.stack.cerberus.revoke()
            cerberus.read(SECRET_PATH)

        def measured(event: str) -> dict[str, Any]:
            handler(event, Context())
            out = capsys.readouterr().out
            assert not function.secrets_in(out)
            fields: dict[str, Any] = json.loads(out)
            return {name: value for name, value in fields.items() if name.startswith("Cerberus")}

        cold = measured("cold")
        assert cold.pop("CerberusAuthentications") == [1]
        times = {"CerberusAuthenticationTime", "CerberusAuthRequestTime", "CerberusKmsDecryptTime"}
        assert cold.keys() == times
        (whole,), parts = cold.pop("CerberusAuthenticationTime"), cold.values()
        assert whole >= sum(part for (part,) in parts) > 0
        assert measured("warm") == {"CerberusTokenCacheHits": [1]}
        renewed = measured("refused")
        assert renewed.keys() - times == {"CerberusTokenCacheHits", "CerberusAuthentications", "CerberusTokenRenewals"}

    def test_what_comes_from_the_fleets_table(
        self, function: Function, metrics: Metrics, capsys: pytest.CaptureFixture[str]
    ) -> None:
        function.stack.create_table()
        policy = {"Version": "2012-10-17", "Statement": [decrypt_statement(), share_statement(ROLE_ARN)]}
        function.stack.aws.put_role_policy(ROLE_ARN, policy)
        function.configure(CERBERUS_SHARED_CACHE_TABLE=TABLE)
        told = []
        for margin in ("60", "61"):  # other settings: another container, as far as this process can tell
            function.configure(CERBERUS_EXPIRY_MARGIN=margin)

            @metrics.log_metrics
            @CerberusMiddleware(function.auth(), metrics=metrics).token
            def handler(event: object, context: Context, cerberus_token: str) -> None:
                """Do nothing."""

            handler({}, Context())
            told.append(json.loads(capsys.readouterr().out))
        assert [("CerberusAuthentications" in each, "CerberusSharedCacheHits" in each) for each in told] == [
            (True, False),
            (False, True),
        ]
        assert all(each["CerberusSharedCacheTime"][0] > 0 for each in told)

    def test_a_failure_is_told_before_it_is_raised(
        self, function: Function, middleware: CerberusMiddleware, capsys: pytest.CaptureFixture[str]
    ) -> None:
        function.stack.cerberus.deny(ROLE_ARN)

        @middleware.token
        def handler(event: object, context: Context, cerberus_token: str) -> None:
            raise AssertionError("there is no token")

        with pytest.raises(PrincipalRejected):
            handler({}, Context())
        told = json.loads(capsys.readouterr().out)
        assert told["CerberusAuthenticationFailures"] == told["CerberusFailure.PrincipalRejected"] == [1]
        with pytest.raises(PrincipalRejected):  # remembered: no authentication, nothing to tell
            handler({}, Context())
        assert capsys.readouterr().out == ""

    def test_what_happened_is_kept_without_secrets(self, function: Function, middleware: CerberusMiddleware) -> None:
        for _ in range(20):
            middleware.auth.invalidate()
            middleware.auth.token()
        kept = middleware.auth.authentications
        assert [each.number for each in kept] == list(range(5, 21))
        assert {step.name for each in kept for step in each.steps} == {"credentials", "auth request", "kms:Decrypt"}
        assert set(STEP_METRICS) >= {"auth request", "kms:Decrypt"}
        told = "".join(f"{each} {each.steps} {each.principal} {each.error}" for each in kept)
        assert not function.secrets_in(told)
