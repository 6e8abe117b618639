# SPDX-License-Identifier: GPL-3.0-or-later
"""The topology of a lab: what a user may write, and everything that can be wrong with it.

QEMU accepts many a wrong topology without a word (a duplicate serial, a size that the driver will not bind) and refuses others
late, with a message that names a property and not the cause. Hence all checks are here, before anything starts.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

from ..errors import LabError, shown
from ..names import check_name
from ..sizes import format_size, parse_size

MIB = 1 << 20
#: The CXL specification (3.1, section 9.18.1.3) lets windows and the capacity of a device only be multiples of this.
CAPACITY_UNIT = 256 * MIB
#: An emulated CPU has 40 address bits: ordinary memory, PCI and the window have to fit into 1 TiB.
MAX_WINDOW = 512 << 30
#: Where a network of one's own may be (RFC 1918).
PRIVATE_NETWORKS = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
#: The HDM decoders of QEMU's host bridge and of one root port each; more devices than that need switches.
MAX_MEMORIES_PER_HOST = 8


@dataclass(frozen=True)
class Host:
    """A virtual machine.

    :param memory: bytes of ordinary memory.
    :param ssh_port: loopback port that leads to its sshd; 0 lets the lab choose a free one.
    """

    name: str
    memory: int
    cpus: int
    ssh_port: int


@dataclass(frozen=True)
class Memory:
    """A persistent CXL type-3 device over one range of memory that every host in ``hosts`` maps.

    :param size: bytes.
    :param serial: device serial number, the same on every host.
    :param lsa_size: bytes of the label storage area that each host has for itself.
    """

    name: str
    size: int
    serial: int
    lsa_size: int
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Topology:
    """A whole lab. ``window`` is the size in bytes of the fixed memory window of each host; ``network`` joins the hosts."""

    hosts: tuple[Host, ...]
    memories: tuple[Memory, ...]
    window: int
    network: ipaddress.IPv4Network

    def memories_of(self, host: str) -> tuple[Memory, ...]:
        """The CXL memory that ``host`` sees, in the order of its root ports."""
        return tuple(memory for memory in self.memories if host in memory.hosts)


class _Errors:
    """Collects every problem, so that a user mends a file once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, path: str, problem: str, fix: str) -> None:
        self.found.append(f"{path}: {problem}; {fix}")

    def tried(self, parse: Callable[[], Any], fallback: Any) -> Any:
        try:
            return parse()
        except LabError as error:
            self.found.append(str(error))
            return fallback


def parse_topology(data: object) -> Topology:
    """Checks what a user wrote and returns it typed.

    :raises LabError: one message with every problem: its path, the value, the reason and the fix.
    """
    errors = _Errors()
    top = _mapping(errors, "cxl_topology", data, {"hosts", "memories", "window", "network"})
    hosts = [_host(errors, f"hosts[{index}]", entry) for index, entry in enumerate(_items(errors, "hosts", top.get("hosts")))]
    entries = _items(errors, "memories", top.get("memories", []))
    memories = [
        _memory(errors, f"memories[{index}]", entry, [host.name for host in hosts]) for index, entry in enumerate(entries)
    ]
    topology = Topology(
        hosts=tuple(hosts),
        memories=tuple(memories),
        window=errors.tried(lambda: parse_size(top.get("window", "4G"), "window"), MAX_WINDOW),
        network=_network(errors, top.get("network", "10.77.0.0/24")),
    )
    if not hosts:
        errors.add("hosts", "the list is empty", "name at least one host")
    _check_together(errors, topology)
    if errors.found:
        raise LabError("topology", f"{len(errors.found)} problem(s)\n  - " + "\n  - ".join(errors.found))
    return topology


def _mapping(errors: _Errors, path: str, data: object, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        errors.add(path, f"{shown(data)} is no mapping", f"give {', '.join(sorted(known))}")
        return {}
    for key in data:
        if key not in known:
            errors.add(path, f"unknown key {shown(key)}", f"use {', '.join(sorted(known))}")
    return data


def _items(errors: _Errors, path: str, data: object) -> Sequence[Any]:
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return data
    errors.add(path, f"{shown(data)} is no list", "write a list")
    return []


def _integer(errors: _Errors, path: str, value: object, allowed: range, fallback: int) -> int:
    """An integer, also from the string forms that templates and YAML make of it ("2", "0xc0de0001")."""
    try:
        number = int(value, 0) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, int) and not isinstance(number, bool) and number in allowed:
        return number
    last = allowed.stop - 1
    end = last if last < 1 << 16 else f"{last:#x}"
    errors.add(path, f"{shown(value)} is no whole number from {allowed.start} to {end}", "correct the value")
    return fallback


def _name(errors: _Errors, path: str, entry: Mapping[str, Any]) -> str:
    """The name; a bad one as well, so that those who refer to it are not told that it does not exist."""
    name = entry.get("name")
    return str(errors.tried(lambda: check_name(name, f"{path}.name"), name if isinstance(name, str) else f"<{path}>"))


