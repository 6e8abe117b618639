# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lock between hosts is, and two of them as one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class HostLock(Protocol):
    """Blocking calls, for a thread. A holder that was away for too long may have lost the lock: it asks before each write."""

    def acquire(self, patience_s: float) -> None:
        """Returns with the lock; raises `busy` when it took longer."""

    def check(self) -> None:
        """Raises `busy` unless the lock is still ours."""

    def release(self) -> None:
        """Gives it back; does nothing without it."""


class Both:
    """Two locks as one: taken in order, given back in reverse. `patience_s` is for both together."""

    def __init__(self, first: HostLock, second: HostLock, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = first
        self._second = second
        self._clock = clock

    def acquire(self, patience_s: float) -> None:
        deadline = self._clock() + patience_s
        self._first.acquire(patience_s)
        try:
            self._second.acquire(max(0.0, deadline - self._clock()))
        except BaseException:
            self._first.release()
            raise

    def check(self) -> None:
        self._first.check()
        self._second.check()

    def release(self) -> None:
        try:
            self._second.release()
        finally:
            self._first.release()
