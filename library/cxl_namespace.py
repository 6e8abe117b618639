#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a namespace over the region of a memdev."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_namespace
short_description: Manage the namespace on the region of a memdev
description:
  - Makes sure that a namespace of a given name and mode takes the whole persistent region over one memdev, or that it is gone.
  - The namespace is ours when it carries our name. One that somebody else made is never touched.
  - Hosts that share a memdev each run this with the same options. All of them give the namespace the same UUID, made from the
    serial number and the name, because the kernel accepts the info block in the shared memory only under the UUID of its label.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - ndctl, version 81 or newer, on the host
options:
  serial:
    description:
      - Serial number of the memdev, as C(cxl list -M -u) shows it, decimal or with V(0x).
      - A list of them where the region interleaves, in any order.
    type: list
    elements: str
    required: true
  name:
    description: Name in the label of the namespace. A lower-case letter, then letters, digits, V(-) or V(_), at most 32.
    type: str
    required: true
  mode:
    description:
      - V(devdax) gives C(/dev/daxX.Y), which user space maps. This is what hosts share.
      - V(fsdax) gives C(/dev/pmemX), a block device for a file system of one host.
      - V(raw) gives C(/dev/pmemX) over the whole region, with nothing of the kernel's in it. What is there stays.
      - V(sector) gives C(/dev/pmemXs), a block device whose sectors are written as a whole or not at all (BTT). Its map is in the
        memory and belongs to one kernel, so use it only on a memdev that one host uses.
    type: str
    choices: [devdax, fsdax, raw, sector]
    default: devdax
  map:
    description:
      - Where the kernel keeps its page structures for the memory.
      - Modes V(raw) and V(sector) need no page structures; there O(map) and O(align) mean nothing.
      - V(mem) is the host's own memory. The data then starts 2 MiB into the region on every host.
      - V(dev) is the memdev itself. Never use it on a memdev that several hosts share, because each kernel would overwrite the
        page structures of the other.
    type: str
    choices: [mem, dev]
    default: mem
  align:
    description: Alignment of the mappings. Must be the same on all hosts that share the memdev.
    type: str
    choices: [4K, 2M]
    default: 2M
  sector_size:
    description: Bytes in a sector of mode V(sector).
    type: int
    choices: [512, 4096]
    default: 4096
  state:
    description:
      - V(present) creates or enables the namespace.
      - V(absent) disables and destroys it. It is refused while the device is in use.
    type: str
    choices: [present, absent]
    default: present
  force:
    description: Make a namespace of ours that has another mode, map, alignment or UUID anew. Its data is lost.
    type: bool
    default: false
  wait:
    description: Whether to wait until the kernel has set up the region and the device.
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait.
    type: float
    default: 120.0
  wait_sleep:
    description: Seconds between two looks.
    type: float
    default: 0.2
attributes:
  check_mode:
    description: Reports what would be done and does nothing. Where there is no region yet, that is to create the namespace.
    support: full
  diff_mode:
    description: Shows the namespace before and after.
    support: full
notes:
  - V(absent) zeroes the first 8 KiB of the memory, where the info block is. Another host that shares the memdev does not notice
    until its region is taken down. This module writes the info block again there, without touching data.
seealso:
  - module: cxl.lab.cxl_region
"""

EXAMPLES = r"""
- name: Make the shared memdev mappable
  cxl_namespace:
    serial: "0xc0de0001"
    name: cbd0
  register: memory

- name: Show the device
  ansible.builtin.debug:
    msg: "{{ memory.namespace.device }}"

- name: A block device that never shows half a sector, for a database of one host
  cxl_namespace:
    serial: "0xc0de0002"
    name: journal
    mode: sector

- name: Take the namespace away
  cxl_namespace:
    serial: "0xc0de0001"
    name: cbd0
    state: absent
