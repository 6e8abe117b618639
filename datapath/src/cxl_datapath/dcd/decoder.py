# SPDX-License-Identifier: GPL-3.0-or-later
"""HDM decoders of a device, a switch or a host bridge (CXL 3.1, 8.2.4.20): which host addresses lead where."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..errors import Code, DatapathError
from .payloads import Range
from .registers import Registers

CACHEMEM = 0x1000  # of the CXL.cachemem block in the component registers
COMPONENT_BYTES = 2 * CACHEMEM  # as far as this block reaches
CAP_HDM = 5
GLOBAL_CONTROL, ENABLE = 0x04, 0x2
BASE_LOW, BASE_HIGH, SIZE_LOW, SIZE_HIGH, CONTROL, LEADS_LOW, LEADS_HIGH = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18
LOCK, COMMIT, COMMITTED, ERROR, HOST_ONLY = 1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12
INTERLEAVE = 0xFF
UNIT = 256 << 20
COMMIT_S = 0.1
_COUNTS = (1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32)


@dataclass(frozen=True)
class Decoder:
    """`base` host address, `size` bytes. `leads`: of a device the bytes of device addresses that are skipped before it (its
    device address is the sum of sizes and skips of the decoders below, and this skip); of a switch or bridge the numbers of its
    target ports, a byte for each. A decoder that does not interleave has one, in bits 7 to 0."""

    base: int
    size: int
    leads: int
    control: int

    @property
    def committed(self) -> bool:
        return bool(self.control & COMMITTED)

    @property
    def locked(self) -> bool:
        """Until the next reset of the machine."""
        return bool(self.control & LOCK)

    @property
    def range(self) -> Range:
        return self.base, self.size

    def is_plainly(self, range_: Range, leads: int) -> bool:
        """Whether it takes exactly this range there, and all of it."""
        return self.committed and self.range == range_ and self.leads == leads and not self.control & INTERLEAVE


class Decoders:
    """All decoders of one component. 32-bit accesses only: others read zero and are dropped.

    `place`: offset of its component registers. `device`: whether it is a device, which has a switch for all of its decoders."""

    def __init__(self, registers: Registers, place: int, name: str, device: bool = True) -> None:
        self._io, self._device = registers, device
        self.name = name
        found = find_hdm(registers, place)
        if found is None:
            raise DatapathError(Code.UNSUPPORTED, name, "has no HDM decoders", "is its memory space on?")
        self._base = found
        code = registers.read32(found) & 0xF
        self.count = _COUNTS[code] if code < len(_COUNTS) else 0
        if not self.count or self._base + 0x10 + 0x20 * self.count > registers.size:
            raise DatapathError(Code.UNSUPPORTED, name, "its decoders are of an unknown kind")

    def all(self) -> tuple[Decoder, ...]:
        return tuple(self._read(number) for number in range(self.count))

    def commit(self, number: int, range_: Range, leads: int) -> None:
        """Programs a decoder that is not committed. Raises `failed` when the hardware refuses."""
        write, (base, size) = self._io.write32, range_
        if self._device:
            write(self._base + GLOBAL_CONTROL, self._io.read32(self._base + GLOBAL_CONTROL) | ENABLE)
        self._place(number, range_)
        for offset, value in ((LEADS_HIGH, leads >> 32), (LEADS_LOW, leads & 0xFFFFFFFF), (CONTROL, HOST_ONLY | COMMIT)):
            write(self._at(number) + offset, value)
        end = time.monotonic() + COMMIT_S
        while not (now := self._read(number)).committed:
            if now.control & ERROR or time.monotonic() > end:
                self.uncommit(number)
                what = f"decoder {number} did not commit {size:#x} bytes at {base:#x} (control {now.control:#x})"
                raise DatapathError(Code.FAILED, self.name, what, "see dmesg")

    def uncommit(self, number: int) -> None:
        """Also empties it: QEMU asks the first decoder that covers an address, whether it is committed or not."""
        self._io.write32(self._at(number) + CONTROL, HOST_ONLY)
        self._place(number, (0, 0))

    def _place(self, number: int, range_: Range) -> None:
        (base, size), at = range_, self._at(number)
        for offset, value in ((BASE_HIGH, base >> 32), (BASE_LOW, base), (SIZE_HIGH, size >> 32), (SIZE_LOW, size)):
            self._io.write32(at + offset, value & 0xFFFFFFFF)

    def _at(self, number: int) -> int:
        return self._base + 0x10 + 0x20 * number

    def _read(self, number: int) -> Decoder:
        at, read = self._at(number), self._io.read32
        pairs = ((BASE_HIGH, BASE_LOW), (SIZE_HIGH, SIZE_LOW), (LEADS_HIGH, LEADS_LOW))
        base, size, leads = (read(at + high) << 32 | read(at + low) for high, low in pairs)
        return Decoder(base, size, leads, read(at + CONTROL))


def find_hdm(registers: Registers, place: int) -> int | None:
    """Where the decoders of the component registers at `place` are, None without any: a bridge with one root port needs none."""
    base = place + CACHEMEM
    if base % 4 == 0 and base + 4 <= registers.size and (header := registers.read32(base)) & 0xFFFF == 1:
        for entry in range(base + 4, min(base + 4 * (header >> 24) + 4, registers.size - 3), 4):
            word = registers.read32(entry)
            offset = base + (word >> 20)
            if word & 0xFFFF == CAP_HDM and offset % 4 == 0 and offset + 0x30 <= registers.size:
                return offset
    return None
