#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: how a host is, in one look."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_status_info
short_description: Show how the CXL side of a host is, in one look
description:
  - Collects memdevs, regions, namespaces, DAX devices, daemon and transports of this host, with kernel and uptime. What cannot be
    had is null, and C(problems) tells why; the module does not fail for it.
  - With O(hosts) it makes a table of what it returned on several hosts, and looks at nothing.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
options:
  runtime_dir:
    description: Folder of the daemon's control socket.
    type: path
    default: /run/cxl-datapath
  devices:
    description: Whether the host has the CXL devices of its machine. One that is a process of the machine has none.
    type: bool
    default: true
  hosts:
    description:
      - Hosts for the table, by their names, each with the C(status) that this module returned there, or nothing where it did
        not answer.
    type: dict
  machines:
    description: Machines for the table, as M(cxl.lab.cxl_topology_info) returns them.
    type: list
    elements: dict
    default: []
attributes:
  check_mode:
    description: Changes nothing, so check mode makes no difference.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: How is this host
  cxl_status_info:
  register: looked

- name: A table of all hosts
  cxl_status_info:
    hosts:
      node1: "{{ hostvars.node1.looked.status }}"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
status:
  description: The host. Lists are as of the C(_info) modules of each kind.
  returned: without O(hosts)
  type: dict
  sample:
    kernel: 6.12.48+deb13-amd64
    uptime_s: 311
    memdevs: [{name: mem0, serial: "0xc0de0001", pmem_size: 536870912, ram_size: 0, host: "0000:0e:00.0", enabled: true}]
    regions: []
    namespaces: []
    dax: []
    daemon: {running: true, version: 0.1.0, transports: [pool0]}
    problems: []
table:
  description: The lines of the table.
  returned: with O(hosts)
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.runner import HostRunner
from ..module_utils.cxl_lab.status import collect, table
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        "runtime_dir": {"type": "path", "default": "/run/cxl-datapath"},
        "devices": {"type": "bool", "default": True},
        "hosts": {"type": "dict"},
        "machines": {"type": "list", "elements": "dict", "default": []},
    },
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    if module.params["hosts"] is not None:
        return {"changed": False, "table": table(module.params["hosts"], module.params["machines"])}
    return {"changed": False, "status": collect(HostRunner(), module.params["runtime_dir"], module.params["devices"])}


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
