"""A function whose events say what to do with a token, and whose answers tell how that went."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from cerberus_auth import CerberusAuth, CerberusClient, CerberusError

auth = CerberusAuth()
cerberus = CerberusClient(auth)
time.sleep(float(os.environ.get("REST_OF_INIT_SECONDS", "0")))
initialized = time.time()


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """``do`` is ``token``, ``read`` (get a token, then a secret), ``secret`` (only that), ``leave`` (an authentication under
    way) or ``nothing``."""
    if event["do"] == "nothing":
        return {}
    if event["do"] == "leave":
        threading.Thread(target=attempt, args=(auth.token,), daemon=True).start()
        return {}
    limit = {"context": context} if event.get("in_time") else {}
    answer = {"initialized": initialized}
    if event["do"] != "secret":
        answer |= attempt(lambda: auth.token(**limit))
    if event["do"] in ("read", "secret") and "error" not in answer:
        answer |= attempt(lambda: {"secret": cerberus.read(os.environ["SECRET_PATH"], **limit)})
    return answer


def attempt(call: Any) -> dict[str, Any]:
    began = time.monotonic()
    try:
        result = call()
    except CerberusError as error:
        return {"error": type(error).__name__, "message": str(error), "seconds": time.monotonic() - began}
    return result if isinstance(result, dict) else {"token": result, "seconds": time.monotonic() - began}
