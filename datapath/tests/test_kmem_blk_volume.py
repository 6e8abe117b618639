# SPDX-License-Identifier: GPL-3.0-or-later
"""The index against a dictionary: any sequence of writes, discards, moves and restarts, with pages that run out."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cxl_datapath.core import COHERENCE_SOFTWARE, CxlMem
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.kmem_blk.check import check
from cxl_datapath.kmem_blk.format import plan_format, read_table, write_format, write_range
from cxl_datapath.kmem_blk.layout import PAGE, RangeHeader, Superblock
from cxl_datapath.kmem_blk.pages import BLOCKS, SWAP, Pages, Volume

SIZE, MORE = 40, 12  # pages


class Area:
    """Aligned memory of this process that the core uses and the format code reads."""

    def __init__(self, pages: int) -> None:
        self.size = pages * PAGE
        self._raw = ctypes.create_string_buffer(self.size + PAGE)
        self._at = -(-ctypes.addressof(self._raw) // PAGE) * PAGE

    def mem(self) -> CxlMem:
        base = ctypes.cast(ctypes.c_void_p(self._at), ctypes.POINTER(ctypes.c_uint8))
        return CxlMem(base, self.size, COHERENCE_SOFTWARE, 0)

    def read(self, offset: int, length: int) -> bytes:
        return ctypes.string_at(self._at + offset, length)

    def write(self, offset: int, data: bytes) -> None:
        ctypes.memmove(self._at + offset, data, len(data))


def content(value: int) -> bytes:
    return bytes([value]) * PAGE


blocks = st.integers(0, 9)
values = st.integers(1, 255)


class Model(RuleBasedStateMachine):
    """Block volume and swap volume on one pool; `want` is what each must read."""

    @initialize(thick=st.booleans())
    def format(self, thick: bool) -> None:
        self.memory, self.more, self.index = Area(SIZE), Area(MORE), Area(1)
        self.superblock: Superblock = plan_format(self.memory.size, "pool0", spare=2)
        write_format(self.memory, self.superblock, thick)
        self.want: dict[str, dict[int, int]] = {"blocks": {}, "swap": {}}
        self.grown = False
        self.lent: list[int] = []
        self.start()

    def start(self) -> None:
        self.pages = Pages(self.superblock.spare_pages, 3, 0, -1)
        self.pages.add(self.memory.mem(), 0, self.superblock.total_pages, fixed=self.superblock.fixed)
        if self.grown:
            self.pages.add(self.more.mem(), self.superblock.total_pages, MORE, fixed=1)
        entries = self.superblock.num_index_entries
        self.volumes = {
            "blocks": Volume(self.pages, self.memory.mem(), PAGE, entries, user=BLOCKS, durable=True),
            "swap": Volume(self.pages, self.index.mem(), 0, 64, user=SWAP, durable=False),
        }

    def teardown(self) -> None:
        if hasattr(self, "volumes"):
            for volume in self.volumes.values():
                volume.close()
            self.pages.close()

    @rule(name=st.sampled_from(["blocks", "swap"]), block=blocks, count=st.integers(1, 4), value=values)
    def write(self, name: str, block: int, count: int, value: int) -> None:
        before = self.pages.counts()
        try:
            self.volumes[name].write(block * PAGE, content(value) * count)
        except DatapathError as error:
            assert error.code == Code.FULL
            limit = before["available"] - (before["reserve"] if name == "swap" else 0)
            assert limit < count, "refused although there was room"
            return
        self.want[name] |= {block + i: value for i in range(count)}

    @rule(name=st.sampled_from(["blocks", "swap"]), block=blocks, count=st.integers(1, 20))
    def discard(self, name: str, block: int, count: int) -> None:
        self.volumes[name].discard(block * PAGE, count * PAGE)
        for each in range(block, block + count):
            self.want[name].pop(each, None)

    @precondition(lambda self: not self.lent)
    @rule(count=st.integers(1, 30))
    def lease(self, count: int) -> None:
        room = self.pages.counts()["available"] - 3
        try:
            self.lent = self.pages.take(count, 1)
        except DatapathError as error:
            assert error.code == Code.FULL and count > room
            return
        assert len(set(self.lent)) == count <= room

    @rule()
    def give_back(self) -> None:
        self.pages.give(self.lent)
        self.lent = []

    @precondition(lambda self: not self.grown)
    @rule()
    def grow(self) -> None:
        header = RangeHeader(self.superblock.total_pages, MORE, self.superblock.uuid, self.superblock.uuid)
        write_range(self.memory, self.more, header, [])
        self.pages.add(self.more.mem(), header.first, MORE, fixed=1)
        self.grown = True

    @precondition(lambda self: self.grown)
    @rule()
    def shrink(self) -> None:
        first = self.superblock.total_pages
        try:
            self.pages.leave(first)
        except DatapathError as error:
            assert error.code == Code.FULL
            return
        for volume in self.volumes.values():
            volume.evacuate(first)
        if any(page >= first for page in self.lent):
            with pytest.raises(DatapathError):
                self.pages.remove(first)
            self.pages.stay(first)
            return
        self.pages.remove(first)
        self.memory.write(1024, bytes(32))
        self.grown = False

    @rule()
    def restart(self) -> None:
        """The process ends; the index of both volumes stays, leases do not."""
        self.lent = []
        self.teardown()
        self.start()

    @invariant()
    def everything_is_right(self) -> None:
        if not hasattr(self, "volumes"):
            return
        for name, volume in self.volumes.items():
            for block in range(14):
                assert volume.read(block * PAGE, PAGE) == content(self.want[name].get(block, 0))
        counts = self.pages.counts()
        used = self.volumes["blocks"].mapped() + self.volumes["swap"].mapped() + len(self.lent)
        assert counts["blocks"] + counts["swap"] + counts["leases"] == used
        assert counts["pages"] - counts["fixed"] == used + counts["free"]
        report = check(self.memory)
        assert report.problems == () and report.mapped == self.volumes["blocks"].mapped()
        assert len(read_table(self.memory, self.superblock)) == self.grown


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


@pytest.fixture
def pages() -> Iterator[Pages]:
    made = Pages(2, 0, 0, -1)
    yield made
    made.close()


def test_a_bad_index_is_refused_with_its_entry(pages):
    memory = Area(SIZE)
    superblock = plan_format(memory.size, "pool0", spare=2)
    write_format(memory, superblock)
    memory.write(PAGE + 8 * 5, (1 << 63).to_bytes(8, "little"))
    pages.add(memory.mem(), 0, superblock.total_pages, fixed=superblock.fixed)
    with pytest.raises(DatapathError) as caught:
        Volume(pages, memory.mem(), PAGE, superblock.num_index_entries, user=BLOCKS, durable=True)
    assert caught.value.code == Code.CORRUPT and "entry 5" in caught.value.message
