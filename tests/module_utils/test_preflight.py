# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that would go wrong later is said before, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.cxl_lab.preflight import (
    DISK_NEED,
    GUEST_OVERHEAD,
    OVERLAY_NEED,
    VARIABLES,
    Machine,
    check,
    check_names,
    check_places,
    port_free,
    running_domains,
    shared_size,
    summary,
    this_machine,
)
from ansible.module_utils.cxl_lab.topology.model import parse_topology
from hypothesis import given
from hypothesis import strategies as st
from labs import ROOT, topologies, two_node

GIB, MIB = 1 << 30, 1 << 20
LAB, HOSTS = "two_node", ["node1", "node2"]
NEED = 2 * (2 * GIB + GUEST_OVERHEAD) + 512 * MIB
DISK = DISK_NEED + 2 * OVERLAY_NEED
ENOUGH = Machine(
    root=True,
    system="debian 12",
    architecture="x86_64",
    available_memory=NEED,
    free_shared=512 * MIB,
    free_disk=DISK,
    running=frozenset(),
    port_free=lambda port: True,
)


def topology(**hosts):
    """The default lab; keys of its first host replaced."""
    data = two_node()
    data["hosts"][0].update(hosts)
    return parse_topology(data)


@pytest.mark.parametrize("system", ["debian 12", "debian 13"])
def test_exactly_enough_is_enough(system):
    assert check(LAB, topology(), HOSTS, replace(ENOUGH, system=system)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"system": "ubuntu 24.04"}, "this machine: runs ubuntu 24.04; use Debian 12 or 13 for the hypervisor"),
        ({"architecture": "aarch64"}, "this machine: is aarch64; CXL in QEMU is used here on x86_64"),
        (
            {"root": False},
            "rights: the hypervisor's tasks need root; run as root, or as a user who may use sudo without a password",
        ),
        (
            {"available_memory": NEED - 1},
            f"cxl_topology_hosts: the lab may take {NEED // MIB}M of memory, {NEED // MIB - 1}M available; "
            "lower memory of the hosts or free some",
        ),
        (
            {"free_shared": 64 * MIB},
            "cxl_topology_memories: 512M of shared memory, but 64M are free in /dev/shm; lower the sizes or enlarge /dev/shm",
        ),
        (
            {"free_disk": GIB},
            f"cxl_guest_image_cache_dir: {DISK // MIB}M needed, 1024M free; free some space or choose another folder",
        ),
    ],
    ids=["system", "architecture", "rights", "memory", "shared memory", "disk"],
)
def test_each_problem_of_the_machine(change, problem):
    assert check(LAB, topology(), HOSTS, replace(ENOUGH, **change)) == [problem]


def test_each_problem_of_the_inventory():
    more = check(LAB, topology(), [*HOSTS, "node3"], ENOUGH)
    assert more == [
        "inventory: host node3 of group cxl_hosts is not in cxl_topology_hosts; add it there or remove it from the group"
    ]
    fewer = check(LAB, topology(), ["node1"], ENOUGH)
    assert fewer == ["cxl_topology_hosts: host node2 is not in the inventory group cxl_hosts; add it there or remove it here"]


def test_the_variables_are_those_of_the_role():
    spec = yaml.safe_load((ROOT / "roles/cxl_topology/meta/argument_specs.yml").read_text(encoding="utf-8"))
    options = set(spec["argument_specs"]["main"]["options"])
    assert options | {"cxl_topology_result", "cxl_topology_unbuilt"} == VARIABLES


def test_variables_that_nobody_reads():
    found = check_names(
        topology(), [], ["cxl_topology_memroies", "cxl_topology_hosts", "cxl_topology_result", "cxl_topology_zz9"]
    )
    assert found == [
        "cxl_topology_memroies: the role cxl_topology has no such variable; write cxl_topology_memories, or remove it",
        "cxl_topology_zz9: the role cxl_topology has no such variable; remove it",
    ]


@pytest.mark.parametrize(
    "uri", ["qemu:///system", "qemu:///session", "qemu+ssh://root@other/system", "qemu+unix:///system?socket=/run/x"]
)
def test_places_where_a_lab_can_be(uri):
    assert check_places(Path("/var/lib/cxl-lab/a"), uri) == []


@pytest.mark.parametrize(
    "uri", ["quemu:///system", "", "qemu", "qemu:/system", "test:///default", "xqemu:///system", "x\nqemu:///"]
)
def test_places_where_no_lab_can_be(uri):
    assert check_places(Path("labs/a"), uri) == [
        "cxl_topology_dir: labs/a is no absolute path; write it from the root folder on",
        f"cxl_topology_uri: {uri!r} is no connection to libvirt's QEMU; write qemu:///system",
    ]


def test_a_host_with_the_name_of_a_hypervisor():
    (found,) = check_names(topology(), ["node2", "big"], [])
    assert found.startswith("cxl_topology_hosts: host node2 has the name of a hypervisor of the inventory; choose another name")


def test_a_port_that_is_in_use():
    busy = replace(ENOUGH, port_free=lambda port: port != 4022)
    assert check(LAB, topology(), HOSTS, busy) == []
    assert check(LAB, topology(ssh_port=4022), HOSTS, busy) == [
        "cxl_topology_hosts: ssh_port 4022 of node1 is in use; choose another one or leave it out"
    ]
    ours = replace(busy, running=frozenset({"cxl-lab.two_node.node1"}))
    assert check(LAB, topology(ssh_port=4022), HOSTS, ours) == []


