# SPDX-License-Identifier: GPL-3.0-or-later
"""A backend: publishes its entry, then runs a C handler on each channel that its blkdev asks for."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from ..cbd.channels import Handler, user_of, wanted_handlers
from ..cbd.layout import BackendEntry, State
from ..cbd.lines import ControlLine
from ..core import Backend, BackendConf, IdleConf
from ..errors import Code, DatapathError
from ..names import check_path
from .attach import Attached, TransportRef, attach_worker
from .link import Link
from .lock import hold
from .store import Store, open_store

POLL_S = 0.1
RESCAN_EVERY = 10  # polls; a bell that was missed is made good within a second


@dataclass(frozen=True)
class Config:
    transport: TransportRef
    id: int
    path: str
    read_only: bool

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Config:
        return cls(
            TransportRef.from_json(raw["transport"]), int(raw["id"]), check_path("backend", raw["path"]), bool(raw["read_only"])
        )


def run(link: Link) -> None:
    config = Config.from_json(link.config())
    hold(link, config.transport.lock_file("backend", config.id), f"backend {config.id}")
    store = open_store(config.path, config.read_only)
    try:
        _serve(link, config, store, attach_worker(config.transport))
    finally:
        os.close(store.fd)


def _serve(link: Link, config: Config, store: Store, transport: Attached) -> None:
    entry = _publish(config, store, transport)
    link.emit("bell")
    conf = BackendConf(store.fd, store.is_block, store.read_only, store.block_size, store.capacity, IdleConf(0, 0))
    engine = Backend(transport.mapping.mem, conf)
    handlers = Handlers(transport, engine, entry)
    try:
        link.emit(
            "ready",
            info={
                "capacity": store.capacity,
                "logical_block_size": store.block_size,
                "direct": store.direct,
                "epoch": entry.epoch,
            },
        )
        bells: list[bytes] = []
        polls = 0
        # A backend has no user of its own that could make it busy: the daemon checks the blkdevs before it says stop.
        while link.wait(POLL_S) is None:
            now = transport.registry.bells()
            polls += 1
            if now != bells or polls % RESCAN_EVERY == 0:
                bells = now
                if handlers.follow():
                    link.emit("info", info={"channels": handlers.describe()})
    finally:
        handlers.close()


def _publish(config: Config, store: Store, transport: Attached) -> BackendEntry:
    table = transport.registry.backends
    host_id = config.transport.host_id
    before = table.read(config.id)
    if before is not None and before.state != State.NONE and before.host_id != host_id:
        owner = transport.registry.host_name(before.host_id)
        raise DatapathError(Code.EXISTS, f"backend {config.id}", f"belongs to host {owner}", "choose another id")
    entry = BackendEntry(
        state=State.RUNNING,
        id=config.id,
        epoch=table.next_epoch(config.id),
        host_id=host_id,
        flags=store.flags,
        logical_block_size=store.block_size,
        capacity=store.capacity,
        path=config.path,
    )
    table.write(entry)
    return entry


class Handlers:
    """The running handlers, and the way from them to the wanted ones."""

    def __init__(self, transport: Attached, engine: Backend, entry: BackendEntry) -> None:
        self._transport = transport
        self._engine = engine
        self._entry = entry
        self._running: set[Handler] = set()
        self._user: int | None = None

    def follow(self) -> bool:
        """One look at the blkdevs; True when something changed."""
        registry = self._transport.registry
        if not registry.backends.still(self._entry):
            hint = "look at: cxl-datapath cbd backend list"
            raise DatapathError(Code.CORRUPT, f"backend {self._entry.id}", "its entry was changed by somebody else", hint)
        user = user_of(self._entry, registry.blkdevs.used().values(), self._user)
        self._user = user.id if user else None
        wanted = wanted_handlers(self._entry, user, registry.lines, self._transport.info.geometry.channel_count)
        changed = wanted != self._running
        for handler in sorted(self._running - wanted, key=lambda h: h.channel):
            self._remove(handler)
        for handler in sorted(wanted - self._running, key=lambda h: h.channel):
            self._add(handler)
        return changed

    def describe(self) -> list[dict[str, int]]:
        return [vars(handler) for handler in sorted(self._running, key=lambda h: h.channel)]

    def close(self) -> None:
        """Stops all, then says so: a channel whose backend line says none has no handler any more."""
        self._engine.close()
        if self._transport.registry.backends.still(self._entry):
            for handler in self._running:
                self._say(handler, State.NONE)
        self._running = set()

    def _add(self, handler: Handler) -> None:
        try:
            self._engine.add(self._transport.channel_conf(handler.channel, handler.epoch))
        except DatapathError as error:
            print(f"backend {self._entry.id}: {error}", file=sys.stderr)  # the blkdev times out; the next look tries again
            return
        self._running.add(handler)
        self._say(handler, State.RUNNING)

    def _remove(self, handler: Handler) -> None:
        self._engine.remove(self._transport.info.geometry.channel_off(handler.channel))
        self._running.remove(handler)
        self._say(handler, State.NONE)

    def _say(self, handler: Handler, state: State) -> None:
        line = ControlLine(state, handler.epoch, handler.blkdev_id, self._entry.id, handler.queue, self._entry.host_id)
        self._transport.registry.write_backend_line(handler.channel, line)
