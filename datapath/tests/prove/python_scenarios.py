# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenarios of the Python code that ships, on simulated hosts: metadata copies, registration, heartbeats, the claim; and those
of pool_scenarios.py.

To add one, write a function that makes actors and checks, and its line in `SCENARIOS`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from pool_scenarios import Formats, Growths
from pool_scenarios import formatted as pool
from ram import Ram
from simulator import NOTHING_DROPPED, Report, Simulation, adversaries, simulate

from cxl_datapath.cbd import fencing
from cxl_datapath.cbd.claim import IDLE, Bakery
from cxl_datapath.cbd.geometry import FormatOptions
from cxl_datapath.cbd.hosting import Registration, register
from cxl_datapath.cbd.layout import HostEntry, Info, State
from cxl_datapath.cbd.liveness import Liveness, period_s
from cxl_datapath.cbd.metadata import CopyPair
from cxl_datapath.cbd.registry import Registry
from cxl_datapath.cbd.transport import attach, plan_format, write_format
from cxl_datapath.errors import Code, DatapathError

SIZE = 1 << 16
HOSTS = 3
EPOCH = 5
COPY = 1024
BOOT = bytes(16)
LEASE_S = 5.0


@cache
def transport(registered: bool) -> bytes:
    """A formatted memory, with a host in each entry or in none."""
    ram = Ram(SIZE)
    options = FormatOptions(hosts=HOSTS, backends=1, blkdevs=1, channels=1, ring_depth=2, slot_bytes=4096)
    write_format(ram, plan_format(SIZE, "pool0", options, "software", True))
    registry = Registry(ram, attach(ram, "memory"))
    for host in range(HOSTS if registered else 0):
        registry.hosts.write(HostEntry(State.RUNNING, host, EPOCH, f"node{host}", BOOT))
        registry.write_claim(host, IDLE)
    return bytes(ram.data)


@cache
def _info() -> Info:
    ram = Ram(SIZE)
    ram.data[:] = transport(False)
    return attach(ram, "memory")


def registry_of(sim: Simulation, host: int) -> Registry:
    return Registry(sim.memory(host), _info())


# ---- metadata copies


class Metadata:
    """One host writes an entry again and again, two read it. When it loses power, its next incarnation goes on."""

    WRITES = 5

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.begun = self.done = 0  # number of the last write that began, that ended
        sim.actor(0, partial(self.write, 0, self.WRITES))
        for host in (1, 2):
            sim.actor(host, partial(self.read, host))
        sim.actor(3, self.go_on)
        sim.crash_sometime(0)
        sim.run()
        assert self.done == self.WRITES + 1

    def pair(self, host: int) -> CopyPair:
        return CopyPair(self.sim.memory(host), 0, COPY, HostEntry.MAGIC, "entry")

    def write(self, host: int, last: int) -> None:
        while self.done < last:
            self.begun = self.begun + 1 if self.begun == self.done else self.begun
            self.pair(host).write(self.begun.to_bytes(2, "little") * 400)
            self.done = self.begun
            self.sim.progress()
            self.sim.steps.sleep(self.sim.random(3))

    def go_on(self) -> None:
        while self.done < self.WRITES and not self.sim.is_dead(0):
            self.sim.steps.sleep(0.5)
        self.write(3, self.WRITES + 1)

    def read(self, host: int) -> None:
        last = 0
        while last <= self.WRITES:
            before, begun = self.done, self.begun
            try:
                payload = self.pair(host).read()
            except DatapathError as error:  # both copies may be in the making while we read, never longer
                assert error.code == Code.CORRUPT and (begun, before) != (self.begun, self.begun), error.message
                continue
            seen = int.from_bytes(payload[:2], "little") if payload else 0
            assert payload is None or payload == seen.to_bytes(2, "little") * 400, "a mixture was read"
            assert max(before, last) <= seen <= self.begun, f"read number {seen} after {max(before, last)} was there"
            last = seen
            self.sim.steps.sleep(0.5)


# ---- heartbeats


