#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a block device of the kernel's NBD client."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_nbd_device
short_description: Attach a block device of the kernel's NBD client to a server
description:
  - Takes a free C(/dev/nbdN) and attaches it to an NBD server over TCP.
  - The device is known by a name that is written down on the host. A device that somebody else attached is never touched.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - nbd-client and modprobe on the host, and a kernel with the nbd driver
options:
  name:
    description: What the device is known by.
    type: str
    required: true
  host:
    description: Name or IPv4 address of the server. Needed for O(state=present).
    type: str
  port:
    description: Port of the server.
    type: int
    default: 10809
  state:
    description:
      - V(present) attaches a device, anew where the name goes to another server.
      - V(absent) gives it back. It is refused while the device is in use.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Reports what would be done and does nothing.
    support: full
  diff_mode:
    description: Shows the device before and after.
    support: full
"""

EXAMPLES = r"""
- name: Use the disk of node1 over the network
  cxl_nbd_device:
    name: peer
    host: node1
  register: peer

- name: Show the device
  ansible.builtin.debug:
    msg: "{{ peer.nbd_device.device }}"
"""

RETURN = r"""
nbd_device:
  description: The device as read back from the host; null when there is none, or none yet in check mode.
  returned: success
  type: dict
  sample: {name: peer, device: /dev/nbd0, host: node1, port: 10809}
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["attach a device to node1:10809"]
"""

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import nbd_device
from ..module_utils.cxl_lab.nbd_device import Attachment
from ..module_utils.cxl_lab.runner import HostRunner
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        "name": {"type": "str", "required": True},
        "host": {"type": "str"},
        "port": {"type": "int", "default": 10809},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    },
    "required_if": [("state", "present", ["host"])],
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    options = module.params
    runner, record = HostRunner(), nbd_device.record_path(options["name"])
    want = nbd_device.parse_want(options["host"], options["port"]) if options["state"] == "present" else None
    have = nbd_device.observe(record)
    stays = want is not None and have is not None and have.reaches(want)
    detach, attach = have is not None and not stays, want is not None and not stays
    steps = [f"give {have.device} back"] if have and detach else []
    steps += [f"attach a device to {want.host}:{want.port}"] if want and attach else []
    if not module.check_mode:
        if have and detach:
            nbd_device.detach(runner, have, record)
        if want and attach:
            nbd_device.attach(runner, want, record)
    before, after = (shown(options["name"], state) for state in (have, nbd_device.observe(record)))
    return {
        "changed": bool(steps),
        "nbd_device": after,
        "steps": steps,
        "diff": {"before": {"nbd_device": before}, "after": {"nbd_device": after}},
    }


def shown(name: str, state: Optional[Attachment]) -> Optional[dict[str, Any]]:
    return {"name": name, "device": state.device, "host": state.host, "port": state.port} if state else None


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
