#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a CBD block device on this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cbd_blkdev
short_description: Manage a CBD block device
description:
  - A blkdev is a block device on this host whose reads and writes travel through the shared memory to a backend on another host.
  - A host has at most one blkdev on each backend, so it is found by the number of the backend.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - a running cxl-datapathd on the host
options:
  transport:
    description: Name of the transport. This host has to be registered in it.
    type: str
    required: true
  backend:
    description: Number of the backend.
    type: int
    required: true
  queues:
    description: Number of queues, 1 to 16. Each takes a channel of the transport.
    type: int
    default: 1
  frontend:
    description:
      - How the device is shown. V(ublk) and V(nbd) are kernel block devices, V(nbdkit) is an NBD server on a unix socket.
      - V(auto) takes the first that this host has.
    type: str
    choices: [auto, ublk, nbd, nbdkit]
    default: auto
  name:
    description: Name of the device under C(/dev), or of the socket. By default C(cbd) and the number of the blkdev.
    type: str
  state:
    description:
      - V(present) starts the blkdev once its backend serves.
      - V(absent) stops it. It is refused while the device is in use.
    type: str
    choices: [present, absent]
    default: present
  runtime_dir:
    description: Folder with the control socket of the daemon.
    type: path
    default: /run/cxl-datapath
  wait:
    description: Whether to wait for a backend that does not serve yet.
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait for the backend.
    type: float
    default: 120.0
  wait_sleep:
    description: Seconds between two looks.
    type: float
    default: 0.2
attributes:
  check_mode:
    description: Reports what would be done and does nothing. Where the daemon does not run yet, that is to start it.
    support: full
  diff_mode:
    description: Shows the blkdev before and after.
    support: full
"""

EXAMPLES = r"""
- name: Map a backend of another host
  cbd_blkdev:
    transport: pool0
    backend: 0
    queues: 2
    name: cbd0
  register: disk

- name: Show the device
  ansible.builtin.debug:
    msg: "{{ disk.blkdev.device }}"
"""

RETURN = r"""
blkdev:
  description: The blkdev as read back from the daemon; null when there is none.
  returned: success
  type: dict
  sample:
    id: 0
    backend: 0
    name: cbd0
    device: /dev/cbd0
    frontend: ublk
    capacity: 534773760
    queues: 2
    state: running
    host: node2
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["start a blkdev on backend 0"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cbd_module import RUNTIME_OPTION, Goal, reach, rows_in
from ..module_utils.cxl_lab import cbd
from ..module_utils.cxl_lab.cbd import QUEUES_MAX, BlkdevWant
from ..module_utils.cxl_lab.datapath_client import DatapathClient
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.names import check_name
from ..module_utils.cxl_lab.waiting import wait_until
from ..module_utils.lab_module import WAIT_OPTIONS, run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        "transport": {"type": "str", "required": True},
        "backend": {"type": "int", "required": True},
        "queues": {"type": "int", "default": 1},
        "frontend": {"type": "str", "choices": ["auto", "ublk", "nbd", "nbdkit"], "default": "auto"},
        "name": {"type": "str"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        **RUNTIME_OPTION,
        **WAIT_OPTIONS,
    },
    "supports_check_mode": True,
}


def parse_want(options: dict[str, Any]) -> BlkdevWant:
    if not 1 <= options["queues"] <= QUEUES_MAX:
        raise LabError("queues", f"{options['queues']} are not possible", f"choose 1 to {QUEUES_MAX}")
    name = check_name(options["name"], "blkdev") if options["name"] else ""
    backend = cbd.check_id(options["backend"], "backend")
    return BlkdevWant(cbd.check_transport(options["transport"]), backend, options["queues"], options["frontend"], name)


def wait_for_backend(module: AnsibleModule, client: DatapathClient, want: BlkdevWant) -> None:
    options = module.params
    wait_until(
        lambda: rows_in(client, want.transport, "cbd.backend.list", need=True),
        lambda rows: cbd.backend_is_ready(want.backend, rows),
        want.subject,
        f"backend {want.backend}",
        timeout=options["wait_timeout"] if options["wait"] else 0,
        sleep=options["wait_sleep"],
        next_step="start it on its host (cbd_backend)",
    )


def work(module: AnsibleModule) -> dict[str, Any]:
    want = parse_want(module.params)
    present = module.params["state"] == "present"
    plan = cbd.plan_blkdev if present else cbd.plan_no_blkdev
    wanted = {"backend": want.backend, "queues": want.queues, "state": "running"}
    list_ = "cbd.blkdev.list"
    goal = Goal(
        want.subject,
        "blkdev",
        observe=lambda client: rows_in(client, want.transport, list_, need=present and not module.check_mode),
        plan=lambda seen: plan(want, seen),
        show=lambda seen: cbd.own_blkdev(want, seen),
        wanted=wanted if present else None,
    )
    if not present:
        return reach(module, goal)
    return reach(module, goal, lambda client: wait_for_backend(module, client, want))


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
