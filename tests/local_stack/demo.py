"""Invoke every sample function, cold and warm, in AWS's Lambda runtime against a local Cerberus and AWS.

The result is a table of times and requests: ``python -m local_stack.demo``.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

from .runtime import ContainerError, Invocation, LambdaRuntime, MissingPrerequisiteError, descendants

if TYPE_CHECKING:
    from .application import Function
    from .stack import LocalStack

WARM = 5
"""The number of warm invocations of each function."""

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_AUTHENTICATION = {
    "/v2/auth/iam-principal": "KMS decrypt",
    "/v1/auth/iam-role": "KMS decrypt",
    "/v2/auth/sts-identity": "STS identity",
}


@dataclass(frozen=True)
class Usage:
    """The requests of one function to Cerberus and AWS."""

    authentications: int
    decrypts: int
    identity_calls: int
    reads: int
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """One row of the table. Times are in milliseconds."""

    function: str
    cold: float
    warm: float
    cold_usage: Usage
    usage: Usage
    errors: tuple[str, ...] = field(default=())

    @property
    def source(self) -> str:
        """Describe where the tokens came from."""
        if not self.usage.methods:
            return "no token"
        first = ", ".join(dict.fromkeys(self.cold_usage.methods)) or "none in the cold start"
        again = self.usage.authentications - self.cold_usage.authentications
        return f"{first}, then {f'{again} more' if again else 'cache hits'}"

    @property
    def problems(self) -> Iterator[str]:
        """Yield a message for each unexpected result."""
        for what, count in (("authentications", self.usage.authentications), ("decrypts", self.usage.decrypts)):
            if count != 1:
                yield f"{self.function}: {count} {what}, expected 1"
        for error in dict.fromkeys(self.errors):
            yield f"{self.function}: {error}"


def measure(stack: LocalStack, function: Function) -> Result:
    """Invoke a function in a new container, once cold and then warm."""
    stack.create_role(function.role_arn, function.statements)
    # The stack's addresses, credentials and certificate authority replace the template's values.
    environment = {**function.environment, **stack.environment(function.role_arn)}
    events = [function.event(number) for number in range(len(function.events))]
    if not events:
        raise MissingPrerequisiteError(f"events/ has no event for {function.name}. Add one")
    before = len(stack.cerberus.calls), len(stack.aws.calls)
    with LambdaRuntime(
        function.artifact, function.handler, function.layers, environment, timeout=function.timeout
    ) as container:
        cold = container.invoke(events[0])
        cold_usage = _usage(stack, *before)
        _progress(f"  cold {cold.milliseconds:.0f} ms, warm")
        warm = []
        for number in range(1, WARM + 1):
            warm.append(container.invoke(events[number % len(events)]))
            _progress(f" {warm[-1].milliseconds:.1f}")
        _progress(" ms\n")
    return Result(
        function=function.name,
        cold=cold.milliseconds,
        warm=statistics.median(invocation.milliseconds for invocation in warm),
        cold_usage=cold_usage,
        usage=_usage(stack, *before),
        errors=tuple(error for invocation in (cold, *warm) if (error := _error(invocation))),
    )


def _usage(stack: LocalStack, cerberus_before: int, aws_before: int) -> Usage:
    cerberus = stack.cerberus.calls[cerberus_before:]
    # Cerberus calls AWS too, with another account.
    aws = [call for call in stack.aws.calls[aws_before:] if call.account == stack.aws.FUNCTION_ACCOUNT]
    methods = tuple(_AUTHENTICATION[call.path] for call in cerberus if call.path in _AUTHENTICATION)
    return Usage(
        authentications=len(methods),
        decrypts=sum(call.service == "kms" for call in aws),
        identity_calls=sum(call.service in ("sts", "lambda") for call in aws),
        reads=sum(call.method == "GET" and call.path.startswith("/v1/secret/") for call in cerberus),
        methods=methods,
    )


def _error(invocation: Invocation) -> str | None:
    """Return the error, including errors in a valid response."""
    payload = invocation.payload
    if invocation.error is None and isinstance(payload, dict):
        if int(payload.get("statusCode", 200)) >= 400:
            return f"returned {payload['statusCode']}: {payload.get('body')}"
        if failures := payload.get("batchItemFailures"):
            return f"{len(failures)} records failed: {failures}"
    return invocation.error


def table(results: Sequence[Result]) -> str:
    """Format the results as a table."""
    heads = [
        ("", "cold", "warm", "Cerberus", "KMS", "identity", "secret", "source of the"),
        ("function", "ms", "ms", "auths", "decrypts", "calls", "reads", "token"),
    ]
    rows = [
        (
            *(result.function, f"{result.cold:.0f}", f"{result.warm:.1f}", str(result.usage.authentications)),
            *(str(result.usage.decrypts), str(result.usage.identity_calls), str(result.usage.reads), result.source),
        )
        for result in results
    ]
    widths = [max(map(len, column)) for column in zip(*heads, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        text_columns = (0, len(cells) - 1)  # aligned to the left
        aligned = (
            cell.ljust(width) if number in text_columns else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(aligned).rstrip()

    return "\n".join([*map(line, heads), "  ".join("-" * width for width in widths), *map(line, rows)])


def _progress(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _run(port: int) -> int:
    _progress("Starting AWS and Cerberus on this machine ...\n")
    # Imported here because moto takes seconds: the line above appears first, and Ctrl-C works.
    from .application import Application
    from .stack import LocalStack

    functions = Application().functions.values()
    with LocalStack(port=port) as stack:
        _progress(f"Cerberus: {stack.cerberus.url}, AWS: {stack.aws.url}\n")
        results = []
        for function in functions:
            _progress(f"Invoking {function.name}: 1 cold, {WARM} warm ...\n")
            results.append(measure(stack, function))
    print(f"\n{table(results)}\n")
    print(f"cold: initialization and first invocation; warm: median of the next {WARM} in the same container.")
    problems = [problem for result in results for problem in result.problems]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in _STOP_SIGNALS:
        signal.signal(each, lambda *_: None)  # a second signal must not interrupt the clean-up
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code.

    Returns
    -------
    int
        0 if every function authenticated and decrypted once; 1 if one did not.
        2 if a prerequisite is missing or the port is in use; 130 after an interruption.
    """
    parser = argparse.ArgumentParser(prog="python -m local_stack.demo", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="the port of Cerberus (default: a free one)")
    port = parser.parse_args(arguments).port
    for number in _STOP_SIGNALS:
        signal.signal(number, _interrupt)
    try:
        return _run(port)
    except KeyboardInterrupt:
        print("\nInterrupted. All processes of the demo are stopped.", file=sys.stderr)
        return 130
    except MissingPrerequisiteError as missing:
        print(f"The demo cannot start: {missing}.", file=sys.stderr)
        return 2
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        print(f"The demo cannot listen on port {port} ({error}). Choose another --port.", file=sys.stderr)
        return 2
    except ContainerError as failure:
        print(f"The demo failed: {failure}", file=sys.stderr)
        return 1
    finally:
        # A signal during the start of a process can leave it without an owner.
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # Python handlers do not run during interpreter exit


if __name__ == "__main__":
    sys.exit(main())
