#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: dynamic capacity of hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dcd_extent_info
short_description: Dynamic capacity of hosts
description:
  - Runs on the hypervisor. Asks devices what their hosts hold, without any effect on them, and tells the extents that the fabric
    manager knows.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
options:
  lab:
    description: Name of the lab.
    type: str
    required: true
  uri:
    description: libvirt connection.
    type: str
    default: qemu:///system
  state_dir:
    description: Folder on the hypervisor for what the fabric manager remembers, in a folder with the name of the lab.
    type: path
    default: /var/lib/cxl-lab-dcd
  state_files:
    description:
      - State files of multi-headed devices (see M(mhsld_state)), by the name of the device. Heads have the names of their hosts.
    type: dict
    default: {}
  program:
    description: The program of the data path, which makes claims. The role C(cxl_datapath) installs it on the hypervisor, too.
    type: path
    default: /opt/cxl-datapath/current/bin/cxl-datapath
  devices:
    description: Devices to ask.
    type: list
    elements: dict
    required: true
    suboptions:
      host:
        description: Name of the host.
        type: str
        required: true
      device:
        description: Name of the device in the topology.
        type: str
        required: true
attributes:
  check_mode:
    description: Nothing is changed in any mode.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
"""

EXAMPLES = r"""
- name: Who has what of the pool
  dcd_extent_info:
    lab: demo
    devices:
      - {host: node1, device: pool0}
      - {host: node2, device: pool0}
"""

RETURN = r"""
devices:
  description: The devices. C(held) is what is accepted or pending in each region, C(extents) what the fabric manager knows of.
  returned: success
  type: list
  elements: dict
  sample:
    - host: node1
      device: pool0
      serial: 145
      regions: 2
      region_size: 268435456
      path: /dev/shm/cxl-lab.demo.pool0
      file_offset: 0
      held: [{region: 0, offset: 0, size: 67108864}]
      extents: []
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.dcd.manager import Manager
from ..module_utils.dcd_module import OPTIONS, manager
from ..module_utils.lab_module import run_module

DEVICES: dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "required": True,
    "options": {name: {"type": "str", "required": True} for name in ("host", "device")},
}

SPEC: dict[str, Any] = {"argument_spec": {**OPTIONS, "devices": DEVICES}, "supports_check_mode": True}


def work(module: AnsibleModule) -> dict[str, Any]:
    with manager(module.params) as fabric:
        rows = [row(fabric, each["host"], each["device"]) for each in module.params["devices"]]
    return {"changed": False, "devices": rows}


def row(fabric: Manager, host: str, device: str) -> dict[str, Any]:
    """One device and what is on it."""
    geometry, asked = fabric.geometry(host, device), fabric.device(host, device)
    held = [
        {"region": region, "offset": offset, "size": size}
        for region in range(geometry.regions)
        for offset, size in asked.held(region, geometry.region_size)
    ]
    extents = [fabric.view(entry) for entry in fabric.journal.of_device(host, device)]
    return {"host": host, "device": device, **asdict(geometry), "held": held, "extents": extents}


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
