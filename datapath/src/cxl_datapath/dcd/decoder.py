# SPDX-License-Identifier: GPL-3.0-or-later
"""HDM decoders of an endpoint (CXL 3.1, 8.2.4.20): which host addresses lead to which device addresses."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..errors import Code, DatapathError
from .config import Place
from .registers import Registers

CACHEMEM = 0x1000  # of the CXL.cachemem block in the component registers
CAP_HDM = 5
GLOBAL_CONTROL, ENABLE = 0x04, 0x2
BASE_LOW, BASE_HIGH, SIZE_LOW, SIZE_HIGH, CONTROL, SKIP_LOW, SKIP_HIGH = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18
COMMIT, COMMITTED, ERROR, HOST_ONLY = 1 << 9, 1 << 10, 1 << 11, 1 << 12
INTERLEAVE = 0xFF
UNIT = 256 << 20
COMMIT_S = 0.1
_COUNTS = {0: 1, 1: 2, 2: 4, 3: 6, 4: 8, 5: 10}


@dataclass(frozen=True)
class Decoder:
    """`base` host address, `size` bytes; the device address is the sum of sizes and skips of the decoders below, and `skip`."""

    base: int
    size: int
    skip: int
    control: int

    @property
    def committed(self) -> bool:
        return bool(self.control & COMMITTED)


@dataclass(frozen=True)
class DecoderPlan:
    """What decoder 0 is to be: device address 0 at `base`."""

    base: int
    size: int
    program: bool  # False: it is that already


def plan_decoder(have: list[Decoder], size: int, window: tuple[int, int]) -> DecoderPlan:
    """Maps device addresses from 0 to `size` at the beginning of the window (base, size).

    Raises `busy` when somebody else has programmed a decoder, `full` when the window is too small, `invalid` off the grid."""
    base, room = window
    if size <= 0 or size % UNIT or base % UNIT:
        raise DatapathError(Code.INVALID, "decoder 0", f"{size:#x} bytes at {base:#x} are not whole units of 256 MiB")
    if size > room:
        hint = "make the window larger in the topology"
        raise DatapathError(Code.FULL, "fixed memory window", f"has {room:#x} bytes, the device needs {size:#x}", hint)
    if not any(decoder.committed for decoder in have):
        return DecoderPlan(base, size, program=True)
    first = have[0]
    if (first.base, first.size, first.skip, first.control & INTERLEAVE) == (base, size, 0, 0) and first.committed:
        return DecoderPlan(base, size, program=False)
    hint = "destroy the region that has it (cxl destroy-region), or restart the machine"
    raise DatapathError(Code.BUSY, "decoder 0", f"leads {first.size:#x} bytes at {first.base:#x} elsewhere already", hint)


class Decoders:
    """The decoders of one endpoint. 32-bit accesses only: others read zero and are dropped."""

    def __init__(self, registers: Registers, place: Place, name: str) -> None:
        self._io = registers
        self._name = name
        self._base = _hdm(registers, place.offset + CACHEMEM, name)
        self.count = _COUNTS.get(registers.read32(self._base) & 0xF, 0)
        if not self.count or self._base + 0x10 + 0x20 * self.count > registers.size:
            raise DatapathError(Code.UNSUPPORTED, name, "its decoders are of an unknown kind")

    def all(self) -> list[Decoder]:
        return [self._read(number) for number in range(self.count)]

    def commit(self, plan: DecoderPlan) -> None:
        """Programs decoder 0. Raises `failed` when the device refuses."""
        at, write = self._base + 0x10, self._io.write32
        write(self._base + GLOBAL_CONTROL, self._io.read32(self._base + GLOBAL_CONTROL) | ENABLE)
        for offset, value in (
            (BASE_HIGH, plan.base >> 32),
            (BASE_LOW, plan.base & 0xFFFFFFFF),
            (SIZE_HIGH, plan.size >> 32),
            (SIZE_LOW, plan.size & 0xFFFFFFFF),
            (SKIP_HIGH, 0),
            (SKIP_LOW, 0),
            (CONTROL, HOST_ONLY | COMMIT),
        ):
            write(at + offset, value)
        end = time.monotonic() + COMMIT_S
        while not (now := self._read(0)).committed:
            if now.control & ERROR or time.monotonic() > end:
                self.uncommit()
                raise DatapathError(Code.FAILED, self._name, f"decoder 0 did not commit (control {now.control:#x})", "see dmesg")

    def uncommit(self) -> None:
        self._io.write32(self._base + 0x10 + CONTROL, HOST_ONLY)

    def _read(self, number: int) -> Decoder:
        at, read = self._base + 0x10 + 0x20 * number, self._io.read32
        pairs = [read(at + high) << 32 | read(at + low) for high, low in ((4, 0), (0x0C, 8), (0x18, 0x14))]
        return Decoder(pairs[0], pairs[1], pairs[2], read(at + CONTROL))


def _hdm(registers: Registers, base: int, name: str) -> int:
    if base % 4 == 0 and base + 4 <= registers.size and (header := registers.read32(base)) & 0xFFFF == 1:
        for entry in range(base + 4, min(base + 4 * (header >> 24) + 4, registers.size - 3), 4):
            word = registers.read32(entry)
            offset = base + (word >> 20)
            if word & 0xFFFF == CAP_HDM and offset % 4 == 0 and offset + 0x30 <= registers.size:
                return offset
    raise DatapathError(Code.UNSUPPORTED, name, "has no HDM decoders", "is its memory space on?")
