# SPDX-License-Identifier: GPL-3.0-or-later
"""What does not go together in a topology: QEMU would take it and break later, or refuse it in words of its own."""

from __future__ import annotations

import copy
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.topology.advice import warnings
from ansible.module_utils.cxl_lab.topology.domain_xml import domain_xml
from ansible.module_utils.cxl_lab.topology.fabric import plan_fabric
from ansible.module_utils.cxl_lab.topology.model import parse_topology
from ansible.module_utils.cxl_lab.topology.plan import LabPaths
from hypothesis import given, settings
from hypothesis import strategies as st
from labs import inventory, machines_of, topologies, whole


def problems(data) -> list[str]:
    with pytest.raises(LabError) as caught:
        parse_topology(data)
    return str(caught.value).split("\n  - ")[1:]


def edited(*edits):
    """``whole`` with entries changed: (section, index, {key: value}), or appended where the index is None."""
    data = copy.deepcopy(whole())
    for section, index, values in edits:
        if index is None:
            data[section].append(values)
        else:
            data[section][index].update(values)
    return data


ONE_PROBLEM = {
    "unknown parent": (("memories", 0, {"parent": "z"}), "memories[0].parent: 'z' does not exist; use one of a, b, c, s"),
    "unknown parent of a switch": (
        ("switches", 0, {"parent": "z"}),
        "switches[0].parent: 'z' does not exist; use one of a, b, c, s",
    ),
    "unknown target": (
        ("windows", 0, {"targets": ["a", "b", "z"]}),
        "windows[0].targets: bridge 'z' is not in the list of bridges; use one of a, b, c",
    ),
    "unknown pool": (("memories", 7, {"pool": "z"}), "memories[7].pool: 'z' does not exist; use one of store"),
    "switch on itself": (
        ("switches", 0, {"parent": "s"}),
        "switches[0].parent: s hangs on itself; plug one of its parents into a bridge",
    ),
    "switch with the name of a bridge": (
        ("switches", None, {"name": "a", "parent": "b"}),
        "bridges and switches: name a is used 2 times; give each its own name",
    ),
    "pool with the name of a memory": (
        ("pools", None, {"name": "m0", "size": "1G"}),
        "pools: name m0 is that of a memory, too; ",
    ),
    "device below two switches": (
        ("memories", None, {"name": "deep", "volatile": "256M", "parent": "t"}),
        "memories[8].parent: t is below another switch, and QEMU routes memory through one switch only: ",
    ),
    "no capacity": (("memories", 0, {"size": None}), "memories[0]: has no capacity; give size, volatile or dynamic"),
    "labels without persistent capacity": (
        ("memories", 6, {"lsa_size": "1M"}),
        "memories[6].lsa_size: labels are for persistent capacity",
    ),
    "regions without dynamic capacity": (
        ("memories", 0, {"dc_regions": 2}),
        "memories[0].dc_regions: there is no dynamic capacity",
    ),
    "nine regions": (("memories", 6, {"dc_regions": 9}), "memories[6].dc_regions: 9 is no whole number from 1 to 8; "),
    "regions that do not divide": (
        ("memories", 6, {"dynamic": "768M"}),
        "memories[6].dynamic: 768M does not divide into 2 regions of n x 256M; use 1G",
    ),
    "dynamic capacity without an arbiter": (
        ("memories", 6, {"heads": None}),
        "memories[6].heads: several hosts would have the same dynamic capacity with nobody to arbitrate; give heads: 8",
    ),
    "seven heads": (("memories", 6, {"heads": 7}), "memories[6].heads: 7 is not allowed; use one of 8, 16, 32, 64"),
    "offset without a pool": (("memories", 0, {"offset": "256M"}), "memories[0].offset: there is no pool that it could count in"),
    "beyond the pool": (
        ("memories", 7, {"offset": "1G"}),
        "memories[7].offset: 256M from 1G on do not fit into store (1G); enlarge the pool",
    ),
    "two kinds in a pool": (
        ("memories", 7, {"volatile": "256M"}),
        "memories[7].pool: persistent and volatile capacity cannot both begin there; ",
    ),
    "port taken": (("memories", 0, {"parent": "a", "port": 0}), "memories[0]: port 0 of a is taken by s; leave port out"),
    "port that is not there": (("memories", 0, {"port": 4}), "memories[0]: port 4 of s, which has 4; give s more ports"),
    "more than its ports": (
        ("memories", None, {"name": "s4", "size": "256M", "parent": "s"}),
        "memories[8]: port 4 of s, which has 4; ",
    ),
    "bus numbers overlap": (("bridges", 1, {"bus": 200}), "", ("bridges", 0, {"bus": 196})),
    "bus numbers at the end": (("bridges", 0, {"bus": 254}), "bridges[0]: no room for its 8 bus numbers below 256; "),
    "decoders that are there anyway": (
        ("bridges", 0, {"hdm_for_passthrough": True}),
        "bridges[0].hdm_for_passthrough: a bridge with several",
    ),
    "bridge without a window": (
        ("bridges", None, {"name": "lost"}),
        "bridges[3]: no window leads to lost; name it in the targets",
    ),
    "bridge of one host": (
        ("bridges", 2, {"hosts": ["node1"]}),
        "memories[7].hosts: node2 has no c; add the host to the bridge, or choose another parent",
    ),
    "window over bridges of different hosts": (
        ("windows", 3, {"targets": ["c", "d"]}),
        "windows[3].targets: not every host has all of these bridges; ",
        ("bridges", None, {"name": "d", "hosts": ["node1"]}),
        ("windows", None, {"size": "1G", "targets": ["d"]}),
    ),
    "window that does not divide": (
        ("windows", 0, {"size": "768M"}),
        "windows[0].size: 768M is no multiple of 256M for each of 2 targets; use 1G",
    ),
    "granularity": (
        ("windows", 0, {"granularity": 300}),
        "windows[0].granularity: 300 is not allowed; use one of 256, 512, 1024, ",
    ),
    "target twice": (("windows", 0, {"targets": ["a", "a"]}), "windows[0].targets: is empty or names one twice; name each once"),
    "windows beyond the addresses": (("windows", 0, {"size": "1T"}), "windows: 1029G is more than 512G; make it smaller"),
    "too much below a bridge": (
        ("windows", 3, {"size": "256M"}),
        "windows: 256M is less than the 512M of node1, node2 below c; enlarge a window over c",
        ("memories", 7, {"size": "512M"}),
    ),
    "dynamic capacity below a window that interleaves": (
        ("memories", None, {"name": "d0", "dynamic": "512M", "parent": "s", "heads": 8}),
        "memories[8].dynamic: dynamic capacity does not interleave, and the windows that lead to a alone have 256M for 512M of "
        "such devices; add a window with targets: [a], or enlarge one",
        ("windows", 0, {"size": "4G"}),
        ("windows", 1, {"size": "256M"}),
        ("switches", 0, {"ports": 5}),
    ),
    "cable of three": (
        ("networks", 0, {"kind": "cable"}),
        "networks[0].kind: a cable joins two hosts, and there are 3; use switch",
        ("hosts", None, {"name": "node3"}),
    ),
    "networks overlap": (
        ("networks", 1, {"subnet": "10.77.0.0/16"}),
        "networks[1].subnet: 10.77.0.0/16 overlaps 10.77.0.0/24 of front; use another one",
        ("networks", 0, {"subnet": "10.77.0.0/24"}),
    ),
    "name of the control network": (
        ("networks", 0, {"name": "control"}),
        "networks[0].name: control is the NIC of the lab itself; ",
    ),
    "relative path": (("hosts", 0, {"kernel": "bzImage"}), "hosts[0].kernel: 'bzImage' is no absolute path; "),
    "arguments as one text": (("hosts", 0, {"qemu_arguments": "-s"}), "hosts[0].qemu_arguments: '-s' is no list of words; "),
    "argument with a line break": (
        ("hosts", 0, {"kernel_options": ["a\nb"]}),
        "hosts[0].kernel_options: ['a\\nb'] is no list of words; ",
    ),
}
PREPARATIONS = {"device below two switches": (("switches", None, {"name": "t", "parent": "s"}), ("switches", 0, {"ports": 5}))}


