#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: which extents to move so that hosts have about the same."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dcd_balance_info
short_description: Moves that would balance dynamic capacity over hosts
description:
  - Runs on the hypervisor. Tells which extents to move, one after the other, until no move brings the fullest and the emptiest
    host nearer to each other. It is an example of a policy; the playbook C(dcd_balance.yml) carries its moves out.
  - An extent that is shared or used stays where it is, and so does one with a tag that the other host has, too.
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
  program:
    description: The program of the data path, which makes claims. The role C(cxl_datapath) installs it on the hypervisor, too.
    type: path
    default: /opt/cxl-datapath/current/bin/cxl-datapath
  device:
    description: Name of the device in the topology.
    type: str
    required: true
  hosts:
    description: The hosts to balance.
    type: list
    elements: str
    required: true
  mappings:
    description: What hosts use, by host, as the C(mappings) of M(dcd_region_info).
    type: dict
    default: {}
attributes:
  check_mode:
    description: Nothing is changed in any mode.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
"""

EXAMPLES = r"""
- name: What should go where
  dcd_balance_info:
    lab: demo
    device: pool0
    hosts: [node1, node2]
"""

RETURN = r"""
moves:
  description: The moves in their order.
  returned: success
  type: list
  elements: dict
  sample: [{from: node1, to: node2, tag: work, region: 0, offset: 0, size: 134217728}]
held:
  description: Bytes that each host has in extents of the fabric manager.
  returned: success
  type: dict
  sample: {node1: 268435456, node2: 0}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.dcd.balance import balance, pieces
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.dcd_module import OPTIONS, manager
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        **{name: option for name, option in OPTIONS.items() if name != "state_files"},
        "device": {"type": "str", "required": True},
        "hosts": {"type": "list", "elements": "str", "required": True},
        "mappings": {"type": "dict", "default": {}},
    },
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    params, device = module.params, module.params["device"]
    with manager({**params, "state_files": {}}) as fabric:
        rows = {host: [fabric.view(each) for each in fabric.journal.of_device(host, device)] for host in params["hosts"]}
        sizes = {host: fabric.geometry(host, device).region_size for host in params["hosts"]}
        serials = {host: fabric.geometry(host, device).serial for host in params["hosts"]}
    held = {host: sum(row["size"] for row in found if row["state"] == "accepted") for host, found in rows.items()}
    used = {host: used_ranges(params["mappings"].get(host, []), serials[host]) for host in held}
    free = {host: pieces(found, used[host], sizes[host]) for host, found in rows.items()}
    moves = balance(held, free, {host: [row["tag"] for row in found] for host, found in rows.items()})
    return {"changed": False, "moves": [move.row() for move in moves], "held": held}


def used_ranges(rows: Any, serial: int) -> list[tuple[int, int]]:
    try:
        return [(int(row["dpa"]), int(row["size"])) for row in rows if int(row["serial"]) == serial]
    except (KeyError, TypeError, ValueError) as error:
        raise LabError("mappings", "are not those of dcd_region_info", "give its mappings, by host") from error


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
