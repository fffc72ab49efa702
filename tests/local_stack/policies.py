"""Evaluation of IAM policies: the part of the policy language that the local stack needs.

Unsupported elements raise UnsupportedPolicyError, because an ignored condition could allow what AWS denies. The rules are in
the IAM User Guide, "Policy evaluation logic" and "IAM JSON policy elements reference".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

Context = Mapping[str, tuple[str, ...]]
"""The condition keys of a request, in lower case, with their values."""

KNOWN_ELEMENTS = {"Sid", "Effect", "Action", "Resource", "Principal", "Condition"}
KNOWN_VARIABLES = {"${aws:PrincipalArn}": "aws:principalarn"}
"""Policy variables and their condition keys. They are supported only as a whole value of StringEquals."""
VARIABLES_SINCE = "2012-10-17"
"""The first version of the policy language with variables."""


class UnsupportedPolicyError(ValueError):
    """The document is not a policy, or uses an unsupported element."""


class Verdict(Enum):
    """The result of one policy. An explicit deny overrides every allow."""

    ALLOW = "allow"
    EXPLICIT_DENY = "explicit deny"
    IMPLICIT_DENY = "implicit deny"


@dataclass(frozen=True)
class Statement:
    """One statement of a policy. ``principals`` is empty in an identity policy."""

    allow: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    principals: tuple[str, ...]
    conditions: tuple[tuple[str, str, tuple[str, ...]], ...]

    def applies(self, action: str, resource: str, context: Context) -> bool:
        """Tell whether the statement matches a request of any caller."""
        return (
            any(_matches(pattern.lower(), action.lower()) for pattern in self.actions)
            and any(_matches_arn(pattern, resource) for pattern in self.resources)
            and all(_holds(operator, wanted, context.get(key), context) for operator, key, wanted in self.conditions)
        )


def parse(document: str | Mapping[str, Any]) -> tuple[Statement, ...]:
    """Parse a policy document.

    Raises
    ------
    UnsupportedPolicyError
        The document is not a policy, or uses an unsupported element.
    """
    try:
        policy = json.loads(document) if isinstance(document, str) else document
        version = policy.get("Version", "2008-10-17")
        return tuple(_statement(statement, version) for statement in _list(policy["Statement"]))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise UnsupportedPolicyError(f"The document is not a policy ({error!r})") from error


def evaluate(
    statements: Collection[Statement],
    action: str,
    resource: str,
    context: Context,
    principals: Collection[str] | None = None,
) -> Verdict:
    """Evaluate one policy for a request.

    Parameters
    ----------
    principals
        The principals that match the caller, for a resource policy; ``None`` for an identity policy.
    """
    matching = [
        statement
        for statement in statements
        if (principals is None or not set(principals).isdisjoint(statement.principals))
        and statement.applies(action, resource, context)
    ]
    if any(not statement.allow for statement in matching):
        return Verdict.EXPLICIT_DENY
    return Verdict.ALLOW if matching else Verdict.IMPLICIT_DENY


def map_principals(document: str, change: Callable[[str], str]) -> str:
    """Return the document with every AWS principal replaced, as AWS does when it stores resource policies."""
    policy = json.loads(document)
    for statement in _list(policy["Statement"]):
        principal = statement.get("Principal")
        if isinstance(principal, dict) and "AWS" in principal:
            names = [change(name) for name in _list(principal["AWS"])]
            principal["AWS"] = names if len(names) > 1 else names[0]
    return json.dumps(policy)


def _statement(statement: Mapping[str, Any], version: str) -> Statement:
    unknown = set(statement) - KNOWN_ELEMENTS
    if unknown or statement["Effect"] not in ("Allow", "Deny"):
        raise UnsupportedPolicyError(f"Unsupported in a statement: {sorted(unknown) or statement['Effect']}")
    conditions = tuple(
        (operator, key.lower(), tuple(_with_known_variables(_list(wanted), operator, version)))
        for operator, keys in statement.get("Condition", {}).items()
        for key, wanted in keys.items()
    )
    for operator, _, _ in conditions:
        if operator.rpartition(":")[2] not in _TESTS or operator.rpartition(":")[0] not in _QUANTIFIERS:
            raise UnsupportedPolicyError(f"Unsupported condition operator: {operator}")
    return Statement(
        allow=statement["Effect"] == "Allow",
        actions=tuple(_list(statement["Action"])),
        # A trust policy has no resource: it applies to its role.
        resources=tuple(_without_variables(_list(statement.get("Resource", "*")))),
        principals=tuple(_principals(statement.get("Principal", {}))),
        conditions=conditions,
    )


def _principals(principal: str | Mapping[str, Any]) -> list[str]:
    if isinstance(principal, str):
        if principal != "*":
            raise UnsupportedPolicyError(f"Unsupported principal: {principal!r}")
        return ["*"]
    unknown = set(principal) - {"AWS", "Service"}
    if unknown:
        raise UnsupportedPolicyError(f"Unsupported kinds of principals: {sorted(unknown)}")
    return [name for names in principal.values() for name in _list(names)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _with_known_variables(values: list[Any], operator: str, version: str) -> list[str]:
    known = KNOWN_VARIABLES if operator.rpartition(":")[2] == "StringEquals" and version == VARIABLES_SINCE else {}
    return [value if value in known else _without_variables([value])[0] for value in values]


def _value(wanted: str, context: Context) -> tuple[str, ...]:
    """Return the value of a policy variable; nothing if the request has none."""
    return context.get(KNOWN_VARIABLES[wanted], ()) if wanted in KNOWN_VARIABLES else (wanted,)


def _without_variables(values: list[Any]) -> list[str]:
    strings = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    for value in strings:
        if "${" in value:
            raise UnsupportedPolicyError(f"Unsupported policy variable: {value!r}")
    return strings


def _matches(pattern: str, value: str) -> bool:
    expression = "".join({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in pattern)
    return re.fullmatch(expression, value, re.DOTALL) is not None


def _matches_arn(pattern: str, arn: str) -> bool:
    """Match each part of an ARN separately: a wildcard does not match a colon."""
    if pattern == "*":
        return True
    patterns, parts = pattern.split(":", 5), arn.split(":", 5)
    return len(patterns) == len(parts) and all(map(_matches, patterns, parts))


_TESTS: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda wanted, value: wanted == value,
    "StringLike": _matches,
    "ArnLike": _matches_arn,
    "Null": lambda wanted, value: wanted == value,
}
_QUANTIFIERS = ("", "ForAllValues", "ForAnyValue")


def _holds(operator: str, wanted: tuple[str, ...], values: tuple[str, ...] | None, context: Context) -> bool:
    quantifier, _, name = operator.rpartition(":")
    if name == "Null":
        values = ("true" if values is None else "false",)
    if values is None:
        return quantifier == "ForAllValues"  # as in AWS: true for an empty set
    wanted = tuple(one for each in wanted for one in _value(each, context))
    satisfied = [any(_TESTS[name](one, value) for one in wanted) for value in values]
    return all(satisfied) if quantifier == "ForAllValues" else any(satisfied)
