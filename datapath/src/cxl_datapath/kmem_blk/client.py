# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of a pool socket: memory on lease for any program, volumes and changes for the daemon and its workers.

with PoolClient(Path("/run/cxl-datapath/pool0.pool")) as pool:
    with pool.lease(1024) as lease:
        memory = lease.map()            # a mmap object of 4 MiB
        memory[:5] = b"hello"
        for wanted in pool.recalls():   # now and then: what the pool wants back
            ...
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import Code, DatapathError, from_errno
from ..readiness import has_input
from .layout import PAGE
from .wire import Channels, receive, send

TIMEOUT_S = 120.0  # a shrink moves pages


@dataclass
class Lease:
    """Memory of the pool. After a recall its time is short: give it back, or lose it (memfd: SIGBUS at the next touch)."""

    client: PoolClient
    id: int
    pages: int
    fd: int
    extents: list[tuple[int, int]]

    def map(self) -> mmap.mmap:
        """All of it. A lease of devdax that lies in several places is mapped by `map_extent`."""
        if self.extents and len(self.extents) > 1:
            raise DatapathError(Code.INVALID, f"lease {self.id}", f"lies in {len(self.extents)} places", "map each extent")
        return self.map_extent(0)

    def map_extent(self, index: int) -> mmap.mmap:
        offset, length = self.extents[index] if self.extents else (0, self.pages * PAGE)
        return mmap.mmap(self.fd, length, offset=offset)

    def release(self) -> None:
        """Unmap it before."""
        os.close(self.fd)
        self.client.call("release", id=self.id)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


class PoolClient:
    """A connection; what it got lasts as long as it does. Not thread-safe."""

    def __init__(self, path: Path, timeout: float = TIMEOUT_S) -> None:
        self.path = path
        self._link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._events: deque[dict[str, Any]] = deque()
        try:
            # With a timeout of Python's, a queue of clients that is full would be an error at once.
            self._link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6)))
            self._link.connect(str(path))
            self._link.settimeout(timeout)
        except OSError as error:
            self._link.close()
            raise from_errno(
                error.errno or 0, str(path), "reach the pool", "does it run? cxl-datapath kmem-blk pool list"
            ) from None

    def call(self, op: str, **params: Any) -> Any:
        return self._call(op, params)[0]

    def _call(self, op: str, params: dict[str, Any], fds: list[int] | None = None) -> tuple[Any, list[int]]:
        try:
            send(self._link, {"op": op, **params}, fds)
            while True:
                packet = receive(self._link)
                if packet is None:
                    raise DatapathError(Code.FAILED, str(self.path), "the pool hung up", "it may be restarting: try again")
                message, got = packet
                if "event" not in message:
                    break
                self._events.append(message)
        except TimeoutError:
            raise DatapathError(Code.TIMEOUT, str(self.path), f"no answer to {op}") from None
        except OSError as error:
            raise from_errno(error.errno or 0, str(self.path), op) from None
        if "error" in message:
            raise DatapathError.from_json(message["error"])
        return message.get("result"), got

    def lease(self, pages: int) -> Lease:
        """`pages` of 4096 bytes, zeroed. Raises `denied` over the limit, `full` when the pool has no more to give."""
        body, fds = self._call("lease", {"pages": pages})
        extents = [(int(offset), int(length)) for offset, length in body["extents"]]
        fd = fds[0] if fds else os.open(body["path"], os.O_RDWR | os.O_CLOEXEC)
        return Lease(self, body["id"], pages, fd, extents)

    def attach(self, volume: str, channels: Channels, fd: int, alone: bool = False) -> tuple[int, int]:
        """Has the "blocks" or the "swap" served on channels in a file, as long as this connection lasts: capacity, block size.

        Raises `busy` when somebody else has it, and either wants to be `alone`.
        """
        params = {"volume": volume, "queues": channels.queues, "epoch": channels.epoch, "alone": alone}
        body, _ = self._call("attach", params, [fd])
        return int(body["capacity"]), int(body["block_size"])

    def recalls(self, timeout: float = 0.0) -> list[dict[str, Any]]:
        """What the pool wants back: {"event": "recall", "lease": id, "pages": n}. Raises `failed` when the pool is gone."""
        while has_input(self._link, 0.0 if self._events else timeout):
            packet = receive(self._link)
            if packet is None:
                raise DatapathError(Code.FAILED, str(self.path), "the pool hung up", "it may be restarting: try again")
            self._events.append(packet[0])
        found, self._events = list(self._events), deque()
        return found

    def close(self) -> None:
        self._link.close()

    def __enter__(self) -> PoolClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
