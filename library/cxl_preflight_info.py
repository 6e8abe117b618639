#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_preflight_info
short_description: Whether this machine can carry a lab
description:
  - Checks the topology, the inventory and the machine before anything is changed, and reports every problem at once. Each names
    the variable and the fix.
options:
  lab:
    description: Name of the lab.
    type: str
    required: true
  topology:
    description: As for M(cxl.lab.cxl_topology).
    type: dict
    required: true
  inventory_hosts:
    description: Names in the inventory group C(cxl_hosts); they have to be the hosts of the topology.
    type: list
    elements: str
    required: true
  hosts_elsewhere:
    description: Those of them that other hypervisors of the inventory build.
    type: list
    elements: str
    default: []
  hypervisors:
    description: Names in the inventory group C(hypervisors). None of them can be a host of the lab, too.
    type: list
    elements: str
    default: []
  variables:
    description: Names of the variables that the inventory has for the topology. One that the role does not have is a problem.
    type: list
    elements: str
    default: []
  lab_dir:
    description: Folder of the lab's files; C(/var/lib/cxl-lab/LAB) without it.
    type: path
  uri:
    description: libvirt connection.
    type: str
    default: qemu:///system
  cache_dir:
    description: Folder of the caches, for its free space.
    type: path
    default: /var/cache/cxl-lab
  root:
    description: Whether tasks with C(become) really run as root, as a task before this one found out.
    type: bool
    required: true
attributes:
  check_mode:
    support: full
    description: Nothing is changed in any mode.
  diff_mode:
    support: none
    description: Nothing is changed.
author:
  - cxl.lab contributors
"""

EXAMPLES = r"""
- name: Look before anything starts
  cxl_preflight_info:
    lab: demo
    topology:
      hosts: [{name: node1}, {name: node2}]
      memories: [{name: pool0, size: 512M, serial: 0xc0de0001}]
    inventory_hosts: "{{ groups['cxl_hosts'] }}"
    root: true
"""

RETURN = r"""
summary:
  description: The lab and the machine in a few words.
  returned: success
  type: dict
  sample: {machine: "debian 12, 2 cores, 23041M available", hosts: "node1 (2G, 2 cpus)", memories: "pool0 512M on node1+node2"}
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.accel import device_problem
from ..module_utils.cxl_lab.errors import refuse_start
from ..module_utils.cxl_lab.names import check_name
from ..module_utils.cxl_lab.preflight import check, check_names, check_places, summary, this_machine
from ..module_utils.cxl_lab.topology.advice import warnings
from ..module_utils.cxl_lab.topology.model import parse_topology
from ..module_utils.cxl_lab.topology.obstacles import obstacles
from ..module_utils.cxl_lab.topology.plan import LabPaths, lab_folder
from ..module_utils.lab_module import run_module


def work(module: AnsibleModule) -> dict[str, Any]:
    lab = check_name(module.params["lab"], "cxl_topology_lab")
    topology = parse_topology(module.params["topology"])
    for text in warnings(topology):
        module.warn(text)
    machine = this_machine(Path(module.params["cache_dir"]), module.params["root"])
    problems = check(lab, topology, module.params["inventory_hosts"], machine, module.params["hosts_elsewhere"])
    problems += check_names(topology, module.params["hypervisors"], module.params["variables"])
    folder = lab_folder(lab, module.params["lab_dir"])
    problems += check_places(folder, module.params["uri"])
    problems += obstacles(topology, LabPaths(lab, folder))
    refuse_start(f"lab {lab}", problems)
    kvm = device_problem() or "/dev/kvm is there, to be proved with a guest kernel"
    return {"changed": False, "summary": {**summary(topology, machine), "kvm": kvm}}


def main() -> None:
    run_module(
        work,
        argument_spec={
            "lab": {"type": "str", "required": True},
            "topology": {"type": "dict", "required": True},
            "inventory_hosts": {"type": "list", "elements": "str", "required": True},
            "hosts_elsewhere": {"type": "list", "elements": "str", "default": []},
            "hypervisors": {"type": "list", "elements": "str", "default": []},
            "variables": {"type": "list", "elements": "str", "default": []},
            "lab_dir": {"type": "path"},
            "uri": {"type": "str", "default": "qemu:///system"},
            "cache_dir": {"type": "path", "default": "/var/cache/cxl-lab"},
            "root": {"type": "bool", "required": True},
        },
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
