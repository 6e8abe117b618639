# SPDX-License-Identifier: GPL-3.0-or-later
"""The topology of a lab: what a user wrote, typed and complete.

QEMU accepts many a wrong topology without a word (a duplicate serial, a size that the driver will not bind) and refuses others
late, with a message that names a property and not the cause. Hence all checks are done here (``schema`` for what an entry knows
alone, ``rules`` for the rest), before anything starts.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any, Mapping, Sequence

from ..errors import LabError
from .fields import CAPACITY_UNIT, Errors, read_entry, read_list, read_mapping
from .records import DEFAULT_BRIDGE, Bridge, Host, Memory, Network, Pool, Switch, Topology, Window, root_of
from .references import drop_unknown_references
from .rules import check_together
from .schema import SECTIONS, SHORT

GIB = 1 << 30
#: Automatic serial numbers: this one plus the place of the device in the list, from 1 on.
FIRST_SERIAL = 0xC0DE0000
DEFAULT_LSA_SIZE = 1 << 20
#: Problems that a message carries; nobody reads thousands, and Ansible shows each result several times.
MAX_TOLD = 100


def parse_topology(data: object) -> Topology:
    """Checks what a user wrote and returns it typed and complete.

    :raises LabError: one message with every problem: its path, the value, the reason and the fix.
    """
    errors = Errors()
    top = read_mapping(errors, "cxl_topology", data, [*SECTIONS, *SHORT])
    entries = {
        section: [
            read_entry(errors, f"{section}[{index}]", entry, fields)
            for index, entry in enumerate(read_list(errors, section, top.get(section, [])))
        ]
        for section, fields in SECTIONS.items()
    }
    short = {
        key: errors.tried(lambda f=field, k=key: f.read(top[k], k)) if top.get(key) is not None else None  # type: ignore[misc]
        for key, field in SHORT.items()
    }
    drop_unknown_references(errors, entries)
    topology = _complete(entries, short)
    check_together(errors, topology, {key for key in SHORT if top.get(key) is not None and entries[f"{key}s"]})
    if errors.found:
        more = [f"and {len(errors.found) - MAX_TOLD} more"] if len(errors.found) > MAX_TOLD else []
        told = [*errors.found[:MAX_TOLD], *more]
        raise LabError("topology", f"{len(errors.found)} problem(s)\n  - " + "\n  - ".join(told))
    return topology


def _complete(entries: Mapping[str, Sequence[Mapping[str, Any]]], short: Mapping[str, Any]) -> Topology:
    """Typed records with every default filled in. What was wrong is replaced by something that leads to no further problem."""
    names = tuple(dict.fromkeys(entry["name"] for entry in entries["hosts"]))
    memories = _memories(entries, names)
    bridges = [
        Bridge(entry["name"], entry["ports"], entry["bus"], bool(entry["hdm_for_passthrough"]), entry["hosts"] or names)
        for entry in entries["bridges"]
    ]
    if not bridges and (memories or entries["windows"] or entries["switches"]):
        seen = {host for memory in memories for host in memory.hosts} or set(names)
        bridges = [Bridge(DEFAULT_BRIDGE, None, None, False, tuple(host for host in names if host in seen))]
    topology = Topology(
        hosts=tuple(_host(entry) for entry in entries["hosts"]),
        memories=tuple(memories),
        pools=tuple(Pool(entry["name"], entry["size"] or CAPACITY_UNIT) for entry in entries["pools"]),
        bridges=tuple(bridges),
        switches=tuple(
            Switch(entry["name"], entry["parent"] or "", entry["port"], entry["ports"]) for entry in entries["switches"]
        ),
        windows=tuple(
            Window(
                entry["size"] or CAPACITY_UNIT,
                entry["targets"] or tuple(bridge.name for bridge in bridges),
                entry["granularity"] or 256,
            )
            for entry in entries["windows"]
        ),
        networks=tuple(_networks(entries["networks"], names, short["network"])),
    )
    return topology if topology.windows else _with_windows(topology, short["window"])


def _host(entry: Mapping[str, Any]) -> Host:
    given = {key: value for key, value in entry.items() if value is not None}
    return Host(**{"memory": 2 * GIB, "cpus": 1, **given})


def _memories(entries: Mapping[str, Sequence[Mapping[str, Any]]], hosts: tuple[str, ...]) -> list[Memory]:
    first = next((entry["name"] for entry in entries["bridges"]), DEFAULT_BRIDGE)
    taken = {entry["serial"] for entry in entries["memories"]}
    memories = []
    for place, entry in enumerate(entries["memories"], 1):
        automatic = next(
            number for number in range(FIRST_SERIAL + place, FIRST_SERIAL + place + len(taken) + 1) if number not in taken
        )
        serial = entry["serial"] or automatic
        taken.add(serial)
        memories.append(
            Memory(
                name=entry["name"],
                size=entry["size"] or 0,
                serial=serial,
                lsa_size=(entry["lsa_size"] or DEFAULT_LSA_SIZE) if entry["size"] or entry["lsa_size"] else 0,
                hosts=entry["hosts"] or hosts,
                volatile=entry["volatile"] or 0,
                dynamic=entry["dynamic"] or 0,
                dc_regions=entry["dc_regions"] or (1 if entry["dynamic"] else 0),
                parent=entry["parent"] or first,
                port=entry["port"],
                pool=entry["pool"] or "",
                offset=entry["offset"] or 0,
                heads=entry["heads"] or 0,
            )
        )
    return memories


def _networks(entries: Sequence[Mapping[str, Any]], hosts: tuple[str, ...], subnet: Any) -> list[Network]:
    """The networks; without any, one named "lab" between all hosts, if there are several."""
    if not entries:
        entries = [{"name": "lab", "subnet": subnet, "kind": "auto", "hosts": hosts}] if hosts else []
    networks: list[Network] = []
    given = [entry["subnet"] for entry in entries if entry["subnet"]]
    for index, entry in enumerate(entries):
        on_it = entry["hosts"] or hosts
        automatic = "cable" if len(on_it) <= 2 else "switch"
        kind = automatic if entry["kind"] in ("auto", None) else entry["kind"]
        taken = [*given, *(network.subnet for network in networks)]
        free = entry["subnet"] or _free_subnet(index, 24 if len(on_it) <= 200 else 16, taken)
        networks.append(Network(entry["name"], free, kind, on_it))
    return networks


def _free_subnet(index: int, prefix: int, taken: Sequence[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """10.77.0.0 for the first network, 10.78.0.0 for the second and so on, around what is taken; the first if all are."""
    beginnings = [f"10.{second}" for second in (*range(77, 256), *range(1, 77))]
    beginnings += [f"172.{second}" for second in range(16, 32)] + ["192.168"]
    around = [*beginnings[index:], *beginnings[:index]]
    subnets = (ipaddress.IPv4Network(f"{beginning}.0.0/{prefix}") for beginning in around)
    return next((one for one in subnets if not any(map(one.overlaps, taken))), ipaddress.IPv4Network(f"10.77.0.0/{prefix}"))


def _with_windows(topology: Topology, size: int | None) -> Topology:
    """A window above each bridge; without a size as large as the memory below it on the host that has most, and at least 4G."""
    need: dict[str, int] = {}
    for host in topology.hosts:
        per_bridge: dict[str, int] = {}
        for memory in topology.memories_of(host.name):
            bridge = root_of(memory.parent, topology.above)
            per_bridge[bridge] = per_bridge.get(bridge, 0) + memory.capacity
        need = {bridge: max(need.get(bridge, 0), per_bridge.get(bridge, 0)) for bridge in {*need, *per_bridge}}
    windows = tuple(Window(size or max(4 * GIB, need.get(bridge.name, 0)), (bridge.name,), 256) for bridge in topology.bridges)
    return replace(topology, windows=windows)
