# SPDX-License-Identifier: GPL-3.0-or-later
"""Will this machine carry this lab? Everything that can be known before anything is changed, all findings at once."""

from __future__ import annotations

import difflib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Mapping

from .errors import shown
from .ports import port_problem
from .sizes import format_size
from .topology.plan import domain_name
from .topology.records import Memory, Topology
from .topology.schema import SECTIONS, SHORT

MIB = 1 << 20
#: Image (4 GiB sparse, half a GiB real), its tree while it is built, the QEMU tree, and an overlay per host.
DISK_NEED = 2560 * MIB
OVERLAY_NEED = 256 * MIB
#: What QEMU and an idle guest really take; a guest's memory is only taken when it is touched, but it may touch all of it.
GUEST_OVERHEAD = 128 * MIB
#: What the role leaves behind for the roles after it.
_FACTS = frozenset({"cxl_topology_result", "cxl_topology_unbuilt"})
_SETTINGS = ("state", "lab", "dir", "uri", "accel", "recreate", "wait_timeout")
_PREFIX = "cxl_topology_"
_QEMU_URI = re.compile(r"qemu(\+[a-z0-9]+)?://[^/]*/")
#: Every variable of the role cxl_topology.
VARIABLES = _FACTS | {f"{_PREFIX}{key}" for key in (*SECTIONS, *SHORT, *_SETTINGS)}


@dataclass(frozen=True)
class Machine:
    """What the machine has; a record so that the checks are pure.

    :param root: whether the tasks of the hypervisor get root's rights.
    :param running: domains of ours that run already, by name; they have their memory and their ports.
    :param free_disk: bytes free below the cache folder.
    :param port_free: tells whether a loopback port can be bound.
    """

    root: bool
    system: str
    architecture: str
    available_memory: int
    free_shared: int
    free_disk: int
    running: frozenset[str]
    port_free: Callable[[int], bool]


def check(
    lab: str, topology: Topology, inventory_hosts: Iterable[str], machine: Machine, elsewhere: Iterable[str] = ()
) -> list[str]:
    """Every problem as "variable or object: what; fix". Empty when the lab can be built.

    :param elsewhere: hosts that the other hypervisors of the inventory build.
    """
    return [
        *_check_system(machine),
        *_check_inventory(topology, set(inventory_hosts), set(elsewhere)),
        *_check_memory(lab, topology, machine),
        *_check_ports(lab, topology, machine),
    ]


def check_names(topology: Topology, hypervisors: Iterable[str], variables: Iterable[str]) -> list[str]:
    """What an inventory calls by a name that it must not have.

    :param hypervisors: hosts of that group.
    :param variables: names of the variables for the role cxl_topology. Ansible takes one that no role has without a word, and the
        lab would be built without it.
    """
    problems = []
    for name in sorted({host.name for host in topology.hosts}.intersection(hypervisors)):
        fix = "choose another name: what is meant for the virtual machine would be done to the hypervisor"
        problems.append(f"cxl_topology_hosts: host {name} has the name of a hypervisor of the inventory; {fix}")
    for name in sorted(set(variables) - VARIABLES):
        # Compared without what all of them begin with.
        own = {known.removeprefix(_PREFIX): known for known in sorted(VARIABLES - _FACTS)}
        near = difflib.get_close_matches(name.removeprefix(_PREFIX), own, 1)
        fix = f"write {own[near[0]]}, or remove it" if near else "remove it"
        problems.append(f"{name}: the role cxl_topology has no such variable; {fix}")
    return problems


def check_places(folder: Path, uri: str) -> list[str]:
    """What is wrong with where a lab is to be: its folder, and the connection to libvirt."""
    problems = []
    if not folder.is_absolute():
        problems.append(f"cxl_topology_dir: {folder} is no absolute path; write it from the root folder on")
    if not _QEMU_URI.match(uri):
        problems.append(f"cxl_topology_uri: {shown(uri)} is no connection to libvirt's QEMU; write qemu:///system")
    return problems


def _check_system(machine: Machine) -> Iterable[str]:
    if machine.system not in ("debian 12", "debian 13"):
        yield f"this machine: runs {machine.system}; use Debian 12 or 13 for the hypervisor"
    if machine.architecture != "x86_64":
        yield f"this machine: is {machine.architecture}; CXL in QEMU is used here on x86_64"
    if not machine.root:
        yield "rights: the hypervisor's tasks need root; run as root, or as a user who may use sudo without a password"


