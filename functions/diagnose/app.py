"""Check each step of reading a secret in Lambda, and report which step fails, why, and how to fix it.

Deploy this function with the ``Role``, the variables and the ``VpcConfig`` of the function that fails, and invoke it. The event
can name a secret to read: ``{"path": "app/orders/db"}``. The result and the log contain no secrets.
"""

from typing import Any

from cerberus_auth.doctor import Doctor, Finding, format_finding, report


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    def log(finding: Finding) -> None:
        print(format_finding(finding))

    return report(Doctor(path=event.get("path", ""), on_finding=log, context=context).examine())
