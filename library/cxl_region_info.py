#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what CXL memory this host has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_region_info
short_description: Show the memdevs, root decoders and regions of a host
description:
  - Lists what the kernel knows of CXL memory, also what it did not accept.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - cxl, version 81 or newer, on the host
options:
  serial:
    description: Show only the memdev with this serial number, the root decoders above it and the regions over it.
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
- name: Wait until the shared memdev has a region
  cxl_region_info:
    serial: "0xc0de0001"
  register: memory
  until: memory.regions | length == 1
  retries: 10
  delay: 3
"""

RETURN = r"""
memdevs:
  description: The memdevs; C(enabled) is false where the kernel did not accept the device.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: mem1, serial: "0xc0de0001", pmem_size: 536870912, ram_size: 0, host: "0000:0e:00.0", enabled: true}
decoders:
  description: The root decoders, one for each fixed memory window.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: decoder0.0, resource: "0x190000000", size: 4294967296, max_available_extent: 4294967296,
       pmem_capable: true, volatile_capable: true}
regions:
  description: The regions, with the memdevs below them in interleave order. C(boot) says whether the host makes it again at boot.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: region0, type: pmem, resource: "0x190000000", size: 536870912, committed: true, enabled: true, memdevs: [mem1],
       boot: true}
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import cxl_list
from ..module_utils.cxl_lab.boot_regions import BootRegions
from ..module_utils.cxl_lab.runner import HostRunner
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {"argument_spec": {"serial": {"type": "str"}}, "supports_check_mode": True}


def show(record: Any) -> dict[str, Any]:
    """A record with addresses and serial numbers in the form that people read."""
    row = asdict(record)
    return {key: f"{value:#x}" if key in {"serial", "resource"} else value for key, value in row.items()}


def show_region(region: cxl_list.Region, memdevs: list[cxl_list.Memdev]) -> dict[str, Any]:
    boot = BootRegions()
    below = [memdev for memdev in memdevs if memdev.name in region.memdevs]
    return {**show(region), "boot": any(boot.remembers(memdev.serial) for memdev in below)}


def work(module: AnsibleModule) -> dict[str, Any]:
    runner = HostRunner()
    memdevs, regions = cxl_list.list_memdevs(runner), cxl_list.list_regions(runner)
    if module.params["serial"] is None:
        decoders = cxl_list.list_root_decoders(runner)
    else:
        memdev = cxl_list.find_memdev(memdevs, cxl_list.parse_serial(module.params["serial"]))
        memdevs = [memdev] if memdev else []
        decoders = cxl_list.list_root_decoders(runner, memdev) if memdev else []
        regions = [region for region in regions if memdev and memdev.name in region.memdevs]
    return {
        "changed": False,
        "memdevs": [show(memdev) for memdev in memdevs],
        "decoders": [show(decoder) for decoder in decoders],
        "regions": [show_region(region, memdevs) for region in regions],
    }


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
