# SPDX-License-Identifier: GPL-3.0-or-later
"""A volume of a pool as a block device of this host, or as its swap: a front end on private channels to the pool's process.

When the pool's process dies the requests wait, and are sent again to its successor; after `PATIENCE_S` they fail.
"""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DatapathError
from ..frontends import FrontEnd, Target, choose
from ..frontends.nbdkit import pid_file
from ..kmem_blk.attached import AttachedVolume
from ..kmem_blk.client import PoolClient
from ..kmem_blk.layout import PAGE
from ..kmem_blk.swap import PRIORITY_MAX, hold_memory, never_wait_for_swap, small_stacks, switch_off, switch_on
from ..kmem_blk.wire import pool_socket
from ..names import check_blkdev_name, check_name
from .blkdev import GRACE_S, stopped
from .link import Command, Link
from .lock import hold

POLL_S = 0.2
PATIENCE_S = 120.0
RETURN_S = 5.0  # between two looks whether recalled swap may come back


@dataclass(frozen=True)
class Config:
    pool: str
    name: str
    frontend: str
    queues: int
    swap_blocks: int  # 0: the block volume
    priority: int
    runtime: Path
    dev: Path

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Config:
        return cls(
            check_name("pool", raw["pool"]),
            check_blkdev_name("volume", raw["name"]),
            str(raw["frontend"]),
            int(raw["queues"]),
            int(raw["swap_blocks"]),
            min(int(raw["priority"]), PRIORITY_MAX),
            Path(raw["runtime"]),
            Path(raw["dev"]),
        )


def run(link: Link) -> None:
    config = Config.from_json(link.config())
    lock = hold(
        link, config.runtime / f"volume-{config.name}.lock", f"volume {config.name}", pid_file(config.runtime, config.name)
    )
    kind_name, kind = choose(config.frontend)
    if config.swap_blocks:
        small_stacks()
        never_wait_for_swap()
        with PoolClient(pool_socket(config.runtime, config.pool)) as client:
            client.call("swap_make", blocks=config.swap_blocks)
    which = "swap" if config.swap_blocks else "blocks"
    volume = AttachedVolume(config.runtime, config.pool, which, config.queues, config.runtime / f"{config.name}.channels")
    try:
        frontend = kind(_target(config, volume, lock))
        device = frontend.start()
        try:
            Served(link, config, volume, frontend, device=device, kind=kind_name).serve()
        except BaseException:
            frontend.abort()
            raise
    finally:
        volume.close()


def _target(config: Config, volume: AttachedVolume, lock: int) -> Target:
    return Target(
        name=config.name,
        mapping=volume.mapping,
        queues=tuple(volume.confs()),
        capacity=volume.capacity,
        block_size=volume.block_size,
        physical_block_size=PAGE,
        read_only=False,
        discard=True,
        discard_granularity=PAGE,
        write_zeroes=True,
        runtime=config.runtime,
        lock=lock,
        dev=config.dev,
    )


def _has_room(status: dict[str, Any], blocks: int) -> bool:
    """Whether half of a swap of so many blocks has room beside the reserve, or half of all that there is for both."""
    available, reserve = int(status["pages"]["available"]), int(status["pages"]["reserve"])
    lasting = sum(int(each["pages"]) for each in status["ranges"] if not each["volatile"])
    return available >= reserve + min(blocks, lasting - reserve) // 2


class Served:
    """The started device, until it is removed."""

    def __init__(self, link: Link, config: Config, volume: AttachedVolume, frontend: FrontEnd, *, device: str, kind: str) -> None:
        self._link, self._config, self._volume, self._frontend = link, config, volume, frontend
        self._device = Path(device)
        self._info: dict[str, Any] = {"device": device, "frontend": kind, "capacity": volume.capacity}
        self._away_since: float | None = None
        self._offline = False
        self._recalled_at: float | None = None
        self._cleared = False  # its pages were given back since then
        self._asked = 0  # how often they were

    def serve(self) -> None:
        if self._config.swap_blocks:
            hold_memory()
            switch_on(self._device, self._config.name, self._config.priority)
        self._link.emit("ready", info=self._info)
        deadline: float | None = None
        while True:
            command = self._link.wait(POLL_S)
            if command is Command.ABANDONED:
                self._frontend.abort()
                return
            if command is Command.QUIT and deadline is None:
                deadline = time.monotonic() + GRACE_S
            if command in (Command.STOP, Command.QUIT) and self._removed(command, deadline):
                return
            self._frontend.check()
            self._follow_pool()

    def _removed(self, command: Command, deadline: float | None) -> bool:
        """Swap is switched off before its device goes, whoever asks."""
        if self._config.swap_blocks:
            try:
                switch_off(self._device)
            except DatapathError as error:
                if command is Command.STOP:
                    self._link.emit("busy", error=error.to_json())
                    return False
                print(f"{error}; its device waits for the next start", file=sys.stderr)
                raise
        return stopped(self._link, command, deadline, self._frontend)

    def _follow_pool(self) -> None:
        events = self._volume.events()
        if events is None:
            self._come_back()
            return
        if any(event.get("volume") == "swap" for event in events) and self._recalled_at is None:
            self._give_back()
        elif self._recalled_at is not None and time.monotonic() > self._recalled_at + RETURN_S:
            self._take_again()

    def _come_back(self) -> None:
        now = time.monotonic()
        self._away_since = self._away_since or now
        try:
            confs = self._volume.attach_again()
        except DatapathError as error:
            if not self._offline and now > self._away_since + PATIENCE_S:
                self._frontend.set_offline(errno.EIO)
                self._offline = True
                self._tell(path_state="offline", path_reason=str(error))
            return
        self._frontend.rebind(confs)
        self._away_since, self._offline = None, False
        self._tell(path_state="running", path_reason="")

    def _give_back(self) -> None:
        """Blocks want the pages that swap has, or a memory that leaves. What does not fit into memory stays."""
        self._asked += 1
        try:
            switch_off(self._device)
        except DatapathError as error:
            self._tell(asked=self._asked, swap="on", swap_reason=str(error))
            return
        self._recalled_at, self._cleared = time.monotonic(), False
        with contextlib.suppress(DatapathError):
            self._clear()
        self._tell(asked=self._asked, swap="recalled", swap_reason="")

    def _clear(self) -> None:
        """Once it is off nobody misses its pages. Raises what keeps the pool from taking them."""
        if not self._cleared:
            self._volume.call("swap_clear")
            self._cleared = True

    def _take_again(self) -> None:
        """Once there is room for it again."""
        self._recalled_at = time.monotonic()
        try:
            self._clear()
            status = self._volume.call("status")
        except DatapathError:
            return  # the pool is away, or busy: later
        if _has_room(status, self._config.swap_blocks):
            switch_on(self._device, self._config.name, self._config.priority)
            self._recalled_at = None
            self._tell(swap="on")

    def _tell(self, **info: Any) -> None:
        self._link.emit("info", info=info)
