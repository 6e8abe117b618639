# SPDX-License-Identifier: GPL-3.0-or-later
"""How long requests wait for a backend that is away: longer than it takes to tell a host that restarts from one that died."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import LEASE_MS, MEMORY, Lab, needs_nbd, stopped

from cxl_datapath.cbd.layout import LEASE_MS_MAX, LEASE_MS_MIN
from cxl_datapath.cbd.liveness import check_io_timeout, io_timeout_s
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.state import IO_TIMEOUT


@given(st.integers(LEASE_MS_MIN, LEASE_MS_MAX).map(lambda lease_ms: lease_ms / 1000))
def test_what_nobody_chose_is_above_two_leases_and_possible(lease_s: float) -> None:
    found = io_timeout_s(lease_s)
    assert found >= 120 and found >= 2 * lease_s + 10
    assert IO_TIMEOUT("io_timeout", found) == found
    check_io_timeout("blkdev", found, lease_s)


@given(st.floats(1, 600), st.integers(1, 86400))
def test_what_fails_before_a_lease_is_over_is_refused(lease_s: float, chosen: int) -> None:
    if chosen >= lease_s:
        check_io_timeout("blkdev", chosen, lease_s)
        return
    with pytest.raises(DatapathError) as caught:
        check_io_timeout("blkdev", chosen, lease_s)
    assert caught.value.code == Code.RANGE


@needs_nbd
def test_a_device_waits_longer_than_the_lease_of_its_transport(lab: Lab, shared_file: Callable[[int], Path]) -> None:
    disk, start = str(lab.disk()), {"transport": "pool0", "backend": 0, "frontend": "nbdkit"}
    lab.node1.call("cbd.backend.start", transport="pool0", path=disk)
    error = lab.node2.refuse(Code.RANGE, "cbd.blkdev.start", **start, io_timeout=LEASE_MS // 1000)
    assert "2.5 s" in error.message and "choose at least 3" in error.hint
    assert lab.node2.call("cbd.blkdev.list", transport="pool0") == []
    for chosen in ({"io_timeout": 3}, {"io_timeout": 3}, {}):  # the same again is no error; then what nobody chose
        if not chosen:
            assert stopped(lab.node2)
        assert lab.node2.call("cbd.blkdev.start", **start, **chosen)["io_timeout"] == chosen.get("io_timeout", 120)

    slow, other = str(shared_file(MEMORY)), str(lab.disk("other"))
    lab.node1.call("cbd.transport.format", memory=slow, name="slow", lease_ms=90_000)
    lab.node1.call("cbd.transport.register", memory=slow)
    lab.node1.call("cbd.backend.start", transport="slow", path=other)
    made = lab.node1.cli("--json", "cbd", "blkdev", "start", "slow", "0", "--frontend", "nbdkit")
    assert '"io_timeout": 190' in made.stdout, made.stderr
    assert lab.node1.cli("cbd", "blkdev", "start", "slow", "0", "--frontend", "nbdkit").returncode == 0, "the same again"
