# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries, liveness, channels."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ram import Ram

from cxl_datapath.cbd import channels
from cxl_datapath.cbd.channels import Handler
from cxl_datapath.cbd.fencing import is_fenced
from cxl_datapath.cbd.geometry import FormatOptions
from cxl_datapath.cbd.layout import BLKDEV_READ_ONLY, BLKDEV_SHARED, BackendEntry, BlkdevEntry, HostEntry, State
from cxl_datapath.cbd.lines import Claim, ControlLine, Fence, Heartbeat, Intent
from cxl_datapath.cbd.liveness import Liveness, period_s, watch
from cxl_datapath.cbd.registry import Registry
from cxl_datapath.cbd.transport import attach, plan_format, write_format
from cxl_datapath.errors import Code, DatapathError

BOOT = bytes(range(16))
SIZE = 1 << 20
LEASE_S = 2.5
PERIOD_S = period_s(LEASE_S)
OPTIONS = FormatOptions(hosts=3, backends=3, blkdevs=3, channels=4, ring_depth=2, slot_bytes=4096)


class Clock:
    """Time that passes only when somebody sleeps; `on_sleep` is what the other hosts do meanwhile."""

    def __init__(self, on_sleep=lambda: None):
        self.now = 1000.0
        self.on_sleep = on_sleep

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.on_sleep()


def registry_of(ram: Ram) -> Registry:
    return Registry(ram, attach(ram, "memory"))


@pytest.fixture
def ram() -> Ram:
    made = Ram(SIZE)
    write_format(made, plan_format(SIZE, "pool0", OPTIONS, "software", True))
    return made


@pytest.fixture
def registry(ram) -> Registry:
    return registry_of(ram)


def backend(number=0, host=0, epoch=1, state=State.RUNNING) -> BackendEntry:
    return BackendEntry(state, number, epoch, host, 0, 512, 1 << 20, "/dev/sdx", 512, 0, 1, epoch)


def blkdev(number=0, host=1, *, backend_id=0, backend_epoch=1, flags=0, chosen=(0,), epochs=(1,), host_epoch=1) -> BlkdevEntry:
    fixed = (State.RUNNING, number, 1, host, backend_id, backend_epoch, flags)
    return BlkdevEntry(*fixed, tuple(chosen), tuple(epochs), host_epoch)


def nobody_fenced(_host, _epoch):
    return False


# ---- tables


def test_allocation_takes_the_lowest_free_and_names_what_is_wrong(registry):
    assert registry.backends.allocate() == 0
    registry.backends.write(backend(0))
    assert registry.backends.allocate() == 1
    assert registry.backends.allocate(2) == 2
    with pytest.raises(DatapathError) as caught:
        registry.backends.allocate(0)
    assert caught.value.code == Code.EXISTS
    for wrong in (3, -1):
        with pytest.raises(DatapathError) as caught:
            registry.backends.allocate(wrong)
        assert caught.value.code == Code.RANGE
    registry.backends.write(backend(1))
    with pytest.raises(DatapathError, match="the id is taken; choose another id, for example 2"):
        registry.backends.allocate(0)
    registry.backends.write(backend(2))
    with pytest.raises(DatapathError, match="the id is taken; none is free: stop or clear one"):
        registry.backends.allocate(0)
    with pytest.raises(DatapathError) as caught:
        registry.backends.allocate()
    assert caught.value.code == Code.FULL


def test_allocation_leaves_out_what_the_caller_wants_already(registry):
    assert registry.backends.allocate(but={0, 2}) == 1
    with pytest.raises(DatapathError, match="the id is taken; choose another id, for example 1"):
        registry.backends.allocate(0, but={0, 2})
    with pytest.raises(DatapathError) as caught:
        registry.backends.allocate(but={0, 1, 2})
    assert caught.value.code == Code.FULL


def test_a_cleared_entry_is_free_and_its_epoch_rises(registry):
    registry.backends.write(backend(0, epoch=7))
    registry.backends.clear(0)
    assert registry.backends.used() == {}
    assert registry.backends.allocate() == 0
    assert registry.backends.next_epoch(0) == 8
    assert registry.backends.next_epoch(1) == 1


def test_a_damaged_entry_is_reported_and_never_handed_out(ram, registry):
    registry.backends.write(backend(0))
    registry.backends.write(backend(0))
    page = registry.backends.page(0)
    for copy in (0, 1024):
        ram.data[page + copy + 50] ^= 1
    entries = registry.backends.all()
    assert isinstance(entries[0], DatapathError)
    assert entries[1:] == [None, None]
    assert registry.backends.allocate() == 1
    with pytest.raises(DatapathError, match="damaged"):
        registry.backends.allocate(0)


