"""Attempts: what one of them brought, and whether another follows."""

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


class NoAnswer(Exception):
    """One attempt brought no answer, or a transient one. Stays inside the package."""

    def __init__(self, reason: str, *, timed_out: bool = False, retry_after: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.timed_out = timed_out
        self.retry_after = retry_after


def with_retries(
    once: Callable[[], T], service: str, attempts: int, deadline: Deadline, repeat_timeouts: bool = True
) -> T:
    """Call ``once`` until it does not raise ``NoAnswer``, with full jitter between, while attempts and time are left.

    Raises
    ------
    CerberusUnavailable
        No answer after the attempts allowed, or none can follow within the time left.
    DeadlineExceeded
        The time is up.
    """
    for attempt in range(1, attempts + 1):
        deadline.check(f"asking {service}")
        try:
            return once()
        except NoAnswer as failure:
            cause, timed_out, retry_after = failure.reason, failure.timed_out, failure.retry_after
        if timed_out:
            deadline.check(f"waiting for {service}")
        pause = max(retry_after, jitter() * min(_MAX_BACKOFF_SECONDS, _BACKOFF_SECONDS * 2**attempt))
        if attempt == attempts or (timed_out and not repeat_timeouts) or pause >= deadline.remaining():
            break
        time.sleep(pause)
    raise CerberusUnavailable(
        f"{service} is unavailable: {cause} (attempt {attempt} of {attempts}). If it lasts, see whether that service is "
        f"healthy and the function's network (VPC, security group, NAT, endpoint, proxy) reaches it"
    )


def reason(error: BaseException) -> str:
    """What to tell of an error: system and TLS errors by their own names; never text that came over the wire."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or type(error).__name__}"
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or type(error).__name__
    return type(error).__name__
