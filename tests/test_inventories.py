# SPDX-License-Identifier: GPL-3.0-or-later
"""The labs that come with the project: what they name is there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.cxl_lab.sizes import parse_size
from ansible.module_utils.cxl_lab.topology.model import parse_topology
from labs import ROOT, inventory

LABS = sorted(
    file.parent.parent.name
    for file in ROOT.glob("inventories/*/group_vars/all.yml")
    if "cxl_topology_hosts" in file.read_text(encoding="utf-8")
)
BIN = ROOT / ".venv" / "bin"


def listed(value) -> list[int]:
    return [int(str(one), 0) for one in (value if isinstance(value, list) else [value])]


@pytest.mark.parametrize("name", LABS)
def test_regions_and_namespaces_are_over_devices_of_the_topology(name):
    serials = {memory.serial for memory in parse_topology(inventory(name)).memories}
    variables = yaml.safe_load((ROOT / "inventories" / name / "group_vars/cxl_hosts.yml").read_text(encoding="utf-8"))
    regions = [listed(entry["serial"]) for entry in variables.get("cxl_memory_regions", [])]
    assert all(set(region) <= serials for region in regions)
    assert all(listed(entry["serial"]) in regions for entry in variables.get("cxl_memory_namespaces", []))


@pytest.mark.parametrize("name", LABS)
def test_the_inventory_has_the_hosts_of_the_topology(name):
    command = [str(BIN / "ansible-inventory"), "-i", str(Path("inventories") / name), "--list", "--yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    group = yaml.safe_load(done.stdout)["all"]["children"]["cxl_hosts"]["hosts"]
    assert list(group) == [host.name for host in parse_topology(inventory(name)).hosts]


@pytest.mark.parametrize("name", LABS)
def test_what_is_verified_has_room_for_a_file_system(name):
    """mkfs.xfs wants 300 MiB, and a partition table takes some of the disk that it is on."""
    variables = yaml.safe_load((ROOT / "inventories" / name / "group_vars/cxl_hosts.yml").read_text(encoding="utf-8"))
    device = variables.get("cxl_verify_backing_device", "")
    sizes = [parse_size(disk["size"]) for disk in variables.get("cbd_ramdisks", []) if device == f"/dev/{disk['name']}p1"]
    assert all(size > 310 << 20 for size in sizes)


def playbook(*words: str) -> str:
    command = [str(BIN / "ansible-playbook"), "-i", "inventories/baremetal.example", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_real_hosts_need_no_hypervisor():
    assert "skipping: no hosts matched" in playbook("playbooks/preflight.yml")
    listed_hosts = playbook("site.yml", "--list-hosts")
    assert "server1" in listed_hosts and "hypervisor1" not in listed_hosts


def test_the_lists_of_real_hosts_fit_together():
    file = ROOT / "inventories/baremetal.example/group_vars/cxl_hosts.yml"
    variables = yaml.safe_load(file.read_text(encoding="utf-8"))
    regions = [listed(entry["serial"]) for entry in variables["cxl_memory_regions"]]
    assert all(listed(entry["serial"]) in regions for entry in variables["cxl_memory_namespaces"])
    serials = {serial for region in regions for serial in region}
    assert {int(entry["memory"].removeprefix("serial:"), 16) for entry in variables["cbd_transports"]} <= serials
