# SPDX-License-Identifier: GPL-3.0-or-later
"""A RAM disk of the brd driver with an optional partition: what to do so that it is there, or so that it is gone.

All RAM disks of a host have one size, fixed when the driver is loaded, so a host has one kind of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .block_device import read_signature
from .errors import LabError
from .runner import Runner
from .sizes import format_size, parse_size
from .steps import Step

_NAME = re.compile(r"ram(\d|1[0-5])")
_SECTOR = 512
_MAX_PART = 16  # minors for each disk; with fewer the kernel makes no partition nodes
_PARTITION_TABLE = "label: gpt\n,\n"


@dataclass(frozen=True)
class RamdiskWant:
    """A disk ramN of ``size`` bytes; ``partitions`` 1 puts one partition over all of it, 0 none."""

    name: str
    size: int
    partitions: int

    @property
    def subject(self) -> str:
        return f"RAM disk {self.name}"

    @property
    def device(self) -> str:
        """What a user of the disk opens: /dev/ram0p1, or /dev/ram0 without a partition."""
        return f"/dev/{self.name}p1" if self.partitions else f"/dev/{self.name}"


@dataclass(frozen=True)
class RamdiskState:
    """``disks`` names all RAM disks of the host; ``size`` is 0 while the wanted one is missing; ``content`` says what lies on it
    ("" while it is blank)."""

    disks: tuple[str, ...]
    size: int
    partitions: tuple[str, ...]
    content: str


def parse_want(name: str, size: str, partitions: int) -> RamdiskWant:
    """Checks what the user asked for.

    :raises LabError: for another name than ram0 to ram15, or a size that is not n x 4 KiB.
    """
    if not _NAME.fullmatch(name):
        raise LabError("RAM disk", f"{name!r} is no name of a RAM disk", "use ram0 to ram15")
    want = RamdiskWant(name, parse_size(size, f"RAM disk {name}"), partitions)
    if want.size % 4096:
        raise LabError(want.subject, f"{size} is not a multiple of 4 KiB", 'use for example "256M"')
    return want


def observe(runner: Runner, name: str, blocks: Path = Path("/sys/block")) -> RamdiskState:
    """What the host has of RAM disks."""
    disks = tuple(sorted(path.name for path in blocks.glob("ram[0-9]*")))
    if name not in disks:
        return RamdiskState(disks, 0, (), "")
    folder = blocks / name
    size = int((folder / "size").read_text(encoding="ascii")) * _SECTOR
    signature = read_signature(runner, f"/dev/{name}")
    partitions = tuple(sorted(path.name for path in folder.glob(f"{name}p*")))
    return RamdiskState(disks, size, partitions, signature.type if signature else "")


def plan_present(want: RamdiskWant, have: RamdiskState) -> list[Step]:
    """The steps to the disk and its partition; none when they are there.

    :raises LabError: when the driver is loaded with other parameters, or when something else lies on the disk.
    """
    steps = []
    if not have.disks:
        number = int(want.name.removeprefix("ram")) + 1
        argv = ("modprobe", "brd", f"rd_nr={number}", f"rd_size={want.size // 1024}", f"max_part={_MAX_PART}")
        steps.append(Step(f"load brd with {number} disk(s) of {format_size(want.size)}", argv))
    elif have.size != want.size:
        found = f"{want.name} of {format_size(have.size)}" if have.size else f"no {want.name}, only {', '.join(have.disks)}"
        step = "stop what uses the RAM disks and run: modprobe -r brd"
        raise LabError(want.subject, f"brd is loaded with {found}, not with {format_size(want.size)}", step)
    if len(have.partitions) == want.partitions:
        return steps
    if have.partitions or have.content:
        holds = ", ".join(have.partitions) or have.content
        raise LabError(
            want.subject, f"holds {holds} already", f"wipe it yourself (wipefs -a /dev/{want.name}) if nobody needs it"
        )
    return [*steps, Step(f"put one partition on {want.name}", ("sfdisk", "--quiet", f"/dev/{want.name}"), _PARTITION_TABLE)]


def plan_absent(want: RamdiskWant, have: RamdiskState) -> list[Step]:
    """The step after which the disk is gone with everything on it. Only a disk that is alone can go, for all go at once.

    :raises LabError: when there are others. The kernel itself refuses while one is in use.
    """
    if want.name not in have.disks:
        return []
    others = [name for name in have.disks if name != want.name]
    if others:
        raise LabError(want.subject, f"cannot go alone: {', '.join(others)} would go too", "run yourself: modprobe -r brd")
    return [Step("unload brd", ("modprobe", "-r", "brd"))]


def describe(want: RamdiskWant, have: RamdiskState) -> dict[str, Any] | None:
    """What a module returns of the disk; None when there is none."""
    if not have.size:
        return None
    return {"name": want.name, "size": have.size, "partitions": list(have.partitions), "device": want.device}
