# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks over an inventory with two hypervisors, both of which are this machine; nothing is built."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from local_play import LocalPlay

PREFLIGHT = "playbooks/preflight.yml"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the preflight asks for root's rights")


def hypervisor(lab: str, *hosts: str) -> dict:
    return {"cxl_topology_lab": lab, "cxl_topology_hosts": [{"name": name, "memory": "512M"} for name in hosts]}


@pytest.fixture
def site(tmp_path: Path):
    """Runs a playbook over an inventory of these hypervisors and what they build; ``others`` are further hosts."""
    play = LocalPlay(tmp_path, {})

    def run(playbook: str, *others: str, variables: dict | None = None, **hypervisors: dict) -> tuple[int, str]:
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        hosts = {host["name"]: {} for variables in hypervisors.values() for host in variables["cxl_topology_hosts"]}
        hosts |= {name: {} for name in others}
        groups = {"hypervisors": {"hosts": hypervisors}, "cxl_hosts": {"hosts": hosts}}
        (tmp_path / "hosts.json").write_text(json.dumps({"all": {"vars": local, "children": groups}}), encoding="utf-8")
        return play.run(playbook, **(variables or {}))

    return run


def test_each_hypervisor_builds_its_own_hosts(site):
    code, output = site(PREFLIGHT, big=hypervisor("big", "big1", "big2"), small=hypervisor("small", "small1"))
    assert code == 0, output
    assert "big1 (512M, 2 cpus), big2 (512M, 2 cpus)" in output and "small1 (512M, 2 cpus)" in output


def test_a_host_of_two_hypervisors_is_refused(site):
    code, output = site(PREFLIGHT, big=hypervisor("big", "node1", "node2"), small=hypervisor("small", "node1"))
    assert code != 0 and "host node1 is one of another hypervisor of the inventory, too; give each hypervisor" in output


def test_a_host_of_no_hypervisor_is_still_refused(site):
    code, output = site(PREFLIGHT, "nobody1", big=hypervisor("big", "big1"), small=hypervisor("small", "small1"))
    assert code != 0 and "host nobody1 of group cxl_hosts is not in cxl_topology_hosts" in output


def test_machines_that_nobody_builds(site):
    """The group of the hypervisors has another name, and everything would wait for hosts that never come."""
    code, output = site(PREFLIGHT, "node1", variables={"cxl_topology_hosts": [{"name": "node1"}]})
    assert code != 0 and "the inventory has cxl_topology_hosts and no host in the group hypervisors" in output


def test_places_are_looked_at_before_the_image_is_built(site):
    wrong = {"cxl_topology_dir": "labs/big", "cxl_topology_uri": "quemu:///system"}
    code, output = site(PREFLIGHT, big={**hypervisor("big", "big1"), **wrong})
    assert code != 0 and "lab big: 2 problem(s) before the start" in output


def test_names_that_would_be_taken_without_a_word(site):
    """A variable that no role has, and a host whose tasks would be run on the hypervisor itself."""
    code, output = site(PREFLIGHT, big={**hypervisor("big", "big", "big1"), "cxl_topology_memorys": []})
    assert code != 0 and "host big has the name of a hypervisor of the inventory; choose another name" in output
    assert "cxl_topology_memorys: the role cxl_topology has no such variable; write cxl_topology_memories" in output


def test_a_machine_that_nobody_can_switch_off_is_not_taken_for_off(site):
    said = {"recover_host": "nobody1", "recover_to": "big1"}
    labs = {"big": hypervisor("big", "big1"), "small": hypervisor("small", "small1")}
    code, output = site("playbooks/recover.yml", "nobody1", variables=said, **labs)
    assert code != 0 and "nobody1 is in no cxl_topology_hosts of the inventory, so that nobody can switch it off" in output
