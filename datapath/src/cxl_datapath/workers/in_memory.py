# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the bytes of a medium are in memory: a request to it is a copy and never waits, so that it is performed at once."""

from __future__ import annotations

import os
from pathlib import Path

_RAM_DISK_MAJOR = 1  # Documentation/admin-guide/devices.txt: "1 block"
_FILE_SYSTEMS = ("tmpfs", "ramfs")


def block_device_in_memory(number: int) -> bool:
    """A RAM disk, or persistent memory (whose queue says that it can be mapped); `number`: st_rdev. A partition is its disk's."""
    folder = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    disk = folder if (folder / "queue").is_dir() else folder.parent
    return _read(disk / "dev").startswith(f"{_RAM_DISK_MAJOR}:") or _read(disk / "queue" / "dax") == "1"


def file_in_memory(number: int) -> bool:
    """A file on a file system without a device below it; `number`: st_dev."""
    name = f"{os.major(number)}:{os.minor(number)}"
    for line in _read(Path("/proc/self/mountinfo")).splitlines():
        # proc(5): id, parent, device, root, mount point, options, any optional fields, "-", type, source, options
        fields, _, kind = line.partition(" - ")
        if fields.split()[2] == name:
            return kind.split()[0] in _FILE_SYSTEMS
    return False


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
