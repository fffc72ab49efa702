"""The file that the processes of one environment share: whose it is, what is in it, and how it is written."""

from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import signal
import stat
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from cerberus_auth import CerberusAuth, CerberusClient
from cerberus_auth.deadline import Deadline
from cerberus_auth.sharing.file import FileStore
from cerberus_auth.sharing.item import Item, StoreFailure
from integration.function import Function
from local_stack.stack import ROLE, SECRET, SECRET_PATH


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


def store(scope: str = "kms https://cerberus.example.com us-west-2", seconds: float = 10) -> FileStore:
    return FileStore(ROLE, scope, Deadline(seconds))


def folder(temporary: Path) -> Path:
    return temporary / f"cerberus-auth-{os.geteuid()}"


def file(temporary: Path) -> Path:
    (found,) = [path for path in folder(temporary).iterdir() if not path.suffix]
    return found


def test_what_was_put_is_there_for_whoever_looks() -> None:
    assert store().get() is None
    item = Item("response", 1.5, 3600.5)
    assert store().swap(None, item) is item
    found = store().get()
    assert found is not None
    assert found.fields() == item.fields()
    assert store("another").get() is None


def test_only_what_was_seen_is_replaced() -> None:
    first, second, third = (Item(name, 1, 3600) for name in ("first", "second", "third"))
    store().swap(None, first)
    for seen in (None, third):
        found = store().swap(seen, second)
        assert found is not None
        assert found.version == first.version
    assert store().swap(first, second) is second


def test_it_is_private(temporary: Path) -> None:
    previous = os.umask(0)
    try:
        store().swap(None, Item("response", 1, 3600))
    finally:
        os.umask(previous)
    assert stat.S_IMODE(folder(temporary).stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder(temporary).iterdir()} == {0o600}


def link_folder(temporary: Path) -> None:
    (temporary / "elsewhere").mkdir(mode=0o700)
    folder(temporary).symlink_to(temporary / "elsewhere")


def link_file(temporary: Path) -> None:
    store().swap(None, Item("response", 1, 3600))
    path = file(temporary)
    path.rename(temporary / "elsewhere")
    path.symlink_to(temporary / "elsewhere")


def link_lock(temporary: Path) -> None:
    store().swap(None, Item("response", 1, 3600))
    (lock,) = folder(temporary).glob("*.lock")
    lock.unlink()
    lock.symlink_to(temporary / "elsewhere")


def link_new(temporary: Path) -> None:
    store().swap(None, Item("response", 1, 3600))
    Path(f"{file(temporary)}.new").symlink_to(temporary / "elsewhere")


def open_folder(temporary: Path) -> None:
    store().swap(None, Item("response", 1, 3600))
    folder(temporary).chmod(0o777)


def open_file(temporary: Path) -> None:
    store().swap(None, Item("response", 1, 3600))
    file(temporary).chmod(0o640)


def no_folder(temporary: Path) -> None:
    folder(temporary).write_text("")


def no_file(temporary: Path) -> None:
    store().swap(None, Item("response", 1, 3600))
    file(temporary).unlink()
    os.mkfifo(f"{folder(temporary)}/x", 0o600)
    (lock,) = folder(temporary).glob("*.lock")
    (folder(temporary) / "x").rename(str(lock).removesuffix(".lock"))


def no_temporary_folder(temporary: Path) -> None:
    tempfile.tempdir = str(temporary / "gone")


UNSAFE: list[Callable[[Path], None]] = [
    link_folder,
    link_file,
    link_lock,
    link_new,
    open_folder,
    open_file,
    no_folder,
    no_file,
    no_temporary_folder,
]


@pytest.mark.parametrize("arrange", UNSAFE)
def test_what_may_be_anothers_is_not_used(temporary: Path, arrange: Callable[[Path], None]) -> None:
    arrange(temporary)
    with pytest.raises(StoreFailure):
        store().swap(store().get(), Item("response", 1, 3600))
    assert not (temporary / "elsewhere").is_file() or "response" in (temporary / "elsewhere").read_text()


def test_what_is_anothers_is_not_used(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store().swap(None, Item("response", 1, 3600))
    found = folder(temporary)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    found.rename(folder(temporary))
    with pytest.raises(StoreFailure, match="not private to this user"):
        store().get()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"response": 5}', b"\xff" * 100, b"x" * 200_000, b"[" * 60_000]
)
def test_garbage_is_an_item_of_no_use_and_replaced(temporary: Path, content: bytes) -> None:
    store().swap(None, Item("response", 1, 3600))
    file(temporary).write_bytes(content)
    found = store().get()
    assert found is not None
    assert not found.is_usable(10)
    item = Item("response", 1, 3600)
    assert store().swap(found, item) is item


