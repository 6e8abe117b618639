# SPDX-License-Identifier: GPL-3.0-or-later
"""Payloads of the commands that dynamic capacity needs (CXL 3.1, 8.2.9.2 and 8.2.9.9.9), as bytes and back.

What comes from a device is checked for each field that is used: lengths against what is there, ranges against 64 bits.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import Code, DatapathError

IDENTIFY, GET_EVENTS, CLEAR_EVENTS = 0x4000, 0x0100, 0x0101
GET_CONFIG, GET_EXTENTS, ADD_RESPONSE, RELEASE = 0x4800, 0x4801, 0x4802, 0x4803
LOG = 4  # the dynamic capacity event log
UNIT = 256 << 20
REGIONS_MAX = 8
EVENT = uuid.UUID("ca95afa7-f183-4018-8c2f-95268e101a2a")

Range = tuple[int, int]  # first byte in device physical addresses (DPA), length
Kind = Literal["add", "release", "forced", "other"]
_KINDS: dict[int, Kind] = {0: "add", 1: "release", 2: "forced"}

_CONFIG, _REGION, _EXTENTS_HEAD = struct.Struct("<BB6x"), struct.Struct("<4QIB3x"), struct.Struct("<4I")
_EXTENT, _EVENTS_HEAD, _LIST_HEAD, _LIST_ENTRY = (
    struct.Struct("<QQ16sH6x"),
    struct.Struct("<BxHQQH10x"),
    struct.Struct("<IB3x"),
    struct.Struct("<QQ8x"),
)
_RECORD = 0x80


@dataclass(frozen=True)
class DcRegion:
    """A region of the device: `decoded` bytes of addresses of which `length` can ever be backed, in blocks of `block`."""

    base: int
    decoded: int
    length: int
    block: int


@dataclass(frozen=True)
class Extent:
    """Accepted capacity. QEMU loses tags and sequence numbers: there they are zero."""

    dpa: int
    length: int
    tag: bytes
    sequence: int

    @property
    def range(self) -> Range:
        return self.dpa, self.length


@dataclass(frozen=True)
class Event:
    """A record of the dynamic capacity log; `more`: the next one belongs to the same request."""

    handle: int
    kind: Kind
    more: bool
    extent: Extent


def parse_dc_log_size(raw: bytes) -> int:
    """Records that the dynamic capacity log holds, from Identify Memory Device; 0 for a device that has none."""
    return int(struct.unpack_from("<H", raw, 0x43)[0]) if len(raw) >= 0x45 else 0


def config_request() -> bytes:
    return bytes([REGIONS_MAX, 0])


def parse_config(raw: bytes) -> list[DcRegion]:
    """The regions, by number. Raises `corrupt` for what cannot be."""
    _need(raw, _CONFIG.size)
    _, count = _CONFIG.unpack_from(raw)
    if count > REGIONS_MAX:
        raise _bad(f"it returned {count} regions, {REGIONS_MAX} are possible")
    _need(raw, _CONFIG.size + count * _REGION.size)
    regions, end = [], 0
    for number in range(count):
        base, decoded, length, block, *_ = _REGION.unpack_from(raw, _CONFIG.size + number * _REGION.size)
        region = DcRegion(base, decoded * UNIT, length, block)
        right = block >= 64 and block & (block - 1) == 0 and 0 < length <= region.decoded and base % UNIT == 0
        if not right or base < end or base + region.decoded >= 1 << 64 or length % block:
            raise _bad(f"region {number} at {base:#x} with {length:#x} bytes in blocks of {block:#x} cannot be")
        regions.append(region)
        end = base + region.decoded
    return regions


def extents_request(start: int) -> bytes:
    return struct.pack("<II", 0xFFFF, start)


def parse_extents(raw: bytes, start: int) -> tuple[int, list[Extent]]:
    """How many there are in all, and those of this answer. QEMU 11 counts pending ones as returned, and zero-fills them."""
    _need(raw, _EXTENTS_HEAD.size)
    returned, total, *_ = _EXTENTS_HEAD.unpack_from(raw)
    count = min(returned, max(total - start, 0))
    _need(raw, _EXTENTS_HEAD.size + count * _EXTENT.size)
    places = range(_EXTENTS_HEAD.size, _EXTENTS_HEAD.size + count * _EXTENT.size, _EXTENT.size)
    return total, [_extent(raw, place) for place in places]


def extent_list(ranges: Sequence[Range]) -> bytes:
    """The input of Add Response and Release. Never empty: an empty answer with nothing pending ends QEMU."""
    if not ranges:
        raise DatapathError(Code.INVALID, "extent list", "is empty", "refuse by accepting a block and giving it back")
    return _LIST_HEAD.pack(len(ranges), 0) + b"".join(_LIST_ENTRY.pack(*each) for each in ranges)


def events_request() -> bytes:
    return bytes([LOG])


def parse_events(raw: bytes) -> tuple[int, list[Event]]:
    """How many records were lost to an overflow, and the records that there are."""
    _need(raw, _EVENTS_HEAD.size)
    flags, lost, _, _, count = _EVENTS_HEAD.unpack_from(raw)
    _need(raw, _EVENTS_HEAD.size + count * _RECORD)
    events = [_event(raw, _EVENTS_HEAD.size + number * _RECORD) for number in range(count)]
    return (lost or 1) if flags & 1 else 0, events


def clear_request(handles: Sequence[int]) -> bytes:
    """`handles`: the oldest records, in order."""
    return struct.pack(f"<BBB3x{len(handles)}H", LOG, 0, len(handles), *handles)


def _event(raw: bytes, place: int) -> Event:
    (handle,) = struct.unpack_from("<H", raw, place + 0x14)
    if raw[place : place + 16] != EVENT.bytes:
        return Event(handle, "other", False, Extent(0, 0, bytes(16), 0))
    return Event(handle, _KINDS.get(raw[place + 0x30], "other"), bool(raw[place + 0x35] & 1), _extent(raw, place + 0x38))


def _extent(raw: bytes, place: int) -> Extent:
    dpa, length, tag, sequence = _EXTENT.unpack_from(raw, place)
    if dpa + length >= 1 << 64:
        raise _bad(f"an extent at {dpa:#x} with {length:#x} bytes cannot be")
    return Extent(dpa, length, tag, sequence)


def _need(raw: bytes, length: int) -> None:
    if len(raw) < length:
        raise _bad(f"its answer has {len(raw)} bytes, {length} are needed")


def _bad(what: str) -> DatapathError:
    return DatapathError(Code.CORRUPT, "device", what, "it is no dynamic-capacity device that this program knows")
