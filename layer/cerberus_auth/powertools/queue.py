"""Postpone the messages of an SQS batch while Cerberus is unavailable. boto3 is loaded only then."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..auth import LambdaContext

FIRST_SECONDS = 60
LONGEST_SECONDS = 900
_BATCH_SIZE = 10  # the maximum number of entries in one SQS request
_RESERVED_SECONDS = 1  # of the invocation's time, left for the caller
_POSTPONE_SECONDS = 3  # of the invocation's time, left to load boto3 and to postpone a batch

_logger = logging.getLogger("cerberus_auth")


class BatchContext:
    """The context for calls of the package: it ends early, so that the batch can be postponed after the last call.

    It reserves 3 seconds, or a third of the remaining time if that is less.

    Parameters
    ----------
    context : LambdaContext
        The context of the handler.
    """

    def __init__(self, context: LambdaContext) -> None:
        self._context = context

    def get_remaining_time_in_millis(self) -> int:
        """Return the time that calls of the package can use, in milliseconds."""
        left = self._context.get_remaining_time_in_millis()
        return left - min(1000 * _POSTPONE_SECONDS, left // 3)


def batch_of(event: Any) -> list[dict[str, Any]]:
    """Return the records of an SQS batch. Empty for any other event.

    Parameters
    ----------
    event : object
        The event of the handler, also as ``SQSEvent`` of Powertools.
    """
    event = getattr(event, "raw_event", event)
    records = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(records, list) or not records or not isinstance(records[0], dict):
        return []
    return records if records[0].get("eventSource") == "aws:sqs" else []


def visibility(receives: int) -> int:
    """Return the visibility timeout of a message in seconds: 60, 120, 240, 480, then 900.

    Parameters
    ----------
    receives : int
        How many times the message was received, at least 1.
    """
    return int(min(FIRST_SECONDS * 2 ** min(receives - 1, 10), LONGEST_SECONDS))


def postpone(event: Any, context: LambdaContext) -> None:
    """Increase the visibility timeout of the messages of an SQS batch, so that they outlast an outage. Never raise.

    Parameters
    ----------
    event : object
        The event of the handler. Ignored unless it is an SQS batch.
    context : LambdaContext
        The context of the handler. No request starts in the last second of the invocation.
    """
    records = batch_of(event)
    if not records:
        return
    arn: Any = records[0].get("eventSourceARN")
    try:
        postponed = _postpone_batch(arn, records, context)
    except Exception as error:  # must not hide the error of Cerberus
        code = getattr(error, "response", {}).get("Error", {}).get("Code") or type(error).__name__
        _logger.warning(
            "Cannot postpone the messages of %s (%s). Allow sqs:ChangeMessageVisibility on the queue.", arn, code
        )
    else:
        _logger.info("Cerberus unavailable, postponed %d of %d messages of %s", postponed, len(records), arn)


def _postpone_batch(arn: str, records: list[dict[str, Any]], context: LambdaContext) -> int:
    import boto3
    from botocore.config import Config

    *_, region, account, name = arn.split(":")
    config = Config(connect_timeout=1, read_timeout=2, retries={"total_max_attempts": 1})
    # A new session: the default session of the function keeps the credentials that it loaded first.
    client = boto3.session.Session().client("sqs", region_name=region, config=config)
    postponed = 0
    for start in range(0, len(records), _BATCH_SIZE):
        if context.get_remaining_time_in_millis() < 1000 * _RESERVED_SECONDS:
            break
        entries = [
            {
                "Id": str(number),
                "ReceiptHandle": record["receiptHandle"],
                "VisibilityTimeout": visibility(int(record["attributes"]["ApproximateReceiveCount"])),
            }
            for number, record in enumerate(records[start : start + _BATCH_SIZE])
        ]
        url = f"{client.meta.endpoint_url}/{account}/{name}"
        postponed += len(client.change_message_visibility_batch(QueueUrl=url, Entries=entries)["Successful"])
    return postponed
