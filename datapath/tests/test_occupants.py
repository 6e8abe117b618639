# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is in a memory that is to be formatted: found with and without a transport info."""

from __future__ import annotations

import pytest
from ram import Ram

from cxl_datapath.cbd.geometry import ENTRY_PAGE, INFO_AREA, FormatOptions
from cxl_datapath.cbd.hosting import Registration, register
from cxl_datapath.cbd.layout import LEASE_MS_MIN, Info
from cxl_datapath.cbd.lines import HEARTBEAT_OFF, LINE, Heartbeat
from cxl_datapath.cbd.occupants import Occupants
from cxl_datapath.cbd.registry import ENTRY_COPY, Registry
from cxl_datapath.cbd.transport import attach, plan_format, write_format

SIZE = 1 << 17


class Lively(Ram):
    """The hosts in `living` beat whenever somebody looks at a heartbeat."""

    def __init__(self) -> None:
        super().__init__(SIZE)
        self.living: list[Registration] = []

    def read(self, offset: int, length: int) -> bytes:
        if offset >= INFO_AREA and offset % ENTRY_PAGE == HEARTBEAT_OFF:
            living, self.living = self.living, []
            for registration in living:
                registration.beat()
            self.living = living
        return super().read(offset, length)


@pytest.fixture
def memory() -> Lively:
    made = Lively()
    options = FormatOptions(hosts=4, backends=1, blkdevs=1, channels=1, ring_depth=2, slot_bytes=4096)
    write_format(made, plan_format(SIZE, "pool0", options, "software", True, lease_ms=LEASE_MS_MIN))
    return made


def join(memory: Lively, name: str, lives: bool = True) -> Registration:
    registration = register(Registry(memory, attach(memory, "memory")), name, bytes(16), sleep=lambda _: None)
    if lives:
        memory.living.append(registration)
    return registration


def info_of(memory: Lively, readable: bool) -> Info | None:
    """The info, or none after both of its copies were damaged."""
    if readable:
        return attach(memory, "memory")
    for offset in (100, 4196):
        memory.data[offset] ^= 1
    return None


@pytest.mark.parametrize("readable", [True, False])
def test_the_living_are_named(memory: Lively, readable: bool) -> None:
    join(memory, "node1")
    join(memory, "node2", lives=False)
    join(memory, "node3", lives=False).leave()
    assert Occupants(memory, info_of(memory, readable)).alive() == ["node1"]


@pytest.mark.parametrize("readable", [True, False])
def test_a_living_host_whose_entry_is_damaged_is_found_by_its_heartbeat(memory: Lively, readable: bool) -> None:
    page = Registry(memory, attach(memory, "memory")).hosts.page(join(memory, "node1").id)
    info = info_of(memory, readable)
    occupants = Occupants(memory, info)
    memory.living = []
    for offset in (100, ENTRY_COPY + 100):
        memory.data[page + offset] ^= 1
    counter = iter(range(10, 1000))

    class Beats(Lively):
        def read(self, offset: int, length: int) -> bytes:
            if offset == page + HEARTBEAT_OFF:
                memory.data[offset : offset + LINE] = Heartbeat(next(counter), 1).pack()
            return memory.read(offset, length)

    assert occupants.moved() == ["#0"]
    assert Occupants(Beats(), info).alive() == ["#0"]


@pytest.mark.parametrize("readable", [True, False])
def test_who_comes_meanwhile_is_seen(memory: Lively, readable: bool) -> None:
    join(memory, "node1", lives=False)
    late = Registry(memory, attach(memory, "memory"))
    occupants = Occupants(memory, attach(memory, "memory") if readable else None)
    assert occupants.alive() == []
    assert occupants.moved() == []
    register(late, "node2", bytes(16), sleep=lambda _: None)
    assert occupants.moved() == ["node2"]


def test_memory_without_hosts_is_not_watched(memory: Lively, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("there is nobody to wait for"))
    for content in (Ram(SIZE), Ram(4096), memory):
        assert Occupants(content, None).alive() == []
    noise = Ram(SIZE)
    noise.data[:] = b"\xa5" * SIZE
    assert Occupants(noise, None).alive() == []
