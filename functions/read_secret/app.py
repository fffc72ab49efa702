"""Reads a secret for an HTTP API.

Shows ``CerberusClient`` at module scope, so that all invocations of a container share its token and what it has read, with
Powertools' event handler and logger.
"""

import os
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from aws_lambda_powertools.event_handler.exceptions import ServiceUnavailableError
from aws_lambda_powertools.utilities.typing import LambdaContext

from cerberus_auth import CerberusClient, CerberusError

logger = Logger(use_rfc3339=True)  # Lambda's JSON log filter reads the level only beside such a timestamp
app = APIGatewayHttpResolver()
cerberus = CerberusClient()


@app.get("/secret")
def describe_secret() -> dict[str, Any]:
    try:
        secret = cerberus.read(os.environ["SECRET_PATH"])
    except CerberusError as error:
        # The log tells its reader what to mend; whoever calls the API can only try again.
        logger.exception("The secret could not be read")
        raise ServiceUnavailableError(f"The secret store cannot be used now ({type(error).__name__})") from error
    # The values are for this function to use, never to hand on: its caller learns only that they are there.
    return {"username": secret["username"], "fields": sorted(secret)}


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return app.resolve(event, context)
