# SPDX-License-Identifier: GPL-3.0-or-later
"""What speaks against a lab on this machine and can be seen before anything is made: libvirt would say it of one host after
others were built, and in words of its own."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Iterable

from .plan import LabPaths
from .records import Host, Network, Topology

KVM = Path("/dev/kvm")
#: Bytes of a unix socket's path (unix(7): 108 with the one that ends it).
MAX_SOCKET = 107


def obstacles(topology: Topology, paths: LabPaths, kvm: Path = KVM) -> list[str]:
    """Every obstacle as "place: what; fix"."""
    found = [problem for index, host in enumerate(topology.hosts) for problem in _own_things(f"hosts[{index}]", host, kvm)]
    for index, network in enumerate(topology.networks):
        found += _sockets(f"networks[{index}]", network, paths)
    return found


def _own_things(place: str, host: Host, kvm: Path) -> Iterable[str]:
    for key in ("emulator", "kernel", "initrd"):
        path = getattr(host, key)
        problem = _file_problem(path, program=key == "emulator") if path else ""
        if problem:
            yield f"{place}.{key}: {path} {problem}; correct the path, or leave {key} out"
    if host.accel == "kvm" and not kvm.exists():
        yield f"{place}.accel: kvm is asked for, and this machine has no {kvm}; use auto"


def _file_problem(path: str, program: bool) -> str:
    try:
        mode = Path(path).stat().st_mode
    except PermissionError:
        return ""  # root will see it
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not stat.S_ISREG(mode):
        return "is no regular file"
    return "is no program (not executable)" if program and not mode & 0o111 else ""


def _sockets(place: str, network: Network, paths: LabPaths) -> Iterable[str]:
    if network.kind == "switch":
        sockets = [paths.switch(network.name) / "ctl"]
    else:
        sockets = [paths.cable(network.name, host) for host in network.hosts] if len(network.hosts) > 1 else []
    long = max(sockets, key=lambda path: len(os.fsencode(path)), default=Path())
    if len(os.fsencode(long)) > MAX_SOCKET:
        problem = f"its socket {long} has {len(os.fsencode(long))} bytes, and a socket takes {MAX_SOCKET}"
        yield f"{place}.name: {problem}; choose shorter names of lab, network and hosts, or another cxl_topology_dir"
