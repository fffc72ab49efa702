"""Retries with exponential backoff and jitter, within a deadline."""

from __future__ import annotations

import ssl
import time

from ..deadline import Deadline, jitter
from ..errors import CerberusUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

_BACKOFF_SECONDS = 0.2
_MAX_BACKOFF_SECONDS = 2.0
_MAX_RETRY_AFTER_SECONDS = 60.0


class NoAnswer(Exception):
    """One attempt failed, and a retry can succeed. It never leaves the package."""

    def __init__(self, reason: str, *, timed_out: bool = False, status: int = 0, retry_after: float = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.timed_out = timed_out
        self.status = status
        self.retry_after = retry_after


def with_retries(
    once: Callable[[], T], service: str, attempts: int, deadline: Deadline, repeat_timeouts: bool = True
) -> T:
    """Make a call, and repeat it with backoff and full jitter while it raises ``NoAnswer``.

    Parameters
    ----------
    once
        Makes one attempt.
    service
        The name of the service, for messages.
    attempts
        The maximum of attempts, unless the deadline sets its own.
    deadline
        When the time is up.
    repeat_timeouts
        Whether to retry after a timeout.

    Raises
    ------
    CerberusUnavailable
        Every attempt failed, or too little time is left for the next one.
    DeadlineExceeded
        The time is up.
    """
    attempts = deadline.attempts or attempts
    for attempt in range(1, attempts + 1):
        if deadline.before_attempt is not None:
            deadline.before_attempt()
        deadline.check(f"calling {service}")
        try:
            return once()
        except NoAnswer as failure:
            cause, timed_out = failure.reason, failure.timed_out
            status, retry_after = failure.status, failure.retry_after
        if timed_out:
            deadline.check(f"waiting for {service}")
        pause = max(retry_after, jitter() * min(_MAX_BACKOFF_SECONDS, _BACKOFF_SECONDS * 2**attempt))
        if attempt == attempts or (timed_out and not repeat_timeouts) or pause >= deadline.remaining():
            break
        time.sleep(pause)
    raise CerberusUnavailable(
        f"{service} is unavailable: {cause} (attempt {attempt} of {attempts}). If it lasts, check the service, and the "
        f"network path to it (VPC, security group, NAT, endpoint, proxy).",
        status=status,
        retry_after=retry_after,
    )


def retry_after(value: str) -> float:
    """Return the seconds that a ``Retry-After`` header asks for.

    Parameters
    ----------
    value
        The header's value: a number of seconds or a date.

    Returns
    -------
    float
        From 0 to 60; 0 for any other value.
    """
    if not value:
        return 0
    if value.isascii() and value.isdigit():
        seconds = float(value[:6])
    else:
        from email.utils import parsedate_to_datetime  # needed for dates only

        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0
    return max(0.0, min(seconds, _MAX_RETRY_AFTER_SECONDS))


def reason(error: BaseException) -> str:
    """Return the cause of a network error for messages, without any text that came over the network.

    Parameters
    ----------
    error
        The error.

    Returns
    -------
    str
        The reason of a TLS error, the text of a system error, else the class's name.
    """
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or type(error).__name__}"
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or type(error).__name__
    return type(error).__name__
