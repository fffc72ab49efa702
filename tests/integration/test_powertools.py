"""Powertools' habits: parameters by provider, metrics by EMF, a handler that is handed what it needs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import opentelemetry.trace
import pytest
from aws_lambda_powertools import Metrics
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.exceptions import BatchProcessingError
from aws_lambda_powertools.utilities.data_classes import SQSEvent, event_source
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError, TransformParameterError
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cerberus_auth import (
    AuthenticationFailed,
    BlockedAtEdge,
    CerberusClient,
    CerberusError,
    CerberusUnavailable,
    DeadlineExceeded,
    PrincipalRejected,
    SecretNotFound,
)
from cerberus_auth.caching.cache import PROBE_SECONDS, REFRESH_SECONDS
from cerberus_auth.errors import Attempt, combined_error
from cerberus_auth.lifecycle.process import process
from cerberus_auth.powertools import STEP_METRICS, CerberusMiddleware, CerberusProvider
from cerberus_auth.testing.http_server import Fault
from integration.fleet import LAYER
from integration.function import Function, Wire
from local_stack.aws import Aws
from local_stack.stack import ROLE as ROLE_ARN
from local_stack.stack import SECRET, SECRET_PATH, TABLE, LocalStack, decrypt_statement, share_statement

READ = f"/v1/secret/{SECRET_PATH}"


class Context:
    def __init__(self, seconds: float = 5) -> None:
        self.seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(1000 * self.seconds)


class Invocation(Context):
    """A context whose time passes."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self._ends = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(1000 * (self._ends - time.monotonic()))


class Queue:
    """A queue with messages that were received, as an event source mapping receives them."""

    def __init__(self, stack: LocalStack, messages: int) -> None:
        self._wire = Wire(stack.aws.server)
        self.arn = f"arn:aws:sqs:us-west-2:{Aws.FUNCTION_ACCOUNT}:orders"
        sqs = stack.aws.client("sqs", stack.aws.account_credentials(Aws.FUNCTION_ACCOUNT))
        url = sqs.create_queue(QueueName="orders")["QueueUrl"]
        self._handles: list[str] = []
        for number in range(messages):
            sqs.send_message(QueueUrl=url, MessageBody=str(number))
        while len(self._handles) < messages:
            received = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
            self._handles += [message["ReceiptHandle"] for message in received]
        sqs.close()

    def statement(self) -> dict[str, Any]:
        return {"Effect": "Allow", "Action": "sqs:ChangeMessageVisibility", "Resource": self.arn}

    def event(self, receives: int) -> dict[str, Any]:
        common = {
            "eventSource": "aws:sqs",
            "eventSourceARN": self.arn,
            "attributes": {"ApproximateReceiveCount": str(receives)},
        }
        records = [
            {**common, "receiptHandle": handle, "messageId": str(number)} for number, handle in enumerate(self._handles)
        ]
        return {"Records": records}

    @property
    def visibilities(self) -> list[int]:
        """The seconds that messages were told to stay hidden for."""
        asked = [
            json.loads(request.body)["Entries"]
            for request in self._wire.requests
            if request.headers["X-Amz-Target"] == "AmazonSQS.ChangeMessageVisibilityBatch"
        ]
        return [entry["VisibilityTimeout"] for entries in asked for entry in entries]


