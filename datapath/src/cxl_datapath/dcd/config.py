# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration space of a CXL device: extended capabilities, DVSECs (CXL 3.1, 8.1) and the register locator (8.1.9)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import Code, DatapathError
from .registers import Function

CXL_VENDOR = 0x1E98
COMMAND, COMMAND_MEMORY = 0x04, 0x2
CAP_SERIAL, CAP_DVSEC = 0x0003, 0x0023
DVSEC_DEVICE, DVSEC_LOCATOR = 0, 8
BLOCK_COMPONENT, BLOCK_DEVICE = 1, 3
CONTROL, MEM_ENABLE = 0x0C, 0x4
_FIRST, _END = 0x100, 0x1000


@dataclass(frozen=True)
class Place:
    """A register block: number of the BAR and offset in it."""

    bar: int
    offset: int


def capabilities(config: bytes) -> Iterator[tuple[int, int]]:
    """Identity and offset of each extended capability. Ends at a list that leads nowhere or in a circle."""
    offset, seen = _FIRST, set()
    while _FIRST <= offset <= min(_END, len(config)) - 12 and offset % 4 == 0 and offset not in seen:
        seen.add(offset)
        header = struct.unpack_from("<I", config, offset)[0]
        if header & 0xFFFF in (0, 0xFFFF):
            return
        yield header & 0xFFFF, offset
        offset = header >> 20


def serial_number(config: bytes) -> int | None:
    """From the PCIe Device Serial Number; sysfs shows it only while the kernel's driver has the device."""
    for identity, offset in capabilities(config):
        if identity == CAP_SERIAL:
            return int(struct.unpack_from("<Q", config, offset + 4)[0])
    return None


def dvsec(config: bytes, wanted: int, name: str) -> int:
    """The offset of a CXL DVSEC. Raises `unsupported` when the function has none."""
    for identity, offset in capabilities(config):
        vendor, found = struct.unpack_from("<HxxH", config, offset + 4)
        if (identity, vendor, found) == (CAP_DVSEC, CXL_VENDOR, wanted):
            return offset
    raise DatapathError(Code.UNSUPPORTED, name, f"has no CXL DVSEC {wanted}", "name a CXL memory device")


def locate(config: bytes, name: str, wanted: tuple[int, ...] = (BLOCK_COMPONENT, BLOCK_DEVICE)) -> dict[int, Place]:
    """Places of the register blocks by their kind. Raises `unsupported` when one of the wanted ones is missing."""
    start = dvsec(config, DVSEC_LOCATOR, name)
    length = struct.unpack_from("<I", config, start + 4)[0] >> 20
    found: dict[int, Place] = {}
    for entry in range(start + 0x0C, min(start + length, len(config)) - 7, 8):
        low, high = struct.unpack_from("<II", config, entry)
        if (kind := low >> 8 & 0xFF) and low & 7 < 6:
            found.setdefault(kind, Place(low & 7, high << 32 | low & 0xFFFF0000))
    if missing := set(wanted) - found.keys():
        raise DatapathError(Code.UNSUPPORTED, name, f"locates no register block {min(missing)}", "name a CXL memory device")
    return found


def enable_memory(function: Function) -> None:
    """Memory space of the function (Command register): without it every register reads as ones."""
    command = struct.unpack_from("<H", function.config(), COMMAND)[0]
    if not command & COMMAND_MEMORY:
        function.write_config16(COMMAND, command | COMMAND_MEMORY)


def set_mem_enable(function: Function, on: bool) -> None:
    """Mem_Enable of the CXL control register (8.1.3). Left on over a reboot, the kernel takes the ranges for the firmware's."""
    offset = dvsec(function.config(), DVSEC_DEVICE, function.name) + CONTROL
    control = struct.unpack_from("<H", function.config(), offset)[0]
    wanted = control | MEM_ENABLE if on else control & ~MEM_ENABLE
    if wanted != control:
        function.write_config16(offset, wanted)
