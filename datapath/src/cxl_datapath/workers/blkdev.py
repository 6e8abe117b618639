# SPDX-License-Identifier: GPL-3.0-or-later
"""A blkdev: a block device of this host, shown by a front end, over a route to its backend.

When the daemon stops while the device is in use, the worker serves it for `GRACE_S` more, for users that go by themselves (a
service manager unmounts at the same time), then ends, because nothing outlives the daemon; when the daemon was killed it ends at
once. What the users see then is the front end's matter: with ublk they wait for the daemon's next start and go on, with NBD they
see I/O errors.
"""

from __future__ import annotations

import errno
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cbd.layout import BACKEND_DISCARD, BACKEND_READ_ONLY, BACKEND_WRITE_ZEROES, BLKDEV_READ_ONLY
from ..cbd.liveness import period_s
from ..errors import Code, DatapathError
from ..frontends import FrontEnd, Target, choose
from ..frontends.nbdkit import pid_file
from ..names import check_blkdev_name
from .attach import Attached, TransportRef, attach_worker
from .guard import Guard
from .link import Command, Link
from .lock import hold
from .route import POLL_FAST_S, Route

GRACE_S = 5.0
STOP_RETRY_S = 0.2


@dataclass(frozen=True)
class Config:
    transport: TransportRef
    id: int
    epoch: int  # of the entry that the daemon wrote
    resume: bool  # the device was there before: its users may be waiting
    name: str
    frontend: str
    io_timeout: int  # seconds
    dev: Path

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Config:
        return cls(
            TransportRef.from_json(raw["transport"]),
            int(raw["id"]),
            int(raw["epoch"]),
            bool(raw["resume"]),
            check_blkdev_name("blkdev", raw["name"]),
            str(raw["frontend"]),
            int(raw["io_timeout"]),
            Path(raw["dev"]),
        )


def run(link: Link) -> None:
    config = Config.from_json(link.config())
    lock_file = config.transport.lock_file("blkdev", config.id)
    lock = hold(link, lock_file, f"blkdev {config.id}", pid_file(Path(config.transport.runtime), config.name))
    transport = attach_worker(config.transport)
    guard = Guard(transport)
    guard.check_fence()
    kind_name, kind = choose(config.frontend)
    route = Route(link, transport, config.id, config.epoch)
    try:
        route.publish()
        _wait_answered(config, route, kind(_target(config, transport, route, lock)).kept())
        frontend = kind(_target(config, transport, route, lock))  # on the channels that are served now
        device = frontend.start()
        try:
            link.emit("ready", info=_info(route, device, kind_name))
            _serve(link, config, guard, route, frontend)
        except BaseException:
            frontend.abort()
            raise
    finally:
        route.close()


def _wait_answered(config: Config, route: Route, kept: bool) -> None:
    """A new device is not shown before its backend serves it. One that has users is: they wait no longer than the I/O timeout."""
    try:
        route.wait_answered()
    except DatapathError as error:
        if error.code != Code.TIMEOUT or not (config.resume and kept):
            raise
        route.pause()


def _info(route: Route, device: str, frontend: str) -> dict[str, Any]:
    return {"device": device, "frontend": frontend, "capacity": route.backend.capacity} | route.describe()


def _target(config: Config, transport: Attached, route: Route, lock: int) -> Target:
    backend, entry = route.backend, route.entry
    return Target(
        name=config.name,
        mapping=transport.mapping,
        queues=tuple(transport.queue_conf(*pair) for pair in zip(entry.channels, entry.channel_epochs, strict=True)),
        capacity=backend.capacity,
        block_size=backend.logical_block_size,
        physical_block_size=backend.physical_block_size,
        read_only=bool(backend.flags & BACKEND_READ_ONLY or entry.flags & BLKDEV_READ_ONLY),
        discard=bool(backend.flags & BACKEND_DISCARD),
        discard_granularity=backend.discard_granularity,
        write_zeroes=bool(backend.flags & BACKEND_WRITE_ZEROES),
        runtime=Path(config.transport.runtime),
        lock=lock,
        dev=config.dev,
    )


def _serve(link: Link, config: Config, guard: Guard, route: Route, frontend: FrontEnd) -> None:
    """Returns when the device is removed."""
    deadline: float | None = None
    patience = period_s(route.lease_s)  # what its backend's host says changes no more often
    hurry = False
    while True:
        command = link.wait(POLL_FAST_S if hurry else patience)
        if command is Command.ABANDONED:
            frontend.abort()
            return
        if command is Command.ANSWER:
            route.answered(link.answer)
            command = None
        if command is Command.QUIT and deadline is None:
            deadline = time.monotonic() + GRACE_S
        if command is not None and stopped(link, command, deadline, frontend):
            return
        _check(guard, route, frontend)
        hurry = route.step(frontend, config.io_timeout)


def stopped(link: Link, command: Command, deadline: float | None, frontend: FrontEnd) -> bool:
    """Whether the device could be removed. Raises when the grace of a daemon that ends is over."""
    try:
        frontend.stop()
        return True
    except DatapathError as error:
        if command is Command.STOP:
            link.emit("busy", error=error.to_json())
        elif deadline is not None and time.monotonic() >= deadline:
            print(f"{error}; giving it up after {GRACE_S:.0f} s", file=sys.stderr)
            raise
        else:
            time.sleep(STOP_RETRY_S)
        return False


def _check(guard: Guard, route: Route, frontend: FrontEnd) -> None:
    frontend.check()
    try:
        guard.check_fence()
    except DatapathError:
        # Another host may write the backend by now: nothing of ours may reach it any more, so our users have to know.
        frontend.set_offline(errno.EIO)
        raise
    route.check()
