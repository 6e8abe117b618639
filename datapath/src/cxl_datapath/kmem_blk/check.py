# SPDX-License-Identifier: GPL-3.0-or-later
"""The offline checker: what is wrong in a pool that nobody has open, and on request its repair.

A repair brings the table of further memories in line with the headers of those that are named. It makes a hole of an entry that
names no page, and of the later one of two that name the same page: the block reads as zeroes then. It writes nothing else.
An entry that may name a page of a further memory can be as good as ever, and the table be what is damaged: without the headers of
these memories it stays as it is, unless the user insists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..mapping import Bytes
from .format import TableEntry, probe, read_index, read_slots, used_slots, write_entry
from .layout import ENTRY, PAGE, PAGES_END, RangeHeader, Superblock

SHOWN = 20  # bad entries that are told one by one


@dataclass(frozen=True)
class Report:
    """`problems` in words, `bad` the blocks whose entries a repair would clear, `unsure` those that it leaves, `table`
    the entries that it would write there; with `fatal` there is nothing to repair."""

    name: str
    blocks: int
    mapped: int
    pages: int
    ranges: int
    problems: tuple[str, ...]
    bad: tuple[int, ...]
    fatal: bool
    unsure: tuple[int, ...] = ()
    table: tuple[TableEntry, ...] = ()

    def to_json(self) -> dict[str, object]:
        counted = {name: len(getattr(self, name)) for name in ("bad", "unsure", "table")}
        return {**vars(self), "problems": list(self.problems), **counted, "clean": not self.problems}


def check(memory: Bytes, further: Sequence[RangeHeader] = (), force: bool = False) -> Report:
    """Reads superblock, table and the whole index. `further`: headers of memories of the pool. Never raises for what it finds."""
    found = probe(memory)
    superblock = found.superblock
    if superblock is None:
        problem = found.problem or (f"carries {found.foreign}, no pool" if found.foreign else "holds no pool")
        return Report("", 0, 0, 0, 0, (problem,), (), True)
    slots = read_slots(memory)
    wrong = _wrong_slots(slots, further)
    for entry in wrong:
        slots[entry.slot] = entry
    try:
        table = used_slots(slots, superblock)
    except Exception as error:  # a checker says what is wrong
        return Report(superblock.name, superblock.num_index_entries, 0, 0, 0, (str(error),), (), True)
    known = {header.uuid for header in further}
    sure = force or all(slot.uuid.int == 0 or slot.uuid in known for slot in slots)
    return _check_index(memory, superblock, table, wrong, sure)


def _wrong_slots(slots: Sequence[TableEntry], further: Sequence[RangeHeader]) -> list[TableEntry]:
    """What the table should say of these memories and does not. A slot is found again by one of its two names."""
    wrong: list[TableEntry] = []
    for header in further:
        free = [slot for slot in slots if slot.slot not in {entry.slot for entry in wrong}]
        same = [slot for slot in free if slot.uuid == header.uuid] or [slot for slot in free if slot.first == header.first]
        slot = next(iter(same or [slot for slot in free if not slot.pages]), None)
        if slot is not None:
            entry = replace(slot, pages=header.pages, first=header.first, uuid=header.uuid)
            wrong += [entry] if entry != slot else []
    return wrong


def _check_index(memory: Bytes, superblock: Superblock, table: list[TableEntry], wrong: list[TableEntry], sure: bool) -> Report:
    data = [range(superblock.fixed, superblock.total_pages)] + [range(e.first + 1, e.first + e.pages) for e in table]
    known = [range(superblock.total_pages), *(range(e.first, e.first + e.pages) for e in table)]
    owner: dict[int, int] = {}
    bad: dict[int, str] = {}
    unsure: dict[int, str] = {}
    for block, page in enumerate(read_index(memory, superblock)):
        if page == 0:
            continue
        if not any(page in pages for pages in data):
            if sure or page >= PAGES_END or any(page in pages for pages in known):
                bad[block] = f"block {block} names page {page}, which holds no data"
            else:
                unsure[block] = (
                    f"block {block} names page {page}, maybe of a further memory that the table lost: name these memories"
                )
        elif page in owner:
            bad[block] = f"block {block} names page {page}, which is block {owner[page]}"
        else:
            owner[page] = block
    lines = [f"the table does not say that {e.pages} pages from {e.first} on are memory {e.uuid}" for e in wrong]
    problems = [*lines, *unsure.values(), *bad.values()][:SHOWN]
    if (left := len(lines) + len(unsure) + len(bad) - SHOWN) > 0:
        problems.append(f"and {left} more")
    shape = (superblock.name, superblock.num_index_entries, len(owner), sum(map(len, data)), len(data))
    return Report(*shape, tuple(problems), tuple(bad), False, tuple(unsure), tuple(wrong))


def repair(memory: Bytes, report: Report) -> None:
    """Each entry is one aligned store; a repair that is cut short is simply not finished."""
    for entry in report.table:
        write_entry(memory, entry)
    for block in report.bad:
        memory.write(PAGE + block * ENTRY, bytes(ENTRY))