def test_a_lock_that_is_not_given_back_is_not_waited_for(temporary: Path) -> None:
    store().swap(None, Item("response", 1, 3600))
    (path,) = folder(temporary).glob("*.lock")
    with path.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreFailure, match="lock"):
            store(seconds=0.1).swap(None, Item("response", 1, 3600))
        assert store().get() is not None


class Forking(Item):
    """Forks while the lock is held, and ends this process in the midst; the child lives on until it is killed."""

    children: Connection

    def fields(self) -> dict[str, object]:
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        self.children.send(child)
        os._exit(0)


def fork_under_lock(children: Connection) -> None:
    item = Forking("response", 1.5, 3600.5)
    item.children = children
    store().swap(None, item)


def test_a_forked_child_does_not_hold_the_lock() -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=fork_under_lock, args=(theirs,))
    process.start()
    child = ours.recv()
    process.join()  # a timeout would wait for the child too, which holds the end of multiprocessing's pipe
    try:
        item = Item("response", 1.5, 3600.5)
        assert store().swap(None, item) is item
    finally:
        os.kill(child, signal.SIGKILL)


def count_up(times: int) -> None:
    """Add one to what is stored, so many times."""
    for _ in range(times):
        while True:
            seen = store().get()
            new = Item("response", (seen.asked if seen else 0) + 1, 3600)
            stored = store().swap(seen, new)
            if stored is not None and stored.version == new.version:
                break


def test_no_write_is_lost_between_processes() -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=count_up, args=(25,)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = store().get()
    assert found is not None
    assert found.asked == 150


# With a function


def test_it_holds_nothing_but_the_response_as_it_came(function: Function, temporary: Path) -> None:
    function.configure(AWS_LAMBDA_MAX_CONCURRENCY="8")
    token = function.auth().token()
    content = file(temporary).read_text()
    assert json.loads(content)["response"] in function.cerberus.secrets
    assert token not in content
    assert ROLE not in file(temporary).name


@pytest.mark.parametrize("processes", ["1", None])
def test_a_process_alone_writes_nothing(function: Function, temporary: Path, processes: str | None) -> None:
    function.configure(AWS_LAMBDA_MAX_CONCURRENCY=processes)
    function.auth().token()
    assert not folder(temporary).exists()


def test_by_sts_nothing_is_written(function: Function, temporary: Path) -> None:
    function.configure(AWS_LAMBDA_MAX_CONCURRENCY="8", CERBERUS_AUTH_METHOD="sts")
    function.auth().token()
    assert not folder(temporary).exists()


def other_process(function: Function) -> CerberusAuth:
    function.configure(AWS_LAMBDA_FUNCTION_NAME=f"process-{time.monotonic_ns()}")
    return function.auth()


def test_a_token_that_is_refused_is_replaced_for_all(function: Function) -> None:
    function.configure(AWS_LAMBDA_MAX_CONCURRENCY="8")
    clients = [CerberusClient(other_process(function)) for _ in range(3)]
    for client in clients:
        client.read(SECRET_PATH)
    function.stack.cerberus.revoke()
    assert [client.read(SECRET_PATH, fresh=True) for client in clients] == [SECRET] * 3
    assert function.stack.cerberus.authentications == 2


@pytest.mark.parametrize("arrange", UNSAFE)
def test_the_token_comes_from_cerberus_with_one_warning(
    function: Function, temporary: Path, arrange: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    function.configure(AWS_LAMBDA_MAX_CONCURRENCY="8")
    arrange_at(function, temporary, arrange)
    auth = other_process(function)
    before = function.stack.cerberus.authentications
    auth.token()
    auth.invalidate()
    auth.token()
    assert function.stack.cerberus.authentications == before + 2
    (text,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert text.startswith("Shared cache file cannot be used")


def arrange_at(function: Function, temporary: Path, arrange: Callable[[Path], None]) -> None:
    """Break the very file that the function would use."""
    if arrange in (link_file, link_lock, link_new, open_folder, open_file, no_file):
        name = FileStore(ROLE, f"kms {function.stack.cerberus.url} us-west-2", Deadline(1))._name
        arrange(temporary)
        for path in list(folder(temporary).iterdir()):
            path.rename(path.with_name(name + path.suffix))
    else:
        arrange(temporary)


def test_a_full_disk_makes_nobody_fail(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    function.configure(AWS_LAMBDA_MAX_CONCURRENCY="8")
    write = os.write
    monkeypatch.setattr(os, "write", full)
    try:
        assert function.auth().token()
    finally:
        monkeypatch.setattr(os, "write", write)
