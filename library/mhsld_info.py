#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: claims on a multi-headed device."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mhsld_info
short_description: Claims on a multi-headed device
description:
  - Runs on the hypervisor. Tells which head has which blocks, and with O(hosts) whether the machines of the heads agree.
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
  path:
    description: The state file.
    type: path
    required: true
  device:
    description: Name of the device in the topology. Needed with O(hosts).
    type: str
  hosts:
    description: Hosts to ask what they hold; their machines must be on.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Nothing is changed in any mode.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
"""

EXAMPLES = r"""
- name: Who has what
  mhsld_info:
    lab: demo
    path: /dev/shm/cxl-lab.demo.pool0.mhsld
    device: pool0
    hosts: [node1, node2]
"""

RETURN = r"""
mhsld:
  description: The file and its claims.
  returned: success
  type: dict
  sample: {path: /dev/shm/cxl-lab.demo.pool0.mhsld, size: 1073741824, block: 2097152, heads: [node1, node2], claims: []}
findings:
  description: Where claims and machines differ, as of M(mhsld_state).
  returned: with O(hosts)
  type: list
  elements: dict
  sample: [{kind: stale, head: node1, offset: 0, length: 2097152}]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.dcd.claims import Claims
from ..module_utils.cxl_lab.dcd.heads import held_by
from ..module_utils.cxl_lab.runner import HostRunner
from ..module_utils.dcd_module import OPTIONS, manager
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        **{name: option for name, option in OPTIONS.items() if name != "state_files"},
        "path": {"type": "path", "required": True},
        "device": {"type": "str"},
        "hosts": {"type": "list", "elements": "str", "default": []},
    },
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    claims = Claims(HostRunner(), params["path"], params["program"])
    if not params["hosts"]:
        return {"changed": False, "mhsld": claims.show()}
    if not params["device"]:
        module.fail_json(msg="device: needed to ask hosts; name the device of the topology")
    with manager({**params, "state_files": {}}) as fabric:
        held = {host: held_by(fabric, host, params["device"]) for host in params["hosts"]}
        found = claims.audit(held, repair=False)["findings"]
        return {"changed": False, "mhsld": claims.show(), "findings": found}


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
