"""A middleware for Lambda handlers that records metrics, traces and logs with Powertools."""

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
from ..errors import CerberusError, is_temporary
from ..lifecycle.process import process
from .queue import BatchContext, batch_of, postpone

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
"""The name of the metric, in milliseconds, for each step of an authentication."""


class CerberusMiddleware:
    """Get the token before each invocation, and record metrics, traces and logs.

    Create one object at module scope, and decorate the handler with ``client`` or ``token``. The decorators of Logger,
    Metrics and Tracer can be used in any order. If the function has loaded the OpenTelemetry API, each authentication is
    also a span.

    In an outage of Cerberus, ``client`` calls the handler also without a token, if this process has cached secrets or shares
    secrets with other containers. A read that finds no secret then raises its error in the handler.

    If an outage of Cerberus fails the invocation of an SQS batch, the middleware postpones the messages of the batch.

    Parameters
    ----------
    auth : CerberusAuth, optional
        By default one with the settings of the environment.
    metrics : aws_lambda_powertools.Metrics, optional
        Receives the metrics. ``log_metrics`` flushes them. If the authentication fails, the middleware flushes them.
    tracer : aws_lambda_powertools.Tracer, optional
        Receives a subsegment for each authentication of the invocation, and one for each of its steps.
    logger : aws_lambda_powertools.Logger, optional
        Also writes the log records of this package, with its format, level and keys.

    Raises
    ------
    ConfigurationError
        At least one setting is not valid.

    Examples
    --------
    >>> middleware = CerberusMiddleware(metrics=metrics, tracer=tracer, logger=logger)  # doctest: +SKIP
    >>> @middleware.client  # doctest: +SKIP
    ... def handler(event, context, cerberus):
    ...     return cerberus.read("app/orders/db")["username"]
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
        self._seen = 0  # the number of the last recorded authentication
        if logger is not None:
            copy_config_to_registered_loggers(logger, include={"cerberus_auth"})

    def client(self, handler: Callable[Concatenate[E, C, P], T]) -> Callable[Concatenate[E, C, ...], T]:
        """Decorate a handler that takes a ``CerberusClient`` as keyword ``cerberus``.

        The calls of the client end before the invocation times out.

        Parameters
        ----------
        handler : callable
            ``handler(event, context, *, cerberus)``.

        Returns
        -------
        callable
            The handler for Lambda. It raises ``CerberusError``, and does not call ``handler``, if the authentication fails.
            In an outage it does so only if no secret is cached or shared.
        """
        return self._decorate(handler, lambda context: {"cerberus": self._client.within(context)}, self._has_fallback)

    def token(self, handler: Callable[Concatenate[E, C, P], T]) -> Callable[Concatenate[E, C, ...], T]:
        """Decorate a handler that takes the token as keyword ``cerberus_token``.

        Parameters
        ----------
        handler : callable
            ``handler(event, context, *, cerberus_token)``.

        Returns
        -------
        callable
            The handler for Lambda. It raises ``CerberusError``, and does not call ``handler``, if the authentication fails.
        """
        return self._decorate(
            handler, lambda context: {"cerberus_token": self.auth.token(context=context)}, lambda: False
        )

    def _decorate(
        self,
        handler: Callable[Concatenate[E, C, P], T],
        keywords_for: Callable[[LambdaContext], dict[str, Any]],
        has_fallback: Callable[[], bool],
    ) -> Callable[Concatenate[E, C, ...], T]:
        @functools.wraps(handler)
        def decorated(event: E, context: C, *args: Any, **keywords: Any) -> T:
            began = time.time()
            calls: LambdaContext = context
            if batch_of(event):
                # The warning about a short timeout is for the whole invocation, not for the part that calls can use.
                process.warn_of_short_timeout(context.get_remaining_time_in_millis() / 1000, self.auth.settings.timeout)
                calls = BatchContext(context)
            try:
                self._authenticate(began, calls, has_fallback)
                try:
                    return handler(event, context, *args, **keywords, **keywords_for(calls))
                finally:
                    self._record(began)
            except Exception as error:
                if _is_outage(error):
                    postpone(event, context)
                raise

        return decorated

    def _has_fallback(self) -> bool:
        """Return whether the handler can read a secret in an outage, with a client of the same settings."""
        service = self.auth.service
        return any(member._has_fallback(service) for member in process.members() if isinstance(member, CerberusClient))

    def _authenticate(self, began: float, context: LambdaContext, has_fallback: Callable[[], bool]) -> None:
        # Not asked for while the token is fresh: it looks at every cached secret.
        is_optional = not self.auth.service.has_fresh_token() and has_fallback()
        try:
            if is_optional:
                self.auth.service.try_token(context)
            else:
                self.auth.token(context=context)
        except CerberusError as error:
            new = self._record(began)
            if not (is_optional and is_temporary(error)):
                # log_metrics may be inside this decorator, and is then not called.
                if new and self._metrics is not None:
                    self._metrics.flush_metrics()
                raise
            hits = 0  # still recorded: log_metrics(raise_on_empty_metrics=True) fails without any metric
        else:
            new, hits = self._record(began), 1
        if not new and self._metrics is not None:
            self._metrics.add_metric("CerberusTokenCacheHits", MetricUnit.Count, hits)

    def _record(self, began: float) -> int:
        """Record the authentications and requests since the last call. Return the number of authentications."""
        new = [each for each in self.auth.authentications if each.number > self._seen]
        for authentication in new:
            self._seen = authentication.number
            if self._metrics is not None:
                _add_authentication_metrics(self._metrics, authentication)
            if authentication.began < began:  # during initialization, so it does not belong to this invocation's trace
                continue
            if self._tracer is not None and not self._tracer.disabled:
                _add_subsegments(self._tracer.provider, authentication)
            if opentelemetry := sys.modules.get("opentelemetry.trace"):
                _add_spans(opentelemetry, authentication)
        if self._metrics is not None:
            _add_request_metrics(self._metrics, *self.auth.service.usage.take_counts())
        return len(new)


def _is_outage(error: Exception) -> bool:
    """Return whether an outage caused an error of the handler: it, its cause, or the error of a record in the batch."""
    # Powertools' BatchProcessingError has a tuple of class, error and traceback for each record.
    batch = getattr(error, "child_exceptions", None)
    batch = batch if isinstance(batch, list) else []
    records = [each[1] for each in batch if isinstance(each, tuple) and len(each) == 3]
    return any(
        isinstance(each, CerberusError) and is_temporary(each)
        for raised in (error, *records)
        for each in (raised, getattr(raised, "__cause__", None))
    )


def _add_request_metrics(metrics: Metrics, requests: dict[str, int], stale: int, stale_age: float) -> None:
    """Add the metrics of requests and stale reads. Each operation is a dimension, so it needs its own log line."""
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


def _add_authentication_metrics(metrics: Metrics, authentication: Authentication) -> None:
    """Add the metrics of one authentication: a count, its time and the time of each step."""

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


def _add_subsegments(recorder: Any, authentication: Authentication) -> None:
    """Add X-Ray subsegments for an authentication that has ended, with its times."""
    whole = recorder.begin_subsegment("## cerberus authentication")
    if whole is None:  # there is no segment to add it to
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


def _add_spans(api: Any, authentication: Authentication) -> None:
    """Add OpenTelemetry spans for an authentication that has ended, below the current span."""

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
