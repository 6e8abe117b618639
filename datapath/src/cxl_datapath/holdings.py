# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host holds in a transport: channels for its blkdevs, entries and lines that it gives back, and those of dead hosts.

Whoever calls `reserve` or one of the `clear_dead` functions holds the transport's claim.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from .cbd import channels
from .cbd.fencing import is_fenced
from .cbd.layout import BLKDEV_READ_ONLY, BLKDEV_SHARED, BackendEntry, BlkdevEntry, State
from .cbd.lines import ControlLine
from .cbd.registry import Registry, owned
from .errors import Code, DatapathError
from .state import BlkdevState

if TYPE_CHECKING:
    from .session import Opened

RELEASE_S = 2.0  # a living backend takes its handlers back within one poll
_RELEASE_STEP_S = 0.02


# ---- blkdevs of this host --------------------------------------------------------------------------------------------


def reserve(opened: Opened, want: BlkdevState, first: bool) -> BlkdevEntry:
    """Publishes the blkdev's entry with channels that nobody uses, in epochs that they never had.

    Raises `not_found` when the blkdev or its backend is lost, `busy` beside another writer, `full` without channels.
    """
    registry = opened.registry
    why = why_lost(opened, want, first)
    if why:
        raise DatapathError(Code.NOT_FOUND, f"blkdev {want.id}", why, "stop it here, then start a new one")
    backend = registry.backends.read(want.backend)
    assert backend is not None
    entry = _planned(opened, want, backend, registry.blkdevs.used().get(want.id))
    check_rival(registry, entry)
    opened.lock.check()
    for channel in entry.channels:
        if None in (registry.lines(channel).blkdev, registry.lines(channel).backend):
            registry.forget_slots(channel)
    registry.blkdevs.write(entry)
    return entry


def _planned(opened: Opened, want: BlkdevState, backend: BackendEntry, before: BlkdevEntry | None) -> BlkdevEntry:
    registry, count = opened.registry, opened.info.geometry.channel_count
    taken = {channel for other in registry.blkdevs.used().values() if other.id != want.id for channel in other.channels}
    registered = set(registry.hosts.used())
    held = {c for c in range(count) if channels.is_held(registry.lines(c).backend, want.id, backend, registered)}
    chosen = channels.choose(count, taken | held, before.channels if before else (), want.queues, _hint(opened, held))
    return BlkdevEntry(
        state=State.RUNNING,
        id=want.id,
        epoch=registry.blkdevs.next_epoch(want.id),
        host_id=opened.host_id,
        backend_id=want.backend,
        backend_epoch=backend.epoch,
        flags=(BLKDEV_SHARED if want.shared else 0) | (BLKDEV_READ_ONLY if want.read_only else 0),
        channels=tuple(chosen),
        channel_epochs=tuple(registry.next_channel_epoch(channel) for channel in chosen),
        host_epoch=opened.host_epoch,
    )


def _hint(opened: Opened, held: set[int]) -> str:
    lines = (opened.registry.lines(channel).backend for channel in held)
    dead = {line.host_id for line in lines if line is not None and opened.alive(line.host_id) is False}
    if not dead:
        return "choose fewer queues, stop a blkdev, or format with more channels"
    names = ", ".join(sorted(opened.registry.host_name(host_id) for host_id in dead))
    return f"channels are kept from the dead host(s) {names}: clear them (cxl-datapath cbd host clear)"


def _was_cleared(opened: Opened, blkdev_id: int) -> bool:
    try:
        entry = opened.registry.blkdevs.read(blkdev_id)
    except DatapathError as error:
        return error.code != Code.CORRUPT  # a damaged entry is ours: nobody else may take it
    return entry is None or entry.state == State.NONE or entry.host_id != opened.host_id


def check_rival(registry: Registry, entry: BlkdevEntry) -> None:
    """Raises `busy` when the backend has, or may have, a writer that the blkdev must not be beside."""
    if not entry.flags & BLKDEV_READ_ONLY:
        _check_readable(registry, entry.id)
    users = [user for user in registry.blkdevs.used().values() if user.backend_id == entry.backend_id and user.id != entry.id]
    if not channels.may_join(users, entry.flags):
        writers = [user for user in users if not user.flags & BLKDEV_READ_ONLY]
        names = ", ".join(f"blkdev {user.id} of host {registry.host_name(user.host_id)}" for user in writers)
        hint = "stop that one (clear it if its host is dead), or use read_only here, or start all of them with shared"
        raise DatapathError(Code.BUSY, f"backend {entry.backend_id}", f"is written by {names}", hint)


