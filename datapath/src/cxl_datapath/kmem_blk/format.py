# SPDX-License-Identifier: GPL-3.0-or-later
"""A pool's memory: probed, formatted, and its table of further ranges read and changed."""

from __future__ import annotations

import array
import uuid as uuidlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..cbd.signatures import foreign
from ..cbd.transport import probe as probe_transport
from ..errors import Code, DatapathError
from ..mapping import Bytes
from .layout import (
    ENTRY,
    INDEX_ENTRIES,
    MAGIC_POOL,
    MAGIC_RANGE,
    PAGE,
    PAGES_END,
    PAGES_MIN,
    RANGE_HEADER,
    SPARE_DEFAULT,
    SUPERBLOCK,
    TABLE_ENTRIES,
    TABLE_ENTRY,
    TABLE_OFF,
    TABLE_VOLATILE,
    RangeHeader,
    Superblock,
)

_ZERO_CHUNK = 1 << 20


@dataclass(frozen=True)
class Probe:
    """What a memory holds. `formatted`: a pool, readable or not (`problem` says why not, `superblock` is None then).

    `foreign`: something else that a user may miss, in words; empty: nothing.
    """

    formatted: bool
    foreign: str
    superblock: Superblock | None
    problem: str


def probe(memory: Bytes) -> Probe:
    """Looks at the first pages and changes nothing. Never raises for what it finds."""
    if memory.size < PAGE:
        return Probe(False, "", None, "")
    first = memory.read(0, SUPERBLOCK.size)
    if first[:4] == MAGIC_POOL:
        try:
            return Probe(True, "", Superblock.unpack(first, memory.size), "")
        except DatapathError as error:
            return Probe(True, "", None, f"{error.object}: {error.message}")
    if first[:4] == MAGIC_RANGE:
        return Probe(False, "a range of another pool", None, "")
    return Probe(False, _foreign(memory), None, "")


def _foreign(memory: Bytes) -> str:
    if probe_transport(memory).formatted:
        return "a CBD transport"
    return foreign(memory, PAGE)  # no more: the pages of a range that was taken out keep what they held


def read_superblock(memory: Bytes, name: str) -> Superblock:
    """The checked superblock; `name` is what to call the memory in errors."""
    found = probe(memory)
    if found.superblock is not None:
        return found.superblock
    if found.formatted:
        raise DatapathError(Code.CORRUPT, name, found.problem, "see: cxl-datapath kmem-blk check")
    raise DatapathError(Code.NOT_FOUND, name, "holds no pool", "format it first: cxl-datapath kmem-blk pool format")


def check_may_format(memory: Bytes, name: str, force: bool) -> None:
    found = probe(memory)
    if force or not (found.formatted or found.foreign):
        return
    what = found.foreign or f"the pool {found.superblock.name if found.superblock else f'({found.problem})'}"
    raise DatapathError(Code.EXISTS, name, f"carries {what}", "use force to destroy it")


def plan_format(size: int, name: str, spare: int = SPARE_DEFAULT) -> Superblock:
    """What a format of `size` bytes writes. Raises `range` when they are too few."""
    pages = size // PAGE - spare
    if pages < PAGES_MIN:
        what = f"{size} bytes are too few for a pool with {spare} spare pages"
        raise DatapathError(Code.RANGE, name, what, f"give at least {(PAGES_MIN + spare) * PAGE} bytes")
    return Superblock(pages, spare, uuidlib.uuid4(), name)


def _clear_first_page(memory: Bytes) -> None:
    """The superblock before the table that belongs to it: a pool without its ranges would look like a whole one."""
    memory.write(0, bytes(SUPERBLOCK.size))
    memory.write(0, bytes(PAGE))


def write_format(memory: Bytes, superblock: Superblock, thick: bool = False) -> None:
    """The old superblock goes first and the new one comes last, so that a format that is cut short leaves no pool.

    thick: every block has its page from the start.
    """
    _clear_first_page(memory)
    for page in range(superblock.num_index_pages):
        memory.write((1 + page) * PAGE, _thick_index(superblock, page) if thick else bytes(PAGE))
    memory.write(0, superblock.pack())


def _thick_index(superblock: Superblock, page: int) -> bytes:
    first = superblock.fixed + page * INDEX_ENTRIES
    entries = (first + j if first + j < superblock.num_pages else 0 for j in range(INDEX_ENTRIES))
    return b"".join(entry.to_bytes(ENTRY, "little") for entry in entries)


