#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a CXL region over one memdev or several."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_region
short_description: Manage the CXL region over a memdev or several
description:
  - Makes sure that a committed, enabled region lies over one memdev, or interleaves over several, or that none does.
  - Memdevs are found by serial number, because the numbers of C(memN) change from boot to boot. The root decoder is found
    by what it is capable of - it leads to the host bridges of the memdevs and no others, takes the type of memory and has room.
  - Several memdevs may be named in any order; they are put into the one that the decoders above them can have, which is
    always the same for the same list.
  - Before a region of type V(ram) is made, the host is told to keep new memory offline, so that two hosts that share it do not
    both take it for their own.
  - A region that spans other memdevs too, or that has another type, size or uuid than asked for, is never touched.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - cxl and ndctl, version 81 or newer, on the host
options:
  serial:
    description:
      - Serial number of the memdev, as C(cxl list -M -u) shows it, decimal or with V(0x).
      - A list of 2, 3, 4, 6, 8, 12 or 16 of them makes a region that interleaves.
    type: list
    elements: str
    required: true
  type:
    description: Whether it is made of persistent or of volatile capacity.
    type: str
    choices: [pmem, ram]
    default: pmem
  granularity:
    description:
      - Bytes that go to a memdev before the next one has its turn. Without it as the fixed memory window has it, or 256.
      - Below a window with several targets only that of the window is possible.
    type: int
    choices: [256, 512, 1024, 2048, 4096, 8192, 16384]
  size:
    description:
      - Size of the region, a multiple of 256 MiB for each memdev. Without it the region takes the whole of each.
      - An existing region of another size is refused.
    type: str
  uuid:
    description: UUID of the region. Without it a new region gets a random one, and any is accepted.
    type: str
  boot:
    description:
      - Whether the host makes the region again by itself at each boot, with the same uuid under the same root decoder. Linux
        forgets a region when the host is started anew.
      - A systemd unit does it, from a record in C(/etc/cxl-lab/regions.d).
    type: bool
    default: true
  state:
    description:
      - V(present) creates or enables the region.
      - V(absent) disables and destroys it, and boot does not bring it back. It is refused while a namespace on the region is in
        service.
    type: str
    choices: [present, absent]
    default: present
  wait:
    description: Whether to wait for a memdev that is not there yet.
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait for the memdev.
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
    description: Shows the region before and after.
    support: full
notes:
  - The labels of its namespaces survive a reboot in the label storage area, so the namespaces come back with the region.
  - QEMU 11.1 keeps the direct mapping of a region until the machine is switched off. On a machine of a lab every mapping since
    then is remembered (C(/var/lib/cxl-lab/committed.json)), and a region that would show the bytes of an older one is refused.
"""

EXAMPLES = r"""
- name: Put a region over the shared memdev
  cxl_region:
    serial: "0xc0de0001"

- name: Put a region over the first 256 MiB of a memdev
  cxl_region:
    serial: "0xc0de0002"
    size: 256M

- name: Interleave over four memdevs
  cxl_region:
    serial: ["0xc0de0001", "0xc0de0002", "0xc0de0003", "0xc0de0004"]
    granularity: 1024

- name: Take the region away
  cxl_region:
    serial: "0xc0de0001"
    state: absent
"""

RETURN = r"""
region:
  description: The region as read back from the host; null when there is none.
  returned: success
  type: dict
  sample:
    name: region0
    type: pmem
    size: 536870912
    resource: "0x190000000"
    uuid: 2f6a4a54-9ac1-43c5-a9e6-7b5b2f6ac0de
    decoder: decoder0.0
    boot: true
    memdev: mem1
    memdevs: [mem1]
    serial: "0xc0de0001"
    serials: ["0xc0de0001"]
    ways: 1
    granularity: 256
    committed: true
    enabled: true
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["create a pmem region over mem1 under decoder0.0"]
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import region as regions
from ..module_utils.cxl_lab import region_state
from ..module_utils.cxl_lab.boot_regions import BootRegions
from ..module_utils.cxl_lab.committed import Committed
from ..module_utils.cxl_lab.cxl_diagnose import (
    explain_failed_create,
    explain_missing_memdev,
    idle_pci_functions,
    kernel_log,
)
from ..module_utils.cxl_lab.cxl_list import format_serial, list_memdevs, parse_serial
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.runner import HostRunner, Runner
from ..module_utils.cxl_lab.steps import Step, phrases, run_steps
from ..module_utils.cxl_lab.waiting import wait_until
from ..module_utils.lab_module import WAIT_OPTIONS, run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        "serial": {"type": "list", "elements": "str", "required": True},
        "type": {"type": "str", "choices": ["pmem", "ram"], "default": "pmem"},
        "granularity": {"type": "int", "choices": [256, 512, 1024, 2048, 4096, 8192, 16384]},
        "size": {"type": "str"},
        "uuid": {"type": "str"},
        "boot": {"type": "bool", "default": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        **WAIT_OPTIONS,
    },
    "supports_check_mode": True,
}