"""

RETURN = r"""
namespace:
  description: The namespace as read back from the host; null when there is none.
  returned: success
  type: dict
  sample:
    name: cbd0
    dev: namespace0.0
    mode: devdax
    map: mem
    size: 534773760
    align: 2097152
    sector_size: 0
    uuid: 7c1d3bd0-5c0a-5ed3-8c3d-52b5b4c2a0f6
    device: /dev/dax0.0
    region: region0
    serial: "0xc0de0001"
    serials: ["0xc0de0001"]
    enabled: true
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["create devdax namespace cbd0 on region0"]
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import namespace as namespaces
from ..module_utils.cxl_lab.cxl_list import parse_serials
from ..module_utils.cxl_lab.device_users import users_of
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.ndctl_list import NdRegion
from ..module_utils.cxl_lab.runner import HostRunner, Runner
from ..module_utils.cxl_lab.steps import phrases, run_steps
from ..module_utils.cxl_lab.waiting import wait_until
from ..module_utils.lab_module import WAIT_OPTIONS, run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        "serial": {"type": "list", "elements": "str", "required": True},
        "name": {"type": "str", "required": True},
        "mode": {"type": "str", "choices": ["devdax", "fsdax", "raw", "sector"], "default": "devdax"},
        "map": {"type": "str", "choices": ["mem", "dev"], "default": "mem"},
        "align": {"type": "str", "choices": list(namespaces.ALIGNMENTS), "default": "2M"},
        "sector_size": {"type": "int", "choices": [512, 4096], "default": 4096},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "force": {"type": "bool", "default": False},
        **WAIT_OPTIONS,
    },
    "supports_check_mode": True,
}

#: Enable, make anew, look: a plan that does not come to rest within this many rounds never will.
_ROUNDS = 3


def find_region(module: AnsibleModule, runner: Runner, want: namespaces.NamespaceWant) -> NdRegion | None:
    """The region of the memdev; the kernel sets it up a moment after ``cxl create-region`` returned."""
    options = module.params
    end = time.monotonic() + (options["wait_timeout"] if options["wait"] and not module.check_mode else 0)
    return wait_until(
        lambda: namespaces.observe(runner, want.serials),
        lambda region: region is not None or time.monotonic() >= end,
        want.subject,
        "the region",
        timeout=options["wait_timeout"],
        sleep=options["wait_sleep"],
    )


def converge(
    module: AnsibleModule, runner: Runner, want: namespaces.NamespaceWant, region: NdRegion
) -> tuple[list[str], NdRegion]:
    """Plans and applies until nothing is left to do; what was done, and the region as it is then."""
    done: list[str] = []
    for _ in range(_ROUNDS):
        steps = namespaces.plan_present(want, region, force=module.params["force"])
        done += phrases(steps)
        if not steps or module.check_mode:
            return done, region
        mine = namespaces.own(want, region)
        if mine and mine.enabled:
            namespaces.refuse_in_use(want, mine, users_of)
        run_steps(runner, steps, want.subject)
        region = namespaces.observe(runner, want.serials) or region
    raise LabError(want.subject, "is not in service after it was made", observed=namespaces.describe(want, region))


def ensure_present(module: AnsibleModule, runner: Runner, want: namespaces.NamespaceWant) -> dict[str, Any]:
    region = find_region(module, runner, want)
    before = namespaces.describe(want, region)
    planned = {"name": want.name, "mode": want.mode, "map": want.map, "align": want.align, "uuid": want.uuid, "enabled": True}
    if region is None:
        if module.check_mode:
            return result(None, planned, [f"create {want.mode} namespace {want.name} when the region is there"])
        raise LabError(want.subject, "no region lies over the memdev", "create it first (cxl_region)")
    steps, region = converge(module, runner, want, region)
    after = namespaces.describe(want, region)
    if steps and module.check_mode:
        after = {**(before or {}), **planned}
    return result(before, after, steps)


def ensure_absent(module: AnsibleModule, runner: Runner, want: namespaces.NamespaceWant) -> dict[str, Any]:
    region = namespaces.observe(runner, want.serials)
    mine = namespaces.own(want, region) if region else None
    if region is None or mine is None:
        return result(None, None, [])
    namespaces.refuse_in_use(want, mine, users_of)
    steps = namespaces.plan_absent(want, region)
    after = None
    if not module.check_mode:
        run_steps(runner, steps, want.subject)
        after = namespaces.describe(want, namespaces.observe(runner, want.serials))
    return result(namespaces.describe(want, region), after, phrases(steps))


def result(before: dict[str, Any] | None, after: dict[str, Any] | None, steps: list[str]) -> dict[str, Any]:
    return {
        "changed": bool(steps),
        "namespace": after,
        "steps": steps,
        "diff": {"before": {"namespace": before}, "after": {"namespace": after}},
    }


def work(module: AnsibleModule) -> dict[str, Any]:
    options = module.params
    serials = parse_serials(options["serial"])
    shape = (options["mode"], options["map"], options["align"])
    want = namespaces.parse_want(serials, options["name"], *shape, sector_size=options["sector_size"])
    ensure = ensure_present if options["state"] == "present" else ensure_absent
    return ensure(module, HostRunner(), want)


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
