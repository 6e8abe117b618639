# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry of a transport: entries of hosts, backends and blkdevs, and the lines of hosts and channels, read and written.

Reading trusts nothing: an entry that cannot be read is returned as the error that says why, so that one damaged entry does not
hide the others. Who may write what is in docs/cbd-format.md, "Entry page".
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import replace
from functools import cached_property
from typing import Generic, TypeVar

from ..errors import Code, DatapathError
from ..mapping import Bytes
from .geometry import CHANNEL_RINGS, ENTRY_PAGE, rings_end
from .layout import BackendEntry, BlkdevEntry, Entry, HostEntry, Info, State
from .lines import (
    BACKEND_LINE_OFF,
    BELL_OFF,
    BLKDEV_LINE_OFF,
    CLAIM_OFF,
    COUNTER,
    FENCE_OFF,
    HEARTBEAT_OFF,
    INTENT_OFF,
    LINE,
    Bell,
    Claim,
    ControlLine,
    Fence,
    Heartbeat,
    Intent,
)
from .metadata import CopyPair
from .transport import read_info

ENTRY_COPY = 1024
_DAMAGED_HINT = "its host writes it again by itself; if that one is gone, clear it: cxl-datapath cbd {what} clear"

E = TypeVar("E", bound=Entry)


class Table(Generic[E]):
    """All entries of one kind."""

    def __init__(self, memory: Bytes, kind: type[E], offset: int, count: int) -> None:
        self._memory = memory
        self.kind = kind
        self._offset = offset
        self.count = count
        self._pairs: dict[int, CopyPair] = {}

    def page(self, index: int) -> int:
        """Offset of an entry page in the transport."""
        if not 0 <= index < self.count:
            hint = f"choose 0 to {self.count - 1}"
            raise DatapathError(
                Code.RANGE, f"{self.kind.WHAT} {index}", f"the transport has {self.count} {self.kind.WHAT} entries", hint
            )
        return self._offset + index * ENTRY_PAGE

    def read(self, index: int) -> E | None:
        """The entry as last written (state none included); None when it was never used.

        Raises `corrupt`, `unsupported`, `range`.
        """
        payload = self._pair(index).read()
        if payload is None:
            return None
        entry = self.kind.unpack(payload)
        if entry.id != index:
            raise DatapathError(Code.CORRUPT, f"{self.kind.WHAT} {index}", f"the entry says that it is number {entry.id}")
        return entry

    def still(self, entry: E) -> bool:
        """Whether the transport holds exactly this entry; a worker that lost its entry must not write lines any more."""
        try:
            return self.read(entry.id) == entry
        except DatapathError:
            return False

    def is_damaged(self, index: int) -> bool:
        """Whether nobody can say what the entry is."""
        try:
            self.read(index)
        except DatapathError as error:
            return error.code == Code.CORRUPT
        return False

    def write(self, entry: E) -> None:
        self._pair(entry.id).write(entry.pack())

    def all(self) -> list[E | DatapathError | None]:
        """Every entry by its index; an unreadable one as its error."""
        found: list[E | DatapathError | None] = []
        for index in range(self.count):
            try:
                found.append(self.read(index))
            except DatapathError as error:
                found.append(error)
        return found

    def used(self) -> dict[int, E]:
        """Readable entries whose state is not none."""
        return {entry.id: entry for entry in self.all() if isinstance(entry, self.kind) and entry.state != State.NONE}

    def allocate(self, wanted: int | None = None, but: Container[int] = ()) -> int:
        """A free index: `wanted` if given, else the lowest. Never an unreadable one, nor one of `but`: what the caller wants
        without having an entry for it. Raises `range`, `exists`, `full`."""
        entries = self.all()
        free = [index for index, entry in enumerate(entries) if index not in but and (entry is None or _is_cleared(entry))]
        if wanted is None:
            if free:
                return free[0]
            raise DatapathError(Code.FULL, "transport", f"all {self.count} {self.kind.WHAT} entries are taken")
        self.page(wanted)
        if wanted not in free:
            why = "the entry is damaged" if isinstance(entries[wanted], DatapathError) else "the id is taken"
            hint = f"choose another id, for example {free[0]}" if free else "none is free: stop or clear one that is not needed"
            raise DatapathError(Code.EXISTS, f"{self.kind.WHAT} {wanted}", why, hint)
        return wanted

    def next_epoch(self, index: int) -> int:
        """One above the epoch of the entry as last written; an unreadable entry of our own starts again at 1."""
        try:
            entry = self.read(index)
        except DatapathError:
            entry = None
        return entry.epoch % 0xFFFFFFFF + 1 if entry else 1

    def clear(self, index: int) -> None:
        """State none; the rest stays, for the epoch to rise from. A damaged entry becomes one that was never used."""
        try:
            entry = self.read(index)
        except DatapathError as error:
            if error.code != Code.CORRUPT:
                raise
            self._memory.write(self.page(index), bytes(2 * ENTRY_COPY))
            return
        if entry is not None and entry.state != State.NONE:
            self.write(replace(entry, state=State.NONE))

    def _pair(self, index: int) -> CopyPair:
        if index not in self._pairs:
            what, hint = f"{self.kind.WHAT} {index}", _DAMAGED_HINT.format(what=self.kind.WHAT)
            self._pairs[index] = CopyPair(self._memory, self.page(index), ENTRY_COPY, self.kind.MAGIC, what, hint=hint)
        return self._pairs[index]


def owned(table: Table[BackendEntry] | Table[BlkdevEntry], index: int, host_id: int) -> bool:
    """Whether an entry that a host wants is its own. A damaged one is: nobody else may take it."""
    try:
        entry = table.read(index)
    except DatapathError as error:
        return error.code == Code.CORRUPT
    return entry is not None and entry.host_id == host_id


