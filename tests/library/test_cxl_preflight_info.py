# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_preflight_info as Ansible runs it."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab.preflight import Machine
from ansible.modules import cxl_preflight_info
from fakes import run_module
from labs import two_node

GIB = 1 << 30
ENOUGH = {
    "system": "debian 12",
    "architecture": "x86_64",
    "available_memory": 64 * GIB,
    "free_shared": 64 * GIB,
    "free_disk": 64 * GIB,
    "running": frozenset(),
    "port_free": lambda port: True,
}


@pytest.fixture
def preflight(monkeypatch, capsys):
    """The module on a machine that has enough, or what the test says."""

    def run(machine=(), **args):
        monkeypatch.setattr(
            cxl_preflight_info, "this_machine", lambda cache, root: Machine(**{**ENOUGH, **dict(machine), "root": root})
        )
        given = {"lab": "two_node", "topology": two_node(), "inventory_hosts": ["node1", "node2"], "root": True, **args}
        return run_module(cxl_preflight_info, monkeypatch, capsys, **given)

    return run


def test_a_summary_when_all_is_well(preflight):
    result = preflight()
    assert result["changed"] is False
    assert result["summary"]["hosts"] == "node1 (2G, 2 cpus), node2 (2G, 2 cpus)"
    assert result["summary"]["memories"] == "pool0 512M on node1+node2" and result["summary"]["kvm"]


def test_every_problem_in_one_message(preflight):
    result = preflight({"available_memory": GIB, "free_shared": 0}, inventory_hosts=["node1"], root=False)
    assert result["failed"] is True
    head, *lines = result["msg"].split("\n  - ")
    assert head == "lab two_node: 4 problem(s) before the start" and lines == result["observed"]
    assert [line.split(":")[0] for line in lines] == [
        "rights",
        "cxl_topology_hosts",
        "cxl_topology_hosts",
        "cxl_topology_memories",
    ]


def test_a_wrong_topology_is_told_first(preflight):
    topology = two_node()
    topology["memories"][0]["size"] = "300M"
    result = preflight({"available_memory": 0}, topology=topology)
    assert result["msg"].startswith("topology: 1 problem(s)\n  - memories[0].size: 300M is no multiple of 256M")


def test_what_the_inventory_and_the_machine_have_against_it(preflight):
    topology = two_node()
    topology["hosts"][0]["kernel"] = "/nowhere/bzImage"
    result = preflight(topology=topology, hypervisors=["node2"], variables=["cxl_topology_host"], lab_dir="/" + "d" * 100)
    _, *lines = result["msg"].split("\n  - ")
    assert [line.split(": ")[0] for line in lines] == [
        "cxl_topology_hosts",
        "cxl_topology_host",
        "hosts[0].kernel",
        "networks[0].name",
    ]


@pytest.mark.parametrize("lab", ["../x", "a.b", ""])
def test_a_bad_lab_name_carries_its_variable(preflight, lab):
    assert preflight(lab=lab)["msg"].startswith(f"cxl_topology_lab: {lab!r} is no valid name")


def test_this_machine_is_looked_at(monkeypatch, capsys, tmp_path):
    """The real look, for a lab that no machine can carry."""
    topology = two_node()
    topology["hosts"][0]["memory"] = "900G"
    result = run_module(
        cxl_preflight_info,
        monkeypatch,
        capsys,
        lab="a",
        topology=topology,
        inventory_hosts=["node1", "node2"],
        cache_dir=str(tmp_path),
        root=True,
    )
    assert any("lower memory of the hosts" in problem for problem in result["observed"])