def _is_auto(port: object) -> bool:
    """Not for what only equals 0: "no" in YAML is False, and no number."""
    return port == "auto" or (type(port) is int and port == 0)


def _host(errors: _Errors, path: str, data: object) -> Host:
    entry = _mapping(errors, path, data, {"name", "memory", "cpus", "ssh_port"})
    port = entry.get("ssh_port", 0)
    memory = errors.tried(lambda: parse_size(entry.get("memory", "2G"), f"{path}.memory"), 512 * MIB)
    if memory < 512 * MIB or memory % MIB:
        errors.add(f"{path}.memory", f"{format_size(memory)} is too small or no whole MiB", "give at least 512M")
    return Host(
        name=_name(errors, path, entry),
        memory=memory,
        cpus=_integer(errors, f"{path}.cpus", entry.get("cpus", 2), range(1, 65), 1),
        ssh_port=0 if _is_auto(port) else _integer(errors, f"{path}.ssh_port", port, range(1024, 65536), 0),
    )


def _memory(errors: _Errors, path: str, data: object, known_hosts: Sequence[str]) -> Memory:
    entry = _mapping(errors, path, data, {"name", "size", "serial", "lsa_size", "hosts"})
    size = errors.tried(lambda: parse_size(entry.get("size"), f"{path}.size"), CAPACITY_UNIT)
    if size % CAPACITY_UNIT:
        fix = f"use {format_size(max(1, round(size / CAPACITY_UNIT)) * CAPACITY_UNIT)}"
        errors.add(
            f"{path}.size", f"{format_size(size)} is no multiple of 256M, so that the driver would not bind the device", fix
        )
    lsa_size = errors.tried(lambda: parse_size(entry.get("lsa_size", "1M"), f"{path}.lsa_size"), MIB)
    if not 256 * 1024 <= lsa_size <= 64 * MIB or lsa_size % 4096:
        errors.add(f"{path}.lsa_size", f"{format_size(lsa_size)} is out of range", "use 256K to 64M, a multiple of 4K")
    hosts = tuple(_items(errors, f"{path}.hosts", entry.get("hosts", list(dict.fromkeys(known_hosts)))))
    for host in hosts:
        if host not in known_hosts:
            errors.add(f"{path}.hosts", f"host {shown(host)} is not in the list of hosts", f"use one of {', '.join(known_hosts)}")
    if not hosts or any(hosts.count(host) > 1 for host in hosts):
        errors.add(f"{path}.hosts", "is empty or names a host twice", "name each host once")
    return Memory(
        name=_name(errors, path, entry),
        size=size,
        serial=_integer(errors, f"{path}.serial", entry.get("serial"), range(1, 1 << 64), 0),
        lsa_size=lsa_size,
        hosts=hosts,
    )


def _network(errors: _Errors, data: object) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.IPv4Network(str(data))
        if network.prefixlen <= 29 and any(map(network.subnet_of, PRIVATE_NETWORKS)):
            return network
    except ValueError:
        pass
    errors.add("network", f"{shown(data)} is no private IPv4 network of eight addresses or more", 'write "10.77.0.0/24"')
    return ipaddress.IPv4Network("10.77.0.0/24")


def _check_together(errors: _Errors, topology: Topology) -> None:
    """What no entry can know alone."""
    _unique(errors, "hosts", "name", [host.name for host in topology.hosts])
    _unique(errors, "hosts", "ssh_port", [host.ssh_port for host in topology.hosts if host.ssh_port])
    _unique(errors, "memories", "name", [memory.name for memory in topology.memories])
    _unique(errors, "memories", "serial", [hex(memory.serial) for memory in topology.memories if memory.serial])
    if topology.window % CAPACITY_UNIT:
        errors.add("window", f"{format_size(topology.window)} is no multiple of 256M", "round it up")
    if topology.window > MAX_WINDOW:
        errors.add("window", f"{format_size(topology.window)} is more than {format_size(MAX_WINDOW)}", "make it smaller")
    if len(topology.hosts) > 2:
        errors.add("hosts", f"{len(topology.hosts)} hosts, but the lab network is a cable between two", "use at most two hosts")
    for host in topology.hosts:
        memories = topology.memories_of(host.name)
        need = sum(memory.size for memory in memories)
        if need > topology.window:
            fix = f'use window: "{format_size(need)}"'
            errors.add("window", f"{format_size(topology.window)} is less than the {format_size(need)} of {host.name}", fix)
        if len(memories) > MAX_MEMORIES_PER_HOST:
            errors.add("memories", f"{host.name} has {len(memories)}", f"use at most {MAX_MEMORIES_PER_HOST} for a host")


def _unique(errors: _Errors, where: str, what: str, values: Sequence[object]) -> None:
    for value in sorted({value for value in values if values.count(value) > 1}, key=str):
        errors.add(where, f"{what} {value} is used {values.count(value)} times", f"give each its own {what}")
