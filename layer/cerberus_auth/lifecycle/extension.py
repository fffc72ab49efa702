"""An internal Lambda extension: renews beside or after the handler, in time that no invocation waits for.

Lambda freezes the process when the handler *and every extension* are done, so a renewal in an extension is never frozen in
mid-request. The API is Lambda's (Developer Guide, "Lambda Extensions API"); it takes registrations only during initialisation.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import threading
import time

from ..deadline import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NAME = "cerberus-auth"
_VERSION = "/2020-01-01/extension"
_REGISTER_SECONDS = 1.0
_SPARE_SECONDS = 0.3  # of an invocation's time: Lambda ends the container when an extension is not done at its end
_GAPS = 1.5  # how far ahead to look, in gaps between invocations

_logger = logging.getLogger("cerberus_auth")


def start(renew: Callable[[Deadline, float], None], ended: Callable[[], None]) -> bool:
    """Register for INVOKE and serve events in a thread of its own.

    Parameters
    ----------
    renew
        Called at each invocation, with the time that the invocation has, and the seconds in which the next invocation will
        surely have come if they come as they did; raises nothing.
    ended
        Called if Lambda no longer gives events.

    Returns
    -------
    bool
        Whether Lambda took the registration; if not, a warning says so and renewals stay in line.
    """
    api = os.environ.get("AWS_LAMBDA_RUNTIME_API", "")
    identifier = _register(api) if api else None
    if identifier is None:
        _logger.warning("CERBERUS_RENEWAL=extension: there is no Extensions API here; renewing in line instead")
        return False
    threading.Thread(target=_serve, args=(api, identifier, renew, ended), name=_NAME, daemon=True).start()
    return True


def _register(api: str) -> str | None:
    connection = http.client.HTTPConnection(api, timeout=_REGISTER_SECONDS)
    try:
        body, headers = json.dumps({"events": ["INVOKE"]}), {"Lambda-Extension-Name": _NAME}
        connection.request("POST", f"{_VERSION}/register", body, {**headers, "Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.headers.get("Lambda-Extension-Identifier") if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _serve(api: str, identifier: str, renew: Callable[[Deadline, float], None], ended: Callable[[], None]) -> None:
    connection = http.client.HTTPConnection(api, timeout=None)  # the next event comes with the next invocation
    last, gap = time.time(), 0.0  # by the wall clock: between invocations the container is frozen
    try:
        while True:
            connection.request("GET", f"{_VERSION}/event/next", headers={"Lambda-Extension-Identifier": identifier})
            answer = connection.getresponse()
            event = json.loads(answer.read())
            if answer.status != 200:
                break
            now = time.time()
            last, gap = now, max(now - last, gap / 2)
            left = float(event.get("deadlineMs", 0)) / 1000 - now - _SPARE_SECONDS
            try:
                renew(Deadline(left), gap * _GAPS)
            except Exception as error:  # whatever it is: Lambda waits until the next event is asked for
                _logger.warning("renewing failed: %s", type(error).__name__)
    except (OSError, http.client.HTTPException, ValueError, TypeError, AttributeError):
        pass
    finally:
        connection.close()
        ended()
        _logger.warning("the Extensions API gives no more events; renewing in line from now on")
