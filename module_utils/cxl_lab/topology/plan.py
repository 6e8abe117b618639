# SPDX-License-Identifier: GPL-3.0-or-later
"""From a topology to concrete machines: names, addresses and paths, all derived, so that two labs never collide."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Mapping

from ..detached import RUN_FOLDER
from ..errors import LabError
from .fabric import Fabric, plan_fabric
from .records import FIRST_ADDRESS, Host, Memory, Network, Topology


@dataclass(frozen=True)
class LabPaths:
    """Every file of a lab. ``root`` belongs to one lab; shared memory and pid files live elsewhere and carry the lab's name."""

    lab: str
    root: Path
    shared: Path = Path("/dev/shm")
    run: Path = RUN_FOLDER

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

    def cable(self, network: str, host: str) -> Path:
        """The socket of one end of a cable between two hosts."""
        return self.network / (f"{host}.sock" if network == "lab" else f"{network}.{host}.sock")

    def switch(self, network: str) -> Path:
        """Folder of the sockets of a switch between hosts."""
        return self.network / f"{network}.switch"

    def memory(self, memory: str) -> Path:
        return self.shared / f"{self.memory_prefix}{memory}"

    def backing(self, memory: Memory, kind: str) -> Path:
        """The file with the bytes of one kind of capacity: "persistent", "volatile" or "dynamic"."""
        if memory.pool:
            return self.memory(memory.pool)
        return self.memory(memory.name if kind == "persistent" else f"{memory.name}.{kind}")

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
class Nic:
    """A host on a lab network.

    :param address: with the length of the prefix, "10.77.0.11/24".
    :param kind: "cable", which leads to ``peer``, or "switch".
    """

    network: str
    address: str
    kind: str
    peer: str


@dataclass(frozen=True)
class Machine:
    """One host of the lab as it is going to be built."""

    lab: str
    host: Host
    memories: tuple[Memory, ...]
    fabric: Fabric
    nics: tuple[Nic, ...]
    platform: Platform
    pools: Mapping[str, int]

    @property
    def address(self) -> str:
        """On its first lab network, "" on none."""
        return self.nics[0].address if self.nics else ""

    @property
    def domain(self) -> str:
        return domain_name(self.lab, self.host.name)

    def spec(self) -> dict[str, Any]:
        """What cannot change while the machine lives; kept in the domain's metadata, compared at the next run."""
        return {
            "host": {**asdict(self.host), "ssh_port": 0},
            "memories": [self._memory_spec(memory) for memory in self.memories],
            "fabric": self._fabric_spec(),
            "nics": [asdict(nic) for nic in self.nics],
            "platform": asdict(self.platform),
        }

    def _fabric_spec(self) -> dict[str, Any]:
        """Without what few machines have where this one has none of it: it is no reason to build one again."""
        spec = asdict(self.fabric)
        return spec if self.fabric.programmed else {key: value for key, value in spec.items() if key != "programmed"}

    def _memory_spec(self, memory: Memory) -> dict[str, Any]:
        """Without the names of the other hosts: a machine does not change when another one joins."""
        own = asdict(replace(memory, hosts=()))
        del own["hosts"]
        return {**own, "head": memory.head_of(self.host.name)}

    def mac(self, network: str) -> str:
        """A stable, locally administered address for "control" or a lab network."""
        digest = hashlib.sha256(f"{self.lab}/{self.host.name}/{network}".encode()).hexdigest()
        return "52:54:00:" + ":".join(digest[at : at + 2] for at in (0, 2, 4))


def lab_folder(lab: str, given: str | None) -> Path:
    """Where the files of a lab are; ``given`` where it is another place than usual."""
    return Path(given or f"/var/lib/cxl-lab/{lab}")


def domain_name(lab: str, host: str) -> str:
    return f"cxl-lab.{lab}.{host}"


def network_credential(index: int) -> str:
    """The name under which a guest gets its settings of a lab network, the first, second, ... that it is on. The network's own
    name may be too long: QEMU's fw_cfg takes 55 characters, of which the folder of the credentials has 27."""
    return f"network.network.30-lab{index or ''}"


def plan_machines(
    lab: str, topology: Topology, platform: Platform, images: Mapping[str, Mapping[str, str]] = MappingProxyType({})
) -> list[Machine]:
    """The machines of a lab, in the order of its hosts.

    :param images: "disk", "kernel" and "initrd" of hosts that have packages of their own.
    :raises LabError: for such a host without an image.
    """
    nics: dict[str, list[Nic]] = {}
    for network in topology.networks:
        for host, nic in _nics(network).items():
            nics.setdefault(host, []).append(nic)
    pools = {pool.name: pool.size for pool in topology.pools}
    return [
        Machine(
            lab=lab,
            host=host,
            memories=topology.memories_of(host.name),
            fabric=plan_fabric(topology, host.name)[0],
            nics=tuple(nics.get(host.name, ())),
            platform=_platform_of(host, platform, images),
            pools=pools,
        )
        for host in topology.hosts
    ]


def _platform_of(host: Host, platform: Platform, images: Mapping[str, Mapping[str, str]]) -> Platform:
    if host.extra_packages:
        if host.name not in images:
            problem = f"has packages of its own ({', '.join(host.extra_packages)}) and no image with them"
            raise LabError(f"host {host.name}", problem, "build it (role cxl_guest_image), or leave extra_packages out")
        platform = replace(platform, **images[host.name])
    own = {"emulator": host.emulator, "kernel": host.kernel, "initrd": host.initrd, "accel": host.accel}
    return replace(platform, **{key: value for key, value in own.items() if value not in ("", "auto")})


def _nics(network: Network) -> dict[str, Nic]:
    subnet, hosts = network.subnet, network.hosts
    first = FIRST_ADDRESS if subnet.num_addresses > FIRST_ADDRESS + len(hosts) else 1
    base = subnet.network_address
    return {
        host: Nic(
            network=network.name,
            address=f"{base + first + index}/{subnet.prefixlen}",
            kind=network.kind,
            peer=next((other for other in hosts if other != host), "") if network.kind == "cable" else "",
        )
        for index, host in enumerate(hosts)
        # The cable of a host that is alone would lead nowhere.
        if len(hosts) > 1 or network.kind == "switch"
    }


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
    """One thing to do to one host and why: "create", "start", "replace", "remove" or "tell" (the names of the others); of its
    power "start", "stop", "reset" or "resume"."""

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
