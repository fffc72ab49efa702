"""What Powertools' users are used to, in AWS's own runtime: decorators in any order, EMF on stdout, traces by UDP."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.function import Wire
from local_stack.application import Application
from local_stack.runtime import Invocation, LambdaRuntime
from local_stack.stack import ROLE, SECRET, SECRET_PATH, LocalStack

FUNCTION = Path(__file__).with_name("functions") / "powertools"


class Daemon:
    """X-Ray's: takes subsegments by UDP."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"

    def received(self) -> list[dict[str, Any]]:
        """What has come since the last time, and all below it, in one list."""
        found = []
        self.socket.setblocking(False)
        while True:
            try:
                found.append(json.loads(self.socket.recv(1 << 16).partition(b"\n")[2]))
            except BlockingIOError:
                break
        for each in found:
            found += each.get("subsegments", [])
        return found


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    daemon = Daemon()
    yield daemon
    daemon.socket.close()


@pytest.fixture
def container(stack: LocalStack, application: Application, daemon: Daemon) -> Iterator[LambdaRuntime]:
    environment = stack.environment(
        ROLE,
        SECRET_PATH=SECRET_PATH,
        AWS_XRAY_DAEMON_ADDRESS=daemon.address,
        POWERTOOLS_SERVICE_NAME="orders",
        POWERTOOLS_METRICS_NAMESPACE="CerberusAuth",
    )
    layers = application.functions["ReadSecretFunction"].layers
    with LambdaRuntime(FUNCTION, "app.handler", layers, environment, timeout=15) as container:
        yield container


def lines(invocation: Invocation) -> list[dict[str, Any]]:
    return [json.loads(line) for line in invocation.log.splitlines() if line.startswith("{")]


def measured(invocation: Invocation) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in lines(invocation):
        for declared in line.get("_aws", {}).get("CloudWatchMetrics", []):
            assert (declared["Namespace"], line["service"]) == ("CerberusAuth", "orders")
            found |= {metric["Name"]: line[metric["Name"]] for metric in declared["Metrics"]}
    return found


@pytest.mark.parametrize("way", ["client", "token"])
def test_decorators_stack_in_any_order(stack: LocalStack, container: LambdaRuntime, daemon: Daemon, way: str) -> None:
    wire, everything = Wire(stack.cerberus.server), list[str]()
    for order in itertools.permutations([way, "logger", "metrics", "tracer"]):
        for anew in (True, False):
            answer = container.invoke({"inside_out": order, "anew": anew})
            everything.append(answer.log)
            assert answer.error is None
            assert isinstance(answer.payload, dict)
            assert answer.payload["user"] == SECRET["username"]
            ours = [each for each in daemon.received() if each["name"].startswith("## cerberus")]
            everything.append(json.dumps(ours))
            if anew:
                assert sorted(each["name"] for each in ours) == [
                    "## cerberus auth request",
                    "## cerberus authentication",
                    "## cerberus credentials",
                    "## cerberus kms:Decrypt",
                ]
                whole = next(each for each in ours if each["name"] == "## cerberus authentication")
                assert whole["annotations"] == {"principal": ROLE, "region": "us-west-2", "shared": False}
                for part in [each for each in ours if each is not whole]:
                    assert part["parent_id"] == whole["id"]
                    assert whole["start_time"] <= part["start_time"] <= part["end_time"] <= whole["end_time"]
                (told,) = [line for line in lines(answer) if line.get("name") == "cerberus_auth"]
                assert told["service"] == "orders"
            else:
                assert not ours
            counted = measured(answer)
            if order.index("metrics") > order.index(way):  # else what comes after its flush is told with the next
                assert ("CerberusAuthentications" in counted, "CerberusTokenCacheHits" in counted) == (anew, not anew)
            (work,) = [line for line in lines(answer) if line.get("message") == "at work"]
            assert work["service"] == "orders"
    assert not [secret for secret in {SECRET["password"], *wire.secrets} if secret in "".join(everything)]


def test_a_failure_is_measured_and_traced_though_the_handler_is_not_called(
    stack: LocalStack, container: LambdaRuntime, daemon: Daemon
) -> None:
    stack.cerberus.deny(ROLE)
    for order in itertools.permutations(["client", "metrics", "tracer"]):
        answer = container.invoke({"inside_out": order, "anew": True})
        assert answer.error is not None
        assert answer.error.startswith("PrincipalRejected")
        counted = measured(answer)
        assert counted["CerberusAuthenticationFailures"] == counted["CerberusFailure.PrincipalRejected"] == [1]
        (whole,) = [each for each in daemon.received() if each["name"] == "## cerberus authentication"]
        assert whole["fault"]
        assert whole["annotations"]["error"] == "PrincipalRejected"
        assert whole["annotations"]["step"] == "auth request"