def find_state(runner: Runner, want: region_state.RegionWant, timeout: float, sleep: float) -> region_state.RegionState:
    """The state of the memdevs, once they are there.

    :raises LabError: says why it does not come.
    """
    end = time.monotonic() + timeout
    state = wait_until(
        lambda: region_state.observe(runner, want),
        lambda seen: seen is not None or time.monotonic() >= end,
        f"memdev {' '.join(map(format_serial, want.serials))}",
        "the memdev",
        timeout=timeout,
        sleep=sleep,
    )
    if state is None:
        memdevs = list_memdevs(runner)
        there = {memdev.serial for memdev in memdevs if memdev.enabled}
        missing = next((serial for serial in want.serials if serial not in there), want.serials[0])
        raise explain_missing_memdev(missing, memdevs, idle_pci_functions(), kernel_log(runner))
    return state


def apply(runner: Runner, want: region_state.RegionWant, steps: list[Step]) -> region_state.RegionState:
    """Runs the steps; the state that they led to."""
    try:
        run_steps(runner, steps, want.subject)
    except LabError as failed:
        raise explain_failed_create(failed, kernel_log(runner), region_state.regions_above(runner, failed.cmd or ())) from failed
    return find_state(runner, want, 0, 0)


def describe(have: region_state.RegionState | None, boot: BootRegions) -> dict[str, Any] | None:
    region = region_state.describe(have)
    return {**region, "boot": boot.remembers(lowest_serial(region), region["type"])} if region else None


def lowest_serial(region: dict[str, Any]) -> int:
    """What the record of a region is named by: it does not depend on the order of the memdevs."""
    return min(int(serial, 16) for serial in region["serials"] or [region["serial"]])


def ensure_present(module: AnsibleModule, runner: Runner, want: region_state.RegionWant) -> dict[str, Any]:
    timeout = module.params["wait_timeout"] if module.params["wait"] and not module.check_mode else 0
    boot = BootRegions()
    have = find_state(runner, want, timeout, module.params["wait_sleep"])
    before = after = describe(have, boot)
    steps = regions.plan_present(want, have)
    done = phrases(steps)
    if steps and module.check_mode:
        after = {**(before or {"memdevs": [memdev.name for memdev in have.memdevs]}), "enabled": True}
    elif steps:
        reached = apply(runner, want, steps)
        if regions.plan_present(want, reached):
            log = "\n".join(kernel_log(runner))
            raise LabError(
                want.subject, "is not in service after it was made", observed=region_state.describe(reached), stderr=log
            )
        check_bytes(runner, want, reached, made=True)
        after = describe(reached, boot)
    elif not module.check_mode:
        check_bytes(runner, want, have, made=False)
    if after:
        done += ensure_boot(module, boot, want, after)
    return result(before, after, done)


def check_bytes(runner: Runner, want: region_state.RegionWant, have: region_state.RegionState, *, made: bool) -> None:
    """Refuses a region that shows the bytes of another one, and remembers one that does not.

    :param made: whether it was made now; then it is taken away again.
    """
    region, committed = have.regions[0], Committed()
    serials = {memdev.name: memdev.serial for memdev in have.memdevs}
    place = ([serials[name] for name in region.memdevs], region.resource, region.size, have.dpa)
    try:
        committed.check(want.subject, *place)
    except LabError:
        if made:
            run_steps(runner, regions.plan_take_back(want, have), want.subject)
        raise
    committed.remember(*place)


def ensure_boot(module: AnsibleModule, boot: BootRegions, want: region_state.RegionWant, region: dict[str, Any]) -> list[str]:
    """Has boot make the region, or not, as asked for; what was done, or would be. The region tells about it afterwards."""
    wanted, remembered = module.params["boot"], boot.remembers(min(want.serials), want.type)
    if wanted and "uuid" in region and boot.is_current(region):
        return []
    if not wanted and not remembered:
        return []
    region["boot"] = wanted
    if wanted and not module.check_mode:
        boot.remember(region)
    elif not module.check_mode:
        boot.forget(min(want.serials), want.type)
    return ["have boot make the region again" if wanted else "have boot forget the region"]


def ensure_absent(module: AnsibleModule, runner: Runner, want: region_state.RegionWant) -> dict[str, Any]:
    boot = BootRegions()
    have = region_state.observe(runner, want)
    before = describe(have, boot)
    steps = regions.plan_absent(want, have) if have else []
    done = phrases(steps)
    after = None
    if steps and not module.check_mode:
        after = describe(apply(runner, want, steps), boot)
    if boot.remembers(min(want.serials), want.type):
        done.append("have boot forget the region")
        if not module.check_mode:
            boot.forget(min(want.serials), want.type)
    return result(before, after, done)


def result(before: dict[str, Any] | None, after: dict[str, Any] | None, done: list[str]) -> dict[str, Any]:
    return {
        "changed": bool(done),
        "region": after,
        "steps": done,
        "diff": {"before": {"region": before}, "after": {"region": after}},
    }


def work(module: AnsibleModule) -> dict[str, Any]:
    options = module.params
    serials = [parse_serial(serial) for serial in options["serial"]]
    want = region_state.parse_want(serials, options["size"], options["uuid"], options["type"], options["granularity"])
    ensure = ensure_present if options["state"] == "present" else ensure_absent
    return ensure(module, HostRunner(), want)


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
