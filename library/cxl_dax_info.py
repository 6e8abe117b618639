#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the DAX devices of this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_dax_info
short_description: Show the DAX devices of a host
description:
  - Lists the DAX devices with their modes, and how much of their memory is online.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - daxctl, version 81 or newer, on the host
attributes:
  check_mode:
    description: Changes nothing, so check mode makes no difference.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: What programs can map, and what is system RAM
  cxl_dax_info:
  register: memory
"""

RETURN = r"""
devices:
  description: The DAX devices. C(online) is how their memory blocks are in use, and empty in mode V(devdax).
  returned: success
  type: list
  elements: dict
  sample: [{name: dax0.0, size: 268435456, mode: system-ram, node: 1, online: offline, online_blocks: 0, blocks: 2}]
auto_online:
  description: What the kernel does with new memory by itself.
  returned: success
  type: str
  sample: offline
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import dax
from ..module_utils.cxl_lab.runner import HostRunner, must_json
from ..module_utils.lab_module import run_module


def work(module: AnsibleModule) -> dict[str, Any]:
    del module
    runner = HostRunner()
    found = dax.parse_devices(must_json(runner, dax.LIST, "dax devices"))
    policy = runner.run(["cat", dax.ONLINE_BY_ITSELF])
    return {
        "changed": False,
        "devices": [dax.state(device) for device in found],
        "auto_online": policy.stdout.strip(),
    }


def main() -> None:
    run_module(work, argument_spec={}, supports_check_mode=True)


if __name__ == "__main__":
    main()
