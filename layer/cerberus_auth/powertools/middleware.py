"""A middleware for handlers, with metrics, traces and logs by Powertools."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.metrics import MetricUnit, single_metric

from .._version import __version__
from ..auth import CerberusAuth
from ..client import CerberusClient
from ..errors import CerberusError, CerberusUnavailable

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger, Metrics, Tracer

    from ..auth import LambdaContext
    from ..authentication.record import Authentication

E = TypeVar("E")
C = TypeVar("C", bound="LambdaContext")
T = TypeVar("T")
P = ParamSpec("P")

STEP_METRICS = {
    "auth request": "CerberusAuthRequestTime",
    "kms:Decrypt": "CerberusKmsDecryptTime",
    "sts:AssumeRole": "CerberusAssumeRoleTime",
    "sts:GetCallerIdentity": "CerberusIdentityTime",
    "lambda:GetFunctionConfiguration": "CerberusIdentityTime",
    "shared cache": "CerberusSharedCacheTime",
}
"""The metric that has the time of each step of an authentication, in milliseconds."""


class CerberusMiddleware:
    """Gets the token before each invocation, within the invocation's time, and records what it did.

    Create one at module scope and decorate the handler with ``client`` or ``token``. It works together with the decorators
    of Logger, Metrics and Tracer in any order. Where the function has loaded OpenTelemetry's API, each authentication is a
    span too.

    Parameters
    ----------
    auth
        By default one with the environment's settings.
    metrics
        Receives the metrics. Its own ``log_metrics`` flushes them, or the middleware where authenticating fails.
    tracer
        Receives a subsegment for each authentication of the invocation, with one for each step.
    logger
        Writes this package's log records too, in its own format and level, with its own keys.
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
        self._seen = 0  # the number of the last authentication that was recorded
        if logger is not None:
            copy_config_to_registered_loggers(logger, include={"cerberus_auth"})

    def client(self, handler: Callable[Concatenate[E, C, P], T]) -> Callable[Concatenate[E, C, ...], T]:
        """Pass the handler a ``CerberusClient`` as ``cerberus``. Its calls end before the invocation does.

        Raises
        ------
        CerberusError
            There is no token. The handler is not called. See the documentation, "Errors".
        """
        return self._around(handler, lambda context: {"cerberus": self._client.within(context)})

    def token(self, handler: Callable[Concatenate[E, C, P], T]) -> Callable[Concatenate[E, C, ...], T]:
        """Pass the handler the token as ``cerberus_token``.

        Raises
        ------
        CerberusError
            As in ``client``.
        """
        return self._around(handler, lambda context: {"cerberus_token": self.auth.token(context=context)})

    def _around(
        self, handler: Callable[Concatenate[E, C, P], T], given: Callable[[C], dict[str, Any]]
    ) -> Callable[Concatenate[E, C, ...], T]:
        @functools.wraps(handler)
        def decorated(event: E, context: C, *args: Any, **keywords: Any) -> T:
            began = time.time()
            try:
                self._authenticate(began, context)
                try:
                    return handler(event, context, *args, **keywords, **given(context))
                finally:
                    self._record(began)
            except CerberusUnavailable:
                from .queue import postpone

                postpone(event, context)
                raise

        return decorated

    def _authenticate(self, began: float, context: LambdaContext) -> None:
        try:
            self.auth.token(context=context)
        except CerberusError:
            # An outer log_metrics finds nothing left; an inner one is not called.
            if self._record(began) and self._metrics is not None:
                self._metrics.flush_metrics()
            raise
        if not self._record(began) and self._metrics is not None:
            self._metrics.add_metric("CerberusTokenCacheHits", MetricUnit.Count, 1)

    def _record(self, began: float) -> int:
        """Record what happened since the last time. Return the number of authentications."""
        new = [each for each in self.auth.authentications if each.number > self._seen]
        for authentication in new:
            self._seen = authentication.number
            if self._metrics is not None:
                _measure(self._metrics, authentication)
            if (
                authentication.began < began
            ):  # an authentication of the initialisation is no part of the invocation's trace
                continue
            if self._tracer is not None and not self._tracer.disabled:
                _trace(self._tracer.provider, authentication)
            if opentelemetry := sys.modules.get("opentelemetry.trace"):
                _trace_by_opentelemetry(opentelemetry, authentication)
        if self._metrics is not None:
            _count(self._metrics, *self.auth.service.usage.take_counts())
        return len(new)


def _count(metrics: Metrics, requests: dict[str, int], stale: int, stale_age: float) -> None:
    """Count the requests, each operation in a line of its own since it has a dimension of its own."""
    service = {"service": str(metrics.service)} if metrics.service else {}
    for operation, count in requests.items():
        with single_metric(
            "CerberusRequests",
            MetricUnit.Count,
            count,
            namespace=metrics.namespace,
            default_dimensions={**metrics.default_dimensions, **service, "Operation": operation},
        ):
            pass
    if stale:
        metrics.add_metric("StaleReads", MetricUnit.Count, stale)
        metrics.add_metric("StaleAge", MetricUnit.Seconds, round(stale_age, 3))


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


def _annotations(authentication: Authentication) -> dict[str, str | bool]:
    found: dict[str, str | bool] = {"shared": authentication.shared}
    for name, value in (("principal", authentication.principal), ("region", authentication.region)):
        if value:
            found[name] = value
    if authentication.error is not None:
        found |= {"error": type(authentication.error).__name__, "step": authentication.error.step}
    return found


def _trace(recorder: Any, authentication: Authentication) -> None:
    """Record X-Ray subsegments with the times of what is over already."""
    whole = recorder.begin_subsegment("## cerberus authentication")
    if whole is None:  # no segment to put it under
        return
    whole.start_time = authentication.began
    for name, value in _annotations(authentication).items():
        whole.put_annotation(name, value)
    if authentication.error is not None:
        whole.add_fault_flag()
    for step in authentication.steps:
        part = recorder.begin_subsegment(f"## cerberus {step.name}")
        part.start_time = step.began
        recorder.end_subsegment(step.began + step.seconds)
    recorder.end_subsegment(authentication.began + authentication.seconds)


def _trace_by_opentelemetry(api: Any, authentication: Authentication) -> None:
    """Record OpenTelemetry spans with the times of what is over already, below the span that is current."""

    def nanoseconds(moment: float) -> int:
        return int(1e9 * moment)

    tracer = api.get_tracer("cerberus_auth", __version__)
    attributes = {f"cerberus.{name}": value for name, value in _annotations(authentication).items()}
    whole = tracer.start_span(
        "cerberus authentication", start_time=nanoseconds(authentication.began), attributes=attributes
    )
    if authentication.error is not None:
        whole.set_status(api.StatusCode.ERROR, type(authentication.error).__name__)
    within = api.set_span_in_context(whole)
    for step in authentication.steps:
        part = tracer.start_span(f"cerberus {step.name}", within, start_time=nanoseconds(step.began))
        part.end(nanoseconds(step.began + step.seconds))
    whole.end(nanoseconds(authentication.began + authentication.seconds))
