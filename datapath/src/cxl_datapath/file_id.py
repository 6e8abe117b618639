# SPDX-License-Identifier: GPL-3.0-or-later
"""Which regular file it is, whatever its path. See `medium_id` for what a backend is started on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .cbd.hosting import boot_id
from .errors import Code, DatapathError
from .schema import integer

NUMBER = integer(0, (1 << 64) - 1)
_FS_IOC_GETVERSION = 0x80087601  # ioctl_iflags(2): a number that a file system gives to each use of an inode


@dataclass(frozen=True)
class FileId:
    """A regular file. Files keep their numbers over a boot, the devices below them do not: `device` counts within `boot` only."""

    inode: int  # st_ino
    device: int  # st_dev
    boot: str  # boot id, 32 hex digits
    generation: int = 0  # of the inode, which a new file may get once the old one is gone; 0 where nobody tells

    @classmethod
    def of(cls, fd: int) -> Self | None:
        """None for what is no regular file, and for a medium without a descriptor (-1)."""
        found = os.fstat(fd) if fd >= 0 else None
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        return cls(found.st_ino, found.st_dev, boot_id().hex(), _generation(fd))

    @classmethod
    def from_json(cls, raw: Any) -> Self | None:
        """Raises `invalid`, KeyError, TypeError."""
        if raw is None:
            return None
        numbers = (NUMBER("inode", raw["inode"]), NUMBER("device", raw["device"]))
        return cls(*numbers, boot_of(raw["boot"]), NUMBER("generation", raw.get("generation", 0)))

    def is_same(self, other: object) -> bool:
        if not isinstance(other, FileId) or self.inode != other.inode:
            return False
        if 0 not in (self.generation, other.generation) and self.generation != other.generation:
            return False
        return self.device == other.device or self.boot != other.boot


def why_not_at(path: str, was: os.stat_result) -> str:
    """Why a file that is open, and was that then, is not what is found at `path` now; empty when it is, or nobody can tell."""
    try:
        found = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return "its file is not at its path any more"
    except OSError:
        return ""
    return "" if os.path.samestat(found, was) else "another file is at its path now"


def _generation(fd: int) -> int:
    number = bytearray(8)  # the kernel writes an int, whatever the size in the request says
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, _FS_IOC_GETVERSION, number)
    return int.from_bytes(number[:4], "little")


def boot_of(value: Any) -> str:
    """The boot id that somebody wrote down. Raises `invalid`."""
    # Digits alone are right, too: zeros where the kernel does not tell.
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value):
        return value
    raise DatapathError(Code.INVALID, "boot", f"{value!r:.60} is no boot id of 32 hex digits")
