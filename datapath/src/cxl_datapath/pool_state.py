# SPDX-License-Identifier: GPL-3.0-or-later
"""The desired state of the kmem_blk pools of this host: `<state>/pools.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .kmem_blk.swap import PRIORITY_MAX
from .memory import check_spec
from .names import check_blkdev_name, check_name
from .schema import integer
from .state import FRONTEND, QUEUES, ObjectFile

VERSION = 1
RECALL_MS_DEFAULT = 5000

# What the methods take, and so what a state file may hold.
PAGES = integer(0, (1 << 32) - 1)
PRIORITY = integer(0, PRIORITY_MAX)
RECALL_MS = integer(0, 60000)


@dataclass
class VolumeState:
    """The block volume as a device of this host."""

    name: str
    frontend: str
    queues: int

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        return cls(
            check_blkdev_name("volume", raw["name"]), FRONTEND("frontend", raw["frontend"]), QUEUES("queues", raw["queues"])
        )


@dataclass
class SwapState:
    name: str  # of its device
    blocks: int
    priority: int

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        return cls(check_blkdev_name("swap", raw["name"]), PAGES("blocks", raw["blocks"]), PRIORITY("priority", raw["priority"]))


@dataclass
class PoolState:
    name: str
    uuid: str
    memories: list[str]  # as the user named them; the first one carries the superblock
    reserve: int  # pages
    lease_limit: int  # pages per process
    lease_group: str | None
    recall_ms: int
    volume: VolumeState | None = None
    swap: SwapState | None = None

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        memories = [check_spec(each) for each in raw["memories"]]
        if not memories:
            raise ValueError("a pool without memory")
        if len(set(memories)) < len(memories):
            raise ValueError("a memory is in the pool twice")
        return cls(
            check_name("pool", raw["name"]),
            check_name("uuid", raw["uuid"]),
            memories,
            PAGES("reserve", raw["reserve"]),
            PAGES("lease_limit", raw["lease_limit"]),
            None if raw["lease_group"] is None else check_name("group", raw["lease_group"]),
            RECALL_MS("recall_ms", raw["recall_ms"]),
            None if raw["volume"] is None else VolumeState.from_json(raw["volume"]),
            None if raw["swap"] is None else SwapState.from_json(raw["swap"]),
        )


class PoolFile(ObjectFile[PoolState]):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "pools.json", VERSION, "pools", PoolState.from_json)
