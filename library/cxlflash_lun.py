#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: user-space LUNs of this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxlflash_lun
short_description: Manage LUNs that programs use without the kernel's block layer
description:
  - A LUN is a block device or file of this host that C(cxl-datapathd) gives to programs, which read and write its blocks
    without a system call for each request (C(libcblk)).
  - One call deals with all LUNs of a host. Nothing is changed unless every entry of the list is possible.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - a running cxl-datapathd on the host
options:
  luns:
    description: The LUNs, each at most once.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the LUN, by which programs open it.
        type: str
        required: true
      path:
        description:
          - Block device or file, or V(kmem_blk:<pool>) for the blocks of a pool that this host has started.
          - Required for O(luns[].state=present).
        type: path
      wwid:
        description: 32 hexadecimal digits. Without it the identifier of the device, or one that is made of the path.
        type: str
      mode:
        description:
          - V(superpipe) gives the LUN to programs and keeps everybody else away from the device.
          - V(legacy) leaves the device alone, for file systems or a CBD backend. It is refused while programs use the LUN.
          - Without it a new LUN is V(superpipe), and one that is there stays as it is.
        type: str
        choices: [superpipe, legacy]
      read_only:
        description: Whether the LUN is only read.
        type: bool
        default: false
      client_contexts:
        description: How many contexts one process may have. 64 for a new LUN.
        type: int
      client_size:
        description: Size that all virtual LUNs of one user may have together, for example V(10G). V(0), as at first, is no limit.
        type: str
      users:
        description:
          - Names or numbers of the users who may use the LUN. An empty list, as for a new LUN, stands for everybody who may
            open the service socket of the daemon.
        type: list
        elements: str
      state:
        description: V(absent) forgets the LUN; its data stay. It is refused while programs use it.
        type: str
        choices: [present, absent]
        default: present
  runtime_dir:
    description: Folder with the control socket of the daemon.
    type: path
    default: /run/cxl-datapath
attributes:
  check_mode:
    description: Reports what would be done and does nothing. Where the daemon does not run yet, that is to make the LUN.
    support: full
  diff_mode:
    description: Shows each LUN before and after.
    support: full
"""

EXAMPLES = r"""
- name: Give a disk to a database, at most 100 GiB of it to each user
  cxlflash_lun:
    luns:
      - {name: flash0, path: /dev/sdb, client_size: 100G, users: [postgres]}

- name: Give it back to the kernel
  cxlflash_lun:
    luns:
      - {name: flash0, path: /dev/sdb, mode: legacy}
"""

RETURN = r"""
luns:
  description: The LUNs of the list as read back, in its order; without those that are gone. Sizes are in bytes.
  returned: success
  type: list
  elements: dict
  sample:
    - name: flash0
      wwid: 37623cb2a6a8d581dc664ce708f784e3
      path: /dev/sdb
      mode: superpipe
      state: running
      size: 107374182400
      free: 107374182400
      contexts: 0
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["make /dev/sdb LUN flash0"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cbd_module import RUNTIME_OPTION, Kind, reach
from ..module_utils.cxl_lab import cxlflash
from ..module_utils.cxl_lab.cbd import Seen, check_rows
from ..module_utils.cxl_lab.datapath_client import DatapathClient
from ..module_utils.lab_module import run_module

_LUN = {
    "name": {"type": "str", "required": True},
    "path": {"type": "path"},
    "wwid": {"type": "str"},
    "mode": {"type": "str", "choices": ["superpipe", "legacy"]},
    "read_only": {"type": "bool", "default": False},
    "client_contexts": {"type": "int"},
    "client_size": {"type": "str"},
    "users": {"type": "list", "elements": "str"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}
SPEC: dict[str, Any] = {
    "argument_spec": {
        "luns": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": _LUN,
            "required_if": [("state", "present", ["path"])],
        },
        **RUNTIME_OPTION,
    },
    "supports_check_mode": True,
}


def observe(client: DatapathClient, wants: list[Any]) -> Seen:
    """The LUNs of this host. None of them is part of a transport."""
    return {"luns": check_rows(client.call("lun.list"), "lun.list"), "transports": []}


KIND = Kind("luns", cxlflash.parse, cxlflash.check, cxlflash.plan, cxlflash.find, cxlflash.SHOWN, observe)


def work(module: AnsibleModule) -> dict[str, Any]:
    return reach(module, KIND)


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
