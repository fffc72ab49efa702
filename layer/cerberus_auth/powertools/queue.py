"""What the middleware does with an SQS batch while Cerberus is unavailable. Loaded then, and with it the runtime's boto3."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..auth import LambdaContext

FIRST_SECONDS = 60
LONGEST_SECONDS = 900
_CHUNK = 10  # entries that SQS takes in one call
_KEPT_SECONDS = 1  # of the invocation's time, for the caller

_logger = logging.getLogger("cerberus_auth")


def visibility(receives: int) -> int:
    """Give the seconds for which a message that was received this often stays hidden: 60, 120, 240, 480, then 900."""
    return int(min(FIRST_SECONDS * 2 ** min(receives - 1, 10), LONGEST_SECONDS))


def postpone(event: Any, context: LambdaContext) -> None:
    """Hide the messages of an SQS batch, longer after each receive, so that they outlast an outage. Never raises.

    Parameters
    ----------
    event
        The handler's event. Other events than SQS batches are left alone.
    context
        The handler's context: no call starts in its last second.
    """
    records = event.get("Records") if isinstance(event, dict) else None
    if not records or records[0].get("eventSource") != "aws:sqs":
        return
    arn = records[0].get("eventSourceARN")
    try:
        hidden = _hide(arn, records, context)
    except Exception as error:  # whatever it is, it must not take the place of Cerberus' error
        code = getattr(error, "response", {}).get("Error", {}).get("Code") or type(error).__name__
        _logger.warning("Cannot postpone the messages of %s (%s). Allow sqs:ChangeMessageVisibility on it.", arn, code)
    else:
        _logger.info("Cerberus unavailable, postponed %d of %d messages of %s", hidden, len(records), arn)


def _hide(arn: str, records: list[dict[str, Any]], context: LambdaContext) -> int:
    import boto3
    from botocore.config import Config

    *_, region, account, name = arn.split(":")
    config = Config(connect_timeout=1, read_timeout=2, retries={"total_max_attempts": 1})
    # A session of its own: the default one is the function's, and keeps the credentials that it first saw.
    client = boto3.session.Session().client("sqs", region_name=region, config=config)
    hidden = 0
    for start in range(0, len(records), _CHUNK):
        if context.get_remaining_time_in_millis() < 1000 * _KEPT_SECONDS:
            break
        entries = [
            {
                "Id": str(number),
                "ReceiptHandle": record["receiptHandle"],
                "VisibilityTimeout": visibility(int(record["attributes"]["ApproximateReceiveCount"])),
            }
            for number, record in enumerate(records[start : start + _CHUNK])
        ]
        url = f"{client.meta.endpoint_url}/{account}/{name}"
        hidden += len(client.change_message_visibility_batch(QueueUrl=url, Entries=entries)["Successful"])
    return hidden
