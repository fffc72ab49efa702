"""A function under SnapStart, restored twice from one snapshot.

A snapshot is a copy of the process's memory that the process knows nothing of. The nearest to it is the system's own fork,
beneath Python's: ``os.fork`` would run the hooks that a process has for forks, and hide what those for restores leave out.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from snapshot_restore_py import register_after_restore

from cerberus_auth import CerberusAuth, CerberusClient

in_snapshot: dict[str, bool] = {}


def copy() -> None:
    in_snapshot.update(token=bool(auth.service.tokens.kept), connections=any(auth.service.transport._idle.values()))
    ctypes.PyDLL(None).fork()


register_after_restore(copy)  # the first hook, so that both copies run all others
auth = CerberusAuth()
cerberus = CerberusClient(auth)
path = os.environ["SECRET_PATH"]
token_before = auth.token() if os.environ.get("USED_BEFORE_THE_SNAPSHOT") else ""
if token_before:
    cerberus.read(path)


def handler(event: Any, context: Any) -> dict[str, Any]:
    secret = cerberus.read(path)
    return {
        "pid": os.getpid(),
        "in_snapshot": in_snapshot,
        "before": token_before,
        "token": auth.token(),
        "secret": secret,
        "jitter": auth.service.tokens.jitter,
    }
