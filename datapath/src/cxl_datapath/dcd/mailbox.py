# SPDX-License-Identifier: GPL-3.0-or-later
"""The primary mailbox of a CXL device (CXL 3.1, 8.2.8.4) and its event status (8.2.8.3.1)."""

from __future__ import annotations

import time

from ..errors import Code, DatapathError
from .config import Place
from .registers import Registers

CAP_STATUS, CAP_MAILBOX, CAP_MEMDEV = 0x0001, 0x0002, 0x4000
CAPABILITY, CONTROL, COMMAND, STATUS, PAYLOAD = 0x00, 0x04, 0x08, 0x10, 0x20
DOORBELL = 1
READY = 1 << 4
TIMEOUT_S = 2.0  # the specification's limit for a foreground command

INVALID_ADDRESS, INVALID_EXTENTS = 0x0F, 0x1E
_CODES = {
    0x02: "Invalid Input",
    0x03: "Unsupported",
    0x04: "Internal Error",
    0x05: "Retry Required",
    0x06: "Busy",
    0x07: "Media Disabled",
    0x0E: "Invalid Handle",
    INVALID_ADDRESS: "Invalid Physical Address",
    0x16: "Invalid Payload Length",
    0x17: "Invalid Log",
    0x1D: "Resources Exhausted",
    INVALID_EXTENTS: "Invalid Extent List",
}


class MailboxError(DatapathError):
    """The device ended a command with this return code."""

    def __init__(self, name: str, opcode: int, code: int) -> None:
        self.code_returned = code
        what = f"command {opcode:04x}h ended with {code:#x} ({_CODES.get(code, 'unknown')})"
        super().__init__(Code.FAILED, name, what, "see the device's events; one owner only may use its mailbox")


class Mailbox:
    """One owner at a time: two disturb each other's payload."""

    def __init__(self, registers: Registers, place: Place, name: str) -> None:
        self._io = registers
        self._name = name
        found = _capabilities(registers, place.offset, name)
        self._status, self._box = found[CAP_STATUS], found[CAP_MAILBOX]
        self.payload_max = 1 << (registers.read32(self._box + CAPABILITY) & 0x1F)
        room = registers.size - self._box - PAYLOAD
        if not 256 <= self.payload_max <= 1 << 20 or self.payload_max > room:
            raise DatapathError(Code.CORRUPT, name, f"claims a mailbox of {self.payload_max} bytes, there are {room}")
        if CAP_MEMDEV in found and not registers.read64(found[CAP_MEMDEV]) & READY:
            raise DatapathError(Code.NOT_READY, name, "its mailbox is not ready", "try again")

    def events(self) -> int:
        """Bit n: event log n is not empty. Needs no command."""
        return self._io.read32(self._status)

    def call(self, opcode: int, payload: bytes = b"") -> bytes:
        """Sends a command and returns what it put out. Raises `MailboxError` for its return code, `timeout` when it hangs."""
        io, box = self._io, self._box
        if len(payload) > self.payload_max:
            raise DatapathError(Code.RANGE, self._name, f"{len(payload)} bytes do not fit into its mailbox")
        self._wait(opcode)
        io.write64(box + COMMAND, len(payload) << 16 | opcode)  # one store: halves are dropped
        padded = payload + bytes(-len(payload) % 8)
        for at in range(0, len(padded), 8):
            io.write64(box + PAYLOAD + at, int.from_bytes(padded[at : at + 8], "little"))
        io.write32(box + CONTROL, DOORBELL)
        self._wait(opcode)
        if code := io.read64(box + STATUS) >> 32 & 0xFFFF:
            raise MailboxError(self._name, opcode, code)
        length = io.read64(box + COMMAND) >> 16 & 0xFFFFF
        if length > self.payload_max:
            raise DatapathError(Code.CORRUPT, self._name, f"command {opcode:04x}h put out {length} bytes, too many")
        words = (io.read64(box + PAYLOAD + at).to_bytes(8, "little") for at in range(0, length, 8))
        return b"".join(words)[:length]

    def _wait(self, opcode: int) -> None:
        end = time.monotonic() + TIMEOUT_S
        while self._io.read32(self._box + CONTROL) & DOORBELL:
            if time.monotonic() > end:
                hint = "reset the machine, or unbind whoever else uses the mailbox"
                raise DatapathError(Code.TIMEOUT, self._name, f"its mailbox is busy (command {opcode:04x}h)", hint)
            time.sleep(0)


def _capabilities(registers: Registers, base: int, name: str) -> dict[int, int]:
    """Offsets of the device capabilities (8.2.8.1), inside the BAR."""
    found: dict[int, int] = {}
    if base % 16 == 0 and base + 16 <= registers.size:
        count = registers.read64(base) >> 32 & 0xFFFF
        for header in range(base + 16, min(base + 16 * (count + 1), registers.size - 15), 16):
            offset = base + registers.read32(header + 4)
            if offset % 8 == 0 and offset + 64 <= registers.size:
                found.setdefault(registers.read32(header) & 0xFFFF, offset)
    if missing := {CAP_STATUS, CAP_MAILBOX} - found.keys():
        what = f"has no device capability {min(missing):#x}"
        raise DatapathError(Code.UNSUPPORTED, name, what, "is its memory space on, and is it a CXL memory device?")
    return found
