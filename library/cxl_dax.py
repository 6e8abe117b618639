#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: how a host uses the DAX device on a region."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_dax
short_description: Use CXL memory as a device that programs map, or as system RAM
description:
  - Brings the DAX device on a region into the mode V(devdax) or V(system-ram), and its memory blocks online or offline.
  - The region is volatile, or persistent with a namespace of mode V(devdax).
  - Memory that another host uses too is never made system RAM, because two kernels would own the same pages. What the other hosts
    ask for comes with O(others).
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - cxl, ndctl and daxctl, version 81 or newer, on the host
options:
  serial:
    description: Serial number of the memdev below the region, decimal or with V(0x), or a list of them where it interleaves.
    type: list
    elements: str
    required: true
  type:
    description: Type of the region.
    type: str
    choices: [ram, pmem]
    default: ram
  mode:
    description:
      - V(devdax) gives C(/dev/daxX.Y), which programs map.
      - V(system-ram) makes it memory of the host, on a NUMA node of its own.
    type: str
    choices: [devdax, system-ram]
    default: devdax
  online:
    description:
      - What becomes of the memory blocks in mode V(system-ram).
      - V(online_movable) lets them be taken away again, V(online_kernel) lets the kernel keep its own data in them.
      - V(offline) leaves them out of use.
    type: str
    choices: [offline, online_kernel, online_movable]
    default: online_movable
  force:
    description: Make persistent memory system RAM, although all that is on it is lost.
    type: bool
    default: false
  others:
    description:
      - What other hosts ask for or have, by their names, each a list of entries with C(serial) and, if there is one, C(mode).
        The role P(cxl.lab.cxl_memory#role) gives it.
    type: dict
    default: {}
  wait:
    description: Whether to wait for a device that is not there yet.
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait for the device.
    type: float
    default: 120.0
  wait_sleep:
    description: Seconds between two looks.
    type: float
    default: 0.2
attributes:
  check_mode:
    description: Reports what would be done and does nothing.
    support: full
  diff_mode:
    description: Shows the device before and after.
    support: full
notes:
  - The host is told to keep new memory offline (C(auto_online_blocks)), and stays so.
  - A host forgets the mode when it is started anew.
seealso:
  - module: cxl.lab.cxl_region
  - module: cxl.lab.cxl_namespace
"""

EXAMPLES = r"""
- name: Give a volatile memdev to the host, in a way that lets it be taken away again
  cxl_dax:
    serial: "0xc0de0007"
    mode: system-ram

- name: Let programs map it instead
  cxl_dax:
    serial: "0xc0de0007"
    mode: devdax
"""

RETURN = r"""
dax:
  description: The device as read back from the host; null in check mode where it is not there yet.
  returned: success
  type: dict
  sample:
    name: dax0.0
    device: ""
    serial: ["0xc0de0007"]
    type: ram
    size: 268435456
    mode: system-ram
    node: 1
    online: online_movable
    online_blocks: 2
    blocks: 2
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["keep new memory offline", "make dax0.0 system RAM", "bring the memory of dax0.0 online (online_movable)"]
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import dax
from ..module_utils.cxl_lab.cxl_list import parse_serials
from ..module_utils.cxl_lab.device_users import users_of
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.runner import HostRunner, Runner
from ..module_utils.cxl_lab.steps import Step, phrases, run_steps
from ..module_utils.cxl_lab.waiting import wait_until
from ..module_utils.lab_module import WAIT_OPTIONS, run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        "serial": {"type": "list", "elements": "str", "required": True},
        "type": {"type": "str", "choices": ["ram", "pmem"], "default": "ram"},
        "mode": {"type": "str", "choices": ["devdax", "system-ram"], "default": "devdax"},
        "online": {"type": "str", "choices": list(dax.POLICIES), "default": "online_movable"},
        "force": {"type": "bool", "default": False},
        "others": {"type": "dict", "default": {}},
        **WAIT_OPTIONS,
    },
    "supports_check_mode": True,
}


def find_device(module: AnsibleModule, runner: Runner, want: dax.DaxWant) -> dax.DaxDevice | None:
    """The device; the kernel makes it a moment after its region."""
    options = module.params
    end = time.monotonic() + (options["wait_timeout"] if options["wait"] and not module.check_mode else 0)
    return wait_until(
        lambda: dax.observe(runner, want.serials, want.type),
        lambda device: device is not None or time.monotonic() >= end,
        want.subject,
        "the device",
        timeout=options["wait_timeout"],
        sleep=options["wait_sleep"],
    )


def refuse_loss(want: dax.DaxWant, have: dax.DaxDevice, force: bool) -> None:
    """
    :raises LabError: when somebody maps the device, or when data would be lost that outlives the host.
    """
    if want.mode == have.mode or have.mode != "devdax":
        return
    users = users_of(f"/dev/{have.name}")
    if users:
        raise LabError(want.subject, f"/dev/{have.name} is in use: {', '.join(users)}", "stop that first", observed=users)
    if want.type == "pmem" and not force:
        raise LabError(want.subject, "is persistent, and its data would be lost", "set force: true, or choose mode devdax")


def apply(runner: Runner, want: dax.DaxWant, steps: list[Step]) -> dax.DaxDevice | None:
    """Runs the steps; the device that they led to."""
    try:
        run_steps(runner, steps, want.subject)
    except LabError as failed:
        raise dax.explain(want, failed) from failed
    return dax.observe(runner, want.serials, want.type)


def work(module: AnsibleModule) -> dict[str, Any]:
    options, runner = module.params, HostRunner()
    serials = parse_serials(options["serial"])
    want = dax.DaxWant(serials, options["type"], options["mode"], options["online"])
    dax.refuse_shared(want, options["others"])
    have = find_device(module, runner, want)
    before = after = dax.describe(want, have)
    if have is None:
        if not module.check_mode:
            raise LabError(want.subject, "there is none", "make its region first (cxl_region, for pmem also cxl_namespace)")
        steps = [f"bring the device to {want.mode} when it is there"]
        return {
            "changed": True,
            "dax": None,
            "steps": steps,
            "diff": {"before": {"dax": None}, "after": {"dax": options["mode"]}},
        }
    steps = dax.plan(want, have)
    refuse_loss(want, have, options["force"])
    if steps and module.check_mode:
        after = {**(before or {}), "mode": want.mode}
    elif steps:
        reached = apply(runner, want, steps)
        if reached is None or dax.plan(want, reached):
            raise LabError(
                want.subject, "is not as wanted after that was done", "look at dmesg", observed=dax.describe(want, reached)
            )
        after = dax.describe(want, reached)
    diff = {"before": {"dax": before}, "after": {"dax": after}}
    return {"changed": bool(steps), "dax": after, "steps": phrases(steps), "diff": diff}


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
