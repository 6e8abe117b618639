# SPDX-License-Identifier: GPL-3.0-or-later
"""The 64-byte lines that hosts poll: heartbeat, bell, fence, claim, intent, channel control.

A line is overwritten in place, so a reader may see half of it: `unpack` gives None for anything that is not a whole, valid
line, and the poller simply looks again.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

from ..core import crc32c
from .layout import State

LINE = 64
HEARTBEAT_OFF, BELL_OFF, FENCE_OFF, CLAIM_OFF, INTENT_OFF = 2048, 2112, 2176, 3072, 3136  # in an entry page
BLKDEV_LINE_OFF, BACKEND_LINE_OFF = 0, 2048  # in a channel

COUNTER = struct.Struct("<QII")
CONTROL = struct.Struct("<4sIIIIIII28sI")
CONTROL_MAGIC = b"CXCH"


def _counter_line(counter: int, number: int) -> bytes:
    body = struct.pack("<QI", counter, number)
    return (body + struct.pack("<I", crc32c(body))).ljust(LINE, b"\0")


def _read_counter(raw: bytes) -> tuple[int, int] | None:
    if len(raw) < COUNTER.size:
        return None
    counter, number, crc = COUNTER.unpack_from(raw)
    return (counter, number) if crc == crc32c(raw[:12]) else None


@dataclass(frozen=True)
class Heartbeat:
    counter: int
    epoch: int

    def pack(self) -> bytes:
        return _counter_line(self.counter, self.epoch)

    @classmethod
    def unpack(cls, raw: bytes) -> Self | None:
        found = _read_counter(raw)
        return cls(*found) if found else None


@dataclass(frozen=True)
class Bell:
    generation: int

    def pack(self) -> bytes:
        return _counter_line(self.generation, 0)

    @classmethod
    def unpack(cls, raw: bytes) -> Self | None:
        found = _read_counter(raw)
        return cls(found[0]) if found else None


@dataclass(frozen=True)
class Fence:
    """Incarnations of a host up to `epoch` are dead for ever. A line of zeros was never written: none is."""

    epoch: int

    def pack(self) -> bytes:
        return _counter_line(self.epoch, 0)

    @classmethod
    def unpack(cls, raw: bytes) -> Self | None:
        if len(raw) >= COUNTER.size and not any(raw[: COUNTER.size]):
            return cls(0)
        found = _read_counter(raw)
        return cls(found[0]) if found else None


@dataclass(frozen=True)
class Claim:
    """A ticket of the bakery; number 0: none."""

    number: int
    choosing: bool

    def pack(self) -> bytes:
        return _counter_line(self.number, int(self.choosing))

    @classmethod
    def unpack(cls, raw: bytes) -> Self | None:
        found = _read_counter(raw)
        return cls(found[0], found[1] != 0) if found else None


@dataclass(frozen=True)
class Intent:
    """Somebody wants the entry."""

    nonce: int

    def pack(self) -> bytes:
        return _counter_line(self.nonce, 0)

    @classmethod
    def unpack(cls, raw: bytes) -> Self | None:
        found = _read_counter(raw)
        return cls(found[0]) if found else None


@dataclass(frozen=True)
class ControlLine:
    """One side's word on a channel."""

    state: State
    epoch: int
    blkdev_id: int
    backend_id: int
    queue: int
    host_id: int
    host_epoch: int

    def pack(self) -> bytes:
        numbers = (self.state, self.epoch, self.blkdev_id, self.backend_id, self.queue, self.host_id, self.host_epoch)
        body = struct.pack("<4s7I28s", CONTROL_MAGIC, *numbers, b"")
        return body + struct.pack("<I", crc32c(body))

    @classmethod
    def unpack(cls, raw: bytes) -> Self | None:
        if len(raw) != CONTROL.size:
            return None
        magic, state, epoch, blkdev_id, backend_id, queue, host_id, host_epoch, _, crc = CONTROL.unpack(raw)
        if magic != CONTROL_MAGIC or state not in (0, 1, 2) or crc != crc32c(raw[:60]):
            return None
        return cls(State(state), epoch, blkdev_id, backend_id, queue, host_id, host_epoch)
