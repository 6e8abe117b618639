# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, addresses and paths are derived; what has to happen follows from what is there."""

from __future__ import annotations

import cProfile
import ipaddress
import json
from dataclasses import replace
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.topology.domain_xml import domain_xml
from ansible.module_utils.cxl_lab.topology.model import parse_topology
from ansible.module_utils.cxl_lab.topology.plan import (
    LabPaths,
    Seen,
    Step,
    domain_name,
    plan_machines,
    plan_steps,
    spec_differences,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from labs import PLATFORM, machines_of, names, networks, topologies, two_node


def seen_of(machine, state="running", ssh_port=4022) -> Seen:
    """What libvirt tells of a machine that was built like this."""
    return Seen(state, json.loads(json.dumps(machine.spec())), ssh_port)


def test_the_machines_of_the_default_lab():
    first, second = machines_of(two_node())
    assert (first.domain, first.address, first.nics[0].peer) == ("cxl-lab.two_node.node1", "10.77.0.11/24", "node2")
    assert (second.domain, second.address, second.nics[0].peer) == ("cxl-lab.two_node.node2", "10.77.0.12/24", "node1")
    assert first.memories == second.memories and first.memories[0].name == "pool0"
    assert (
        first.mac("control").startswith("52:54:00:") and len({m.mac(n) for m in (first, second) for n in ("control", "lab")}) == 4
    )


def test_a_host_alone_has_no_peer():
    (machine,) = machines_of({"hosts": [{"name": "a"}]})
    assert machine.nics == () and machine.address == "" and machine.memories == ()


def test_a_host_has_only_its_own_memories():
    data = two_node()
    data["memories"].append({"name": "own", "size": "256M", "serial": 2, "hosts": ["node2"]})
    first, second = machines_of(data)
    assert [m.name for m in first.memories] == ["pool0"] and [m.name for m in second.memories] == ["pool0", "own"]


@given(topologies())
def test_addresses_are_unique_and_those_of_hosts(data):
    network = ipaddress.IPv4Network(data.get("network", "10.77.0.0/24"))
    assume(len(data["hosts"]) > 1)
    addresses = [ipaddress.IPv4Interface(machine.address) for machine in machines_of(data)]
    assert len({address.ip for address in addresses}) == len(addresses)
    for address in addresses:
        assert address.network == network and address.ip in network
        assert address.ip not in (network.network_address, network.broadcast_address)


@pytest.mark.parametrize("prefix", range(8, 30))
def test_addresses_at_every_prefix_length(prefix):
    data = {**two_node(), "network": f"10.0.0.0/{prefix}"}
    wanted = ["10.0.0.1", "10.0.0.2"] if prefix == 29 else ["10.0.0.11", "10.0.0.12"]
    assert [machine.address for machine in machines_of(data)] == [f"{address}/{prefix}" for address in wanted]


@given(st.tuples(names, names), topologies(), networks())
def test_two_labs_share_nothing(labs, data, network):
    assume(labs[0] != labs[1])
    owned = []
    for lab in labs:
        paths = LabPaths(lab, Path("/var/lib/cxl-lab") / lab)
        machines = machines_of({**data, "network": network}, lab)
        files = {paths.memory(memory.name) for machine in machines for memory in machine.memories}
        files |= {
            path
            for m in machines
            for path in (paths.host(m.host.name), paths.network, paths.login_key, paths.ssh_config, paths.known_hosts)
        }
        macs = {machine.mac(network) for machine in machines for network in ("control", "lab")}
        assert len(macs) == 2 * len(machines)
        owned.append(files | macs | {machine.domain for machine in machines})
        assert not any(
            str(paths.memory(memory.name)).startswith(str(paths.shared / LabPaths(other, paths.root).memory_prefix))
            for other in labs
            if other != lab
            for machine in machines
            for memory in machine.memories
        )
    assert not owned[0] & owned[1]


@given(topologies())
def test_the_same_topology_is_the_same_plan(data):
    machines = machines_of(data)
    assert machines == machines_of(data)
    assert plan_steps(machines, {m.host.name: seen_of(m, ssh_port=m.host.ssh_port or 4022) for m in machines}) == []
    assert plan_steps(machines, {}) == [Step("create", m.host.name, "does not exist") for m in machines]


@pytest.mark.parametrize(
    ("state", "steps"),
    [
        ("running", []),
        ("off", [Step("start", "node1", "it is off")]),
        ("paused", [Step("start", "node1", "it is paused")]),
        ("crashed", [Step("replace", "node1", "it crashed")]),
    ],
)
def test_states(state, steps):
    first, second = machines_of(two_node())
    assert plan_steps([first, second], {"node1": seen_of(first, state), "node2": seen_of(second)}) == steps


def test_what_is_no_longer_wanted_goes_first():
    first, second = machines_of(two_node())
    seen = {"old": seen_of(second), "node1": seen_of(first)}
    assert plan_steps([first, second], seen) == [
        Step("remove", "old", "not in the topology"),
        Step("create", "node2", "does not exist"),
    ]
    assert plan_steps([], seen) == [Step("remove", "node1", "not in the topology"), Step("remove", "old", "not in the topology")]


def test_other_settings_replace_the_machine():
    built = machines_of(two_node())
    data = two_node()
    data["hosts"][0]["memory"], data["hosts"][0]["cpus"] = "3G", 4
    steps = plan_steps(machines_of(data), {m.host.name: seen_of(m) for m in built})
    assert steps == [
        Step("replace", "node1", "built with other settings: host.cpus: 2 -> 4, host.memory: 2147483648 -> 3221225472"),
    ]


def test_another_emulator_replaces_every_machine():
    built = machines_of(two_node())
    machines = machines_of(two_node(), platform=replace(PLATFORM, emulator="/new/qemu"))
    steps = plan_steps(machines, {m.host.name: seen_of(m) for m in built})
    assert [(step.action, step.host) for step in steps] == [("replace", "node1"), ("replace", "node2")]
    assert 'platform.emulator: "/usr/bin/qemu-system-x86_64" -> "/new/qemu"' in steps[0].reason


def test_settings_that_nobody_can_read_replace_the_machine():
    first, second = machines_of(two_node())
    steps = plan_steps([first, second], {"node1": Seen("running", None, 4022), "node2": seen_of(second)})
    assert [(step.action, step.host) for step in steps] == [("replace", "node1")]


@pytest.mark.parametrize(("wanted", "moves"), [("auto", False), (4022, False), (4023, True)])
def test_only_a_port_that_was_asked_for_moves_the_machine(wanted, moves):
    data = {"hosts": [{"name": "a", "ssh_port": wanted}]}
    (machine,) = machines_of(data)
    steps = plan_steps([machine], {"a": seen_of(machine, ssh_port=4022)})
    assert steps == ([Step("replace", "a", "built with other settings: host.ssh_port")] if moves else [])


@pytest.mark.parametrize(
    ("have", "want", "lines"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1}, []),
        ({"a": (1, 2)}, {"a": [1, 2]}, []),
        ({"a": 1}, {"a": 2}, ["a: 1 -> 2"]),
        ({"a": 1}, {}, ["a: 1 -> null"]),
        ({}, {"b": "x"}, ['b: null -> "x"']),
        ({"a": {"b": {"c": 1}}, "d": 1}, {"a": {"b": {"c": 2}}, "d": 2}, ["a.b.c: 1 -> 2", "d: 1 -> 2"]),
        ({"a": {"b": 1}}, {"a": 1}, ['a: {"b": 1} -> 1']),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, ['a: [{"b": 1}] -> [{"b": 2}]']),
    ],
)
def test_spec_differences(have, want, lines):
    assert spec_differences(have, want) == lines


