# SPDX-License-Identifier: GPL-3.0-or-later
"""One registered transport as this host uses it: memory, registration, heartbeat, and its supervised workers."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .cbd import channels
from .cbd.hosting import Registration, boot_id, register
from .cbd.layout import Info, State
from .cbd.lines import ControlLine
from .cbd.liveness import DEAD_AFTER_S, PERIOD_S, Liveness
from .cbd.registry import Registry, owned
from .cbd.transport import attach
from .errors import Code, DatapathError
from .mapping import Mapping
from .memory import Memory, resolve
from .state import BackendState, BlkdevState, TransportState
from .supervisor import Supervised

RELEASE_S = 2.0  # a living backend takes its handlers back within one poll

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    runtime: Path
    state: Path
    host_name: str
    sysfs: Path = Path("/sys")
    dev: Path = Path("/dev")


@dataclass
class Opened:
    """What exists while the transport is reachable and this host is registered in it."""

    memory: Memory
    mapping: Mapping
    info: Info
    registry: Registry
    registration: Registration


class Session:
    """A wanted transport. `opened` is None while it is pending; `reason` says why."""

    def __init__(self, desired: TransportState, settings: Settings) -> None:
        self.desired = desired
        self.settings = settings
        self.opened: Opened | None = None
        self.reason: DatapathError | None = None
        self.liveness = Liveness()
        # One supervised worker per entry of the desired state, started or not.
        self.backends = {want.id: self.backend_worker(want) for want in desired.backends}
        self.blkdevs = {want.id: self.blkdev_worker(want) for want in desired.blkdevs}
        self._reserved: dict[int, tuple[int, ...]] = {}  # channels by blkdev, from its configuration to its end

    @property
    def name(self) -> str:
        return self.desired.name

    def need(self) -> Opened:
        """Raises `not_ready` with the reason while the transport is pending."""
        if self.opened is None:
            why = f"is not reachable yet ({self.reason})" if self.reason else "is being opened"
            raise DatapathError(
                Code.NOT_READY, f"transport {self.name}", why, "the daemon keeps trying; see: cxl-datapath status"
            )
        return self.opened

    async def open(self) -> None:
        """Maps, attaches, registers this host. Takes up to `DEAD_AFTER_S` when an earlier incarnation must be seen dead."""
        try:
            self.opened = await asyncio.to_thread(_open, self.desired, self.settings)
        except DatapathError as error:
            self.reason = error
            raise
        self.reason = None
        self._clear_orphans(self.opened)
        self.tick()
        log.info("transport %s: registered as host %d", self.name, self.opened.registration.id)

    def tick(self) -> None:
        """One heartbeat, and one look at those of the others. Raises when this host lost its entry."""
        opened = self.need()
        opened.registration.beat()
        for host_id in opened.registry.hosts.used():
            self.liveness.observe(host_id, opened.registry.heartbeat(host_id))

    def alive(self, host_id: int) -> bool | None:
        if self.opened is not None and host_id == self.opened.registration.id:
            return True
        return self.liveness.alive(host_id)

    async def known_alive(self, host_id: int) -> bool:
        """Waits until the host has been watched long enough."""
        for _ in range(int(DEAD_AFTER_S / PERIOD_S) * 4):
            if (verdict := self.alive(host_id)) is not None:
                return verdict
            await asyncio.sleep(PERIOD_S / 2)
        return False

    async def close(self, error: DatapathError | None = None, patience: float = 0.0) -> None:
        """Stops all workers (blkdevs first) and unmaps. The entries stay: they keep ids and backends for this host."""
        self.reason = error
        for group in (self.blkdevs, self.backends):
            await asyncio.gather(*(worker.end(patience) for worker in group.values()))
        self._reserved.clear()
        opened, self.opened = self.opened, None
        if opened is not None:
            opened.mapping.close()

    def keep_workers(self) -> None:
        """Starts everything that is wanted, in the background."""
        for worker in (*self.backends.values(), *self.blkdevs.values()):
            worker.keep()

    def backend_worker(self, want: BackendState) -> Supervised:
        return Supervised(
            "backend", f"transport {self.name} backend {want.id}", lambda: self._reference() | asdict(want), self._ring
        )

    def blkdev_worker(self, want: BlkdevState) -> Supervised:
        label = f"transport {self.name} blkdev {want.id}"
        return Supervised("blkdev", label, lambda: self._blkdev_config(want), self._ring)

    def clear_backend(self, backend_id: int) -> None:
        """Takes the entry and the channel lines of a stopped backend of this host back."""
        if self.opened is None:
            return
        registry, me = self.opened.registry, self.opened.registration.id
        for channel in range(self.opened.info.geometry.channel_count):
            line = registry.lines(channel).backend
            if line and (line.backend_id, line.host_id) == (backend_id, me) and line.state != State.NONE:
                registry.write_backend_line(channel, _ended(line))
        if owned(registry.backends, backend_id, me):
            registry.backends.clear(backend_id)
        self._ring()

    async def clear_blkdev(self, blkdev_id: int) -> None:
        """The same for a blkdev; returns when its backend gave the channels back, or was given the time for it."""
        self._reserved.pop(blkdev_id, None)
        if self.opened is None:
            return
        registry, me = self.opened.registry, self.opened.registration.id
        if not owned(registry.blkdevs, blkdev_id, me):
            return
        mine = []
        for channel in range(self.opened.info.geometry.channel_count):
            line = registry.lines(channel).blkdev
            if line and (line.blkdev_id, line.host_id) == (blkdev_id, me):
                mine.append(channel)
                if line.state != State.NONE:
                    registry.write_blkdev_line(channel, _ended(line))
        registry.blkdevs.clear(blkdev_id)
        self._ring()
        for _ in range(int(RELEASE_S / 0.02)):
            if self.opened is None or not any(self._held(registry, channel, blkdev_id) for channel in mine):
                return
            await asyncio.sleep(0.02)

    def _held(self, registry: Registry, channel: int, blkdev_id: int) -> bool:
        line = registry.lines(channel).backend
        return (
            line is not None
            and line.blkdev_id == blkdev_id
            and channels.held_by_backend(line, registry.backends.used(), self.alive)
        )

    def _ring(self) -> None:
        if self.opened is not None:
            self.opened.registration.ring()

    def _reference(self) -> dict[str, Any]:
        opened = self.need()
        memory = opened.memory
        host_id = opened.registration.id
        reference = {"spec": memory.spec, "path": memory.path, "size": memory.size, "kind": memory.kind}
        place = {"uuid": self.desired.uuid, "host_id": host_id, "runtime": str(self.settings.runtime)}
        return {"transport": reference | place}

    def _blkdev_config(self, want: BlkdevState) -> dict[str, Any]:
        opened = self.need()
        registry, count = opened.registry, opened.info.geometry.channel_count
        others = [entry for entry in registry.blkdevs.used().values() if entry.id != want.id]
        taken = {channel for entry in others for channel in entry.channels}
        taken |= {channel for blkdev, mine in self._reserved.items() if blkdev != want.id for channel in mine}
        backends = registry.backends.used()
        for channel in range(count):
            line = registry.lines(channel).backend
            ours = line is not None and (line.backend_id, line.blkdev_id) == (want.backend, want.id)
            if not ours and channels.held_by_backend(line, backends, self.alive):
                taken.add(channel)
        before = registry.blkdevs.read(want.id)
        chosen = channels.choose(count, taken, before.channels if before else (), want.queues)
        self._reserved[want.id] = tuple(chosen)
        mine = {"id": want.id, "backend": want.backend, "name": want.name, "frontend": want.frontend, "channels": chosen}
        return self._reference() | mine | {"dev": str(self.settings.dev)}

    def _clear_orphans(self, opened: Opened) -> None:
        """Entries of this host that nobody wants any more: left by a crash between entry and state file."""
        me = opened.registration.id
        wanted_blkdevs = {blkdev.id for blkdev in self.desired.blkdevs}
        wanted_backends = {backend.id for backend in self.desired.backends}
        for blkdev in opened.registry.blkdevs.used().values():
            if blkdev.host_id == me and blkdev.id not in wanted_blkdevs:
                opened.registry.blkdevs.clear(blkdev.id)
        for backend in opened.registry.backends.used().values():
            if backend.host_id == me and backend.id not in wanted_backends:
                self.clear_backend(backend.id)


def _ended(line: ControlLine) -> ControlLine:
    return ControlLine(State.NONE, line.epoch, line.blkdev_id, line.backend_id, line.queue, line.host_id)


def _open(desired: TransportState, settings: Settings) -> Opened:
    memory = resolve(desired.memory, settings.sysfs, settings.dev)
    mapping = Mapping(memory)
    try:
        info = attach(mapping, memory.spec)
        if str(info.uuid) != desired.uuid:
            hint = "unregister it and register it again"
            what = f"was formatted again: it holds transport {info.name} with uuid {info.uuid}, registered was {desired.uuid}"
            raise DatapathError(Code.CORRUPT, memory.spec, what, hint)
        mapping.use_coherence(info.coherence)
        registry = Registry(mapping, info)
        return Opened(memory, mapping, info, registry, register(registry, settings.host_name, boot_id()))
    except BaseException:
        mapping.close()
        raise
