# SPDX-License-Identifier: GPL-3.0-or-later
"""A backend: publishes its entry, then runs a C handler on each channel that its blkdevs ask for."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import holdings, lives
from ..cbd.changed import why_changed
from ..cbd.channels import Handler, users_of, wanted_handlers
from ..cbd.fencing import fence_line_off, is_fenced
from ..cbd.layout import BackendEntry, State
from ..cbd.lines import ControlLine
from ..cbd.liveness import Liveness, look_s
from ..cbd.registry import Registry
from ..core import CHANNEL_READ_ONLY, ENGINE_AUTO, ENGINE_INLINE, Backend, BackendConf
from ..errors import Code, DatapathError
from ..idle import idle_conf
from ..lives import Start
from ..medium_id import MediumId, medium_from_json, medium_of
from ..names import check_backend_path
from .attach import Attached, TransportRef, attach_worker
from .guard import Guard
from .link import Link
from .lock import hold
from .pool_medium import PoolMedium
from .presence import Presence
from .store import Store, open_store, same_device

RESCAN_S = 1.0  # a bell that was missed, or of a host that is new, is made good within that, or a quarter of a short lease


@dataclass(frozen=True)
class Config:
    transport: TransportRef
    id: int
    path: str
    read_only: bool
    life: int  # that it goes on with; 0 in its first start
    start: Start
    file: MediumId | None = None  # or the device that it goes on with

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Config:
        return cls(
            TransportRef.from_json(raw["transport"]),
            int(raw["id"]),
            check_backend_path("backend", raw["path"]),
            bool(raw["read_only"]),
            int(raw["life"]),
            Start(raw["start"]),
            medium_from_json(raw["file"]),
        )


def run(link: Link) -> None:
    config = Config.from_json(link.config())
    hold(link, config.transport.lock_file("backend", config.id), f"backend {config.id}")
    transport = attach_worker(config.transport)
    # With the lock held no handler of an earlier life is left: what it said on its channels is over.
    holdings.end_backend_lines(transport.registry, transport.info.geometry.channel_count, config.id, config.transport.host_id)
    before = _predecessor(config, transport)
    pooled = PoolMedium.of(config.path, Path(config.transport.runtime), f"backend-{config.id}")
    store = pooled.store(config.read_only) if pooled else _open(config, before, transport.info.name)
    try:
        _check_medium(config, store, transport.info.name)
        _serve(link, config, store, transport, pooled)
    finally:
        if pooled:
            pooled.close()
        else:
            os.close(store.fd)


def _open(config: Config, before: BackendEntry | None, transport: str) -> Store:
    """Raises what `open_store` does; of a medium that was there before with what helps."""
    try:
        return open_store(config.path, config.read_only)
    except DatapathError as error:
        if before is None or error.code != Code.NOT_FOUND:
            raise
        command = f"cxl-datapath cbd backend recover {transport} {config.id} --path {config.path}"
        hint = f"backend {config.id} is on it: bring it back; or put what has its data there, and run: {command}"
        raise DatapathError(error.code, error.object, error.message, hint) from None


def _check_medium(config: Config, store: Store, transport: str) -> None:
    """Raises `invalid` when another file or device is at the path than before."""
    if config.file is None or config.file.is_same(medium_of(store.fd)):
        return
    noun, how = ("device", "another one has its place") if store.is_block else ("file", "another one was moved or made there")
    what = f"is not the {noun} that backend {config.id} was started on: {how}"
    command = f"cxl-datapath cbd backend recover {transport} {config.id} --path {config.path}"
    raise DatapathError(Code.INVALID, config.path, what, f"put that one back; or, if this one has its data, run: {command}")


def _serve(link: Link, config: Config, store: Store, transport: Attached, pooled: PoolMedium | None) -> None:
    guard = Guard(transport)
    entry = _publish(config, store, transport, guard)
    link.emit("bell")
    conf = _engine_conf(config, store, transport, entry)
    engine = pooled.backend(transport.mapping.mem, conf) if pooled else Backend(transport.mapping.mem, conf)
    handlers = Handlers(transport, engine, entry)
    try:
        info = {
            "capacity": entry.capacity,
            "logical_block_size": entry.logical_block_size,
            "direct": store.direct,
            "engine": engine.engine(),
            "epoch": entry.epoch,
            "life": entry.life,
            "file": asdict(file) if (file := medium_of(store.fd)) else None,
        }
        link.emit("ready", info=info)
        news, presence = News(transport.registry), Presence(config.path, store.fd)
        # A backend has no user of its own that could make it busy: the daemon checks the blkdevs before it says stop.
        while link.wait(look_s(transport.info.lease_s)) is None:
            guard.check_lease()
            presence.check()
            if pooled:
                pooled.follow()
            if not news.any():
                continue
            if handlers.follow():
                link.emit("info", info={"channels": handlers.describe()})
            if refused := handlers.newly_refused():
                what = f"refused {refused} request(s) that no honest blkdev makes; it serves {handlers.users()}"
                print(f"backend {config.id}: {what}", file=sys.stderr)
    finally:
        handlers.close()


def _engine_conf(config: Config, store: Store, transport: Attached, entry: BackendEntry) -> BackendConf:
    # What is read at once goes straight into the shared memory, where the kernel can do that.
    inline = store.in_memory and config.transport.kind != "window"
    return BackendConf(
        fd=store.fd,
        is_block=store.is_block,
        read_only=store.read_only,
        logical_block_size=entry.logical_block_size,
        capacity=entry.capacity,
        fence_off=fence_line_off(transport.registry, config.transport.host_id),
        host_epoch=config.transport.host_epoch,
        engine=ENGINE_INLINE if inline else ENGINE_AUTO,
        idle=idle_conf(),
    )


def _predecessor(config: Config, transport: Attached) -> BackendEntry | None:
    return lives.predecessor(transport.registry, config.transport.host_id, config.id, config.life, config.start)


def _publish(config: Config, store: Store, transport: Attached, guard: Guard) -> BackendEntry:
    """Raises `exists`, `busy` when the backend or this host's incarnation was lost while the medium was opened."""
    table = transport.registry.backends
    before = _predecessor(config, transport)
    capacity, block_size = same_device(config.path, store, before) if before else (store.capacity, store.block_size)
    epoch = table.next_epoch(config.id)
    entry = BackendEntry(
        state=State.RUNNING,
        id=config.id,
        epoch=epoch,
        host_id=config.transport.host_id,
        flags=store.flags,
        logical_block_size=block_size,
        capacity=capacity,
        path=config.path,
        physical_block_size=max(store.physical_block_size, block_size),
        discard_granularity=store.discard_granularity,
        host_epoch=config.transport.host_epoch,
        life=before.life if before else lives.new_life(),
    )
    guard.check_fence()
    table.write(entry)
    return entry