def read_index(memory: Bytes, superblock: Superblock) -> array.array[int]:
    """All entries: page numbers, 0 for holes."""
    entries = array.array("Q")
    length = superblock.num_index_entries * ENTRY
    for start in range(0, length, _ZERO_CHUNK):
        entries.frombytes(memory.read(PAGE + start, min(_ZERO_CHUNK, length - start)))
    return entries


# ---- further ranges --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableEntry:
    """`volatile`: carries no blocks, and the pool opens without it."""

    slot: int
    pages: int
    first: int
    uuid: uuidlib.UUID
    volatile: bool = False


def read_slots(memory: Bytes) -> list[TableEntry]:
    """The whole table, as it is. What was removed has 0 pages, and keeps the rest."""
    found = []
    for slot in range(TABLE_ENTRIES):
        pages, first, uuid = TABLE_ENTRY.unpack(memory.read(TABLE_OFF + slot * TABLE_ENTRY.size, TABLE_ENTRY.size))
        found.append(TableEntry(slot, pages % TABLE_VOLATILE, first, uuidlib.UUID(bytes=uuid), pages >= TABLE_VOLATILE))
    return found


def read_table(memory: Bytes, superblock: Superblock) -> list[TableEntry]:
    """The ranges beside the first one. Raises `corrupt` when two overlap or one is impossible."""
    return used_slots(read_slots(memory), superblock)


def used_slots(slots: Sequence[TableEntry], superblock: Superblock) -> list[TableEntry]:
    found = [slot for slot in slots if slot.pages or slot.volatile]
    end = superblock.total_pages
    for entry in sorted(found, key=lambda each: each.first):
        if entry.first < end or entry.pages < 2 or entry.first + entry.pages > PAGES_END:
            what = f"range {entry.uuid} of {entry.pages} pages from {entry.first} is impossible"
            raise DatapathError(Code.CORRUPT, f"pool {superblock.name}", what, "restore its first page from a copy")
        end = entry.first + entry.pages
    return found


def read_range(memory: Bytes) -> RangeHeader | None:
    return RangeHeader.unpack(memory.read(0, RANGE_HEADER.size), memory.size) if memory.size >= 2 * PAGE else None


def plan_range(memory: Bytes, name: str, superblock: Superblock, table: list[TableEntry], force: bool) -> RangeHeader:
    """The header that makes this memory a range of the pool. What an addition that was cut short has left is used again."""
    if len(table) == TABLE_ENTRIES:
        raise DatapathError(
            Code.FULL, f"pool {superblock.name}", f"has {TABLE_ENTRIES} further ranges already", "shrink it first"
        )
    if memory.size < 2 * PAGE:
        raise DatapathError(Code.RANGE, name, f"has {memory.size} bytes", f"a range has at least {2 * PAGE}")
    before = read_range(memory)
    if before is not None and before.uuid in {entry.uuid for entry in table}:
        raise DatapathError(Code.EXISTS, name, f"is a range of pool {superblock.name} already", "there is nothing to add")
    if before is None or before.pool != superblock.uuid:
        check_may_format(memory, name, force)
    first = max([superblock.total_pages, *(entry.first + entry.pages for entry in table)])
    return RangeHeader(first, memory.size // PAGE, superblock.uuid, uuidlib.uuid4())


def write_range(pool: Bytes, memory: Bytes, header: RangeHeader, table: list[TableEntry], volatile: bool = False) -> TableEntry:
    """The header first, then the table, whose entry counts with its last store: cut short, it was never added."""
    _clear_first_page(memory)
    memory.write(0, header.pack())
    slot = min(set(range(TABLE_ENTRIES)) - {entry.slot for entry in table})
    entry = TableEntry(slot, header.pages, header.first, header.uuid, volatile)
    write_entry(pool, entry)
    return entry


def write_entry(pool: Bytes, entry: TableEntry) -> None:
    raw = TABLE_ENTRY.pack(entry.pages + entry.volatile * TABLE_VOLATILE, entry.first, entry.uuid.bytes)
    pool.write(TABLE_OFF + entry.slot * TABLE_ENTRY.size + 8, raw[8:])
    pool.write(TABLE_OFF + entry.slot * TABLE_ENTRY.size, raw[:8])


def drop_range(pool: Bytes, entry: TableEntry) -> None:
    """From now on the memory is nobody's. No index entry names it."""
    pool.write(TABLE_OFF + entry.slot * TABLE_ENTRY.size, bytes(8))
