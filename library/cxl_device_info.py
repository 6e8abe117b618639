#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: which type-3 devices a running host has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_device_info
short_description: Show the CXL memory devices of a running host of a lab
description:
  - Asks the QEMU of a host which type-3 devices it has, which root ports are free, and what leaked. Runs on the hypervisor.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - libvirt-python
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
attributes:
  check_mode:
    description: Changes nothing, so check mode makes no difference.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
seealso:
  - module: cxl.lab.cxl_device
"""

EXAMPLES = r"""
- name: Which root ports are free
  cxl_device_info:
    lab: switched
    host: node1
  register: fabric
"""

RETURN = r"""
devices:
  description: The devices; C(memdev) is their name on the host, empty where it has none or does not answer.
  returned: success
  type: list
  elements: dict
  sample: [{name: m0, serial: "0xc0de0005", size: 268435456, volatile: 0, port: cxl-rp.a.1, memdev: mem4}]
free_ports:
  description: Root ports that a device can be attached to.
  returned: success
  type: list
  elements: str
  sample: [cxl-rp.b.2]
leaked:
  description: Devices that went without their host letting go, with the objects that hold their memory.
  returned: success
  type: list
  elements: dict
  sample: []
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.device_module import DEVICE_OPTIONS, LiveLab, shown_devices
from ..module_utils.lab_module import run_module


def work(module: AnsibleModule) -> dict[str, Any]:
    host = LiveLab({**module.params, "wait_timeout": 0, "wait_sleep": 0}).host(module.params["host"])
    live = host.observe()
    return {
        "changed": False,
        "devices": shown_devices(host, [device.name for device in live.devices]),
        "free_ports": [port for port in live.ports if port not in live.taken],
        "leaked": [asdict(leak) for leak in host.leaked()],
    }


def main() -> None:
    spec = {**DEVICE_OPTIONS, "host": {"type": "str", "required": True}}
    run_module(work, argument_spec=spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