def test_an_entry_in_the_wrong_place_is_corrupt(ram, registry):
    registry.blkdevs.write(blkdev(0))
    source, target = registry.blkdevs.page(0), registry.blkdevs.page(1)
    ram.write(target, ram.read(source, 2048))
    with pytest.raises(DatapathError) as caught:
        registry.blkdevs.read(1)
    assert caught.value.code == Code.CORRUPT


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(8192, 8192 + 9 * 4096 + 8192 - 1), st.integers(1, 255)), max_size=60), st.binary(max_size=300)
)
def test_hostile_registry_bytes_are_survived(flips, noise):
    ram = Ram(SIZE)
    write_format(ram, plan_format(SIZE, "pool0", OPTIONS, "software", True))
    registry = registry_of(ram)
    registry.hosts.write(HostEntry(State.RUNNING, 0, 1, "node1", BOOT))
    registry.backends.write(backend())
    registry.blkdevs.write(blkdev())
    registry.write_blkdev_line(0, ControlLine(State.RUNNING, 1, 0, 0, 0, 1, 1))
    ram.write(registry.blkdevs.page(2), noise)
    for offset, mask in flips:
        ram.data[offset] ^= mask
    for table in (registry.hosts, registry.backends, registry.blkdevs):
        table.all()
        table.used()
    for host in range(3):
        registry.heartbeat(host)
        registry.bell(host)
        registry.claim(host)
        registry.intent(host)
    for entry in registry.backends.used().values():
        users = channels.users_of(entry, registry.blkdevs.used().values(), (), partial(is_fenced, registry))
        channels.wanted_handlers(entry, users, registry.lines, registry.info.geometry.channel_count)


# ---- liveness


def test_a_beating_host_is_alive_and_a_still_one_dies_on_our_clock():
    clock = Clock()
    seen = Liveness(LEASE_S, clock)
    assert seen.alive(0) is None
    seen.observe(0, Heartbeat(1, 1), 1)
    assert seen.alive(0) is None
    clock.sleep(PERIOD_S)
    seen.observe(0, Heartbeat(2, 1), 1)
    assert seen.alive(0) is True
    for _ in range(4):
        clock.sleep((LEASE_S - 0.1) / 4)
        seen.observe(0, Heartbeat(2, 1), 1)
        assert seen.alive(0) is True
    clock.sleep(0.2)
    assert seen.alive(0) is False
    seen.observe(0, Heartbeat(3, 1), 1)
    assert seen.alive(0) is True


def test_the_death_of_one_incarnation_says_nothing_of_the_next():
    clock = Clock()
    seen = Liveness(LEASE_S, clock)
    stand_still(seen, clock, Heartbeat(7, 1), 1)
    assert [seen.alive(0, epoch) for epoch in (1, 2)] == [False, None]
    seen.observe(0, Heartbeat(7, 1), 2)  # it wrote its new entry, and did not beat yet
    assert [seen.alive(0, epoch) for epoch in (None, 1, 2)] == [None, None, None]
    clock.sleep(PERIOD_S)
    seen.observe(0, Heartbeat(8, 2), 2)
    assert [seen.alive(0, epoch) for epoch in (None, 1, 2)] == [True, None, True]
    stand_still(seen, clock, Heartbeat(8, 2), 2)
    assert seen.alive(0, 2) is False


@pytest.mark.parametrize("away", [LEASE_S / 2, LEASE_S, 100 * LEASE_S])
@pytest.mark.parametrize("all_were", [False, True])
def test_who_was_suspended_kills_nobody(away, all_were):
    """What it saw last is old, and the others may have been suspended with it: neither is a reason to fence a host that lives."""
    clock = Clock()
    seen = Liveness(LEASE_S, clock)
    for beat in (1, 2):
        clock.sleep(PERIOD_S)
        seen.observe(0, Heartbeat(beat, 1), 1)
    assert seen.alive(0) is True
    clock.sleep(away)
    assert seen.alive(0) is None  # for a thread that wakes up before the one that looks
    seen.observe(0, Heartbeat(2 if all_were else 99, 1), 1)
    assert seen.alive(0) is (None if all_were else True)
    stand_still(seen, clock, Heartbeat(2 if all_were else 99, 1), 1)
    assert seen.alive(0) is False


def stand_still(seen, clock, heartbeat, epoch):
    """A lease in which the host does not beat, and is looked at all the time."""
    seen.observe(0, heartbeat, epoch)
    since = clock.now
    while clock.now - since < LEASE_S:
        clock.sleep(PERIOD_S)
        seen.observe(0, heartbeat, epoch)


