#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the namespaces of this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_namespace_info
short_description: Show the namespaces of a host
description:
  - Lists the configured namespaces, in service or not, with the serial numbers of the memdevs below them.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - ndctl, version 81 or newer, on the host
options:
  serial:
    description: Show only namespaces over exactly the memdev with this serial number.
    type: str
attributes:
  check_mode:
    description: Changes nothing, so check mode makes no difference.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: List the namespaces
  cxl_namespace_info:
  register: memory
"""

RETURN = r"""
namespaces:
  description: The namespaces. C(claim) is the mode that the label reserves the namespace for.
  returned: success
  type: list
  elements: dict
  sample:
    - name: cbd0
      dev: namespace0.0
      mode: devdax
      map: mem
      size: 534773760
      align: 2097152
      uuid: 7c1d3bd0-5c0a-5ed3-8c3d-52b5b4c2a0f6
      device: /dev/dax0.0
      enabled: true
      claim: devdax
      region: region0
      serials: ["0xc0de0001"]
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.cxl_list import format_serial, parse_serial
from ..module_utils.cxl_lab.ndctl_list import list_nd_regions
from ..module_utils.cxl_lab.runner import HostRunner
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {"argument_spec": {"serial": {"type": "str"}}, "supports_check_mode": True}


def work(module: AnsibleModule) -> dict[str, Any]:
    wanted = module.params["serial"]
    regions = list_nd_regions(HostRunner())
    if wanted is not None:
        regions = [region for region in regions if region.serials == (parse_serial(wanted),)]
    rows = [
        {**asdict(space), "region": region.name, "serials": [format_serial(serial) for serial in region.serials]}
        for region in regions
        for space in region.namespaces
    ]
    return {"changed": False, "namespaces": rows}


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
