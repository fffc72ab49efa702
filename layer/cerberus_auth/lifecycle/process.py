"""The registry of this process: it informs every cache of forks, snapshots and renewals."""

from __future__ import annotations

import logging
import os
import threading
import weakref

from ..deadline import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any, Protocol, TypeVar

    T = TypeVar("T")

    class Member(Protocol):
        """An object that keeps values between invocations."""

        def _reset_after_fork(self) -> None:
            """Drop the locks, flights and connections of the original process, and keep the values."""

        def _forget(self) -> None:
            """Drop every token, secret, credential and connection."""

        def _prefetch(self) -> None:
            """Start fetching what ``CERBERUS_PREFETCH`` names."""

        def _refresh(self, deadline: Deadline, ahead: float) -> None:
            """Refresh what is due, or becomes due within ``ahead`` seconds."""

        def _wait_for_flights(self, seconds: float) -> None:
            """Wait for running flights, for ``seconds`` at most."""

        def _set_renewed_by_extension(self, is_renewed: bool) -> None:
            """Note whether the extension renews. If it does, callers do not."""


_MAX_SHARED = 32

_logger = logging.getLogger("cerberus_auth")


class Process:
    """Objects that instances share, and the hooks that apply to all of them."""

    def __init__(self) -> None:
        self._shared: dict[Hashable, Any] = {}
        self._members: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._extension: bool | None = None
        self._hooked = False
        self._logged: set[tuple[object, ...]] = set()
        self._is_used = False
        os.register_at_fork(after_in_child=self._forked)

    def share(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the object shared under a key. The 32 most recently used ones are kept.

        Parameters
        ----------
        key
            The key.
        make
            Creates the object if there is none.
        """
        with self._lock:
            shared: T = self._shared.pop(key, None) or make()
            self._shared[key] = shared
            if len(self._shared) > _MAX_SHARED:
                del self._shared[next(iter(self._shared))]
            return shared

    def register(self, member: Member) -> None:
        """Register a member for forks, snapshots and renewals. The registry does not keep it alive.

        Parameters
        ----------
        member
            The object to inform.
        """
        with self._lock:
            self._members.add(member)

    def members(self) -> list[Member]:
        """Return the registered members that still exist."""
        with self._lock:  # a set must not grow while it is copied
            return list(self._members)

    def warn_once(self, message: str, *values: object) -> None:
        """Log a warning once in a process.

        Parameters
        ----------
        message
            The message, with placeholders for ``values``.
        *values
            The values.
        """
        with self._lock:
            if (message, values) in self._logged:
                return
            self._logged.add((message, values))
        _logger.warning(message, *values)

    def warn_of_short_timeout(self, left: float, timeout: float) -> None:
        """Warn if the function's timeout is shorter than ``CERBERUS_TIMEOUT`` at the first use.

        Parameters
        ----------
        left
            Seconds that remain of the invocation.
        timeout
            The value of ``CERBERUS_TIMEOUT`` in seconds.
        """
        if not self._is_used and left < timeout:
            self.warn_once(
                "The invocation has %.1f s left, less than CERBERUS_TIMEOUT (%g s): Lambda can end it before an error is "
                "raised. Set the function's Timeout to %g s, or lower CERBERUS_TIMEOUT",
                left,
                timeout,
                timeout + 5,
            )
        self._is_used = True

    def has_extension(self) -> bool:
        """Return whether the extension renews. The first call registers it."""
        with self._lock:
            if self._extension is None:
                from . import extension  # not needed where callers renew

                self._extension = extension.start(self._renew, self._extension_ended, self._settle)
            return self._extension

    def hook_snapshots(self) -> None:
        """Register SnapStart's hooks: drop all values before a snapshot, and prefetch after each restore."""
        with self._lock:
            if self._hooked:
                return
            self._hooked = True
        try:
            from snapshot_restore_py import register_after_restore, register_before_snapshot
        except ImportError:  # a container image with another runtime interface client; expiry still applies
            self.warn_once(
                "SnapStart's hooks are missing: the snapshot contains tokens and secrets, and restored containers use them "
                "until they are due. Use an AWS base image or AWS's runtime interface client (awslambdaric): it needs "
                "snapshot-restore-py and calls the hooks"
            )
            return
        register_before_snapshot(self.forget)
        register_after_restore(self._restored)

    def forget(self) -> None:
        """Drop every token, secret, credential and connection."""
        for member in self.members():
            member._forget()

    def _renew(self, deadline: Deadline, ahead: float) -> None:
        for member in self.members():
            member._refresh(deadline, ahead)

    def _settle(self, seconds: float) -> None:
        """Wait for the flights of all members, for ``seconds`` at most, also of members that register meanwhile."""
        deadline = Deadline(seconds)
        settled: set[Member] = set()
        while new := set(self.members()) - settled:
            for member in new:
                member._wait_for_flights(max(0.0, deadline.remaining()))
            settled |= new

    def _extension_ended(self) -> None:
        self._extension = False
        for member in self.members():
            member._set_renewed_by_extension(False)

    def _restored(self) -> None:
        for member in self.members():
            member._forget()  # another hook can have fetched a value after ours ran
            member._reset_after_fork()
            member._set_renewed_by_extension(bool(self._extension))  # the snapshot includes its thread
        for member in self.members():
            member._prefetch()

    def _forked(self) -> None:
        self._lock = threading.RLock()
        self._extension = False  # its thread runs in the parent only
        for member in self.members():
            member._reset_after_fork()


process = Process()
