#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what lies where files stand in for shared memory or for a disk."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_memory_file_info
short_description: Files that stand in for shared memory or for a disk
description:
  - Tells what lies at each path and who uses it.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
options:
  paths:
    description: Absolute paths.
    type: list
    elements: str
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
- name: Who maps the memory
  cxl_memory_file_info:
    paths: [/dev/shm/pool0]
"""

RETURN = r"""
files:
  description: What is there, in the order of O(paths). C(users) are the processes that have it open or mapped.
  returned: success
  type: list
  elements: dict
  sample:
    - path: /dev/shm/pool0
      kind: regular file
      size: 134217728
      mode: "0600"
      users: [process 812 (cxl-datapathd)]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import memory_file
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {"paths": {"type": "list", "elements": "str", "required": True}},
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    wants = memory_file.parse_wants([{"path": path} for path in module.params["paths"]], sized=False)
    rows = []
    for want in wants:
        have = memory_file.observe(want, users=True)
        if row := memory_file.describe(want, have):
            rows.append({**row, "users": list(have.users)})
    return {"changed": False, "files": rows}


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
