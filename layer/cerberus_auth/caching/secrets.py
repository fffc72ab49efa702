"""What was read, kept for a while: by age, one reading at a time for each, and beyond its age while the service is down."""

from __future__ import annotations

import logging
import threading
import time

from cachetools import LRUCache

from ..errors import AuthenticationFailed, CerberusError, CerberusUnavailable, DeadlineExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from typing import Any

    from ..deadline import Deadline

_MAX_KEPT = 256

_logger = logging.getLogger("cerberus_auth")


class _Kept:
    """A value, and when it was asked for."""

    __slots__ = ("_monotonic", "_wall", "value")

    def __init__(self) -> None:
        self._monotonic = time.monotonic()
        self._wall = time.time()
        self.value: Any = None

    def __reduce__(self) -> str:
        raise TypeError("what was read is not written anywhere: read it where it is needed")

    def age(self) -> float:
        """Seconds, by both clocks: a frozen container stops the monotonic one, and the wall clock can be set back."""
        return max(time.monotonic() - self._monotonic, time.time() - self._wall)


class _Reading:
    """A reading under way, and those who wait for it."""

    __slots__ = ("error", "kept", "landed")

    def __init__(self) -> None:
        self.kept = _Kept()
        self.error: CerberusError | None = None
        self.landed = threading.Event()


class SecretCache:
    """Safe to share between threads. Its lock is never held across the network."""

    def __init__(self) -> None:
        self._kept: MutableMapping[str, _Kept] = LRUCache(_MAX_KEPT)
        self._readings: dict[str, _Reading] = {}
        self._lock = threading.Lock()

    def get(
        self,
        name: str,
        read: Callable[[Deadline], Any],
        deadline: Deadline,
        *,
        max_age: float,
        stale: float = 0,
        fresh: bool = False,
    ) -> Any:
        """A copy of what is kept under a name, or of what ``read`` gives, which is then kept.

        Parameters
        ----------
        max_age, stale
            Seconds, as in ``CerberusClient.read``.
        fresh
            Read, and do not share another's reading, which may have begun before.

        Raises
        ------
        CerberusError
            What ``read`` raises; an equal of it for each who waited.
        """
        while True:
            with self._lock:
                kept = self._kept.get(name)
                if kept is not None and not fresh and kept.age() < max_age:
                    return _copied(kept.value)
                reading = None if fresh else self._readings.get(name)
                leads = reading is None
                if reading is None:
                    reading = _Reading()
                    if not fresh:
                        self._readings[name] = reading
            if leads:
                self._lead(name, reading, read, deadline)
            else:
                reading.landed.wait(max(0.0, deadline.remaining()))
            error = reading.error
            if error is None and reading.landed.is_set():
                return _copied(reading.kept.value)
            if not leads and isinstance(error, DeadlineExceeded) and deadline.remaining() > 0:
                continue  # whoever led had less time than we have
            if kept is not None and kept.age() < max_age + stale and (error is None or _is_down(error)):
                _logger.warning("Cerberus is out of reach; what was read %.0f s ago serves for now", kept.age())
                return _copied(kept.value)
            if error is None:
                deadline.check("waiting for another thread's reading")
                continue
            raise error.fresh()

    def _lead(self, name: str, reading: _Reading, read: Callable[[Deadline], Any], deadline: Deadline) -> None:
        try:
            reading.kept.value = read(deadline)
            with self._lock:
                known = self._kept.get(name)  # a fresh read may have begun later, and ended before
                if known is None or known.age() >= reading.kept.age():
                    self._kept[name] = reading.kept
        except CerberusError as error:
            reading.error = error.fresh()
        except BaseException:
            reading.error = CerberusError("the reading that this one waited for was broken off: try again")
            raise
        finally:  # whatever happens, those who wait go on
            with self._lock:
                if self._readings.get(name) is reading:
                    del self._readings[name]
            reading.landed.set()


def _is_down(error: CerberusError) -> bool:
    """Whether it says that the service was out of reach, and nothing of the secret or of who may read it."""
    if isinstance(error, AuthenticationFailed):
        return all(_is_down(attempt.error) for attempt in error.attempts)
    return isinstance(error, CerberusUnavailable | DeadlineExceeded)


def _copied(value: Any) -> Any:
    """A copy of JSON: a caller may change what it gets."""
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value
