#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: CBD backends of this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cbd_backend
short_description: Manage CBD backends
description:
  - A backend gives a block device or file of this host to the hosts of a transport.
  - It is found by its path, so that the same path is never given away twice.
  - One call deals with all backends of a host. Nothing is changed unless every entry of the list is possible.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - a running cxl-datapathd on the host
options:
  backends:
    description: The backends, each at most once.
    type: list
    elements: dict
    required: true
    suboptions:
      transport:
        description: Name of the transport. This host has to be registered in it.
        type: str
        required: true
      path:
        description:
          - Block device or file on this host, or V(kmem_blk:<pool>) for the blocks of a pool that this host has started.
            Required for O(backends[].state=present).
          - For O(backends[].state=recovered) what to serve instead of the path in the entry, for example a replica of the data
            on this host. It must not be smaller than what is lost.
        type: path
      id:
        description:
          - Number of the backend in the transport. For O(backends[].state=present) without it a free one is taken.
          - Required for O(backends[].state=recovered) and O(backends[].state=cleared).
        type: int
      read_only:
        description:
          - Whether the device is only read. V(false) by default.
          - For O(backends[].state=recovered) by default as it was.
        type: bool
      state:
        description:
          - V(present) starts the backend. It is refused for what this host had and lost, because its data may be old. One that is
            this host's still, and that its daemon forgot with its state file, is served again with the same path.
          - V(absent) stops it. It is refused while a blkdev uses it.
          - V(recovered) makes this host serve a backend whose host died, once that host is dead for certain. Blkdevs go on
            with it by themselves; requests in flight are sent again. Nothing happens where this host serves it already.
          - V(cleared) removes the entry of a backend whose host died, a damaged one, or one that this host forgot.
        type: str
        choices: [present, absent, recovered, cleared]
        default: present
      force:
        description:
          - For O(backends[].state=cleared), do it although a living host has a blkdev on it, whose requests then fail.
          - Or although the entry is damaged and may be that of a living host.
        type: bool
        default: false
  leaving:
    description:
      - What tasks before this one stop on any host, as they return it (C(gone)). In check mode, in which it is still there, it
        does not keep a backend from being stopped; otherwise what is really there decides.
    type: dict
    suboptions:
      blkdevs:
        description: What M(cbd_blkdev) returned.
        type: list
        elements: dict
  runtime_dir:
    description: Folder with the control socket of the daemon.
    type: path
    default: /run/cxl-datapath
  wait:
    description:
      - Whether to wait until the host of a backend that is to be recovered or cleared is dead for certain.
      - Without it a host that may be alive is refused at once.
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
    description: Shows each backend before and after.
    support: full
"""

EXAMPLES = r"""
- name: Give two disks away
  cbd_backend:
    backends:
      - {transport: pool0, path: /dev/sdb, id: 0}
      - {transport: pool0, path: /dev/sdc, id: 1, read_only: true}

- name: Serve the replica of a disk of a host that died
  cbd_backend:
    backends:
      - {transport: pool0, id: 0, path: /dev/sdd, state: recovered}
"""

RETURN = r"""
backends:
  description: The backends of the list as read back from the transport, in its order; without those that are gone.
  returned: success
  type: list
  elements: dict
  sample:
    - transport: pool0
      id: 0
      path: /dev/sdb
      state: running
      capacity: 534773760
      logical_block_size: 512
      physical_block_size: 4096
      read_only: false
      fenced: false
      host: node1
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
  sample: ["start a backend on /dev/sdb"]
"""

from dataclasses import replace
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cbd_module import DEATH_OPTION, RUNTIME_OPTION, Kind, reach
from ..module_utils.cbd_module import observe as observe_all
from ..module_utils.cxl_lab import cbd_backend
from ..module_utils.cxl_lab.cbd import Row, Seen, without
from ..module_utils.cxl_lab.datapath_client import DatapathClient
from ..module_utils.lab_module import WAIT_OPTIONS, run_module

_BACKEND = {
    "transport": {"type": "str", "required": True},
    "path": {"type": "path"},
    "id": {"type": "int"},
    "read_only": {"type": "bool"},
    "state": {"type": "str", "choices": ["present", "absent", "recovered", "cleared"], "default": "present"},
    "force": {"type": "bool", "default": False},
}
SPEC: dict[str, Any] = {
    "argument_spec": {
        "backends": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": _BACKEND,
            "required_if": [
                ("state", "present", ["path"]),
                ("state", "absent", ["path", "id"], True),
                ("state", "recovered", ["id"]),
                ("state", "cleared", ["id"]),
            ],
        },
        **RUNTIME_OPTION,
        "leaving": {"type": "dict", "options": {"blkdevs": {"type": "list", "elements": "dict"}}},
        **WAIT_OPTIONS,
        **DEATH_OPTION,
    },
    "supports_check_mode": True,
}


KIND = Kind(
    "backends",
    cbd_backend.parse,
    cbd_backend.check,
    cbd_backend.plan,
    cbd_backend.find,
    cbd_backend.SHOWN,
    remarks=cbd_backend.remarks,
)


def observe(leaving: list[Row], client: DatapathClient, wants: list[Any]) -> Seen:
    """The transports of this host, but for the blkdevs that are ``leaving`` them."""
    return {"transports": without(observe_all(client, wants)["transports"], leaving, "blkdev", local=False)}


def work(module: AnsibleModule) -> dict[str, Any]:
    leaving = (module.params["leaving"] or {}) if module.check_mode else {}
    return reach(module, replace(KIND, observe=partial(observe, leaving.get("blkdevs") or [])))


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
