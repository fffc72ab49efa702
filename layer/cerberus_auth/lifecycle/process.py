"""The process-wide registry, and what Lambda and the operating system do to all that is in it: fork, snapshot, renewal."""

from __future__ import annotations

import logging
import os
import threading
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any, Protocol, TypeVar

    from ..deadline import Deadline

    T = TypeVar("T")

    class Member(Protocol):
        """What keeps values for longer than an invocation."""

        def _reset_after_fork(self) -> None:
            """Drop locks, flights and connections of the process that this one was copied from; keep the values."""

        def _forget(self) -> None:
            """Drop every token, secret, credential and connection."""

        def _prefetch(self) -> None:
            """Start what is set to be ready before the first invocation."""

        def _refresh(self, deadline: Deadline, ahead: float) -> None:
            """Refresh what is due, or will be in ``ahead`` seconds."""

        def _wait_for_flights(self, seconds: float) -> None:
            """Wait for what is under way."""

        def _set_background_refresh(self, is_active: bool) -> None:
            """Note whether an extension renews."""


_MAX_SHARED = 32

_logger = logging.getLogger("cerberus_auth")


class Process:
    """What instances share, and the hooks around it."""

    def __init__(self) -> None:
        self._shared: dict[Hashable, Any] = {}
        self._members: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._extension: bool | None = None
        self._hooked = False
        self._said: set[tuple[object, ...]] = set()
        self._is_used = False
        os.register_at_fork(after_in_child=self._forked)

    def share(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what is shared under a key; the 32 used last are kept."""
        with self._lock:
            shared: T = self._shared.pop(key, None) or make()
            self._shared[key] = shared
            if len(self._shared) > _MAX_SHARED:
                del self._shared[next(iter(self._shared))]
            return shared

    def register(self, member: Member) -> None:
        """Have a member take part in forks, snapshots and renewals for as long as it lives."""
        self._members.add(member)

    def members(self) -> list[Member]:
        """Return those that live."""
        return list(self._members)

    def warn_once(self, message: str, *values: object) -> None:
        """Log a warning, unless the process has logged the same."""
        with self._lock:
            if (message, values) in self._said:
                return
            self._said.add((message, values))
        _logger.warning(message, *values)

    def used_with(self, left: float, timeout: float) -> None:
        """Warn if a handler has less time left at its first use than a call may take."""
        if not self._is_used and left < timeout:
            self.warn_once(
                "The function has %.1f s left at the first use of Cerberus, and CERBERUS_TIMEOUT is %g s: Lambda ends the "
                "invocation before an error is raised. Set the function's Timeout to %g s, or a lower CERBERUS_TIMEOUT",
                left,
                timeout,
                timeout + 5,
            )
        self._is_used = True

    def has_extension(self) -> bool:
        """Tell whether renewals run in an extension. The first call registers it, for all."""
        with self._lock:
            if self._extension is None:
                from . import extension  # not where callers renew

                self._extension = extension.start(self._renew, self._extension_ended, self._settle)
            return self._extension

    def hook_snapshots(self) -> None:
        """Forget before a SnapStart snapshot, and start anew after each restore (Lambda's runtime hooks for Python)."""
        with self._lock:
            if self._hooked:
                return
            self._hooked = True
        try:
            from snapshot_restore_py import register_after_restore, register_before_snapshot
        except ImportError:  # a container image of one's own; the two clocks cover what is kept
            self.warn_once(
                "SnapStart's hooks are missing: what is kept is in the snapshot, and restored containers share it until it is "
                "due. Add the package snapshot-restore-py to the image"
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
        for member in self.members():
            member._wait_for_flights(seconds)

    def _extension_ended(self) -> None:
        self._extension = False
        for member in self.members():
            member._set_background_refresh(False)

    def _restored(self) -> None:
        for member in self.members():
            member._forget()  # also what another hook fetched after ours had run, and what is under way
            member._reset_after_fork()
            member._set_background_refresh(bool(self._extension))  # its thread is restored with the process
        for member in self.members():
            member._prefetch()

    def _forked(self) -> None:
        self._lock = threading.RLock()
        self._extension = False  # its thread is the parent's
        for member in self.members():
            member._reset_after_fork()


process = Process()
