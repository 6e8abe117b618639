# SPDX-License-Identifier: GPL-3.0-or-later
"""Transport info and registry entries as bytes (docs/cbd-format.md).

`pack` gives the payload of a metadata copy, `unpack` accepts any bytes and gives a checked record or raises `DatapathError`
with code `corrupt`. What depends on other records (is channel 5 below the channel count?) is checked by the registry.
"""

from __future__ import annotations

import struct
import uuid as uuidlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Self

from ..errors import Code, DatapathError
from ..names import check_backend_path, check_name
from .geometry import ENDIAN, Geometry

QUEUES_MAX = 16
NO_CHANNEL = 0xFFFFFFFF
U32_MAX = 0xFFFFFFFF
FEATURE_DATA_CRC = 1
KNOWN_FEATURES = FEATURE_DATA_CRC
COHERENCES = ("hardware", "software")  # by their number in the info
BLOCK_SIZES = (512, 4096)
PHYSICAL_BLOCK_MAX = 65536
LEASE_MS_MIN, LEASE_MS_MAX, LEASE_MS_DEFAULT = 1000, 600_000, 5000

INFO = struct.Struct("<Q16s64sQIIIIIIIIQQQQQQ")
HOST = struct.Struct("<IIII64s16s")
BACKEND = struct.Struct("<IIIIIIQ256sIIII")
BLKDEV = struct.Struct("<IIIIIIII16I16III")


class State(IntEnum):
    NONE = 0
    RUNNING = 1
    REMOVING = 2


BACKEND_READ_ONLY, BACKEND_DISCARD, BACKEND_WRITE_ZEROES = 1, 2, 4
_BACKEND_FLAGS = BACKEND_READ_ONLY | BACKEND_DISCARD | BACKEND_WRITE_ZEROES
BLKDEV_SHARED, BLKDEV_READ_ONLY = 1, 2


def corrupt(what: str, why: str) -> DatapathError:
    return DatapathError(Code.CORRUPT, what, why)


def _fields(layout: struct.Struct, raw: bytes, what: str) -> tuple[Any, ...]:
    if len(raw) != layout.size:
        raise corrupt(what, f"the payload has {len(raw)} bytes, the format says {layout.size}")
    return layout.unpack(raw)


def _text(raw: bytes, what: str) -> str:
    body, _, rest = raw.partition(b"\0")
    try:
        if not rest.strip(b"\0") and len(body) < len(raw):
            return body.decode()
    except UnicodeDecodeError:
        pass
    raise corrupt(what, f"{raw[:32]!r} is not NUL-padded text")


def _need(condition: bool, what: str, why: str) -> None:
    if not condition:
        raise corrupt(what, why)


def _state(value: int, what: str) -> State:
    _need(value in (0, 1, 2), what, f"state {value} is unknown")
    return State(value)


@dataclass(frozen=True)
class Info:
    """Transport info: who it is and where its areas are."""

    MAGIC: ClassVar[bytes] = b"CXTI"
    WHAT: ClassVar[str] = "transport info"
    uuid: uuidlib.UUID
    name: str
    features: int
    coherence: int
    geometry: Geometry
    lease_ms: int  # a host whose heartbeat stands still for so long is dead

    @property
    def lease_s(self) -> float:
        return self.lease_ms / 1000

    def pack(self) -> bytes:
        g = self.geometry
        head = (ENDIAN, self.uuid.bytes, self.name.encode(), self.features, self.coherence)
        counts = (g.host_count, g.backend_count, g.blkdev_count, g.channel_count, g.ring_depth, g.slot_bytes, self.lease_ms)
        return INFO.pack(*head, *counts, g.total_size, g.hosts_off, g.backends_off, g.blkdevs_off, g.channels_off, g.channel_size)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        endian, uuid, name, features, coherence, hosts, backends, blkdevs, channels, depth, slot, lease_ms, *offsets = _fields(
            INFO, raw, cls.WHAT
        )
        if endian != ENDIAN:
            raise DatapathError(
                Code.UNSUPPORTED, cls.WHAT, f"the byte order is another one ({endian:#018x})", "format it on this machine type"
            )
        if features & ~KNOWN_FEATURES:
            unknown = features & ~KNOWN_FEATURES
            raise DatapathError(
                Code.UNSUPPORTED, cls.WHAT, f"features {unknown:#x} are unknown here", "install a newer cxl-datapath"
            )
        _need(coherence < len(COHERENCES), cls.WHAT, f"coherence {coherence} is unknown")
        _need(LEASE_MS_MIN <= lease_ms <= LEASE_MS_MAX, cls.WHAT, f"a lease of {lease_ms} ms is not possible")
        geometry = Geometry(hosts, backends, blkdevs, channels, depth, slot, *offsets)
        geometry.check()
        return cls(uuidlib.UUID(bytes=uuid), _named(_text(name, cls.WHAT), cls.WHAT), features, coherence, geometry, lease_ms)


