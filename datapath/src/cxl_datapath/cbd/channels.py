# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses which channel: allocation on the blkdev's side, the plan of handlers on the backend's side. Plans are pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import Code, DatapathError
from .layout import BackendEntry, BlkdevEntry, State
from .lines import ControlLine
from .registry import ChannelLines


def choose(count: int, taken: set[int], preferred: Iterable[int], queues: int) -> list[int]:
    """`queues` channels of `count` that are not taken, the preferred ones first. Raises `full`."""
    first = [channel for channel in preferred if 0 <= channel < count and channel not in taken]
    free = list(dict.fromkeys([*first, *(channel for channel in range(count) if channel not in taken)]))
    if len(free) < queues:
        hint = "choose fewer queues, stop a blkdev, or format with more channels"
        raise DatapathError(Code.FULL, "transport", f"{queues} queue(s) wanted, {len(free)} of {count} channels are free", hint)
    return free[:queues]


def held_by_backend(line: ControlLine | None, backends: dict[int, BackendEntry], alive: Callable[[int], bool | None]) -> bool:
    """True while a backend that may be alive still has a handler on the channel, whatever the blkdevs say."""
    if line is None or line.state == State.NONE:
        return False
    backend = backends.get(line.backend_id)
    return backend is not None and backend.host_id == line.host_id and alive(backend.host_id) is not False


@dataclass(frozen=True)
class Handler:
    """A handler that a backend should run, or runs."""

    channel: int
    epoch: int
    blkdev_id: int
    queue: int


def user_of(backend: BackendEntry, blkdevs: Iterable[BlkdevEntry], current: int | None) -> BlkdevEntry | None:
    """The one blkdev that this backend serves: the current one while it wants to be, else the lowest id."""
    wanting = {
        entry.id: entry
        for entry in blkdevs
        if entry.state == State.RUNNING and entry.backend_id == backend.id and entry.backend_epoch == backend.epoch
    }
    if current in wanting:
        return wanting[current]
    return wanting[min(wanting)] if wanting else None


def wanted_handlers(
    backend: BackendEntry, blkdev: BlkdevEntry | None, lines: Callable[[int], ChannelLines], count: int
) -> set[Handler]:
    """The handlers that a blkdev asks for: channels whose blkdev line agrees with the entry in every number."""
    wanted = set()
    for queue, (channel, epoch) in enumerate(zip(blkdev.channels, blkdev.channel_epochs, strict=True) if blkdev else ()):
        if blkdev is None or channel >= count:
            continue
        line = lines(channel).blkdev
        if line == ControlLine(State.RUNNING, epoch, blkdev.id, backend.id, queue, blkdev.host_id):
            wanted.add(Handler(channel, epoch, blkdev.id, queue))
    return wanted
