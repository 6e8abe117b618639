# SPDX-License-Identifier: GPL-3.0-or-later
"""The way from a blkdev to its backend, with a clock and a backend that the test moves."""

from __future__ import annotations

import errno
from dataclasses import replace
from types import SimpleNamespace

import pytest
from ram import Ram

from cxl_datapath.cbd.geometry import FormatOptions
from cxl_datapath.cbd.layout import BackendEntry, BlkdevEntry, HostEntry, State
from cxl_datapath.cbd.lines import ControlLine, Fence, Heartbeat
from cxl_datapath.cbd.registry import Registry
from cxl_datapath.cbd.transport import attach, plan_format, write_format
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.workers.link import Command
from cxl_datapath.workers.route import ANSWER_S, SILENCE_S, PathState, Route

SIZE = 1 << 20
LEASE_S = 1.0
IO_TIMEOUT_S = 10.0
BACKEND_HOST, ME = 0, 1


class Link:
    """Collects what the worker says to its daemon."""

    def __init__(self):
        self.events = []
        self.script = []  # what happens while the worker waits, one step after the other; a command is passed on
        self.answer = {}

    def emit(self, event, **_):
        self.events.append(event)

    def wait(self, _seconds):
        return self.script.pop(0)() if self.script else None


class FrontEnd:
    def __init__(self):
        self.bound = []  # channel epochs of each rebind
        self.errors = []
        self.counts = (0, 0)
        self.others = []  # counts of more queues

    def rebind(self, channels):
        self.bound.append([conf.epoch for conf in channels])

    def set_offline(self, error):
        self.errors.append(error)

    def progress(self):
        return [self.counts, *self.others]


