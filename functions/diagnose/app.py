"""Find the step that fails on the way to a secret, and how to fix it.

Deploy this function with the ``Role``, the variables and the ``VpcConfig`` of the function that fails, and invoke it. To read a
secret too, send ``{"path": "app/orders/db"}`` as the event. The response and the log contain no secret.
"""

from typing import Any

from cerberus_auth.doctor import Doctor, Finding, format_finding, report


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    def log(finding: Finding) -> None:
        print(format_finding(finding))

    return report(Doctor(path=event.get("path", ""), on_finding=log, context=context).examine())
