"""The decorators of Powertools and of this package, stacked on one handler in the order that the event names."""

import os
from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer

from cerberus_auth import CerberusClient
from cerberus_auth.powertools import CerberusMiddleware, CerberusProvider

logger, metrics, tracer = Logger(), Metrics(), Tracer(auto_patch=False)
middleware = CerberusMiddleware(metrics=metrics, tracer=tracer, logger=logger)
provider = CerberusProvider()

DECORATORS: dict[str, Any] = {
    "logger": logger.inject_lambda_context,
    "metrics": metrics.log_metrics,
    "tracer": tracer.capture_lambda_handler,
    "client": middleware.client,
    "token": middleware.token,
}


def work(event: dict[str, Any], context: Any, **given: Any) -> dict[str, Any]:
    logger.info("at work")
    cerberus, token = given.pop("cerberus", None), given.pop("cerberus_token", None)
    assert not given
    if isinstance(cerberus, CerberusClient):
        return {"user": cerberus.read(os.environ["SECRET_PATH"])["username"]}
    return {"length": len(token), "user": provider.get(os.environ["SECRET_PATH"], transform="json")["username"]}


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    # Lambda sets it for each invocation that is to be traced; the emulator does not.
    os.environ["_X_AMZN_TRACE_ID"] = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    if event.get("anew"):
        middleware.auth.invalidate()
    decorated: Any = work
    for name in event["inside_out"]:
        decorated = DECORATORS[name](decorated)
    answer: dict[str, Any] = decorated(event, context)
    return answer
