# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is in a memory that is to be formatted, also where the transport info cannot be read any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ..errors import DatapathError
from ..mapping import Bytes
from .geometry import ENTRIES_MAX, ENTRY_PAGE, INFO_AREA
from .layout import LEASE_MS_DEFAULT, HostEntry, Info, State
from .lines import HEARTBEAT_OFF, LINE, Heartbeat
from .liveness import watch
from .registry import Table


class Occupants:
    """The host entries of a memory, as they are now. Without `info` they are looked for where every format has put them."""

    def __init__(self, memory: Bytes, info: Info | None) -> None:
        self._memory = memory
        start, count = INFO_AREA, max(0, min(ENTRIES_MAX, (memory.size - INFO_AREA) // ENTRY_PAGE))
        if info is not None:
            start, count = info.geometry.hosts_off, info.geometry.host_count
        self._hosts = Table(memory, HostEntry, start, count)
        # Whatever its lease, a host beats at least twice in a second.
        self.lease_s = info.lease_s if info else LEASE_MS_DEFAULT / 1000
        self._before = self._pages()

    def alive(self, sleep: Callable[[float], None] = time.sleep) -> list[str]:
        """Names of the hosts whose heartbeat moves; blocks up to one lease."""
        running = [host for host, entry in enumerate(self._hosts.all()) if self._may_run(host, entry)]
        return self._names(watch(self._heartbeat, running, self.lease_s, sleep=sleep))

    def moved(self) -> list[str]:
        """Names of the hosts that came since, or wrote something."""
        seen = enumerate(zip(self._before, self._pages(), self._hosts.all(), strict=True))
        return self._names(host for host, (before, now, entry) in seen if before != now and self._may_run(host, entry))

    def _may_run(self, host: int, entry: HostEntry | DatapathError | None) -> bool:
        if isinstance(entry, DatapathError):
            return self._heartbeat(host) is not None
        return entry is not None and entry.state != State.NONE

    def _heartbeat(self, host: int) -> Heartbeat | None:
        return Heartbeat.unpack(self._memory.read(self._hosts.page(host) + HEARTBEAT_OFF, LINE))

    def _pages(self) -> list[bytes]:
        return [self._memory.read(self._hosts.page(host), ENTRY_PAGE) for host in range(self._hosts.count)]

    def _names(self, hosts: Iterable[int]) -> list[str]:
        return sorted(self._name(host) for host in hosts)

    def _name(self, host: int) -> str:
        try:
            entry = self._hosts.read(host)
        except DatapathError:
            entry = None
        return entry.name if entry else f"#{host}"
