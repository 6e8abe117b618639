#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: this host's regions over dynamic capacity."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dcd_region
short_description: Regions over dynamic capacity of a host
description:
  - Runs on a host whose C(cxl-datapathd) takes dynamic-capacity devices over from the kernel's driver.
  - While a device has a region, the daemon accepts what the fabric manager offers (M(dcd_extent)), and gives back what nobody
    uses.
  - The daemon also programs the decoders of host bridge and switches on the way from the window to the device. For those of a
    host bridge the host has to be booted with C(iomem=relaxed), which the hosts of a topology are where it is needed.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
options:
  regions:
    description: The regions.
    type: list
    elements: dict
    required: true
    suboptions:
      serial:
        description: Serial number of the device, with V(0x) or decimal.
        type: str
        required: true
      window:
        description: Fixed memory window by its place in the firmware's table. Without it the only one that leads to the host
          bridge of the device and to no other.
        type: int
      limit:
        description: How much is accepted at most.
        type: str
      remember:
        description: Whether what is asked back while it is used is given back when its last user lets go. Otherwise the fabric
          manager has to ask again.
        type: bool
        default: false
      data_path:
        description: Where the data of mappings goes. V(device) is the device itself, which lets only accepted extents through.
          V(direct) is a persistent memdev over the same bytes, much faster where the device is emulated; only the daemon keeps
          programs to accepted extents there.
        type: str
        choices: [device, direct]
        default: device
      direct_serial:
        description: Serial number of that memdev. It needs a region and a namespace of mode devdax.
        type: str
  state:
    description: V(absent) gives every extent and the device back. It is refused while a mapping uses it.
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
    description: Shows the regions before and after.
    support: full
"""

EXAMPLES = r"""
- name: Accept what the fabric manager offers, up to 256 MiB
  dcd_region:
    regions:
      - {serial: "0xc0de0001", limit: 256M}
"""

RETURN = r"""
regions:
  description: The regions as the daemon shows them, in the order of O(regions); those that are not there are left out.
  returned: success
  type: list
  elements: dict
  sample: [{serial: 3235774465, state: running, size: 1073741824, available: 67108864, limit: 268435456, mappings: []}]
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["make a region over device 0xc0de0001"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.datapath_client import RUNTIME_DIR, DatapathClient
from ..module_utils.cxl_lab.dcd import region
from ..module_utils.lab_module import run_module

_REGION = {
    "serial": {"type": "str", "required": True},
    "window": {"type": "int"},
    "limit": {"type": "str"},
    "remember": {"type": "bool", "default": False},
    "data_path": {"type": "str", "choices": ["device", "direct"], "default": "device"},
    "direct_serial": {"type": "str"},
}
SPEC: dict[str, Any] = {
    "argument_spec": {
        "regions": {"type": "list", "elements": "dict", "required": True, "options": _REGION},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "runtime_dir": {"type": "path", "default": RUNTIME_DIR},
    },
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    wants = region.parse_wants(module.params["regions"])
    with DatapathClient(module.params["runtime_dir"]) as daemon:
        before = after = region.find(wants, daemon.call("dcd.region.list"))
        calls = region.plan(wants, before, present=module.params["state"] == "present")
        if not module.check_mode:
            for call in calls:
                daemon.call(call.method, **call.params)
            after = region.find(wants, daemon.call("dcd.region.list"))
    return {
        "changed": bool(calls),
        "regions": list(after.values()),
        "steps": [call.what for call in calls],
        "diff": {"before": {"regions": list(before.values())}, "after": {"regions": list(after.values())}},
    }


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
