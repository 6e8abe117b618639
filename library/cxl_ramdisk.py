#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a RAM disk to stand in for a backing device."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_ramdisk
short_description: Manage a RAM disk that stands in for a backing device
description:
  - Loads the C(brd) driver so that a RAM disk of the wanted size exists, and puts one partition on it.
  - All RAM disks of a host have one size, fixed when the driver is loaded. A driver that is loaded otherwise is reported only.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - modprobe, blkid and sfdisk on the host
options:
  name:
    description: Name of the disk, V(ram0) to V(ram15). The driver is loaded with as many disks as this name needs.
    type: str
    default: ram0
  size:
    description: Size of the disk, a multiple of 4 KiB.
    type: str
    default: 512M
  partitions:
    description: V(1) puts one partition over the whole disk, V(0) leaves the disk bare.
    type: int
    choices: [0, 1]
    default: 1
  state:
    description:
      - V(present) makes the disk.
      - V(absent) unloads the driver, and all data is lost. It is refused while the disk is in use or not the only one.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Reports what would be done and does nothing.
    support: full
  diff_mode:
    description: Shows the disk before and after.
    support: full
"""

EXAMPLES = r"""
- name: Make a backing device of 512 MiB
  cxl_ramdisk:
    name: ram0
    size: 512M
  register: disk

- name: Show the partition
  ansible.builtin.debug:
    msg: "{{ disk.ramdisk.device }}"
"""

RETURN = r"""
ramdisk:
  description: The disk as read back from the host; null when there is none. C(device) is what to open.
  returned: success
  type: dict
  sample:
    name: ram0
    size: 536870912
    partitions: [ram0p1]
    device: /dev/ram0p1
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["load brd with 1 disk(s) of 512M", "put one partition on ram0"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import ramdisk
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.runner import HostRunner
from ..module_utils.cxl_lab.steps import phrases, run_steps
from ..module_utils.cxl_lab.waiting import wait_until
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        "name": {"type": "str", "default": "ram0"},
        "size": {"type": "str", "default": "512M"},
        "partitions": {"type": "int", "choices": [0, 1], "default": 1},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    },
    "supports_check_mode": True,
}

#: Seconds that the kernel and udev may take for a new device node.
_NODE_TIMEOUT = 10


def work(module: AnsibleModule) -> dict[str, Any]:
    options = module.params
    runner = HostRunner()
    want = ramdisk.parse_want(options["name"], options["size"], options["partitions"])
    plan = ramdisk.plan_present if options["state"] == "present" else ramdisk.plan_absent
    have = ramdisk.observe(runner, want.name)
    steps = plan(want, have)
    before = ramdisk.describe(want, have)
    if module.check_mode:
        made = {"name": want.name, "size": want.size, "device": want.device}
        after = before if not steps else made if options["state"] == "present" else None
    else:
        after = ramdisk.describe(want, reach(runner, want, steps, plan) if steps else have)
    return {
        "changed": bool(steps),
        "ramdisk": after,
        "steps": phrases(steps),
        "diff": {"before": {"ramdisk": before}, "after": {"ramdisk": after}},
    }


def reach(runner: HostRunner, want: ramdisk.RamdiskWant, steps: Any, plan: Any) -> ramdisk.RamdiskState:
    """Applies the steps and waits until the host shows their effect."""
    run_steps(runner, steps, want.subject, "" if plan is ramdisk.plan_present else "stop what uses the disk")

    def settled(state: ramdisk.RamdiskState) -> bool:
        try:
            return not plan(want, state)
        except LabError:  # half of it is there: the partition is coming up
            return False

    return wait_until(lambda: ramdisk.observe(runner, want.name), settled, want.subject, "the device", timeout=_NODE_TIMEOUT)


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
