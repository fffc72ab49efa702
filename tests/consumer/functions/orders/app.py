"""A function as a user writes it: Powertools' logger, metrics and tracer with the middleware."""

from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.utilities.typing import LambdaContext

from cerberus_auth import CerberusClient
from cerberus_auth.powertools import CerberusMiddleware

logger, metrics, tracer = Logger(use_rfc3339=True), Metrics(), Tracer()
cerberus_auth = CerberusMiddleware(metrics=metrics, tracer=tracer, logger=logger)


@logger.inject_lambda_context
@tracer.capture_lambda_handler
@metrics.log_metrics
@cerberus_auth.client
def handler(event: dict[str, Any], context: LambdaContext, cerberus: CerberusClient) -> dict[str, Any]:
    return {"user": cerberus.read(event["path"], max_age=300)["username"]}
