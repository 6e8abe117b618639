# SPDX-License-Identifier: GPL-3.0-or-later
"""The bytes of a state file, as docs/mhsld-format.md defines them: an immutable header, names of heads, two arrays of words."""

from __future__ import annotations

import os
import struct
import uuid
from dataclasses import dataclass

from ..core import crc32c
from ..errors import Code, DatapathError
from ..names import check_name

MAGIC = b"CXMHSLD\0"
VERSION = 1
ENDIAN = 0x0102030405060708
PAGE = 4096
NAME_BYTES = 64
WIDTHS = (8, 16, 32, 64)  # heads that a word has bits for
BLOCK_MIN = 64
BLOCKS_MAX = 1 << 27  # 1 GiB for each array at 64 heads
# magic, version, header bytes, endianness, uuid, heads, bytes of a word, bytes of a block, blocks, the four offsets, file size
HEADER = struct.Struct("<8sIIQ16sII7Q")
CRC = struct.Struct("<I")


@dataclass(frozen=True)
class Layout:
    """The geometry that the header describes. Offsets and sizes in bytes."""

    uuid: uuid.UUID
    heads: tuple[str, ...]  # names by number; "" for a head without
    block: int
    blocks: int

    @property
    def word_bytes(self) -> int:
        return next(width for width in WIDTHS if len(self.heads) <= width) // 8

    @property
    def names_off(self) -> int:
        return PAGE

    @property
    def exclusive_off(self) -> int:
        return PAGE + _pages(len(self.heads) * NAME_BYTES)

    @property
    def shared_off(self) -> int:
        return self.exclusive_off + _pages(self.blocks * self.word_bytes)

    @property
    def file_bytes(self) -> int:
        return self.shared_off + _pages(self.blocks * self.word_bytes)

    @property
    def capacity(self) -> int:
        return self.block * self.blocks


def plan_layout(size: int, block: int, heads: list[str]) -> Layout:
    """A new layout for `size` bytes of capacity in blocks of `block` bytes. Raises `invalid`."""
    if block < BLOCK_MIN or block & (block - 1):
        raise DatapathError(Code.INVALID, "block", f"{block} is not a power of two of {BLOCK_MIN} or more", "2M is usual")
    if size <= 0 or size % block or size // block > BLOCKS_MAX:
        what = f"{size} is not a multiple of {block} from {block} to {BLOCKS_MAX * block}"
        raise DatapathError(Code.INVALID, "size", what, "give the size of the shared memory, and the block size of its regions")
    if not 1 <= len(heads) <= WIDTHS[-1]:
        raise DatapathError(Code.INVALID, "heads", f"{len(heads)} heads are not possible", f"1 to {WIDTHS[-1]} are")
    named = [check_name("head", name) for name in heads if name]
    if twice := {name for name in named if named.count(name) > 1}:
        raise DatapathError(Code.INVALID, "heads", f"two heads have the name {min(twice)}", "give each a name of its own")
    return Layout(uuid.UUID(bytes=os.urandom(16), version=4), tuple(heads), block, size // block)


def pack(layout: Layout) -> bytes:
    """Header and names: all that comes before the arrays."""
    offsets = (layout.names_off, layout.exclusive_off, layout.shared_off, layout.file_bytes)
    counts = (len(layout.heads), layout.word_bytes, layout.block, layout.blocks, 0)
    head = HEADER.pack(MAGIC, VERSION, HEADER.size, ENDIAN, layout.uuid.bytes, *counts, *offsets)
    names = b"".join(name.encode().ljust(NAME_BYTES, b"\0") for name in layout.heads)
    names = names.ljust(layout.exclusive_off - PAGE, b"\0")
    return (head + CRC.pack(crc32c(head + names))).ljust(PAGE, b"\0") + names


def unpack(raw: bytes, file_bytes: int, path: str) -> Layout:
    """The layout that a file of this size begins with; `raw` holds its first two pages, as far as there are any.

    Raises `unsupported` for another version, `corrupt` for what is damaged or has another size, `invalid` for no state file."""
    if len(raw) < 16 or raw[:8] != MAGIC:
        hint = "create it: cxl-datapath mhsld create"
        raise DatapathError(Code.INVALID, path, "is no state file of a multi-headed device", hint)
    version, header_bytes = struct.unpack_from("<II", raw, 8)
    if version != VERSION:
        what = f"has format version {version}, this program knows {VERSION}"
        raise DatapathError(Code.UNSUPPORTED, path, what, "install the matching version")
    try:
        if header_bytes != HEADER.size:
            raise ValueError(f"its header has {header_bytes} bytes, not {HEADER.size}")
        *_, endian, number, heads, word_bytes, block, blocks, zero, names_off, exclusive_off, shared_off, size = (
            HEADER.unpack_from(raw)
        )
        if endian != ENDIAN or zero:
            raise ValueError("its byte order is another one")
        if not 1 <= heads <= WIDTHS[-1] or not 1 <= blocks <= BLOCKS_MAX or block < BLOCK_MIN or block & (block - 1):
            raise ValueError(f"{heads} heads and {blocks} blocks of {block} bytes cannot be")
        fields = [raw[PAGE + NAME_BYTES * head : PAGE + NAME_BYTES * (head + 1)] for head in range(heads)]
        layout = Layout(uuid.UUID(bytes=number), tuple(_name(field) for field in fields), block, blocks)
        if (word_bytes, names_off, exclusive_off, shared_off, size) != (
            layout.word_bytes,
            layout.names_off,
            layout.exclusive_off,
            layout.shared_off,
            layout.file_bytes,
        ):
            raise ValueError("its offsets do not fit its counts")
        if file_bytes != size:
            raise ValueError(f"it has {file_bytes} bytes, its header says {size}")
        if pack(layout) != raw[: layout.exclusive_off]:
            raise ValueError("its checksum is wrong")
    except (ValueError, struct.error, DatapathError) as error:
        hint = "stop all heads, remove it and create it anew"
        raise DatapathError(Code.CORRUPT, path, f"is damaged: {error}", hint) from None
    return layout


def _name(field: bytes) -> str:
    text = field.rstrip(b"\0").decode("ascii")
    return check_name("head", text) if text else ""


def _pages(length: int) -> int:
    return -(-length // PAGE) * PAGE