def twins(data, memory, **same) -> None:
    """Two devices that are alike in what must not be."""
    memory.update(same)
    data["memories"].append({**memory, "name": "twin"})


#: What QEMU takes without a word and breaks later, done to a device of a valid topology.
SILENT = {
    "two devices of one serial number": lambda data, memory: twins(data, memory, serial=77),
    "a size that the driver does not bind": lambda data, memory: memory.update(size="300M"),
    "more dynamic regions than there are": lambda data, memory: memory.update(dynamic="2304M", dc_regions=9),
    "a device that is larger than every window": lambda data, memory: memory.update(size="513G"),
    "dynamic capacity that nobody arbitrates": lambda data, memory: (
        data["hosts"].append({"name": "one-more"}),
        memory.update(hosts=[data["hosts"][0]["name"], "one-more"], dynamic="256M", dc_regions=1, heads=None),
    ),
}


@pytest.mark.parametrize("case", SILENT)
@settings(max_examples=30)
@given(data=topologies().filter(lambda data: data["memories"]), index=st.integers(0, 3))
def test_what_qemu_would_break_without_a_word_is_never_valid(case, data, index):
    data = copy.deepcopy(data)
    SILENT[case](data, data["memories"][index % len(data["memories"])])
    assert problems(data)


@pytest.mark.parametrize("case", ONE_PROBLEM)
def test_each_problem_is_told_with_its_place_and_its_fix(case):
    edit, wanted, *more = ONE_PROBLEM[case]
    (found,) = problems(edited(*PREPARATIONS.get(case, ()), *more, edit))
    assert found.startswith(wanted)


