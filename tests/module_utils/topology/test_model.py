# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user may write, and what they are told when it is wrong."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.topology.model import Host, Memory, Topology, parse_topology
from hypothesis import example, given
from hypothesis import strategies as st
from labs import UNIT, networks, topologies, two_node

MIB, GIB = 1 << 20, 1 << 30


def changed(*path_and_value):
    """The default topology with one thing replaced; every host sees its memory."""
    *path, value = path_and_value
    data = entry = two_node()
    del data["memories"][0]["hosts"]
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    return data


def problems(data) -> list[str]:
    """The lines of the one message."""
    with pytest.raises(LabError) as caught:
        parse_topology(data)
    head, *lines = str(caught.value).split("\n  - ")
    assert head == f"topology: {len(lines)} problem(s)"
    return lines


def test_the_default_topology():
    assert parse_topology(two_node()) == Topology(
        hosts=(Host("node1", 2 * GIB, 2, 0), Host("node2", 2 * GIB, 2, 0)),
        memories=(Memory("pool0", 512 * MIB, 0xC0DE0001, MIB, ("node1", "node2")),),
        window=4 * GIB,
        network=ipaddress.IPv4Network("10.77.0.0/24"),
    )


def test_what_may_be_left_out():
    topology = parse_topology({"hosts": [{"name": "a"}, {"name": "b"}], "memories": [{"name": "m", "size": "256M", "serial": 1}]})
    assert topology.hosts == (Host("a", 2 * GIB, 2, 0), Host("b", 2 * GIB, 2, 0))
    assert topology.memories == (Memory("m", 256 * MIB, 1, MIB, ("a", "b")),)
    assert topology.window == 4 * GIB and str(topology.network) == "10.77.0.0/24"
    assert parse_topology({"hosts": [{"name": "a"}]}).memories == ()


def test_memories_of_a_host_keep_their_order():
    sizes = [
        {"name": name, "size": "256M", "serial": serial, "hosts": hosts}
        for name, serial, hosts in (("z", 1, "ab"), ("y", 2, "b"), ("x", 3, "a"))
    ]
    for entry in sizes:
        entry["hosts"] = list(entry["hosts"])
    topology = parse_topology({"hosts": [{"name": "a"}, {"name": "b"}], "memories": sizes})
    assert [memory.name for memory in topology.memories_of("a")] == ["z", "x"]
    assert [memory.name for memory in topology.memories_of("b")] == ["z", "y"]


