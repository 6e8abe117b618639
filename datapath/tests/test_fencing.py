# SPDX-License-Identifier: GPL-3.0-or-later
"""Fence lines: never lowered, never believed when torn, never left unwritten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ram import Ram

from cxl_datapath.cbd import fencing
from cxl_datapath.cbd.geometry import FormatOptions
from cxl_datapath.cbd.lines import FENCE_OFF, Fence
from cxl_datapath.cbd.registry import Registry
from cxl_datapath.cbd.transport import attach, plan_format, write_format
from cxl_datapath.errors import Code, DatapathError

SIZE = 1 << 20
OPTIONS = FormatOptions(hosts=3, backends=1, blkdevs=1, channels=1, ring_depth=2, slot_bytes=4096)


def new_registry() -> Registry:
    ram = Ram(SIZE)
    write_format(ram, plan_format(SIZE, "pool0", OPTIONS, "software", True))
    return Registry(ram, attach(ram, "memory"))


@pytest.fixture
def registry() -> Registry:
    return new_registry()


class Sleeper:
    """Each sleep lets somebody else do the next thing."""

    def __init__(self, *steps):
        self.steps = list(steps)

    def __call__(self, _seconds):
        if self.steps:
            self.steps.pop(0)()


def test_nothing_is_fenced_in_a_new_transport(registry):
    assert not any(fencing.is_fenced(registry, host, epoch) for host in range(3) for epoch in (1, 0xFFFFFFFF))


def test_a_fence_covers_all_incarnations_up_to_it_and_no_other_host(registry):
    fencing.fence(registry, 1, 5)
    assert [fencing.is_fenced(registry, 1, epoch) for epoch in (1, 5, 6)] == [True, True, False]
    assert not fencing.is_fenced(registry, 0, 1)


@given(st.lists(st.integers(1, 0xFFFFFFFF), min_size=1, max_size=8))
def test_a_fence_is_never_lowered(epochs):
    registry = new_registry()
    for count, epoch in enumerate(epochs, 1):
        fencing.fence(registry, 0, epoch, lambda _: None)
        assert registry.fence(0) == Fence(max(epochs[:count]))


def test_a_fence_that_another_host_lowers_at_the_same_moment_is_written_again(registry):
    late = Sleeper(lambda: registry.write_fence(0, Fence(3)), lambda: None)
    fencing.fence(registry, 0, 7, late)
    assert registry.fence(0) == Fence(7)
    assert late.steps == []


def test_a_fence_that_never_stays_is_an_error_that_says_so(registry):
    with pytest.raises(DatapathError) as caught:
        fencing.fence(registry, 0, 7, lambda _: registry.write_fence(0, Fence(1)))
    assert (caught.value.code, "epoch 7" in caught.value.message, bool(caught.value.hint)) == (Code.FAILED, True, True)


def test_a_torn_line_is_looked_at_again_and_then_fences_nobody(registry):
    torn = Fence(9).pack()[:8] + Fence(3).pack()[8:]
    memory, offset = registry._memory, fencing.fence_line_off(registry, 0)
    memory.write(offset, torn)
    assert not fencing.is_fenced(registry, 0, 1)
    assert fencing.fenced_epoch(registry, 0, Sleeper(lambda: registry.write_fence(0, Fence(9)))) == 9
    memory.write(offset, torn)
    fencing.fence(registry, 0, 9)
    assert registry.fence(0) == Fence(9)


@given(st.binary(min_size=64, max_size=64))
def test_arbitrary_bytes_are_survived_and_can_be_fenced(raw):
    registry = new_registry()
    registry._memory.write(fencing.fence_line_off(registry, 0), raw)
    fencing.is_fenced(registry, 0, 1)
    fencing.fence(registry, 0, 1, lambda _: None)
    assert fencing.is_fenced(registry, 0, 1)


@pytest.mark.parametrize("host", [3, 0xFFFFFFFF, -1])
def test_a_host_that_cannot_be(registry, host):
    assert fencing.is_fenced(registry, host, 1)
    for refused in (lambda: fencing.fence(registry, host, 1), lambda: fencing.fence_line_off(registry, host)):
        with pytest.raises(DatapathError) as caught:
            refused()
        assert caught.value.code == Code.RANGE


@pytest.mark.parametrize("epoch", [0, -1, 1 << 32, (1 << 64) - 1])
def test_an_epoch_that_cannot_be_is_not_fenced(registry, epoch):
    with pytest.raises(DatapathError) as caught:
        fencing.fence(registry, 0, epoch)
    assert caught.value.code == Code.RANGE
    assert registry.fence(0) == Fence(0)


def test_the_offset_is_that_of_the_line(registry):
    fencing.fence(registry, 2, 4)
    offset = fencing.fence_line_off(registry, 2)
    assert offset == registry.hosts.page(2) + FENCE_OFF
    assert Fence.unpack(registry._memory.read(offset, 64)) == Fence(4)
