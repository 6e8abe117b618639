# SPDX-License-Identifier: GPL-3.0-or-later
"""Every structure of the metadata, torn at each of its 8-byte words: a reader sees the old content or the new, never a mixture.

Stores reach the memory in words of 8 bytes, each whole, and in any order once caches are in between. For each word the write is
cut before it (what comes later is lost), behind it (what came earlier is lost), and it alone is lost or alone arrives.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from ram import Ram

from cxl_datapath.cbd.geometry import FormatOptions, plan
from cxl_datapath.cbd.layout import BackendEntry, BlkdevEntry, HostEntry, Info, State
from cxl_datapath.cbd.lines import Bell, Claim, ControlLine, Fence, Heartbeat, Intent
from cxl_datapath.cbd.registry import Registry, Table
from cxl_datapath.cbd.transport import info_pair, plan_format, read_info, write_format

WORD = 8
SIZE = 1 << 20
OPTIONS = FormatOptions(hosts=2, backends=2, blkdevs=2, ring_depth=2, slot_bytes=4096)

HOSTS = (HostEntry(State.RUNNING, 1, 4, "node1", bytes(16)), HostEntry(State.RUNNING, 1, 5, "another", bytes(range(16))))
BACKENDS = (
    BackendEntry(State.RUNNING, 1, 7, 0, 0, 512, 1 << 20, "/dev/sdb", 4096, 4096, 4, 7),
    BackendEntry(State.REMOVING, 1, 8, 1, 7, 4096, 1 << 40, "/srv/" + "a-long-name" * 20, 8192, 0, 5, 1),
)
BLKDEVS = (
    BlkdevEntry(State.RUNNING, 1, 3, 1, 1, 7, 0, (0,), (9,), 4),
    BlkdevEntry(State.NONE, 1, 4, 0, 0, 8, 3, tuple(range(16)), tuple(range(20, 36)), 6),
)
LINES = [
    (Heartbeat(7, 1), Heartbeat(8, 1)),
    (Heartbeat(0xFFFFFFFF, 1), Heartbeat(1 << 32, 2)),
    (Bell(3), Bell(4)),
    (Fence(0), Fence(3)),
    (Fence(3), Fence(4)),
    (Claim(0, True), Claim(12, False)),
    (Intent(1 << 63), Intent(5)),
    (ControlLine(State.RUNNING, 7, 1, 2, 3, 4, 5), ControlLine(State.NONE, 8, 1, 2, 3, 4, 5)),
    (ControlLine(State.RUNNING, 7, 1, 2, 3, 4, 5), ControlLine(State.RUNNING, 8, 5, 4, 0, 1, 9)),
]


class Tearing(Ram):
    """Remembers its writes, so that they can be taken back and done in part."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.writes: list[tuple[int, bytes, bytes]] = []  # offset, before, after

    def write(self, offset: int, data: bytes) -> None:
        self.writes.append((offset, self.read(offset, len(data)), data))
        super().write(offset, data)

    def tears(self) -> Iterator[str]:
        """Does each of the writes in part, in every way, after those before it; gives its name each time."""
        done, self.writes = self.writes, []
        for offset, before, _ in reversed(done):
            self.data[offset : offset + len(before)] = before
        for number, (offset, old, new) in enumerate(done):
            yield from (f"write {number}: {name}" for name in self._torn(offset, old, new))

    def _torn(self, offset: int, old: bytes, new: bytes) -> Iterator[str]:
        for word in range(len(new) // WORD):
            cut, behind = word * WORD, (word + 1) * WORD
            for name, torn in (
                (f"words from {word} on are lost", new[:cut] + old[cut:]),
                (f"words up to {word} are lost", old[:behind] + new[behind:]),
                (f"word {word} is lost", new[:cut] + old[cut:behind] + new[behind:]),
                (f"only word {word} arrives", old[:cut] + new[cut:behind] + old[behind:]),
            ):
                self.data[offset : offset + len(new)] = torn
                yield name
        self.data[offset : offset + len(new)] = new


def _check(ram: Tearing, read: Callable[[], object], old: object, new: object) -> None:
    seen = set()
    for name in ram.tears():
        found = read()
        assert found in (old, new), name
        seen.add(found == new)
    assert read() == new
    assert False in seen, "no tear was ever noticed"


@pytest.fixture
def ram() -> Tearing:
    made = Tearing(SIZE)
    write_format(made, plan_format(SIZE, "pool0", OPTIONS, "software", True))
    return made


def _registry(ram: Ram) -> Registry:
    info = read_info(ram)
    assert info is not None
    return Registry(ram, info)


def _table(registry: Registry, entry: object) -> Table:  # type: ignore[type-arg]
    return next(table for table in (registry.hosts, registry.backends, registry.blkdevs) if isinstance(entry, table.kind))


@pytest.mark.parametrize("history", [0, 1, 2, 3])
@pytest.mark.parametrize("pair", [HOSTS, BACKENDS, BLKDEVS], ids=["host", "backend", "blkdev"])
@pytest.mark.parametrize("turned", [False, True])
def test_an_entry_is_the_old_one_or_the_new_one(ram: Tearing, pair: tuple, history: int, turned: bool) -> None:  # type: ignore[type-arg]
    old, new = reversed(pair) if turned else pair
    table = _table(_registry(ram), old)
    for _ in range(history):
        table.write(old)
    ram.writes.clear()
    table.write(new)
    _check(ram, lambda: table.read(1), old if history else None, new)


@pytest.mark.parametrize("history", [1, 2])
def test_the_info_is_the_old_one_or_the_new_one(history: int) -> None:
    ram = Tearing(SIZE)
    old = Info(uuid.UUID(int=5), "pool0", 1, 1, plan(OPTIONS, SIZE), 5000)
    other = plan(replace(OPTIONS, hosts=3), SIZE)
    new = replace(old, uuid=uuid.UUID(int=6), name="pool-of-another-name", features=0, geometry=other, lease_ms=1000)
    for _ in range(history):
        info_pair(ram).write(old.pack())
    ram.writes.clear()
    info_pair(ram).write(new.pack())
    _check(ram, lambda: read_info(ram), old, new)


@pytest.mark.parametrize("pair", LINES, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def test_a_line_is_the_old_one_or_the_new_one_or_none(pair: tuple) -> None:  # type: ignore[type-arg]
    ram = Tearing(64)
    old, new = pair
    for first, second in ((old, new), (new, old)):
        ram.write(0, first.pack())
        ram.writes.clear()
        ram.write(0, second.pack())
        for name in ram.tears():
            assert type(old).unpack(ram.read(0, 64)) in (first, second, None), name


@pytest.mark.parametrize("pair", [HOSTS, BACKENDS, BLKDEVS], ids=["host", "backend", "blkdev"])
def test_the_next_write_goes_over_what_is_torn_and_spares_what_is_whole(ram: Tearing, pair: tuple) -> None:  # type: ignore[type-arg]
    old, new = pair
    table = _table(_registry(ram), old)
    table.write(old)
    ram.writes.clear()
    table.write(new)
    for name in ram.tears():
        after = Tearing(SIZE)
        after.data[:] = ram.data
        again = _table(_registry(after), old)
        survivor = again.read(1)
        again.write(replace(old, epoch=99))
        assert again.read(1) == replace(old, epoch=99), name
        # Should this write be torn as well, what was whole before it is still there.
        (offset, _, data), (other, before, _) = after.writes
        after.data[offset : offset + len(data)] = bytes(len(data))
        after.data[other : other + len(before)] = before
        assert again.read(1) == survivor, name
