#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_preflight_cbd_info
short_description: Whether the lists of CBD objects over all hosts fit together
description:
  - Compares the lists of the role P(cxl.lab.cbd#role) over all hosts before anything is started, and reports every problem at
    once. Each names the variable, the hosts and the fix.
  - Asks no daemon, and can run anywhere.
options:
  lists:
    description: The lists by the variable of the role that they are in.
    type: dict
    required: true
  inventory_hosts:
    description: All names in the inventory.
    type: list
    elements: str
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
  cxl_preflight_cbd_info:
    lists:
      cbd_backends: "{{ cbd_backends }}"
      cbd_blkdevs: "{{ cbd_blkdevs }}"
    inventory_hosts: "{{ groups['all'] }}"
"""

RETURN = r"""
entries:
  description: How many entries were compared.
  returned: success
  type: int
  sample: 3
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.cbd_inventory import check
from ..module_utils.cxl_lab.errors import refuse_start
from ..module_utils.lab_module import run_module


def work(module: AnsibleModule) -> dict[str, Any]:
    lists = module.params["lists"]
    refuse_start("lists of cbd", check(lists, module.params["inventory_hosts"]))
    return {"changed": False, "entries": sum(map(len, lists.values()))}


def main() -> None:
    run_module(
        work,
        argument_spec={
            "lists": {"type": "dict", "required": True},
            "inventory_hosts": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
