# SPDX-License-Identifier: GPL-3.0-or-later
"""What no entry of a topology can know alone: names, references, ports, and whether the memory fits below the windows.

Everything that QEMU takes without a word and breaks later, or refuses with a message that names a property of its own.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Any, Iterable, Mapping, Sequence

from ..sizes import format_size
from .arguments import argument_problems
from .fabric import Fabric, plan_fabric
from .fields import CAPACITY_UNIT, Errors
from .records import FIRST_ADDRESS, Memory, Network, Topology, depth_of, root_of
from .references import shown_names
from .schema import MAX_BRIDGES, MAX_NETWORKS

#: An emulated CPU has 40 address bits: ordinary memory, PCI and the windows have to fit into 1 TiB.
MAX_WINDOWS = 512 << 30
#: Bus numbers of a host: a chain of switches takes two for each.
MAX_DEPTH = 64
#: Where QEMU's user network is, behind which the sshd of a host is reached.
CONTROL_SUBNET = ipaddress.IPv4Network("10.0.2.0/24")
#: Keys of memories that do not matter to what is plugged in where.
_OF_ITSELF = ("size", "volatile", "dynamic", "dc_regions", "serial", "lsa_size", "pool", "offset", "heads")
#: Windows and ordinary memory of a host: QEMU puts PCI's 64-bit hole behind them, and all has to end before 1012G, where AMD's
#: processors have a hole. An emulated one is of that kind.
MAX_ADDRESSES = 960 << 30
#: Only endpoints decode 3, 6 and 12 ways in QEMU; a window divides over as many bridges, and over at most 8 of them here.
WINDOW_WAYS = (1, 2, 3, 4, 6, 8)


def check_together(errors: Errors, topology: Topology, twice: Iterable[str]) -> None:
    """Reports everything that does not go together.

    :param twice: short forms ("window", "network") that were given beside the list that they abbreviate.
    """
    if not topology.hosts:
        errors.add("hosts", "the list is empty", "name at least one host")
    for key in sorted(twice):
        errors.add(key, f"has no effect beside {key}s", f"leave {key} out")
    _unique_names(errors, topology)
    _check_hosts(errors, topology)
    _check_switches(errors, topology)
    _check_devices(errors, topology)
    _check_networks(errors, topology)
    if not errors.about("windows", "bridges"):
        _check_windows(errors, topology)
    # With a wrong parent or port of one, the numbers of all would be wrong; what plugs nothing elsewhere hides no other problem.
    if not errors.about("memories", "bridges", "switches", "windows", but=_OF_ITSELF):
        _check_fabrics(errors, topology)


def _unique(errors: Errors, where: str, what: str, values: Iterable[object]) -> None:
    for value, count in sorted(Counter(values).items(), key=str):
        if count > 1:
            errors.add(where, f"{what} {value} is used {count} times", f"give each its own {what}")


def _unique_names(errors: Errors, topology: Topology) -> None:
    _unique(errors, "hosts", "name", [host.name for host in topology.hosts])
    ports = [port for host in topology.hosts for port in (host.ssh_port, host.gdb_port) if port]
    _unique(errors, "hosts", "ssh_port" if not any(host.gdb_port for host in topology.hosts) else "port", ports)
    _unique(errors, "memories", "name", [memory.name for memory in topology.memories])
    _unique(errors, "memories", "serial", [hex(memory.serial) for memory in topology.memories])
    memory_names = {memory.name for memory in topology.memories}
    _unique(errors, "pools", "name", [pool.name for pool in topology.pools])
    for pool in topology.pools:
        if pool.name in memory_names:
            errors.add("pools", f"name {pool.name} is that of a memory, too", "give each its own name")
    parents = [bridge.name for bridge in topology.bridges] + [switch.name for switch in topology.switches]
    _unique(errors, "bridges and switches", "name", parents)
    _unique(errors, "networks", "name", [network.name for network in topology.networks])


def _check_hosts(errors: Errors, topology: Topology) -> None:
    for index, host in enumerate(topology.hosts):
        if host.name == "localhost":
            errors.add(f"hosts[{index}].name", "localhost is what every machine calls itself", "choose another name")
        for problem, fix in argument_problems(host.qemu_arguments, bool(topology.memories_of(host.name))):
            errors.add(f"hosts[{index}].qemu_arguments", problem, fix)


def _check_switches(errors: Errors, topology: Topology) -> None:
    bridges = {bridge.name for bridge in topology.bridges}
    for index, switch in enumerate(topology.switches):
        if switch.parent and root_of(switch.name, topology.above) not in bridges:
            errors.add(f"switches[{index}].parent", f"{switch.name} hangs on itself", "plug one of its parents into a bridge")
        elif switch.parent and depth_of(switch.name, topology.above) > MAX_DEPTH:
            errors.add(
                f"switches[{index}].parent",
                f"{switch.name} is below {MAX_DEPTH} others or more",
                "plug it in closer to the bridge",
            )


def _check_devices(errors: Errors, topology: Topology) -> None:
    pools = {pool.name: pool.size for pool in topology.pools}
    bridges = {bridge.name: set(bridge.hosts) for bridge in topology.bridges}
    for index, memory in enumerate(topology.memories):
        path = f"memories[{index}]"
        for key, problem, fix in (*_device_problems(memory), *_pool_problems(memory, pools)):
            errors.add(f"{path}.{key}" if key else path, problem, fix)
        root = root_of(memory.parent, topology.above)
        if topology.above.get(memory.parent) in topology.above and root in bridges and not errors.about("bridges and switches"):
            problem = (
                f"{memory.parent} is below another switch, and QEMU routes memory through one switch only: no access would arrive"
            )
            errors.add(f"{path}.parent", problem, "plug it into a switch that hangs on a bridge")
        missing = [host for host in memory.hosts if host not in bridges.get(root, memory.hosts)]
        if missing:
            problem = f"{shown_names(missing)} has no {root}"
            errors.add(f"{path}.hosts", problem, "add the host to the bridge, or choose another parent")


def _device_problems(memory: Memory) -> Iterable[tuple[str, str, str]]:
    if not memory.capacity:
        yield "", "has no capacity", "give size, volatile or dynamic"
    if memory.lsa_size and not memory.size:
        yield "lsa_size", "labels are for persistent capacity, and it has none", "leave lsa_size out, or give size"
    if memory.dc_regions and not memory.dynamic:
        yield "dc_regions", "there is no dynamic capacity to divide", "leave dc_regions out, or give dynamic"
    unit = CAPACITY_UNIT * (memory.dc_regions or 1)
    if memory.dynamic % unit:
        problem = f"{format_size(memory.dynamic)} does not divide into {memory.dc_regions} regions of n x 256M"
        yield "dynamic", problem, f"use {format_size(-(-memory.dynamic // unit) * unit)}"
    if memory.heads and len(memory.hosts) > memory.heads:
        yield "heads", f"{memory.heads} heads for {len(memory.hosts)} hosts", "give more heads, or name fewer hosts"
    if memory.dynamic and len(memory.hosts) > 1 and not memory.heads:
        yield "heads", "several hosts would have the same dynamic capacity with nobody to arbitrate", "give heads: 8"


def _pool_problems(memory: Memory, pools: Mapping[str, int]) -> Iterable[tuple[str, str, str]]:
    if not memory.pool:
        if memory.offset:
            yield "offset", "there is no pool that it could count in", "leave offset out, or name a pool"
        return
    if len(memory.parts) > 1:
        yield "pool", f"{' and '.join(memory.parts)} capacity cannot both begin there", "make a device for each kind of capacity"
    size = pools.get(memory.pool, memory.offset + memory.capacity)
    if memory.offset + memory.capacity > size:
        bytes_ = f"{format_size(memory.capacity)} from {format_size(memory.offset)} on"
        problem = f"{bytes_} do not fit into {memory.pool} ({format_size(size)})"
        yield "offset" if memory.offset else "pool", problem, "enlarge the pool, or lower offset or the size"


def _check_networks(errors: Errors, topology: Topology) -> None:
    for index, network in enumerate(topology.networks):
        path = f"networks[{index}]"
        if network.name == "control":
            errors.add(f"{path}.name", "control is the NIC of the lab itself", "choose another name")
        if _hides_control(network):
            problem = f"{network.subnet} hides {CONTROL_SUBNET}, by which QEMU forwards the login to a host"
            errors.add(f"{path}.subnet", problem, "use another one")
        if network.kind == "cable" and len(network.hosts) > 2:
            errors.add(f"{path}.kind", f"a cable joins two hosts, and there are {len(network.hosts)}", "use switch")
        if network.subnet.num_addresses - 2 < len(network.hosts):
            room = f"{network.subnet} has {network.subnet.num_addresses - 2} addresses for {len(network.hosts)} hosts"
            errors.add(path, room, 'use a larger one, such as "10.77.0.0/16"')
        for other in topology.networks[:index]:
            if other.subnet.overlaps(network.subnet):
                errors.add(f"{path}.subnet", f"{network.subnet} overlaps {other.subnet} of {other.name}", "use another one")
    counts = Counter(host for network in topology.networks for host in network.hosts)
    many = [host for host, count in counts.items() if count > MAX_NETWORKS]
    if many:
        errors.add("networks", f"{shown_names(many)} is on more than {MAX_NETWORKS}", "use fewer")


def _hides_control(network: Network) -> bool:
    """Of two routes a guest takes the longer one: to the gateway of the control network, or to the other hosts."""
    first = int(network.subnet.network_address)
    if not network.subnet.overlaps(CONTROL_SUBNET):
        return False
    return network.subnet.prefixlen >= CONTROL_SUBNET.prefixlen or first + FIRST_ADDRESS + len(network.hosts) > int(
        CONTROL_SUBNET.network_address
    )


def _check_windows(errors: Errors, topology: Topology) -> None:
    hosts_of = {bridge.name: set(bridge.hosts) for bridge in topology.bridges}
    for index, window in enumerate(topology.windows):
        path, ways = f"windows[{index}]", len(window.targets)
        if ways not in WINDOW_WAYS:
            errors.add(f"{path}.targets", f"{ways} ways", f"use {', '.join(map(str, WINDOW_WAYS))}")
        elif window.size % (CAPACITY_UNIT * ways):
            unit = CAPACITY_UNIT * ways
            near = format_size(-(-window.size // unit) * unit)
            errors.add(
                f"{path}.size", f"{format_size(window.size)} is no multiple of 256M for each of {ways} targets", f"use {near}"
            )
        if len({frozenset(hosts_of.get(target, ())) for target in window.targets}) > 1:
            errors.add(f"{path}.targets", "not every host has all of these bridges", "use bridges with the same hosts")
    targets = {target for window in topology.windows for target in window.targets}
    for index, bridge in enumerate(topology.bridges):
        if bridge.name not in targets:
            errors.add(f"bridges[{index}]", f"no window leads to {bridge.name}", "name it in the targets of a window")
        if bridge.hdm_for_passthrough and bridge.ports != 1:
            errors.add(
                f"bridges[{index}].hdm_for_passthrough",
                "a bridge with several root ports has HDM decoders anyway",
                "leave it out, or use ports: 1",
            )


def _check_fabrics(errors: Errors, topology: Topology) -> None:
    """What is true of a host as a whole; hosts that are alike are looked at once."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for host in topology.hosts:
        shape = (tuple(map(id, topology.memories_of(host.name))), tuple(map(id, topology.bridges_of(host.name))))
        alike.setdefault(shape, []).append(host.name)
    found: dict[tuple[str, str, str], None] = {}
    for hosts in alike.values():
        fabric, problems = plan_fabric(topology, hosts[0])
        for problem in (*problems, *_capacity_problems(topology, hosts, fabric)):
            found.setdefault(problem)
    for path, text, fix in found:
        errors.add(path, text, fix)


