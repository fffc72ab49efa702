"""``python -m local_stack.demo``: invokes every sample function, cold and then warm, in AWS's own runtime against the
local stack, and prints what that cost."""

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
"""Warm invocations of each function."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_AUTHENTICATION = {
    "/v2/auth/iam-principal": "KMS decrypt",
    "/v1/auth/iam-role": "KMS decrypt",
    "/v2/auth/sts-identity": "STS identity",
}


@dataclass(frozen=True)
class Usage:
    """What a function called, on both services."""

    authentications: int
    decrypts: int
    identity_calls: int
    reads: int
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """One row of the table. Times are milliseconds."""

    function: str
    cold: float
    warm: float
    cold_usage: Usage
    usage: Usage
    errors: tuple[str, ...] = field(default=())

    @property
    def source(self) -> str:
        """Where the tokens came from."""
        if not self.usage.methods:
            return "no token"
        first = ", ".join(dict.fromkeys(self.cold_usage.methods)) or "none when cold"
        again = self.usage.authentications - self.cold_usage.authentications
        return f"{first}, then {'warm cache' if not again else f'{again} more when warm'}"

    @property
    def problems(self) -> Iterator[str]:
        """What is not as it must be."""
        for what, count in (("authentications", self.usage.authentications), ("decrypts", self.usage.decrypts)):
            if count != 1:
                yield f"{self.function}: {count} {what}, expected exactly 1"
        for error in dict.fromkeys(self.errors):
            yield f"{self.function}: {error}"


def measure(stack: LocalStack, function: Function) -> Result:
    """Invoke a function cold and then warm in a container of its own."""
    stack.create_role(function.role_arn, function.statements)
    # The stack knows better than the template: the addresses, the credentials, the certificate authority.
    environment = {**function.environment, **stack.environment(function.role_arn)}
    events = [function.event(number) for number in range(len(function.events))]
    if not events:
        raise MissingPrerequisiteError(f"there is no event for {function.name} in events/")
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
    # The stand-in of Cerberus calls AWS too, as another account.
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
    """What failed, also where the function answered in good form that something did."""
    payload = invocation.payload
    if invocation.error is None and isinstance(payload, dict):
        if int(payload.get("statusCode", 200)) >= 400:
            return f"answered {payload['statusCode']}: {payload.get('body')}"
        if failures := payload.get("batchItemFailures"):
            return f"{len(failures)} records failed: {failures}"
    return invocation.error


def table(results: Sequence[Result]) -> str:
    """Lay the results out for a terminal."""
    heads = [
        ("", "cold", "warm", "Cerberus", "KMS", "identity", "secret", "where the token"),
        ("function", "ms", "ms", "auths", "decrypts", "calls", "reads", "came from"),
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
        texts = (0, len(cells) - 1)  # to the left, and the numbers to the right
        aligned = (
            cell.ljust(width) if number in texts else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(aligned).rstrip()

    return "\n".join([*map(line, heads), "  ".join("-" * width for width in widths), *map(line, rows)])


def _progress(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _run(port: int) -> int:
    _progress("Starting AWS and Cerberus on this machine, over TLS ...\n")
    # moto takes seconds to import: not before there is something to be seen, and Ctrl-C is heeded.
    from .application import Application
    from .stack import LocalStack

    functions = Application().functions.values()
    with LocalStack(port=port) as stack:
        _progress(f"Cerberus listens at {stack.cerberus.url}, AWS at {stack.aws.url}.\n")
        results = []
        for function in functions:
            _progress(f"{function.name}: one container, 1 cold and {WARM} warm invocations ...\n")
            results.append(measure(stack, function))
    print(f"\n{table(results)}\n")
    print(f"Cold: initialisation and the first invocation. Warm: the median of the next {WARM} in the same container.")
    problems = [problem for result in results for problem in result.problems]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in _ENDING:
        signal.signal(each, lambda *_: None)  # the end, once begun, is not interrupted
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code.

    0: every function authenticated and decrypted once. 1: one did not. 2: a prerequisite is missing, or the port is in
    use. 130: interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m local_stack.demo", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="Cerberus' port (default: the system chooses one)")
    port = parser.parse_args(arguments).port
    for number in _ENDING:
        signal.signal(number, _interrupt)
    try:
        return _run(port)
    except KeyboardInterrupt:
        print("\nInterrupted. Everything that was started is ended.", file=sys.stderr)
        return 130
    except MissingPrerequisiteError as missing:
        print(f"Cannot run the demo: {missing}.", file=sys.stderr)
        return 2
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        print(f"Cannot run the demo: port {port} cannot be had ({error}).", file=sys.stderr)
        return 2
    except ContainerError as failure:
        print(f"The demo failed: {failure}", file=sys.stderr)
        return 1
    finally:
        # An interruption in the very moment in which a process starts leaves nobody who knows of it.
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)  # holds while the interpreter ends, as a handler in Python does not


if __name__ == "__main__":
    sys.exit(main())
