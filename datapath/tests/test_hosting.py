# SPDX-License-Identifier: GPL-3.0-or-later
"""Registration: an entry each, whoever wants one at the same moment, and an epoch that no fence covers."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest
from claimants import Claimant
from hypothesis import given, settings
from hypothesis import strategies as st
from interleave import Steps, Turns
from ram import Ram

from cxl_datapath.cbd import fencing
from cxl_datapath.cbd.claim import IDLE
from cxl_datapath.cbd.geometry import FormatOptions
from cxl_datapath.cbd.hosting import SETTLE_S, Registration, Seat, plan_places
from cxl_datapath.cbd.hosting import register as register_for_real
from cxl_datapath.cbd.layout import HostEntry, State
from cxl_datapath.cbd.lines import HEARTBEAT_OFF, Claim, Fence, Heartbeat, Intent
from cxl_datapath.cbd.liveness import watch
from cxl_datapath.cbd.registry import ENTRY_COPY, Registry
from cxl_datapath.cbd.transport import attach, plan_format, write_format
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import resolve

BOOT = bytes(range(16))
SIZE = 1 << 17


def formatted(hosts: int = 3) -> Ram:
    ram = Ram(SIZE)
    options = FormatOptions(hosts=hosts, backends=1, blkdevs=1, channels=1, ring_depth=2, slot_bytes=4096)
    write_format(ram, plan_format(SIZE, "pool0", options, "software", True))
    return ram


@pytest.fixture
def registry() -> Registry:
    ram = formatted()
    return Registry(ram, attach(ram, "memory"))


def nobody_alive(_read, _hosts, _lease_s):
    return set()


def register(
    registry: Registry, name: str, boot: bytes = BOOT, watch_hosts=nobody_alive, sleep=lambda _: None, **seat
) -> Registration:
    return register_for_real(registry, name, boot, sleep=sleep, watch_hosts=watch_hosts, **seat)


def refused(registry: Registry, name: str, code: Code, **how: object) -> DatapathError:
    with pytest.raises(DatapathError) as caught:
        register(registry, name, **how)
    assert (caught.value.code, caught.value.object) == (code, f"host {name}")
    return caught.value


def lost(registration: Registration) -> DatapathError:
    with pytest.raises(DatapathError) as caught:
        registration.beat()
    assert caught.value.code == Code.BUSY
    return caught.value


# ---- one host after the other


def test_hosts_take_different_entries_and_come_back_to_their_own(registry):
    first, second = register(registry, "node1"), register(registry, "node2")
    assert (first.id, first.epoch, second.id) == (0, 1, 1)
    again = register(registry, "node1", bytes(16))
    assert (again.id, again.epoch) == (0, 2)
    assert "gone or another's" in lost(first).message
    again.leave()
    assert register(registry, "node1").epoch == 3


def test_a_name_that_is_alive_is_refused_and_nothing_changes(registry):
    registration = register(registry, "node1")
    refused(registry, "node1", Code.EXISTS, watch_hosts=lambda read, hosts, lease_s: set(hosts))
    registration.beat()


def test_a_host_waits_one_lease_for_its_own_earlier_life(registry):
    register(registry, "node1")
    asked = []
    register(registry, "node1", watch_hosts=lambda read, hosts, lease_s: asked.append((hosts, lease_s)) or set())
    assert asked == [([0], 5.0)]


def test_full_transport(registry):
    for name in ("node1", "node2", "node3"):
        register(registry, name)
    assert "clear" in refused(registry, "node4", Code.FULL).hint


def test_a_new_host_prefers_an_entry_that_nobody_had():
    entries = [HostEntry(State.NONE, 0, 4, "old", BOOT), DatapathError(Code.CORRUPT, "host 1", "x"), None]
    assert [place.id for place in plan_places(entries, lambda _: 0, "new")] == [2, 0]
    assert [place.id for place in plan_places(entries, lambda _: 0, "old")] == [0]
    assert plan_places(entries[:2], lambda _: 0, "new")[0].epoch == 5


def test_a_host_lives_while_its_heartbeat_moves(registry):
    living, _ = register(registry, "node1"), register(registry, "node2")
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds
        living.beat()

    assert watch(registry.heartbeat, [0, 1], 5.0, lambda: now[0], sleep) == {0}


def test_counters_go_on_after_a_restart(registry):
    first = register(registry, "node1")
    first.beat()
    before, bell = registry.heartbeat(0), registry.bell(0)
    second = register(registry, "node1")
    second.ring()
    assert registry.heartbeat(0).counter > before.counter
    assert registry.bell(0).generation > bell.generation


def test_a_ticket_of_an_earlier_life_is_taken_back(registry):
    register(registry, "node1")
    registry.write_claim(0, Claim(7, False))
    register(registry, "node1")
    assert registry.claim(0) == IDLE


# ---- another name


def test_a_host_with_another_name_goes_on_in_its_entry(registry):
    register(registry, "node1")
    again = register(registry, "storage", seat=Seat(0, 1))
    assert (again.id, again.epoch, registry.hosts.read(0).name) == (0, 2, "storage")
    again.beat()


def test_an_entry_with_another_name_whose_heartbeat_moves_is_another_hosts(registry):
    first = register(registry, "node1")
    assert register(registry, "clone", seat=Seat(0, 1), watch_hosts=lambda read, hosts, lease_s: set(hosts)).id == 1
    first.beat()


@pytest.mark.parametrize("seat", [Seat(0, 2), Seat(2, 1), Seat(9, 1), None])
def test_an_entry_with_another_name_that_it_did_not_leave_like_this_is_another_hosts(registry, seat):
    register(registry, "node1")
    assert register(registry, "storage", seat=seat).id == 1


def test_an_entry_with_another_name_that_was_fenced_or_cleared_is_lost(registry):
    register(registry, "node1")
    fencing.fence(registry, 0, 1)
    assert register(registry, "storage", seat=Seat(0, 1)).id == 1
    registry.hosts.clear(0)
    assert register(registry, "other", seat=Seat(0, 1)).id == 2


def test_a_host_whose_new_name_has_an_entry_takes_that(registry):
    register(registry, "node1")
    register(registry, "storage")
    assert register(registry, "storage", seat=Seat(0, 1)).id == 1


# ---- fences


def test_a_fenced_host_hears_it_and_comes_back_above_the_fence(registry):
    registration = register(registry, "node1")
    assert not registration.fenced()
    fencing.fence(registry, 0, 1)
    assert registration.fenced()
    assert "declared dead by another host" in lost(registration).message
    before = registry.hosts.read(0)
    registration.leave()
    assert registry.hosts.read(0) == before, "the entry may be written by others by now"
    again = register(registry, "node1", watch_hosts=lambda *_: pytest.fail("a fenced rival is dead for certain"))
    assert (again.id, again.epoch, again.fenced()) == (0, 2, False)
    again.beat()


def test_a_cleared_host_hears_that_it_was_declared_dead(registry):
    registration = register(registry, "node1")
    fencing.fence(registry, 0, 1)
    registry.hosts.clear(0)
    assert "declared dead" in lost(registration).message


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, (1 << 64) - 1), st.sampled_from([State.NONE, State.RUNNING]))
def test_a_new_epoch_is_above_the_old_one_and_above_the_fence(epoch, fence, state):
    entries = [HostEntry(state, 0, epoch, "node1", BOOT)]
    try:
        (place,) = plan_places(entries, lambda _: fence, "node1")
    except DatapathError as error:
        assert error.code == Code.FULL
        assert max(epoch, fence) >= 0xFFFFFFFF
    else:
        assert max(epoch, fence) < place.epoch <= 0xFFFFFFFF
        assert place.rival == (state == State.RUNNING and epoch > fence)


def test_an_entry_whose_epochs_are_used_up_is_passed_over(registry):
    registry.write_fence(0, Fence((1 << 64) - 1))
    registry.hosts.write(HostEntry(State.RUNNING, 1, 0xFFFFFFFF, "node1", BOOT))
    assert register(registry, "node1").id == 2


@pytest.mark.parametrize("late", [1, 2])
def test_a_host_does_not_register_in_a_transport_that_is_formatted_meanwhile(late):
    """The first sleep is between wish and look, the second one between entry and verification."""
    ram = formatted(hosts=16)
    registry = Registry(ram, attach(ram, "memory"))
    options = FormatOptions(hosts=1, backends=8, blkdevs=8, channels=1, ring_depth=2, slot_bytes=4096)
    sleeps = []

    def sleep(seconds):
        sleeps.append(seconds)
        if len(sleeps) == late:
            write_format(ram, plan_format(SIZE, "pool1", options, "software", True))
            sleeps.append(bytes(ram.data))

    with pytest.raises(DatapathError) as caught:
        register(registry, "node1", sleep=sleep)
    assert (caught.value.code, caught.value.object) == (Code.BUSY, "transport pool0")
    assert "formatted" in caught.value.message
    assert bytes(ram.data) == sleeps[late], "nothing was written into the new transport"


def test_a_host_that_registered_as_the_info_went_away_leaves_again():
    """The other half of `write_format`, which takes the info away first and then looks for hosts."""
    ram = formatted()
    registry = Registry(ram, attach(ram, "memory"))

    def sleep(_):
        if registry.hosts.used():
            ram.write(0, bytes(8192))

    with pytest.raises(DatapathError, match="formatted"):
        register(registry, "node1", sleep=sleep)
    assert registry.hosts.used() == {}


# ---- losing an entry


def test_a_twin_in_the_same_entry_is_heard(registry):
    first = register(registry, "node1")
    twin = Registration(registry, first.entry)
    twin.beat()
    assert "another daemon" in lost(first).message
    twin.beat()


def test_an_entry_that_is_not_ours_any_more_is_left_alone(registry):
    registration = register(registry, "node1")
    registry.hosts.write(HostEntry(State.RUNNING, 0, 9, "node9", BOOT))
    assert "gone or another's" in lost(registration).message
    registration.leave()
    assert registry.hosts.read(0).name == "node9"


@pytest.mark.parametrize(("wish", "late"), [(True, 1), (False, 1), (False, 2)])
def test_somebody_elses_wish_or_entry_sends_us_to_another_place(registry, wish, late):
    """The first sleep is between wish and look, the second one between entry and verification."""
    sleeps = []

    def sleep(seconds):
        sleeps.append(seconds)
        if len(sleeps) == late:
            if wish:
                registry.write_intent(0, Intent(1))
            else:
                registry.hosts.write(HostEntry(State.RUNNING, 0, 1, "node9", BOOT))
        elif wish:
            registry.hosts.write(HostEntry(State.RUNNING, 0, 1, "node9", BOOT))

    assert register(registry, "node1", sleep=sleep).id in (1, 2)
    assert registry.hosts.read(0).name == "node9"
    assert sleeps[:late] == [SETTLE_S] * late
    assert sleeps[late] >= 2 * SETTLE_S


def test_intents_that_never_settle_are_an_error_that_says_so(registry):
    def sleep(_):
        for host in range(3):
            registry.write_intent(host, Intent(random.getrandbits(64)))

    assert refused(registry, "node1", Code.BUSY, sleep=sleep).hint
    assert registry.hosts.used() == {}


@settings(max_examples=50)
@given(st.lists(st.binary(min_size=64, max_size=64), min_size=3, max_size=3))
def test_arbitrary_lines_in_a_free_entry_do_not_keep_a_host_out(lines):
    ram = formatted()
    registry = Registry(ram, attach(ram, "memory"))
    for line, offset in zip(lines, (2048, 3072, 3136), strict=True):
        ram.write(registry.hosts.page(0) + offset, line)
    registration = register(registry, "node1")
    registration.beat()
    assert (registration.id, registry.claim(0)) == (0, IDLE)
    assert isinstance(registry.heartbeat(0), Heartbeat)


# ---- many at the same moment


def many(seed: int, names: list[str], pauses: Callable[[random.Random, Steps], None]) -> tuple[Registry, list[Registration]]:
    """All of them register at about the same time, in this order of steps; gives those that believe to be registered."""
    source = random.Random(seed)
    random.seed(seed)
    ram, steps = formatted(len(names)), Steps(source.randrange)
    info = attach(ram, "memory")
    done: list[Registration] = []

    class Slow(Turns):
        def read(self, offset: int, length: int) -> bytes:
            pauses(source, steps)
            return super().read(offset, length)

        def write(self, offset: int, data: bytes) -> None:
            pauses(source, steps)
            super().write(offset, data)

    def come(name: str) -> None:
        steps.sleep(source.randrange(5) * SETTLE_S / 2)  # often the moment at which another one goes on
        registry = Registry(Slow(ram, steps, torn=True), info)
        try:
            done.append(register_for_real(registry, name, name.encode().ljust(16), sleep=steps.sleep))
        except DatapathError as error:
            assert error.code in (Code.FULL, Code.BUSY)

    for name in names:
        steps.add(partial(come, name))
    steps.run()
    return Registry(ram, info), done


@settings(max_examples=60)
@given(st.integers(0, 1 << 64), st.integers(2, 4))
def test_prompt_hosts_all_get_an_entry_in_every_order_of_steps(seed, hosts):
    registry, done = many(seed, [f"node{number}" for number in range(hosts)], lambda source, steps: None)
    assert sorted(registration.id for registration in done) == list(range(hosts))
    for registration in done:
        registration.beat()
    assert {entry.name for entry in registry.hosts.used().values()} == {f"node{number}" for number in range(hosts)}
    assert {registry.hosts._pair(index).newest().seq for index in range(hosts)} == {2}, "an entry was written by two hosts"


@settings(max_examples=100)
@given(st.integers(0, 1 << 64), st.integers(2, 3))
def test_hosts_that_stop_anywhere_for_any_time_find_out_at_a_beat(seed, hosts):
    """Waiting cannot exclude a host that stops between its look and its store for longer: its beats do."""

    def pauses(source: random.Random, steps: Steps) -> None:
        if source.random() < 0.05:
            steps.sleep(source.random() * 10 * SETTLE_S)

    registry, done = many(seed, [f"node{number}" for number in range(hosts)], pauses)
    standing = []
    for registration in done:
        try:
            registration.beat()
        except DatapathError as error:
            assert error.code == Code.BUSY
        else:
            standing.append(registration.id)
            assert registry.hosts.read(registration.id) == registration.entry
    assert len(set(standing)) == len(standing)


def test_processes_that_register_at_the_same_moment_never_share_an_entry(shared_file):
    memory = shared_file(1 << 20)
    with Mapping(resolve(str(memory))) as mapping:
        options = FormatOptions(hosts=6, backends=1, blkdevs=1, channels=1, ring_depth=2, slot_bytes=4096)
        write_format(mapping, plan_format(mapping.size, "pool0", options, "software", True, lease_ms=3000))
        claimants = [Claimant(memory, f"node{number}") for number in range(6)]
        try:
            for claimant in claimants:
                claimant.tell("register")
            for claimant in claimants:
                claimant.answer()
            found = {claimant.name: claimant.ask("where") for claimant in claimants}
            entries = Registry(mapping, attach(mapping, "memory")).hosts.used()
            assert {entry.name: entry.id for entry in entries.values()} == found
            assert sorted(found.values()) == list(range(6))
        finally:
            for claimant in claimants:
                claimant.kill()


# ---- an entry that is damaged


def damage_entry(registry: Registry, host: int) -> None:
    registry._memory.write(registry.hosts.page(host), b"\xaa" * 2 * ENTRY_COPY)


def test_a_host_that_lives_writes_its_damaged_entry_again(registry):
    registration = register(registry, "node1")
    damage_entry(registry, 0)
    registration.beat()
    assert registry.hosts.read(0) == registration.entry


def test_a_damaged_entry_is_left_to_whoever_may_have_it_by_now(registry):
    registration = register(registry, "node1")
    damage_entry(registry, 0)
    fencing.fence(registry, 0, 1)
    assert "declared dead" in lost(registration).message
    assert registry.hosts.is_damaged(0)


def test_what_came_in_the_place_of_the_transport_is_left_alone(registry):
    registration = register(registry, "node1")
    damage_entry(registry, 0)
    registry._memory.write(0, b"\xaa" * 8192)
    assert "gone or another's" in lost(registration).message
    assert registry.hosts.is_damaged(0)


@pytest.mark.parametrize("fenced", [False, True])
def test_a_host_that_comes_back_knows_its_damaged_entry(registry, fenced):
    register(registry, "node1")
    damage_entry(registry, 0)
    if fenced:
        fencing.fence(registry, 0, 3)
    again = register(registry, "node1", seat=Seat(0, 1))
    assert (again.id, again.epoch) == (0, 4 if fenced else 2)
    assert registry.hosts.read(0) == again.entry
    again.beat()


def test_a_damaged_entry_whose_heartbeat_moves_is_another_daemons(registry):
    register(registry, "node1")
    damage_entry(registry, 0)
    error = refused(registry, "node1", Code.EXISTS, seat=Seat(0, 1), watch_hosts=lambda read, hosts, lease_s: set(hosts))
    assert "alive" in error.message
    assert registry.hosts.is_damaged(0)


def test_a_damaged_entry_that_somebody_else_may_have_is_passed_over(registry):
    register(registry, "node1")
    registry.beat(0, Heartbeat(9, 2))  # another host came after this one had been cleared
    damage_entry(registry, 0)
    assert register(registry, "node1", seat=Seat(0, 1)).id == 1
    damage_entry(registry, 1)
    registry._memory.write(registry.hosts.page(1) + HEARTBEAT_OFF, b"\xaa" * 64)
    fencing.fence(registry, 1, 1)
    assert register(registry, "node1", seat=Seat(1, 1)).id == 2


def test_a_damaged_entry_is_nothing_to_a_host_that_is_in_another_one(registry):
    register(registry, "node2")
    register(registry, "node1")
    damage_entry(registry, 0)
    assert register(registry, "node1", seat=Seat(0, 1)).id == 1
    assert register(registry, "node3", seat=Seat(9, 1)).id == 2