def _check_inventory(topology: Topology, inventory_hosts: set[str], elsewhere: set[str]) -> Iterable[str]:
    built = {host.name for host in topology.hosts}
    for name in sorted(built & elsewhere):
        fix = "give each hypervisor a cxl_topology_hosts of its own, with names that no other has (host_vars)"
        yield f"cxl_topology_hosts: host {name} is one of another hypervisor of the inventory, too; {fix}"
    for name in sorted(inventory_hosts - built - elsewhere):
        yield f"inventory: host {name} of group cxl_hosts is not in cxl_topology_hosts; add it there or remove it from the group"
    for name in sorted(built - inventory_hosts):
        yield f"cxl_topology_hosts: host {name} is not in the inventory group cxl_hosts; add it there or remove it here"


def _check_memory(lab: str, topology: Topology, machine: Machine) -> Iterable[str]:
    new = [host for host in topology.hosts if domain_name(lab, host.name) not in machine.running]
    if not new:
        return
    shared = shared_size(topology)
    need = sum(host.memory + GUEST_OVERHEAD for host in new) + shared
    if need > machine.available_memory:
        have = f"{machine.available_memory // MIB}M available"
        yield f"cxl_topology_hosts: the lab may take {need // MIB}M of memory, {have}; lower memory of the hosts or free some"
    if shared > machine.free_shared:
        have = f"{machine.free_shared // MIB}M are free in /dev/shm"
        yield f"cxl_topology_memories: {format_size(shared)} of shared memory, but {have}; lower the sizes or enlarge /dev/shm"
    disk = DISK_NEED + OVERLAY_NEED * len(new)
    if disk > machine.free_disk:
        have = f"{machine.free_disk // MIB}M free"
        yield f"cxl_guest_image_cache_dir: {disk // MIB}M needed, {have}; free some space or choose another folder"


def shared_size(topology: Topology) -> int:
    """Bytes of the files behind the CXL memory; several devices of one pool share its bytes."""
    own = sum(memory.capacity for memory in topology.memories if not memory.pool)
    return own + sum(pool.size for pool in topology.pools)


def _check_ports(lab: str, topology: Topology, machine: Machine) -> Iterable[str]:
    for host in topology.hosts:
        own = domain_name(lab, host.name) in machine.running
        for key, port in (("ssh_port", host.ssh_port), ("gdb_port", host.gdb_port)):
            if port and not own and not machine.port_free(port):
                yield f"cxl_topology_hosts: {key} {port} of {host.name} is in use; choose another one or leave it out"


def this_machine(cache: Path, root: bool) -> Machine:
    """Looks at the machine that runs this."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    shared = os.statvfs("/dev/shm")
    folder = next(path for path in (cache, *cache.parents) if path.exists())
    return Machine(
        root=root,
        system=f"{release.get('ID', '')} {release.get('VERSION_ID', '')}".replace('"', ""),
        architecture=os.uname().machine,
        available_memory=int(memory["MemAvailable"].split()[0]) * 1024,
        free_shared=shared.f_bavail * shared.f_frsize,
        free_disk=shutil.disk_usage(folder).free,
        running=running_domains(),
        port_free=port_free,
    )


def running_domains(proc: Path = Path("/proc")) -> frozenset[str]:
    """Names of the QEMU guests of this machine, from the command lines that libvirt gives them."""
    names = set()
    for file in proc.glob("[0-9]*/cmdline"):
        try:
            arguments = file.read_bytes().split(b"\0")
        except OSError:
            continue
        names |= {text.decode(errors="replace")[6:].split(",")[0] for text in arguments if text.startswith(b"guest=cxl-lab.")}
    return frozenset(names)


def port_free(port: int) -> bool:
    return not port_problem(port)


def summary(topology: Topology, machine: Machine) -> Mapping[str, str]:
    """What a person wants to see before it starts."""
    return {
        "machine": f"{machine.system}, {os.cpu_count()} cores, {machine.available_memory // MIB}M available",
        "hosts": ", ".join(f"{host.name} ({format_size(host.memory)}, {host.cpus} cpus)" for host in topology.hosts),
        "memories": ", ".join(
            f"{memory.name} {_shown_parts(memory)} on {_shown_hosts(memory, topology)}" for memory in topology.memories
        ),
    }


def _shown_parts(memory: Memory) -> str:
    """ "512M", or with several kinds of capacity "512M persistent + 1G dynamic"."""
    parts = memory.parts
    kinds = [f"{format_size(size)} {kind}" for kind, size in parts.items()]
    return format_size(memory.size) if list(parts) == ["persistent"] else " + ".join(kinds)


def _shown_hosts(memory: Memory, topology: Topology) -> str:
    everybody = len(memory.hosts) == len(topology.hosts) > 4
    return f"all {len(memory.hosts)} hosts" if everybody else "+".join(memory.hosts)
