# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting ends with the state that was wanted, or with the last one that was seen."""

from __future__ import annotations

import itertools

import pytest
from ansible.module_utils.cxl_lab import waiting
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.waiting import wait_until


@pytest.fixture
def clock(monkeypatch):
    """Time passes only while somebody sleeps."""
    now = [100.0]

    class Clock:
        monotonic = staticmethod(lambda: now[0])
        sleep = staticmethod(lambda seconds: now.__setitem__(0, now[0] + seconds))

    monkeypatch.setattr(waiting, "time", Clock)
    return now


def test_returns_the_state_that_was_waited_for(clock):
    counter = itertools.count()
    assert wait_until(lambda: next(counter), lambda state: state == 3, "host a", "three", timeout=10, sleep=1) == 3
    assert clock == [103.0]


def test_the_end_of_the_time_tells_the_last_state(clock):
    counter = itertools.count()
    with pytest.raises(LabError, match=r"^host a: waited 2 s for nothing; look$") as caught:
        wait_until(lambda: next(counter), lambda state: False, "host a", "nothing", timeout=2, sleep=1, next_step="look")
    assert caught.value.observed == 2 and clock == [102.0]


def test_no_time_is_one_look(clock):
    seen = []
    with pytest.raises(LabError):
        wait_until(lambda: seen.append(1), lambda state: False, "host a", "nothing", timeout=0)
    assert seen == [1] and clock == [100.0]
    assert wait_until(lambda: "up", lambda state: True, "host a", "nothing", timeout=0) == "up"


def test_what_the_probe_raises_comes_through(clock):
    def probe():
        raise LabError("host a", "is gone")

    with pytest.raises(LabError, match="is gone"):
        wait_until(probe, lambda state: False, "host a", "nothing", timeout=9)
