# SPDX-License-Identifier: GPL-3.0-or-later
"""Loop devices that show a file: whoever uses them, a mount for example, writes the file and asks for none of its locks."""

from __future__ import annotations

import os
from pathlib import Path

_DELETED = " (deleted)"


def loop_of(fd: int, sysfs: Path = Path("/sys")) -> str | None:
    """The name of a loop device over the file behind a descriptor; None without one, or when its path is outdated."""
    wanted = os.fstat(fd)
    for shown in sorted(sysfs.glob("block/loop*/loop/backing_file")):
        try:
            path = Path(shown.read_text(errors="surrogateescape").rstrip("\n").removesuffix(_DELETED))
            if os.path.samestat(path.stat(), wanted):
                return shown.parent.parent.name
        except OSError:
            continue  # let go of its file meanwhile
    return None