NAME_FIX = 'use a lower-case letter, then letters, digits, "-" or "_", at most 32'
ONE_PROBLEM = {
    "unknown key": (changed("nodes", []), "cxl_topology: unknown key 'nodes'; use hosts, memories, network, window"),
    "unknown key of a host": (changed("hosts", 0, "ram", "2G"), "hosts[0]: unknown key 'ram'; use cpus, memory, name, ssh_port"),
    "unknown key of a memory": (
        changed("memories", 0, "interleave", 2),
        "memories[0]: unknown key 'interleave'; use hosts, lsa_size, name, serial, size",
    ),
    "key that is no text": (changed(7, 1), "cxl_topology: unknown key 7; use hosts, memories, network, window"),
    "memories is a mapping": (changed("memories", {"name": "a"}), "memories: {'name': 'a'} is no list; write a list"),
    "name missing": (changed("hosts", 0, {"cpus": 1}), f"hosts[0].name: None is no valid name; {NAME_FIX}"),
    "name leaves its folder": (changed("hosts", 0, "name", "../x"), f"hosts[0].name: '../x' is no valid name; {NAME_FIX}"),
    "name with a space": (changed("hosts", 0, "name", "a b"), f"hosts[0].name: 'a b' is no valid name; {NAME_FIX}"),
    "name like an option": (changed("hosts", 0, "name", "-x"), f"hosts[0].name: '-x' is no valid name; {NAME_FIX}"),
    "name with an umlaut": (changed("memories", 0, "name", "pöl"), f"memories[0].name: 'pöl' is no valid name; {NAME_FIX}"),
    "name with an option of QEMU": (
        changed("memories", 0, "name", "a,size=1"),
        f"memories[0].name: 'a,size=1' is no valid name; {NAME_FIX}",
    ),
    "name of two hosts": (changed("hosts", 1, "name", "node1"), "hosts: name node1 is used 2 times; give each its own name"),
    "little memory": (
        changed("hosts", 0, "memory", "256M"),
        "hosts[0].memory: 256M is too small or no whole MiB; give at least 512M",
    ),
    "half a MiB": (
        changed("hosts", 0, "memory", 600 * MIB + 1),
        "hosts[0].memory: 629145601 is too small or no whole MiB; give at least 512M",
    ),
    "memory is no size": (
        changed("hosts", 0, "memory", "much"),
        'hosts[0].memory: \'much\' is no size; write it as "512M" or "4G"',
    ),
    "no cpus": (changed("hosts", 0, "cpus", 0), "hosts[0].cpus: 0 is no whole number from 1 to 64; correct the value"),
    "cpus are true": (
        changed("hosts", 0, "cpus", True),
        "hosts[0].cpus: True is no whole number from 1 to 64; correct the value",
    ),
    "half a cpu": (changed("hosts", 0, "cpus", 1.5), "hosts[0].cpus: 1.5 is no whole number from 1 to 64; correct the value"),
    "port of the system": (
        changed("hosts", 0, "ssh_port", 22),
        "hosts[0].ssh_port: 22 is no whole number from 1024 to 65535; correct the value",
    ),
    "port as a word": (
        changed("hosts", 0, "ssh_port", "any"),
        "hosts[0].ssh_port: 'any' is no whole number from 1024 to 65535; correct the value",
    ),
    "size missing": (
        changed("memories", 0, {"name": "m", "serial": 1}),
        'memories[0].size: None is no size; write it as "512M" or "4G"',
    ),
    "odd size": (
        changed("memories", 0, "size", "300M"),
        "memories[0].size: 300M is no multiple of 256M, so that the driver would not bind the device; use 256M",
    ),
    "odd size, rather more": (
        changed("memories", 0, "size", "500M"),
        "memories[0].size: 500M is no multiple of 256M, so that the driver would not bind the device; use 512M",
    ),
    "tiny size": (
        changed("memories", 0, "size", 1),
        "memories[0].size: 1 is no multiple of 256M, so that the driver would not bind the device; use 256M",
    ),
    "small label area": (
        changed("memories", 0, "lsa_size", "128K"),
        "memories[0].lsa_size: 128K is out of range; use 256K to 64M, a multiple of 4K",
    ),
    "large label area": (
        changed("memories", 0, "lsa_size", "65M"),
        "memories[0].lsa_size: 65M is out of range; use 256K to 64M, a multiple of 4K",
    ),
    "odd label area": (
        changed("memories", 0, "lsa_size", "257K"),
        "memories[0].lsa_size: 257K is out of range; use 256K to 64M, a multiple of 4K",
    ),
    "unknown host": (
        changed("memories", 0, "hosts", ["node1", "node3"]),
        "memories[0].hosts: host 'node3' is not in the list of hosts; use one of node1, node2",
    ),
    "host twice": (
        changed("memories", 0, "hosts", ["node1", "node1"]),
        "memories[0].hosts: is empty or names a host twice; name each host once",
    ),
    "no host": (changed("memories", 0, "hosts", []), "memories[0].hosts: is empty or names a host twice; name each host once"),
    "serial missing": (
        changed("memories", 0, {"name": "m", "size": "256M"}),
        "memories[0].serial: None is no whole number from 1 to 0xffffffffffffffff; correct the value",
    ),
    "serial of zero": (
        changed("memories", 0, "serial", 0),
        "memories[0].serial: 0 is no whole number from 1 to 0xffffffffffffffff; correct the value",
    ),
    "serial of 65 bits": (
        changed("memories", 0, "serial", hex(1 << 64)),
        "memories[0].serial: '0x10000000000000000' is no whole number from 1 to 0xffffffffffffffff; correct the value",
    ),
    "odd window": (changed("window", "1000M"), "window: 1000M is no multiple of 256M; round it up"),
    "window is no size": (changed("window", "wide"), 'window: \'wide\' is no size; write it as "512M" or "4G"'),
    "window beyond the addresses of the emulator": (changed("window", "1T"), "window: 1T is more than 512G; make it smaller"),
    "no network": (
        changed("network", "lan"),
        "network: 'lan' is no private IPv4 network of eight addresses or more; write \"10.77.0.0/24\"",
    ),
}
for public in (
    "8.8.8.0/24",
    "10.77.0.0/30",
    "10.77.0.1/24",
    "fd00::/64",
    "127.0.0.0/8",
    "0.0.0.0/8",
    "0.0.0.0/0",
    "240.0.0.0/8",
    "169.254.0.0/16",
    7,
):
    ONE_PROBLEM[f"network {public}"] = (
        changed("network", public),
        f'network: {public!r} is no private IPv4 network of eight addresses or more; write "10.77.0.0/24"',
    )


