"""A middleware for handlers, with metrics, traces and logs by Powertools."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.metrics import MetricUnit

from ..auth import CerberusAuth
from ..client import CerberusClient
from ..errors import CerberusError

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger, Metrics, Tracer

    from ..auth import LambdaContext
    from ..authentication.record import Authentication

T = TypeVar("T")

STEP_METRICS = {
    "auth request": "CerberusAuthRequestTime",
    "kms:Decrypt": "CerberusKmsDecryptTime",
    "sts:AssumeRole": "CerberusAssumeRoleTime",
    "sts:GetCallerIdentity": "CerberusIdentityTime",
    "lambda:GetFunctionConfiguration": "CerberusIdentityTime",
    "shared cache": "CerberusSharedCacheTime",
}
"""The metric that the time of each step of an authentication is in, in milliseconds."""


class CerberusMiddleware:
    """Has a token ready before each invocation, within the time that the invocation has, and tells of it.

    Make one at module scope and decorate the handler with ``client`` or ``token``; it stacks with the decorators of
    Logger, Metrics and Tracer in any order.

    Parameters
    ----------
    auth
        One of the environment's settings by default.
    metrics
        Takes what is counted; flushed by its own ``log_metrics``, or here where authenticating fails.
    tracer
        Takes a subsegment for each authentication of the invocation, with one for each step.
    logger
        Writes this package's log too, in its own format and level, with its own keys.
    """

    def __init__(
        self,
        auth: CerberusAuth | None = None,
        *,
        metrics: Metrics | None = None,
        tracer: Tracer | None = None,
        logger: Logger | None = None,
    ) -> None:
        self.auth = auth or CerberusAuth()
        self._client = CerberusClient(self.auth)
        self._metrics = metrics
        self._tracer = tracer
        self._seen = 0  # number of the last authentication told of
        if logger is not None:
            copy_config_to_registered_loggers(logger, include={"cerberus_auth"})

    def client(self, handler: Callable[..., T]) -> Callable[..., T]:
        """Hand the handler a ``CerberusClient``, as ``cerberus``, whose calls end before the invocation does.

        Raises
        ------
        CerberusError
            In place of the handler's call: there is no token. See README, "Errors and what to do".
        """
        return self._around(handler, lambda context: {"cerberus": self._client.within(context)})

    def token(self, handler: Callable[..., T]) -> Callable[..., T]:
        """Hand the handler the token, as ``cerberus_token``.

        Raises
        ------
        CerberusError
            As with ``client``.
        """
        return self._around(handler, lambda context: {"cerberus_token": self.auth.token(context=context)})

    def _around(self, handler: Callable[..., T], hand: Callable[[LambdaContext], dict[str, Any]]) -> Callable[..., T]:
        @functools.wraps(handler)
        def decorated(event: Any, context: LambdaContext, *args: Any, **kwargs: Any) -> T:
            began = time.time()
            try:
                self.auth.token(context=context)
            except CerberusError:
                if (
                    self._tell(began) and self._metrics is not None
                ):  # an outer log_metrics finds nothing left; an inner one is not called
                    self._metrics.flush_metrics()
                raise
            if not self._tell(began) and self._metrics is not None:
                self._metrics.add_metric("CerberusTokenCacheHits", MetricUnit.Count, 1)
            try:
                return handler(event, context, *args, **hand(context), **kwargs)
            finally:
                self._tell(began)

        return decorated

    def _tell(self, began: float) -> int:
        """Tell of the authentications since the last time; how many there were."""
        new = [each for each in self.auth.authentications if each.number > self._seen]
        for authentication in new:
            self._seen = authentication.number
            if self._metrics is not None:
                _measure(self._metrics, authentication)
            # One of the initialisation is no part of the invocation's trace.
            if self._tracer is not None and not self._tracer.disabled and authentication.began >= began:
                _trace(self._tracer.provider, authentication)
        return len(new)


def _measure(metrics: Metrics, authentication: Authentication) -> None:
    def count(name: str) -> None:
        metrics.add_metric(name, MetricUnit.Count, 1)

    def time_of(name: str, seconds: float) -> None:
        metrics.add_metric(name, MetricUnit.Milliseconds, round(1000 * seconds, 3))

    if authentication.error is None:
        count("CerberusSharedCacheHits" if authentication.shared else "CerberusAuthentications")
        if authentication.renewal:
            count("CerberusTokenRenewals")
    else:
        count("CerberusAuthenticationFailures")
        count(f"CerberusFailure.{type(authentication.error).__name__}")
    time_of("CerberusAuthenticationTime", authentication.seconds)
    spent: dict[str, float] = {}
    for step in authentication.steps:
        if name := STEP_METRICS.get(step.name):
            spent[name] = spent.get(name, 0) + step.seconds
    for name, seconds in spent.items():
        time_of(name, seconds)


def _trace(recorder: Any, authentication: Authentication) -> None:
    """Record what is over already: subsegments with the times that it had."""
    whole = recorder.begin_subsegment("## cerberus authentication")
    if whole is None:  # no segment to put it under
        return
    whole.start_time = authentication.began
    for name, value in (("principal", authentication.principal), ("region", authentication.region)):
        if value:
            whole.put_annotation(name, value)
    whole.put_annotation("shared", authentication.shared)
    if authentication.error is not None:
        whole.add_fault_flag()
        whole.put_annotation("error", type(authentication.error).__name__)
        whole.put_annotation("step", authentication.error.step)
    for step in authentication.steps:
        part = recorder.begin_subsegment(f"## cerberus {step.name}")
        part.start_time = step.began
        recorder.end_subsegment(step.began + step.seconds)
    recorder.end_subsegment(authentication.began + authentication.seconds)
