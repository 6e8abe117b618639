# SPDX-License-Identifier: GPL-3.0-or-later
"""How long loops look for work: as long as a short sleep lasts, within limits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cxl_datapath import idle


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    idle.idle_conf.cache_clear()
    yield
    idle.idle_conf.cache_clear()


@pytest.mark.parametrize(("sleep", "spin"), [(24, 100), (650, 650), (1e6, 2000)])
def test_loops_look_for_as_long_as_a_short_sleep_lasts(monkeypatch, sleep, spin):
    monkeypatch.setattr(idle, "shortest_sleep_us", lambda: int(sleep))
    conf = idle.idle_conf()
    assert (conf.spin_us, conf.idle_cap_us) == (spin, 0)


def test_the_shortest_of_a_few_sleeps_counts(monkeypatch):
    sleeps = iter([900, 640, 12000, 655, 700])
    monkeypatch.setattr(idle, "_sleep_us", lambda: next(sleeps))
    assert idle.shortest_sleep_us() == 640


def test_a_sleep_is_measured_on_this_machine():
    assert idle.shortest_sleep_us() >= idle.SHORT_SLEEP_S * 1e6
