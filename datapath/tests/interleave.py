# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs code that waits and shares a memory in any order of its loads and stores that a test chooses, one step at a time.

Each actor is a thread that runs only while it has the turn, and passes it on before each step. A schedule is the list of choices
of who goes next; `every_schedule` goes through all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise

Choose = Callable[[int], int]  # of so many runnable actors the one with this index goes next


class Stop(BaseException):
    """Ends an actor's thread at the step where it is, as a crash does."""


class _Actor:
    def __init__(self, name: int, work: Callable[[], None]) -> None:
        self.name = name
        self.work = work
        self.turn = threading.Lock()  # released by who gives it the turn
        self.turn.acquire()
        self.wake: float | None = None  # virtual time until which it sleeps
        self.polling: int | None = None  # number of stores at the time when it began to wait for one
        self.over = False
        self.crashed = False


class Steps:
    """`sleep` lasts exactly so long while steps take no time; `poll` waits for a store of another, or for time to pass."""

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self._actors: list[_Actor] = []
        self._end = threading.Lock()
        self._local = threading.local()
        self._error: BaseException | None = None
        self._closing = False
        self.now = 0.0
        self.stores = 0
        self.held: set[int] = set()  # actors that a test keeps from running

    def add(self, work: Callable[[], None]) -> int:
        self._actors.append(_Actor(len(self._actors), work))
        return len(self._actors) - 1

    def clock(self) -> float:
        return self.now

    def pause(self) -> None:
        """A point where another actor may go on."""
        if (actor := self._self()) is None:
            return
        self.survive()
        if (successor := self._next()) is not actor:
            self._give(successor)
            actor.turn.acquire()
        self.survive()

    def survive(self) -> None:
        """Ends the actor that calls if it crashed: no clean-up of its own gets anywhere either."""
        if (actor := self._self()) is not None and actor.crashed:
            raise Stop

    def _self(self) -> _Actor | None:
        """Whose thread this is; None outside of actors, where nothing has to wait for a turn."""
        return getattr(self._local, "actor", None)

    def sleep(self, seconds: float) -> None:
        if (actor := self._self()) is not None:
            actor.wake = self.now + seconds
            self.pause()

    def poll(self, seconds: float) -> None:
        if (actor := self._self()) is not None:
            actor.polling = self.stores
            self.sleep(seconds)

    def crash(self, name: int) -> None:
        """The actor ends where it is."""
        self._actors[name].crashed = True

    def ended(self, name: int) -> bool:
        return self._actors[name].over

    def run(self) -> None:
        """Until all have ended that are not held. Raises what the first actor raised."""
        threads = [threading.Thread(target=self._live, args=(actor,), daemon=True) for actor in self._actors]
        for thread in threads:
            thread.start()
        self._end.acquire()
        self._give(self._next())
        self._end.acquire()  # released by the last one
        self._closing = True
        for actor, thread in zip(self._actors, threads, strict=True):
            if not actor.over:
                actor.crashed = True
                actor.turn.release()
            thread.join()
        if self._error is not None:
            raise self._error

    def _next(self) -> _Actor | None:
        """Who goes on; None when nobody does."""
        while True:
            there = [actor for actor in self._actors if not actor.over and actor.name not in self.held]
            ready = [actor for actor in there if self._is_ready(actor)]
            if ready or not there:
                break
            self.now = min(actor.wake for actor in there if actor.wake is not None)
        if not ready:
            return None
        chosen = ready[self._choose(len(ready)) if len(ready) > 1 else 0]
        chosen.wake = chosen.polling = None
        return chosen

    def _give(self, actor: _Actor | None) -> None:
        (self._end if actor is None else actor.turn).release()

    def _is_ready(self, actor: _Actor) -> bool:
        stored = actor.polling is not None and self.stores > actor.polling
        return stored or actor.crashed or actor.wake is None or actor.wake <= self.now

    def _live(self, actor: _Actor) -> None:
        self._local.actor = actor
        actor.turn.acquire()
        try:
            self.survive()
            actor.work()
        except Stop:
            pass
        except BaseException as error:
            self._error = self._error or error
        actor.over = True
        if not self._closing:
            self._give(None if self._error else self._next())


class Turns:
    """A memory whose loads and stores are steps. `torn`: each store of more than 8 bytes is two, of 8 bytes and of the rest."""

    def __init__(self, memory, steps: Steps, torn: bool = False, matters: Callable[[int], bool] = lambda _: True) -> None:
        self._memory = memory
        self._steps = steps
        self._torn = torn
        self._matters = matters  # offset -> whether an access to it is a step

    @property
    def size(self) -> int:
        return self._memory.size

    def read(self, offset: int, length: int) -> bytes:
        if self._matters(offset):
            self._steps.pause()
        return self._memory.read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        cuts = [0, 8, len(data)] if self._torn and len(data) > 8 else [0, len(data)]
        for start, end in pairwise(cuts):
            if self._matters(offset):
                self._steps.pause()
            self._steps.survive()
            self._memory.write(offset + start, data[start:end])
            self._steps.stores += 1


def every_schedule(run: Callable[[Choose], None]) -> int:
    """Runs `run` with every schedule there is, depth first; returns how many there are."""
    prefix: list[int] = []
    for count in range(1, 1_000_000):
        taken: list[tuple[int, int]] = []

        def choose(options: int, taken: list[tuple[int, int]] = taken, prefix: Sequence[int] = tuple(prefix)) -> int:
            choice = prefix[len(taken)] if len(taken) < len(prefix) else 0
            taken.append((choice, options))
            return choice

        run(choose)
        while taken and taken[-1][0] == taken[-1][1] - 1:
            taken.pop()
        if not taken:
            return count
        prefix = [choice for choice, _ in taken[:-1]] + [taken[-1][0] + 1]
    raise AssertionError("too many schedules")
