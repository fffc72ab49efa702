"""Tells which step on the way to a secret fails, why, and what mends it, with this function's own role, settings and network.

Deploy it beside the function in trouble, with that one's role (``Role``), variables and ``VpcConfig``, and invoke it; the event
may name a secret to read: ``{"path": "app/orders/db"}``. Its answer and its log hold no secret.
"""

from typing import Any

from cerberus_auth.doctor import Doctor, line, report


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    findings = Doctor(path=event.get("path", ""), tell=lambda finding: print(line(finding)), context=context).examine()
    return report(findings)
