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
_READY_SECONDS = 8.0  # of the ten that Lambda gives to an initialisation
_SPARE_SECONDS = 0.3  # of an invocation's time: Lambda ends the container when an extension is not done at its end
_GAPS = 1.5  # how far ahead to look, in gaps between invocations
_FAILURES = 5  # in a row, until it is taken that no events come any more
_PAUSE_SECONDS = 0.05  # after the first failure, twice as long after each other one: invocations wait meanwhile
_EVERY_SECONDS = 5.0  # between renewals where nothing is frozen
_RENEWAL_SECONDS = 10.0  # for one of these, as nobody waits for it

_logger = logging.getLogger("cerberus_auth")


def start(
    renew: Callable[[Deadline, float], None],
    ended: Callable[[], None],
    ready: Callable[[float], object] | None = None,
) -> bool:
    """Register for INVOKE and serve events in a thread of its own.

    Lambda Managed Instances take no extension of this kind. They never freeze a process, so a thread renews regularly there.

    Parameters
    ----------
    renew
        Called at each invocation, with the time that the invocation has, and the seconds in which the next invocation will
        surely have come if they come as they did; raises nothing.
    ended
        Called if Lambda no longer gives events.
    ready
        Waits, for at most the seconds that it is called with, until initialisation may end: what is still under way then is
        frozen.

    Returns
    -------
    bool
        Whether renewals run beside the handler; if not, a warning says so and renewals stay in line.
    """
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "lambda-managed-instances":
        threading.Thread(target=_renew_regularly, args=(renew,), name=_NAME, daemon=True).start()
        return True
    api = os.environ.get("AWS_LAMBDA_RUNTIME_API", "")
    identifier = _register(api) if api else None
    if identifier is None:
        _logger.warning("CERBERUS_RENEWAL=extension: there is no Extensions API here; renewing in line instead")
        return False
    arguments = (api, identifier, renew, ended, ready)
    threading.Thread(target=_serve, args=arguments, name=_NAME, daemon=True).start()
    return True


def _renew_regularly(renew: Callable[[Deadline, float], None]) -> None:
    while True:
        time.sleep(_EVERY_SECONDS)
        _guarded(lambda: renew(Deadline(_RENEWAL_SECONDS), _EVERY_SECONDS * _GAPS))


def _guarded(call: Callable[[], object]) -> None:
    """Call, and log what it raises: whatever that is, Lambda waits until the next event is asked for."""
    try:
        call()
    except Exception as error:
        _logger.warning("renewing failed: %s", type(error).__name__)


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


def _serve(
    api: str,
    identifier: str,
    renew: Callable[[Deadline, float], None],
    ended: Callable[[], None],
    ready: Callable[[float], object] | None,
) -> None:
    if ready is not None:
        _guarded(lambda: ready(_READY_SECONDS))
    connection = http.client.HTTPConnection(api, timeout=None)  # the next event comes with the next invocation
    last, gap = time.time(), 0.0  # by the wall clock: between invocations the container is frozen
    failures = 0
    while failures < _FAILURES:
        if failures:
            connection.close()  # the next request opens a new one
            time.sleep(_PAUSE_SECONDS * 2 ** (failures - 1))
        try:
            connection.request("GET", f"{_VERSION}/event/next", headers={"Lambda-Extension-Identifier": identifier})
            answer = connection.getresponse()
            content = answer.read()
            if 400 <= answer.status < 500:
                break
            ends = float(json.loads(content).get("deadlineMs", 0)) / 1000
        except (OSError, http.client.HTTPException, ValueError, TypeError, AttributeError):
            failures += 1
            continue
        if answer.status != 200:
            failures += 1
            continue
        failures = 0
        now = time.time()
        last, gap = now, max(now - last, gap / 2)
        left = Deadline(ends - now - _SPARE_SECONDS)
        ahead = gap * _GAPS
        _guarded(lambda: renew(left, ahead))  # noqa: B023  (called at once)
    connection.close()
    ended()
    _logger.warning("the Extensions API gives no more events; renewing in line from now on")
