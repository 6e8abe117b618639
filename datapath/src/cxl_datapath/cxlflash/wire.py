# SPDX-License-Identifier: GPL-3.0-or-later
"""The packets of the service socket and the shape of the areas: the mirror of `core/cxlflash_format.h`."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum

VERSION = 1
BLOCK = 4096  # bytes
LINE = 64
CONTEXTS_MAX, HANDLES_MAX = 512, 16
DEPTH_MIN, DEPTH_MAX, DEPTH_DEFAULT = 2, 256, 64
TRANSFER_BLOCKS, UNMAP_BLOCKS = 32, 65536
RINGS = 4096
ERROR = NO_LBA = (1 << 64) - 1

REQUEST = struct.Struct("<HHIQQQII64s32s")
ANSWER = struct.Struct("<HHiIIQQIIII256s")


class Service(IntEnum):
    ATTACH = 1
    USER_DIRECT = 2
    USER_VIRTUAL = 3
    VLUN_RESIZE = 4
    RELEASE = 5
    DETACH = 6
    VLUN_CLONE = 7
    VERIFY = 8
    RECOVER_AFU = 9
    MANAGE_LUN = 10


ATTACH_REUSE, ATTACH_READ_ONLY = 1, 2
SCRUB = 1
HINT_SENSE = 1
ENABLE_SUPERPIPE, DISABLE_SUPERPIPE = 1, 2
APP_CLOSE_ADAP_FD, ALL_PORTS_ACTIVE, CONTEXT_RESET = 1, 2, 4


@dataclass(frozen=True)
class Request:
    service: int
    flags: int = 0
    context: int = 0
    source: int = 0
    size: int = 0  # blocks
    handle: int = 0
    depth: int = 0
    lun: bytes = b""
    sense: bytes = b""
    version: int = VERSION

    def pack(self) -> bytes:
        head = (self.version, self.service, self.flags, self.context, self.source, self.size, self.handle, self.depth)
        return REQUEST.pack(*head, self.lun, self.sense)

    @classmethod
    def unpack(cls, packet: bytes) -> Request:
        """Raises `struct.error` for another length; trailing NULs of the byte fields are left out."""
        version, service, flags, context, source, size, handle, depth, lun, sense = REQUEST.unpack(packet)
        return cls(service, flags, context, source, size, handle, depth, lun.rstrip(b"\0"), sense.rstrip(b"\0"), version)


@dataclass
class Answer:
    """`descriptors` travel beside the packet; whoever sends it closes them afterwards."""

    return_flags: int = 0
    handle: int = 0
    context: int = 0
    last_lba: int = NO_LBA
    depth: int = 0
    chunk_blocks: int = 0
    error: int = 0
    text: str = ""
    descriptors: list[int] = field(default_factory=list)

    def pack(self, service: int) -> bytes:
        text = self.text.encode(errors="replace")[:255]
        sizes = (self.last_lba, BLOCK, TRANSFER_BLOCKS, self.depth, self.chunk_blocks)
        return ANSWER.pack(VERSION, service, self.error, self.return_flags, self.handle, self.context, *sizes, text)

    @classmethod
    def unpack(cls, packet: bytes) -> Answer:
        _, _, error, return_flags, handle, context, last_lba, _, _, depth, chunk_blocks, text = ANSWER.unpack(packet)
        return cls(
            return_flags, handle, context, last_lba, depth, chunk_blocks, error, text.rstrip(b"\0").decode(errors="replace")
        )


def last_lba(blocks: int) -> int:
    """Of so many blocks; all ones for none."""
    return (blocks - 1) % (1 << 64)


def data_off(depth: int) -> int:
    return RINGS + -(-depth * LINE // BLOCK) * BLOCK


def area_bytes(depth: int) -> int:
    return data_off(depth) + depth * TRANSFER_BLOCKS * BLOCK
