# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting is the same everywhere: a probe, a condition, a timeout that carries the last state."""

from __future__ import annotations

import time
from typing import Callable, TypeVar

from .errors import LabError

T = TypeVar("T")


def poll(probe: Callable[[], T], done: Callable[[T], bool], *, timeout: float, sleep: float = 0.2) -> tuple[T, bool]:
    """Probes until ``done(state)`` or until the time is over; returns the last state and whether it is that.

    :param timeout: seconds; zero probes once.
    """
    end = time.monotonic() + timeout
    while True:
        state = probe()
        reached = done(state)
        if reached or time.monotonic() >= end:
            return state, reached
        time.sleep(sleep)


def wait_until(
    probe: Callable[[], T],
    done: Callable[[T], bool],
    subject: str,
    what: str,
    *,
    timeout: float,
    sleep: float = 0.2,
    next_step: str = "",
) -> T:
    """Probes until ``done(state)``; returns that state.

    :param what: what is waited for, to follow "waited 30 s for".
    :param timeout: seconds; zero probes once.
    :raises LabError: with the last state as ``observed`` when the time is over.
    """
    state, reached = poll(probe, done, timeout=timeout, sleep=sleep)
    if reached:
        return state
    raise LabError(subject, f"waited {timeout:.0f} s for {what}", next_step, observed=state)
