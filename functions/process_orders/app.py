"""Processes the orders of an SQS queue, each with the credentials that Cerberus has at that moment.

Shows one token for all records of all batches, and Powertools' partial failures: only the orders that failed go back to
the queue. Where the service revokes the token in mid-batch, the client authenticates again and no record is lost.
"""

import os
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from cerberus_auth import CerberusClient

logger = Logger()
processor = BatchProcessor(event_type=EventType.SQS)
cerberus = CerberusClient()


def process_order(record: SQSRecord) -> None:
    order = record.json_body
    order_id, quantity = str(order["id"]), int(order["quantity"])
    database = cerberus.read(os.environ["SECRET_PATH"])
    # Here an order would be written to the database, with database["password"].
    logger.info("Order processed", order_id=order_id, quantity=quantity, database_user=database["username"])


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    response = process_partial_response(event, process_order, processor, context)
    for _, error, _ in processor.exceptions:
        logger.error("Order failed", exc_info=error)
    return response
