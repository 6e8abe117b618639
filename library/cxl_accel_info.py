#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_accel_info
short_description: Whether KVM really runs a guest here
description:
  - Boots a guest kernel under KVM until it misses its root file system. The existence of C(/dev/kvm) is no proof, for some
    machines create a virtual machine and never execute its kernel.
  - The verdict is kept until the next boot of this machine.
options:
  accel:
    description: V(auto) falls back to emulation, V(kvm) fails without KVM, V(tcg) does not look.
    type: str
    choices: [auto, kvm, tcg]
    default: auto
  emulator:
    description: QEMU binary or wrapper.
    type: path
    required: true
  kernel:
    description: Kernel of the guest image.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Nothing is changed in any mode.
  diff_mode:
    support: none
    description: Nothing is changed.
author:
  - cxl.lab contributors
"""

EXAMPLES = r"""
- name: KVM or emulation
  cxl_accel_info:
    emulator: /usr/bin/qemu-system-x86_64
    kernel: /boot/vmlinuz-6.12.0-amd64
"""

RETURN = r"""
accel:
  description: How to run guests.
  returned: success
  type: str
  sample: tcg
reason:
  description: Why.
  returned: success
  type: str
  sample: "KVM does not work here: a guest kernel did not start within 20 s"
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.accel import as_dict, choose_accel
from ..module_utils.lab_module import run_module


def work(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    return {"changed": False, **as_dict(choose_accel(params["accel"], params["emulator"], params["kernel"]))}


def main() -> None:
    run_module(
        work,
        argument_spec={
            "accel": {"type": "str", "choices": ["auto", "kvm", "tcg"], "default": "auto"},
            "emulator": {"type": "path", "required": True},
            "kernel": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
