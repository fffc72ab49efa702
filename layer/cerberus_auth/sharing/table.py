"""The fleet's shared cache in DynamoDB: one item for each principal (partition key), way, service and region (sort key)."""

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

_CALL_SECONDS = 1.4  # DynamoDB answers in a hundredth of that; the first call of a small function takes a second
_AGAIN_SECONDS = 0.6  # after a call without an answer
_LEAST_SECONDS = 0.5
_NUMBERS = ("asked", "claimed_until", "expires", "failures", "format", "paused_until")


class TableStore:
    """See ``Store``. What it calls is dynamodb:GetItem and dynamodb:PutItem, on the one item."""

    def __init__(self, aws: Aws, table: str, principal: str, scope: str, deadline: Deadline) -> None:
        self._aws = aws
        self._table = table
        self._principal = principal
        self._key = {"principal": {"S": principal}, "scope": {"S": scope}}
        self._deadline = deadline
        self._was_slow = False

    def get(self) -> Item | None:
        """See ``Store``."""
        # Eventually consistent, at half the price: whoever is behind learns it from its swap.
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
        except _Beaten as beaten:
            return _item(beaten.item)
        return new

    def _call(self, action: str, request: Mapping[str, Any]) -> dict[str, Any]:
        # Of a flight that has little time, no more than half; yet a publication goes on when the flight's time is up.
        seconds = _AGAIN_SECONDS if self._was_slow else _CALL_SECONDS
        deadline = Deadline(min(seconds, max(_LEAST_SECONDS, self._deadline.remaining() / 2)))
        try:
            with self._deadline.step("shared cache"):
                answer = self._aws.item(action, request, deadline)
            self._was_slow = False
            return answer
        except AwsRefusal as refusal:
            if refusal.code == "ConditionalCheckFailedException":
                raise _Beaten(refusal.item) from None
            if refusal.code in THROTTLED:
                raise StoreBusy(refusal.code) from None
            raise StoreFailure(self._advice(refusal)) from None
        except DeadlineExceeded:
            self._was_slow = True
            raise StoreSlow(
                f"no answer within {deadline.seconds:.3g} s: see the function's network path to DynamoDB"
            ) from None
        except CerberusError as error:
            raise StoreFailure(f"{type(error).__name__}: {error}") from None

    def _advice(self, refusal: AwsRefusal) -> str:
        refused = f"{refusal.service} refuses ({refusal.code})"
        if refusal.code.startswith("AccessDenied"):
            parts, region = self._principal.split(":"), refusal.service.rpartition(" ")[2]
            partition, account = (parts[1], parts[4]) if len(parts) > 4 else ("*", "*")
            statement = {
                "Effect": "Allow",
                "Action": ["dynamodb:GetItem", "dynamodb:PutItem"],
                "Resource": f"arn:{partition}:dynamodb:{region}:{account}:table/{self._table}",
                "Condition": {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": [self._principal]}},
            }
            return f"{refused}: add to the function's role {json.dumps(statement)}"
        if refusal.code == "ResourceNotFoundException":
            return f"{refused}: see that CERBERUS_SHARED_CACHE_TABLE is in the function's own account and region"
        return f"{refused}: see that its keys are the strings `principal` and `scope`, as in template.yaml"


class _Beaten(Exception):
    """Somebody else was quicker; ``item`` is there now."""

    def __init__(self, item: object) -> None:
        super().__init__()
        self.item = item


def _item(attributes: object) -> Item | None:
    if not isinstance(attributes, dict) or not attributes:
        return None
    fields = {name: _field(name, value) for name, value in attributes.items()}
    return Item.read(fields)


def _field(name: str, value: object) -> object:
    """Of an attribute of a kind that we write, its value; any other as it is: an item of no use, and yet to be replaced."""
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
    expires = int(item.expires) + 1  # DynamoDB deletes by whole seconds
    return {name: _value(fields[name]) for name in fields} | {"expires": {"N": str(expires)}}


def _value(field: Any) -> Any:
    if isinstance(field, str):
        return {"S": field}
    return {"N": repr(field)} if isinstance(field, int | float) else field