class News:
    """Whether it is worth to read all blkdevs: a host rang its bell, or nobody has looked for `RESCAN_S`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._hosts: list[int] = []
        self._bells: list[bytes] = []
        self._rescan_s = min(RESCAN_S, registry.info.lease_s / 4)  # the blkdevs' hosts are watched by that, too
        self._rescan_at = 0.0

    def any(self) -> bool:
        rescan = time.monotonic() >= self._rescan_at
        if rescan:
            self._hosts = list(self._registry.hosts.used())
            self._rescan_at = time.monotonic() + self._rescan_s
        bells, self._bells = self._bells, self._registry.bells(self._hosts)
        return rescan or bells != self._bells


class Handlers:
    """The running handlers, and the way from them to the wanted ones."""

    def __init__(self, transport: Attached, engine: Backend, entry: BackendEntry) -> None:
        self._transport = transport
        self._engine = engine
        self._entry = entry
        self._running: set[Handler] = set()
        self._given_up: set[Handler] = set()  # and still asked for: a new one would read those rings from their start
        self._liveness = Liveness(transport.info.lease_s)
        self._refused = 0

    def newly_refused(self) -> int:
        """Submissions out of bounds, of unknown kinds, or torn for good, since the last look."""
        before, self._refused = self._refused, int(self._engine.stats().bad_slots)
        return self._refused - before

    def follow(self) -> bool:
        """One look at the blkdevs; True when something changed."""
        registry = self._transport.registry
        if not registry.backends.still(self._entry):
            self._repair_entry()
        used, current = registry.blkdevs.used().values(), {handler.blkdev_id for handler in self._running}
        users = users_of(self._entry, used, current, self._is_gone)
        self._given_up = {handler for handler in self._given_up if self._is_asked_for(handler)}
        asked = wanted_handlers(self._entry, users, registry.lines, self._transport.info.geometry.channel_count)
        wanted = asked - self._given_up
        changed = wanted != self._running
        for handler in sorted(self._running - wanted, key=lambda h: h.channel):
            self._remove(handler)
        for handler in sorted(wanted - self._running, key=lambda h: h.channel):
            self._add(handler)
        return changed

    def _repair_entry(self) -> None:
        """One that nobody can read any more is ours still: who takes over fences this host first. Raises `corrupt` otherwise."""
        table, mine = self._transport.registry.backends, self._entry
        if not table.is_damaged(mine.id) or is_fenced(self._transport.registry, mine.host_id, mine.host_epoch):
            raise why_changed(self._transport.registry, table, mine)
        table.write(mine)
        print(f"backend {mine.id}: both copies of its entry were damaged and are written again", file=sys.stderr)

    def _is_gone(self, host_id: int, host_epoch: int) -> bool:
        """Fenced, or dead for a lease: its channels are given back. One that was only slow asks for others by itself."""
        registry = self._transport.registry
        if is_fenced(registry, host_id, host_epoch):
            return True
        now = registry.incarnation(host_id)
        self._liveness.observe(host_id, registry.heartbeat(host_id), host_epoch if now is None else now)
        return self._liveness.alive(host_id) is False

    def describe(self) -> list[dict[str, int]]:
        return [vars(handler) for handler in sorted(self._running, key=lambda h: h.channel)]

    def users(self) -> str:
        """For messages."""
        return ", ".join(f"blkdev {number}" for number in sorted({handler.blkdev_id for handler in self._running}))

    def close(self) -> None:
        """Stops all, then says so: a channel whose backend line says none has no handler any more."""
        self._engine.close()
        if self._transport.registry.backends.still(self._entry):
            for handler in self._running:
                self._say(handler, State.NONE)
        self._running = set()

    def _add(self, handler: Handler) -> None:
        flags = CHANNEL_READ_ONLY if handler.read_only else 0
        try:
            self._engine.add(self._transport.channel_conf(handler.channel, handler.epoch, flags))
        except DatapathError as error:
            print(f"backend {self._entry.id}: {error}", file=sys.stderr)  # the blkdev times out; the next look tries again
            return
        self._running.add(handler)
        self._say(handler, State.RUNNING)

    def _remove(self, handler: Handler) -> None:
        self._engine.remove(self._transport.info.geometry.channel_off(handler.channel))
        self._running.remove(handler)
        if self._is_asked_for(handler):
            self._given_up.add(handler)
        self._say(handler, State.NONE)

    def _is_asked_for(self, handler: Handler) -> bool:
        """Whether its blkdev has not taken its word back, however dead its host seems."""
        line = self._transport.registry.lines(handler.channel).blkdev
        asked = (State.RUNNING, handler.epoch, handler.blkdev_id)
        return line is not None and (line.state, line.epoch, line.blkdev_id) == asked

    def _say(self, handler: Handler, state: State) -> None:
        mine = self._entry
        line = ControlLine(state, handler.epoch, handler.blkdev_id, mine.id, handler.queue, mine.host_id, mine.host_epoch)
        self._transport.registry.write_backend_line(handler.channel, line)
