"""The shared cache of a fleet in DynamoDB: the partition key is the principal, the sort key is the scope of the item."""

from __future__ import annotations

import json

from ..aws.calls import THROTTLED, AwsRefusal
from ..deadline import Deadline
from ..errors import CerberusError, DeadlineExceeded
from .item import Item, StoreBusy, StoreFailure, StoreSlow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ..aws.calls import Aws

_CALL_SECONDS = 1.4  # usually 10 ms are enough, but the first call of a small function takes a second
_RETRY_SECONDS = 0.6  # after a call without an answer
_MIN_CALL_SECONDS = 0.5
_NUMBERS = ("asked", "claimed_until", "expires", "failures", "format", "paused_until")


class TableStore:
    """Store an item in DynamoDB, by GetItem and PutItem. See ``Store``."""

    def __init__(self, aws: Aws, table: str, principal: str, scope: str, deadline: Deadline) -> None:
        self._aws = aws
        self._table = table
        self._principal = principal
        self._key = {"principal": {"S": principal}, "scope": {"S": scope}}
        self._deadline = deadline
        self._was_slow = False

    def get(self) -> Item | None:
        """See ``Store``."""
        # Eventually consistent, at half the price. A container that reads an old item finds out in its swap.
        return _item(self._call("GetItem", {"TableName": self._table, "Key": self._key}).get("Item"))

    def swap(self, seen: Item | None, new: Item) -> Item | None:
        """See ``Store``."""
        request: dict[str, Any] = {
            "TableName": self._table,
            "Item": {**self._key, **_attributes(new)},
            "ConditionExpression": "attribute_not_exists(#version)",
            "ExpressionAttributeNames": {"#version": "version"},
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        if seen is not None and seen.version is not None:
            request["ConditionExpression"] = "#version = :version"
            request["ExpressionAttributeValues"] = {":version": _value(seen.version)}
        try:
            self._call("PutItem", request)
        except _ConditionFailed as failure:
            return _item(failure.stored)
        return new

    def _call(self, action: str, request: Mapping[str, Any]) -> dict[str, Any]:
        # At most half of the flight's time, but at least 0.5 s: a publication continues after the flight's deadline.
        seconds = _RETRY_SECONDS if self._was_slow else _CALL_SECONDS
        deadline = Deadline(min(seconds, max(_MIN_CALL_SECONDS, self._deadline.remaining() / 2)))
        try:
            with self._deadline.step("shared cache"):
                answer = self._aws.item(action, request, deadline)
            self._was_slow = False
            return answer
        except AwsRefusal as refusal:
            if refusal.code == "ConditionalCheckFailedException":
                raise _ConditionFailed(refusal.item) from None
            if refusal.code in THROTTLED:
                raise StoreBusy(
                    f"DynamoDB throttles requests ({refusal.code}). Increase the table's capacity."
                ) from None
            raise StoreFailure(self._advice(refusal)) from None
        except DeadlineExceeded:
            self._was_slow = True
            raise StoreSlow(
                f"DynamoDB did not answer within {deadline.seconds:.3g} s. Check the function's network path to DynamoDB."
            ) from None
        except CerberusError as error:
            raise StoreFailure(f"{type(error).__name__}: {error}") from None

    def _advice(self, refusal: AwsRefusal) -> str:
        refused = f"{refusal.service} refused the request ({refusal.code})"
        if refusal.code.startswith("AccessDenied"):
            parts, region = self._principal.split(":"), refusal.service.rpartition(" ")[2]
            partition, account = (parts[1], parts[4]) if len(parts) > 4 else ("*", "*")
            statement = {
                "Effect": "Allow",
                "Action": ["dynamodb:GetItem", "dynamodb:PutItem"],
                "Resource": f"arn:{partition}:dynamodb:{region}:{account}:table/{self._table}",
                "Condition": {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": [self._principal]}},
            }
            return f"{refused}. Add to the function's role: {json.dumps(statement)}"
        if refusal.code == "ResourceNotFoundException":
            return f"{refused}. Check that CERBERUS_SHARED_CACHE_TABLE is in the function's account and region."
        return (
            f"{refused}. Check that the keys of the table are the strings `principal` and `scope`, as in template.yaml."
        )


class _ConditionFailed(Exception):
    """Another container wrote first; ``stored`` is the current item."""

    def __init__(self, stored: object) -> None:
        super().__init__()
        self.stored = stored


def _item(attributes: object) -> Item | None:
    if not isinstance(attributes, dict) or not attributes:
        return None
    fields = {name: _field(name, value) for name, value in attributes.items()}
    return Item.read(fields)


def _field(name: str, value: object) -> object:
    """Return the value of an attribute. An attribute of an unexpected type stays as it is, so that a swap can replace it."""
    if isinstance(value, dict):
        if name in _NUMBERS and isinstance(number := value.get("N"), str):
            try:
                return float(number)
            except ValueError:
                return None
        if name not in _NUMBERS and isinstance(text := value.get("S"), str):
            return text
    return value


def _attributes(item: Item) -> dict[str, dict[str, str]]:
    fields = item.fields()
    expires = int(item.expires) + 1  # TTL has whole seconds
    return {name: _value(fields[name]) for name in fields} | {"expires": {"N": str(expires)}}


def _value(field: Any) -> Any:
    if isinstance(field, str):
        return {"S": field}
    return {"N": repr(field)} if isinstance(field, int | float) else field
