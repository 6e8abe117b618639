# SPDX-License-Identifier: GPL-3.0-or-later
"""The bytes of a pool (docs/kmem-blk-format.md; the C side is `core/kmem_blk_format.h`)."""

from __future__ import annotations

import struct
import uuid as uuidlib
from dataclasses import dataclass

from ..core import crc32c
from ..errors import Code, DatapathError
from ..names import check_name

PAGE = 4096
ENTRY = 8  # bytes of an index entry
INDEX_ENTRIES = PAGE // ENTRY
MAGIC_POOL, MAGIC_RANGE = b"KMEB", b"KMER"
TYPE_BLK = 1
VERSION = 1
SPARE_DEFAULT, SPARE_MAX = 16, 4096  # pages
PAGES_MIN = 16
PAGES_END = 1 << 52  # above every page number

SUPERBLOCK = struct.Struct("<4sIIIQQQQ16s64s")
TABLE_ENTRY = struct.Struct("<QQ16s")
RANGE_HEADER = struct.Struct("<4sIIIQQ16s16s")
TABLE_OFF, TABLE_ENTRIES = 1024, 63
TABLE_VOLATILE = 1 << 63  # in the count of pages
_SUPERBLOCK_CRC, _RANGE_CRC = 12, 8  # offsets


@dataclass(frozen=True)
class Superblock:
    """`num_pages` is what the index is made for; `spare_pages` more follow, through which blocks are rewritten."""

    num_pages: int
    spare_pages: int
    uuid: uuidlib.UUID
    name: str

    @property
    def num_index_pages(self) -> int:
        return (self.num_pages + INDEX_ENTRIES - 1) // (INDEX_ENTRIES + 1)

    @property
    def num_index_entries(self) -> int:
        """Blocks of the volume."""
        return self.num_pages - 1 - self.num_index_pages

    @property
    def fixed(self) -> int:
        """Pages that hold no data."""
        return 1 + self.num_index_pages

    @property
    def total_pages(self) -> int:
        return self.num_pages + self.spare_pages

    def pack(self) -> bytes:
        counts = (self.num_pages, self.num_index_pages, self.num_index_entries, self.spare_pages)
        fields = (*counts, self.uuid.bytes, self.name.encode())
        return _sealed(SUPERBLOCK.pack(MAGIC_POOL, TYPE_BLK, VERSION, 0, *fields), _SUPERBLOCK_CRC)

    @classmethod
    def unpack(cls, raw: bytes, size: int) -> Superblock:
        """Raises `corrupt`, `unsupported` or `range` (the memory of `size` bytes is too small); the magic was looked at."""
        _, kind, version, _, pages, index_pages, entries, spare, uuid, name = SUPERBLOCK.unpack(raw)
        if not _is_sealed(raw, _SUPERBLOCK_CRC):
            raise DatapathError(Code.CORRUPT, "superblock", "its checksum is wrong", "format again, with force")
        if (kind, version) != (TYPE_BLK, VERSION):
            what = f"has type {kind}, version {version}; known is type {TYPE_BLK}, version {VERSION}"
            raise DatapathError(Code.UNSUPPORTED, "superblock", what, "use the release that made it")
        made = cls(pages, spare, uuidlib.UUID(bytes=uuid), check_name("pool", name.rstrip(b"\0").decode(errors="replace")))
        if not (PAGES_MIN <= pages < PAGES_END and 1 <= spare <= SPARE_MAX):
            raise DatapathError(Code.CORRUPT, "superblock", f"{pages} pages and {spare} spare ones are not possible")
        if (index_pages, entries) != (made.num_index_pages, made.num_index_entries):
            what = f"{index_pages} index pages and {entries} entries do not belong to {pages} pages"
            raise DatapathError(Code.CORRUPT, "superblock", what, "format again, with force")
        if made.total_pages * PAGE > size:
            what = f"it was formatted for {made.total_pages * PAGE} bytes, this memory has {size}"
            raise DatapathError(Code.RANGE, f"pool {made.name}", what, "give the whole memory")
        return made


@dataclass(frozen=True)
class RangeHeader:
    """A further memory of a pool: page numbers `first` to `first + pages`, of which the first one is this header."""

    first: int
    pages: int
    pool: uuidlib.UUID
    uuid: uuidlib.UUID

    def pack(self) -> bytes:
        fields = (self.first, self.pages, self.pool.bytes, self.uuid.bytes)
        return _sealed(RANGE_HEADER.pack(MAGIC_RANGE, VERSION, 0, 0, *fields), _RANGE_CRC)

    @classmethod
    def unpack(cls, raw: bytes, size: int) -> RangeHeader | None:
        """None when it is no header of a range, or one for more memory than there is."""
        magic, version, _, _, first, pages, pool, uuid = RANGE_HEADER.unpack(raw)
        if magic != MAGIC_RANGE or version != VERSION or not _is_sealed(raw, _RANGE_CRC):
            return None
        if not (2 <= pages <= size // PAGE and first < PAGES_END):
            return None
        return cls(first, pages, uuidlib.UUID(bytes=pool), uuidlib.UUID(bytes=uuid))


def _sealed(raw: bytes, at: int) -> bytes:
    return raw[:at] + struct.pack("<I", crc32c(raw)) + raw[at + 4 :]


def _is_sealed(raw: bytes, at: int) -> bool:
    return _sealed(raw[:at] + bytes(4) + raw[at + 4 :], at) == raw