def _check_readable(registry: Registry, own: int) -> None:
    """Raises `busy` when another entry is damaged: it may be that of a writer, whose host writes it again."""
    for number, found in enumerate(registry.blkdevs.all()):
        if isinstance(found, DatapathError) and number != own:
            hint = "its host writes it again by itself; if that one is gone, clear it: cxl-datapath cbd blkdev clear"
            raise DatapathError(Code.BUSY, f"blkdev {number}", "its entry is damaged, so that it may be a writer, too", hint)


def why_lost(opened: Opened, want: BlkdevState, first: bool = False) -> str:
    """Why a blkdev cannot go on as what it was; empty when it can. `first`: it has no entry yet."""
    backend = opened.registry.backends.read(want.backend)
    if backend is None or backend.state == State.NONE or backend.life != want.backend_life:
        return f"its backend {want.backend} was removed"
    if not first and _was_cleared(opened, want.id):
        return "was cleared by another host while this one was dead; what it had in flight has failed"
    return ""


def is_lost(opened: Opened, want: BlkdevState) -> bool:
    """Whether a blkdev that was started cannot go on any more."""
    try:
        return bool(why_lost(opened, want))
    except DatapathError:
        return False  # what cannot be read may be repaired


async def give_back_blkdev(opened: Opened, blkdev_id: int) -> None:
    """Clears a stopped blkdev; returns when its backends gave the channels back, or were given the time for it."""
    if not owned(opened.registry.blkdevs, blkdev_id, opened.host_id):
        return
    mine = _end_blkdev_lines(opened, blkdev_id)
    opened.registry.blkdevs.clear(blkdev_id)
    opened.registration.ring()
    await wait_released(opened, mine, blkdev_id)


async def wait_released(opened: Opened, numbers: list[int], blkdev_id: int) -> None:
    """Waits until no living backend has a handler of this blkdev on the channels; at most `RELEASE_S`."""
    for _ in range(int(RELEASE_S / _RELEASE_STEP_S)):
        lines = [opened.registry.lines(channel).backend for channel in numbers]
        serving = [line for line in lines if line and line.state != State.NONE and line.blkdev_id == blkdev_id]
        if not any(opened.alive(line.host_id) for line in serving):
            return
        await asyncio.sleep(_RELEASE_STEP_S)


def _end_blkdev_lines(opened: Opened, blkdev_id: int) -> list[int]:
    """The channels whose blkdev lines name the blkdev, ended."""
    found = []
    for channel in range(opened.info.geometry.channel_count):
        line = opened.registry.lines(channel).blkdev
        if line and line.blkdev_id == blkdev_id:
            found.append(channel)
            if line.state != State.NONE:
                opened.registry.write_blkdev_line(channel, ended(line))
    return found


# ---- backends of this host -------------------------------------------------------------------------------------------


def give_back_backend(opened: Opened, backend_id: int, life: int, before: BackendEntry | None = None) -> None:
    """Takes the channel lines of a stopped backend of this host back, and its entry: that becomes `before` again, or free.

    One in another life than this is another backend, which this host may have forgotten; 0 is in any.
    """
    table = opened.registry.backends
    entry = table.used().get(backend_id)
    if entry is not None and entry.host_id == opened.host_id and 0 not in (life, entry.life) and life != entry.life:
        return
    end_backend_lines(opened.registry, opened.info.geometry.channel_count, backend_id, opened.host_id)
    if owned(table, backend_id, opened.host_id):
        if before is None:
            table.clear(backend_id)
        else:
            table.write(replace(before, epoch=table.next_epoch(backend_id)))
    opened.registration.ring()


def end_backend_lines(registry: Registry, count: int, backend_id: int, host_id: int) -> None:
    """Says on every channel that this host's backend has no handler there any more; its handlers are gone."""
    for channel in range(count):
        line = registry.lines(channel).backend
        if line and (line.backend_id, line.host_id) == (backend_id, host_id) and line.state != State.NONE:
            registry.write_backend_line(channel, ended(line))