@pytest.mark.parametrize(("data", "problem"), ONE_PROBLEM.values(), ids=ONE_PROBLEM.keys())
def test_each_problem_is_told_with_its_place_and_its_fix(data, problem):
    assert problems(data) == [problem]


def test_problems_that_come_together():
    assert problems(["hosts"]) == [
        "cxl_topology: ['hosts'] is no mapping; give hosts, memories, network, window",
        "hosts: None is no list; write a list",
        "hosts: the list is empty; name at least one host",
    ]
    assert problems(changed("hosts", 1, "node2")) == [
        "hosts[1]: 'node2' is no mapping; give cpus, memory, name, ssh_port",
        f"hosts[1].name: None is no valid name; {NAME_FIX}",
    ]
    assert problems(changed("memories", 0, "hosts", "node1")) == [
        "memories[0].hosts: 'node1' is no list; write a list",
        "memories[0].hosts: is empty or names a host twice; name each host once",
    ]
    assert problems(changed("window", "256M")) == [
        'window: 256M is less than the 512M of node1; use window: "512M"',
        'window: 256M is less than the 512M of node2; use window: "512M"',
    ]


def test_two_memories_with_one_serial_name_or_port():
    data = two_node()
    data["memories"].append({"name": "pool0", "size": "256M", "serial": 0xC0DE0001})
    data["hosts"][0]["ssh_port"] = data["hosts"][1]["ssh_port"] = 4022
    assert problems(data) == [
        "hosts: ssh_port 4022 is used 2 times; give each its own ssh_port",
        "memories: name pool0 is used 2 times; give each its own name",
        "memories: serial 0xc0de0001 is used 2 times; give each its own serial",
    ]


def test_automatic_ports_are_no_duplicates():
    data = two_node()
    data["hosts"][0]["ssh_port"] = data["hosts"][1]["ssh_port"] = "auto"
    assert {host.ssh_port for host in parse_topology(data).hosts} == {0}


def test_no_hosts_and_three_hosts():
    assert problems({}) == ["hosts: None is no list; write a list", "hosts: the list is empty; name at least one host"]
    three = {"hosts": [{"name": name} for name in "abc"]}
    assert problems(three) == ["hosts: 3 hosts, but the lab network is a cable between two; use at most two hosts"]


def test_nine_memories():
    data = {"hosts": [{"name": "a"}], "memories": [{"name": f"m{n}", "size": "256M", "serial": n} for n in range(1, 10)]}
    assert problems(data) == ["memories: a has 9; use at most 8 for a host"]


def test_every_problem_at_once():
    data = {
        "hosts": [{"name": "A", "cpus": -1, "x": 1}, {"name": "b", "memory": "1M"}],
        "memories": [{"name": "m m", "size": "1G", "serial": "one", "lsa_size": "1G", "hosts": ["c"]}],
        "window": 100,
        "network": "1.1.1.0/24",
    }
    places = [line.split(": ")[0] for line in problems(data)]
    assert sorted(places) == sorted(
        [
            *("hosts[0]", "hosts[0].name", "hosts[0].cpus", "hosts[1].memory"),
            *("memories[0].name", "memories[0].serial", "memories[0].lsa_size", "memories[0].hosts"),
            *("window", "network"),
        ]
    )


@pytest.mark.parametrize("serial", [3235774465, "3235774465", "0xc0de0001", "0xC0DE0001"])
def test_forms_of_a_serial(serial):
    assert parse_topology(changed("memories", 0, "serial", serial)).memories[0].serial == 0xC0DE0001


@given(topologies())
def test_a_valid_topology_comes_out_as_it_went_in(data):
    topology = parse_topology(data)
    assert [host.name for host in topology.hosts] == [host["name"] for host in data["hosts"]]
    assert [f"{host.memory // MIB}M" for host in topology.hosts] == [host["memory"] for host in data["hosts"]]
    assert [(m.name, m.size, m.serial, m.lsa_size, list(m.hosts)) for m in topology.memories] == [
        (m["name"], m["size"], m["serial"], m["lsa_size"], m["hosts"]) for m in data["memories"]
    ]
    assert topology.window == data["window"] and str(topology.network) == data["network"]


