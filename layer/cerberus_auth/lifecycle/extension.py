"""An internal Lambda extension that renews tokens and secrets while the handler runs, so that no invocation waits for it.

Lambda freezes the process only when the handler *and every extension* are done, so it never freezes a renewal of the extension.
Lambda accepts registrations only during initialization (Developer Guide, "Lambda Extensions API").
"""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial

from ..deadline import Deadline
from ..errors import CerberusError
from ..http.connection import Connection, Names
from ..http.message import Answer
from ..http.retry import NoAnswer
from ..http.transport import MAX_BODY_BYTES, json_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NAME = "cerberus-auth"
_VERSION = "/2020-01-01/extension"
_CALL_SECONDS = 1.0  # for a connection, and for the response to a registration
_NEXT_SECONDS = 7 * 86400.0  # for the response to Next, which arrives with the next invocation
_READY_SECONDS = 8.0  # Lambda limits initialization to 10 s
_SPARE_SECONDS = 0.3  # Lambda stops the container if an extension is still busy at the invocation's deadline
_GAPS = 1.5  # renew what becomes due within this many gaps between invocations
_FAILURES = 5  # consecutive failures after which the extension stops
_PAUSE_SECONDS = 0.05  # after the first failure, doubled after each further one; short, because invocations wait for it
_EVERY_SECONDS = 5.0  # between renewals on Managed Instances
_RENEWAL_SECONDS = 10.0  # for one renewal on Managed Instances, where no caller waits for it

_logger = logging.getLogger("cerberus_auth")


def start(
    renew: Callable[[Deadline, float], None],
    ended: Callable[[], None],
    ready: Callable[[float], object] | None = None,
) -> bool:
    """Register for INVOKE events and handle them in a new thread.

    Lambda Managed Instances do not support internal extensions and never freeze a process. There, a thread renews every 5 s.

    Parameters
    ----------
    renew
        Called at each invocation with the invocation's deadline and a number of seconds. It renews what becomes due within
        these seconds, in which the next invocation is expected. It raises nothing.
    ended
        Called when Lambda sends no more events.
    ready
        Called with a maximum of seconds before the first event. It waits for the prefetch, because Lambda freezes what is
        still running after initialization.

    Returns
    -------
    bool
        Whether an extension or a thread renews. If not, a warning is logged, and callers renew.
    """
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "lambda-managed-instances":
        threading.Thread(target=_renew_regularly, args=(renew,), name=_NAME, daemon=True).start()
        return True
    api = os.environ.get("AWS_LAMBDA_RUNTIME_API", "")
    identifier = _register(api) if api else None
    if identifier is None:
        _logger.warning(
            "CERBERUS_RENEWAL=extension has no effect: the Extensions API is not available. Callers renew tokens and secrets"
        )
        return False
    arguments = (api, identifier, renew, ended, ready)
    threading.Thread(target=_serve, args=arguments, name=_NAME, daemon=True).start()
    return True


def _renew_regularly(renew: Callable[[Deadline, float], None]) -> None:
    while True:
        time.sleep(_EVERY_SECONDS)
        _guarded(lambda: renew(Deadline(_RENEWAL_SECONDS), _EVERY_SECONDS * _GAPS))


def _guarded(call: Callable[[], object]) -> None:
    """Make a call and log its error. The loop must go on: Lambda waits until the extension requests the next event."""
    try:
        call()
    except Exception as error:
        _logger.warning("Renewal in the extension failed (%s)", type(error).__name__)


def _call(
    api: str, method: str, path: str, headers: dict[str, str], body: bytes | None, seconds: float
) -> tuple[Answer, bytes] | None:
    """Send a request on a new connection. Return the response and its body; None if there is no valid one in time."""
    try:
        host, _, port = api.rpartition(":")
        connection = Connection(host, int(port), Deadline(_CALL_SECONDS), None, None, Names())
        try:
            connection.connect()
            connection.deadline = Deadline(seconds)
            connection.request(method, f"{_VERSION}{path}", {"Host": api, **headers}, body)
            answer = Answer(connection.receive, "The Extensions API")
            return answer, answer.read(MAX_BODY_BYTES)
        finally:
            connection.close()
    except (OSError, ValueError, NoAnswer, CerberusError):
        return None


def _register(api: str) -> str | None:
    headers = {"Lambda-Extension-Name": _NAME, "Content-Type": "application/json"}
    called = _call(api, "POST", "/register", headers, b'{"events": ["INVOKE"]}', _CALL_SECONDS)
    return called[0].headers.get("lambda-extension-identifier") if called and called[0].status == 200 else None


def _serve(
    api: str,
    identifier: str,
    renew: Callable[[Deadline, float], None],
    ended: Callable[[], None],
    ready: Callable[[float], object] | None,
) -> None:
    if ready is not None:
        _guarded(lambda: ready(_READY_SECONDS))
    last, gap = time.time(), 0.0  # the wall clock, because a frozen container stops the monotonic one
    failures = 0
    while failures < _FAILURES:
        if failures:
            time.sleep(_PAUSE_SECONDS * 2 ** (failures - 1))
        called = _call(api, "GET", "/event/next", {"Lambda-Extension-Identifier": identifier}, None, _NEXT_SECONDS)
        if called and 400 <= called[0].status < 500:
            break
        event = json_object(called[1]) if called and called[0].status == 200 else None
        ends = event.get("deadlineMs", 0) if event is not None else None
        if not isinstance(ends, int | float):
            failures += 1
            continue
        failures = 0
        now = time.time()
        last, gap = now, max(now - last, gap / 2)
        left = Deadline(ends / 1000 - now - _SPARE_SECONDS)
        _guarded(partial(renew, left, gap * _GAPS))
    ended()
    _logger.warning("The Extensions API sends no more events. Callers renew tokens and secrets from now on")