@pytest.mark.parametrize("ways", [5, 7])
def test_ways_that_no_window_has(ways):
    bridges = [{"name": f"b{n}", "ports": 2} for n in range(ways)]
    window = {"size": f"{ways * 256}M", "targets": [bridge["name"] for bridge in bridges]}
    data = {"hosts": [{"name": "h"}], "bridges": bridges, "windows": [window]}
    assert problems(data) == [f"windows[0].targets: {ways} ways; use 1, 2, 3, 4, 6, 8"]


def test_more_bridges_than_slots_and_more_devices_than_ports():
    bridges = [{"name": f"b{n}"} for n in range(9)]
    assert "bridges: h has 9; use at most 8 for a host" in problems({"hosts": [{"name": "h"}], "bridges": bridges})
    memories = [{"name": f"m{n}", "size": "256M"} for n in range(17)]
    (found,) = problems({"hosts": [{"name": "h"}], "memories": memories})
    assert found == "bridges[0]: cxl has 17 children on h; use at most 16; a switch takes more"


def test_a_short_form_beside_its_list():
    assert problems({**whole(), "window": "4G", "network": "10.1.0.0/24"}) == [
        "network: has no effect beside networks; leave network out",
        "window: has no effect beside windows; leave window out",
    ]


def test_hundreds_of_hosts_with_one_problem_are_one_line():
    data = {"hosts": [{"name": f"h{n}"} for n in range(300)], "memories": [{"name": "m", "size": "1G"}], "window": "512M"}
    (found,) = problems(data)
    assert len(found) < 200 and "and 294 more" in found


NAMED = {
    "memory": {"memories": [{"name": "m", "size": "256M", "parent": "cxl"}]},
    "switch": {"switches": [{"name": "s", "parent": "cxl"}], "memories": [{"name": "m", "size": "256M", "parent": "s"}]},
    "empty switch": {"switches": [{"name": "s", "parent": "cxl"}]},
    "window": {"memories": [{"name": "m", "size": "256M"}], "windows": [{"size": "8G", "targets": ["cxl"]}]},
}


@pytest.mark.parametrize("case", NAMED)
def test_the_bridge_of_a_lab_that_names_none_has_a_name(case):
    topology = parse_topology({"hosts": [{"name": "h"}], **NAMED[case]})
    fabric, found = plan_fabric(topology, "h")
    assert [bridge.name for bridge in fabric.bridges] == ["cxl"] and not found


def test_nothing_is_offered_where_nothing_is():
    hosts = problems({"hosts": [], "memories": [{"name": "m", "size": "256M", "hosts": ["x"]}]})
    assert "memories[0].hosts: host 'x' is not in the list of hosts; leave hosts out" in hosts


def test_a_problem_of_one_key_hides_no_other():
    data = {"hosts": [{"name": "h"}], "memories": [{"name": "m", "size": "8G", "lsa_size": "1K"}], "window": "4G"}
    assert [line.split(": ")[0] for line in problems(data)] == ["memories[0].lsa_size", "window"]


@pytest.mark.parametrize("count", [65, 2000])
def test_a_chain_of_switches_ends(count):
    chain = [{"name": f"s{n}", "parent": f"s{n - 1}" if n else "b"} for n in range(count)]
    found = problems({"hosts": [{"name": "h"}], "bridges": [{"name": "b"}], "switches": chain})
    assert found[0] == "switches[64].parent: s64 is below 64 others or more; plug it in closer to the bridge"