def _capacity_problems(topology: Topology, hosts: Sequence[str], fabric: Fabric) -> Iterable[tuple[str, str, str]]:
    host = shown_names(hosts)
    section = (
        "window" if all(len(window.targets) == 1 for window in topology.windows) and len(topology.windows) == 1 else "windows"
    )
    if len(fabric.bridges) > MAX_BRIDGES:
        yield "bridges", f"{host} has {len(fabric.bridges)}", f"use at most {MAX_BRIDGES} for a host"
    total = sum(window.size for window in fabric.windows)
    if total > MAX_WINDOWS:
        yield section, f"{format_size(total)} is more than {format_size(MAX_WINDOWS)}", "make it smaller"
    for index, one in enumerate(topology.hosts):
        if one.name in hosts and total <= MAX_WINDOWS and one.memory + total > MAX_ADDRESSES:
            problem = f"{format_size(one.memory)} and windows of {format_size(total)} are more than {format_size(MAX_ADDRESSES)}"
            yield f"hosts[{index}].memory", problem, "lower it"
    need: dict[str, int] = {}
    for memory in topology.memories_of(hosts[0]):
        bridge = root_of(memory.parent, topology.above)
        need[bridge] = need.get(bridge, 0) + memory.capacity
    for bridge, size in need.items():
        room = sum(window.size // len(window.targets) for window in fabric.windows if bridge in window.targets)
        if size <= room:
            yield from _dynamic_problems(topology, hosts[0], fabric, bridge)
        else:
            more = f'use window: "{format_size(size)}"' if section == "window" else f"enlarge a window over {bridge}"
            where = f" below {bridge}" if section == "windows" else ""
            yield section, f"{format_size(room)} is less than the {format_size(size)} of {host}{where}", more


def _dynamic_problems(topology: Topology, host: str, fabric: Fabric, bridge: str) -> Iterable[tuple[str, str, str]]:
    """A device with dynamic capacity is led to as a whole, from a window that does not interleave."""
    room = sum(window.size for window in fabric.windows if window.targets == (bridge,))
    need = 0
    for index, memory in enumerate(topology.memories):
        if memory.dynamic and host in memory.hosts and root_of(memory.parent, topology.above) == bridge:
            need += memory.capacity
            if need > room:
                have = f"have {format_size(room)} for {format_size(need)} of such devices" if room else "are none"
                problem = f"dynamic capacity does not interleave, and the windows that lead to {bridge} alone {have}"
                yield f"memories[{index}].dynamic", problem, f"add a window with targets: [{bridge}], or enlarge one"
                return
