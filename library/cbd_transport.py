#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a CBD transport on this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cbd_transport
short_description: Manage a CBD transport in shared memory
description:
  - A transport is a range of memory that several hosts map. Block devices travel through it.
  - One host formats it, then every host registers.
  - Everything is done by C(cxl-datapathd) on the host.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - a running cxl-datapathd on the host
options:
  name:
    description: Name of the transport.
    type: str
    required: true
  memory:
    description:
      - The memory. V(serial:0x...) is the devdax namespace over the memdev with this serial number, V(/dev/daxX.Y) a devdax
        device, and any other absolute path a file that several daemons of one machine share.
      - Required unless O(state=absent).
    type: str
  state:
    description:
      - V(formatted) makes sure that the transport lies on the memory. Do this on one host.
      - V(registered) makes sure that this host takes part in it. Do this on every host.
      - V(absent) makes sure that this host takes no part in it. The transport stays in the memory.
    type: str
    choices: [formatted, registered, absent]
    default: registered
  hosts:
    description: How many hosts can register. For O(state=formatted); the daemon's default is 16.
    type: int
  backends:
    description: How many backends it can hold. For O(state=formatted); the daemon's default is 16.
    type: int
  blkdevs:
    description: How many blkdevs it can hold. For O(state=formatted); the daemon's default is 16.
    type: int
  channels:
    description: How many queues it can hold. For O(state=formatted); by default as many as fit, at most 64.
    type: int
  ring_depth:
    description: Requests in flight for each queue, a power of two. For O(state=formatted); the daemon's default is 64.
    type: int
  slot_bytes:
    description: Data for each request in flight, a multiple of 4 KiB. For O(state=formatted); the daemon's default is V(64K).
    type: str
  coherence:
    description:
      - How caches of the hosts are kept equal. V(software) flushes cache lines, V(hardware) relies on the machine.
      - For O(state=formatted); the daemon's default is V(software).
    type: str
    choices: [software, hardware]
  data_crc:
    description: Whether payload carries checksums. For O(state=formatted); the daemon's default is V(true).
    type: bool
  force:
    description:
      - Format although something else lies on the memory, which is lost. Refused all the same while a host is alive in it.
      - A transport that is already as wanted is left alone.
    type: bool
    default: false
  runtime_dir:
    description: Folder with the control socket of the daemon.
    type: path
    default: /run/cxl-datapath
attributes:
  check_mode:
    description: Reports what would be done and does nothing. Where the daemon does not run yet, that is everything.
    support: full
  diff_mode:
    description: Shows the transport before and after.
    support: full
"""

EXAMPLES = r"""
- name: Format the transport on one host
  cbd_transport:
    name: pool0
    memory: serial:0xc0de0001
    state: formatted
    ring_depth: 128
  run_once: true

- name: Register every host
  cbd_transport:
    name: pool0
    memory: serial:0xc0de0001
"""

RETURN = r"""
transport:
  description: The transport as read back from the memory; null when there is none. C(host_id) is this host's number in it.
  returned: success
  type: dict
  sample:
    name: pool0
    uuid: 53d0e0c1-77e5-4d93-9a51-1f1f2e3c0d01
    memory: serial:0xc0de0001
    path: /dev/dax0.0
    state: running
    host_id: 0
    size: 534773760
    coherence: software
    data_crc: true
    hosts: 16
    backends: 16
    blkdevs: 16
    channels: 62
    ring_depth: 64
    slot_bytes: 65536
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["register this host in transport pool0"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cbd_module import RUNTIME_OPTION, Goal, reach, rows
from ..module_utils.cxl_lab import cbd
from ..module_utils.cxl_lab.cbd import TransportWant
from ..module_utils.cxl_lab.datapath_client import DatapathClient
from ..module_utils.cxl_lab.sizes import parse_size
from ..module_utils.lab_module import run_module

_FORMAT_OPTIONS: dict[str, Any] = {
    "hosts": {"type": "int"},
    "backends": {"type": "int"},
    "blkdevs": {"type": "int"},
    "channels": {"type": "int"},
    "ring_depth": {"type": "int"},
    "slot_bytes": {"type": "str"},
    "coherence": {"type": "str", "choices": ["software", "hardware"]},
    "data_crc": {"type": "bool"},
}

SPEC: dict[str, Any] = {
    "argument_spec": {
        "name": {"type": "str", "required": True},
        "memory": {"type": "str"},
        "state": {"type": "str", "choices": ["formatted", "registered", "absent"], "default": "registered"},
        **_FORMAT_OPTIONS,
        "force": {"type": "bool", "default": False},
        **RUNTIME_OPTION,
    },
    "required_if": [("state", "formatted", ["memory"]), ("state", "registered", ["memory"])],
    "supports_check_mode": True,
}


def parse_want(options: dict[str, Any]) -> TransportWant:
    chosen = {key: options[key] for key in _FORMAT_OPTIONS if options[key] is not None}
    if "slot_bytes" in chosen:
        chosen["slot_bytes"] = parse_size(chosen["slot_bytes"], "slot_bytes")
    memory = cbd.check_memory(options["memory"]) if options["memory"] else ""
    return TransportWant(cbd.check_transport(options["name"]), memory, chosen, options["force"])


def formatted(module: AnsibleModule, want: TransportWant) -> Goal:
    def show(probe: cbd.Row) -> cbd.Row | None:
        info = probe.get("info")
        return {"memory": probe.get("memory"), "path": probe.get("path"), **info} if info else None

    return Goal(
        want.subject,
        "transport",
        observe=lambda client: client.call("cbd.transport.probe", memory=want.memory),
        plan=lambda probe: cbd.plan_format(want, probe),
        show=show,
        wanted={"name": want.name, "memory": want.memory, **want.options},
    )


def registered(module: AnsibleModule, want: TransportWant) -> Goal:
    def observe(client: DatapathClient) -> tuple[list[cbd.Row], cbd.Row]:
        return rows(client, "cbd.transport.list"), client.call("cbd.transport.probe", memory=want.memory)

    return Goal(
        want.subject,
        "transport",
        observe=observe,
        plan=lambda seen: cbd.plan_register(want, *seen, foresee=module.check_mode),
        show=lambda seen: cbd.own_transport(want, seen[0]),
        wanted={"name": want.name, "memory": want.memory, "state": "running"},
    )


def absent(module: AnsibleModule, want: TransportWant) -> Goal:
    return Goal(
        want.subject,
        "transport",
        observe=lambda client: rows(client, "cbd.transport.list"),
        plan=lambda seen: cbd.plan_unregister(want, seen),
        show=lambda seen: cbd.own_transport(want, seen),
        wanted=None,
    )


def work(module: AnsibleModule) -> dict[str, Any]:
    goals = {"formatted": formatted, "registered": registered, "absent": absent}
    return reach(module, goals[module.params["state"]](module, parse_want(module.params)))


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