def test_thousands_of_problems_are_a_message_that_can_be_read():
    memories = [{"name": f"m{n}", "size": "300M"} for n in range(4096)]
    found = problems({"hosts": [{"name": "h"}], "memories": memories})
    assert len(found) == 101 and found[-1].startswith("and 399") and found[0].startswith("memories[0].size: 300M")


def subnets_of(*entries, **more) -> list[str]:
    hosts = {host: None for entry in entries for host in entry.get("hosts", ["a", "b"])}
    data = {"hosts": [{"name": name} for name in hosts], "networks": [{"name": f"n{n}", **e} for n, e in enumerate(entries)]}
    return [str(network.subnet) for network in parse_topology({**data, **more}).networks]


def test_networks_go_around_those_that_were_given():
    assert subnets_of({}, {}) == ["10.77.0.0/24", "10.78.0.0/24"]
    assert subnets_of({"subnet": "10.78.0.0/24"}, {}, {}) == ["10.78.0.0/24", "10.79.0.0/24", "10.80.0.0/24"]
    assert subnets_of({}, {"subnet": "10.77.0.0/16"}) == ["10.78.0.0/24", "10.77.0.0/16"]
    assert subnets_of({"subnet": "10.0.0.0/8"}, {}) == ["10.0.0.0/8", "172.16.0.0/24"]


def test_hundreds_of_networks():
    found = subnets_of(*({"hosts": [f"h{n}", f"h{n + 1}"]} for n in range(0, 400, 2)))
    assert len(set(found)) == 200 and found[178:180] == ["10.255.0.0/24", "10.1.0.0/24"]


def test_more_networks_than_there_are_addresses():
    with pytest.raises(LabError, match=r"subnet: 10.77.0.0/24 overlaps"):
        subnets_of(*({"hosts": [f"h{n}", f"h{n + 1}"]} for n in range(0, 600, 2)))


@pytest.mark.parametrize("subnet", ["10.0.2.0/24", "10.0.2.0/23", "10.0.2.128/25", "10.0.2.0/29"])
def test_a_network_where_the_login_would_get_lost(subnet):
    """Of two routes a guest takes the longer one, and its sshd is behind 10.0.2.2."""
    (found,) = problems({"hosts": [{"name": "a"}, {"name": "b"}], "network": subnet})
    assert found.startswith(f"networks[0].subnet: {subnet} hides 10.0.2.0/24, by which QEMU forwards the login")


@pytest.mark.parametrize("subnet", ["10.0.0.0/8", "10.0.0.0/22", "10.0.3.0/24"])
def test_networks_beside_that_of_the_login(subnet):
    assert subnets_of({"subnet": subnet}) == [subnet]


@pytest.mark.parametrize(("memory", "window"), [("500G", "512G"), ("961G", None)])
def test_memory_and_windows_beyond_what_an_emulated_processor_can_address(memory, window):
    data = {"hosts": [{"name": "small"}, {"name": "big", "memory": memory}]}
    more = {"memories": [{"name": "m", "size": "256M"}], "window": window} if window else {}
    (found,) = problems({**data, **more})
    assert found.startswith(f"hosts[1].memory: {memory} and windows of ") and found.endswith("are more than 960G; lower it")


def test_words_that_the_kernel_would_cut_off():
    """Its command line ends at 2047 bytes, without a word."""
    words = ["x" * 999]
    (found,) = problems({"hosts": [{"name": "h", "kernel_options": [*words, "ü" * 400]}]})
    assert found == "hosts[0].kernel_options: the words have 1801 bytes together, and there is room for 1800; use fewer"
    most = {"hosts": [{"name": "n" * 32, "kernel_options": [*words, "x" * 799]}], "memories": [{"name": "m", "dynamic": "256M"}]}
    most = {**most, "bridges": [{"name": "b", "ports": 2}]}
    (machine,) = machines_of(most)
    line = ET.fromstring(domain_xml(machine, LabPaths("l" * 32, Path("/lab")), 4022)).findtext("os/cmdline")
    assert "iomem=relaxed" in line and len(line) <= 2047


def test_a_word_that_is_too_long_is_told_why():
    (found,) = problems({"hosts": [{"name": "h", "qemu_arguments": ["x" * 1025]}]})
    assert found.endswith("; write a list of texts without control characters, each at most 1024 long")


