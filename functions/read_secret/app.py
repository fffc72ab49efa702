"""Read a secret for an HTTP API.

``CerberusClient`` is at module scope, so that all invocations of a container share its token and its cached secrets. The sample
uses Powertools' event handler and logger.
"""

import os
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from aws_lambda_powertools.event_handler.exceptions import ServiceUnavailableError
from aws_lambda_powertools.utilities.typing import LambdaContext

from cerberus_auth import CerberusClient, CerberusError

logger = Logger(use_rfc3339=True)  # Lambda filters JSON logs by level only if the timestamp is in RFC 3339
app = APIGatewayHttpResolver()
cerberus = CerberusClient()


@app.get("/secret")
def describe_secret() -> dict[str, Any]:
    try:
        secret = cerberus.read(os.environ["SECRET_PATH"])
    except CerberusError as error:
        # The log says what to fix. API callers learn only that they can retry.
        logger.exception("The secret could not be read")
        raise ServiceUnavailableError(
            f"The secret store is unavailable ({type(error).__name__}). Retry later"
        ) from error
    # Never return the values of a secret: this response contains only the names of its fields.
    return {"username": secret["username"], "fields": sorted(secret)}


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return app.resolve(event, context)
