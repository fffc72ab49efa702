"""A CPU quota for processes, as Lambda gives one to a handler: by a cgroup, of version 1 or 2."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

FULL_CPU_MEMORY = 1769  # MB at which Lambda gives one whole CPU
PERIOD_MICROSECONDS = 20_000  # as on Lambda


class QuotaUnavailableError(Exception):
    """This machine does not let us limit the CPU of a process; the text says why."""


@contextlib.contextmanager
def cpu_quota(share: float) -> Iterator[Path]:
    """Make a cgroup whose processes get this share of one CPU; its folder. It is removed at the end.

    :raises QuotaUnavailableError: no permission, or no cgroup with the CPU controller.
    """
    quota = max(1000, round(share * PERIOD_MICROSECONDS))  # microseconds; the kernel takes no less
    try:
        parent, is_unified = _parent()
        if is_unified:
            (parent / "cgroup.subtree_control").write_text("+cpu")
        group = parent / f"cerberus-auth-bench-{os.getpid()}"
        group.mkdir()
    except OSError as error:
        raise QuotaUnavailableError(f"cannot make a cgroup ({error})") from error
    try:
        try:
            if is_unified:
                (group / "cpu.max").write_text(f"{quota} {PERIOD_MICROSECONDS}")
            else:
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
                (group / "cpu.cfs_quota_us").write_text(str(quota))
        except OSError as error:
            raise QuotaUnavailableError(f"cannot set a CPU quota ({error})") from error
        yield group
    finally:
        group.rmdir()


def _parent() -> tuple[Path, bool]:
    """The root of the cgroups that control the CPU, and whether it is of version 2."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, options, *_ = line.split(" ")
        if kind == "cgroup" and "cpu" in options.split(","):
            return Path(mount), False
        if kind == "cgroup2" and "cpu" in Path(mount, "cgroup.controllers").read_text().split():
            return Path(mount), True
    raise QuotaUnavailableError("no cgroup with the CPU controller is mounted")
