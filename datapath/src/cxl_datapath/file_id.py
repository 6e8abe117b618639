# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file a backend was started on: another one that took its path has other data."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Any, Self

from .cbd.hosting import boot_id
from .names import check_name
from .schema import integer

_NUMBER = integer(0, (1 << 64) - 1)


@dataclass(frozen=True)
class FileId:
    """A regular file. Files keep their numbers over a boot, the devices below them do not: `device` counts within `boot` only."""

    inode: int  # st_ino
    device: int  # st_dev
    boot: str  # boot id, 32 hex digits

    @classmethod
    def of(cls, fd: int) -> Self | None:
        """None for a block device, and for a medium without a descriptor (-1)."""
        found = os.fstat(fd) if fd >= 0 else None
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        return cls(found.st_ino, found.st_dev, boot_id().hex())

    @classmethod
    def from_json(cls, raw: Any) -> Self | None:
        """Raises `invalid`, KeyError, TypeError."""
        if raw is None:
            return None
        return cls(_NUMBER("inode", raw["inode"]), _NUMBER("device", raw["device"]), check_name("boot", raw["boot"]))

    def is_same(self, other: FileId | None) -> bool:
        if other is None or self.inode != other.inode:
            return False
        return self.device == other.device or self.boot != other.boot