@given(networks())
def test_any_private_network(network):
    assert str(parse_topology(changed("network", network)).network) == network


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(max_size=4),
    st.just(datetime.date(2026, 1, 1)),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.text(), st.integers()), inner, max_size=3)),
)
hosts = st.fixed_dictionaries(
    {"name": st.one_of(st.sampled_from(["a", "b"]), anything)},
    optional={"memory": st.one_of(st.just("1G"), anything), "cpus": anything, "ssh_port": st.one_of(st.just("auto"), anything)},
)
memories = st.fixed_dictionaries(
    {
        "name": st.one_of(st.just("m"), anything),
        "size": st.one_of(st.just(UNIT), anything),
        "serial": st.one_of(st.just(1), anything),
    },
    optional={
        "hosts": st.one_of(st.lists(st.one_of(st.sampled_from(["a", "b"]), anything), max_size=3), anything),
        "lsa_size": anything,
    },
)
nearly = st.fixed_dictionaries(
    {"hosts": st.one_of(st.lists(st.one_of(hosts, anything), max_size=3), anything)},
    optional={
        "memories": st.one_of(st.lists(st.one_of(memories, anything), max_size=3), anything),
        "window": st.one_of(st.just("4G"), anything),
        "network": anything,
    },
)


places = [("hosts", 0, key) for key in ("name", "memory", "cpus", "ssh_port")]
places += [("memories", 0, key) for key in ("name", "size", "serial", "lsa_size", "hosts")]
places += [("hosts",), ("memories",), ("window",), ("network",)]
edges = st.sampled_from(
    [0, 1, 64, 65, 1023, 1024, 65535, 65536, 1 << 63, (1 << 64) - 1, 1 << 64, "0x10", "512M", "1T", "64M", "1"]
)
one_thing_changed = st.builds(lambda place, value: changed(*place, value), st.sampled_from(places), st.one_of(edges, anything))


def is_sound(topology):
    """What may be done with it without another look."""
    names = [each.name for each in (*topology.hosts, *topology.memories)]
    assert all(isinstance(name, str) and name.isascii() and name[0].islower() and len(name) <= 32 for name in names)
    for host in topology.hosts:
        assert host.memory >= 512 * MIB
        assert host.memory % MIB == 0
        assert 1 <= host.cpus <= 64
        assert type(host.ssh_port) is int
        assert host.ssh_port == 0 or 1024 <= host.ssh_port <= 65535
    for memory in topology.memories:
        assert memory.size > 0
        assert memory.size % (256 * MIB) == 0
        assert 1 <= memory.serial < 1 << 64
        assert 256 * 1024 <= memory.lsa_size <= 64 * MIB
        assert set(memory.hosts) <= {host.name for host in topology.hosts}
        assert memory.size <= topology.window <= 512 * GIB
    assert topology.network.is_private


@given(st.one_of(anything, nearly, one_thing_changed))
@example(
    {"hosts": [{"name": "a", "cpus": "9" * 5000}], "memories": [{"name": "m", "size": "256M", "serial": 1, "hosts": [["a"]]}]}
)
@example({"hosts": [{"name": "a"}], "window": "999999999999999T"})
@example(changed("hosts", 0, "ssh_port", False))
def test_whatever_is_written_is_a_sound_topology_or_a_lab_error(data):
    with contextlib.suppress(LabError):
        is_sound(parse_topology(data))


@pytest.mark.parametrize("port", [False, 0.0])
def test_a_port_is_a_number_or_auto(port):
    (line,) = problems(changed("hosts", 0, "ssh_port", port))
    assert line.startswith("hosts[0].ssh_port: ")


HUGE = 10**5000


@pytest.mark.parametrize(
    "data",
    [
        HUGE,
        {HUGE: 1},
        changed("window", HUGE),
        changed("window", -HUGE),
        changed("network", HUGE),
        changed("hosts", 0, "name", HUGE),
        changed("hosts", 0, "memory", HUGE),
        changed("hosts", 0, "cpus", HUGE),
        changed("memories", 0, "hosts", [HUGE, HUGE]),
        changed("memories", 0, "serial", [HUGE]),
    ],
    ids=range(10),
)
def test_a_number_that_python_does_not_print(data):
    assert any(f"<{name}>" in line for line in problems(data) for name in ("int", "list"))


def test_a_flood_of_data_is_a_short_message():
    assert len(problems(changed("network", "x" * 10**6))[0]) < 300