class Measured:
    """What was printed in the embedded metric format: by name, and the requests by their dimension ``Operation``."""

    def __init__(self, out: str) -> None:
        self.metrics: dict[str, Any] = {}
        self.requests: dict[str, float] = {}
        for line in out.splitlines():
            fields = json.loads(line)
            (directive,) = fields["_aws"]["CloudWatchMetrics"]
            assert (directive["Namespace"], fields["service"]) == ("CerberusAuth", "orders")
            for name in (metric["Name"] for metric in directive["Metrics"]):
                if name == "CerberusRequests":
                    assert directive["Dimensions"] == [["service", "Operation"]]
                    (self.requests[fields["Operation"]],) = fields[name]
                else:
                    assert directive["Dimensions"] == [["service"]]
                    self.metrics[name] = fields[name]


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
        provider.clear_cache()
        provider.get(SECRET_PATH, transform="json")
        assert reads() == 3
        for _ in range(2):
            provider.get(SECRET_PATH, transform="json", max_age=0, force_fetch=True)
        assert reads() == 5
        for _ in range(2):
            provider.get(SECRET_PATH, max_age=0)
        assert reads() == 7

    def test_ages_do_not_add_up(self, function: Function) -> None:
        function.configure(CERBERUS_MAX_AGE="1")
        cerberus = CerberusClient(function.auth())
        provider = CerberusProvider(cerberus)
        cerberus.read(SECRET_PATH)
        time.sleep(0.6)
        assert provider.get(SECRET_PATH, transform="json") == SECRET  # kept by the client for 0.6 s
        function.stack.cerberus.put_secret(SECRET_PATH, {"username": "new"})
        time.sleep(0.6)
        assert provider.get(SECRET_PATH, transform="json") == {"username": "new"}

    def test_the_environments_max_age_counts_unless_one_is_given(self, function: Function) -> None:
        function.configure(CERBERUS_MAX_AGE="0")
        provider = CerberusProvider(CerberusClient(function.auth()))
        for max_age in (None, None, 60, 60):
            provider.get(SECRET_PATH, max_age=max_age)
        assert function.stack.cerberus.count(READ) == 3

    def test_it_serves_what_it_has_while_cerberus_is_out_of_reach(self, function: Function) -> None:
        function.configure(CERBERUS_MAX_AGE="0.1")
        provider = CerberusProvider(CerberusClient(function.auth()))
        provider.get(SECRET_PATH)
        function.stack.cerberus.server.faults.add(Fault.status(503), times=None)
        time.sleep(0.2)
        assert provider.get(SECRET_PATH, transform="json") == SECRET
        with pytest.raises(GetParameterError):
            provider.get(SECRET_PATH, stale_if_error=0)

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
        with pytest.raises(GetParameterError, match="'app/orders/nothing'") as caught:
            provider.get("app/orders/nothing")
        assert isinstance(caught.value.__cause__, SecretNotFound)

    def test_several_of_nothing(self, provider: CerberusProvider) -> None:
        with pytest.raises(GetParameterError) as caught:
            provider.get_multiple("app/orders/nothing")
        assert isinstance(caught.value.__cause__, SecretNotFound)

    def test_what_cannot_be_transformed(self, provider: CerberusProvider) -> None:
        with pytest.raises(TransformParameterError) as caught:
            provider.get(SECRET_PATH, transform="binary")
        assert SECRET["password"] not in str(caught.value)

    def test_threads_share_one_reading(self, function: Function, provider: CerberusProvider) -> None:
        provider.get(SECRET_PATH, max_age=0)  # the token
        before = function.stack.cerberus.count(READ)
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
        assert function.stack.cerberus.count(READ) == before + 1


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

        with pytest.raises(DeadlineExceeded, match=r"The timeout of 0\.2 s expired"):
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
            cerberus.read(SECRET_PATH, max_age=0)

        def measured(event: str) -> dict[str, Any]:
            handler(event, Context())
            out = capsys.readouterr().out
            assert not function.secrets_in(out)
            return Measured(out).metrics

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
            told.append(Measured(capsys.readouterr().out))
        assert [
            ("CerberusAuthentications" in each.metrics, "CerberusSharedCacheHits" in each.metrics) for each in told
        ] == [
            (True, False),
            (False, True),
        ]
        assert [each.requests for each in told] == [{"auth": 1}, {}]
        assert all(each.metrics["CerberusSharedCacheTime"][0] > 0 for each in told)

    def test_requests_that_reached_cerberus_are_counted_by_operation(
        self, function: Function, middleware: CerberusMiddleware, metrics: Metrics, capsys: pytest.CaptureFixture[str]
    ) -> None:
        function.stack.cerberus.put_file("app/orders/key.pem", b"a key")

        @metrics.log_metrics
        @middleware.client
        def handler(event: object, context: Context, cerberus: CerberusClient) -> None:
            for _ in range(3):
                cerberus.read(SECRET_PATH)
            cerberus.read_all("app/orders")
            cerberus.versions(SECRET_PATH)
            cerberus.read_file("app/orders/key.pem")

        function.stack.cerberus.server.faults.add(
            Fault.status(503), lambda request: request.path.startswith("/v1/secret/")
        )
        handler({}, Context())
        counted = Measured(capsys.readouterr().out).requests
        assert counted == {"auth": 1, "read": 2, "list": 1, "versions": 1, "file": 1}  # the first read was sent again
        assert sum(counted.values()) == len(function.cerberus.requests)
        handler({}, Context())
        assert Measured(capsys.readouterr().out).requests == {}

    def test_a_request_that_does_not_arrive_is_not_counted(
        self, function: Function, middleware: CerberusMiddleware, metrics: Metrics, capsys: pytest.CaptureFixture[str]
    ) -> None:
        function.stack.cerberus.server.stop_listening()

        @middleware.token
        def handler(event: object, context: Context, cerberus_token: str) -> None:
            raise AssertionError("there is no token")

        with pytest.raises(CerberusUnavailable):
            handler({}, Context())
        told = Measured(capsys.readouterr().out)
        assert told.metrics["CerberusFailure.CerberusUnavailable"] == [1]
        assert told.requests == {}

    def test_stale_reads_are_counted_with_the_age_that_was_served(
        self, function: Function, metrics: Metrics, capsys: pytest.CaptureFixture[str]
    ) -> None:
        function.configure(CERBERUS_MAX_AGE="0.2")

        @metrics.log_metrics
        @CerberusMiddleware(function.auth(), metrics=metrics).client
        def handler(event: int, context: Context, cerberus: CerberusClient) -> None:
            for _ in range(event):
                assert cerberus.read(SECRET_PATH) == SECRET

        handler(1, Context())
        assert "StaleReads" not in Measured(capsys.readouterr().out).metrics
        function.stack.cerberus.server.faults.add(Fault.html(503), times=None)
        time.sleep(0.5)
        handler(3, Context())
        metrics_of_outage = Measured(capsys.readouterr().out).metrics
        assert metrics_of_outage["StaleReads"] == [3]
        assert 0.5 <= metrics_of_outage["StaleAge"][0] < 60

    def test_spans_where_the_function_has_opentelemetry(self, function: Function) -> None:
        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        own = provider.get_tracer("the function")

        @CerberusMiddleware(function.auth()).token
        def handler(event: object, context: Context, cerberus_token: str) -> None:
            """Do nothing."""

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(opentelemetry.trace, "get_tracer", provider.get_tracer)
            with own.start_as_current_span("invocation") as invocation:
                handler({}, Context())
                handler({}, Context())
        spans = {span.name: span for span in exporter.get_finished_spans()}
        whole, request = spans["cerberus authentication"], spans["cerberus auth request"]
        assert whole.parent == invocation.get_span_context()
        assert whole.attributes == {
            "cerberus.principal": ROLE_ARN,
            "cerberus.region": "us-west-2",
            "cerberus.shared": False,
        }
        assert request.parent == whole.context
        times = [whole.start_time, request.start_time, request.end_time, whole.end_time]
        assert times == sorted(time or 0 for time in times)
        assert len(exporter.get_finished_spans()) == len(spans)  # a kept token makes no span
        assert not function.secrets_in(" ".join(span.to_json() for span in spans.values()))

        function.stack.cerberus.deny(ROLE_ARN)
        function.auth().invalidate()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(opentelemetry.trace, "get_tracer", provider.get_tracer)
            with pytest.raises(PrincipalRejected):
                handler({}, Context())
        failed = [span for span in exporter.get_finished_spans() if span.name == "cerberus authentication"][-1]
        assert failed.status.status_code is opentelemetry.trace.StatusCode.ERROR
        assert failed.status.description == "PrincipalRejected"

    def test_opentelemetry_is_never_imported(self) -> None:
        code = "import sys, cerberus_auth.powertools.middleware; sys.exit('opentelemetry' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(LAYER)}, check=True, timeout=60)

    def test_a_failure_is_told_before_it_is_raised(
        self, function: Function, middleware: CerberusMiddleware, capsys: pytest.CaptureFixture[str]
    ) -> None:
        function.stack.cerberus.deny(ROLE_ARN)

        @middleware.token
        def handler(event: object, context: Context, cerberus_token: str) -> None:
            raise AssertionError("there is no token")

        with pytest.raises(PrincipalRejected):
            handler({}, Context())
        told = Measured(capsys.readouterr().out)
        assert (
            told.metrics["CerberusAuthenticationFailures"] == told.metrics["CerberusFailure.PrincipalRejected"] == [1]
        )
        assert told.requests == {"auth": 1}
        with pytest.raises(PrincipalRejected):  # remembered: no authentication, nothing to tell
            handler({}, Context())
        assert capsys.readouterr().out == ""

    def test_messages_stay_hidden_longer_after_each_receive_while_cerberus_is_unavailable(
        self, function: Function, middleware: CerberusMiddleware, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "cerberus_auth")
        queue = Queue(function.stack, 12)
        function.stack.aws.put_role_policy(ROLE_ARN, {"Version": "2012-10-17", "Statement": [queue.statement()]})
        function.stack.cerberus.server.faults.add(Fault.status(503), times=None)

        @middleware.client
        def handler(event: object, context: Context, cerberus: CerberusClient) -> None:
            raise AssertionError("there is no token")

        for receives in (1, 5):
            with pytest.raises(CerberusUnavailable):
                handler(queue.event(receives), Context())
            middleware.auth.invalidate()  # and the failure that it remembers
        assert queue.visibilities == [60] * 12 + [900] * 12
        assert f"postponed 12 of 12 messages of {queue.arn}" in caplog.text
        assert not function.secrets_in(caplog.text)

    def test_a_handler_that_finds_cerberus_unavailable_postpones_too_and_other_errors_do_not(
        self, function: Function, middleware: CerberusMiddleware
    ) -> None:
        queue = Queue(function.stack, 1)
        allowed = [decrypt_statement(), queue.statement()]
        function.stack.aws.put_role_policy(ROLE_ARN, {"Version": "2012-10-17", "Statement": allowed})

        @middleware.client
        def handler(event: object, context: Context, cerberus: CerberusClient) -> None:
            cerberus.read("app/orders/nothing", fresh=True)

        with pytest.raises(SecretNotFound):
            handler(queue.event(1), Context())
        assert queue.visibilities == []
        function.stack.cerberus.server.faults.add(Fault.status(503), times=None)
        with pytest.raises(CerberusUnavailable):
            handler(queue.event(1), Context())
        assert queue.visibilities == [60]

    @pytest.mark.parametrize(
        ("fault", "raised"),
        [
            (Fault.status(503), CerberusUnavailable),
            (Fault.hang(), DeadlineExceeded),
            (Fault.html(403), BlockedAtEdge),
            (Fault.status(429), BlockedAtEdge),
        ],
        ids=lambda value: getattr(value, "kind", None),
    )
    def test_every_kind_of_outage_postpones_at_first_and_while_the_breaker_is_open(
        self, fault: Fault, raised: type[CerberusError], function: Function, metrics: Metrics
    ) -> None:
        function.configure(
            CERBERUS_TIMEOUT="2"
        )  # as by default, the second attempt has less time than CERBERUS_READ_TIMEOUT
        queue = Queue(function.stack, 1)
        function.stack.aws.put_role_policy(ROLE_ARN, {"Version": "2012-10-17", "Statement": [queue.statement()]})
        function.stack.cerberus.server.faults.add(fault, times=None)

        @CerberusMiddleware(function.auth(), metrics=metrics).client
        def handler(event: object, context: Context, cerberus: CerberusClient) -> None:
            raise AssertionError("there is no token")

        for receives in (1, 2):
            with pytest.raises(raised):
                handler(queue.event(receives), Context())
        assert queue.visibilities == [60, 120]

    def test_failures_of_which_one_is_an_outage_postpone(
        self, function: Function, middleware: CerberusMiddleware
    ) -> None:
        down = Attempt(ROLE_ARN, "us-west-2", "kms", "auth request", CerberusUnavailable("down"))
        rejected = Attempt(ROLE_ARN, "us-west-2", "sts", "auth request", PrincipalRejected("in no box"))
        queue = Queue(function.stack, 1)
        allowed = [decrypt_statement(), queue.statement()]
        function.stack.aws.put_role_policy(ROLE_ARN, {"Version": "2012-10-17", "Statement": allowed})

        @middleware.client
        def handler(event: object, context: Context, cerberus: CerberusClient) -> None:
            raise combined_error(attempts)

        attempts = [rejected, down]
        with pytest.raises(AuthenticationFailed):
            handler(queue.event(1), Context())
        attempts = [rejected, rejected]
        with pytest.raises(PrincipalRejected):
            handler(queue.event(1), Context())
        assert queue.visibilities == [60]

    def test_an_outage_that_powertools_wraps_postpones(
        self, function: Function, middleware: CerberusMiddleware
    ) -> None:
        queue = Queue(function.stack, 2)
        allowed = [decrypt_statement(), queue.statement()]
        function.stack.aws.put_role_policy(ROLE_ARN, {"Version": "2012-10-17", "Statement": allowed})
        provider = CerberusProvider(CerberusClient(middleware.auth))
        processor = BatchProcessor(event_type=EventType.SQS)

        @middleware.client
        def by_record(event: dict[str, Any], context: Any, cerberus: CerberusClient) -> object:
            return process_partial_response(event, lambda record: cerberus.read(path), processor, context)

        @middleware.client
        def by_provider(event: dict[str, Any], context: Any, cerberus: CerberusClient) -> None:
            provider.get(path)

        path = "app/orders/nothing"
        with pytest.raises(BatchProcessingError, match="SecretNotFound"):
            by_record(queue.event(1), Context())
        with pytest.raises(GetParameterError):
            by_provider(queue.event(1), Context())
        assert queue.visibilities == []
        function.stack.cerberus.server.faults.add(Fault.status(503), times=None)
        path = SECRET_PATH
        with pytest.raises(BatchProcessingError, match="CerberusUnavailable"):
            by_record(queue.event(1), Context())
        with pytest.raises(GetParameterError):
            by_provider(queue.event(2), Context())
        assert queue.visibilities == [60, 60, 120, 120]

    def test_in_an_outage_the_handler_gets_its_cached_secret_without_a_token(
        self, function: Function, middleware: CerberusMiddleware, capsys: pytest.CaptureFixture[str], metrics: Metrics
    ) -> None:
        queue = Queue(function.stack, 1)
        allowed = [decrypt_statement(), queue.statement()]
        function.stack.aws.put_role_policy(ROLE_ARN, {"Version": "2012-10-17", "Statement": allowed})

        @metrics.log_metrics
        @middleware.client
        def handler(event: object, context: Context, cerberus: CerberusClient) -> object:
            return cerberus.read(path)

        path = SECRET_PATH
        assert handler(queue.event(1), Context()) == SECRET
        function.stack.cerberus.server.faults.add(Fault.status(503), times=None)
        middleware.auth.invalidate()
        capsys.readouterr()
        assert handler(queue.event(1), Context()) == SECRET
        told = Measured(capsys.readouterr().out).metrics
        assert told["CerberusFailure.CerberusUnavailable"] == [1]
        assert "CerberusTokenCacheHits" not in told
        assert handler(queue.event(1), Context()) == SECRET  # the breaker is open
        assert Measured(capsys.readouterr().out).metrics == {"CerberusTokenCacheHits": [0]}  # Powertools wants a metric
        assert queue.visibilities == []
        path = "app/orders/other"  # not cached
        with pytest.raises(CerberusUnavailable):
            handler(queue.event(2), Context())
        assert queue.visibilities == [120]

    def test_a_hanging_cerberus_delays_a_handler_with_a_cached_secret_no_longer_than_a_refresh(
        self, function: Function, middleware: CerberusMiddleware
    ) -> None:
        @middleware.client
        def handler(event: object, context: Context, cerberus: CerberusClient) -> object:
            return cerberus.read(SECRET_PATH)

        handler({}, Context(15))
        function.stack.cerberus.server.faults.add(Fault.hang(), times=None)
        middleware.auth.invalidate()
        waited = []
        for _ in range(3):
            began = time.monotonic()
            assert handler({}, Context(15)) == SECRET
            waited.append(time.monotonic() - began)
        assert waited[0] < REFRESH_SECONDS + 1
        assert max(waited[1:]) < PROBE_SECONDS + 1

    def test_a_warm_invocation_does_not_look_through_the_cached_secrets(
        self, middleware: CerberusMiddleware, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @middleware.client
        def handler(event: object, context: Context, cerberus: CerberusClient) -> str:
            return str(cerberus.read(SECRET_PATH)["username"])

        assert handler({}, Context()) == "orders"

        def looked() -> bool:
            raise AssertionError("the secrets were looked through, though the token is fresh")

        monkeypatch.setattr("cerberus_auth.caching.cache.Cache.has_fallback", lambda cache: looked())
        assert handler({}, Context()) == "orders"

    def test_a_cached_secret_of_another_client_counts(self, function: Function, middleware: CerberusMiddleware) -> None:
        provider = CerberusProvider(CerberusClient(middleware.auth))
        provider.get(SECRET_PATH)
        function.stack.cerberus.server.faults.add(Fault.status(503), times=None)
        middleware.auth.invalidate()

        @middleware.client
        def handler(event: object, context: Context, cerberus: CerberusClient) -> object:
            return provider.get(SECRET_PATH, transform="json")

        assert handler({}, Context()) == SECRET

    def test_in_an_outage_a_new_container_gets_the_fleets_secret_without_a_token(self, function: Function) -> None:
        function.share()
        CerberusClient(function.auth()).read(SECRET_PATH)
        function.configure(
            CERBERUS_EXPIRY_MARGIN="61"
        )  # other settings: another container, as far as this process can tell
        auth = function.auth()
        auth.token()
        auth.invalidate()  # from now on, only a newer shared token is accepted
        function.stack.cerberus.server.faults.add(Fault.status(503), times=None)

        @CerberusMiddleware(auth).client
        def handler(event: object, context: Context, cerberus: CerberusClient) -> object:
            return cerberus.read(SECRET_PATH)

        assert handler({}, Context()) == SECRET

    @pytest.mark.parametrize("why", ["the secret is too old", "the handler needs the token", "the role is rejected"])
    def test_a_cached_secret_does_not_replace_the_token(self, why: str, function: Function, metrics: Metrics) -> None:
        if why == "the secret is too old":
            function.configure(CERBERUS_MAX_AGE="0.1", CERBERUS_STALE_IF_ERROR="0.1")
        middleware = CerberusMiddleware(function.auth(), metrics=metrics)
        middleware._client.read(SECRET_PATH)
        time.sleep(0.3)
        middleware.auth.invalidate()
        if why == "the role is rejected":
            function.stack.cerberus.deny(ROLE_ARN)
        else:
            function.stack.cerberus.server.faults.add(Fault.status(503), times=None)
        decorate = middleware.token if why == "the handler needs the token" else middleware.client

        def handler(event: object, context: Context, /, **keywords: object) -> None:
            raise AssertionError("there is no token")

        with pytest.raises((CerberusUnavailable, PrincipalRejected)):
            decorate(handler)({}, Context())

    @pytest.mark.parametrize("event", [{}, "text", {"Records": []}, {"Records": [{"eventSource": "aws:sns"}]}])
    def test_events_of_other_sources_are_left_alone(
        self, event: Any, function: Function, middleware: CerberusMiddleware
    ) -> None:
        function.stack.cerberus.server.faults.add(Fault.status(503), times=None)
        with pytest.raises(CerberusUnavailable):
            middleware.client(lambda event, context, cerberus: None)(event, Context())
        assert function.stack.aws.count("sqs") == 0

    def test_without_the_permission_the_error_is_still_that_of_cerberus(
        self, function: Function, middleware: CerberusMiddleware, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = Queue(function.stack, 1)
        function.stack.cerberus.server.faults.add(Fault.status(503), times=None)
        with pytest.raises(CerberusUnavailable):
            middleware.client(lambda event, context, cerberus: None)(queue.event(1), Context())
        assert f"Cannot postpone the messages of {queue.arn} (AccessDenied" in caplog.text
        assert "Allow sqs:ChangeMessageVisibility" in caplog.text

    def test_a_record_that_lacks_something_does_not_hide_the_error(
        self, function: Function, middleware: CerberusMiddleware, caplog: pytest.LogCaptureFixture
    ) -> None:
        function.stack.cerberus.server.faults.add(Fault.status(503), times=None)
        with pytest.raises(CerberusUnavailable):
            middleware.client(lambda event, context, cerberus: None)(
                {"Records": [{"eventSource": "aws:sqs", "body": "{}"}]}, Context()
            )
        assert "Cannot postpone the messages of None (AttributeError)" in caplog.text

    def test_no_call_starts_in_the_last_second(self, function: Function, middleware: CerberusMiddleware) -> None:
        queue = Queue(function.stack, 1)
        allowed = [decrypt_statement(), queue.statement()]
        function.stack.aws.put_role_policy(ROLE_ARN, {"Version": "2012-10-17", "Statement": allowed})

        @middleware.client
        def handler(event: object, context: Context, cerberus: CerberusClient) -> None:
            context.seconds = seconds
            raise CerberusUnavailable("down")

        for seconds in (0.9, 1.1):
            with pytest.raises(CerberusUnavailable):
                handler(queue.event(1), Context())
            assert queue.visibilities == ([] if seconds < 1 else [60])

    def test_a_batch_in_the_data_class_of_powertools_is_a_batch(
        self, function: Function, middleware: CerberusMiddleware
    ) -> None:
        queue = Queue(function.stack, 1)
        function.stack.aws.put_role_policy(ROLE_ARN, {"Version": "2012-10-17", "Statement": [queue.statement()]})
        function.stack.cerberus.server.faults.add(Fault.status(503), times=None)

        @event_source(data_class=SQSEvent)
        @middleware.client
        def handler(event: SQSEvent, context: Any, cerberus: CerberusClient) -> None:
            raise AssertionError("there is no token")

        decorated: Any = handler
        with pytest.raises(CerberusUnavailable):
            decorated(queue.event(1), Context())
        assert queue.visibilities == [60]

    @pytest.mark.parametrize("reads", [False, True])
    def test_calls_for_a_batch_leave_time_to_postpone_it(
        self, reads: bool, function: Function, middleware: CerberusMiddleware
    ) -> None:
        queue = Queue(function.stack, 1)
        allowed = [decrypt_statement(), queue.statement()]
        function.stack.aws.put_role_policy(ROLE_ARN, {"Version": "2012-10-17", "Statement": allowed})
        if reads:
            middleware.auth.token()
        function.stack.cerberus.server.faults.add(Fault.hang(), times=None)

        @middleware.client
        def handler(event: object, context: Context, cerberus: CerberusClient) -> None:
            cerberus.read(SECRET_PATH)

        with pytest.raises(DeadlineExceeded):
            handler(queue.event(1), Invocation(3))  # the default timeout of AWS SAM
        assert queue.visibilities == [60]

    def test_the_time_reserved_for_a_batch_does_not_make_the_functions_timeout_too_short(
        self, middleware: CerberusMiddleware, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(process, "_is_used", False)
        timeout = middleware.auth.settings.timeout
        event = {"Records": [{"eventSource": "aws:sqs"}]}
        middleware.token(lambda event, context, cerberus_token: None)(event, Context(timeout + 1))
        assert "Set the function's Timeout" not in caplog.text

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
