# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses which channel: allocation on the blkdev's side, the plan of handlers on the backend's side. Plans are pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import Code, DatapathError
from .layout import BLKDEV_READ_ONLY, BLKDEV_SHARED, BackendEntry, BlkdevEntry, State
from .lines import ControlLine
from .registry import ChannelLines


def choose(count: int, taken: set[int], preferred: Iterable[int], queues: int, hint: str) -> list[int]:
    """`queues` channels of `count` that are not taken, the preferred ones first. Raises `full` with the hint."""
    first = [channel for channel in preferred if 0 <= channel < count and channel not in taken]
    free = list(dict.fromkeys([*first, *(channel for channel in range(count) if channel not in taken)]))
    if len(free) < queues:
        raise DatapathError(Code.FULL, "transport", f"{queues} queue(s) wanted, {len(free)} of {count} channels are free", hint)
    return free[:queues]


def is_held(line: ControlLine | None, blkdev_id: int, backend: BackendEntry, registered: set[int]) -> bool:
    """Whether some backend's handler may still write into a channel, so that nobody else may have it.

    Not held: a channel whose handler serves this very blkdev in this life of the backend (it is given back first), or whose
    handler's host has left or was cleared. The lines of an earlier life of a host count until that host takes them back itself.
    """
    if line is None or line.state == State.NONE or line.host_id not in registered:
        return False
    ours = (line.blkdev_id, line.backend_id, line.host_id, line.host_epoch)
    return ours != (blkdev_id, backend.id, backend.host_id, backend.host_epoch)


@dataclass(frozen=True)
class Handler:
    """A handler that a backend should run, or runs."""

    channel: int
    epoch: int
    blkdev_id: int
    queue: int
    read_only: bool


def is_writer(blkdev: BlkdevEntry) -> bool:
    return not blkdev.flags & BLKDEV_READ_ONLY


def rival(wanted: BlkdevEntry, blkdevs: Iterable[BlkdevEntry]) -> BlkdevEntry | None:
    """The blkdev because of which `wanted` must not be: a second writer, where not both of them share. Lowest id first."""
    for other in sorted(blkdevs, key=lambda entry: entry.id):
        both_share = wanted.flags & other.flags & BLKDEV_SHARED
        if other.id != wanted.id and other.backend_id == wanted.backend_id and is_writer(wanted) and is_writer(other):
            if not both_share:
                return other
    return None


def served(blkdevs: Iterable[BlkdevEntry], current: set[int]) -> list[BlkdevEntry]:
    """The blkdevs of one backend that it serves: those that it serves already before others, then by id, none beside its rival.

    A daemon starts no rival of a blkdev; this is for entries of hosts that do not care.
    """
    chosen: list[BlkdevEntry] = []
    for entry in sorted(blkdevs, key=lambda entry: (entry.id not in current, entry.id)):
        if rival(entry, chosen) is None:
            chosen.append(entry)
    return chosen


def wanted_handlers(
    backend: BackendEntry, blkdevs: Iterable[BlkdevEntry], lines: Callable[[int], ChannelLines], count: int
) -> set[Handler]:
    """The handlers that blkdevs ask for: channels whose blkdev line agrees with the entry in every number."""
    wanted = set()
    for blkdev in blkdevs:
        for queue, (channel, epoch) in enumerate(zip(blkdev.channels, blkdev.channel_epochs, strict=True)):
            if channel >= count:
                continue
            line = lines(channel).blkdev
            if line == ControlLine(State.RUNNING, epoch, blkdev.id, backend.id, queue, blkdev.host_id, blkdev.host_epoch):
                wanted.add(Handler(channel, epoch, blkdev.id, queue, not is_writer(blkdev)))
    return wanted