values = st.recursive(
    st.one_of(st.integers(), st.text(), st.booleans()), lambda inner: st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
specs = st.dictionaries(st.text(), values, max_size=4)


@given(specs, specs)
def test_no_difference_means_equal(have, want):
    assert bool(spec_differences(have, want)) == (have != want)
    assert len(spec_differences(have, want)) == len(spec_differences(want, have))


def test_domain_names_carry_lab_and_host():
    assert domain_name("a", "b-c") != domain_name("a-b", "c")
    assert plan_machines("a", parse_topology({"hosts": [{"name": "b"}]}), PLATFORM)[0].domain == domain_name("a", "b")


def work_of(hosts: int) -> int:
    """How many functions are called until the domains of a lab are described, 16 devices on each host."""
    memories = [{"name": f"m{host}-{n}", "size": "256M", "hosts": [f"h{host}"]} for host in range(hosts) for n in range(12)]
    memories += [{"name": f"shared{n}", "size": "256M"} for n in range(4)]
    data = {"hosts": [{"name": f"h{host}"} for host in range(hosts)], "memories": memories}
    profile = cProfile.Profile()
    machines = profile.runcall(machines_of, data)
    texts = [profile.runcall(domain_xml, machine, LabPaths("two_node", Path("/lab")), 4022) for machine in machines]
    assert len(texts) == hosts and all(text.count("cxl-type3,") == 16 for text in texts)
    return sum(entry.callcount for entry in profile.getstats())


def test_work_grows_with_the_number_of_hosts_and_no_faster():
    assert work_of(256) < 4.5 * work_of(64)


def test_a_host_with_packages_of_its_own_starts_from_its_own_image():
    topology = parse_topology({"hosts": [{"name": "a", "extra_packages": ["gdb", "jq"]}, {"name": "b"}]})
    image = {"disk": "/i/disk.raw", "kernel": "/i/vmlinuz", "initrd": "/i/initrd.img"}
    first, second = plan_machines("lab", topology, PLATFORM, {"a": image})
    assert (first.platform.disk, first.platform.kernel, second.platform) == ("/i/disk.raw", "/i/vmlinuz", PLATFORM)
    with pytest.raises(LabError, match=r"host a: has packages of its own \(gdb, jq\) and no image with them; build it"):
        plan_machines("lab", topology, PLATFORM)


def test_what_is_no_package():
    with pytest.raises(LabError, match=r"hosts\[0\].extra_packages: \['-o'\] is no list of packages"):
        parse_topology({"hosts": [{"name": "a", "extra_packages": ["-o"]}]})


@pytest.mark.parametrize(
    ("memories", "ports"),
    [
        ([{"name": "a", "dynamic": "512M"}], 1),
        ([{"name": "a", "dynamic": "512M"}, {"name": "b", "dynamic": "512M"}], 2),
        ([{"name": "a", "dynamic": "512M", "size": "256M"}], 2),
        ([{"name": "a", "size": "256M"}], 2),
    ],
)
def test_a_lone_device_of_dynamic_capacity_gets_a_bridge_that_passes_everything_through(memories, ports):
    topology = parse_topology({"hosts": [{"name": "n"}], "memories": [{"hosts": ["n"], **memory} for memory in memories]})
    assert len(plan_machines("lab", topology, PLATFORM)[0].fabric.ports) == ports