@pytest.mark.parametrize(("lease_s", "period"), [(1.0, 0.2), (2.5, 0.5), (5.0, 0.5), (600.0, 0.5)])
def test_a_host_beats_several_times_per_lease(lease_s, period):
    assert period_s(lease_s) == period


def test_torn_lines_neither_kill_nor_revive():
    clock = Clock()
    seen = Liveness(LEASE_S, clock)
    seen.observe(0, None, 1)
    clock.sleep(PERIOD_S)
    seen.observe(0, Heartbeat(1, 1), 1)
    assert seen.alive(0) is None
    for _ in range(10):
        clock.sleep(PERIOD_S)
        seen.observe(0, None, 1)
    assert seen.alive(0) is False


def test_watch_is_quick_for_the_living_and_patient_for_the_dead():
    beats = iter(range(1000))
    clock = Clock()
    assert watch(lambda _: Heartbeat(next(beats), 1), [0], LEASE_S, clock, clock.sleep) == {0}
    assert clock.now - 1000 < 2 * PERIOD_S
    clock = Clock()
    assert watch(lambda _: Heartbeat(5, 1), [0, 1], LEASE_S, clock, clock.sleep) == set()
    assert clock.now - 1000 >= LEASE_S > 2 * PERIOD_S
    assert watch(lambda _: None, [], LEASE_S, clock, clock.sleep) == set()


# ---- channels


@given(st.integers(1, 64), st.sets(st.integers(0, 63)), st.lists(st.integers(0, 100), max_size=16), st.integers(1, 16))
def test_choice_of_channels(count, taken, preferred, queues):
    free = set(range(count)) - taken
    try:
        chosen = channels.choose(count, taken, preferred, queues, "")
    except DatapathError as error:
        assert error.code == Code.FULL
        assert len(free) < queues
        return
    assert len(set(chosen)) == queues
    assert set(chosen) <= free
    usable = [channel for channel in dict.fromkeys(preferred) if channel in free]
    assert chosen[: len(usable)] == usable[:queues]


def test_the_epoch_rises_above_both_lines_and_every_entry(registry):
    registry.write_blkdev_line(2, ControlLine(State.NONE, 4, 0, 0, 0, 1, 1))
    registry.write_backend_line(2, ControlLine(State.NONE, 9, 0, 0, 0, 0, 1))
    assert registry.next_channel_epoch(2) == 10
    assert registry.next_channel_epoch(3) == 1
    registry.blkdevs.write(BlkdevEntry(State.NONE, 1, 1, 0, 0, 1, 0, (3, 2), (7, 12), 1))
    assert [registry.next_channel_epoch(channel) for channel in (2, 3, 1)] == [13, 8, 1]
    with pytest.raises(DatapathError):
        registry.lines(4)


def test_a_backend_serves_only_what_agrees_in_every_number(registry):
    served = backend(0, host=0, epoch=3)
    wants = blkdev(1, host=2, backend_epoch=3, chosen=(3, 1), epochs=(5, 6), host_epoch=8)
    good = ControlLine(State.RUNNING, 5, 1, 0, 0, 2, 8)
    registry.write_blkdev_line(3, good)
    for wrong in (
        ControlLine(State.RUNNING, 5, 1, 0, 1, 2, 8),  # another epoch
        ControlLine(State.RUNNING, 6, 0, 0, 1, 2, 8),  # another blkdev
        ControlLine(State.RUNNING, 6, 1, 1, 1, 2, 8),  # another backend
        ControlLine(State.RUNNING, 6, 1, 0, 0, 2, 8),  # another queue
        ControlLine(State.NONE, 6, 1, 0, 1, 2, 8),  # not running
        ControlLine(State.RUNNING, 6, 1, 0, 1, 0, 8),  # another host
        ControlLine(State.RUNNING, 6, 1, 0, 1, 2, 7),  # another incarnation of the host
    ):
        registry.write_blkdev_line(1, wrong)
        assert channels.wanted_handlers(served, [wants], registry.lines, 4) == {Handler(3, 5, 1, 0, False)}
    registry.write_blkdev_line(1, ControlLine(State.RUNNING, 6, 1, 0, 1, 2, 8))
    both = {Handler(3, 5, 1, 0, False), Handler(1, 6, 1, 1, False)}
    assert channels.wanted_handlers(served, [wants], registry.lines, 4) == both
    assert channels.wanted_handlers(served, [], registry.lines, 4) == set()


