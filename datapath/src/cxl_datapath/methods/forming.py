# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of a memory before anything is written over it, whatever it is to become: that nobody is in it, and that it is
all there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache

from ..backing import allocate, held, looked_at, looks
from ..cbd.occupants import Occupants
from ..cbd.transport import in_use, probe
from ..errors import Code, DatapathError
from ..mapping import Bytes, Mapping
from ..memory import Memory
from ..waits import Sleep, Waits


@dataclass(frozen=True)
class Ground:
    """A memory that nobody had locked when it was looked at first. `seen` reads it without a mapping, where that is possible."""

    memory: Memory
    name: str  # of the transport that was there, or else of the memory
    seen: Bytes
    alive: Callable[[], list[str]]  # names of the hosts whose heartbeat moves in it; may take a lease
    moved: Callable[[], list[str]]  # hosts that came or wrote since it was looked at first
    sleep: Sleep

    def refuse_living(self) -> None:
        """Raises `busy` while a host is in a transport there: force does not help against that."""
        self._refuse(self.alive())

    def refuse_moved(self) -> None:
        self._refuse(self.moved())

    def _refuse(self, hosts: list[str]) -> None:
        if hosts:
            raise in_use(self.name, hosts)

    @contextmanager
    def taken(self) -> Iterator[Mapping]:
        """The memory with all of its bytes, while nobody else has it. Raises `busy` and `full`."""
        with self.alone(self.moved) as fd:
            allocate(self.memory, fd)
            with Mapping(self.memory) as mapping:
                yield mapping

    @contextmanager
    def alone(self, hosts: Callable[[], list[str]]) -> Iterator[int]:
        """`held`; where it is not, the hosts that are in the transport say more than that somebody has a lock. One that is about
        to come has the lock some time before it has an entry."""
        with ExitStack() as stack:
            for last in looks(self.sleep):
                try:
                    fd = stack.enter_context(held(self.memory))
                    break
                except DatapathError as error:
                    if error.code == Code.BUSY:
                        self._refuse(hosts())
                    if error.code != Code.BUSY or last:
                        raise
            yield fd


@contextmanager
def ground(memory: Memory, waits: Waits, sleep: Sleep) -> Iterator[Ground]:
    """Raises `busy` when somebody has the memory: transports, backends and pools lock what they have.

    It is not held while hosts are waited for: they may still come, and `taken` looks again.
    """
    with looked_at(memory) as seen:
        info = probe(seen).info
        occupants = Occupants(seen, info)

        @cache
        def alive() -> list[str]:
            with waits.on(f"the hosts in {memory.spec} to be silent for {occupants.lease_s:g} s"):
                return occupants.alive(sleep)

        ours = Ground(memory, info.name if info else memory.spec, seen, alive, occupants.moved, sleep)
        with ours.alone(lambda: alive() or occupants.moved()):
            pass
        yield ours
