"""A function that gets a token, and tells which of the processes did so."""

from __future__ import annotations

import os
from typing import Any

from cerberus_auth import CerberusAuth, CerberusError

auth = CerberusAuth()


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    try:
        return {"process": os.getpid(), "token": auth.token()}
    except CerberusError as error:
        return {"process": os.getpid(), "error": f"{type(error).__name__}: {error}"}
