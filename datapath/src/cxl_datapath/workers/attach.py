# SPDX-License-Identifier: GPL-3.0-or-later
"""What both workers begin with: their configuration, the memory, the transport."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..cbd.fencing import fence_line_off
from ..cbd.layout import Info
from ..cbd.registry import Registry
from ..cbd.transport import attach
from ..core import ChannelConf
from ..errors import Code, DatapathError
from ..mapping import Mapping
from ..memory import Kind, Memory
from .lock import lock_file


@dataclass(frozen=True)
class TransportRef:
    """The transport that the daemon means; a worker refuses any other that it finds in the memory."""

    spec: str
    path: str
    size: int
    kind: Kind
    offset: int
    uuid: str
    host_id: int
    host_epoch: int
    runtime: str  # folder of the locks and sockets

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        return cls(**raw)

    def lock_file(self, kind: str, number: int) -> Path:
        return lock_file(Path(self.runtime), kind, self.uuid, number)

    def memory(self) -> Memory:
        return Memory(self.spec, self.path, self.size, self.kind, self.offset)


@dataclass(frozen=True)
class Attached:
    ref: TransportRef
    mapping: Mapping
    info: Info
    registry: Registry

    def queue_conf(self, channel: int, epoch: int) -> ChannelConf:
        """A blkdev's end of a channel, which is not used any more once this host is fenced."""
        conf = self.channel_conf(channel, epoch)
        conf.fence_off, conf.host_epoch = fence_line_off(self.registry, self.ref.host_id), self.ref.host_epoch
        return conf

    def channel_conf(self, channel: int, epoch: int, flags: int = 0) -> ChannelConf:
        """A backend's end."""
        g = self.info.geometry
        return ChannelConf(g.channel_off(channel), g.ring_depth, g.slot_bytes, epoch, self.info.features, flags)


def attach_worker(ref: TransportRef) -> Attached:
    """Maps and checks. The mapping lasts as long as the process: threads of the core may use it until the very end."""
    mapping = Mapping(ref.memory())
    info = attach(mapping, ref.spec)
    if str(info.uuid) != ref.uuid:
        raise DatapathError(
            Code.CORRUPT,
            ref.spec,
            f"holds transport {info.uuid} now, not {ref.uuid}",
            "it was formatted again: unregister and register it",
        )
    mapping.use_coherence(info.coherence)
    return Attached(ref, mapping, info, Registry(mapping, info))
