# SPDX-License-Identifier: GPL-3.0-or-later
"""A pool: the one process that allocates its pages, behind the pool socket."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backing import looked_at
from ..errors import Code, DatapathError
from ..kmem_blk.format import read_superblock
from ..kmem_blk.leases import Leases
from ..kmem_blk.pool import Pool
from ..kmem_blk.server import PoolServer
from ..kmem_blk.swap import small_stacks
from ..kmem_blk.wire import pool_socket
from ..memory import Memory
from ..names import check_name
from ..peers import group_id
from .link import Command, Link
from .lock import hold

POLL_S = 1.0
RECALL_PART = 0.5  # of the time that a write waits: what is left then is taken


@dataclass(frozen=True)
class Config:
    name: str
    uuid: str
    memories: list[Memory]
    reserve: int  # pages
    lease_limit: int  # pages per process
    recall_ms: int
    group: str | None  # may lease
    runtime: Path

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Config:
        return cls(
            check_name("pool", raw["name"]),
            check_name("uuid", raw["uuid"]),
            [Memory.from_json(each) for each in raw["memories"]],
            int(raw["reserve"]),
            int(raw["lease_limit"]),
            int(raw["recall_ms"]),
            raw["group"],
            Path(raw["runtime"]),
        )


def _check_same(config: Config) -> None:
    """Before anything is written: another pool of that name is another one."""
    memory = config.memories[0]
    with looked_at(memory) as seen:
        found = read_superblock(seen, memory.spec)
    if (found.name, str(found.uuid)) != (config.name, config.uuid):
        what = f"holds pool {found.name} ({found.uuid}) now, not {config.name} ({config.uuid})"
        raise DatapathError(Code.CORRUPT, memory.spec, what, "it was formatted again: stop the pool and start it")


def run(link: Link) -> None:
    small_stacks()
    config = Config.from_json(link.config())
    hold(link, config.runtime / f"pool-{config.name}.lock", f"pool {config.name}")
    _check_same(config)
    event_fd = os.eventfd(0, os.EFD_CLOEXEC)
    pool = Pool(config.memories, config.reserve, config.recall_ms, event_fd, config.runtime)
    for note in pool.notes:
        print(f"pool {pool.name}: {note}", file=sys.stderr)
    leases = Leases(pool, config.lease_limit)
    leases.adopt_mapped()
    recall_s = config.recall_ms / 1000 * RECALL_PART
    where, group = pool_socket(config.runtime, pool.name), group_id(config.group)
    server = PoolServer(pool, leases, where, group=group, recall_s=recall_s, event_fd=event_fd)
    server.start()
    try:
        link.emit("ready", info={"uuid": str(pool.superblock.uuid), "notes": pool.notes})
        while True:
            command = link.wait(POLL_S)
            if command is Command.STOP and (users := server.users()):
                what = f"is used by {', '.join(users)}"
                link.emit("busy", error=DatapathError(Code.BUSY, f"pool {pool.name}", what, "stop them first").to_json())
            elif command is not None:
                return
            server.reap()
    finally:
        server.close()
