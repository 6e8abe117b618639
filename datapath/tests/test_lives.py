# SPDX-License-Identifier: GPL-3.0-or-later
"""Over which entry a backend may be published, at the moment when it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ram import Ram

from cxl_datapath.cbd.geometry import FormatOptions
from cxl_datapath.cbd.layout import BackendEntry, HostEntry, State
from cxl_datapath.cbd.lines import Fence
from cxl_datapath.cbd.registry import ENTRY_COPY, Registry
from cxl_datapath.cbd.transport import attach, plan_format, write_format
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.lives import Start, predecessor
from cxl_datapath.workers.attach import Attached, TransportRef
from cxl_datapath.workers.backend import Config, _publish
from cxl_datapath.workers.guard import Guard
from cxl_datapath.workers.store import Store

SIZE = 1 << 20
OPTIONS = FormatOptions(hosts=3, backends=3, blkdevs=3, channels=4, ring_depth=2, slot_bytes=4096)
ME, OTHER = 0, 1
LIFE = 5
MINE = BackendEntry(State.RUNNING, 0, 7, ME, 0, 512, SIZE, "/dev/sdx", 512, 0, 1, LIFE)
THEIRS = replace(MINE, host_id=OTHER)
STORE = Store(-1, False, False, False, 512, SIZE, False, False, 512, 0, False)


@pytest.fixture
def transport() -> Attached:
    """This host and another one, each in its first incarnation."""
    ram: Any = Ram(SIZE)
    write_format(ram, plan_format(SIZE, "pool0", OPTIONS, "software", True))
    info = attach(ram, "memory")
    registry = Registry(ram, info)
    for number in (ME, OTHER):
        registry.hosts.write(HostEntry(State.RUNNING, number, 1, f"node{number}", bytes(16)))
    ref = TransportRef("memory", "memory", SIZE, "file", 0, str(info.uuid), ME, 1, "/nowhere")
    return Attached(ref, ram, info, registry)


@pytest.mark.parametrize(
    ("entry", "start", "fenced"),
    [
        (MINE, Start.AGAIN, False),
        (replace(MINE, host_epoch=0), Start.AGAIN, False),
        (THEIRS, Start.TAKEOVER, True),
    ],
)
def test_a_life_goes_on(transport: Attached, entry: BackendEntry, start: Start, fenced: bool) -> None:
    transport.registry.backends.write(entry)
    if fenced:
        transport.registry.write_fence(OTHER, Fence(1))
    assert predecessor(transport.registry, ME, 0, LIFE, start) == entry


def test_a_first_life_needs_a_free_id(transport: Attached) -> None:
    assert predecessor(transport.registry, ME, 0, 0, Start.FIRST) is None
    transport.registry.backends.write(replace(THEIRS, state=State.NONE))
    assert predecessor(transport.registry, ME, 0, 0, Start.FIRST) is None


@pytest.mark.parametrize(
    ("entry", "start", "life", "fenced"),
    [
        (None, Start.AGAIN, LIFE, False),
        (None, Start.AGAIN, 0, False),
        (None, Start.TAKEOVER, LIFE, True),
        (replace(MINE, state=State.NONE), Start.AGAIN, LIFE, False),
        (replace(MINE, life=LIFE + 1), Start.AGAIN, LIFE, False),
        (THEIRS, Start.AGAIN, LIFE, False),
        (THEIRS, Start.AGAIN, LIFE, True),
        (THEIRS, Start.TAKEOVER, LIFE, False),
        (replace(THEIRS, life=LIFE + 1), Start.TAKEOVER, LIFE, True),
        (MINE, Start.FIRST, 0, False),
        (THEIRS, Start.FIRST, 0, True),
    ],
)
def test_everything_else_is_lost(transport: Attached, entry: BackendEntry | None, start: Start, life: int, fenced: bool) -> None:
    if entry is not None:
        transport.registry.backends.write(entry)
    if fenced:
        transport.registry.write_fence(OTHER, Fence(1))
    with pytest.raises(DatapathError) as caught:
        predecessor(transport.registry, ME, 0, life, start)
    assert (caught.value.code, caught.value.object) == (Code.EXISTS, "backend 0")
    assert "stop it here" in caught.value.hint


@pytest.mark.parametrize(
    ("entry", "life", "words"),
    [
        (THEIRS, LIFE, "was taken over by host node1"),
        (replace(THEIRS, life=LIFE + 1), LIFE, "its number given to a backend of host node1"),
        (THEIRS, 0, "the number of a backend of host node1"),
    ],
)
def test_what_became_of_it_is_said_for_good(transport: Attached, entry: BackendEntry, life: int, words: str) -> None:
    transport.registry.backends.write(entry)
    with pytest.raises(DatapathError) as caught:
        predecessor(transport.registry, ME, 0, life, Start.AGAIN)
    assert words in caught.value.message
    assert " now" not in caught.value.message


def config(transport: Attached, start: Start, life: int) -> Config:
    return Config(transport.ref, 0, "/dev/sdx", False, life, start)


def test_a_life_begins_and_goes_on_in_the_entry(transport: Attached) -> None:
    transport.registry.backends.write(replace(THEIRS, state=State.NONE))
    first = _publish(config(transport, Start.FIRST, 0), STORE, transport, Guard(transport))
    assert (first.epoch, first.host_id) == (THEIRS.epoch + 1, ME)
    assert first.life not in (0, THEIRS.life)
    again = _publish(config(transport, Start.AGAIN, first.life), STORE, transport, Guard(transport))
    assert (again.life, again.epoch) == (first.life, first.epoch + 1)
    assert transport.registry.backends.read(0) == again


def test_no_life_comes_back_where_a_damaged_entry_was_cleared(transport: Attached) -> None:
    first = _publish(config(transport, Start.FIRST, 0), STORE, transport, Guard(transport))
    page = transport.registry.backends.page(0)
    for copy in (0, ENTRY_COPY):
        transport.mapping.write(page + copy + 100, b"\xff" * 4)
    transport.registry.backends.clear(0)
    second = _publish(config(transport, Start.FIRST, 0), STORE, transport, Guard(transport))
    assert second.epoch == first.epoch
    assert second.life != first.life


@pytest.mark.parametrize("now", [THEIRS, replace(THEIRS, state=State.NONE)])
def test_what_was_lost_while_the_medium_was_opened_is_not_published(transport: Attached, now: BackendEntry) -> None:
    transport.registry.backends.write(now)
    with pytest.raises(DatapathError) as caught:
        _publish(config(transport, Start.AGAIN, LIFE), STORE, transport, Guard(transport))
    assert caught.value.code == Code.EXISTS
    assert transport.registry.backends.read(0) == now


def test_a_host_that_was_fenced_while_the_medium_was_opened_publishes_nothing(transport: Attached) -> None:
    transport.registry.backends.write(MINE)
    transport.registry.write_fence(ME, Fence(1))
    with pytest.raises(DatapathError) as caught:
        _publish(config(transport, Start.AGAIN, LIFE), STORE, transport, Guard(transport))
    assert caught.value.code == Code.BUSY
    assert transport.registry.backends.read(0) == MINE
