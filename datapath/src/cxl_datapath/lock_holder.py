# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has a file locked, in words: the kernel knows the process, and one of our workers tells by its lock file what it is."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_OWN_LOCK = re.compile(r"(?P<runtime>/.*)/(?P<kind>backend|blkdev)-[0-9a-f-]{36}-(?P<number>[0-9]+)\.lock")
_UNKNOWN = "another process"


def lock_holder(fd: int, proc: Path = Path("/proc")) -> str:
    """The first process that has a lock on the file behind `fd`; never raises."""
    found = os.fstat(fd)
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (proc / "locks").read_text().splitlines():
            # number, kind, mode, access, pid, file, first and last byte; one that waits has an arrow after its number
            fields = line.split()
            if fields[5] == file and fields[1] != "->" and int(fields[4]) > 0:
                return _named(int(fields[4]), proc)
    return _UNKNOWN


def _named(pid: int, proc: Path) -> str:
    """Raises OSError when the process is gone."""
    name = (proc / str(pid) / "comm").read_text().strip()
    return f"{_own_work(pid, proc) or name} (process {pid})"


def _own_work(pid: int, proc: Path) -> str:
    """What a worker of a daemon of this machine is; empty for other processes, and those of other users."""
    with contextlib.suppress(OSError):
        for each in (proc / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                if ours := _OWN_LOCK.fullmatch(str(each.readlink())):
                    return f"{ours['kind']} {ours['number']} of the daemon in {ours['runtime']}"
    return ""
