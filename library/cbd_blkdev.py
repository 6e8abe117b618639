#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: CBD block devices of this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cbd_blkdev
short_description: Manage CBD block devices
description:
  - A blkdev is a block device on this host whose reads and writes travel through the shared memory to a backend on another host.
  - A blkdev with a name is found by it, one without by its backend, where it is the only one of this host then.
  - One call deals with all blkdevs of a host. Nothing is changed unless every entry of the list is possible.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - a running cxl-datapathd on the host
options:
  blkdevs:
    description: The blkdevs, each at most once.
    type: list
    elements: dict
    required: true
    suboptions:
      transport:
        description: Name of the transport. This host has to be registered in it.
        type: str
        required: true
      backend:
        description: Number of the backend. Required for O(blkdevs[].state=present).
        type: int
      name:
        description: Name of the device under C(/dev), or of the socket. By default C(cbd) and the number of the blkdev.
        type: str
      queues:
        description:
          - Number of queues, 1 to 16. Each takes a channel of the transport.
          - One for each processor of the host is fastest with ublk, which then handles a request on the processor that made it.
        type: int
        default: 1
      frontend:
        description:
          - How the device is shown. V(ublk) and V(nbd) are kernel block devices, V(nbdkit) is an NBD server on a unix socket.
          - V(auto) takes the first that this host has.
        type: str
        choices: [auto, ublk, nbd, nbdkit]
        default: auto
      read_only:
        description: Whether the device is only read. Any number of such blkdevs can be on a backend.
        type: bool
        default: false
      shared:
        description:
          - Whether others may write to the backend as well. All of its writers must say so, and what they run must be able to
            share a disk, for example a cluster file system.
        type: bool
        default: false
      io_timeout:
        description:
          - Seconds, 1 to 86400, for which requests wait for a backend that is away. After that they fail until it is back.
          - Not below the lease of the transport, in which a host that restarts cannot be told from one that died.
          - The daemon's default is 120, or twice the lease and ten seconds where that is longer.
        type: int
      id:
        description: Number of the blkdev in the transport. Required for O(blkdevs[].state=cleared), and used for that only.
        type: int
      state:
        description:
          - V(present) starts the blkdev once its backend serves.
          - V(absent) stops it. It is refused while the device is in use.
          - V(cleared) removes the entry of a blkdev whose host died, or a damaged one.
        type: str
        choices: [present, absent, cleared]
        default: present
      force:
        description: For O(blkdevs[].state=cleared), do it although the entry is damaged and may be that of a living host.
        type: bool
        default: false
  leaving:
    description:
      - What tasks before this one stop on any host or clear away, as they return it (C(gone)). In check mode, in which it is
        still there, it does not keep a blkdev from being started; otherwise what is really there decides.
    type: dict
    suboptions:
      blkdevs:
        description: What this module returned.
        type: list
        elements: dict
      hosts:
        description: What M(cbd_host) returned.
        type: list
        elements: dict
  runtime_dir:
    description: Folder with the control socket of the daemon.
    type: path
    default: /run/cxl-datapath
  wait:
    description:
      - Whether to wait for a backend that does not serve yet, or until the host of a blkdev that is to be cleared is dead.
      - Without it that is refused at once.
    type: bool
    default: true
  wait_living:
    description:
      - Whether to wait for the death of a host even while its heartbeat moves, because somebody is stopping it.
      - Without it such a host is refused as soon as that is seen; one that fell silent is waited for either way.
    type: bool
    default: false
  wait_timeout:
    description:
      - Seconds to wait. The message of a timeout carries the last state that was seen.
      - By default 120, or twice the lease of the transport and ten seconds where that is longer.
    type: float
  wait_sleep:
    description: Seconds between two looks.
    type: float
    default: 0.2
attributes:
  check_mode:
    description: Reports what would be done and does nothing. Where the daemon does not run yet, that is to start it.
    support: full
  diff_mode:
    description: Shows each blkdev before and after.
    support: full
"""

EXAMPLES = r"""
- name: Map two backends of other hosts
  cbd_blkdev:
    blkdevs:
      - {transport: pool0, backend: 0, queues: 2, name: cbd0}
      - {transport: pool0, backend: 1, name: library, read_only: true}
  register: disks

- name: Show the devices
  ansible.builtin.debug:
    msg: "{{ disks.blkdevs | map(attribute='device') }}"
"""

RETURN = r"""
blkdevs:
  description: The blkdevs of the list as read back from the daemon, in its order; without those that are gone.
  returned: success
  type: list
  elements: dict
  sample:
    - transport: pool0
      id: 0
      backend: 0
      name: cbd0
      device: /dev/cbd0
      frontend: ublk
      capacity: 534773760
      queues: 2
      read_only: false
      shared: false
      io_timeout: 120
      state: running
      fenced: false
      host: node2
gone:
  description: Those of the list that were there and are not any more, as they were before; in check mode those that would go.
  returned: success
  type: list
  elements: dict
  sample: []
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["start a blkdev on backend 0"]
"""

from dataclasses import replace
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cbd_module import DEATH_OPTION, RUNTIME_OPTION, Kind, reach
from ..module_utils.cbd_module import observe as observe_all
from ..module_utils.cxl_lab import cbd_blkdev
from ..module_utils.cxl_lab.cbd import Row, Seen, without, without_blkdevs_of
from ..module_utils.cxl_lab.datapath_client import DatapathClient
from ..module_utils.lab_module import WAIT_OPTIONS, run_module

_BLKDEV = {
    "transport": {"type": "str", "required": True},
    "backend": {"type": "int"},
    "name": {"type": "str"},
    "queues": {"type": "int", "default": 1},
    "frontend": {"type": "str", "choices": ["auto", "ublk", "nbd", "nbdkit"], "default": "auto"},
    "read_only": {"type": "bool", "default": False},
    "shared": {"type": "bool", "default": False},
    "io_timeout": {"type": "int"},
    "id": {"type": "int"},
    "state": {"type": "str", "choices": ["present", "absent", "cleared"], "default": "present"},
    "force": {"type": "bool", "default": False},
}
SPEC: dict[str, Any] = {
    "argument_spec": {
        "blkdevs": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": _BLKDEV,
            "required_if": [
                ("state", "present", ["backend"]),
                ("state", "absent", ["backend", "name"], True),
                ("state", "cleared", ["id"]),
            ],
        },
        **RUNTIME_OPTION,
        "leaving": {"type": "dict", "options": {kind: {"type": "list", "elements": "dict"} for kind in ("blkdevs", "hosts")}},
        **WAIT_OPTIONS,
        **DEATH_OPTION,
    },
    "supports_check_mode": True,
}


KIND = Kind(
    "blkdevs",
    cbd_blkdev.parse,
    cbd_blkdev.check,
    cbd_blkdev.plan,
    cbd_blkdev.find,
    cbd_blkdev.SHOWN,
    remarks=cbd_blkdev.remarks,
)


def observe(leaving: dict[str, list[Row]], client: DatapathClient, wants: list[Any]) -> Seen:
    """The transports of this host, but for the blkdevs that are ``leaving`` them."""
    transports = without(observe_all(client, wants)["transports"], leaving.get("blkdevs") or [], "blkdev", local=False)
    return {"transports": without_blkdevs_of(transports, leaving.get("hosts") or [])}


def work(module: AnsibleModule) -> dict[str, Any]:
    leaving = (module.params["leaving"] or {}) if module.check_mode else {}
    return reach(module, replace(KIND, observe=partial(observe, leaving)))


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
