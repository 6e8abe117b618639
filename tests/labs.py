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
from ansible.module_utils.cxl_lab.topology.schema import SECTIONS, SHORT
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
    """The default lab."""
    return inventory("two_node")


def whole() -> dict[str, Any]:
    """A lab that uses every key: the fabric of the inventory "switched" on two hosts, with a pool, heads and two networks."""
    data = inventory("switched")
    data["hosts"] = [{"name": "node1"}, {"name": "node2"}]
    data["bridges"].append({"name": "c", "ports": 1})
    data["windows"].append({"size": "1G", "targets": ["c"]})
    data["memories"][-1]["heads"] = 8
    data["pools"] = [{"name": "store", "size": "1G"}]
    data["memories"].append({"name": "p0", "size": "256M", "parent": "c", "pool": "store", "offset": "256M"})
    data["networks"] = [
        {"name": "front"},
        {"name": "back", "subnet": "10.90.0.0/24", "kind": "switch", "hosts": ["node1", "node2"]},
    ]
    return data


def inventory(name: str) -> dict[str, Any]:
    """A topology as an inventory and the role's defaults give it to the module."""
    variables = {}
    for file in ("roles/cxl_topology/defaults/main.yml", f"inventories/{name}/group_vars/all.yml"):
        variables.update(yaml.safe_load((ROOT / file).read_text(encoding="utf-8")))
    return {key: copy.deepcopy(variables[f"cxl_topology_{key}"]) for key in (*SECTIONS, *SHORT)}


def machines_of(data: object, lab: str = "two_node", platform: Platform = PLATFORM) -> list[Machine]:
    """The machines that come of what a user wrote; a host with packages of its own gets an image that is named by them."""
    topology = parse_topology(data)
    images = {host.name: {"disk": f"/images/{'-'.join(host.extra_packages)}"} for host in topology.hosts if host.extra_packages}
    return plan_machines(lab, topology, platform, images)


names = st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True)


def networks() -> st.SearchStrategy[str]:
    """Every network that a lab may have: a private one of eight addresses or more, not where QEMU forwards the login."""

    def within(private: str) -> st.SearchStrategy[str]:
        whole = ipaddress.IPv4Network(private)
        first, last = int(whole.network_address), int(whole.broadcast_address)
        return st.builds(
            lambda address, prefix: str(ipaddress.IPv4Network((address, prefix), strict=False)),
            st.integers(first, last),
            st.integers(whole.prefixlen, 29),
        )

    login = ipaddress.IPv4Network("10.0.2.0/23")
    private = st.sampled_from(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]).flatmap(within)
    return private.filter(lambda network: not ipaddress.IPv4Network(network).subnet_of(login))


units = st.integers(1, 4).map(lambda count: count * UNIT)


@st.composite
def hosts_of_a_lab(draw: st.DrawFn, max_cpus: int) -> list[dict[str, Any]]:
    host_names = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    ports = draw(st.lists(st.integers(1024, 65535), min_size=4, max_size=4, unique=True))
    return [
        {
            "name": name,
            "memory": f"{draw(st.integers(512, 8192))}M",
            "cpus": draw(st.integers(1, max_cpus)),
            "ssh_port": draw(st.sampled_from(["auto", port])),
        }
        for name, port in zip(host_names, ports)
    ]


@st.composite
def capacities(draw: st.DrawFn, shared: bool) -> dict[str, Any]:
    """One kind of capacity or several, with what belongs to each."""
    kinds = draw(st.sets(st.sampled_from(["size", "volatile", "dynamic"]), min_size=1))
    entry: dict[str, Any] = {kind: draw(units) for kind in sorted(kinds)}
    if "size" in kinds and draw(st.booleans()):
        entry["lsa_size"] = draw(st.integers(64, 1024)) * 4096
    if "dynamic" in kinds:
        entry["dc_regions"] = draw(st.integers(1, 8))
        entry["dynamic"] = entry["dc_regions"] * UNIT * draw(st.integers(1, 2))
    if (shared and "dynamic" in kinds) or draw(st.booleans()):
        entry["heads"] = draw(st.sampled_from([8, 16, 32, 64]))
    return entry


@st.composite
def topologies(draw: st.DrawFn, max_cpus: int = 64, several_networks: bool = False) -> dict[str, Any]:
    """Valid topologies as a user writes them: short ones without a fabric, and others with bridges, switches and windows.

    :param several_networks: whether some have a list of networks, each between some of the hosts.
    """
    hosts = draw(hosts_of_a_lab(max_cpus))
    host_names = [host["name"] for host in hosts]
    fabric = draw(st.lists(names, max_size=5, unique=True))
    # Enough for all that can be plugged in, or as many as are.
    ports = st.one_of(st.just({}), st.integers(10, 16).map(lambda count: {"ports": count}))
    bridges = [{"name": name, **draw(ports)} for name in fabric[:3]]
    switches = [{"name": name, "parent": draw(st.sampled_from(fabric[:3])), **draw(ports)} for name in fabric[3:]]
    memories, pools = [], []
    serials = draw(st.lists(st.integers(1, 2**64 - 1), min_size=8, max_size=8, unique=True))
    for name, serial in zip(draw(st.lists(names, max_size=8, unique=True)), serials):
        seen_by = draw(st.lists(st.sampled_from(host_names), min_size=1, max_size=len(host_names), unique=True))
        entry = {"name": name, "hosts": seen_by, **draw(capacities(len(seen_by) > 1))}
        if draw(st.booleans()):
            entry["serial"] = serial
        if fabric and draw(st.booleans()):
            entry["parent"] = draw(st.sampled_from(fabric))
        kinds = {"size", "volatile", "dynamic"} & entry.keys()
        if len(kinds) == 1 and draw(st.booleans()):
            offset = draw(st.integers(0, 2)) * UNIT
            pools.append({"name": f"p{len(pools)}", "size": offset + entry[kinds.pop()]})
            entry.update(pool=pools[-1]["name"], offset=offset)
        memories.append(entry)
    pools = [pool for pool in pools if pool["name"] not in {memory["name"] for memory in memories}]
    for memory in memories:
        if memory.get("pool") not in {pool["name"] for pool in pools}:
            memory.pop("pool", None)
            memory.pop("offset", None)
    data: dict[str, Any] = {"hosts": hosts, "memories": memories, "pools": pools, "bridges": bridges, "switches": switches}
    need = max(UNIT, sum(memory.get(kind, 0) for memory in memories for kind in ("size", "volatile", "dynamic")))
    if bridges and draw(st.booleans()):
        data["windows"] = [{"size": need + draw(st.integers(0, 4)) * UNIT, "targets": [bridge["name"]]} for bridge in bridges]
        if len(bridges) > 1:
            targets = [bridge["name"] for bridge in bridges]
            granularity = draw(st.sampled_from([256, 512, 1024, 2048, 4096, 8192, 16384]))
            data["windows"].append({"size": UNIT * len(bridges), "targets": targets, "granularity": granularity})
    elif draw(st.booleans()):
        data["window"] = need + draw(st.integers(0, 16)) * UNIT
    if several_networks and draw(st.booleans()):
        some = st.lists(st.sampled_from(host_names), min_size=1, unique=True)
        kinds = st.sampled_from(["auto", "switch"])
        names_ = draw(st.lists(names.filter(lambda name: name != "control"), max_size=4, unique=True))
        data["networks"] = [{"name": name, "hosts": draw(some), "kind": draw(kinds)} for name in names_]
    elif draw(st.booleans()):
        data["network"] = draw(networks())
    return data