def test_a_pool_that_no_file_holds():
    data = {"hosts": [{"name": "h"}], "pools": [{"name": "p", "size": "999999999T"}]}
    assert problems(data) == ["pools[0].size: 999999999T is more than a file can hold; use at most 1024T"]


def test_a_host_with_the_name_of_every_machine():
    (found,) = problems({"hosts": [{"name": "localhost"}]})
    assert found.startswith("hosts[0].name: localhost is what every machine calls itself; ")


def test_a_network_that_is_too_small():
    data = {"hosts": [{"name": f"h{n}"} for n in range(7)], "network": "10.1.0.0/29"}
    assert problems(data) == ['networks[0]: 10.1.0.0/29 has 6 addresses for 7 hosts; use a larger one, such as "10.77.0.0/16"']


def test_the_numbers_of_a_fabric():
    fabric, found = plan_fabric(parse_topology(inventory("switched")), "node1")
    assert found == []
    # Bridge a has its own bus, two root ports, and a switch with its own bus and four ports.
    assert [(bridge.name, bridge.bus) for bridge in fabric.bridges] == [("a", 64), ("b", 72)]
    assert [(device.name, device.parent, device.number) for device in fabric.devices] == [
        *(("s0", "s", 0), ("s1", "s", 1), ("s2", "s", 2), ("s3", "s", 3)),
        *(("m0", "a", 1), ("m1", "b", 0), ("x0", "b", 1)),
    ]
    assert [(plug.name, plug.parent, plug.number) for plug in fabric.switches] == [("s", "a", 0)]


@pytest.mark.parametrize(
    ("change", "programmed"),
    [
        ({"memories": [{"name": "d", "dynamic": "512M"}]}, []),
        ({"memories": [{"name": "d", "dynamic": "512M"}, {"name": "e", "dynamic": "512M"}]}, ["cxl"]),
        ({"memories": [{"name": "d", "dynamic": "512M"}, {"name": "m", "size": "512M"}]}, ["cxl"]),
        ({"memories": [{"name": "m", "size": "512M"}, {"name": "n", "size": "512M"}]}, []),
        ({"memories": [{"name": "d", "dynamic": "512M", "parent": "a"}], "bridges": [{"name": "a", "ports": 2}]}, ["a"]),
        (
            {
                "memories": [{"name": "d", "dynamic": "512M"}],
                "bridges": [{"name": "a", "ports": 1, "hdm_for_passthrough": True}],
            },
            ["a"],
        ),
        (
            {
                "memories": [{"name": "d", "dynamic": "512M", "parent": "s"}, {"name": "m", "size": "1G", "parent": "b"}],
                "bridges": [{"name": "a"}, {"name": "b"}],
                "switches": [{"name": "s", "parent": "a"}],
            },
            [],
        ),
        (
            {
                "memories": [{"name": "d", "dynamic": "512M", "parent": "s"}, {"name": "m", "size": "1G", "parent": "s"}],
                "bridges": [{"name": "a"}],
                "switches": [{"name": "s", "parent": "a"}],
            },
            ["a"],
        ),
    ],
)
def test_bridges_whose_decoders_the_daemon_programs(change, programmed):
    fabric, found = plan_fabric(parse_topology({"hosts": [{"name": "n"}], **change}), "n")
    assert found == [] and fabric.programmed == programmed


def test_bus_numbers_that_were_given_are_kept_and_the_others_go_around_them():
    data = inventory("switched")
    data["bridges"][0]["bus"] = 70
    fabric, found = plan_fabric(parse_topology(data), "node1")
    assert found == [] and [bridge.bus for bridge in fabric.bridges] == [70, 64]


def test_what_works_otherwise_than_one_may_think():
    data = {"hosts": [{"name": "x"}, {"name": "y"}], "bridges": [{"name": "a"}, {"name": "b"}]}
    shared = {**data, "memories": [{"name": "m", "size": "256M", "parent": "a"}]}
    (first,) = warnings(parse_topology(shared))
    assert first.startswith("memories: m is shared below a, and the last window is not above it")
    last = {**shared, "memories": [{"name": "m", "size": "256M", "parent": "b"}]}
    assert warnings(parse_topology(last)) == []
    many = {"hosts": [{"name": "x"}], "memories": [{"name": f"m{n}", "size": "256M"} for n in range(5)]}
    assert warnings(parse_topology(many)) == ["bridges: 5 devices below cxl, which has decoders for 4 regions at one time"]
