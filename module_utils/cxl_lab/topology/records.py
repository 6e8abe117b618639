# SPDX-License-Identifier: GPL-3.0-or-later
"""The records of a topology, typed and complete. Sizes are bytes."""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

#: The bridge of a lab that names none.
DEFAULT_BRIDGE = "cxl"
#: Addresses on a lab network start here, below it is room for what a user adds.
FIRST_ADDRESS = 11


@dataclass(frozen=True)
class Host:
    """A virtual machine; an empty ``accel``, path or list means what the lab has.

    :param memory: bytes of ordinary memory.
    :param ssh_port: loopback port that leads to its sshd; 0 lets the lab choose a free one.
    :param gdb_port: loopback port of QEMU's gdb stub; 0 for none.
    """

    name: str
    memory: int
    cpus: int
    ssh_port: int = 0
    accel: str = "auto"
    emulator: str = ""
    kernel: str = ""
    initrd: str = ""
    kernel_options: tuple[str, ...] = ()
    extra_packages: tuple[str, ...] = ()
    gdb_port: int = 0
    qemu_arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Memory:
    """A CXL type-3 device over memory that every host in ``hosts`` maps. Sizes are bytes.

    :param size: persistent capacity; ``volatile`` and ``dynamic`` beside it, 0 for none.
    :param serial: device serial number, the same on every host.
    :param lsa_size: label storage area that each host has for itself; 0 without persistent capacity.
    :param parent: bridge or switch; ``port`` of it, None for the next free one.
    :param pool: the pool that its bytes are in from ``offset`` on, "" for a file of its own.
    :param heads: of a multi-headed device, 0 for one that is not; the head of a host is its place in ``hosts``.
    """

    name: str
    size: int
    serial: int
    lsa_size: int
    hosts: tuple[str, ...]
    volatile: int = 0
    dynamic: int = 0
    dc_regions: int = 0
    parent: str = DEFAULT_BRIDGE
    port: int | None = None
    pool: str = ""
    offset: int = 0
    heads: int = 0

    @property
    def capacity(self) -> int:
        return self.size + self.volatile + self.dynamic

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of each kind of capacity that it has: "persistent", "volatile", "dynamic"."""
        parts = {"persistent": self.size, "volatile": self.volatile, "dynamic": self.dynamic}
        return {kind: size for kind, size in parts.items() if size}

    def head_of(self, host: str) -> int | None:
        """The head that a host is at, None for a device with a single head."""
        return self.hosts.index(host) if self.heads else None


@dataclass(frozen=True)
class Pool:
    """Shared memory that devices take their bytes from."""

    name: str
    size: int


@dataclass(frozen=True)
class Bridge:
    """A CXL host bridge; ``ports`` and ``bus`` None are for the plan to find."""

    name: str
    ports: int | None
    bus: int | None
    hdm_for_passthrough: bool
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Switch:
    """A CXL switch; it exists where its parent does."""

    name: str
    parent: str
    port: int | None
    ports: int | None


@dataclass(frozen=True)
class Window:
    """A fixed memory window over bridges; ``size`` and ``granularity`` in bytes."""

    size: int
    targets: tuple[str, ...]
    granularity: int


@dataclass(frozen=True)
class Network:
    """A network that joins ``hosts`` and nothing else. ``kind`` is "cable" or "switch"."""

    name: str
    subnet: ipaddress.IPv4Network
    kind: str
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Topology:
    """A whole lab."""

    hosts: tuple[Host, ...]
    memories: tuple[Memory, ...]
    pools: tuple[Pool, ...]
    bridges: tuple[Bridge, ...]
    switches: tuple[Switch, ...]
    windows: tuple[Window, ...]
    networks: tuple[Network, ...]

    def memories_of(self, host: str) -> tuple[Memory, ...]:
        """The CXL memory that ``host`` sees, in the order of the list."""
        return tuple(self._memories_by_host.get(host, ()))

    def bridges_of(self, host: str) -> tuple[Bridge, ...]:
        """The CXL host bridges of ``host``, in the order of the list."""
        return tuple(self._bridges_by_host.get(host, ()))

    @functools.cached_property
    def _memories_by_host(self) -> Mapping[str, list[Memory]]:
        return _by_host(self.memories)

    @functools.cached_property
    def _bridges_by_host(self) -> Mapping[str, list[Bridge]]:
        return _by_host(self.bridges)

    @functools.cached_property
    def above(self) -> Mapping[str, str]:
        """The parent of each switch."""
        return {switch.name: switch.parent for switch in self.switches}


def _by_host(entries: Sequence[Any]) -> dict[str, list[Any]]:
    """Built once: with hundreds of hosts a search for each would take minutes."""
    found: dict[str, list[Any]] = {}
    for entry in entries:
        for host in entry.hosts:
            found.setdefault(host, []).append(entry)
    return found


def root_of(parent: str, above: Mapping[str, str]) -> str:
    """The bridge over a switch, or the name itself; switches that hang on each other lead to one of them."""
    for _ in above:
        if parent not in above:
            break
        parent = above[parent]
    return parent


def depth_of(switch: str, above: Mapping[str, str]) -> int:
    """How many switches there are from the bridge to this one, itself included."""
    depth = 0
    while switch in above and depth <= len(above):
        switch, depth = above[switch], depth + 1
    return depth
