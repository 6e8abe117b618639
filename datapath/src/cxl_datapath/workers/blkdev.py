# SPDX-License-Identifier: GPL-3.0-or-later
"""A blkdev: starts its channels, waits for the backend's answers, then shows a block device through a front end.

When the daemon stops while the device is in use, the worker serves it for `GRACE_S` more, for users that go by themselves (a
service manager unmounts at the same time), then ends, because nothing outlives the daemon; when the daemon was killed it ends at
once. What the users see then is the front end's matter: with ublk they wait for the daemon's next start and go on, with NBD they
see I/O errors.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cbd.layout import BACKEND_DISCARD, BACKEND_READ_ONLY, BACKEND_WRITE_ZEROES, BackendEntry, BlkdevEntry, State
from ..cbd.lines import ControlLine
from ..errors import Code, DatapathError
from ..frontends import FrontEnd, Target, choose
from ..frontends.nbdkit import pid_file
from ..names import check_blkdev_name
from .attach import Attached, TransportRef, attach_worker
from .link import Command, Link
from .lock import hold

ANSWER_S = 5.0
GRACE_S = 5.0
POLL_S = 0.2


@dataclass(frozen=True)
class Config:
    transport: TransportRef
    id: int
    backend: int
    name: str
    frontend: str
    channels: tuple[int, ...]  # one per queue, chosen by the daemon, which knows of its other workers
    dev: Path

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Config:
        return cls(
            TransportRef.from_json(raw["transport"]),
            int(raw["id"]),
            int(raw["backend"]),
            check_blkdev_name("blkdev", raw["name"]),
            str(raw["frontend"]),
            tuple(int(channel) for channel in raw["channels"]),
            Path(raw["dev"]),
        )


def run(link: Link) -> None:
    config = Config.from_json(link.config())
    lock_file = config.transport.lock_file("blkdev", config.id)
    lock = hold(link, lock_file, f"blkdev {config.id}", pid_file(Path(config.transport.runtime), config.name))
    transport = attach_worker(config.transport)
    kind_name, kind = choose(config.frontend)
    channels = Channels(link, config, transport)
    try:
        channels.start()
        frontend = kind(_target(config, transport, channels, lock))
        device = frontend.start()
        try:
            info = {"device": device, "frontend": kind_name, "capacity": channels.backend.capacity, "epoch": channels.entry.epoch}
            link.emit("ready", info=info)
            _serve(link, channels, frontend)
        except BaseException:
            frontend.abort()
            raise
    finally:
        channels.close()


def _target(config: Config, transport: Attached, channels: Channels, lock: int) -> Target:
    backend, entry = channels.backend, channels.entry
    return Target(
        name=config.name,
        transport=transport,
        channels=entry.channels,
        epochs=entry.channel_epochs,
        capacity=backend.capacity,
        block_size=backend.logical_block_size,
        read_only=bool(backend.flags & BACKEND_READ_ONLY),
        discard=bool(backend.flags & BACKEND_DISCARD),
        write_zeroes=bool(backend.flags & BACKEND_WRITE_ZEROES),
        runtime=Path(config.transport.runtime),
        lock=lock,
        dev=config.dev,
    )


def _serve(link: Link, channels: Channels, frontend: FrontEnd) -> None:
    """Returns when the device is removed."""
    deadline: float | None = None
    while True:
        command = link.wait(POLL_S)
        if command is Command.ABANDONED:
            frontend.abort()
            return
        if command is Command.QUIT and deadline is None:
            deadline = time.monotonic() + GRACE_S
        if command is not None:
            try:
                frontend.stop()
                return
            except DatapathError as error:
                if command is Command.STOP:
                    link.emit("busy", error=error.to_json())
                elif deadline is not None and time.monotonic() >= deadline:
                    print(f"{error}; giving it up after {GRACE_S:.0f} s", file=sys.stderr)
                    raise
                else:
                    time.sleep(POLL_S)
        else:
            frontend.check()
            channels.check()


class Channels:
    """The channels of this blkdev: published, answered, given back."""

    def __init__(self, link: Link, config: Config, transport: Attached) -> None:
        self._link = link
        self._config = config
        self._registry = transport.registry
        self.backend = self._find_backend()
        table = self._registry.blkdevs
        before = table.read(config.id)
        host_id = config.transport.host_id
        if before is not None and before.state != State.NONE and before.host_id != host_id:
            owner = self._registry.host_name(before.host_id)
            raise DatapathError(
                Code.EXISTS, f"blkdev {config.id}", f"belongs to host {owner}", "stop it there, or start a new one"
            )
        epochs = tuple(self._registry.next_channel_epoch(channel) for channel in config.channels)
        self.entry = BlkdevEntry(
            state=State.RUNNING,
            id=config.id,
            epoch=table.next_epoch(config.id),
            host_id=host_id,
            backend_id=config.backend,
            backend_epoch=self.backend.epoch,
            flags=0,
            channels=config.channels,
            channel_epochs=epochs,
        )

    def start(self) -> None:
        """Lines first, then the entry, so that a backend that sees the entry sees the lines."""
        self._say(State.RUNNING)
        self._registry.blkdevs.write(self.entry)
        self._link.emit("bell")
        deadline = time.monotonic() + ANSWER_S
        while (silent := self._unanswered()) is not None:
            if self._link.wait(0.005) is not None:
                raise DatapathError(Code.FAILED, self._what, "stopped before the backend answered")
            if time.monotonic() > deadline:
                raise self._no_answer(silent)

    def check(self) -> None:
        """Raises when the backend is another one now: the channels are dead, a new start gets new ones."""
        now = self._read_backend()
        if now is None or now.state != State.RUNNING or now.epoch != self.backend.epoch:
            seen = (
                "gone" if now is None or now.state != State.RUNNING else f"at epoch {now.epoch}, it was at {self.backend.epoch}"
            )
            raise DatapathError(Code.NOT_READY, self._what, f"backend {self.backend.id} is {seen}", "start the backend again")
        if not self._registry.blkdevs.still(self.entry):
            raise DatapathError(
                Code.CORRUPT, self._what, "its entry was changed by somebody else", "look at: cxl-datapath cbd blkdev list"
            )

        for channel, line in self._lines(State.RUNNING):
            if self._registry.lines(channel).blkdev != line:
                what = f"its line on channel {channel} was changed by somebody else"
                raise DatapathError(Code.CORRUPT, self._what, what, "look at: cxl-datapath cbd blkdev list")

    def close(self) -> None:
        """The entry stays: it keeps the id and the backend for this host until the daemon clears it."""
        if self._registry.blkdevs.still(self.entry):
            self._say(State.NONE)
            self._link.emit("bell")

    @property
    def _what(self) -> str:
        return f"blkdev {self._config.id}"

    def _find_backend(self) -> BackendEntry:
        found = self._registry.backends.read(self._config.backend)
        if found is None or found.state != State.RUNNING:
            raise DatapathError(Code.NOT_READY, f"backend {self._config.backend}", "is not running", "start it on its host first")
        return found

    def _read_backend(self) -> BackendEntry | None:
        return self._registry.backends.read(self._config.backend)

    def _lines(self, state: State) -> list[tuple[int, ControlLine]]:
        e = self.entry
        pairs = zip(e.channels, e.channel_epochs, strict=True)
        return [(c, ControlLine(state, epoch, e.id, e.backend_id, queue, e.host_id)) for queue, (c, epoch) in enumerate(pairs)]

    def _say(self, state: State) -> None:
        for channel, line in self._lines(state):
            self._registry.write_blkdev_line(channel, line)

    def _unanswered(self) -> int | None:
        """The first channel without the backend's answer."""
        for queue, (channel, epoch) in enumerate(zip(self.entry.channels, self.entry.channel_epochs, strict=True)):
            answer = ControlLine(State.RUNNING, epoch, self.entry.id, self.backend.id, queue, self.backend.host_id)
            if self._registry.lines(channel).backend != answer:
                return channel
        return None

    def _no_answer(self, channel: int) -> DatapathError:
        line = self._registry.lines(channel).backend
        seen = f"its line says state {line.state.name.lower()}, epoch {line.epoch}" if line else "it has no valid line"
        owner = self._registry.host_name(self.backend.host_id)
        return DatapathError(
            Code.TIMEOUT,
            f"backend {self.backend.id} on host {owner}",
            f"did not answer on channel {channel} within {ANSWER_S:.0f} s ({seen})",
            f"look at: cxl-datapath status, on {owner}",
        )
