#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: which errors the QEMU of a host can play, and what is lost already."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_error_info
short_description: Show which errors a CXL device of a lab can have, and its poison list
description:
  - Asks the running QEMU of a host which errors it can play and with which arguments; they differ between releases. Runs on the
    hypervisor.
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
  device:
    description: Name of a device whose poison list is shown. Without it no list is.
    type: str
attributes:
  check_mode:
    description: Changes nothing, so check mode makes no difference.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
seealso:
  - module: cxl.lab.cxl_error
"""

EXAMPLES = r"""
- name: What can go wrong
  cxl_error_info:
    lab: switched
    host: node1
    device: m0
"""

RETURN = r"""
kinds:
  description: The kinds of errors by their names, with the arguments that this QEMU takes, and their defaults.
  returned: success
  type: dict
  sample:
    poison:
      command: cxl-inject-poison
      arguments: {start: {required: true, type: int}, length: {required: true, type: int}}
      defaults: {start: 0, length: 64}
poison:
  description: The poison list of the device.
  returned: success
  type: list
  elements: dict
  sample: [{offset: 4096, length: 64, source: Injected}]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import injection
from ..module_utils.cxl_lab.live_devices import observe
from ..module_utils.cxl_lab.names import check_name
from ..module_utils.cxl_lab.poison import poison_list
from ..module_utils.cxl_lab.qmp_schema import QmpSchema
from ..module_utils.device_module import DEVICE_OPTIONS, LiveLab
from ..module_utils.lab_module import run_module


def work(module: AnsibleModule) -> dict[str, Any]:
    lab, host = LiveLab(module.params), module.params["host"]
    monitor = lab.monitor(host)
    kinds = injection.describe(QmpSchema(monitor.execute("query-qmp-schema", {})))
    poison: list[dict[str, Any]] = []
    if module.params["device"]:
        device = check_name(module.params["device"], "device")
        memdev = lab.memdev(host, observe(monitor).device(device), f"device {device} of {host}").name
        poison = poison_list(lab.guest(host), memdev)
    return {"changed": False, "kinds": kinds, "poison": poison}


def main() -> None:
    spec = {**DEVICE_OPTIONS, "host": {"type": "str", "required": True}, "device": {"type": "str"}}
    run_module(work, argument_spec=spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
