# SPDX-License-Identifier: GPL-3.0-or-later
"""An open pool: its memories, the block volume, the swap volume; growing and shrinking. One process has a pool at a time."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backing import allocate, looked_at, take_lock
from ..core import COHERENCE_SOFTWARE
from ..errors import Code, DatapathError, from_errno
from ..mapping import Mapping
from ..memory import Memory
from .format import TableEntry, drop_range, plan_range, read_range, read_superblock, read_table, write_range
from .layout import PAGE, Superblock
from .pages import BLOCKS, Pages, Volume
from .volatile import SwapIndex

LEASE_RUN_DEVDAX = (2 << 20) // PAGE  # a devdax device is mapped by 2 MiB


def lock_memory(memory: Memory) -> int:
    """A descriptor that keeps other processes of ours out of the memory. Raises `busy`."""
    try:
        fd = os.open(memory.path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise from_errno(error.errno or 0, memory.spec, "open it") from None
    try:
        take_lock(memory, fd)
    except BlockingIOError:
        os.close(fd)
        raise DatapathError(
            Code.BUSY, memory.spec, "a pool or a transport on it is open", "stop that pool, or unregister the transport, first"
        ) from None
    return fd


@dataclass(frozen=True)
class Range:
    """A memory of the pool that is mapped; `entry` is its line in the table, None for the memory with the superblock."""

    memory: Memory
    mapping: Mapping
    lock: int
    first: int
    pages: int
    entry: TableEntry | None

    @property
    def volatile(self) -> bool:
        """A power cut may take what is in it: it is for swap only."""
        return self.entry is not None and self.entry.volatile

    def close(self) -> None:
        self.mapping.close()
        os.close(self.lock)


def _open_memory(memory: Memory) -> tuple[int, Mapping]:
    lock = lock_memory(memory)
    try:
        with contextlib.suppress(DatapathError):  # what leases took out of a file; without room for it, it can be read at least
            allocate(memory, lock)
        return lock, _map(memory)
    except BaseException:
        os.close(lock)
        raise


def _map(memory: Memory) -> Mapping:
    mapping = Mapping(memory)
    mapping.use_coherence(COHERENCE_SOFTWARE)  # stores must leave the caches: the memory is persistent
    return mapping


class Pool:
    """Opens the pool that begins in the first of `memories`. `notes` says what of the others is not part of it."""

    def __init__(self, memories: list[Memory], reserve: int, recall_ms: int, event_fd: int, runtime: Path) -> None:
        self.notes: list[str] = []
        self.ranges: list[Range] = []
        self.swap: Volume | None = None
        self._swap_index: SwapIndex | None = None
        self._runtime = runtime
        try:
            self.superblock = self._open_first(memories[0])
            self.pages = Pages(self.superblock.spare_pages, reserve, recall_ms, event_fd)
            self._open_others(memories[1:])
            for each in self.ranges:
                fixed = 1 if each.entry else self.superblock.fixed
                self.pages.add(each.mapping.mem, each.first, each.pages, fixed=fixed, volatile=each.volatile)
            first = self.ranges[0].mapping.mem
            self.blocks = Volume(self.pages, first, PAGE, self.superblock.num_index_entries, user=BLOCKS, durable=True)
            self._adopt_swap()
        except BaseException:
            for each in self.ranges:
                each.close()
            raise

    @property
    def name(self) -> str:
        return self.superblock.name

    def _open_first(self, memory: Memory) -> Superblock:
        lock, mapping = _open_memory(memory)
        try:
            superblock = read_superblock(mapping, memory.spec)
        except BaseException:
            mapping.close()
            os.close(lock)
            raise
        self.ranges.append(Range(memory, mapping, lock, 0, superblock.total_pages, None))
        return superblock

    def _table(self) -> list[TableEntry]:
        return read_table(self.ranges[0].mapping, self.superblock)

    def _open_others(self, memories: list[Memory]) -> None:
        wanted = {entry.uuid: entry for entry in self._table()}
        for memory in memories:
            lock, mapping = _open_memory(memory)
            header = read_range(mapping)
            entry = wanted.pop(header.uuid, None) if header and header.pool == self.superblock.uuid else None
            if entry is None:
                self.notes.append(f"{memory.spec} is no range of the pool")
                mapping.close()
                os.close(lock)
            else:
                self.ranges.append(Range(memory, mapping, lock, entry.first, entry.pages, entry))
        for entry in [each for each in wanted.values() if each.volatile]:
            drop_range(self.ranges[0].mapping, wanted.pop(entry.uuid))
            self.notes.append(f"{entry.pages} volatile pages from {entry.first} on are gone")
        if wanted:
            missing = ", ".join(f"{entry.pages} pages from {entry.first} ({uuid})" for uuid, entry in wanted.items())
            hint = "start it with the memory of each range"
            raise DatapathError(Code.NOT_FOUND, f"pool {self.name}", f"ranges are missing: {missing}", hint)

    # ---- growing and shrinking ---------------------------------------------------------------------------------------

    def grow(self, memory: Memory, force: bool) -> None:
        """Adds a memory; on return its pages are there to be used."""
        table = self._table()
        with contextlib.ExitStack() as undo:
            lock = lock_memory(memory)
            undo.callback(os.close, lock)
            with looked_at(memory) as seen:
                header = plan_range(seen, memory.spec, self.superblock, table, force)
            allocate(memory, lock)
            mapping = _map(memory)
            undo.callback(mapping.close)
            first = self.ranges[0].mapping
            entry = write_range(first, mapping, header, table, volatile=memory.dynamic)
            undo.callback(drop_range, first, entry)
            self.pages.add(mapping.mem, entry.first, entry.pages, fixed=1, volatile=entry.volatile)
            undo.pop_all()
        self.ranges.append(Range(memory, mapping, lock, entry.first, entry.pages, entry))

    def shrink(self, spec: str, move: bool) -> None:
        """Gives a memory back; with `move` blocks go elsewhere first. Raises `busy` while pages are used, `full` without room."""
        found = next((each for each in self.ranges if each.memory.spec == spec), None)
        if found is None:
            raise DatapathError(Code.NOT_FOUND, spec, f"is no memory of pool {self.name}", "see: cxl-datapath kmem-blk pool list")
        if found.entry is None:
            raise DatapathError(
                Code.INVALID, spec, f"carries the superblock of pool {self.name}", "only what was added can leave"
            )
        self.pages.leave(found.first)
        try:
            if move:
                for volume in (self.blocks, self.swap):
                    if volume is not None:
                        volume.evacuate(found.first)
            self._check_empty(found)
            drop_range(self.ranges[0].mapping, found.entry)
        except BaseException:
            self.pages.stay(found.first)
            raise
        self.pages.remove(found.first)
        self.ranges.remove(found)
        found.mapping.write(0, bytes(PAGE))
        found.close()

    def _check_empty(self, found: Range) -> None:
        """Nothing can come into a range that leaves, so this stays true."""
        used = self.pages.used_in(found.first)
        if used:
            hint = "move them out (--move), release leases in it"
            raise DatapathError(Code.BUSY, found.memory.spec, f"{used} of its pages are used", hint)

    # ---- swap --------------------------------------------------------------------------------------------------------

    def _adopt_swap(self) -> None:
        """What an earlier process of this boot has served as swap is still in the pages. Blocks do not depend on it."""
        index = SwapIndex.find(self._runtime, self.superblock.name, self.superblock.uuid)
        if index is None:
            return
        self._swap_index = index
        try:
            self.swap = index.open(self.pages)
        except DatapathError as error:
            if error.code != Code.CORRUPT:
                raise
            self.notes.append(f"its swap cannot be served: {error.message}")

    def make_swap(self, blocks: int) -> Volume:
        """The volatile volume; the one that is there when it has that many blocks."""
        if self.swap is not None:
            if self.swap.blocks != blocks:
                what = f"has {self.swap.blocks * PAGE} bytes"
                raise DatapathError(Code.EXISTS, f"swap of pool {self.name}", what, "stop it first")
            return self.swap
        if self._swap_index is not None:  # an empty one would give the kernel zeroes for what it had there
            what = "its index is damaged, and what was in it is lost"
            raise DatapathError(Code.CORRUPT, f"swap of pool {self.name}", what, "swapoff its device, then stop it")
        self._swap_index = SwapIndex.make(self._runtime, self.name, self.superblock.uuid, blocks)
        self.swap = self._swap_index.open(self.pages)
        return self.swap

    def drop_swap(self) -> None:
        """Gives every page of it back. Nobody is attached."""
        if self.swap is not None:
            self.clear_swap()
            self.swap.close()
        if self._swap_index is not None:
            self._swap_index.remove()
        self.swap = self._swap_index = None

    def clear_swap(self) -> None:
        step = 1 << 30
        size = self.swap.blocks * PAGE if self.swap else 0
        for offset in range(0, size, step):
            assert self.swap is not None
            self.swap.discard(offset, min(step, size - offset))

    # ---- status ------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        ranges = [
            {"memory": each.memory.spec, "first": each.first, "pages": each.pages}
            | {"used": self.pages.used_in(each.first), "volatile": each.volatile}
            for each in self.ranges
        ]
        return {
            "name": self.name,
            "uuid": str(self.superblock.uuid),
            "capacity": self.superblock.num_index_entries * PAGE,
            "page_size": PAGE,
            "pages": self.pages.counts(),
            "ranges": ranges,
            "swap_size": self.swap.blocks * PAGE if self.swap else 0,
            "notes": list(self.notes),
        }
