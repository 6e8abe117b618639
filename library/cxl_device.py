#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: type-3 devices of a running host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_device
short_description: Attach CXL memory devices to a running host, and detach them
description:
  - Plugs type-3 devices into free root ports of a running virtual machine of a lab, and waits until the host has their memdevs.
    Or lets the host go of them and unplugs them. Runs on the hypervisor.
  - Before a device goes, the host takes its memory out of service, disables the namespaces on it and destroys the regions over
    it. While somebody uses the memory that is refused. Namespaces are only disabled. Labels and data stay in files of the lab,
    and come back with a device of the same name.
  - A device whose host does not let go of it has leaked. That is remembered, and its memory is given to nobody until the machine
    was switched off and on.
  - Hosts that attach a device of the same name share its memory.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - libvirt-python
  - a guest with cxl, ndctl and daxctl, version 81 or newer
options:
  lab:
    description: Name of the lab.
    type: str
    required: true
  lab_dir:
    description: Folder of the lab's files, C(/var/lib/cxl-lab/LAB) without it.
    type: path
  uri:
    description: libvirt connection.
    type: str
    default: qemu:///system
  host:
    description: Name of the host.
    type: str
    required: true
  devices:
    description: The devices.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the device. None in the topology has it.
        type: str
        required: true
      size:
        description: Persistent capacity, a multiple of 256M.
        type: str
      volatile:
        description: Volatile capacity, a multiple of 256M.
        type: str
      serial:
        description: Serial number, decimal or with V(0x). Without it the next free one from V(0xc0de1001) on.
        type: str
      parent:
        description: Host bridge that it is plugged into. Switches of QEMU cannot let a device go again.
        type: str
        default: cxl
      port:
        description: Port of the bridge. Without it the first free one.
        type: int
  state:
    description: V(present) attaches, V(absent) detaches.
    type: str
    choices: [present, absent]
    default: present
  force:
    description:
      - Unplug a device although its memory is in use or its host does not answer. What uses it loses data, and the memory leaks
        until the machine was switched off.
    type: bool
    default: false
  wait_timeout:
    description: Seconds to wait for the host to take a device or to let it go.
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
    description: Shows the devices before and after.
    support: full
notes:
  - A device that was attached goes when the machine is switched off. Its topology does not know it.
  - QEMU up to 11.1 keeps a little memory of its own for each device that was detached, until it ends.
seealso:
  - module: cxl.lab.cxl_topology
  - module: cxl.lab.cxl_power
"""

EXAMPLES = r"""
- name: Give a running host 512 MiB more
  cxl_device:
    lab: switched
    host: node1
    devices:
      - {name: extra, size: 512M, parent: b}

- name: Take them away again
  cxl_device:
    lab: switched
    host: node1
    devices:
      - name: extra
    state: absent
"""

RETURN = r"""
devices:
  description: The devices as read back from QEMU and the host; C(memdev) is their name on the host.
  returned: success
  type: list
  elements: dict
  sample: [{name: extra, serial: "0xc0de1001", size: 536870912, volatile: 0, port: cxl-rp.b.2, memdev: mem7}]
leaked:
  description: Devices of this host that leaked.
  returned: success
  type: list
  elements: dict
  sample: []
steps:
  description: What was done, or would be.
  returned: success
  type: list
  elements: str
  sample: ["give QEMU 512M as cxl-mem.extra", "give QEMU 1M as cxl-lsa.extra", "plug extra into cxl-rp.b.2"]
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import hotplug
from ..module_utils.cxl_lab.live_devices import DeviceWant, parse_device
from ..module_utils.cxl_lab.live_host import LiveHost
from ..module_utils.cxl_lab.locking import locked
from ..module_utils.cxl_lab.steps import phrases
from ..module_utils.device_module import DEVICE_OPTIONS, LiveLab, shown_devices
from ..module_utils.lab_module import WAIT_OPTIONS, run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        **DEVICE_OPTIONS,
        "host": {"type": "str", "required": True},
        "devices": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": {
                "name": {"type": "str", "required": True},
                **{key: {"type": "str"} for key in ("size", "volatile", "serial")},
                "parent": {"type": "str", "default": "cxl"},
                "port": {"type": "int"},
            },
        },
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "force": {"type": "bool", "default": False},
        **{key: WAIT_OPTIONS[key] for key in ("wait_timeout", "wait_sleep")},
    },
    "supports_check_mode": True,
}


def present(lab: LiveLab, host: LiveHost, wants: Sequence[DeviceWant], check: bool) -> list[str]:
    """Attaches what is missing; what was done, or would be. All of them are planned before the first is attached."""
    live, planned = host.observe(), []
    for want in wants:
        files = lab.files(want)
        commands = host.plan_attach(want, live, files)
        live = hotplug.after(live, want, commands)
        if commands:
            planned.append((want, files, commands))
    if not check:
        for want, files, _ in planned:
            lab.make_files(want, files)
        for want, _, commands in planned:
            host.attach(want, commands)
    return [phrase for _, _, commands in planned for phrase in hotplug.phrases(commands)]


def absent(host: LiveHost, wants: Sequence[DeviceWant], force: bool, check: bool) -> list[str]:
    """Detaches what is there; what was done, or would be."""
    steps: list[str] = []
    for want in wants:
        device = host.observe().device(want.name)
        if device is None:
            continue
        release = host.plan_release(device, force)
        steps += phrases(release)
        steps += [f"unplug {want.name}"] if check else host.detach(device, release, force)
    return steps


def work(module: AnsibleModule) -> dict[str, Any]:
    options: Mapping[str, Any] = module.params
    lab, check = LiveLab(options), module.check_mode
    wants = [parse_device(options["host"], entry, options["state"] == "present") for entry in options["devices"]]
    names = [want.name for want in wants]
    lab.check_not_in_topology(options["host"], names)
    with locked(lab.lock(options["host"])):
        host = lab.host(options["host"])
        before = shown_devices(host, names)
        if options["state"] == "present":
            steps = present(lab, host, wants, check)
        else:
            steps = absent(host, wants, options["force"], check)
        after = shown_devices(host, names)
        leaked = [asdict(leak) for leak in host.leaked()]
    diff = {"before": {"devices": before}, "after": {"devices": after if not check else steps}}
    return {"changed": bool(steps), "devices": after, "leaked": leaked, "steps": steps, "diff": diff}


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
