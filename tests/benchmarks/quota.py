"""A CPU quota for processes like Lambda's for handlers, by a cgroup of version 1 or 2."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

FULL_CPU_MEMORY = 1769  # MB at which Lambda provides one full CPU
PERIOD_MICROSECONDS = 20_000  # as on Lambda


class QuotaUnavailableError(Exception):
    """This machine does not allow CPU quotas. The message says why."""


@contextlib.contextmanager
def cpu_quota(share: float) -> Iterator[Path]:
    """Create a cgroup whose processes get a share of one CPU, and remove it at the end.

    Parameters
    ----------
    share
        The share of one CPU: from 0 to 1.

    Raises
    ------
    QuotaUnavailableError
        The permission or a cgroup with the CPU controller is missing.
    """
    quota = max(1000, round(share * PERIOD_MICROSECONDS))  # microseconds; the kernel's minimum is 1,000
    try:
        parent, is_unified = _parent()
        if is_unified:
            (parent / "cgroup.subtree_control").write_text("+cpu")
        group = parent / f"cerberus-auth-bench-{os.getpid()}"
        group.mkdir()
    except OSError as error:
        raise QuotaUnavailableError(f"a cgroup cannot be created ({error})") from error
    try:
        try:
            if is_unified:
                (group / "cpu.max").write_text(f"{quota} {PERIOD_MICROSECONDS}")
            else:
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
                (group / "cpu.cfs_quota_us").write_text(str(quota))
        except OSError as error:
            raise QuotaUnavailableError(f"the CPU quota cannot be set ({error})") from error
        yield group
    finally:
        group.rmdir()


def _parent() -> tuple[Path, bool]:
    """Return the root of the cgroups with the CPU controller, and whether it is version 2."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, options, *_ = line.split(" ")
        if kind == "cgroup" and "cpu" in options.split(","):
            return Path(mount), False
        if kind == "cgroup2" and "cpu" in Path(mount, "cgroup.controllers").read_text().split():
            return Path(mount), True
    raise QuotaUnavailableError("no cgroup with the CPU controller is mounted")
