#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: who uses which range of accepted extents on this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dcd_mapping
short_description: Users of dynamic capacity on a host
description:
  - Runs on a host. A mapping is a range of accepted extents under a name. While it is there, its extents are not given back.
  - C(dcd:SERIAL/NAME) is the memory of a mapping, for M(cbd_transport).
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
options:
  mappings:
    description: The mappings.
    type: list
    elements: dict
    required: true
    suboptions:
      serial:
        description: Serial number of the device, with V(0x) or decimal.
        type: str
        required: true
      name:
        description: Name, unique on the device.
        type: str
        required: true
      offset:
        description: First byte, in addresses of the device. Region 1 begins where region 0 ends.
        type: str
        required: true
      size:
        description: Size, a multiple of 2 MiB.
        type: str
        required: true
  state:
    description: V(absent) lets go. It is refused while a transport of the host is in it.
    type: str
    choices: [present, absent]
    default: present
  runtime_dir:
    description: Folder with the control socket of the daemon.
    type: path
    default: /run/cxl-datapath
attributes:
  check_mode:
    description: Reports what would be done and does nothing.
    support: full
  diff_mode:
    description: Shows the mappings before and after.
    support: full
seealso:
  - module: dcd_region_info
"""

EXAMPLES = r"""
- name: The first 64 MiB of region 1 are for a transport
  dcd_mapping:
    mappings:
      - {serial: "0xc0de0001", name: bus, offset: 512M, size: 64M}
"""

RETURN = r"""
mappings:
  description: The mappings as the daemon shows them, in the order of O(mappings). C(path) and C(offset) are for C(mmap).
    Both are null while the file cannot be had, and C(reason) says why; otherwise that is null.
  returned: success
  type: list
  elements: dict
  sample: [{serial: 3235774465, name: bus, dpa: 536870912, size: 67108864, path: /dev/mem, offset: 25501368320, reason: null}]
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["make mapping bus of device 0xc0de0001: 0x20000000+0x4000000"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.datapath_client import RUNTIME_DIR, DatapathClient
from ..module_utils.cxl_lab.dcd import mapping
from ..module_utils.lab_module import run_module

_MAPPING = {name: {"type": "str", "required": True} for name in ("serial", "name", "offset", "size")}
SPEC: dict[str, Any] = {
    "argument_spec": {
        "mappings": {"type": "list", "elements": "dict", "required": True, "options": _MAPPING},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "runtime_dir": {"type": "path", "default": RUNTIME_DIR},
    },
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    wants = mapping.parse_wants(module.params["mappings"])
    with DatapathClient(module.params["runtime_dir"]) as daemon:
        before = after = mapping.find(wants, daemon.call("dcd.mapping.list"))
        calls = mapping.plan(wants, before, present=module.params["state"] == "present")
        if not module.check_mode:
            for call in calls:
                daemon.call(call.method, **call.params)
            after = mapping.find(wants, daemon.call("dcd.mapping.list"))
    return {
        "changed": bool(calls),
        "mappings": list(after.values()),
        "steps": [call.what for call in calls],
        "diff": {"before": {"mappings": list(before.values())}, "after": {"mappings": list(after.values())}},
    }


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
