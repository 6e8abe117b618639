#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a CBD backend on this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cbd_backend
short_description: Manage a CBD backend
description:
  - A backend gives a block device or file of this host to the hosts of a transport.
  - It is found by its path, so that the same path is never given away twice.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - a running cxl-datapathd on the host
options:
  transport:
    description: Name of the transport. This host has to be registered in it.
    type: str
    required: true
  path:
    description: Block device or file on this host.
    type: path
    required: true
  id:
    description: Number of the backend in the transport. Without it a free one is taken.
    type: int
  read_only:
    description: Whether the device is only read.
    type: bool
    default: false
  state:
    description:
      - V(present) starts the backend.
      - V(absent) stops it. It is refused while a blkdev uses it.
    type: str
    choices: [present, absent]
    default: present
  runtime_dir:
    description: Folder with the control socket of the daemon.
    type: path
    default: /run/cxl-datapath
attributes:
  check_mode:
    description: Reports what would be done and does nothing. Where the daemon does not run yet, that is to start it.
    support: full
  diff_mode:
    description: Shows the backend before and after.
    support: full
"""

EXAMPLES = r"""
- name: Give a partition away
  cbd_backend:
    transport: pool0
    path: /dev/ram0p1
    id: 0
"""

RETURN = r"""
backend:
  description: The backend as read back from the transport; null when there is none.
  returned: success
  type: dict
  sample:
    id: 0
    path: /dev/ram0p1
    state: running
    capacity: 534773760
    logical_block_size: 512
    read_only: false
    host: node1
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["start a backend on /dev/ram0p1"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cbd_module import RUNTIME_OPTION, Goal, reach, rows_in
from ..module_utils.cxl_lab import cbd
from ..module_utils.cxl_lab.cbd import BackendWant
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        "transport": {"type": "str", "required": True},
        "path": {"type": "path", "required": True},
        "id": {"type": "int"},
        "read_only": {"type": "bool", "default": False},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        **RUNTIME_OPTION,
    },
    "supports_check_mode": True,
}


def parse_want(options: dict[str, Any]) -> BackendWant:
    number = None if options["id"] is None else cbd.check_id(options["id"], "backend")
    path = cbd.check_path(options["path"], "backend")
    return BackendWant(cbd.check_transport(options["transport"]), path, number, options["read_only"])


def work(module: AnsibleModule) -> dict[str, Any]:
    want = parse_want(module.params)
    present = module.params["state"] == "present"
    plan = cbd.plan_backend if present else cbd.plan_no_backend
    list_ = "cbd.backend.list"
    goal = Goal(
        want.subject,
        "backend",
        observe=lambda client: rows_in(client, want.transport, list_, need=present and not module.check_mode),
        plan=lambda seen: plan(want, seen),
        show=lambda seen: cbd.own_backend(want, seen),
        wanted={"path": want.path, "read_only": want.read_only, "state": "running"} if present else None,
    )
    return reach(module, goal)


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
