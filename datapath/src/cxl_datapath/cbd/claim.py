# SPDX-License-Identifier: GPL-3.0-or-later
"""The claim of a transport: Lamport's bakery over the host entries, with plain loads and stores (docs/cbd-format.md, "Claim").

Whoever allocates an entry or a channel, clears, or takes over holds it. It needs no server and no atomic instruction; what it
does need of the memory is that a store is visible to every host before the writer's next load (`Bytes.write` returns only then).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..errors import Code, DatapathError
from .fencing import is_fenced, refuse_fenced
from .layout import U32_MAX, State
from .lines import Claim
from .registry import Registry

IDLE = Claim(0, False)
NUMBER_MAX = U32_MAX  # no honest ticket is above; the CRC shows every mixture of two words of tickets up to here
_POLL_S = 0.005


class Bakery:
    """The claim as one host takes it. Blocking calls, for a thread; two threads of one host take turns.

    `alive(host, epoch)` is what this host knows of an incarnation (`Liveness.alive`; epoch 0: that of a page that does not tell).
    Only one that is certainly dead is fenced, by `fence(host, epoch)`, and passed over. The host must go on beating meanwhile, or
    the others will do this to it.
    """

    def __init__(
        self,
        registry: Registry,
        registration_id: int,
        epoch: int,
        alive: Callable[[int, int], bool | None],
        fence: Callable[[int, int], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._registry = registry
        self._me = registration_id
        self._epoch = epoch
        self._name = registry.host_name(registration_id)
        self._alive = alive
        self._fence = fence
        self._clock = clock
        self._sleep = sleep
        self._mutex = threading.Lock()
        self._number = 0  # our ticket while we hold the claim

    def acquire(self, patience_s: float) -> None:
        """Returns with the claim. Raises `busy`, naming the host in the way, when it took longer than `patience_s`.

        A host that died with the claim is known to be dead after one lease; be patient for longer than that.
        """
        deadline = self._clock() + patience_s
        if not self._mutex.acquire(timeout=max(0.0, patience_s)):
            raise self._busy(self._name, "another operation of this host holds the claim", "try again")
        try:
            self._check_place()
            self._registry.write_claim(self._me, Claim(0, True))
            number = self._choose(deadline)
            self._registry.write_claim(self._me, Claim(number, False))
            for host in self._others():
                self._wait_for(host, number, deadline)
            self._number = number
            self.check()
        except BaseException:
            self._withdraw()
            raise

    def check(self) -> None:
        """Raises `busy` unless this host still holds the claim; to be called before each write that needs it."""
        stands = self._number > 0 and self._registry.claim(self._me) == Claim(self._number, False)
        self._check_place()
        if not stands:
            hint = "the operation was not finished; look at its objects, then repeat it"
            raise self._busy(self._name, "does not hold the claim any more", hint)

    def release(self) -> None:
        """Gives the claim back; does nothing without it."""
        if self._number:
            self._withdraw()

    def repair(self) -> None:
        """Makes the line of a host that wants nothing say so again: damaged, it would keep the others waiting for ever."""
        if not self._mutex.acquire(blocking=False):
            return  # the line says what a thread of ours wants
        try:
            if (
                self._registry.claim(self._me) != IDLE
                and self._is_ours()
                and not is_fenced(self._registry, self._me, self._epoch)
            ):
                self._registry.write_claim(self._me, IDLE)
        finally:
            self._mutex.release()

    def _withdraw(self) -> None:
        """The line is left alone when the entry became another incarnation's: it may be its ticket."""
        self._number = 0
        try:
            if self._is_ours() and not is_fenced(self._registry, self._me, self._epoch):
                self._registry.write_claim(self._me, IDLE)
        finally:
            self._mutex.release()

    def _others(self) -> list[int]:
        return [host for host in range(self._registry.hosts.count) if host != self._me]

    def _choose(self, deadline: float) -> int:
        """A number above all that stand. A line that cannot be read is waited for: a holder's ticket must not be missed."""
        return 1 + max((self._wait_for(host, None, deadline) for host in self._others()), default=0)

    def _wait_for(self, host: int, number: int | None, deadline: float) -> int:
        """The host's number as soon as it does not keep us, who have `number`, from going on; 0 when nobody is there."""
        while (epoch := self._registry.incarnation(host)) is not None and not self._is_fenced(host, epoch):
            claim = self._registry.claim(host)
            if claim is not None and claim.number > NUMBER_MAX:  # no host comes to it by choosing: it is no ticket
                claim = Claim(0, claim.choosing)
            if claim is not None and self._passable(host, claim, number):
                return claim.number
            if self._is_dead(host, epoch):
                return 0
            self._poll(host, deadline)
        return 0

    def _passable(self, host: int, claim: Claim, number: int | None) -> bool:
        if number is None:
            return claim.number < NUMBER_MAX
        return not claim.choosing and (claim.number == 0 or (claim.number, host) > (number, self._me))

    def _is_fenced(self, host: int, epoch: int) -> bool:
        return epoch > 0 and is_fenced(self._registry, host, epoch)

    def _is_dead(self, host: int, epoch: int) -> bool:
        """Whether the host in the way is certainly dead; it is fenced then, unless its damaged page does not tell its epoch."""
        if self._alive(host, epoch) is not False:
            return False
        if epoch:
            self._fence(host, epoch)
        return True

    def _poll(self, host: int, deadline: float) -> None:
        self._check_place()
        if self._clock() >= deadline:
            hint = "wait for its operation to end; a dead host is passed over one lease after its last heartbeat"
            raise self._busy(self._registry.host_name(host), "holds the claim of the transport or waits for it", hint)
        self._sleep(_POLL_S)

    def _check_place(self) -> None:
        ours = self._is_ours()
        refuse_fenced(
            self._registry, self._me, self._epoch, self._name
        )  # the last look, so that nothing comes between it and the caller
        if not ours:
            raise self._busy(self._name, "is not registered any more as it was", "was the transport formatted?")

    def _is_ours(self) -> bool:
        try:
            entry = self._registry.hosts.read(self._me)
        except DatapathError:
            return False
        return entry is not None and (entry.state, entry.epoch) == (State.RUNNING, self._epoch)

    def _busy(self, name: str, why: str, hint: str) -> DatapathError:
        return DatapathError(Code.BUSY, f"host {name}", why, hint)
