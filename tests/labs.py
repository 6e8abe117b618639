# SPDX-License-Identifier: GPL-3.0-or-later
"""Labs for the tests: the one of the inventory two_node, and any other that a user may write."""

from __future__ import annotations

import copy
import ipaddress
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.cxl_lab.topology.model import parse_topology
from ansible.module_utils.cxl_lab.topology.plan import Machine, Platform, plan_machines
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
UNIT = 256 << 20
PLATFORM = Platform(
    emulator="/usr/bin/qemu-system-x86_64",
    accel="tcg",
    kernel="/var/cache/cxl-lab/guest/vmlinuz",
    initrd="/var/cache/cxl-lab/guest/initrd.img",
    disk="/var/cache/cxl-lab/guest/disk.raw",
)


def two_node() -> dict[str, Any]:
    """The default lab as its inventory and the role's defaults give it to the module."""
    variables = {}
    for file in ("roles/cxl_topology/defaults/main.yml", "inventories/two_node/group_vars/all.yml"):
        variables.update(yaml.safe_load((ROOT / file).read_text(encoding="utf-8")))
    return {key: copy.deepcopy(variables[f"cxl_topology_{key}"]) for key in ("hosts", "memories", "window", "network")}


def machines_of(data: object, lab: str = "two_node", platform: Platform = PLATFORM) -> list[Machine]:
    """The machines that come of what a user wrote."""
    return plan_machines(lab, parse_topology(data), platform)


names = st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True)


def networks() -> st.SearchStrategy[str]:
    """Every network that a lab may have: a private one of eight addresses or more."""

    def within(private: str) -> st.SearchStrategy[str]:
        whole = ipaddress.IPv4Network(private)
        first, last = int(whole.network_address), int(whole.broadcast_address)
        return st.builds(
            lambda address, prefix: str(ipaddress.IPv4Network((address, prefix), strict=False)),
            st.integers(first, last),
            st.integers(whole.prefixlen, 29),
        )

    return st.sampled_from(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]).flatmap(within)


@st.composite
def topologies(draw: st.DrawFn, max_cpus: int = 64) -> dict[str, Any]:
    """Valid topologies as a user writes them."""
    host_names = draw(st.lists(names, min_size=1, max_size=2, unique=True))
    ports = draw(st.lists(st.integers(1024, 65535), min_size=2, max_size=2, unique=True))
    hosts = [
        {
            "name": name,
            "memory": f"{draw(st.integers(512, 8192))}M",
            "cpus": draw(st.integers(1, max_cpus)),
            "ssh_port": draw(st.sampled_from(["auto", port])),
        }
        for name, port in zip(host_names, ports)
    ]
    memory_names = draw(st.lists(names, max_size=8, unique=True))
    serials = draw(st.lists(st.integers(1, 2**64 - 1), min_size=8, max_size=8, unique=True))
    memories = [
        {
            "name": name,
            "size": draw(st.integers(1, 4)) * UNIT,
            "serial": serial,
            "lsa_size": draw(st.integers(64, 1024)) * 4096,
            "hosts": draw(st.lists(st.sampled_from(host_names), min_size=1, max_size=2, unique=True)),
        }
        for name, serial in zip(memory_names, serials)
    ]
    need = sum(memory["size"] for memory in memories)
    window = max(UNIT, need) + draw(st.integers(0, 16)) * UNIT
    return {"hosts": hosts, "memories": memories, "window": window, "network": draw(networks())}
