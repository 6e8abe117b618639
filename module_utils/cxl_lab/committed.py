# SPDX-License-Identifier: GPL-3.0-or-later
"""Which memory this machine has mapped since its QEMU began, so that no region ever shows the bytes of another.

QEMU 11.1 maps a region of one memdev straight into the guest when its decoder is committed, and takes that away only
with the device (`unmapped`): not when the region is destroyed, and not at a reset. A region that comes to the same addresses
later reads and writes the old memory, unless QEMU lays a mapping of its own over it. It does so once for each memdev.

A machine of a lab has a number of its own for each start of its QEMU (the device "vmgenid"). A machine without one is no such
machine, and nothing is remembered for it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Sequence

from .cxl_list import format_serial
from .durable import write_whole
from .errors import LabError

_LIFE = Path("sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw")
_RECORD = Path("var/lib/cxl-lab/committed.json")


@dataclass(frozen=True)
class Mapping:
    """``size`` bytes at the host physical address ``base`` that were those of one memdev from its address ``dpa`` on."""

    serial: int
    base: int
    size: int
    dpa: int

    def hides(self, serials: Sequence[int], base: int, size: int, dpa: int) -> bool:
        """Whether a region over these memdevs would show other bytes here than its own."""
        if base + size <= self.base or self.base + self.size <= base:
            return False
        return list(serials) != [self.serial] or base - dpa != self.base - self.dpa

    def shows(self, base: int, size: int, dpa: int) -> bool:
        """Whether a region of this memdev lies in this mapping with all of its bytes."""
        return self.base <= base and base + size <= self.base + self.size and base - dpa == self.base - self.dpa


class Committed:
    """What was mapped in this life of the machine. ``root`` is the root folder of the host."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._file = root / _RECORD
        self._life = _read(root / _LIFE)

    def mappings(self) -> list[Mapping]:
        """Everything since QEMU began; nothing on a machine that is none of a lab."""
        try:
            record = json.loads(self._file.read_text(encoding="utf-8"))
            if not self._life or record["life"] != self._life:
                return []
            return [Mapping(**row) for row in record["mappings"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LabError(
                str(self._file), f"cannot be read: {error!r}", "switch the host off and on, and remove the file"
            ) from error

    def check(self, subject: str, serials: Sequence[int], base: int, size: int, dpa: int) -> None:
        """
        :param base: host physical address of a region that was just made.
        :param dpa: where it begins on its first memdev.
        :raises LabError: when it would show bytes of others.
        """
        known = self.mappings()
        # The first mapping of a memdev lies over all older ones, and QEMU makes no second one.
        first = next((index for index, one in enumerate(known) if [one.serial] == list(serials)), len(known))
        if len(serials) == 1 and (first == len(known) or known[first].shows(base, size, dpa)):
            known = known[first + 1 :]
        hiding = next((one for one in known if one.hides(serials, base, size, dpa)), None)
        if hiding:
            problem = f"QEMU still shows memory of memdev {format_serial(hiding.serial)} at {hiding.base:#x}, not this region's"
            raise LabError(subject, problem, "switch the host off and on (cxl_power), then make the region")

    def remember(self, serials: Sequence[int], base: int, size: int, dpa: int) -> None:
        """Keeps what QEMU maps for a region; those that interleave it does not map."""
        new = Mapping(serials[0], base, size, dpa)
        known = self.mappings()
        if self._life and len(serials) == 1 and new not in known:
            rows = [asdict(one) for one in (*known, new)]
            write_whole(self._file, json.dumps({"life": self._life, "mappings": rows}, indent=1) + "\n")


def _read(file: Path) -> str:
    try:
        return file.read_bytes().strip(b"\0").hex()
    except OSError:
        return ""
