# SPDX-License-Identifier: GPL-3.0-or-later
"""The block volume of a pool of this host as the medium of a backend: `kmem_blk:<pool>` in place of a path."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..core import Backend, BackendConf, CxlMem
from ..errors import DatapathError
from ..kmem_blk.attached import AttachedVolume
from ..kmem_blk.pages import Relay, VolumeBackend
from ..names import pool_of
from .store import Store

QUEUES = 4  # channels to the pool, shared by all handlers


class PoolMedium:
    """Attached to the pool. While the pool's process is away, requests wait for its successor."""

    def __init__(self, runtime: Path, pool: str, name: str) -> None:
        self._volume = AttachedVolume(runtime, pool, "blocks", QUEUES, runtime / f"{name}-{pool}.channels")
        self._relay = Relay(self._volume.mapping.mem, self._volume.confs())

    @classmethod
    def of(cls, path: str, runtime: Path, name: str) -> PoolMedium | None:
        """None when the path names no pool."""
        pool = pool_of(path)
        return cls(runtime, pool, name) if pool else None

    def store(self, read_only: bool) -> Store:
        """What a backend publishes of it; there is no descriptor."""
        size = self._volume.block_size
        writable = not read_only
        granularity = size if writable else 0
        shape = (size, self._volume.capacity, writable, writable, size, granularity)
        return Store(-1, False, read_only, True, *shape, in_memory=False)  # it may wait for pages, or for the pool

    def backend(self, mem: CxlMem, conf: BackendConf) -> Backend:
        return VolumeBackend(mem, conf, self._relay)

    def follow(self) -> None:
        """One look whether the pool is still there; attaches to its successor."""
        if self._volume.events() is None:
            with contextlib.suppress(DatapathError):
                self._relay.rebind(self._volume.attach_again())

    def close(self) -> None:
        self._volume.close()