def _is_cleared(entry: Entry | DatapathError) -> bool:
    return not isinstance(entry, DatapathError) and entry.state == State.NONE


class ChannelLines:
    """Both sides' words on a channel, each read when it is first asked for; None where there is no valid line."""

    def __init__(self, memory: Bytes, channel_off: int) -> None:
        self._memory = memory
        self._off = channel_off

    @cached_property
    def blkdev(self) -> ControlLine | None:
        return ControlLine.unpack(self._memory.read(self._off + BLKDEV_LINE_OFF, LINE))

    @cached_property
    def backend(self) -> ControlLine | None:
        return ControlLine.unpack(self._memory.read(self._off + BACKEND_LINE_OFF, LINE))


class Registry:
    """Tables, lines and channels of one attached transport."""

    def __init__(self, memory: Bytes, info: Info) -> None:
        g = info.geometry
        self._memory = memory
        self.info = info
        self.hosts = Table(memory, HostEntry, g.hosts_off, g.host_count)
        self.backends = Table(memory, BackendEntry, g.backends_off, g.backend_count)
        self.blkdevs = Table(memory, BlkdevEntry, g.blkdevs_off, g.blkdev_count)

    def is_current(self) -> bool:
        """Whether the memory still holds the transport that was attached; one that was formatted since is another."""
        try:
            return read_info(self._memory) == self.info
        except DatapathError:
            return False

    def incarnation(self, host_id: int) -> int | None:
        """Epoch of the host in an entry; None where there is none. Of a damaged entry its heartbeat tells, 0 when it cannot."""
        try:
            entry = self.hosts.read(host_id)
        except DatapathError:
            heartbeat = self.heartbeat(host_id)
            return heartbeat.epoch if heartbeat else 0
        return entry.epoch if entry and entry.state != State.NONE else None

    def heartbeat(self, host_id: int) -> Heartbeat | None:
        return Heartbeat.unpack(self._line(host_id, HEARTBEAT_OFF))

    def beat(self, host_id: int, heartbeat: Heartbeat) -> None:
        self._write_line(host_id, HEARTBEAT_OFF, heartbeat.pack())

    def fence(self, host_id: int) -> Fence | None:
        return Fence.unpack(self._line(host_id, FENCE_OFF))

    def write_fence(self, host_id: int, fence: Fence) -> None:
        """For `fencing.fence` only, which never lowers it."""
        self._write_line(host_id, FENCE_OFF, fence.pack())

    def claim(self, host_id: int) -> Claim | None:
        return Claim.unpack(self._line(host_id, CLAIM_OFF))

    def write_claim(self, host_id: int, claim: Claim) -> None:
        self._write_line(host_id, CLAIM_OFF, claim.pack())

    def intent(self, host_id: int) -> Intent | None:
        return Intent.unpack(self._line(host_id, INTENT_OFF))

    def write_intent(self, host_id: int, intent: Intent) -> None:
        self._write_line(host_id, INTENT_OFF, intent.pack())

    def bell(self, host_id: int) -> Bell | None:
        return Bell.unpack(self._line(host_id, BELL_OFF))

    def bells(self, host_ids: Iterable[int]) -> list[bytes]:
        """The bell lines of hosts as they are: who only wants to know whether something changed need not understand them."""
        return [self._memory.read(self.hosts.page(host_id) + BELL_OFF, COUNTER.size) for host_id in host_ids]

    def ring(self, host_id: int, bell: Bell) -> None:
        self._write_line(host_id, BELL_OFF, bell.pack())

    def lines(self, channel: int) -> ChannelLines:
        return ChannelLines(self._memory, self._channel_off(channel))

    def next_channel_epoch(self, channel: int) -> int:
        """Above every epoch that the channel had, even when its lines are damaged: its rings still hold slots of earlier ones."""
        lines = self.lines(channel)
        found = [line.epoch for line in (lines.blkdev, lines.backend) if line is not None]
        for entry in self.blkdevs.all():
            if isinstance(entry, BlkdevEntry):
                pairs = zip(entry.channels, entry.channel_epochs, strict=True)
                found += [epoch for used, epoch in pairs if used == channel]
        return max(found, default=0) % 0xFFFFFFFF + 1

    def forget_slots(self, channel: int) -> None:
        """Clears the rings of a channel that nobody uses and whose history is not whole: they may hold slots of any epoch."""
        g, start = self.info.geometry, self._channel_off(channel)
        self._memory.write(start + CHANNEL_RINGS, bytes(rings_end(g.ring_depth) - CHANNEL_RINGS))

    def write_blkdev_line(self, channel: int, line: ControlLine) -> None:
        self._memory.write(self._channel_off(channel) + BLKDEV_LINE_OFF, line.pack())

    def write_backend_line(self, channel: int, line: ControlLine) -> None:
        self._memory.write(self._channel_off(channel) + BACKEND_LINE_OFF, line.pack())

    def host_name(self, host_id: int) -> str:
        """For messages; never raises."""
        try:
            entry = self.hosts.read(host_id)
        except DatapathError:
            entry = None
        return entry.name if entry else f"#{host_id}"

    def _line(self, host_id: int, offset: int) -> bytes:
        return self._memory.read(self.hosts.page(host_id) + offset, LINE)

    def _write_line(self, host_id: int, offset: int, line: bytes) -> None:
        self._memory.write(self.hosts.page(host_id) + offset, line)

    def _channel_off(self, channel: int) -> int:
        count = self.info.geometry.channel_count
        if not 0 <= channel < count:
            raise DatapathError(Code.RANGE, f"channel {channel}", f"the transport has {count} channels")
        return self.info.geometry.channel_off(channel)
