# SPDX-License-Identifier: GPL-3.0-or-later
"""From a topology to concrete machines: names, addresses and paths, all derived, so that two labs never collide."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .model import Host, Memory, Topology

#: Addresses on the lab network start here, below it is room for what a user adds.
FIRST_ADDRESS = 11


@dataclass(frozen=True)
class LabPaths:
    """Every file of a lab. ``root`` belongs to one lab; shared memory has to live elsewhere and carries the lab's name."""

    lab: str
    root: Path
    shared: Path = Path("/dev/shm")

    @property
    def ssh_config(self) -> Path:
        return self.root / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        return self.root / "known_hosts"

    @property
    def login_key(self) -> Path:
        return self.root / "id_ed25519"

    @property
    def network(self) -> Path:
        """Folder of the lab network's sockets."""
        return self.root / "net"

    def host(self, host: str) -> Path:
        return self.root / "hosts" / host

    def memory(self, memory: str) -> Path:
        return self.shared / f"{self.memory_prefix}{memory}"

    @property
    def memory_prefix(self) -> str:
        # Names have no dot, so that the lab "a" never takes the memory of the lab "a-b" for its own.
        return f"cxl-lab.{self.lab}."


@dataclass(frozen=True)
class Platform:
    """What the hypervisor offers: the emulator, how it runs guests, and the guest image."""

    emulator: str
    accel: str
    kernel: str
    initrd: str
    disk: str


@dataclass(frozen=True)
class Machine:
    """One host of the lab as it is going to be built."""

    lab: str
    host: Host
    memories: tuple[Memory, ...]
    window: int
    address: str
    peer: str
    platform: Platform

    @property
    def domain(self) -> str:
        return domain_name(self.lab, self.host.name)

    def spec(self) -> dict[str, Any]:
        """What cannot change while the machine lives; kept in the domain's metadata, compared at the next run."""
        return {
            "host": {**asdict(self.host), "ssh_port": 0},
            "memories": [asdict(memory) for memory in self.memories],
            "window": self.window,
            "address": self.address,
            "peer": self.peer,
            "platform": asdict(self.platform),
        }

    def mac(self, network: str) -> str:
        """A stable, locally administered address for "control" or "lab"."""
        digest = hashlib.sha256(f"{self.lab}/{self.host.name}/{network}".encode()).hexdigest()
        return "52:54:00:" + ":".join(digest[at : at + 2] for at in (0, 2, 4))


def domain_name(lab: str, host: str) -> str:
    return f"cxl-lab.{lab}.{host}"


def plan_machines(lab: str, topology: Topology, platform: Platform) -> list[Machine]:
    """The machines of a lab, in the order of its hosts."""
    names = [host.name for host in topology.hosts]
    return [
        Machine(
            lab=lab,
            host=host,
            memories=topology.memories_of(host.name),
            window=topology.window,
            address=f"{topology.network.network_address + FIRST_ADDRESS + index}/{topology.network.prefixlen}"
            if topology.network.num_addresses > FIRST_ADDRESS + len(names)
            else f"{topology.network.network_address + 1 + index}/{topology.network.prefixlen}",
            peer=next((name for name in names if name != host.name), ""),
            platform=platform,
        )
        for index, host in enumerate(topology.hosts)
    ]


def spec_differences(have: dict[str, Any], want: dict[str, Any], path: str = "") -> list[str]:
    """Which settings differ, as "host.memory: 1 -> 2"; empty when equal after a round trip through JSON."""
    have, want = json.loads(json.dumps(have)), json.loads(json.dumps(want))
    lines = []
    for key in sorted({*have, *want}):
        old, new = have.get(key), want.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += spec_differences(old, new, f"{path}{key}.")
        elif old != new:
            lines.append(f"{path}{key}: {json.dumps(old)} -> {json.dumps(new)}")
    return lines


@dataclass(frozen=True)
class Seen:
    """What libvirt knows of one domain of the lab.

    :param state: "running", "paused", "off" or "crashed".
    :param spec: as the machine was built, None when the metadata cannot be read.
    """

    state: str
    spec: dict[str, Any] | None
    ssh_port: int


@dataclass(frozen=True)
class Step:
    """One thing to do to one host and why: "create", "start", "replace" or "remove"; of its power "start", "stop", "reset" or
    "resume"."""

    action: str
    host: str
    reason: str


def plan_steps(machines: list[Machine], seen: dict[str, Seen]) -> list[Step]:
    """What has to happen so that exactly these machines run. A machine that was built otherwise has to be replaced."""
    steps = [
        Step("remove", name, "not in the topology") for name in sorted(set(seen) - {machine.host.name for machine in machines})
    ]
    for machine in machines:
        name = machine.host.name
        known = seen.get(name)
        if known is None:
            steps.append(Step("create", name, "does not exist"))
            continue
        moved = machine.host.ssh_port not in (0, known.ssh_port)
        differences = spec_differences(known.spec or {}, machine.spec()) + ["host.ssh_port"] * moved
        if differences:
            steps.append(Step("replace", name, "built with other settings: " + ", ".join(differences)))
        elif known.state == "crashed":
            steps.append(Step("replace", name, "it crashed"))
        elif known.state != "running":
            steps.append(Step("start", name, f"it is {known.state}"))
    return steps
