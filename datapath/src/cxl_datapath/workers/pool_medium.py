# SPDX-License-Identifier: GPL-3.0-or-later
"""The block volume of a pool of this host as the medium of a backend or a LUN: `kmem_blk:<pool>` in place of a path."""

from __future__ import annotations

import contextlib
from ctypes import byref, c_void_p
from pathlib import Path

from ..core import Backend, BackendConf, CxlMem, check
from ..cxlflash.engine import LunConf, LunEngine
from ..errors import DatapathError
from ..kmem_blk.attached import AttachedVolume
from ..kmem_blk.pages import Relay, VolumeBackend, kmb
from ..names import pool_of
from .store import Store

QUEUES = 4  # channels to the pool, shared by all handlers


class PoolMedium:
    """Attached to the pool. While the pool's process is away, requests wait for its successor."""

    def __init__(self, runtime: Path, pool: str, name: str, alone: bool) -> None:
        self._volume = AttachedVolume(runtime, pool, "blocks", QUEUES, runtime / f"{name}-{pool}.channels", alone=alone)
        self._relay = Relay(self._volume.mapping.mem, self._volume.confs())

    @classmethod
    def of(cls, path: str, runtime: Path, name: str, alone: bool = False) -> PoolMedium | None:
        """None when the path names no pool. `alone`: nobody else may have the volume meanwhile."""
        pool = pool_of(path)
        return cls(runtime, pool, name, alone) if pool else None

    def store(self, read_only: bool) -> Store:
        """What a backend publishes of it; there is no descriptor."""
        size = self._volume.block_size
        writable = not read_only
        granularity = size if writable else 0
        shape = (size, self._volume.capacity, writable, writable, size, granularity)
        return Store(-1, False, read_only, True, *shape, in_memory=False)  # it may wait for pages, or for the pool

    def backend(self, mem: CxlMem, conf: BackendConf) -> Backend:
        return VolumeBackend(mem, conf, self._relay)

    def lun(self, conf: LunConf) -> LunEngine:
        return _VolumeLun(conf, self._relay)

    def zero(self, offset: int, length: int) -> None:
        self._relay.zero(offset, length)

    def follow(self) -> None:
        """One look whether the pool is still there; attaches to its successor."""
        if self._volume.events() is None:
            with contextlib.suppress(DatapathError):
                self._relay.rebind(self._volume.attach_again())

    def close(self) -> None:
        self._volume.close()


class _VolumeLun(LunEngine):
    """Frees only itself: the relay is its medium's."""

    def __init__(self, conf: LunConf, relay: Relay) -> None:
        self._handle = c_void_p()
        self._relay = relay
        check(kmb().kmb_relay_lun_new(byref(conf), relay.handle, byref(self._handle)), "LUN", "start its engine")