def _named(value: str, what: str) -> str:
    try:
        return check_name(what, value)
    except DatapathError as error:
        raise corrupt(what, error.message) from None


@dataclass(frozen=True)
class Entry(ABC):
    """What hosts, backends and blkdevs have in common. `id` is the index of the entry; `epoch` rises with each life."""

    MAGIC: ClassVar[bytes]
    WHAT: ClassVar[str]
    state: State
    id: int
    epoch: int

    @abstractmethod
    def pack(self) -> bytes: ...

    @classmethod
    @abstractmethod
    def unpack(cls, raw: bytes) -> Self: ...


@dataclass(frozen=True)
class HostEntry(Entry):
    MAGIC: ClassVar[bytes] = b"CXHO"
    WHAT: ClassVar[str] = "host"
    name: str
    boot_id: bytes  # 16 bytes

    def pack(self) -> bytes:
        return HOST.pack(self.state, self.id, self.epoch, 0, self.name.encode(), self.boot_id)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        state, number, epoch, _flags, name, boot_id = _fields(HOST, raw, cls.WHAT)
        return cls(_state(state, cls.WHAT), number, epoch, _named(_text(name, cls.WHAT), cls.WHAT), boot_id)


@dataclass(frozen=True)
class BackendEntry(Entry):
    MAGIC: ClassVar[bytes] = b"CXBA"
    WHAT: ClassVar[str] = "backend"
    host_id: int
    flags: int
    logical_block_size: int
    capacity: int  # bytes
    path: str
    physical_block_size: int  # bytes
    discard_granularity: int  # bytes, 0 where discard does not work
    host_epoch: int
    life: int  # epoch of its first start; restarts and takeovers keep it

    def pack(self) -> bytes:
        numbers = (self.state, self.id, self.host_id, self.epoch, self.flags, self.logical_block_size, self.capacity)
        limits = (self.physical_block_size, self.discard_granularity)
        return BACKEND.pack(*numbers, self.path.encode(), *limits, self.host_epoch, self.life)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        state, number, host_id, epoch, flags, block, capacity, path, physical, granularity, host_epoch, life = _fields(
            BACKEND, raw, cls.WHAT
        )
        _need(not flags & ~_BACKEND_FLAGS, cls.WHAT, f"flags {flags:#x} are unknown")
        _need(block in BLOCK_SIZES, cls.WHAT, f"a logical block of {block} bytes is not possible")
        sound = physical & (physical - 1) == 0 and block <= physical <= PHYSICAL_BLOCK_MAX
        _need(sound, cls.WHAT, f"a physical block of {physical} bytes is not possible")
        _need(granularity % block == 0, cls.WHAT, f"a discard granularity of {granularity} bytes is not possible")
        _need(0 < capacity < 1 << 63 and capacity % block == 0, cls.WHAT, f"a capacity of {capacity} bytes is not possible")
        text = _text(path, cls.WHAT)
        try:
            check_backend_path(cls.WHAT, text)
        except DatapathError as error:
            raise corrupt(cls.WHAT, error.message) from None
        fixed = (_state(state, cls.WHAT), number, epoch, host_id, flags, block, capacity, text)
        return cls(*fixed, physical, granularity, host_epoch, life)


@dataclass(frozen=True)
class BlkdevEntry(Entry):
    MAGIC: ClassVar[bytes] = b"CXBL"
    WHAT: ClassVar[str] = "blkdev"
    host_id: int
    backend_id: int
    backend_epoch: int
    flags: int
    channels: tuple[int, ...]  # one per queue
    channel_epochs: tuple[int, ...]
    host_epoch: int

    @property
    def queues(self) -> int:
        return len(self.channels)

    def pack(self) -> bytes:
        numbers = (self.state, self.id, self.host_id, self.backend_id, self.backend_epoch, self.epoch, self.flags, self.queues)
        free = QUEUES_MAX - self.queues
        return BLKDEV.pack(*numbers, *self.channels, *[NO_CHANNEL] * free, *self.channel_epochs, *[0] * free, self.host_epoch, 0)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        state, number, host_id, backend_id, backend_epoch, epoch, flags, queues, *rest, host_epoch, _ = _fields(
            BLKDEV, raw, cls.WHAT
        )
        _need(not flags & ~(BLKDEV_SHARED | BLKDEV_READ_ONLY), cls.WHAT, f"flags {flags:#x} are unknown")
        _need(1 <= queues <= QUEUES_MAX, cls.WHAT, f"{queues} queues are not possible")
        channels, epochs = tuple(rest[:queues]), tuple(rest[QUEUES_MAX : QUEUES_MAX + queues])
        _need(len(set(channels)) == queues, cls.WHAT, "two queues share one channel")
        return cls(
            _state(state, cls.WHAT), number, epoch, host_id, backend_id, backend_epoch, flags, channels, epochs, host_epoch
        )
