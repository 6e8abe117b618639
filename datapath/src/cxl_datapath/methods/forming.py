# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of a memory before anything is written over it, whatever it is to become: that nobody is in it, and that it is
all there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..backing import allocate, held, looked_at
from ..cbd.occupants import Occupants
from ..cbd.transport import in_use, probe
from ..mapping import Bytes
from ..memory import Memory
from ..waits import Sleep, Waits


@dataclass(frozen=True)
class Ground:
    """A memory that nobody else locks, until the end of `ground`. `seen` reads it without a mapping, where that is possible."""

    memory: Memory
    seen: Bytes
    alive: Callable[[], list[str]]  # names of the hosts whose heartbeat moves in it; may take a lease
    fill: Callable[[], None]  # gives it all of its bytes; raises `full`
    moved: Callable[[], list[str]]  # hosts that came or wrote since it was looked at first

    def refuse_living(self) -> None:
        """Raises `busy` while a host is in a transport there: force does not help against that."""
        self._refuse(self.alive())

    def refuse_moved(self) -> None:
        self._refuse(self.moved())

    def _refuse(self, hosts: list[str]) -> None:
        if hosts:
            info = probe(self.seen).info
            raise in_use(info.name if info else self.memory.spec, hosts)


@contextlib.contextmanager
def ground(memory: Memory, waits: Waits, sleep: Sleep) -> Iterator[Ground]:
    """Raises `busy` when somebody has the memory: backends lock their files, pools their memory."""
    with held(memory) as fd, looked_at(memory) as seen:
        occupants = Occupants(seen, probe(seen).info)

        def alive() -> list[str]:
            with waits.on(f"the hosts in {memory.spec} to be silent for {occupants.lease_s:g} s"):
                return occupants.alive(sleep)

        yield Ground(memory, seen, alive, lambda: allocate(memory, fd), occupants.moved)
