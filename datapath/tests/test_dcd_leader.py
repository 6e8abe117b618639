# SPDX-License-Identifier: GPL-3.0-or-later
"""Decoders that several devices share, in models of their registers: what is undone, what stays, and whose it is then."""

from __future__ import annotations

import contextlib

import pytest
from dcd_model import HDM, Model

from cxl_datapath.dcd.decoder import UNIT, Decoders
from cxl_datapath.dcd.leader import Hop, Leader
from cxl_datapath.errors import DatapathError

WINDOW = (4 * UNIT, 16 * UNIT)


class Fabric:
    """A bridge with two devices, at its ports 3 and 7."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, int]] = []
        self.leader = Leader(lambda: self.taken)
        self.registers = Model()._component
        self.bridge = Decoders(self.registers, 0, "bridge", device=False)
        self.devices = [Decoders(Model()._component, 0, f"d{number}") for number in range(2)]
        self.hops = [[Hop("bridge", port, 0, lambda: contextlib.nullcontext(self.registers))] for port in (3, 7)]

    def lead(self, number: int) -> tuple[int, int]:
        return self.leader.lead(self.hops[number], self.devices[number], UNIT, WINDOW)[0]

    def unlead(self, number: int, range_: tuple[int, int]) -> None:
        self.leader.unlead(self.hops[number], self.devices[number], range_)

    def committed(self) -> list[bool]:
        return [each.committed for each in self.bridge.all()[:2]]


@pytest.mark.parametrize("somebody", [False, True])
def test_what_was_left_goes_unless_somebody_has_it_meanwhile(somebody):
    fabric = Fabric()
    first, second = fabric.lead(0), fabric.lead(1)
    assert (first, second) == ((4 * UNIT, UNIT), (5 * UNIT, UNIT))
    fabric.unlead(0, first)
    assert fabric.committed() == [True, True] and not fabric.devices[0].all()[0].committed
    if somebody:
        fabric.taken = [first]
    fabric.unlead(1, second)
    assert fabric.committed() == [somebody, False]


def test_a_note_of_what_is_gone_is_none_any_more():
    fabric = Fabric()
    first, second = fabric.lead(0), fabric.lead(1)
    fabric.unlead(0, first)
    fabric.bridge.uncommit(0)
    fabric.unlead(1, second)
    fabric.bridge.commit(0, first, 9)
    again = fabric.lead(1)
    fabric.unlead(1, again)
    assert fabric.committed() == [True, False], "the same addresses, of somebody else"


def test_a_bridge_that_does_not_commit_leaves_nothing(monkeypatch):
    fabric = Fabric()
    monkeypatch.setattr(fabric.registers, "_stored", lambda offset: None)
    with pytest.raises(DatapathError, match="bridge: decoder 0 did not commit"):
        fabric.lead(0)
    assert not fabric.devices[0].all()[0].committed and fabric.registers.read32(HDM + 0x10) == 0


def test_another_device_gets_other_addresses_and_the_first_one_its_own():
    fabric = Fabric()
    first, second = fabric.lead(0), fabric.lead(1)
    fabric.unlead(0, first)
    assert fabric.lead(0) == first
    assert fabric.leader.is_intact(fabric.hops[0], fabric.devices[0], first)
    assert not fabric.leader.is_intact(fabric.hops[0], fabric.devices[0], second)
