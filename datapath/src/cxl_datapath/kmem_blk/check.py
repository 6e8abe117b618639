# SPDX-License-Identifier: GPL-3.0-or-later
"""The offline checker: what is wrong in a pool that nobody has open, and on request its repair.

A repair makes a hole of an entry that names no page, and of the later one of two that name the same page: the block reads as
zeroes then. It writes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..mapping import Bytes
from .format import probe, read_index, read_table
from .layout import ENTRY, PAGE

SHOWN = 20  # bad entries that are told one by one


@dataclass(frozen=True)
class Report:
    """`problems` in words, `bad` the blocks whose entries a repair would clear; with `fatal` there is nothing to repair."""

    name: str
    blocks: int
    mapped: int
    pages: int
    ranges: int
    problems: tuple[str, ...]
    bad: tuple[int, ...]
    fatal: bool

    def to_json(self) -> dict[str, object]:
        return {**vars(self), "problems": list(self.problems), "bad": len(self.bad), "clean": not self.problems}


def check(memory: Bytes) -> Report:
    """Reads superblock, table and the whole index. Never raises for what it finds."""
    found = probe(memory)
    superblock = found.superblock
    if superblock is None:
        problem = found.problem or (f"carries {found.foreign}, no pool" if found.foreign else "holds no pool")
        return Report("", 0, 0, 0, 0, (problem,), (), True)
    try:
        table = read_table(memory, superblock)
    except Exception as error:  # a checker says what is wrong
        return Report(superblock.name, superblock.num_index_entries, 0, 0, 0, (str(error),), (), True)
    data = [range(superblock.fixed, superblock.total_pages)] + [range(e.first + 1, e.first + e.pages) for e in table]
    owner: dict[int, int] = {}
    bad: dict[int, str] = {}
    for block, page in enumerate(read_index(memory, superblock)):
        if page == 0:
            continue
        if not any(page in pages for pages in data):
            bad[block] = f"block {block} names page {page}, which holds no data"
        elif page in owner:
            bad[block] = f"block {block} names page {page}, which is block {owner[page]}"
        else:
            owner[page] = block
    problems = list(bad.values())[:SHOWN]
    if len(bad) > SHOWN:
        problems.append(f"and {len(bad) - SHOWN} more")
    pages = sum(len(each) for each in data)
    return Report(superblock.name, superblock.num_index_entries, len(owner), pages, len(data), tuple(problems), tuple(bad), False)


def repair(memory: Bytes, report: Report) -> None:
    """Each entry is one aligned store; a repair that is cut short is simply not finished."""
    for block in report.bad:
        memory.write(PAGE + block * ENTRY, bytes(ENTRY))
