#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_preflight_local_info
short_description: Whether this machine can carry hosts that are its processes
description:
  - Checks the hosts and files of a lab without virtual machines before anything is changed, and reports every problem at once.
    Each names the variable and the fix.
options:
  lab:
    description: Name of the lab.
    type: str
    required: true
  hosts:
    description: The hosts, each as C(cxl_datapath_instance) of the role P(cxl.lab.cxl_datapath#role).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the host in the transports.
        type: str
        required: true
      runtime_dir:
        description: Folder of its sockets.
        type: path
        required: true
      state_dir:
        description: Folder of its desired state.
        type: path
        required: true
  files:
    description: As for M(cxl.lab.cxl_memory_file).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: str
        required: true
      size:
        description: Size of the file.
        type: str
        required: true
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
  cxl_preflight_local_info:
    lab: demo
    hosts:
      - {name: node1, runtime_dir: /run/demo/node1, state_dir: /run/demo/node1/state}
      - {name: node2, runtime_dir: /run/demo/node2, state_dir: /run/demo/node2/state}
    files:
      - {path: /dev/shm/demo, size: 128M}
    root: true
"""

RETURN = r"""
summary:
  description: The lab in a few words.
  returned: success
  type: dict
  sample: {hosts: "node1 (/run/demo/node1), node2 (/run/demo/node2)", files: "/dev/shm/demo (128M)"}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.errors import refuse_start
from ..module_utils.cxl_lab.memory_file import parse_wants
from ..module_utils.cxl_lab.names import check_name
from ..module_utils.cxl_lab.preflight_local import LocalHost, check, summary, this_machine
from ..module_utils.lab_module import run_module


def work(module: AnsibleModule) -> dict[str, Any]:
    lab = check_name(module.params["lab"], "cxl_local_lab")
    hosts = [LocalHost(**host) for host in module.params["hosts"]]
    files = parse_wants(module.params["files"], sized=True)
    refuse_start(f"lab {lab}", check(hosts, files, this_machine(module.params["root"])))
    return {"changed": False, "summary": summary(hosts, files)}


def main() -> None:
    folders = {key: {"type": "path", "required": True} for key in ("runtime_dir", "state_dir")}
    run_module(
        work,
        argument_spec={
            "lab": {"type": "str", "required": True},
            "hosts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"name": {"type": "str", "required": True}, **folders},
            },
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"path": {"type": "str", "required": True}, "size": {"type": "str", "required": True}},
            },
            "root": {"type": "bool", "required": True},
        },
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
