#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: measure block devices against each other with fio."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_fio
short_description: Measure block devices against each other with fio
description:
  - Runs each load on each device in turns, so that noise of the host meets all of them alike.
  - Everything on the devices is overwritten. A device that is mounted, or carries a file system or a partition table, is refused.
  - Blocks of less than 64 KiB go to random places, larger ones one after the other.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - fio and blkid on the host
options:
  devices:
    description: What is measured, in the order in which they take turns.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: What the result calls it.
        type: str
        required: true
      device:
        description: Block device, or NBD URI with a unix socket or with a host and port.
        type: str
        required: true
      size:
        description: Bytes of the device.
        type: str
        required: true
  loads:
    description: What is done to them.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: What the result calls it.
        type: str
        required: true
      op:
        description: Direction.
        type: str
        choices: [read, write]
        required: true
      block:
        description: Size of a request, a multiple of 512 up to V(16M).
        type: str
        required: true
      depth:
        description: Requests in flight, 1 to 1024.
        type: int
        required: true
  runs:
    description: How often each load runs on each device.
    type: int
    default: 5
  seconds:
    description: Duration of a run.
    type: float
    default: 5.0
attributes:
  check_mode:
    description: Does nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Compare two ways to one kind of disk
  cxl_fio:
    devices:
      - {name: cbd, device: /dev/cbd1, size: 128M}
      - {name: nbd_tcp, device: /dev/nbd0, size: 128M}
    loads:
      - {name: 4k_qd1_read, op: read, block: 4K, depth: 1}
  register: measured
"""

RETURN = r"""
samples:
  description: By name of the load and of the device, requests per second and the 99th percentile of latency of each run.
  returned: success
  type: dict
  sample: {4k_qd1_read: {cbd: [{iops: 4021.5, p99_us: 480.1}], nbd_tcp: [{iops: 702.7, p99_us: 2400.0}]}}
facts:
  description: Where they come from.
  returned: success
  type: dict
  sample: {cpu: QEMU TCG CPU version 2.5+, cores: 2, kernel: 6.12.48+deb13-amd64, fio: "3.39"}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import fio
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.runner import HostRunner
from ..module_utils.cxl_lab.sizes import parse_size
from ..module_utils.lab_module import run_module

_DEVICE = {
    "name": {"type": "str", "required": True},
    "device": {"type": "str", "required": True},
    "size": {"type": "str", "required": True},
}
_LOAD = {
    "name": {"type": "str", "required": True},
    "op": {"type": "str", "choices": ["read", "write"], "required": True},
    "block": {"type": "str", "required": True},
    "depth": {"type": "int", "required": True},
}
SPEC: dict[str, Any] = {
    "argument_spec": {
        "devices": {"type": "list", "elements": "dict", "required": True, "options": _DEVICE},
        "loads": {"type": "list", "elements": "dict", "required": True, "options": _LOAD},
        "runs": {"type": "int", "default": 5},
        "seconds": {"type": "float", "default": 5.0},
    },
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    options, runner = module.params, HostRunner()
    loads, seconds = [fio.parse_load(load) for load in options["loads"]], fio.check_seconds(options["seconds"])
    sizes = {row["device"]: parse_size(row["size"], row["name"]) for row in options["devices"]}
    if not (1 <= options["runs"] <= 1000):
        raise LabError("runs", f"{options['runs']} is no number of runs", "use 1 to 1000")
    if module.check_mode:
        return {"changed": False, "samples": {}, "facts": {}}
    devices = {row["name"]: row["device"] for row in options["devices"]}
    fio.check_devices(runner, devices)
    for device, size in sizes.items():
        fio.fill(runner, device, size)
    samples = fio.take_turns(runner, devices, loads, options["runs"], seconds)
    return {"changed": True, "samples": samples, "facts": fio.facts(runner)}


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
