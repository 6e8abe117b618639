# SPDX-License-Identifier: GPL-3.0-or-later
"""The claim: never two at a time, never nobody for long, whatever the order of loads and stores, the crashes and the pauses."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interleave import Choose, Steps, Turns, every_schedule
from ram import Crash, Ram

from cxl_datapath.cbd import fencing
from cxl_datapath.cbd.claim import IDLE, NUMBER_MAX, Bakery
from cxl_datapath.cbd.geometry import FormatOptions
from cxl_datapath.cbd.layout import HostEntry, State
from cxl_datapath.cbd.lines import CLAIM_OFF, Claim, Fence, Heartbeat
from cxl_datapath.cbd.registry import Registry
from cxl_datapath.cbd.transport import attach, plan_format, write_format
from cxl_datapath.core import crc32c
from cxl_datapath.errors import Code, DatapathError

SIZE = 1 << 16
BOOT = bytes(16)
seeds = st.integers(0, (1 << 64) - 1)  # of an order of steps


@cache
def template(hosts: int) -> bytes:
    ram = Ram(SIZE)
    options = FormatOptions(hosts=hosts, backends=1, blkdevs=1, channels=1, ring_depth=2, slot_bytes=4096)
    write_format(ram, plan_format(SIZE, "pool0", options, "software", True))
    registry = Registry(ram, attach(ram, "memory"))
    for host in range(hosts):
        registry.hosts.write(HostEntry(State.RUNNING, host, 5, f"node{host}", BOOT))
        registry.write_claim(host, IDLE)
    return bytes(ram.data)


def formatted(hosts: int) -> Ram:
    """A transport with this many registered hosts, each with epoch 5."""
    ram = Ram(SIZE)
    ram.data[:] = template(hosts)
    return ram


def everybody_alive(_host: int, _epoch: int) -> bool:
    return True


def nobody_may_be_fenced(host: int, epoch: int) -> None:
    raise AssertionError(f"host {host} was fenced at epoch {epoch}")


class World:
    """Bakeries of several hosts whose loads and stores are steps, and the proof that never two are inside."""

    def __init__(self, hosts: int, choose: Choose) -> None:
        self.ram = formatted(hosts)
        self.info = attach(self.ram, "memory")
        self.plain = Registry(self.ram, self.info)
        self.steps = Steps(choose)
        self.inside: set[int] = set()
        self.entered = [0] * hosts

    def bakery(
        self,
        host: int,
        memory: Turns,
        kind: type[Bakery] = Bakery,
        alive: Callable[[int, int], bool | None] = everybody_alive,
        fence: Callable[[int, int], None] = nobody_may_be_fenced,
    ) -> Bakery:
        registry = Registry(memory, self.info)
        return kind(registry, host, 5, alive, fence, clock=self.steps.clock, sleep=self.steps.poll)

    def visit(self, host: int, bakery: Bakery, rounds: int = 1) -> None:
        for _ in range(rounds):
            bakery.acquire(1e9)
            self.inside.add(host)
            assert self.inside == {host}, f"hosts {self.inside} hold the claim together"
            self.steps.pause()
            bakery.check()
            self.inside.remove(host)
            self.entered[host] += 1
            bakery.release()


class ClaimTurns(Turns):
    """Only what can depend on the order is a step: stores to claim lines, and loads of the claim lines of others."""

    def __init__(self, world: World, host: int, torn: bool) -> None:
        pages = [world.plain.hosts.page(other) for other in range(world.plain.hosts.count)]
        super().__init__(world.ram, world.steps, torn, lambda offset: offset - CLAIM_OFF in pages)
        self._own = pages[host] + CLAIM_OFF

    def read(self, offset: int, length: int) -> bytes:
        return self._memory.read(offset, length) if offset == self._own else super().read(offset, length)


def small_world(choose: Choose, torn: set[int], kind: type[Bakery] = Bakery) -> World:
    """Two hosts that want the claim once each, with as few steps as can show a fault; stores of those in `torn` are two steps."""
    world = World(2, choose)
    for host in range(2):
        bakery = world.bakery(host, ClaimTurns(world, host, host in torn), kind)
        world.steps.add(partial(world.visit, host, bakery))
    return world


@pytest.mark.parametrize("torn", [set(), {0}, {1}], ids=["whole", "first-torn", "second-torn"])
def test_every_order_of_loads_and_stores_of_two_hosts(torn):
    def run(choose: Choose) -> None:
        world = small_world(choose, torn)
        world.steps.run()
        assert world.entered == [1, 1]

    assert every_schedule(run) > 100


class NoDoor(Bakery):
    """A bakery without its door: it does not wait for those who are choosing."""

    def _passable(self, host: int, claim: Claim, number: int | None) -> bool:
        return super()._passable(host, Claim(claim.number, False), number)


class NoTurns(Bakery):
    """A bakery where equal numbers both go first."""

    def _passable(self, host: int, claim: Claim, number: int | None) -> bool:
        return super()._passable(host, Claim(0 if claim.number == number else claim.number, claim.choosing), number)


@pytest.mark.parametrize("kind", [NoDoor, NoTurns])
def test_the_search_finds_the_faults_that_a_bakery_can_have(kind):
    with pytest.raises(AssertionError, match="hold the claim together"):
        every_schedule(lambda choose: small_world(choose, set(), kind).steps.run())


@settings(max_examples=60)
@given(seeds, st.integers(2, 4), st.booleans())
def test_many_orders_of_several_hosts_that_come_again(seed: int, hosts: int, torn: bool):
    world = World(hosts, random.Random(seed).randrange)
    for host in range(hosts):
        bakery = world.bakery(host, Turns(world.ram, world.steps, torn))
        world.steps.add(partial(world.visit, host, bakery, rounds=3))
    world.steps.run()
    assert world.entered == [3] * hosts
    assert [world.plain.claim(host) for host in range(hosts)] == [IDLE] * hosts


# ---- crashes and pauses

LEASE_S = 5.0


class Alone:
    """One host after the other in one memory; time passes only when somebody sleeps."""

    def __init__(self, hosts: int = 3) -> None:
        self.ram = formatted(hosts)
        self.registry = Registry(self.ram, attach(self.ram, "memory"))
        self.now = 0.0
        self.dead: set[int] = set()
        self.unknown: set[int] = set()
        self.fenced: list[tuple[int, int]] = []
        self.on_sleep: Callable[[], None] = lambda: None

    def alive(self, host: int, _epoch: int) -> bool | None:
        if host in self.unknown or (host in self.dead and self.now < LEASE_S):
            return None
        return host not in self.dead

    def fence(self, host: int, epoch: int) -> None:
        self.fenced.append((host, epoch))
        fencing.fence(self.registry, host, epoch, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()

    def bakery(self, host: int) -> Bakery:
        return Bakery(self.registry, host, 5, self.alive, self.fence, clock=lambda: self.now, sleep=self.sleep)

    def refuse(self, host: int, patience_s: float = 1.0) -> DatapathError:
        with pytest.raises(DatapathError) as caught:
            self.bakery(host).acquire(patience_s)
        assert caught.value.code == Code.BUSY
        assert caught.value.hint
        return caught.value


@pytest.mark.parametrize("cut", range(0, 3 * 64, 8))
def test_a_host_that_dies_at_any_store_is_passed_over_after_one_lease(cut):
    alone = Alone()
    alone.ram.budget = cut  # of the three lines: choosing, ticket, nothing
    with pytest.raises(Crash):
        mortal = alone.bakery(0)
        mortal.acquire(1)
        mortal.release()
    alone.ram.budget = None
    alone.dead.add(0)
    left = alone.registry.claim(0)
    for host in (1, 2):
        survivor = alone.bakery(host)
        survivor.acquire(2 * LEASE_S)
        survivor.check()
        survivor.release()
    assert alone.now < LEASE_S + 0.1
    assert alone.fenced == ([] if left == IDLE else [(0, 5)])


@settings(max_examples=80)
@given(seeds, st.integers(3, 4), st.booleans(), st.booleans())
def test_crashes_and_pauses_at_any_step_let_the_others_go_on(seed: int, hosts: int, torn: bool, comes_back: bool):
    """Host 0 stops at some step for longer than its lease. One that comes back finds out before it does what it came for."""
    source = random.Random(seed)
    world = World(hosts, source.randrange)
    steps, lost = world.steps, []
    gone_at, lease_s = -1.0, 0.05

    def alive(host: int, _epoch: int) -> bool:
        return host != 0 or gone_at < 0 or steps.now - gone_at < lease_s

    def fence(host: int, epoch: int) -> None:
        assert (host, epoch) == (0, 5)
        fencing.fence(world.plain, host, epoch, lambda _: None)
        world.inside.discard(0)  # what it still believes does not count

    def first() -> None:
        bakery = world.bakery(0, Turns(world.ram, steps, torn), alive=alive, fence=fence)
        try:
            world.visit(0, bakery, rounds=4)
        except DatapathError as error:
            lost.append(error)
            bakery.release()

    def stop_the_first() -> None:
        nonlocal gone_at
        for _ in range(source.randrange(200)):
            steps.pause()
        gone_at = steps.now
        if not comes_back:
            steps.crash(0)
            return
        steps.held.add(0)
        steps.sleep(10 * lease_s)
        steps.held.remove(0)

    steps.add(first)
    for host in range(1, hosts):
        bakery = world.bakery(host, Turns(world.ram, steps, torn), alive=alive, fence=fence)
        steps.add(partial(world.visit, host, bakery, rounds=2))
    steps.add(stop_the_first)
    steps.run()
    assert world.entered[1:] == [2] * (hosts - 1)
    for error in lost:
        assert error.code == Code.BUSY
        assert "declared dead" in error.message or "any more" in error.message
    assert not (lost and not fencing.is_fenced(world.plain, 0, 5))


def test_a_holder_that_was_fenced_finds_out_before_it_writes():
    alone = Alone()
    paused = alone.bakery(0)
    paused.acquire(1)
    paused.check()
    alone.dead.add(0)
    other = alone.bakery(1)
    other.acquire(2 * LEASE_S)
    with pytest.raises(DatapathError, match="declared dead by another host") as caught:
        paused.check()
    assert (caught.value.code, caught.value.object) == (Code.BUSY, "host node0")
    ticket = alone.registry.claim(0)
    paused.release()
    assert alone.registry.claim(0) == ticket, "the line may be another incarnation's by now"
    other.check()
    assert "declared dead" in alone.refuse(0).message
    other.release()


@pytest.mark.parametrize("last", ["claim", "entry"])
def test_the_look_at_the_fence_is_the_last_one_before_a_write(monkeypatch, last):
    alone = Alone()
    bakery = alone.bakery(0)
    bakery.acquire(1)
    others = Registry(alone.ram, alone.registry.info)

    def look_and_be_fenced(look: Callable[[int], Any], number: int) -> Any:
        found = look(number)
        fencing.fence(others, 0, 5)
        return found

    if last == "claim":
        monkeypatch.setattr(alone.registry, "claim", partial(look_and_be_fenced, others.claim))
    else:
        monkeypatch.setattr(alone.registry.hosts, "read", partial(look_and_be_fenced, others.hosts.read))
    with pytest.raises(DatapathError, match="declared dead"):
        bakery.check()


def test_a_ticket_that_is_gone_is_noticed():
    alone = Alone()
    bakery = alone.bakery(0)
    with pytest.raises(DatapathError, match="does not hold the claim"):
        bakery.check()
    for damage in (IDLE, Claim(2, False), Claim(1, True)):
        bakery.acquire(1)
        alone.registry.write_claim(0, damage)
        with pytest.raises(DatapathError, match="does not hold the claim"):
            bakery.check()
        bakery.release()
    bakery.acquire(1)
    alone.ram.data[8192 : 8192 + 3 * 4096] = bytes(3 * 4096)  # formatted
    with pytest.raises(DatapathError, match="not registered any more"):
        bakery.check()
    bakery.release()
    assert alone.registry.claim(0) is None, "a page that is not ours any more was written"


# ---- who waits for whom


def test_patience_ends_with_the_name_of_the_holder_and_without_a_trace():
    alone = Alone()
    holder = alone.bakery(2)
    holder.acquire(1)
    error = alone.refuse(0, patience_s=3)
    assert (error.object, 3 <= alone.now < 3.1) == ("host node2", True)
    assert alone.registry.claim(0) == IDLE
    holder.check()
    holder.release()
    second = alone.bakery(0)
    second.acquire(0)
    second.release()


def test_a_host_of_which_nothing_is_known_is_waited_for():
    alone = Alone()
    alone.registry.write_claim(1, Claim(1, False))
    alone.unknown.add(1)
    assert alone.refuse(0, patience_s=60).object == "host node1"
    assert alone.fenced == []


def test_a_host_that_is_choosing_or_unreadable_is_waited_for():
    for line in (Claim(0, True).pack(), Claim(3, False).pack()[:8] + IDLE.pack()[8:], bytes(64)):
        alone = Alone()
        alone.ram.write(alone.registry.hosts.page(1) + CLAIM_OFF, line)
        assert alone.refuse(0).object == "host node1"
        alone.on_sleep = partial(alone.registry.write_claim, 1, IDLE)
        alone.bakery(0).acquire(1)


def test_entries_without_a_living_host_are_passed_over():
    alone = Alone(4)
    for host in (1, 2, 3):
        alone.registry.write_claim(host, Claim(1, True))
    alone.registry.hosts.clear(1)
    alone.registry.write_fence(2, Fence(7))
    alone.ram.write(alone.registry.hosts.page(3), bytes(2048))
    bakery = alone.bakery(0)
    bakery.acquire(0)
    bakery.release()
    alone.registry.hosts.write(HostEntry(State.RUNNING, 2, 8, "node2", BOOT))
    assert alone.refuse(0).object == "host node2"


def test_a_dead_host_that_is_not_in_the_way_is_left_alone():
    alone = Alone()
    alone.dead, alone.now = {1, 2}, 2 * LEASE_S
    alone.bakery(0).acquire(1)
    assert alone.fenced == []


def test_a_host_with_a_damaged_entry_is_known_by_its_heartbeat():
    alone = Alone()
    alone.ram.write(alone.registry.hosts.page(1), b"x" * 2048)
    bakery = alone.bakery(0)
    bakery.acquire(0)
    bakery.release()
    alone.registry.write_claim(1, Claim(1, False))
    alone.unknown.add(1)
    assert alone.refuse(0).object == "host #1"
    alone.unknown.clear()
    alone.dead.add(1)
    bakery.acquire(2 * LEASE_S)
    bakery.release()
    assert alone.fenced == [], "there is no epoch to fence"
    alone.registry.beat(1, Heartbeat(77, 5))
    bakery.acquire(2 * LEASE_S)
    assert alone.fenced == [(1, 5)]


@pytest.mark.parametrize("number", [NUMBER_MAX + 1, 1 << 62, (1 << 64) - 1])
def test_a_number_that_nobody_can_draw_is_no_ticket(number):
    alone = Alone()
    alone.registry.write_claim(1, Claim(number, False))
    bakery = alone.bakery(0)
    bakery.acquire(0)
    assert alone.registry.claim(0) == Claim(1, False)
    bakery.release()


@pytest.mark.parametrize("dead", [False, True])
def test_the_last_number_of_all_is_waited_for(dead):
    alone = Alone()
    alone.registry.write_claim(1, Claim(NUMBER_MAX, False))
    assert alone.refuse(0).object == "host node1"
    if dead:
        alone.dead.add(1)
        bakery = alone.bakery(0)
        bakery.acquire(2 * LEASE_S)
        assert alone.registry.claim(0) == Claim(1, False)


@given(st.binary(min_size=64, max_size=64), st.booleans())
def test_arbitrary_lines_of_a_peer_cost_patience_at_most(raw, sealed):
    alone = Alone(2)
    line = raw[:12] + crc32c(raw[:12]).to_bytes(4, "little") + raw[16:] if sealed else raw
    alone.ram.write(alone.registry.hosts.page(1) + CLAIM_OFF, line)
    bakery = alone.bakery(0)
    try:
        bakery.acquire(0.1)
    except DatapathError as error:
        assert (error.code, error.object) == (Code.BUSY, "host node1")
        assert alone.registry.claim(0) == IDLE
    else:
        bakery.check()
        bakery.release()


@given(st.integers(0, 16 * 8 - 1))
def test_a_damaged_line_of_a_host_that_wants_nothing_is_repaired_by_it(bit):
    alone = Alone(2)
    mine, other = alone.bakery(1), alone.bakery(0)
    place = alone.registry.hosts.page(1) + CLAIM_OFF
    alone.registry.write_claim(1, IDLE)
    alone.ram.data[place + bit // 8] ^= 1 << bit % 8
    assert alone.registry.claim(1) is None
    mine.repair()
    assert alone.registry.claim(1) == IDLE
    other.acquire(0)
    other.release()


def test_what_a_host_holds_is_not_repaired_away():
    alone = Alone(2)
    mine = alone.bakery(1)
    mine.acquire(0)
    ticket = alone.registry.claim(1)
    mine.repair()
    assert alone.registry.claim(1) == ticket
    mine.check()
    mine.release()
    alone.registry.write_claim(1, Claim(7, False))  # a later incarnation's
    alone.registry.hosts.write(replace(alone.registry.hosts.read(1), epoch=9))
    mine.repair()
    assert alone.registry.claim(1) == Claim(7, False)


def test_threads_of_one_host_take_turns():
    alone = Alone()
    bakery = Bakery(alone.registry, 0, 5, alone.alive, alone.fence)
    inside, most, done = 0, 0, []

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            bakery.acquire(60)
            inside += 1
            most = max(most, inside)
            bakery.check()
            inside -= 1
            bakery.release()
        done.append(True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(done)) == (1, 4)
    bakery.acquire(1)
    with pytest.raises(DatapathError, match="another operation of this host"):
        bakery.acquire(0.01)
    bakery.check()
    bakery.release()
    bakery.release()
    bakery.acquire(1)
    bakery.release()