class Heartbeats:
    """A host that beats is never dead to those who look on, and one that stopped is, soon."""

    BEATS = 12

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.last_beat: float | None = None
        sim.actor(0, self.beat)
        for host in (1, 2):
            sim.actor(host, partial(self.observe, host))
        sim.crash_sometime(0)
        sim.run()

    def beat(self) -> None:
        registry = registry_of(self.sim, 0)
        registration = Registration(registry, registry.hosts.read(0))
        for _ in range(self.BEATS):
            registration.beat()
            self.last_beat = self.sim.steps.now
            self.sim.progress()
            self.sim.steps.sleep(LEASE_S / 4)

    def observe(self, host: int) -> None:
        registry = registry_of(self.sim, host)
        liveness = Liveness(LEASE_S, self.sim.steps.clock)
        while (alive := liveness.alive(0, EPOCH)) is not False:
            now = self.sim.steps.now
            assert now < (self.last_beat or 0) + 2.5 * LEASE_S, f"host {host} takes one for alive that beats no more: {alive}"
            liveness.observe(0, registry.heartbeat(0), registry.incarnation(0))
            self.sim.steps.sleep(period_s(LEASE_S))
        assert self.last_beat is None or self.sim.steps.now >= self.last_beat + LEASE_S, "a host that beats was taken for dead"


# ---- registration


class Registrations:
    """Hosts that register at the same moment never get the same entry."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.places: dict[int, int] = {}
        random.seed(sim.random(1 << 31))  # what hosting.py throws dice with
        for host in range(HOSTS):
            sim.actor(host, partial(self.register, host))
        sim.crash_sometime(0)
        sim.run()
        assert len(set(self.places.values())) == len(self.places), f"two hosts share an entry: {self.places}"
        assert len(self.places) >= HOSTS - 1

    def register(self, host: int) -> None:
        self.sim.steps.sleep(self.sim.random(3) / 20)
        here = register(registry_of(self.sim, host), f"node{host}", BOOT, sleep=self.sim.steps.sleep)
        self.places[host] = here.id
        self.sim.progress()
        for _ in range(3):
            self.sim.steps.sleep(1)
            here.beat()


# ---- the claim


class Claims:
    """Never two hosts hold the claim, and nobody waits for ever, not even for a holder without power."""

    ROUNDS = 2
    LEASE_S = 0.05  # ten looks of those who wait, each of which takes many steps

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.inside: set[int] = set()
        self.died_at: float | None = None
        self.entered = [0] * HOSTS
        for host in range(HOSTS):
            sim.actor(host, partial(self.visit, host))
        sim.crash_sometime(0, self.died)
        sim.run()
        survivors = [host for host in range(HOSTS) if not sim.is_dead(host)]
        assert [self.entered[host] for host in survivors] == [self.ROUNDS] * len(survivors)

    def died(self) -> None:
        self.died_at = self.sim.steps.now
        self.inside.discard(0)

    def alive(self, host: int, _epoch: int) -> bool | None:
        if not self.sim.is_dead(host):
            return True
        return False if self.died_at is not None and self.sim.steps.now >= self.died_at + self.LEASE_S else None

    def visit(self, host: int) -> None:
        steps, registry = self.sim.steps, registry_of(self.sim, host)

        def fence(dead: int, epoch: int) -> None:
            fencing.fence(registry, dead, epoch, steps.sleep)

        bakery = Bakery(registry, host, EPOCH, self.alive, fence, clock=steps.clock, sleep=steps.poll)
        for _ in range(self.ROUNDS):
            bakery.acquire(1e9)
            self.inside.add(host)
            assert self.inside == {host}, f"hosts {sorted(self.inside)} hold the claim together"
            steps.pause()
            bakery.check()
            self.inside.remove(host)
            self.entered[host] += 1
            self.sim.progress()
            bakery.release()


# ---- all of them


@dataclass(frozen=True)
class PythonScenario:
    name: str
    play: Callable[[Simulation], object]
    hosts: int
    content: Callable[[], bytes]  # of the memory
    bad: bool = False

    @property
    def adversaries(self) -> list[str]:
        """All but the one that may lose what was written: for metadata there is no second writing."""
        return [name for name in adversaries() if name != "clean"]

    def run(self, adversary: str, seed: int, drop: int = NOTHING_DROPPED) -> Report:
        return simulate(self.play, self.hosts, self.content(), adversary=adversary, seed=seed, drop=drop)


_empty, _registered = partial(transport, False), partial(transport, True)
SCENARIOS = [
    PythonScenario("metadata", Metadata, 4, _empty),
    PythonScenario("heartbeat", Heartbeats, 3, _registered),
    PythonScenario("registration", Registrations, 3, _empty),
    PythonScenario("claim", Claims, 3, _registered),
    PythonScenario("pool-format", Formats, 2, pool),
    PythonScenario("pool-ranges", Growths, 2, pool),
]
