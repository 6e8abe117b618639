# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine of one LUN: opens the medium for itself alone, and does what the master says over its channel.

The daemon checks who may have what; what it says is done here as it stands.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..core import ENGINE_AUTO, ENGINE_INLINE
from ..cxlflash.channel import PACKET_MAX
from ..cxlflash.chunks import chunk_blocks_for
from ..cxlflash.engine import ContextConf, LunConf, LunEngine
from ..cxlflash.refusal import refusal_of
from ..cxlflash.wire import BLOCK
from ..errors import Code, DatapathError
from ..medium_id import DeviceId, MediumId, medium_from_json, medium_of
from .link import Link
from .lock import hold
from .pool_medium import PoolMedium
from .store import Store, open_store
from .zero import zero

POLL_S = 5.0
POOL_POLL_S = 0.5  # requests wait for the successor of a pool's process
DESCRIPTORS = 3  # of one context


@dataclass(frozen=True)
class Config:
    name: str
    path: str
    read_only: bool
    chunk_blocks: int  # 0: as many as fit the size
    lock_file: Path
    channel: int
    medium: MediumId | None  # that programs have contexts on

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Config:
        numbers = (int(raw["chunk_blocks"]), Path(raw["lock_file"]), int(raw["channel"]))
        return cls(str(raw["name"]), str(raw["path"]), bool(raw["read_only"]), *numbers, medium_from_json(raw.get("medium")))


def run(link: Link) -> None:
    config = Config.from_json(link.config())
    with socket.socket(fileno=config.channel) as channel:
        channel.set_inheritable(False)
        hold(link, config.lock_file, f"LUN {config.name}")
        pooled = PoolMedium.of(config.path, config.lock_file.parent, config.lock_file.stem, alone=True)
        store = pooled.store(config.read_only) if pooled else open_store(config.path, config.read_only)
        try:
            _check_medium(config, store)
            _serve(link, config, store, pooled, channel)
        finally:
            if pooled:
                pooled.close()
            else:
                os.close(store.fd)


def _check_medium(config: Config, store: Store) -> None:
    """Raises `invalid` when another medium is at the path than the one that programs are using."""
    known = config.medium
    if isinstance(known, DeviceId) and not (known.marks or known.below):
        return  # one that is made anew under its name, such as a blkdev
    if known is not None and not known.is_same(medium_of(store.fd)):
        what, hint = "is not the medium that programs use as this LUN", "put that one back, or end the programs"
        raise DatapathError(Code.INVALID, config.path, what, hint)


def _serve(link: Link, config: Config, store: Store, pooled: PoolMedium | None, channel: socket.socket) -> None:
    blocks = store.capacity // BLOCK
    chunk_blocks = config.chunk_blocks or chunk_blocks_for(blocks)
    if blocks < chunk_blocks:
        hint = f"give a medium of at least {chunk_blocks * BLOCK} bytes"
        raise DatapathError(Code.RANGE, config.path, f"has {store.capacity} bytes, too few for a LUN", hint)
    conf = LunConf(
        fd=store.fd,
        is_block=store.is_block,
        read_only=store.read_only,
        logical_block_size=store.block_size,
        blocks=blocks,
        chunk_blocks=chunk_blocks,
        engine=ENGINE_INLINE if store.in_memory else ENGINE_AUTO,
    )
    engine = pooled.lun(conf) if pooled else LunEngine(conf)
    orders = Orders(engine, store, pooled, channel)
    listener = threading.Thread(target=orders.listen, name="orders", daemon=True)
    listener.start()
    try:
        medium = asdict(found) if (found := medium_of(store.fd)) else None
        link.emit("ready", info={"blocks": blocks, "chunk_blocks": chunk_blocks, "direct": store.direct, "medium": medium})
        while link.wait(POOL_POLL_S if pooled else POLL_S) is None:
            if pooled:
                pooled.follow()
            if not listener.is_alive():
                raise DatapathError(Code.FAILED, f"LUN {config.name}", "its orders have ended", "the daemon starts it again")
    finally:
        engine.fail()  # whoever is attached learns it at once
        with contextlib.suppress(OSError):
            channel.shutdown(socket.SHUT_RDWR)
        listener.join()
        engine.close()


class Orders:
    """What the master may ask for; each method is an operation of the channel."""

    def __init__(self, engine: LunEngine, store: Store, pooled: PoolMedium | None, channel: socket.socket) -> None:
        self._engine = engine
        self._pooled = pooled
        self._store = store
        self._channel = channel
        self._known: dict[str, Callable[..., dict[str, Any]]] = {
            name: getattr(self, name) for name in ("add", "remove", "set", "clear", "zero", "rescan", "stats")
        }

    def listen(self) -> None:
        """Until the master closes its end. Whatever ends it, the master learns that nobody listens any more."""
        try:
            with contextlib.suppress(OSError):
                while self._next():
                    pass
        finally:
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_RDWR)

    def _next(self) -> bool:
        """Carries out an order; whether there was one. Raises OSError."""
        packet, fds, _, _ = socket.recv_fds(self._channel, PACKET_MAX, DESCRIPTORS)
        if not packet:
            return False
        try:
            answer = self._carry_out(json.loads(packet), fds)
        finally:
            for fd in fds:
                os.close(fd)
        self._channel.send(json.dumps(answer).encode())
        return True

    def _carry_out(self, order: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        number, op = order.pop("id"), order.pop("op")
        try:
            extra = {"fds": fds} if op == "add" else {}
            return {"id": number, **self._known[op](**order, **extra)}
        except DatapathError as error:
            return {"id": number, "errno": refusal_of(error).errno, "text": str(error)}
        except OSError as error:
            return {"id": number, "errno": error.errno or errno.EIO, "text": f"{op}: {error.strerror}"}
        except (TypeError, KeyError, ValueError) as error:
            print(f"worker: order {op!r:.40} is a defect: {error}", file=sys.stderr)
            return {"id": number, "errno": errno.EIO, "text": f"{op}: {error}"}

    def add(self, slot: int, depth: int, read_only: bool, fds: list[int]) -> dict[str, Any]:
        user, master, bell = fds
        self._engine.add(slot, ContextConf(user, master, bell, depth, read_only))
        return {}

    def remove(self, slot: int) -> dict[str, Any]:
        self._engine.remove(slot)
        return {}

    def set(self, slot: int, handle: int, blocks: int, table: list[int] | None) -> dict[str, Any]:
        self._engine.set(slot, handle, blocks, table)
        return {}

    def clear(self, slot: int, handle: int) -> dict[str, Any]:
        self._engine.clear(slot, handle)
        return {}

    def zero(self, spans: list[list[int]]) -> dict[str, Any]:
        """What nobody reaches yet, or nobody reaches any more."""
        for start, count in spans:
            if self._pooled:
                self._pooled.zero(start * BLOCK, count * BLOCK)
            else:
                zero(self._store.fd, self._store.is_block, start * BLOCK, count * BLOCK)
        return {}

    def rescan(self) -> dict[str, Any]:
        pooled = self._store.fd < 0  # which keeps its size while it is attached
        size = self._store.capacity if pooled else os.lseek(self._store.fd, 0, os.SEEK_END)  # of a file and of a block device
        blocks = size // BLOCK
        self._engine.set_blocks(blocks)
        return {"blocks": blocks}

    def stats(self) -> dict[str, Any]:
        return {"stats": self._engine.stats().to_json()}
