# SPDX-License-Identifier: GPL-3.0-or-later
"""A wanted pool of this host: the worker that has it, and those of its block device and its swap."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from .errors import Code, DatapathError
from .kmem_blk.client import TIMEOUT_S, PoolClient
from .kmem_blk.volatile import is_of_this_boot
from .kmem_blk.wire import pool_socket
from .memory import Memory
from .pool_state import PoolState
from .session import Settings
from .supervisor import Supervised

Row = dict[str, Any]
LOOK_S = 5.0  # a pool that moves blocks answers later; its row says so
VOLATILE_PATIENCE_S = 30.0  # for extents that are accepted while the host starts

log = logging.getLogger(__name__)


class PoolSession:
    """`memory` tells where the memory of a name is now."""

    def __init__(self, desired: PoolState, settings: Settings, memory: Callable[[str], Awaitable[Memory]]) -> None:
        self.desired = desired
        self.settings = settings
        self._memory = memory
        self._missing_since: float | None = None
        self.worker = Supervised("pool", f"pool {desired.name}", self._configure, lambda: None)
        self.volume = self.device_worker(swap=False) if desired.volume else None
        self.swap = self.device_worker(swap=True) if desired.swap else None

    @property
    def name(self) -> str:
        return self.desired.name

    async def _configure(self) -> Row:
        want = self.desired
        limits = {"reserve": want.reserve, "lease_limit": want.lease_limit, "recall_ms": want.recall_ms}
        where = {"group": want.lease_group, "runtime": str(self.settings.runtime)}
        memories = [memory.to_json() for memory in await self._memories()]
        return {"name": want.name, "uuid": want.uuid, "memories": memories} | limits | where

    async def _memories(self) -> list[Memory]:
        first, *others = self.desired.memories
        found, missing = [await self._memory(first)], []
        for spec in others:
            try:
                found.append(await self._memory(spec))
            except DatapathError as error:
                if not self._may_go_without(spec):
                    raise
                missing.append(f"{spec} ({error.message})")
        if missing:
            log.warning("pool %s: goes on without %s", self.name, ", ".join(missing))
        self._missing_since = None
        return found

    def _may_go_without(self, spec: str) -> bool:
        """Blocks do not wait for ever for volatile memory that is not there after a boot: nothing of value was in it."""
        if not spec.startswith("dcd:") or is_of_this_boot(self.settings.runtime, self.name):
            return False
        self._missing_since = self._missing_since or time.monotonic()
        return time.monotonic() - self._missing_since >= VOLATILE_PATIENCE_S

    def device_worker(self, swap: bool) -> Supervised:
        """For what the desired state says at each start."""

        async def configure() -> Row:
            where = {"pool": self.name, "runtime": str(self.settings.runtime), "dev": str(self.settings.dev)}
            if swap:
                wanted = self.desired.swap
                assert wanted is not None
                shape: Row = {"frontend": "ublk", "queues": 1, "swap_blocks": wanted.blocks, "priority": wanted.priority}
                return where | shape | {"name": wanted.name}
            volume = self.desired.volume
            assert volume is not None
            shape = {"frontend": volume.frontend, "queues": volume.queues, "swap_blocks": 0, "priority": 0}
            return where | shape | {"name": volume.name}

        return Supervised("volume", f"pool {self.name} {'swap' if swap else 'volume'}", configure, lambda: None)

    def keep_workers(self) -> None:
        for worker in (self.worker, self.volume, self.swap):
            if worker is not None:
                worker.keep()

    async def call(self, op: str, **params: Any) -> Any:
        """Asks the pool's process. Raises what it says, `not_found` when it does not run."""

        return await asyncio.to_thread(self._ask, TIMEOUT_S, op, params)

    def _ask(self, timeout: float, op: str, params: Row) -> Any:
        with PoolClient(pool_socket(self.settings.runtime, self.name), timeout) as client:
            return client.call(op, **params)

    async def view(self) -> Row:
        """The pool as it is; `state` is that of its worker, and numbers are there while that runs."""
        want = self.desired
        row: Row = {"name": self.name, "uuid": want.uuid, "memories": list(want.memories), "state": str(self.worker.phase)}
        row |= {"reason": self.worker.error.to_json() if self.worker.error else None}
        row |= {"reserve": want.reserve, "lease_limit": want.lease_limit, "lease_group": want.lease_group}
        row |= {"recall_ms": want.recall_ms}
        try:
            found = await asyncio.to_thread(self._ask, LOOK_S, "status", {})
        except DatapathError as error:
            found = {"problem": error.to_json()}
        row |= {key: value for key, value in found.items() if key not in row}
        row["volume"] = _device(want.volume, self.volume)
        row["swap"] = _device(want.swap, self.swap)
        return row

    async def close(self, patience: float = 0.0) -> None:
        """Devices first: they are users of the pool."""
        await asyncio.gather(*(worker.end(patience) for worker in (self.volume, self.swap) if worker is not None))
        await self.worker.end(patience)

    def need_running(self) -> None:
        if self.worker.phase != "running":
            why = f" ({self.worker.error})" if self.worker.error else ""
            hint = "the daemon keeps trying; see: cxl-datapath kmem-blk pool list"
            raise DatapathError(Code.NOT_READY, f"pool {self.name}", f"is not running yet{why}", hint)


def _device(want: Any, worker: Supervised | None) -> Row | None:
    return None if want is None or worker is None else {**vars(want), **worker.info, "worker": worker.to_json()}
