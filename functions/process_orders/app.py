"""Process the orders of an SQS queue with database credentials from Cerberus.

- All records share one token. The cache keeps the secret for five minutes.
- Powertools' batch processor returns only the failed orders to the queue.
- If Cerberus rejects the token, the next read authenticates again, and no record is lost.
- In an outage, the function continues with the cached secret. Without one, the middleware postpones the whole batch.
- The middleware records metrics about authentications.
"""

import os
from functools import partial
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from cerberus_auth import CerberusClient
from cerberus_auth.powertools import CerberusMiddleware

logger = Logger(use_rfc3339=True)  # Lambda filters JSON logs by level only if the timestamp is in RFC 3339
metrics = Metrics()
processor = BatchProcessor(event_type=EventType.SQS)
cerberus_auth = CerberusMiddleware(metrics=metrics, logger=logger)


def process_order(record: SQSRecord, cerberus: CerberusClient) -> None:
    order = record.json_body
    order_id, quantity = str(order["id"]), int(order["quantity"])
    database = cerberus.read(os.environ["SECRET_PATH"])
    # Connect to the database with database["password"] here, and store the order.
    logger.info("Order processed", order_id=order_id, quantity=quantity, database_user=database["username"])


@logger.inject_lambda_context
@metrics.log_metrics
@cerberus_auth.client
def handler(event: dict[str, Any], context: LambdaContext, cerberus: CerberusClient) -> PartialItemFailureResponse:
    response = process_partial_response(event, partial(process_order, cerberus=cerberus), processor, context)
    for _, error, _ in processor.exceptions:
        logger.error("Order failed", exc_info=error)
    return response
