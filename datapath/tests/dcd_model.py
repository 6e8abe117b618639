# SPDX-License-Identifier: GPL-3.0-or-later
"""A dynamic-capacity device as registers, as QEMU's behaves (docs/dcd.md): configuration space, mailbox, event log, decoders.

A seam of unit tests only; the real thing runs in the scenarios.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from cxl_datapath.dcd import payloads as p
from cxl_datapath.dcd.config import CXL_VENDOR

MIB = 1 << 20
BLOCK = 2 * MIB
REGION = 512 * MIB
COMPONENT, DEVICE, MAILBOX, MEMDEV, HDM = 0, 2, 0x88, 0x8A8, 0x1128
PAYLOAD = 2048
LOG_RECORDS = 8
CONTROL = 0x20C  # CXL control register in configuration space


class Died(Exception):
    """The real device's process would have ended here."""


class Bar:
    """Little-endian bytes with a hook behind each store."""

    def __init__(self, size: int, stored=lambda offset: None, longs: bool = True) -> None:
        self.size, self.raw, self._stored, self._longs = size, bytearray(size), stored, longs

    def read32(self, offset: int) -> int:
        assert offset % 4 == 0
        return int(struct.unpack_from("<I", self.raw, offset)[0])

    def read64(self, offset: int) -> int:
        assert offset % 8 == 0
        return int(struct.unpack_from("<Q", self.raw, offset)[0]) if self._longs else 0

    def write32(self, offset: int, value: int) -> None:
        struct.pack_into("<I", self.raw, offset, value)
        self._stored(offset)

    def write64(self, offset: int, value: int) -> None:
        if self._longs:
            struct.pack_into("<Q", self.raw, offset, value)
        self._stored(offset)


