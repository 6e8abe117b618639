# SPDX-License-Identifier: GPL-3.0-or-later
"""The claim of a transport between real processes over the C core, some of which are killed with it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from claimants import PATIENCE_S, Claimant

from cxl_datapath.cbd.geometry import FormatOptions
from cxl_datapath.cbd.transport import plan_format, write_format
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import resolve


@pytest.fixture
def claimants(shared_file: Callable[[int], Path]) -> Iterator[Callable[[int], list[Claimant]]]:
    """Registered hosts, a process each, in one transport; the lease is long enough for a loaded machine."""
    made: list[Claimant] = []

    def make(count: int) -> list[Claimant]:
        memory = shared_file(1 << 20)
        with Mapping(resolve(str(memory))) as mapping:
            options = FormatOptions(hosts=count, backends=200, blkdevs=1, channels=1, ring_depth=2, slot_bytes=4096)
            write_format(mapping, plan_format(mapping.size, "pool0", options, "software", True, lease_ms=3000))
        made.extend(Claimant(memory, f"node{number}") for number in range(count))
        for claimant in made:
            claimant.ask("register")
        return made

    yield make
    for claimant in made:
        claimant.kill()


def together(claimants: list[Claimant], command: str) -> list[Any]:
    for claimant in claimants:
        claimant.tell(command)
    return [claimant.answer() for claimant in claimants]


def test_no_id_is_given_twice_by_processes_that_allocate_at_the_same_time(claimants):
    found = together(claimants(4), "allocate 25")
    assert sorted(number for numbers in found for number in numbers) == list(range(100))


def test_the_others_go_on_after_kill_9_of_a_holder(claimants):
    holder, *others = claimants(3)
    assert holder.ask("hold")
    holder.kill()
    found = together(others, "allocate 5")
    assert sorted(number for numbers in found for number in numbers) == list(range(10))


def test_the_others_go_on_when_hosts_kill_themselves_at_any_access(claimants):
    everybody = claimants(8)
    mortal, others = everybody[:6], everybody[6:]
    for number, claimant in enumerate(mortal):
        claimant.tell(f"die {40 + 53 * number}")
    found = [number for numbers in together(others, "allocate 20") for number in numbers]
    assert len(found) == len(set(found)) == 40
    for claimant in mortal:
        assert claimant.process.wait(PATIENCE_S) == -signal.SIGKILL
