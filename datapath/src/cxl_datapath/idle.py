# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the loops of the core look for work before they sleep."""

from __future__ import annotations

import functools
import time

from .core import IdleConf

SHORT_SLEEP_S = 10e-6  # the first one of a loop, see core/idle.c
TRIES = 5
SPIN_MIN_US, SPIN_MAX_US = 100, 2000


@functools.cache
def idle_conf() -> IdleConf:
    """As long as the shortest sleep lasts here: looking for that long costs no more than the sleep that it may spare.

    A sleep of 10 us takes 30 to 80 on a real machine, and 600 and more where the processors are emulated.
    """
    spin = shortest_sleep_us()
    return IdleConf(min(max(spin, SPIN_MIN_US), SPIN_MAX_US), 0)


def shortest_sleep_us() -> int:
    """What is measured is a few of them; the shortest one had the least of what else the machine does."""
    return min(_sleep_us() for _ in range(TRIES))


def _sleep_us() -> int:
    start = time.monotonic_ns()
    time.sleep(SHORT_SLEEP_S)
    return (time.monotonic_ns() - start) // 1000