def test_a_channel_that_two_entries_name_is_served_for_one(registry):
    first, second = blkdev(0, chosen=(2,), epochs=(5,)), blkdev(1, chosen=(2,), epochs=(5,), flags=BLKDEV_READ_ONLY)
    registry.write_blkdev_line(2, ControlLine(State.RUNNING, 5, 1, 0, 0, 1, 1))
    assert channels.wanted_handlers(backend(), [first, second], registry.lines, 4) == {Handler(2, 5, 1, 0, True)}


def test_channels_beyond_the_transport_are_ignored(registry):
    wants = blkdev(0, chosen=(4, 4000000000), epochs=(1, 1))
    assert channels.wanted_handlers(backend(), [wants], registry.lines, 4) == set()


def users(entries, current=(), fenced=nobody_fenced):
    return [entry.id for entry in channels.users_of(backend(0, epoch=2), entries, current, fenced)]


def test_one_writer_and_any_number_of_readers():
    writers = [blkdev(number, backend_epoch=2) for number in (0, 1)]
    readers = [blkdev(number, backend_epoch=2, flags=BLKDEV_READ_ONLY) for number in (2, 3)]
    assert users([*reversed(writers), *readers]) == [0, 2, 3]
    assert users([*writers, *readers], current={1, 3}) == [1, 3, 2]
    stale, other = blkdev(4, backend_epoch=1), blkdev(4, backend_id=1, backend_epoch=2)
    assert users([stale, other], current={4}) == []


def test_several_writers_where_each_said_shared():
    shared = [blkdev(number, backend_epoch=2, flags=BLKDEV_SHARED) for number in (1, 2)]
    alone = blkdev(0, backend_epoch=2)
    assert users(shared) == [1, 2]
    assert users([alone, *shared]) == [0]
    assert users([alone, *shared], current={2}) == [2, 1]


def test_a_blkdev_of_a_fenced_host_is_not_served():
    dead, live = blkdev(0, host=1, backend_epoch=2, host_epoch=3), blkdev(1, host=2, backend_epoch=2, host_epoch=3)
    assert users([dead, live], current={0}, fenced=lambda host, epoch: (host, epoch) == (1, 3)) == [1]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=8, unique_by=lambda pair: pair[1]),
    st.sets(st.integers(0, 9)),
)
def test_no_mix_of_blkdevs_breaks_the_rule_of_writers(wanted, current):
    chosen = channels.users_of(backend(), [blkdev(number, flags=flags) for flags, number in wanted], current, nobody_fenced)
    writers = [entry for entry in chosen if not entry.flags & BLKDEV_READ_ONLY]
    assert len(writers) <= 1 or all(entry.flags & BLKDEV_SHARED for entry in writers)
    assert {number for flags, number in wanted if flags & BLKDEV_READ_ONLY} <= {entry.id for entry in chosen}
    assert bool(writers) == any(not flags & BLKDEV_READ_ONLY for flags, _ in wanted)


def test_a_channel_stays_taken_until_its_handler_ended_or_its_host_is_cleared():
    served = replace(backend(host=2), host_epoch=5)
    line = ControlLine(State.RUNNING, 1, blkdev_id=7, backend_id=0, queue=0, host_id=2, host_epoch=5)
    assert channels.is_held(line, 8, served, {2}), "another blkdev's"
    assert not channels.is_held(line, 7, served, {2}), "its own, in the same life of the backend's host"
    assert channels.is_held(line, 7, replace(served, host_epoch=6), {2}), "an earlier life that was not swept yet"
    assert channels.is_held(line, 7, replace(served, host_id=3), {2, 3}), "taken over from a host that may wake up"
    assert not channels.is_held(line, 7, replace(served, host_id=3), {3}), "taken over from a host that was cleared"
    assert not channels.is_held(replace(line, state=State.NONE), 8, served, {2})
    assert not channels.is_held(None, 8, served, {2})


# ---- lines of an entry page


def test_the_lines_of_a_page_are_apart(registry):
    written = {"beat": Heartbeat(1, 2), "write_fence": Fence(3), "write_claim": Claim(4, True), "write_intent": Intent(5)}
    for method, line in written.items():
        getattr(registry, method)(1, line)
    assert [registry.heartbeat(1), registry.fence(1), registry.claim(1), registry.intent(1)] == list(written.values())
    assert registry.bell(1) is registry.claim(2) is None
    assert registry.fence(0) == Fence(0)
    for read in (registry.fence, registry.claim, registry.intent):
        with pytest.raises(DatapathError):
            read(3)
