#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what a host has of dynamic capacity."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dcd_region_info
short_description: Dynamic capacity of a host, as its daemon has it
description:
  - Runs on a host. Tells the regions, the extents, the mappings of their users, and what happened last.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
options:
  runtime_dir:
    description: Folder with the control socket of the daemon.
    type: path
    default: /run/cxl-datapath
attributes:
  check_mode:
    description: Nothing is changed in any mode.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
"""

EXAMPLES = r"""
- name: What this host holds
  dcd_region_info:
"""

RETURN = r"""
regions:
  description: The regions; a C(pending) one has the C(reason).
  returned: success
  type: list
  elements: dict
  sample: [{serial: 3235774465, state: running, size: 1073741824, available: 67108864, mappings: []}]
extents:
  description: What is accepted, by address in the device. C(mappings) are the users.
  returned: success
  type: list
  elements: dict
  sample: [{serial: 3235774465, dpa: 0, size: 67108864, mappings: [], asked_back: false}]
mappings:
  description: The users, and where they map what they use.
  returned: success
  type: list
  elements: dict
  sample: [{serial: 3235774465, name: bus, dpa: 536870912, size: 67108864, path: /dev/mem, offset: 25501368320}]
events:
  description: What happened last, oldest first.
  returned: success
  type: list
  elements: dict
  sample: [{time: 1795195000.25, serial: 3235774465, what: accepted, ranges: [0x0+0x4000000]}]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.datapath_client import RUNTIME_DIR, DatapathClient
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {"runtime_dir": {"type": "path", "default": RUNTIME_DIR}},
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    with DatapathClient(module.params["runtime_dir"]) as daemon:
        nouns = ("region", "extent", "mapping", "event")
        return {"changed": False, **{f"{noun}s": daemon.call(f"dcd.{noun}.list") for noun in nouns}}


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
