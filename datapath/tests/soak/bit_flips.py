# SPDX-License-Identifier: GPL-3.0-or-later
"""Single bits that turn over in the shared memory of hosts that are at work. For tests only."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import Any

from cxl_datapath.cbd.geometry import CHANNEL_RINGS, SLOT, rings_end
from cxl_datapath.cbd.lines import (
    BACKEND_LINE_OFF,
    BELL_OFF,
    BLKDEV_LINE_OFF,
    CLAIM_OFF,
    COUNTER,
    FENCE_OFF,
    HEARTBEAT_OFF,
    INTENT_OFF,
    LINE,
)
from cxl_datapath.cbd.registry import ENTRY_COPY, Registry
from cxl_datapath.cbd.transport import INFO_COPY, attach
from cxl_datapath.core import crc32c
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import resolve

_SLOT = struct.Struct("<QIBBHQQIIIiIIII")
_HOST_LINES = {"heartbeat": HEARTBEAT_OFF, "bell": BELL_OFF, "fence": FENCE_OFF, "claim": CLAIM_OFF, "intent": INTENT_OFF}


@dataclass(frozen=True)
class SlotView:
    """A slot that somebody wrote and whose CRC fits."""

    place: int  # offset in the memory
    seq: int
    epoch: int
    tid: int
    data_off: int
    data_len: int


class Flips:
    """Looks at a transport as hosts do, and turns bits over in it."""

    def __init__(self, memory: str) -> None:
        self._mapping = Mapping(resolve(memory))
        self.registry = Registry(self._mapping, attach(self._mapping, memory))
        self._geometry = self.registry.info.geometry
        self._to_hit: set[str] = set()  # names of records
        self._flipped: list[tuple[int, int, int]] = []  # offset, what is there now, what was there

    def __enter__(self) -> Flips:
        return self

    def __exit__(self, *_: object) -> None:
        self._mapping.close()

    def flip(self, offset: int, bit: int) -> None:
        place = offset + bit // 8
        before = self._mapping.read(place, 1)[0]
        self._mapping.write(place, bytes([before ^ 1 << bit % 8]))
        self._flipped.append((place, before ^ 1 << bit % 8, before))

    def take_back(self) -> None:
        """Turns back what nobody wrote over: two copies are there for damage to one of them."""
        for place, after, before in self._flipped:
            if self._mapping.read(place, 1)[0] == after:
                self._mapping.write(place, bytes([before]))
        self._flipped.clear()

    # ---- requests that nobody took yet, and answers that nobody took yet

    def unanswered(self) -> list[SlotView]:
        """Submissions without a completion, on the channels in use."""
        found = []
        for channel, epoch in self._channels():
            answered = {slot.tid for slot in self._ring(channel, 1, epoch)}
            newest = max(answered, default=0)
            found += [slot for slot in self._ring(channel, 0, epoch) if slot.tid > newest]
        return found

    def newest_answers(self, count: int) -> list[SlotView]:
        """The last completions of each channel in use."""
        return [
            slot
            for channel, epoch in self._channels()
            for slot in sorted(self._ring(channel, 1, epoch), key=lambda slot: slot.seq)[-count:]
        ]

    def payload_of(self, slot: SlotView) -> int:
        """Offset in the memory of the payload of a submission or completion."""
        g = self._geometry
        index = (slot.place - g.channels_off) // g.channel_size
        area = g.channel_off(index) + rings_end(g.ring_depth)
        is_completion = slot.place - g.channel_off(index) - CHANNEL_RINGS >= self._ring_bytes()
        return area + is_completion * g.ring_depth * g.slot_bytes + slot.data_off

    def _channels(self) -> list[tuple[int, int]]:
        pairs = (zip(entry.channels, entry.channel_epochs, strict=True) for entry in self.registry.blkdevs.used().values())
        return [pair for some in pairs for pair in some]

    def _ring_bytes(self) -> int:
        return (rings_end(self._geometry.ring_depth) - CHANNEL_RINGS) // 2

    def _ring(self, channel: int, which: int, epoch: int) -> list[SlotView]:
        start = self._geometry.channel_off(channel) + CHANNEL_RINGS + which * self._ring_bytes()
        found = []
        for place in range(start, start + self._geometry.ring_depth * SLOT, SLOT):
            raw = self._mapping.read(place, SLOT)
            fields: tuple[Any, ...] = _SLOT.unpack(raw)
            if fields[1] == epoch and fields[0] and fields[14] == crc32c(raw[:60]):
                found.append(SlotView(place, fields[0], fields[1], fields[5], fields[8], fields[9]))
        return found

    # ---- metadata

    def records(self) -> dict[str, tuple[int, int]]:
        """Every copy and line that is in use: its offset and its length in bytes."""
        found = {f"info {copy}": (place * INFO_COPY, INFO_COPY) for place, copy in enumerate("AB")}
        for table in (self.registry.hosts, self.registry.backends, self.registry.blkdevs):
            for number in table.used():
                page = table.page(number)  # type: ignore[attr-defined]
                for place, copy in enumerate("AB"):
                    found[f"{table.kind.WHAT} {number} {copy}"] = (page + place * ENTRY_COPY, ENTRY_COPY)
        for number in self.registry.hosts.used():
            page = self.registry.hosts.page(number)
            for name, offset in _HOST_LINES.items():
                found[f"host {number} {name}"] = (page + offset, COUNTER.size)
        for channel, _ in self._channels():
            start = self._geometry.channel_off(channel)
            for name, offset in (("blkdev", BLKDEV_LINE_OFF), ("backend", BACKEND_LINE_OFF)):
                found[f"channel {channel} {name}"] = (start + offset, LINE)
        return found

    def flip_metadata(self, chance: random.Random) -> str:
        """One bit of one record; returns which. Each is hit once before any is hit again."""
        records = self.records()
        if not self._to_hit & set(records):
            self._to_hit = set(records)
        name = chance.choice(sorted(self._to_hit & set(records)))
        self._to_hit.remove(name)
        offset, length = records[name]
        bit = chance.randrange(length * 8)
        self.flip(offset, bit)
        return f"{name}, bit {bit}"
