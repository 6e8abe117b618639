# SPDX-License-Identifier: GPL-3.0-or-later
"""The space of a LUN in chunks: who has how many of which, and what has to be zeroed before somebody gets it. Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass, field

from .refusal import Refusal

CHUNK_MIN_BLOCKS = 256  # 1 MiB
CHUNKS_MAX = 8192  # of a LUN; a table of that many fits into one message to the engine


def chunk_blocks_for(blocks: int) -> int:
    """The smallest power of two, at least 1 MiB, that makes at most `CHUNKS_MAX` chunks of a LUN."""
    size = CHUNK_MIN_BLOCKS
    while blocks // size > CHUNKS_MAX:
        size *= 2
    return size


@dataclass(frozen=True)
class Span:
    """A range of the LUN in blocks."""

    start: int
    count: int


def joined(spans: Iterable[Span]) -> list[Span]:
    """The same blocks in as few spans as they take."""
    found: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        if found and found[-1].start + found[-1].count == span.start:
            found[-1] = Span(found[-1].start, found[-1].count + span.count)
        else:
            found.append(span)
    return found


@dataclass(frozen=True)
class Resize:
    """What a virtual LUN will be. `zero` comes before the new table is used, `scrub` after the old one no longer is."""

    blocks: int
    table: tuple[int, ...]
    zero: tuple[Span, ...]
    scrub: tuple[Span, ...]


@dataclass
class Chunks:
    """The chunks of one LUN. A virtual LUN is its size in blocks and a table of chunks, in its order."""

    count: int
    blocks: int  # of one chunk
    _users: dict[int, int] = field(default_factory=dict)  # chunk -> how many tables it is in
    _clean: set[int] = field(default_factory=set)  # free, and known to be zero

    @property
    def free(self) -> int:
        return self.count - sum(1 for chunk in self._users if chunk < self.count)  # the medium may have become smaller

    def resize(self, blocks: int, table: tuple[int, ...], wanted: int, scrub: bool) -> Resize:
        """Takes what growing to `wanted` blocks needs. Gives nothing back yet: `settle` does, once the engine has the table.

        Raises `Refusal` (ENOSPC) and takes nothing when there is not enough.
        """
        need = -(-wanted // self.blocks)
        kept = table[:need]
        if need - len(kept) > self.free:
            raise Refusal(errno.ENOSPC, f"{need - len(kept)} chunks are needed, {self.free} are free; ask for less")
        fresh = self._take(need - len(kept))
        zero = [self._span(chunk) for chunk in fresh if chunk not in self._clean]
        zero += self._tail(blocks, wanted, kept)
        self._clean.difference_update(fresh)
        gone = [chunk for chunk in table[need:] if self._users[chunk] == 1] if scrub else []
        return Resize(wanted, kept + tuple(fresh), tuple(zero), tuple(self._span(chunk) for chunk in gone))

    def _take(self, number: int) -> list[int]:
        """The lowest free ones, the clean first."""
        found = sorted(
            (chunk for chunk in range(self.count) if chunk not in self._users), key=lambda c: (c not in self._clean, c)
        )
        for chunk in found[:number]:
            self._users[chunk] = 1
        return found[:number]

    def _tail(self, blocks: int, wanted: int, kept: tuple[int, ...]) -> list[Span]:
        """What lies behind the old end in a chunk that is kept: it may hold what was there before an earlier shrink."""
        inside = blocks % self.blocks
        last = blocks // self.blocks
        if wanted <= blocks or not inside or last >= len(kept):
            return []
        return [Span(kept[last] * self.blocks + inside, min(self.blocks - inside, wanted - blocks))]

    def settle(self, before: tuple[int, ...], plan: Resize) -> None:
        """The engine has the new table: what only the old one had is given back."""
        self.drop(before[len(plan.table) :])
        for span in plan.scrub:
            self._clean.add(span.start // self.blocks)

    def undo(self, before: tuple[int, ...], plan: Resize) -> None:
        """The engine did not take the new table."""
        self.drop(plan.table[len(before) :])

    def share(self, table: tuple[int, ...]) -> None:
        """One more virtual LUN has this table."""
        for chunk in table:
            self._users[chunk] = self._users.get(chunk, 0) + 1

    def drop(self, table: tuple[int, ...]) -> None:
        for chunk in table:
            self._users[chunk] -= 1
            if not self._users[chunk]:
                del self._users[chunk]

    def soil(self) -> None:
        """Somebody may have written anywhere."""
        self._clean.clear()

    def _span(self, chunk: int) -> Span:
        return Span(chunk * self.blocks, self.blocks)