def tidy(opened: Opened, backends: set[int], blkdevs: set[int]) -> list[str]:
    """Takes back what earlier lives of this host left and nobody wants any more: entries and lines of other ids than these.

    A backend that others use is left: see `forgotten`. Returns which entries were cleared, in words.
    """
    cleared: list[str] = []
    registry, me = opened.registry, opened.host_id
    for channel in range(opened.info.geometry.channel_count):
        lines = registry.lines(channel)
        if lines.backend and lines.backend.host_id == me and lines.backend.backend_id not in backends:
            registry.write_backend_line(channel, ended(lines.backend))
        if lines.blkdev and lines.blkdev.host_id == me and lines.blkdev.blkdev_id not in blkdevs:
            registry.write_blkdev_line(channel, ended(lines.blkdev))
    for blkdev in registry.blkdevs.used().values():
        if blkdev.host_id == me and blkdev.id not in blkdevs:
            registry.blkdevs.clear(blkdev.id)
            cleared.append(f"blkdev {blkdev.id} (on backend {blkdev.backend_id})")
    for backend in registry.backends.used().values():
        if backend.host_id == me and backend.id not in backends and not live_users(opened, backend.id):
            registry.backends.clear(backend.id)
            cleared.append(f"backend {backend.id} ({backend.path})")
    return cleared


# ---- of dead hosts -----------------------------------------------------------------------------------------------------


def owners(opened: Opened, kind: str, number: int) -> set[int]:
    """Hosts that have a backend or blkdev, as its words on the channels tell; empty when there are none.

    Whoever gives it up, or clears it, takes those back. Who takes a backend over only fences their host.
    """
    found = set()
    for channel in range(opened.info.geometry.channel_count):
        lines = opened.registry.lines(channel)
        line = lines.backend if kind == "backend" else lines.blkdev
        if line is None or line.state == State.NONE or number != (line.backend_id if kind == "backend" else line.blkdev_id):
            continue
        if kind == "blkdev" or not is_fenced(opened.registry, line.host_id, line.host_epoch):
            found.add(line.host_id)
    return found


def clear_dead_blkdev(opened: Opened, blkdev_id: int) -> list[int]:
    """Clears the blkdev of a fenced host; the channels that its backend has to give back."""
    found = _end_blkdev_lines(opened, blkdev_id)
    opened.registry.blkdevs.clear(blkdev_id)
    opened.registration.ring()
    return found


def clear_dead_backend(opened: Opened, backend_id: int, host_id: int) -> None:
    end_backend_lines(opened.registry, opened.info.geometry.channel_count, backend_id, host_id)
    opened.registry.backends.clear(backend_id)
    opened.registration.ring()


def clear_dead_host(opened: Opened, host_id: int) -> None:
    """Everything of a fenced host, and its entry. Its channels can be used again from here on."""
    registry = opened.registry
    for blkdev in registry.blkdevs.used().values():
        if blkdev.host_id == host_id:
            clear_dead_blkdev(opened, blkdev.id)
    for backend in registry.backends.used().values():
        if backend.host_id == host_id:
            clear_dead_backend(opened, backend.id, host_id)
    for channel in range(opened.info.geometry.channel_count):
        line = registry.lines(channel).backend
        if line and line.host_id == host_id and line.state != State.NONE:
            registry.write_backend_line(channel, ended(line))
    registry.hosts.clear(host_id)
    opened.registration.ring()


def live_users(opened: Opened, backend_id: int) -> list[str]:
    """The blkdevs on a backend whose hosts are not known to be dead."""
    registry = opened.registry
    return [
        f"blkdev {user.id} of host {registry.host_name(user.host_id)}"
        for user in registry.blkdevs.used().values()
        if user.backend_id == backend_id
        and opened.alive(user.host_id) is not False
        and not is_fenced(registry, user.host_id, user.host_epoch)
    ]


def ended(line: ControlLine) -> ControlLine:
    return ControlLine(State.NONE, line.epoch, line.blkdev_id, line.backend_id, line.queue, line.host_id, line.host_epoch)
