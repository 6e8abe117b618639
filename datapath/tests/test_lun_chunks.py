# SPDX-License-Identifier: GPL-3.0-or-later
"""The space of a LUN: nobody gets what another one has, nothing is lost, and nobody reads what was there before."""

from __future__ import annotations

import errno
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cxl_datapath.cxlflash.chunks import CHUNK_MIN_BLOCKS, CHUNKS_MAX, Chunks, Span, chunk_blocks_for, joined
from cxl_datapath.cxlflash.refusal import Refusal

COUNT, SIZE = 12, 8


@given(st.integers(1, 1 << 51))
def test_chunks_are_as_small_as_their_number_allows(blocks):
    size = chunk_blocks_for(blocks)
    assert size >= CHUNK_MIN_BLOCKS
    assert size & (size - 1) == 0
    assert blocks // size <= CHUNKS_MAX
    assert size == CHUNK_MIN_BLOCKS or blocks // (size // 2) > CHUNKS_MAX


@given(st.sets(st.integers(0, 60)))
def test_joined_spans_are_the_same_blocks(chunks):
    found = joined(Span(chunk * SIZE, SIZE) for chunk in chunks)
    assert [block for span in found for block in range(span.start, span.start + span.count)] == [
        block for chunk in sorted(chunks) for block in range(chunk * SIZE, (chunk + 1) * SIZE)
    ]
    assert all(one.start + one.count < other.start for one, other in itertools.pairwise(found))


class Space(RuleBasedStateMachine):
    """A model of the medium, block by block: 0 for zero, else who wrote it."""

    def __init__(self):
        super().__init__()
        self.chunks = Chunks(COUNT, SIZE)
        self.medium = ["before"] * (COUNT * SIZE)
        self.luns = []  # [blocks, table, mark, shared]
        self.marks = 0

    def _zero(self, spans):
        for span in spans:
            assert span.start >= 0 and span.start + span.count <= len(self.medium)
            self.medium[span.start : span.start + span.count] = [0] * span.count

    def _at(self, table, block):
        return table[block // SIZE] * SIZE + block % SIZE

    def _resize(self, lun, blocks, scrub, fails=False):
        before, old = lun[1], lun[0]
        try:
            plan = self.chunks.resize(old, before, blocks, scrub)
        except Refusal as refusal:
            assert refusal.errno == errno.ENOSPC
            assert -(-blocks // SIZE) - len(before) > self.chunks.free
            return
        self._zero(plan.zero)
        if fails:
            self.chunks.undo(before, plan)
            return
        for block in range(old, blocks):
            assert self.medium[self._at(plan.table, block)] == 0, "what is new reads as zeroes"
        self._zero(plan.scrub)
        self.chunks.settle(before, plan)
        assert len(plan.table) == -(-blocks // SIZE)
        assert plan.table[: len(before)] == before[: len(plan.table)]
        lun[0], lun[1] = blocks, plan.table
        for block in range(min(old, blocks)):
            assert self.medium[self._at(plan.table, block)] == lun[2], "what is kept stays"
        self._write(lun)

    def _write(self, lun):
        for block in range(lun[0]):
            self.medium[self._at(lun[1], block)] = lun[2]

    @rule(blocks=st.integers(0, COUNT * SIZE), fails=st.booleans())
    def new(self, blocks, fails):
        self.marks += 1
        lun = [0, (), self.marks, False]
        self._resize(lun, blocks, False, fails)
        self.luns.append(lun)

    @precondition(lambda self: self.luns)
    @rule(data=st.data(), blocks=st.integers(0, COUNT * SIZE), scrub=st.booleans(), fails=st.booleans())
    def resize(self, data, blocks, scrub, fails):
        lun = data.draw(st.sampled_from(self.luns))
        if not lun[3]:
            self._resize(lun, blocks, scrub, fails)

    @precondition(lambda self: self.luns)
    @rule(data=st.data())
    def clone(self, data):
        lun = data.draw(st.sampled_from(self.luns))
        self.chunks.share(lun[1])
        lun[3] = True
        self.luns.append(list(lun))

    @precondition(lambda self: self.luns)
    @rule(data=st.data(), scrub=st.booleans())
    def release(self, data, scrub):
        lun = self.luns.pop(data.draw(st.integers(0, len(self.luns) - 1)))
        plan = self.chunks.resize(lun[0], lun[1], 0, scrub)
        self._zero(plan.scrub)
        self.chunks.settle(lun[1], plan)
        for other in self.luns:
            for block in range(other[0]):
                assert self.medium[self._at(other[1], block)] == other[2], "nobody else notices"

    @rule()
    def soil(self):
        """A direct user was there: only when nobody else is, as the mode rule has it."""
        if not self.luns:
            self.medium = ["direct"] * len(self.medium)
            self.chunks.soil()

    @invariant()
    def nothing_is_lost_and_nothing_is_given_twice(self):
        alone = [chunk for lun in self.luns if not lun[3] for chunk in lun[1]]
        shared = {chunk for lun in self.luns if lun[3] for chunk in lun[1]}
        assert len(alone) == len(set(alone))
        assert not set(alone) & shared
        assert self.chunks.free == COUNT - len(alone) - len(shared)


TestSpace = Space.TestCase


def test_a_full_lun_says_how_much_is_left():
    chunks = Chunks(COUNT, SIZE)
    chunks.settle((), chunks.resize(0, (), 10 * SIZE, False))
    with pytest.raises(Refusal, match="3 chunks are needed, 2 are free"):
        chunks.resize(0, (), 2 * SIZE + 1, False)
    assert chunks.free == 2


def test_what_was_scrubbed_needs_no_zeroes():
    chunks = Chunks(COUNT, SIZE)
    first = chunks.resize(0, (), SIZE, False)
    assert len(first.zero) == 1
    chunks.settle((), first)
    gone = chunks.resize(SIZE, first.table, 0, True)
    assert [(span.start, span.count) for span in gone.scrub] == [(first.table[0] * SIZE, SIZE)]
    chunks.settle(first.table, gone)
    again = chunks.resize(0, (), SIZE, False)
    assert (again.table, again.zero) == (first.table, ())
    chunks.soil()
    assert len(chunks.resize(0, (), 2 * SIZE, False).zero) == 2


def test_a_chunk_that_a_clone_has_is_not_scrubbed():
    chunks = Chunks(COUNT, SIZE)
    plan = chunks.resize(0, (), SIZE, False)
    chunks.settle((), plan)
    chunks.share(plan.table)
    gone = chunks.resize(SIZE, plan.table, 0, True)
    assert gone.scrub == ()
    chunks.settle(plan.table, gone)
    assert chunks.free == COUNT - 1
