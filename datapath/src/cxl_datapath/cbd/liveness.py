# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is alive: heartbeat counters, judged with the observer's own monotonic clock. A wall clock never decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import ceil

from ..errors import Code, DatapathError
from .lines import Heartbeat


def period_s(lease_s: float) -> float:
    """Seconds between two beats of a host; a loaded machine may miss several within its lease."""
    return min(0.5, lease_s / 5)


def look_s(lease_s: float) -> float:
    """Seconds between two looks of a backend at its own lease and at the bells: several within any lease."""
    return min(0.25, lease_s / 10)


def claim_patience_s(lease_s: float) -> float:
    """Seconds to wait for the claim of a transport: above the longest change of another host, a takeover, which waits a lease
    after its fence; and should that host die with the claim, it counts as dead one lease later."""
    return max(60.0, 2 * lease_s + 10)


IO_TIMEOUT_S = 120


def io_timeout_s(lease_s: float) -> int:
    """Seconds for which requests wait for a backend that is away, where a user does not say: above what its host takes to come
    back, which watches its own earlier life for a lease, and to be known as dead, one more."""
    return max(IO_TIMEOUT_S, ceil(2 * lease_s + 10))


def check_io_timeout(what: str, io_timeout: int, lease_s: float) -> None:
    """Raises `range` where requests would fail before a lease can tell anything: each restart of a host would be an error."""
    if io_timeout < lease_s:
        why = f"an I/O timeout of {io_timeout} s is below the lease of the transport, {lease_s:g} s: a restart takes longer"
        hint = f"choose at least {ceil(lease_s)}, or none: then it is {io_timeout_s(lease_s)}"
        raise DatapathError(Code.RANGE, what, why, hint)


@dataclass
class _Seen:
    heartbeat: Heartbeat | None
    epoch: int  # of the host's entry
    since: float  # own clock, when it was first seen like this
    moved: bool
    looked: float  # own clock, at the last look


class Liveness:
    """What an observer knows of its peers. `lease_s`: a heartbeat that stands still for so long is that of a dead host.

    Time in which the observer did not look says nothing of the others: it was suspended, or waited for its own disk, and they
    may have been, too. Whoever did not look for half a lease begins anew.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._seen: dict[int, _Seen] = {}

    def observe(self, host_id: int, heartbeat: Heartbeat | None, epoch: int) -> None:
        """One look at a heartbeat line and at the epoch in the entry. A line that is None is torn or was never written, and
        says nothing."""
        seen, now = self._seen.get(host_id), self._clock()
        if seen is None or epoch != seen.epoch:
            self._seen[host_id] = _Seen(heartbeat, epoch, now, False, now)
        elif heartbeat is not None and heartbeat != seen.heartbeat:
            # A first valid line after none is not yet a sign of life: it may have been torn by our own look.
            self._seen[host_id] = _Seen(heartbeat, epoch, now, seen.heartbeat is not None, now)
        elif self._was_away(seen, now):
            self._seen[host_id] = _Seen(seen.heartbeat, epoch, now, False, now)
        else:
            self._seen[host_id] = replace(seen, looked=now)

    def forget(self, host_id: int) -> None:
        self._seen.pop(host_id, None)

    def alive(self, host_id: int, epoch: int | None = None) -> bool | None:
        """True: its counter moved within the lease; False: it did not for that long; None: not watched long enough, or not now.

        With `epoch` the answer is about this incarnation, and None where another one was seen. Who is going to fence must give
        it, or a host that came back a moment ago would be taken for the one that died.
        """
        seen = self._seen.get(host_id)
        now = self._clock()
        if seen is None or epoch not in (None, seen.epoch) or self._was_away(seen, now):
            return None
        if now - seen.since >= self._lease_s:
            return False
        return True if seen.moved else None

    def _was_away(self, seen: _Seen, now: float) -> bool:
        return now - seen.looked >= self._lease_s / 2


def watch(
    read: Callable[[int], Heartbeat | None],
    host_ids: Iterable[int],
    lease_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> set[int]:
    """Blocks until each host is known, at most `lease_s`; returns the live ones."""
    liveness = Liveness(lease_s, clock)
    pending = set(host_ids)
    alive: set[int] = set()
    while pending:
        for host_id in pending:
            liveness.observe(host_id, read(host_id), 0)
        verdicts = {host_id: liveness.alive(host_id) for host_id in pending}
        alive |= {host_id for host_id, verdict in verdicts.items() if verdict}
        pending = {host_id for host_id, verdict in verdicts.items() if verdict is None}
        if pending:
            sleep(period_s(lease_s) / 5)
    return alive
