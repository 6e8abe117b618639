# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses which channel: allocation on the blkdev's side, the plan of handlers on the backend's side. Plans are pure.

`Fenced` answers whether an incarnation of a host is dead for ever: (host id, host epoch) -> bool, see `fencing.is_fenced`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from ..errors import Code, DatapathError
from .layout import BLKDEV_READ_ONLY, BLKDEV_SHARED, BackendEntry, BlkdevEntry, State
from .lines import ControlLine
from .registry import ChannelLines

Fenced = Callable[[int, int], bool]


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


def may_join(backend_users: Iterable[BlkdevEntry], flags: int) -> bool:
    """The rule of writers: a blkdev that only reads may always join, a writer where all writers, itself included, are shared."""
    writers = [user for user in backend_users if not user.flags & BLKDEV_READ_ONLY]
    if flags & BLKDEV_READ_ONLY or not writers:
        return True
    return bool(flags & BLKDEV_SHARED) and all(user.flags & BLKDEV_SHARED for user in writers)


def users_of(
    backend: BackendEntry, blkdevs: Iterable[BlkdevEntry], current: Collection[int], fenced: Fenced
) -> list[BlkdevEntry]:
    """The blkdevs that a backend serves: those in `current` while they want to be, then the others by id that may join them."""
    wanting = [
        entry
        for entry in blkdevs
        if (entry.state, entry.backend_id, entry.backend_epoch) == (State.RUNNING, backend.id, backend.epoch)
        and not fenced(entry.host_id, entry.host_epoch)
    ]
    users: list[BlkdevEntry] = []
    for entry in sorted(wanting, key=lambda entry: (entry.id not in current, entry.id)):
        if may_join(users, entry.flags):
            users.append(entry)
    return users


@dataclass(frozen=True)
class Handler:
    """A handler that a backend should run, or runs."""

    channel: int
    epoch: int
    blkdev_id: int
    queue: int
    read_only: bool


def wanted_handlers(
    backend: BackendEntry, users: Iterable[BlkdevEntry], lines: Callable[[int], ChannelLines], count: int
) -> set[Handler]:
    """The handlers that these blkdevs ask for: channels whose blkdev line agrees with the entry in every number.

    Where two entries name one channel, at most one agrees with its line.
    """
    wanted = set()
    for blkdev in users:
        for queue, (channel, epoch) in enumerate(zip(blkdev.channels, blkdev.channel_epochs, strict=True)):
            if channel >= count:
                continue
            asked = ControlLine(State.RUNNING, epoch, blkdev.id, backend.id, queue, blkdev.host_id, blkdev.host_epoch)
            if lines(channel).blkdev == asked:
                wanted.add(Handler(channel, epoch, blkdev.id, queue, bool(blkdev.flags & BLKDEV_READ_ONLY)))
    return wanted
