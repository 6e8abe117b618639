# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is alive: heartbeat counters, judged with the observer's own monotonic clock. A wall clock never decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .lines import Heartbeat

PERIOD_S = 0.5  # between two beats of a host
DEAD_AFTER_S = 2.5  # five periods without a change; a loaded machine may miss one or two


@dataclass
class _Seen:
    heartbeat: Heartbeat | None
    since: float  # own clock, when it was first seen like this
    moved: bool


class Liveness:
    """What an observer knows of its peers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[int, _Seen] = {}

    def observe(self, host_id: int, heartbeat: Heartbeat | None) -> None:
        """One look at a heartbeat line; None is a line that is torn or was never written, and says nothing."""
        seen = self._seen.get(host_id)
        if seen is None:
            self._seen[host_id] = _Seen(heartbeat, self._clock(), False)
        elif heartbeat is not None and heartbeat != seen.heartbeat:
            # A first valid line after none is not yet a sign of life: it may have been torn by our own look.
            self._seen[host_id] = _Seen(heartbeat, self._clock(), seen.heartbeat is not None)

    def forget(self, host_id: int) -> None:
        self._seen.pop(host_id, None)

    def alive(self, host_id: int) -> bool | None:
        """True: its counter moved within `DEAD_AFTER_S`; False: it did not for that long; None: not watched long enough."""
        seen = self._seen.get(host_id)
        if seen is None:
            return None
        if self._clock() - seen.since >= DEAD_AFTER_S:
            return False
        return True if seen.moved else None


def watch(
    read: Callable[[int], Heartbeat | None],
    host_ids: Iterable[int],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> set[int]:
    """Blocks until each host is known, at most `DEAD_AFTER_S`; returns the live ones, early when there is one."""
    liveness = Liveness(clock)
    pending = set(host_ids)
    alive: set[int] = set()
    while pending and not alive:
        for host_id in pending:
            liveness.observe(host_id, read(host_id))
        verdicts = {host_id: liveness.alive(host_id) for host_id in pending}
        alive = {host_id for host_id, verdict in verdicts.items() if verdict}
        pending = {host_id for host_id, verdict in verdicts.items() if verdict is None}
        if pending and not alive:
            sleep(PERIOD_S / 5)
    return alive
