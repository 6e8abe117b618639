# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes as owners of contexts: a pid alone is soon somebody else's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .refusal import invalid


@dataclass(frozen=True)
class Process:
    pid: int
    start: int  # clock ticks after boot, of proc(5)
    uid: int
    parent: int  # pid

    def is_same(self, other: Process) -> bool:
        return (self.pid, self.start) == (other.pid, other.start)


def look_up(pid: int, uid: int) -> Process:
    """The process of that pid now. Raises `Refusal` when it is gone, or outside our pid namespace (0)."""
    try:
        # The name is in parentheses and may hold any byte: what follows the last one counts.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return Process(pid, int(fields[19]), uid, int(fields[1]))
    except (OSError, ValueError, IndexError):
        raise invalid(f"there is no process {pid} on this host") from None


def open_pidfd(process: Process) -> int:
    """A descriptor that is readable once the process has ended. Raises `Refusal` when it has."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        raise invalid(f"process {process.pid} is gone") from None
    if not look_up(process.pid, process.uid).is_same(process):
        os.close(fd)
        raise invalid(f"process {process.pid} is gone")
    return fd
