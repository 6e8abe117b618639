#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: dynamic capacity for hosts, and back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dcd_extent
short_description: Give dynamic capacity to hosts and take it back
description:
  - Runs on the hypervisor as the fabric manager of a lab. It offers extents of dynamic-capacity devices to their hosts and
    asks for
    them back. The host decides; M(dcd_region) makes it ready to accept.
  - What became of an extent is found by asking the device, never taken from QEMU's answer to the request.
  - QEMU keeps no tags, so they are kept here. A tag names an extent of a device of a host.
  - On a device with several heads (O(state_files)) an extent is claimed before it is offered, and a conflict names the head that
    has it.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
options:
  lab:
    description: Name of the lab.
    type: str
    required: true
  uri:
    description: libvirt connection.
    type: str
    default: qemu:///system
  state_dir:
    description: Folder on the hypervisor for what the fabric manager remembers, in a folder with the name of the lab.
    type: path
    default: /var/lib/cxl-lab-dcd
  state_files:
    description:
      - State files of multi-headed devices (see M(mhsld_state)), by the name of the device. Heads have the names of their hosts.
    type: dict
    default: {}
  program:
    description: The program of the data path, which makes claims. The role C(cxl_datapath) installs it on the hypervisor, too.
    type: path
    default: /opt/cxl-datapath/current/bin/cxl-datapath
  extents:
    description: The extents, in the order in which they are dealt with. What is to be absent goes first.
    type: list
    elements: dict
    required: true
    suboptions:
      host:
        description: Name of the host.
        type: str
        required: true
      device:
        description: Name of the device in the topology.
        type: str
        required: true
      tag:
        description: Name of the extent, unique on a device of a host.
        type: str
        required: true
      region:
        description: Number of the device's region.
        type: int
        default: 0
      size:
        description: Size, a multiple of 2 MiB. Needed unless the extent is to be absent.
        type: str
      offset:
        description: Where it begins in the region. Without it, the first place where it fits; for a shared extent that another
          host has
          under the same tag, the same place.
        type: str
      shared:
        description: Whether other heads may have the same blocks, if they say so, too.
        type: bool
        default: false
      sanitize:
        description: Whether the data is erased when the last host has given the extent back. QEMU itself erases nothing.
        type: bool
        default: false
      state:
        description: V(absent) asks for it back. A host that uses it ignores that, and has to be asked again.
        type: str
        choices: [present, absent]
        default: present
  wait:
    description: Wait for the answer of the host. Without it, an offer stays pending.
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait for each answer.
    type: float
    default: 30.0
  wait_sleep:
    description: Seconds between two looks.
    type: float
    default: 0.2
attributes:
  check_mode:
    description: Reports what would be done and does nothing.
    support: full
  diff_mode:
    description: Shows the extents before and after.
    support: full
"""

EXAMPLES = r"""
- name: Move 64 MiB from node1 to node2, without what is in it
  dcd_extent:
    lab: demo
    state_files: {pool0: /dev/shm/cxl-lab.demo.pool0.mhsld}
    extents:
      - {host: node1, device: pool0, tag: work, state: absent, sanitize: true}
      - {host: node2, device: pool0, tag: work, size: 64M}
"""

RETURN = r"""
extents:
  description: The extents as the devices show them. C(state) is V(pending), V(accepted), V(partly) (C(accepted) has the parts),
    V(refused), V(released) (and not cleared up yet), V(lost) (the machine was restarted, or the host gave it back unasked) or
    V(absent).
  returned: success
  type: list
  elements: dict
  sample: [{host: node2, device: pool0, tag: work, region: 0, offset: 0, size: 67108864, shared: false, state: accepted}]
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["offer extent work of pool0 on node2: 64M at 0x0 of region 0"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.dcd.extents import Want, parse_wants
from ..module_utils.cxl_lab.dcd.manager import Manager
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.dcd_module import OPTIONS, manager
from ..module_utils.lab_module import WAIT_OPTIONS, run_module

EXTENT: dict[str, Any] = {
    **{name: {"type": "str", "required": True} for name in ("host", "device", "tag")},
    "region": {"type": "int", "default": 0},
    "size": {"type": "str"},
    "offset": {"type": "str"},
    "shared": {"type": "bool", "default": False},
    "sanitize": {"type": "bool", "default": False},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}

SPEC: dict[str, Any] = {
    "argument_spec": {
        **OPTIONS,
        "extents": {"type": "list", "elements": "dict", "required": True, "options": EXTENT},
        **WAIT_OPTIONS,
        "wait_timeout": {"type": "float", "default": 30.0},
    },
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    wants = parse_wants(module.params["extents"])
    wants.sort(key=lambda want: want.present)  # what goes makes room for what comes
    with manager(module.params) as fabric:
        before = [fabric.describe(want) for want in wants]
        steps = foresee(fabric, wants) if module.check_mode else reach(fabric, wants, module.params)
        after = (
            [wanted(row, want) for row, want in zip(before, wants)] if module.check_mode else list(map(fabric.describe, wants))
        )
    if not module.check_mode and module.params["wait"]:
        check(wants, after)
    return {
        "changed": bool(steps),
        "extents": after,
        "steps": steps,
        "diff": {"before": {"extents": before}, "after": {"extents": after}},
    }


def foresee(fabric: Manager, wants: list[Want]) -> list[str]:
    """What would be done now. A place that something else would leave first counts as taken."""
    return [act.what for want in wants if (act := fabric.plan(want))]


def reach(fabric: Manager, wants: list[Want], params: dict[str, Any]) -> list[str]:
    """Does it; what was done."""
    steps = []
    timeout = params["wait_timeout"] if params["wait"] else 0.0
    for want in wants:
        act = fabric.plan(want)
        if act:
            fabric.carry_out(act, timeout=timeout, sleep=params["wait_sleep"])
            steps.append(act.what)
    return steps


def wanted(row: dict[str, Any], want: Want) -> dict[str, Any]:
    """The extent as check mode foresees it."""
    if not want.present:
        return {key: row[key] for key in ("host", "device", "tag", "region")} | {"state": "absent"}
    return row if row["state"] in ("accepted", "partly", "pending") else {**row, "size": want.size, "state": "accepted"}


def check(wants: list[Want], rows: list[dict[str, Any]]) -> None:
    """:raises LabError: when the host did not do as it was asked."""
    for want, row in zip(wants, rows):
        state = row["state"]
        if want.present and state not in ("accepted", "partly"):
            step = "make a region on the host first (dcd_region), then look at what its daemon says"
            raise LabError(want.subject, f"the host has not accepted it: {state}", step, observed=rows)
        if not want.present and state != "absent":
            step = "the host uses it: stop what uses it there, then ask again"
            raise LabError(want.subject, f"the host has not given it back: {state}", step, observed=rows)


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
