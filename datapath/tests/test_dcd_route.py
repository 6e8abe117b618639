# SPDX-License-Identifier: GPL-3.0-or-later
"""Which decoders are programmed and freed between a window and devices: a fabric whose components insist on the order of the
specification, and lead each address where their decoders say."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxl_datapath.dcd.decoder import COMMITTED, LOCK, UNIT, Decoder
from cxl_datapath.dcd.ranges import overlap
from cxl_datapath.dcd.route import Stage, Write, is_intact, plan_release, plan_route
from cxl_datapath.errors import Code, DatapathError

WINDOW = (4 * UNIT, 24 * UNIT)
FREE = Decoder(0, 0, 0, 0)


def committed(base: int, size: int, leads: int, control: int = COMMITTED) -> Decoder:
    """In units."""
    return Decoder(base * UNIT, size * UNIT, leads, control)


@dataclass
class Component:
    """Decoders that judge as hardware does (CXL 3.1, 8.2.4.20.12)."""

    name: str
    decoders: list[Decoder] = field(default_factory=lambda: [FREE] * 4)

    def commit(self, number: int, range_: tuple[int, int], leads: int) -> None:
        below = self.decoders[:number]
        assert all(each.committed for each in below), "decoder n only after n - 1"
        assert not any(each.committed for each in self.decoders[number:]), "and none is programmed that is in use"
        assert all(sum(each.range) <= range_[0] for each in below), "at rising addresses"
        self.decoders[number] = Decoder(*range_, leads, COMMITTED)

    def uncommit(self, number: int) -> None:
        assert self.decoders[number].committed and not any(each.committed for each in self.decoders[number + 1 :])
        self.decoders[number] = FREE

    def leads(self, address: int) -> int | None:
        found = [each.leads for each in self.decoders if each.committed and each.base <= address < sum(each.range)]
        assert len(found) <= 1
        return found[0] if found else None


class Fabric:
    """A bridge with two devices and a switch below, which has two devices and another switch with a device."""

    WAYS = (
        (("bridge", 3), ("d0", 0)),
        (("bridge", 7), ("d1", 0)),
        (("bridge", 5), ("switch", 3), ("d2", 0)),
        (("bridge", 5), ("switch", 7), ("d3", 0)),
        (("bridge", 5), ("switch", 1), ("deep", 3), ("d4", 0)),
    )

    def __init__(self) -> None:
        self.components = {name: Component(name) for way in self.WAYS for name, _ in way}
        self.routes: dict[int, tuple[int, int]] = {}
        self.left: set[tuple[str, tuple[int, int]]] = set()

    def stages(self, device: int) -> list[Stage]:
        return [Stage(name, leads, tuple(self.components[name].decoders)) for name, leads in self.WAYS[device]]

    def lead(self, device: int, size: int) -> None:
        stages = self.stages(device)
        route = plan_route(stages, size, WINDOW, self.kernel)
        for write in route.writes:
            stage = stages[write.stage]
            self.components[stage.name].commit(write.number, route.range, stage.leads)
        self.routes[device] = route.range
        self.left -= {(stage.name, route.range) for stage in stages}

    def unlead(self, device: int) -> None:
        stages, range_ = self.stages(device), self.routes.pop(device)
        for write in plan_release(stages, range_, self.left):
            name = stages[write.stage].name
            gone = self.components[name].decoders[write.number].range
            self.components[name].uncommit(write.number)
            self.left.discard((name, gone))
        self.left |= {
            (stage.name, range_) for stage in stages if any(d.range == range_ for d in self.components[stage.name].decoders)
        }

    kernel: tuple[tuple[int, int], ...] = ()

    def reached(self, address: int) -> int | None:
        """The device that an access arrives at."""
        ways = list(range(len(self.WAYS)))
        for depth in range(4):
            ways = [
                each
                for each in ways
                if depth >= len(self.WAYS[each])
                or self.components[self.WAYS[each][depth][0]].leads(address) == self.WAYS[each][depth][1]
            ]
        assert len(ways) <= 1
        return ways[0] if ways else None

    def check(self) -> None:
        for device, range_ in self.routes.items():
            assert is_intact(self.stages(device), range_)
            assert WINDOW[0] <= range_[0] and sum(range_) <= sum(WINDOW) and not overlap([range_], self.kernel)
        for address in range(WINDOW[0], sum(WINDOW), UNIT):
            owner = next((device for device, (base, size) in self.routes.items() if base <= address < base + size), None)
            assert self.reached(address) == owner


steps = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), max_size=24)


@settings(max_examples=300)
@given(steps, st.lists(st.tuples(st.integers(4, 27), st.integers(1, 3)), max_size=2))
def test_every_address_arrives_at_its_device_whatever_comes_and_goes(steps, kernel):
    """A device that has no route gets one, or an error that changes nothing; one that has loses it."""
    fabric = Fabric()
    fabric.kernel = tuple((base * UNIT, size * UNIT) for base, size in kernel)
    for device, size in steps:
        if device in fabric.routes:
            fabric.unlead(device)
        else:
            try:
                fabric.lead(device, size * UNIT)
            except DatapathError as error:
                assert error.code == Code.FULL and error.hint
        fabric.check()
    for device in sorted(fabric.routes):
        fabric.unlead(device)
    assert not any(each.committed for component in fabric.components.values() for each in component.decoders)
    assert not fabric.left


@given(steps)
def test_the_same_again_is_no_change_and_an_interrupted_one_goes_on(steps):
    fabric = Fabric()
    for device, size in steps:
        if device not in fabric.routes:
            try:
                route = plan_route(fabric.stages(device), size * UNIT, WINDOW)
            except DatapathError:
                continue
            for done in range(1, len(route.writes)):
                half = Fabric()
                half.components = {name: Component(name, list(each.decoders)) for name, each in fabric.components.items()}
                stages = half.stages(device)
                for write in route.writes[:done]:
                    half.components[stages[write.stage].name].commit(write.number, route.range, stages[write.stage].leads)
                rest = plan_route(half.stages(device), size * UNIT, WINDOW)
                assert (rest.range, rest.writes) == (route.range, route.writes[done:])
            fabric.lead(device, size * UNIT)
            again = plan_route(fabric.stages(device), size * UNIT, WINDOW)
            assert (again.range, again.writes) == (fabric.routes[device], ())


raw = st.tuples(
    st.integers(0, 40),
    st.integers(0, 6),
    st.sampled_from([0, 3, 5, 0x0503]),
    st.sampled_from([0, COMMITTED, COMMITTED | 1, COMMITTED | LOCK]),
)


@settings(max_examples=300)
@given(st.lists(st.lists(raw, min_size=1, max_size=4), min_size=1, max_size=3), st.integers(0, 5))
def test_whatever_is_in_the_registers_no_decoder_in_use_is_touched(registers, size):
    stages = [
        Stage(f"stage{number}", 3 if number + 1 < len(registers) else 0, tuple(committed(*each) for each in decoders))
        for number, decoders in enumerate(registers)
    ]
    try:
        route = plan_route(stages, size * UNIT, WINDOW)
    except DatapathError as error:
        assert error.code in (Code.FULL, Code.BUSY, Code.INVALID)
    else:
        for write in route.writes:
            decoders = stages[write.stage].decoders
            assert not decoders[write.number].committed and all(each.committed for each in decoders[: write.number])
            assert not overlap([route.range], [each.range for each in decoders if each.committed])
        planned = {write.stage for write in route.writes}
        assert all(is_intact([stage], route.range) for index, stage in enumerate(stages) if index not in planned)
        for write in plan_release(stages, route.range):
            found = stages[write.stage].decoders[write.number]
            assert found.range == route.range and not found.locked


def test_from_the_device_up_and_from_the_window_down():
    stages = [Stage("bridge", 5, (FREE,) * 4), Stage("switch", 3, (FREE,) * 4), Stage("d2", 0, (FREE,) * 4)]
    route = plan_route(stages, UNIT, WINDOW)
    assert route.writes == (Write(2, 0), Write(1, 0), Write(0, 0)) and route.range == (WINDOW[0], UNIT)
    made = [Stage(stage.name, stage.leads, (committed(4, 1, stage.leads), *stage.decoders[1:])) for stage in stages]
    assert plan_release(made, route.range) == (Write(0, 0), Write(1, 0), Write(2, 0))


def test_words_for_what_cannot_be():
    alone = [Stage("d0", 0, (FREE,))]
    full = [Stage("bridge", 3, tuple(committed(4 + number, 1, 7) for number in range(4))), *alone]
    late = [Stage("bridge", 3, (committed(27, 1, 7), FREE)), *alone]
    elsewhere = [Stage("bridge", 3, (committed(4, 1, 7), FREE)), Stage("d0", 0, (committed(4, 1, 0),))]
    for stages, window, code, message in (
        (alone, (WINDOW[0], 0), Code.FULL, "has 0x0 bytes, the device needs 0x10000000; make the window larger"),
        (alone, (WINDOW[0] + 1, UNIT), Code.INVALID, "decoder 0 of d0: .* are not whole units of 256 MiB"),
        (full, WINDOW, Code.FULL, "bridge: has 4 decoders, and all are in use; destroy a region below it"),
        (late, WINDOW, Code.FULL, "no 0x10000000 bytes in a row from 0x1c0000000 to 0x1c0000000, behind"),
        (elsewhere, WINDOW, Code.BUSY, "decoder 0 of d0: leads 0x10000000 bytes at 0x40000000 elsewhere already"),
    ):
        with pytest.raises(DatapathError, match=message) as caught:
            plan_route(stages, UNIT, window)
        assert caught.value.code == code


def test_a_locked_decoder_stays_and_what_is_below_it():
    stages = [
        Stage("bridge", 3, (committed(4, 1, 3), committed(5, 1, 7, COMMITTED | LOCK))),
        Stage("d0", 0, (committed(4, 1, 0),)),
    ]
    assert plan_release(stages, (4 * UNIT, UNIT)) == (Write(1, 0),)
