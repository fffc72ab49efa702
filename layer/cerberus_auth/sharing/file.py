"""The shared cache of the processes in one environment, in a file.

Lambda Managed Instances fork a process for each concurrent request. The file holds ciphertext only. It is in a folder that only
this user can enter. Files of another user, or that another user can change, are not used.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import tempfile
import time
from contextlib import contextmanager, suppress

from ..deadline import Deadline
from ..http.transport import json_object
from .item import Item, StoreFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_BYTES = 1 << 16
_MIN_LOCK_SECONDS = 0.2  # a publication continues after the flight's deadline
_LOCK_SECONDS = 1.0  # a process holds the lock only while it writes a file
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # O_NONBLOCK: opening a pipe would block


class FileStore:
    """Store an item in a file. See ``Store``."""

    def __init__(self, principal: str, scope: str, deadline: Deadline) -> None:
        self._name = hashlib.sha256(f"{principal}\n{scope}".encode()).hexdigest()
        self._deadline = deadline

    def get(self) -> Item | None:
        """See ``Store``."""
        with _folder() as folder:
            return self._read(folder)

    def swap(self, seen: Item | None, new: Item) -> Item | None:
        """See ``Store``."""
        with _folder() as folder, self._locked(folder):
            stored = self._read(folder)
            if stored is not None and (seen is None or stored.version != seen.version):
                return stored
            self._write(folder, new)
            return new

    def _read(self, folder: int) -> Item | None:
        try:
            file = os.open(self._name, os.O_RDONLY | _FLAGS, dir_fd=folder)
        except FileNotFoundError:
            return None
        try:
            _check(file, stat.S_ISREG)
            content = os.read(file, _MAX_BYTES)
        finally:
            os.close(file)
        return Item.read(json_object(content) or {})

    def _write(self, folder: int, item: Item) -> None:
        name = f"{self._name}.new"
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o600, dir_fd=folder)
        try:
            _check(file, stat.S_ISREG)
            os.write(file, json.dumps(item.fields()).encode())
        finally:
            os.close(file)
        os.replace(name, self._name, src_dir_fd=folder, dst_dir_fd=folder)

    @contextmanager
    def _locked(self, folder: int) -> Iterator[None]:
        deadline = Deadline(min(_LOCK_SECONDS, max(_MIN_LOCK_SECONDS, self._deadline.remaining())))
        lock = os.open(f"{self._name}.lock", os.O_RDWR | os.O_CREAT | _FLAGS, 0o600, dir_fd=folder)
        _locks.add(lock)
        try:
            _check(lock, stat.S_ISREG)
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if deadline.remaining() <= 0:
                        raise StoreFailure("Another process holds the file lock. Retry in a second.") from None
                    time.sleep(0.002)
            yield
        finally:
            if lock in _locks:  # a forked child has closed it
                fcntl.flock(lock, fcntl.LOCK_UN)  # also unlocks the copy in a child that is being forked
                _locks.discard(lock)
                os.close(lock)


_locks: set[int] = set()  # file descriptors of the locks that this process holds or waits for


def _close_locks() -> None:
    """Close the copied descriptors in a forked child: they would keep the lock after its owner is killed."""
    for lock in _locks:
        with suppress(OSError):
            os.close(lock)
    _locks.clear()


os.register_at_fork(after_in_child=_close_locks)


@contextmanager
def _folder() -> Iterator[int]:
    """Open the folder, as a context manager that yields its file descriptor.

    Raises
    ------
    StoreFailure
        The folder cannot be used, or an ``OSError`` came from the ``with`` block.
    """
    path = os.path.join(tempfile.gettempdir(), f"cerberus-auth-{os.geteuid()}")
    try:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
        try:
            _check(folder, stat.S_ISDIR)
            yield folder
        finally:
            os.close(folder)
    except OSError as error:
        raise StoreFailure(f"{path}: {error.strerror or type(error).__name__}. Check the folder.") from None


def _check(descriptor: int, is_kind: Callable[[int], bool]) -> None:
    found = os.fstat(descriptor)
    if not is_kind(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise StoreFailure("The shared cache file or its folder is not private to this user. Remove it.")
