# SPDX-License-Identifier: GPL-3.0-or-later
"""The CXL fabric of one host: which port each switch and device is plugged into, and every number that QEMU wants. Pure.

Numbers that a user left out are found here; those that do not go together are problems, which the rules report.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Iterable, Sequence

from .records import Bridge, Memory, Switch, Topology, Window, root_of
from .schema import MAX_PORTS

#: Bus numbers from here on belong to CXL host bridges; libvirt's own root ports take the low ones.
FIRST_BUS, LAST_BUS = 64, 255

Problem = tuple[str, str, str]


@dataclass(frozen=True)
class BridgePlace:
    """A host bridge at a bus number of its own."""

    name: str
    bus: int
    hdm_for_passthrough: bool


@dataclass(frozen=True)
class Port:
    """A root port of a bridge or a downstream port of a switch; ``chassis`` and ``slot`` name it within a host."""

    parent: str
    number: int
    chassis: int
    of_switch: bool


@dataclass(frozen=True)
class Plug:
    """What is plugged into a port: the upstream port of a switch, or a device."""

    name: str
    parent: str
    number: int


@dataclass
class Fabric:
    """The fabric of a host, in an order in which nothing comes before what it is plugged into.

    :param programmed: bridges whose decoders a program of the guest sets, instead of its kernel.
    """

    bridges: list[BridgePlace] = field(default_factory=list)
    ports: list[Port] = field(default_factory=list)
    switches: list[Plug] = field(default_factory=list)
    devices: list[Plug] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    programmed: list[str] = field(default_factory=list)


def plan_fabric(topology: Topology, host: str) -> tuple[Fabric, list[Problem]]:
    """The fabric of ``host``, and what is wrong with it as (path, problem, fix)."""
    return _Planner(topology, host).plan()


class _Planner:
    """The plan in the making."""

    def __init__(self, topology: Topology, host: str) -> None:
        self._topology = topology
        self._host = host
        self._bridges = topology.bridges_of(host)
        names = {bridge.name for bridge in self._bridges}
        self._windows = [window for window in topology.windows if names.issuperset(window.targets)]
        self._children: dict[str, list[Switch | Memory]] = {}
        children: list[Switch | Memory] = [s for s in topology.switches if root_of(s.name, topology.above) in names]
        children += topology.memories_of(host)
        for child in children:
            self._children.setdefault(child.parent, []).append(child)
        self._fabric = Fabric(windows=self._windows)
        self._problems: list[Problem] = []

    def plan(self) -> tuple[Fabric, list[Problem]]:
        layouts = {bridge.name: self._buses_below(bridge) for bridge in self._bridges}
        for bridge, bus in self._place_bridges(layouts):
            self._fabric.bridges.append(BridgePlace(bridge.name, bus, bridge.hdm_for_passthrough))
            self._plug(bridge, bus)
            if self._is_programmed(bridge):
                self._fabric.programmed.append(bridge.name)
        return self._fabric, self._problems

    def _buses_below(self, parent: Bridge | Switch) -> int:
        """How many bus numbers a bridge or switch needs: its own, one behind each port, and those of the switches below."""
        below = [child for child in self._children.get(parent.name, ()) if isinstance(child, Switch)]
        return 1 + self._port_count(parent) + sum(map(self._buses_below, below))

    def _port_count(self, parent: Bridge | Switch) -> int:
        least = 2 if isinstance(parent, Bridge) and not self._is_passed_through(parent) else 1
        return parent.ports or max(least, *(number + 1 for number, _ in self._numbered(parent)), 0)

    def _is_passed_through(self, bridge: Bridge) -> bool:
        """A bridge with a single root port has no HDM decoders, and could carry one region only: others get a second port, which
        may stay empty. Dynamic capacity alone is better off so: its host needs no access to the registers of the bridge."""
        below = self._memories_below(bridge)
        alone = len(self._children.get(bridge.name, [])) == 1
        return alone and bool(below) and all(memory.dynamic == memory.capacity for memory in below)

    def _is_programmed(self, bridge: Bridge) -> bool:
        """Dynamic capacity below decoders: no stock kernel knows it, so that the host's daemon leads the window to it."""
        has_decoders = bridge.hdm_for_passthrough or self._port_count(bridge) > 1
        return has_decoders and any(memory.dynamic for memory in self._memories_below(bridge))

    def _memories_below(self, bridge: Bridge) -> list[Memory]:
        above = self._topology.above
        return [memory for memory in self._topology.memories_of(self._host) if root_of(memory.parent, above) == bridge.name]

    def _numbered(self, parent: Bridge | Switch) -> list[tuple[int, Switch | Memory]]:
        """The children with their ports: those that were asked for, and the next free one for the others."""
        children = self._children.get(parent.name, [])
        taken = {child.port for child in children if child.port is not None}
        free = iter(number for number in range(len(children) + len(taken)) if number not in taken)
        return [(next(free) if child.port is None else child.port, child) for child in children]

    def _place_bridges(self, need: dict[str, int]) -> Iterable[tuple[Bridge, int]]:
        used = {number for bridge in self._bridges if bridge.bus for number in range(bridge.bus, bridge.bus + need[bridge.name])}
        given = sum(need[bridge.name] for bridge in self._bridges if bridge.bus)
        if len(used) < given:
            self._problem(
                "bridges",
                "bus numbers overlap: each needs its own, one for each port and those of the switches below",
                "leave bus out",
            )
        for bridge in self._bridges:
            size = need[bridge.name]
            starts = range(FIRST_BUS, LAST_BUS + 2 - size)
            bus = bridge.bus or next((at for at in starts if used.isdisjoint(range(at, at + size))), 0)
            if not bus or bus + size - 1 > LAST_BUS:
                self._problem(
                    self._path(bridge), f"no room for its {size} bus numbers below {LAST_BUS + 1}", "use fewer ports or bridges"
                )
            used.update(range(bus, bus + size))
            yield bridge, bus or FIRST_BUS

    def _plug(self, parent: Bridge | Switch, bus: int) -> int:
        """Adds the ports of ``parent``, whose own bus is ``bus``, and all below them; returns the next free bus number."""
        numbered, count = self._numbered(parent), self._port_count(parent)
        self._check_ports(parent, numbered, count)
        for number in range(count):
            self._fabric.ports.append(Port(parent.name, number, bus, isinstance(parent, Switch)))
        after = bus + 1 + count
        for number, child in numbered:
            plug = Plug(child.name, parent.name, number)
            if isinstance(child, Switch):
                self._fabric.switches.append(plug)
                after = self._plug(child, after)
            else:
                self._fabric.devices.append(plug)
        return after

    def _check_ports(self, parent: Bridge | Switch, numbered: Sequence[tuple[int, Switch | Memory]], count: int) -> None:
        if count > MAX_PORTS or (not parent.ports and len(numbered) > MAX_PORTS):
            self._problem(
                self._path(parent),
                f"{parent.name} has {len(numbered)} children on {self._host}",
                f"use at most {MAX_PORTS}; a switch takes more",
            )
            return
        seen: dict[int, str] = {}
        for number, child in numbered:
            if number >= count:
                self._problem(
                    self._path(child), f"port {number} of {parent.name}, which has {count}", f"give {parent.name} more ports"
                )
            elif number in seen:
                self._problem(self._path(child), f"port {number} of {parent.name} is taken by {seen[number]}", "leave port out")
            seen[number] = child.name

    def _path(self, entry: Bridge | Switch | Memory) -> str:
        topology = self._topology
        for section, entries in (("bridges", topology.bridges), ("switches", topology.switches), ("memories", topology.memories)):
            if entry in entries:
                return f"{section}[{entries.index(entry)}]"
        raise AssertionError("unreachable")

    def _problem(self, path: str, problem: str, fix: str) -> None:
        self._problems.append((path, problem, fix))
