# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool socket: packets of JSON, descriptors beside them; and the private channels of whoever is attached to a volume."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cbd.geometry import channel_size
from ..core import COHERENCE_HARDWARE, ChannelConf
from ..errors import Code, DatapathError
from ..mapping import Mapping
from ..memory import Memory

PACKET_MAX = 1 << 17
RING_DEPTH, SLOT_BYTES = 32, 1 << 16
QUEUES_MAX = 16


def send(connection: socket.socket, message: dict[str, Any], fds: list[int] | None = None, flags: int = 0) -> None:
    socket.send_fds(connection, [json.dumps(message).encode()], fds or [], flags)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """One packet; None at the end. Raises `invalid` for what is no object."""
    data, fds, _, _ = socket.recv_fds(connection, PACKET_MAX, 4)
    if not data:
        return None
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        for fd in fds:
            os.close(fd)
        raise DatapathError(Code.INVALID, "packet", "is no JSON object")
    return message, fds


def pool_socket(runtime: Path, pool: str) -> Path:
    return runtime / f"{pool}.pool"


@dataclass(frozen=True)
class Channels:
    """The shape of private channels in a memory that both ends map. The processor keeps it coherent: both are on this host."""

    queues: int
    epoch: int  # another one for each attachment
    ring_depth: int = RING_DEPTH
    slot_bytes: int = SLOT_BYTES

    @property
    def size(self) -> int:
        return self.queues * channel_size(self.ring_depth, self.slot_bytes)

    def confs(self) -> list[ChannelConf]:
        one = channel_size(self.ring_depth, self.slot_bytes)
        return [ChannelConf(index * one, self.ring_depth, self.slot_bytes, self.epoch, 0) for index in range(self.queues)]

    def map(self, path: str) -> Mapping:
        mapping = Mapping(Memory("private channels", path, self.size, "file"))
        mapping.use_coherence(COHERENCE_HARDWARE)
        return mapping
