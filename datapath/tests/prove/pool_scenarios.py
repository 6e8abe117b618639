# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenarios of the Python code of kmem_blk: a pool is formatted, grows and shrinks on a host that may lose its power.

Blocks, and moves out of a range, are core/sim/scenario_pages.c.
"""

from __future__ import annotations

import uuid as uuidlib
from functools import cache

from ram import Ram
from simulator import Simulation

from cxl_datapath.kmem_blk.check import check
from cxl_datapath.kmem_blk.format import (
    drop_range,
    plan_range,
    probe,
    read_index,
    read_range,
    read_superblock,
    read_table,
    write_format,
    write_range,
)
from cxl_datapath.kmem_blk.layout import ENTRY, PAGE, RangeHeader, Superblock
from cxl_datapath.mapping import Bytes

POOL, RANGE = 20, 4  # pages
SIZE = (POOL + 2 * RANGE) * PAGE
OWNER, HEIR = 0, 1
OLD, NEW, HEADER = (uuidlib.UUID(int=number) for number in (1, 2, 3))


class Part:
    """Bytes of a memory from `first` on, in pages."""

    def __init__(self, memory: Bytes, first: int, pages: int) -> None:
        self._memory, self._offset, self.size = memory, first * PAGE, pages * PAGE

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= self.size - length
        return self._memory.read(self._offset + offset, length)

    def write(self, offset: int, data: bytes) -> None:
        assert 0 <= offset <= self.size - len(data)
        self._memory.write(self._offset + offset, data)


def pool_of(memory: Bytes) -> Part:
    return Part(memory, 0, POOL)


def range_of(memory: Bytes, number: int) -> Part:
    return Part(memory, POOL + number * RANGE, RANGE)


def superblock(uuid: uuidlib.UUID) -> Superblock:
    return Superblock(POOL - 1, 1, uuid, "pool0")


@cache
def formatted() -> bytes:
    """A pool with a second range, and a block in each."""
    ram = Ram(SIZE)
    pool, old = pool_of(ram), superblock(OLD)
    write_format(pool, old)
    write_range(pool, range_of(ram, 0), RangeHeader(old.total_pages, RANGE, OLD, HEADER), [])
    for block, page in enumerate((old.fixed + 2, old.total_pages + 1)):
        pool.write(PAGE + block * ENTRY, page.to_bytes(ENTRY, "little"))
    return bytes(ram.data)


def play(sim: Simulation, work: object, look: object) -> None:
    """`work` as the owner, then `look` as the heir."""
    ended: list[bool] = []

    def own() -> None:
        work(sim.memory(OWNER))
        ended.append(True)

    def inherit() -> None:
        while not ended and not sim.is_dead(OWNER):
            sim.steps.sleep(0.5)
        look(sim.memory(HEIR), bool(ended))

    sim.actor(OWNER, own)
    sim.actor(HEIR, inherit)
    sim.crash_sometime(OWNER)
    sim.run()


class Formats:
    """Over an old pool there is the old one, none, or the new one; none of them with an index or a table that is not its own."""

    def __init__(self, sim: Simulation) -> None:
        self.thick = bool(sim.random(2))
        self.before = Ram(SIZE)
        self.before.data[:] = formatted()
        play(sim, self.format, self.look)

    def format(self, memory: Bytes) -> None:
        write_format(pool_of(memory), superblock(NEW), self.thick)

    def look(self, memory: Bytes, ended: bool) -> None:
        pool = pool_of(memory)
        found = probe(pool).superblock
        assert not ended or (found is not None and found.uuid == NEW), "the new pool is not there"
        if found is None:
            return
        index, table = list(read_index(pool, found)), read_table(pool, found)
        if found.uuid == OLD:
            old = pool_of(self.before)
            assert (index, table) == (list(read_index(old, found)), read_table(old, found)), "a part of the old pool is gone"
        else:
            assert table == [], "the table is of the old pool"
            assert self.thick or not any(index), "the index is of the old pool"
            assert not self.thick or index == list(range(found.fixed, found.num_pages)), "the index is not whole"


class Growths:
    """What the table names is there, as the table says; what has ended has ended."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.expected = {0}  # ranges that are in the pool; the one in the making may be
        self.open: set[int] = set()
        play(sim, self.grow_and_shrink, self.look)

    def grow_and_shrink(self, memory: Bytes) -> None:
        pool = pool_of(memory)
        pool.write(PAGE + ENTRY, bytes(ENTRY))  # the block in the first range is discarded
        for number, there in ((1, True), (0, False), (0, True), (1, False)):
            self.open = {number}
            (self.grow if there else self.shrink)(pool, range_of(memory, number))
            self.expected ^= {number}
            self.open = set()
            self.sim.progress()

    def grow(self, pool: Bytes, part: Bytes) -> None:
        table, head = read_table(pool, superblock(OLD)), read_superblock(pool, "pool")
        write_range(pool, part, plan_range(part, "range", head, table, force=False), table)

    def shrink(self, pool: Bytes, part: Bytes) -> None:
        header = read_range(part)
        assert header is not None
        drop_range(pool, next(entry for entry in read_table(pool, superblock(OLD)) if entry.uuid == header.uuid))
        part.write(0, bytes(PAGE))

    def look(self, memory: Bytes, ended: bool) -> None:
        pool = pool_of(memory)
        headers = [read_range(range_of(memory, number)) for number in (0, 1)]
        table = {entry.uuid: entry for entry in read_table(pool, read_superblock(pool, "pool"))}
        there = {number for number, header in enumerate(headers) if header and header.uuid in table}
        assert self.expected - self.open <= there <= self.expected | self.open, f"ranges {there}, not {self.expected}"
        assert len(there) == len(table), "a range of the table is nowhere"
        for number in there:
            header = headers[number]
            assert header is not None
            entry = table[header.uuid]
            assert (entry.first, entry.pages) == (header.first, header.pages), "header and table differ"
        assert not check(pool).problems or not ended