class Model:
    """The device, and the fabric manager's end of it (`offer`, `ask_back`)."""

    def __init__(self, regions: int = 2, serial: int = 0x91) -> None:
        self.name = "0000:50:00.0"
        self.regions = regions
        self.accepted: set[int] = set()  # blocks
        self.pending: list[set[int]] = []
        self.log: list[bytes] = []
        self.lost = 0
        self.bound: str | None = "cxl_pci"
        self.lets_go = True
        self.die_before: int | None = None
        self.commands: list[int] = []
        self._handle = 0
        self._config = bytearray(4096)
        self._build_config(serial)
        self._device = Bar(0x1000, self._on_device)
        self._component = Bar(0x10000, self._on_component, longs=False)
        self._build_device()
        struct.pack_into("<II", self._component.raw, 0x1000, 1 << 24 | 1, (HDM - 0x1000) << 20 | 5)
        struct.pack_into("<I", self._component.raw, HDM, 2)

    # ---- what the driver sees

    def config(self) -> bytes:
        return bytes(self._config)

    def write_config16(self, offset: int, value: int) -> None:
        struct.pack_into("<H", self._config, offset, value)

    def bar(self, number: int) -> Bar:
        assert self.bound is None, "the kernel refuses to map registers that its driver has"
        assert struct.unpack_from("<H", self._config, 4)[0] & 2, "memory space is off"
        return {COMPONENT: self._component, DEVICE: self._device}[number]

    def driver(self) -> str | None:
        return self.bound

    def take(self) -> None:
        if self.lets_go:
            self.bound = None

    def give_back(self) -> None:
        assert not self.committed, "the kernel would make a region of it"
        self.bound = "cxl_pci"

    @property
    def mem_enabled(self) -> bool:
        return bool(self._config[CONTROL] & 4)

    @property
    def committed(self) -> bool:
        return bool(self._component.read32(HDM + 0x20) & 1 << 10)

    # ---- the fabric manager

    def offer(self, *extents: tuple[int, int], tags: str = "", sequence: Sequence[int] = ()) -> None:
        """`tags`: a letter for each extent; `sequence`: a number for each."""
        self.pending.append({block for extent in extents for block in _blocks(extent)})
        self._events(0, extents, tags, sequence)

    def ask_back(self, *extents: tuple[int, int]) -> None:
        self._events(1, extents)

    def held(self) -> list[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        for block in sorted(self.accepted):
            if runs and sum(runs[-1]) == block * BLOCK:
                runs[-1] = (runs[-1][0], runs[-1][1] + BLOCK)
            else:
                runs.append((block * BLOCK, BLOCK))
        return runs

    # ---- inside

    def _build_config(self, serial: int) -> None:
        struct.pack_into("<IQ", self._config, 0x100, 0x200 << 20 | 1 << 16 | 3, serial)
        struct.pack_into("<IIH", self._config, 0x200, 0x300 << 20 | 1 << 16 | 0x23, 0x3C << 20 | CXL_VENDOR, 0)
        struct.pack_into("<IIH", self._config, 0x300, 1 << 16 | 0x23, 0x24 << 20 | CXL_VENDOR, 8)
        struct.pack_into("<IIII", self._config, 0x30C, 1 << 8 | COMPONENT, 0, 3 << 8 | DEVICE, 0)

    def _build_device(self) -> None:
        raw = self._device.raw
        struct.pack_into("<Q", raw, 0, 3 << 32)
        for number, (identity, offset) in enumerate([(1, 0x80), (2, MAILBOX), (0x4000, MEMDEV)]):
            struct.pack_into("<II", raw, 16 * (number + 1), identity, offset)
        struct.pack_into("<I", raw, MAILBOX, 11)
        struct.pack_into("<Q", raw, MEMDEV, 1 << 4)

    def _events(self, kind: int, extents: Sequence[tuple[int, int]], tags: str = "", sequence: Sequence[int] = ()) -> None:
        for number, (dpa, length) in enumerate(extents):
            if len(self.log) == LOG_RECORDS:
                self.lost += 1
                continue
            self._handle += 1
            record = bytearray(0x80)
            record[:16], record[0x10], record[0x30] = p.EVENT.bytes, 0x80, kind
            struct.pack_into("<H", record, 0x14, self._handle)
            record[0x35] = number + 1 < len(extents)
            tag, place = tags[number : number + 1].encode(), (*sequence, *[0] * len(extents))[number]
            struct.pack_into("<QQ16sH", record, 0x38, dpa, length, tag, place)
            self.log.append(bytes(record))
        self._show_log()

    def _show_log(self) -> None:
        struct.pack_into("<I", self._device.raw, 0x80, bool(self.log) << 4)

    def _on_component(self, offset: int) -> None:
        if offset >= HDM + 0x20 and (offset - HDM) % 0x20 == 0:  # the control register of a decoder
            control = self._component.read32(offset)
            control = control | 1 << 10 if control & 1 << 9 else control & ~(1 << 10)
            struct.pack_into("<I", self._component.raw, offset, control)

    def _on_device(self, offset: int) -> None:
        if offset != MAILBOX + 4:
            return
        command = self._device.read64(MAILBOX + 8)
        opcode, length = command & 0xFFFF, command >> 16 & 0xFFFFF
        start = MAILBOX + 0x20
        if opcode == self.die_before:
            struct.pack_into("<I", self._device.raw, MAILBOX + 4, 0)  # the doorbell was never rung
            raise KeyboardInterrupt
        self.commands.append(opcode)
        code, out = self._run(opcode, bytes(self._device.raw[start : start + length]))
        self._device.raw[start : start + len(out)] = out
        struct.pack_into("<IQQ", self._device.raw, MAILBOX + 4, 0, opcode | len(out) << 16, code << 32)

    def _run(self, opcode: int, raw: bytes) -> tuple[int, bytes]:  # noqa: PLR0911
        if opcode == p.IDENTIFY:
            return 0, bytes(0x43) + struct.pack("<H", LOG_RECORDS if self.regions else 0)
        if opcode == p.GET_CONFIG:
            regions = b"".join(struct.pack("<4QIB3x", n * REGION, 2, REGION, BLOCK, 0, 0) for n in range(self.regions))
            return 0, bytes([self.regions, self.regions]) + bytes(6) + regions + struct.pack("<4I", 512, 512, 0, 0)
        if opcode == p.GET_EXTENTS:
            (start,) = struct.unpack_from("<I", raw, 4)
            rows = [struct.pack("<QQ24x", *each) for each in self.held()]
            room = (PAYLOAD - 16) // 0x28
            ghosts = min(len(self.pending), room - 1)  # QEMU 11 counts pending extents, too, and fills them with zeros
            part = rows[start : start + room - ghosts]
            head = struct.pack("<4I", len(part) + ghosts, len(rows), 0, 0)
            return 0, head + b"".join(part) + bytes(0x28 * ghosts)
        if opcode == p.GET_EVENTS:
            head = struct.pack("<BxHQQH10x", 2 * bool(self.log) | bool(self.lost), self.lost, 0, 0, len(self.log))
            return 0, head + b"".join(self.log)
        if opcode == p.CLEAR_EVENTS:
            handles = struct.unpack_from(f"<{raw[2]}H", raw, 6)
            oldest = [struct.unpack_from("<H", record, 0x14)[0] for record in self.log[: len(handles)]]
            if list(handles) != oldest:
                return 2, b""
            del self.log[: len(handles)]
            self.lost = 0
            self._show_log()
            return 0, b""
        return self._lists(opcode, raw), b""

    def _lists(self, opcode: int, raw: bytes) -> int:
        (count,) = struct.unpack_from("<I", raw)
        blocks = {block for n in range(count) for block in _blocks(struct.unpack_from("<QQ", raw, 8 + 24 * n))}
        if opcode == p.ADD_RESPONSE:
            if not self.pending and not count:
                raise Died("an empty answer with nothing pending")
            if not self.pending or not blocks <= self.pending[0]:
                return 0x0F
            self.pending.pop(0)
            self.accepted |= blocks
            return 0
        if opcode == p.RELEASE:
            if not count:
                return 2
            if not blocks <= self.accepted:
                return 0x0F
            self.accepted -= blocks
            return 0
        return 3


def _blocks(extent: tuple[int, int]) -> set[int]:
    assert extent[0] % BLOCK == extent[1] % BLOCK == 0
    return set(range(extent[0] // BLOCK, sum(extent) // BLOCK))