def test_every_problem_at_once():
    nothing = Machine(False, "alpine 3", "riscv64", 0, 0, 0, frozenset(), lambda port: False)
    problems = check(LAB, topology(ssh_port=4022), ["other"], nothing)
    assert [problem.split(":")[0] for problem in problems] == [
        *("this machine", "this machine", "rights", "inventory", "cxl_topology_hosts", "cxl_topology_hosts"),
        *("cxl_topology_hosts", "cxl_topology_memories", "cxl_guest_image_cache_dir", "cxl_topology_hosts"),
    ]


FULL = replace(ENOUGH, available_memory=0, free_shared=0, free_disk=0, port_free=lambda port: False)


@given(topologies())
def test_a_running_lab_needs_nothing(data):
    topology = parse_topology(data)
    names = [host.name for host in topology.hosts]
    running = frozenset(f"cxl-lab.a.{name}" for name in names)
    assert check("a", topology, names, replace(FULL, running=running)) == []
    assert check("a-b", topology, names, replace(FULL, running=running)) != []


@given(topologies(), st.integers(1, 10 * MIB))
def test_a_byte_too_little_is_too_little(data, lack):
    topology = parse_topology(data)
    names = [host.name for host in topology.hosts]
    shared = shared_size(topology)
    need = sum(host.memory + GUEST_OVERHEAD for host in topology.hosts) + shared
    disk = DISK_NEED + OVERLAY_NEED * len(names)
    enough = replace(ENOUGH, available_memory=need, free_shared=shared, free_disk=disk)
    assert check("a", topology, names, enough) == []
    for poor in (
        replace(enough, available_memory=need - lack),
        replace(enough, free_disk=disk - lack),
        *([replace(enough, free_shared=shared - lack)] if shared else []),
    ):
        assert len(check("a", topology, names, poor)) == 1


def test_half_a_lab_needs_half():
    running = frozenset({"cxl-lab.two_node.node1"})
    half = replace(ENOUGH, running=running, available_memory=2 * GIB + GUEST_OVERHEAD + 512 * MIB)
    assert check(LAB, topology(), HOSTS, half) == []
    assert len(check(LAB, topology(), HOSTS, replace(half, available_memory=half.available_memory - 1))) == 1


def test_the_names_of_running_guests(tmp_path):
    processes = {
        "1": b"/sbin/init\0",
        "20": b"/usr/bin/qemu-system-x86_64\0-name\0guest=cxl-lab.demo.node1,debug-threads=on\0-S\0",
        "21": b"/usr/bin/qemu-system-x86_64\0-name\0guest=cxl-lab.demo.node2\0",
        "22": b"/usr/bin/qemu-system-x86_64\0-name\0guest=windows,debug-threads=on\0",
        "23": b"prog\0guest=cxl-lab.\xff\xfe\0",
        "24": b"",
    }
    for pid, line in processes.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(line)
    (tmp_path / "25").mkdir()
    assert {"cxl-lab.demo.node1", "cxl-lab.demo.node2"} <= running_domains(tmp_path)
    assert not any("windows" in name for name in running_domains(tmp_path))


def test_a_guest_among_the_processes_of_this_machine():
    name = f"cxl-lab.pytest.p{os.getpid()}"
    assert name not in running_domains()
    command = [
        sys.executable,
        "-c",
        "import time; print('up', flush=True); time.sleep(600)",
        "-name",
        f"guest={name},debug-threads=on",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as guest:
        guest.stdout.readline()
        try:
            assert name in running_domains()
        finally:
            guest.kill()


def test_ports():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert port_free(port) is False
    assert port_free(port) is True


def test_this_machine(tmp_path):
    machine = this_machine(tmp_path / "not" / "there" / "yet", root=False)
    assert machine.root is False and machine.architecture == os.uname().machine
    assert machine.system == machine.system.strip('"').lower() and len(machine.system.split()) in (1, 2)
    assert 0 < machine.available_memory < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine.free_disk > 0 and machine.free_shared >= 0


def test_summary():
    assert summary(topology(memory="3G", cpus=4), replace(ENOUGH, available_memory=23041 * MIB)) == {
        "machine": f"debian 12, {os.cpu_count()} cores, 23041M available",
        "hosts": "node1 (3G, 4 cpus), node2 (2G, 2 cpus)",
        "memories": "pool0 512M on node1+node2",
    }


def test_devices_of_one_pool_take_its_memory_once():
    devices = [{"name": name, "volatile": "512M", "pool": "store"} for name in "xy"]
    data = {
        "hosts": [{"name": "a"}],
        "pools": [{"name": "store", "size": "1G"}],
        "memories": [*devices, {"name": "z", "dynamic": "256M"}],
    }
    assert shared_size(parse_topology(data)) == (1024 + 256) << 20


def test_a_gdb_port_that_is_in_use():
    topology = parse_topology({"hosts": [{"name": "a", "gdb_port": 5999}]})
    (problem,) = check("a", topology, ["a"], replace(ENOUGH, port_free=lambda port: port != 5999))
    assert problem.startswith("cxl_topology_hosts: gdb_port 5999 of a is in use")


def test_the_summary_names_every_kind_of_capacity():
    data = {"hosts": [{"name": name} for name in "abcde"], "memories": [{"name": "m", "size": "1G", "volatile": "256M"}]}
    assert summary(parse_topology(data), ENOUGH)["memories"] == "m 1G persistent + 256M volatile on all 5 hosts"


def test_hosts_of_other_hypervisors():
    assert check(LAB, topology(), [*HOSTS, "node3"], ENOUGH, ["node3"]) == []
    (problem,) = check(LAB, topology(), HOSTS, ENOUGH, ["node2"])
    assert problem.startswith(
        "cxl_topology_hosts: host node2 is one of another hypervisor of the inventory, too; give each hypervisor"
    )
