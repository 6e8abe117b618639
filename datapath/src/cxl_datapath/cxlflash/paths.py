# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether more than one path leads to the medium of a LUN: the kernel joins paths into a multipath map."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_SYSFS = Path("/sys/dev/block")


def several_paths(path: str, sysfs: Path = _SYSFS) -> bool:
    """False for what cannot be looked at, too; `sysfs`: the folder with the block devices by number."""
    try:
        found = Path(path).stat()
        if not stat.S_ISBLK(found.st_mode):
            return False
        return joins_paths(sysfs / f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")
    except OSError:
        return False


def joins_paths(device: Path) -> bool:
    """Of a device's folder in sysfs. Raises OSError when it is no map."""
    return (device / "dm" / "uuid").read_text().startswith("mpath-") and len(list((device / "slaves").iterdir())) > 1
