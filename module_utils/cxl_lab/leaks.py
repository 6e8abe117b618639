# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices that went without their host letting go: remembered for each host, so that nobody gets their memory again.

A leak ends when the QEMU of the host ends, and with it the objects that hold the memory.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Iterable

from .durable import write_whole
from .errors import LabError


@dataclass(frozen=True)
class Leak:
    """A device that leaked: why, and which objects of QEMU hold its memory."""

    name: str
    reason: str
    objects: tuple[str, ...]


class Leaks:
    """The leaks of one host, in a file of its folder."""

    def __init__(self, host_folder: Path) -> None:
        self._file = host_folder / "leaks.json"

    def there(self) -> bool:
        """Whether there ever was one."""
        return self._file.exists()

    def load(self, objects: Iterable[str]) -> list[Leak]:
        """Those that last.

        :param objects: all memory objects that the QEMU of the host has now; none where it is off.
        :raises LabError: when the file cannot be read: then nobody knows, and nothing may be attached.
        """
        if not self.there():
            return []
        try:
            rows = json.loads(self._file.read_text(encoding="utf-8"))
            leaks = [Leak(str(row["name"]), str(row["reason"]), tuple(map(str, row["objects"]))) for row in rows]
        except (OSError, ValueError, KeyError, TypeError) as error:
            step = "switch the host off, remove the file, and switch it on"
            raise LabError(str(self._file), f"cannot be read: {error!r}", step) from error
        living = set(objects)
        return [leak for leak in leaks if living & set(leak.objects)]

    def save(self, leaks: Iterable[Leak]) -> None:
        write_whole(self._file, json.dumps([asdict(leak) for leak in leaks], indent=1) + "\n")
