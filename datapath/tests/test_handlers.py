# SPDX-License-Identifier: GPL-3.0-or-later
"""Which channels a backend serves, and which it never serves again, with a clock and blkdevs that the test moves."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from ram import Ram

from cxl_datapath.cbd.geometry import FormatOptions
from cxl_datapath.cbd.layout import BackendEntry, BlkdevEntry, HostEntry, State
from cxl_datapath.cbd.lines import ControlLine, Fence, Heartbeat
from cxl_datapath.cbd.liveness import Liveness
from cxl_datapath.cbd.registry import ENTRY_COPY, Registry
from cxl_datapath.cbd.transport import attach, plan_format, write_format
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.workers.backend import Handlers

SIZE = 1 << 20
LEASE_S = 1.0
OPTIONS = FormatOptions(hosts=2, backends=1, blkdevs=1, channels=2, ring_depth=2, slot_bytes=4096)
BACKEND_HOST, BLKDEV_HOST = 0, 1


class Engine:
    """Notes which channels got a handler, and which lost it."""

    def __init__(self):
        self.log = []

    def add(self, conf):
        self.log.append(("add", *conf))

    def remove(self, channel_off):
        self.log.append(("remove", channel_off))


class World:
    """A transport, a backend, and a blkdev of another host on one channel; `now` is the backend's clock."""

    def __init__(self):
        self.now = 100.0
        self.beats = 0
        memory = Ram(SIZE)
        write_format(memory, plan_format(SIZE, "pool0", OPTIONS, "software", True, lease_ms=int(LEASE_S * 1000)))
        self.registry = Registry(memory, attach(memory, "memory"))
        for host in (BACKEND_HOST, BLKDEV_HOST):
            self.registry.hosts.write(HostEntry(State.RUNNING, host, 1, f"node{host + 1}", bytes(16)))
        entry = BackendEntry(State.RUNNING, 0, 1, BACKEND_HOST, 0, 512, 1 << 20, "/dev/sdx", 512, 0, host_epoch=1, life=1)
        self.registry.backends.write(entry)
        self.engine = Engine()
        conf = lambda channel, epoch, _flags: (channel, epoch)  # noqa: E731
        transport = SimpleNamespace(registry=self.registry, info=self.registry.info, channel_conf=conf)
        self.handlers = Handlers(transport, self.engine, entry)
        self.handlers._liveness = Liveness(LEASE_S, lambda: self.now)
        self.ask(channel_epoch=1)

    def ask(self, channel_epoch):
        entry = BlkdevEntry(State.RUNNING, 0, channel_epoch, BLKDEV_HOST, 0, 1, 0, (0,), (channel_epoch,), host_epoch=1)
        self.registry.blkdevs.write(entry)
        self.registry.write_blkdev_line(0, ControlLine(State.RUNNING, channel_epoch, 0, 0, 0, BLKDEV_HOST, 1))

    def pass_time(self, seconds, beating):
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            if beating:
                self.beats += 1
                self.registry.beat(BLKDEV_HOST, Heartbeat(self.beats, 1))
            self.handlers.follow()

    def answered(self):
        return self.registry.lines(0).backend.state


@pytest.fixture
def world():
    return World()


def test_a_channel_is_served_while_its_host_lives(world):
    world.pass_time(3, beating=True)
    assert world.engine.log == [("add", 0, 1)]
    assert world.answered() is State.RUNNING


def test_rings_that_were_given_up_are_not_read_again_from_their_start(world):
    """The queue of a host that was only slow is somewhere in the middle of its rings, a new handler begins at the first slot."""
    world.pass_time(1, beating=True)
    world.pass_time(2, beating=False)
    assert [what for what, *_ in world.engine.log] == ["add", "remove"]
    world.pass_time(3, beating=True)
    assert [what for what, *_ in world.engine.log] == ["add", "remove"]
    assert world.answered() is State.NONE  # from that the blkdev learns that it needs other channels


def test_who_stopped_may_start_with_the_same_numbers(world):
    """They repeat where the history of a channel was lost; its rings are cleared then."""
    world.pass_time(1, beating=True)
    world.registry.write_blkdev_line(0, ControlLine(State.NONE, 1, 0, 0, 0, BLKDEV_HOST, 1))
    world.pass_time(1, beating=True)
    world.ask(channel_epoch=1)
    world.pass_time(1, beating=True)
    assert [what for what, *_ in world.engine.log] == ["add", "remove", "add"]


def test_the_blkdev_is_served_on_the_same_channel_with_another_epoch(world):
    world.pass_time(1, beating=True)
    world.pass_time(2, beating=False)
    world.ask(channel_epoch=2)
    world.pass_time(1, beating=True)
    assert world.engine.log[2:] == [("add", 0, 2)]
    assert world.answered() is State.RUNNING


# ---- the backend's own entry


def damaged(world):
    table = world.registry.backends
    table._memory.write(table.page(0), b"\xaa" * 2 * ENTRY_COPY)
    assert table.is_damaged(0)


def test_a_damaged_entry_is_written_again_and_the_channels_go_on(world):
    world.pass_time(1, beating=True)
    before, served = world.registry.backends.read(0), list(world.engine.log)
    damaged(world)
    world.pass_time(1, beating=True)
    assert world.registry.backends.read(0) == before
    assert world.engine.log == served


def test_a_damaged_entry_of_a_fenced_host_is_left_alone(world):
    """Whoever takes over may be about to write it."""
    damaged(world)
    world.registry.write_fence(BACKEND_HOST, Fence(1))
    with pytest.raises(DatapathError) as caught:
        world.handlers.follow()
    assert caught.value.code == Code.CORRUPT
    assert world.registry.backends.is_damaged(0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"state": State.NONE}, "was cleared out of transport pool0 by somebody else; forget it: .* backend stop pool0 0"),
        ({"epoch": 2}, "was written anew by its own host, but not for this worker; look at: .* backend list pool0"),
        ({"host_id": BLKDEV_HOST}, "belongs to host node2 now; forget it: .* backend stop pool0 0"),
    ],
)
def test_an_entry_that_somebody_else_wrote_is_left_alone(world, change, why):
    other = replace(world.registry.backends.read(0), **change)
    world.registry.backends.write(other)
    with pytest.raises(DatapathError, match=why):
        world.handlers.follow()
    assert world.registry.backends.read(0) == other


def test_a_transport_that_was_lost_is_said_to_be(world):
    memory = world.registry._memory
    memory.write(0, bytes(SIZE))
    with pytest.raises(DatapathError, match=r"transport pool0 was lost: .*registered again: docs/cbd.md"):
        world.handlers.follow()
    write_format(memory, plan_format(SIZE, "pool0", OPTIONS, "software", True))
    with pytest.raises(DatapathError, match="transport pool0 was lost"):
        world.handlers.follow()