class World:
    """A transport with one backend and one blkdev on two channels; `now` is the worker's clock."""

    def __init__(self):
        self.now = 100.0
        memory = Ram(SIZE)
        options = FormatOptions(hosts=3, backends=2, blkdevs=2, channels=4, ring_depth=2, slot_bytes=4096)
        write_format(memory, plan_format(SIZE, "pool0", options, "software", True, lease_ms=int(LEASE_S * 1000)))
        self.registry = Registry(memory, attach(memory, "memory"))
        for host in (BACKEND_HOST, ME):
            self.registry.hosts.write(HostEntry(State.RUNNING, host, 1, f"node{host + 1}", bytes(16)))
        self.registry.backends.write(
            BackendEntry(State.RUNNING, 0, 1, BACKEND_HOST, 0, 512, 1 << 20, "/dev/sdx", 512, 0, host_epoch=1, life=1)
        )
        self.reserve(epoch=1, channels=(0, 1), epochs=(1, 1))
        self.beats = 0
        self.link, self.frontend = Link(), FrontEnd()
        ref = SimpleNamespace(host_id=ME, host_epoch=1)
        confs = SimpleNamespace(ref=ref, registry=self.registry, info=self.registry.info, queue_conf=self._conf)
        self.route = Route(self.link, confs, 0, 1, clock=lambda: self.now)
        self.route.publish()
        self.serve()

    @staticmethod
    def _conf(channel, epoch):
        return SimpleNamespace(channel=channel, epoch=epoch)

    def reserve(self, epoch, channels, epochs):
        """What the daemon does when it is asked."""
        backend = self.registry.backends.read(0)
        entry = BlkdevEntry(State.RUNNING, 0, epoch, ME, 0, backend.epoch, 0, channels, epochs, host_epoch=1)
        self.registry.blkdevs.write(entry)

    def serve(self, host_epoch=1):
        """The backend answers on every channel that the blkdev published."""
        entry, backend = self.registry.blkdevs.read(0), self.registry.backends.read(0)
        for queue, (channel, epoch) in enumerate(zip(entry.channels, entry.channel_epochs, strict=True)):
            line = ControlLine(State.RUNNING, epoch, 0, 0, queue, backend.host_id, host_epoch)
            self.registry.write_backend_line(channel, line)

    def restart_backend(self, **changes):
        before = self.registry.backends.read(0)
        self.registry.backends.write(replace(before, epoch=before.epoch + 1, **changes))
        for channel in range(4):
            if line := self.registry.lines(channel).backend:
                self.registry.write_backend_line(channel, replace(line, state=State.NONE))

    def pass_time(self, seconds, beating=True):
        """Steps of 100 ms, with a backend's host that is alive or not."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            if beating:
                self.beats += 1
                self.registry.beat(self.registry.backends.read(0).host_id, Heartbeat(self.beats, 1))
            self.route.step(self.frontend, IO_TIMEOUT_S)

    @property
    def asked(self):
        return self.link.events.count("ask")


@pytest.fixture
def world() -> World:
    made = World()
    made.pass_time(2)
    assert (made.route.state, made.asked) == (PathState.SERVING, 0)
    return made


def test_a_restarted_backend_gets_fresh_channels_and_then_the_front_end(world):
    world.restart_backend()
    world.pass_time(1)
    assert (world.route.state, world.asked) == (PathState.PAUSED, 1)
    world.reserve(epoch=2, channels=(2, 1), epochs=(1, 2))
    world.route.answered({"epoch": 2})
    world.pass_time(1)
    assert world.frontend.bound == []
    world.serve()
    world.pass_time(0.2)
    assert world.frontend.bound == [[1, 2]]
    assert (world.route.state, world.asked, world.frontend.errors) == (PathState.SERVING, 1, [])
    states = [world.registry.lines(channel).blkdev.state for channel in (0, 1, 2)]
    assert states == [State.NONE, State.RUNNING, State.RUNNING], "only the channel that is not used any more was given back"


def test_a_host_that_is_away_is_waited_for_and_nothing_is_asked(world):
    world.pass_time(IO_TIMEOUT_S - 1, beating=False)
    assert (world.route.state, world.asked, world.frontend.errors) == (PathState.PAUSED, 0, [])
    world.pass_time(1)
    assert (world.route.state, world.frontend.bound) == (PathState.SERVING, [])


def test_a_backend_that_stays_away_costs_the_requests_and_a_rebind_ends_that(world):
    world.pass_time(IO_TIMEOUT_S + 2, beating=False)
    assert (world.route.state, world.frontend.errors) == (PathState.OFFLINE, [errno.EIO])
    world.pass_time(1)
    assert (world.route.state, world.asked) == (PathState.OFFLINE, 1), "its lines still stand, but the queues have to be moved"
    world.reserve(epoch=2, channels=(0, 1), epochs=(2, 2))
    world.route.answered({"epoch": 2})
    world.serve()
    world.pass_time(0.2)
    assert (world.route.state, world.frontend.bound) == (PathState.SERVING, [[2, 2]])


def test_requests_that_never_come_back_fail_though_the_lines_look_well(world):
    world.frontend.counts = (5, 4)
    world.pass_time(IO_TIMEOUT_S - 1)
    world.frontend.counts = (7, 5)
    world.pass_time(IO_TIMEOUT_S - 1)
    assert (world.route.state, world.frontend.errors) == (PathState.PAUSED, []), "it is slow, but it answers"
    world.pass_time(2)
    assert (world.route.state, world.frontend.errors) == (PathState.OFFLINE, [errno.EIO])
    world.pass_time(1)
    assert world.asked == 1
    world.reserve(epoch=2, channels=(2, 3), epochs=(1, 1))
    world.route.answered({"epoch": 2})
    world.serve()
    world.pass_time(1)
    assert (world.route.state, world.frontend.bound) == (PathState.SERVING, [[1, 1]])


def test_a_hole_in_a_ring_costs_a_pause_and_fresh_channels_but_no_request(world):
    """The lines look well, but the other side waits for a slot that was damaged, and takes none behind it."""
    world.frontend.counts = (5, 4)
    world.pass_time(SILENCE_S + 1)
    assert (world.route.state, world.asked, world.frontend.errors) == (PathState.PAUSED, 1, [])
    world.reserve(epoch=2, channels=(2, 3), epochs=(1, 1))
    world.route.answered({"epoch": 2})
    world.serve()
    world.pass_time(0.2)
    assert (world.route.state, world.frontend.bound) == (PathState.SERVING, [[1, 1]])
    world.frontend.counts = (5, 5)
    world.pass_time(IO_TIMEOUT_S)
    assert (world.route.state, world.asked, world.frontend.errors) == (PathState.SERVING, 1, [])
    world.frontend.counts = (6, 5)
    world.pass_time(SILENCE_S + 1)
    assert world.asked == 2, "another hole is another matter"


def test_a_queue_that_stands_still_is_seen_beside_one_that_is_busy(world):
    for second in range(round(SILENCE_S) + 1):
        world.frontend.counts, world.frontend.others = (9 + second, 8 + second), [(5, 4)]
        world.pass_time(1)
    assert (world.route.state, world.asked) == (PathState.PAUSED, 1)
    world.frontend.others = [(5, 5)]
    world.pass_time(1)
    assert (world.route.state, world.frontend.errors) == (PathState.SERVING, [])


def test_fresh_channels_that_do_not_help_prolong_nothing(world):
    world.frontend.counts = (5, 4)
    world.pass_time(SILENCE_S + 1)
    world.reserve(epoch=2, channels=(2, 3), epochs=(1, 1))
    world.route.answered({"epoch": 2})
    world.serve()
    world.pass_time(IO_TIMEOUT_S - SILENCE_S - 1.5)
    assert (world.route.state, world.asked, world.frontend.errors) == (PathState.SERVING, 1, [])
    world.pass_time(1)
    assert (world.route.state, world.frontend.errors) == (PathState.OFFLINE, [errno.EIO])


def test_a_backend_that_was_only_slow_keeps_the_channels_that_were_not_replaced_yet(world):
    world.frontend.counts = (5, 4)
    world.pass_time(SILENCE_S + 1)
    world.frontend.counts = (5, 5)
    world.pass_time(0.1)
    assert (world.route.state, world.frontend.bound, world.frontend.errors) == (PathState.SERVING, [], [])


def test_a_takeover_moves_the_front_end(world):
    world.pass_time(2, beating=False)
    world.registry.write_fence(BACKEND_HOST, Fence(1))
    world.registry.hosts.write(HostEntry(State.RUNNING, 2, 1, "node3", bytes(16)))
    world.restart_backend(host_id=2)
    world.pass_time(1)
    assert world.asked == 1
    world.reserve(epoch=2, channels=(2, 3), epochs=(1, 1))
    world.route.answered({"epoch": 2})
    world.serve()
    world.pass_time(0.2)
    assert (world.route.state, world.frontend.bound) == (PathState.SERVING, [[1, 1]])


@pytest.mark.parametrize("new_life", [False, True])
def test_a_backend_that_was_removed_is_not_waited_for_and_its_successor_is_another_device(world, new_life):
    world.registry.backends.clear(0)
    world.pass_time(0.5)
    assert (world.route.state, world.frontend.errors) == (PathState.OFFLINE, [errno.EIO])
    assert "backend 0 was stopped or cleared; stop this blkdev" in world.route.describe()["path_reason"]
    if new_life:
        world.registry.backends.write(replace(world.registry.backends.read(0), state=State.RUNNING, epoch=5, life=5))
    world.pass_time(IO_TIMEOUT_S)
    assert (world.route.state, world.asked, world.frontend.bound) == (PathState.OFFLINE, 0, [])


def test_a_backend_that_never_answers_is_asked_again_but_not_all_the_time(world):
    world.restart_backend()
    world.pass_time(0.5)
    world.reserve(epoch=2, channels=(2, 3), epochs=(1, 1))
    world.route.answered({"epoch": 2})
    world.pass_time(ANSWER_S - 0.5)
    assert world.asked == 1
    world.pass_time(1)
    assert world.asked == 2


def test_no_answer_of_the_daemon_is_asked_for_twice(world):
    world.restart_backend()
    world.pass_time(IO_TIMEOUT_S)
    assert world.asked == 1
    world.route.answered({"error": DatapathError(Code.FULL, "transport", "no channel is free").to_json()})
    world.pass_time(2)
    assert world.asked == 2


def test_a_damaged_backend_entry_is_a_pause(world):
    page = world.registry.backends.page(0)
    memory = world.registry.backends._memory
    good = memory.read(page, 2048)
    memory.write(page, b"\xaa" * 2048)
    world.now += 1
    world.route.step(world.frontend, IO_TIMEOUT_S)
    assert (world.route.state, world.asked) == (PathState.PAUSED, 0)
    memory.write(page, good)
    world.pass_time(0.5)
    assert world.route.state == PathState.SERVING


# ---- before the front end starts


def test_a_backend_that_cannot_be_read_may_run_and_is_not_said_to_be_stopped(world):
    world.registry.backends._memory.write(world.registry.backends.page(0), b"\xaa" * 2048)
    with pytest.raises(DatapathError) as caught:
        world.route._first_backend()
    assert (caught.value.code, "damaged" in caught.value.message) == (Code.CORRUPT, True)
    world.registry.backends.clear(0)
    with pytest.raises(DatapathError) as caught:
        world.route._first_backend()
    assert (caught.value.code, caught.value.message) == (Code.NOT_READY, "is not running")


def waits(world, *script):
    world.link.script = list(script)
    world.route.wait_answered()


def answers(world, answer):
    def step():
        world.link.answer = answer
        return Command.ANSWER

    return step


def test_a_backend_that_starts_again_before_it_answered_is_followed(world):
    world.restart_backend(capacity=2 << 20)
    fresh = lambda: world.reserve(epoch=2, channels=(2, 1), epochs=(1, 2))  # noqa: E731
    waits(world, lambda: None, fresh, answers(world, {"epoch": 2}), world.serve)
    assert (world.asked, world.route.bound) == (1, world.registry.blkdevs.read(0))
    assert [conf.epoch for conf in world.route.confs()] == [1, 2]
    assert world.route.backend.capacity == 2 << 20
    states = [world.registry.lines(channel).blkdev.state for channel in (0, 1, 2)]
    assert states == [State.NONE, State.RUNNING, State.RUNNING], "only the channel that is not used any more was given back"
    world.pass_time(1)
    assert (world.route.state, world.frontend.bound) == (PathState.SERVING, []), "the front end was started on them"


def test_why_there_are_no_fresh_channels_is_told(world):
    world.restart_backend()
    why = DatapathError(Code.NOT_FOUND, "blkdev 0", "its backend 0 was removed", "stop it here")
    with pytest.raises(DatapathError) as caught:
        waits(world, lambda: None, answers(world, {"error": why.to_json()}))
    assert (caught.value.code, caught.value.message) == (Code.NOT_FOUND, why.message)


def test_a_backend_that_does_not_answer_on_the_right_channels_is_a_timeout(world):
    world.registry.write_backend_line(1, ControlLine(State.NONE, 1, 0, 0, 1, BACKEND_HOST, 1))

    def later():
        world.now += ANSWER_S

    with pytest.raises(DatapathError) as caught:
        waits(world, later, later)
    assert (caught.value.code, world.asked) == (Code.TIMEOUT, 0)


def test_an_entry_that_is_not_ours_ends_the_worker(world):
    world.registry.blkdevs.write(replace(world.registry.blkdevs.read(0), epoch=9, host_id=2))
    with pytest.raises(DatapathError) as caught:
        world.route.check()
    assert caught.value.code == Code.CORRUPT
    world.route.close()
    assert world.registry.lines(0).blkdev.state == State.RUNNING, "the lines are another host's now"


def test_a_transport_that_was_lost_ends_the_worker_and_is_said_to_be(world):
    entry = world.registry.blkdevs.read(0)
    world.registry._memory.write(0, bytes(SIZE))
    for _ in ("the entry", "its lines"):
        with pytest.raises(DatapathError, match=r"transport pool0 was lost: .*registered again: docs/cbd.md"):
            world.route.check()
        world.registry.blkdevs.write(entry)


def test_the_entry_that_the_daemon_names_must_be_there(world):
    world.restart_backend()
    world.pass_time(1)
    with pytest.raises(DatapathError) as caught:
        world.route.answered({"epoch": 7})
    assert caught.value.code == Code.CORRUPT
