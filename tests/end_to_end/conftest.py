"""The sample functions, as built, in AWS's own runtime against the local stack."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from local_stack.application import PARAMETERS, Application
from local_stack.runtime import LambdaRuntime, MissingPrerequisiteError, find_emulator, find_python
from local_stack.stack import LocalStack


@pytest.fixture(scope="session")
def application() -> Application:
    try:
        find_emulator()
        find_python()
        return Application()
    except MissingPrerequisiteError as missing:
        pytest.fail(f"These tests need what `make setup build` makes: {missing}.", pytrace=False)


@pytest.fixture
def stack() -> Iterator[LocalStack]:
    with LocalStack() as stack:
        yield stack


@pytest.fixture
def start(stack: LocalStack, application: Application) -> Iterator[Callable[..., LambdaRuntime]]:
    """Start containers, each with a role of its own unless one is named; all of them are ended with the test."""
    numbers = itertools.count()
    with contextlib.ExitStack() as containers:

        def start(
            name: str,
            role: str | None = None,
            statements: Sequence[Mapping[str, Any]] | None = None,
            **environment: str,
        ) -> LambdaRuntime:
            function = application.functions[name]
            if role is None:
                role = f"{function.role_arn}-{next(numbers)}"
                stack.create_role(role, function.statements if statements is None else statements)
            return containers.enter_context(
                LambdaRuntime(
                    function.artifact,
                    function.handler,
                    function.layers,
                    {**function.environment, **stack.environment(role, **environment)},
                    timeout=function.timeout,
                )
            )

        yield start


@pytest.fixture
def everything(stack: LocalStack) -> Application:
    """All that the template can deploy. Its key is made first, with the policy that it has there."""
    parameters = {**PARAMETERS, "SharedCache": "true", "Diagnose": "true"}
    key_policy = Application(parameters).properties("SharedCacheKey")["KeyPolicy"]
    return Application(parameters, attributes={"SharedCacheKey.Arn": stack.aws.create_key(key_policy)})
