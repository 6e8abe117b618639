# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the kernel still has the disk that a backend serves.

One that was pulled out, or whose session ended, answers every request with an error for ever, also when it is back: then the
kernel has it as a new device, and only who opens its path again reaches that.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import Code, DatapathError


class Presence:
    """Of the block device behind a descriptor; files, and media without a descriptor (-1), are always there."""

    def __init__(self, path: str, fd: int, sysfs: Path = Path("/sys")) -> None:
        self._path = path
        self._entry = None if fd < 0 else _entry(os.fstat(fd), sysfs)

    def check(self) -> None:
        """Raises `not_ready` once the kernel has removed the device."""
        if self._entry is not None and not self._entry.exists():
            hint = "bring it back: its backend goes on with it by itself"
            raise DatapathError(Code.NOT_READY, self._path, "was removed from this host while it was served", hint)


def _entry(found: os.stat_result, sysfs: Path) -> Path | None:
    """None where nobody tells."""
    entry = sysfs / f"dev/block/{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return entry if stat.S_ISBLK(found.st_mode) and entry.exists() else None
