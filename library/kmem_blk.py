#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: kmem_blk pools of this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kmem_blk
short_description: Manage pools of pages that are a block device and system memory at once
description:
  - A pool formats memory of this host so that it carries a persistent block volume. Pages that no block uses are lent as memory,
    to the kernel as swap and to programs as leases.
  - A pool is found by its name. One call deals with all pools of a host. Nothing is changed unless every entry is possible.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - a running cxl-datapathd on the host
options:
  pools:
    description: The pools, each at most once.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the pool, in its memory as well.
        type: str
        required: true
      memories:
        description:
          - Memories of the pool (V(/dev/daxX.Y), V(serial:0x...) or a file). The first one is formatted and carries the index.
          - A mapping of dynamic capacity is V(dcd:0x<serial number>/<name of the mapping>). What is in it may go in a power cut,
            so that it is for swap only.
          - What is added later becomes part of a pool that runs; what is taken out of the list is given back, after its blocks
            were moved.
          - Required for O(pools[].state=present).
        type: list
        elements: str
      thick:
        description: For a format, whether every block has its page from the start.
        type: bool
        default: false
      spare:
        description: For a format, pages through which blocks are rewritten; as many writes go on side by side.
        type: int
        default: 16
      force:
        description: Whether to format memory, or add it, although it carries something.
        type: bool
        default: false
      reserve:
        description: Size of what only blocks may take, so that neither swap nor leases starve them.
        type: str
        default: "0"
      lease_limit:
        description: Size of what one process may lease.
        type: str
        default: "0"
      lease_group:
        description: Group whose members may lease, beside root.
        type: str
      recall_ms:
        description: Milliseconds that a write waits for leases and swap to give pages back before it fails for want of space.
        type: int
        default: 5000
      volume:
        description: The blocks as a device of this host; without it they are for backends of CBD only.
        type: dict
        suboptions:
          name:
            description: Name under C(/dev), or of the socket.
            type: str
            default: kmem0
          frontend:
            description: How the device shows itself.
            type: str
            choices: [auto, ublk, nbd, nbdkit]
            default: auto
          queues:
            description: Number of queues.
            type: int
            default: 1
      swap:
        description: The free pages as swap of this host. Needs ublk.
        type: dict
        suboptions:
          size:
            description: At most so much of the pool; 1M at least, and less than 16T.
            type: str
            required: true
          priority:
            description: Priority among the swap devices of the host.
            type: int
            default: 100
      state:
        description:
          - V(present) formats blank memory, starts the pool and its devices.
          - V(absent) switches swap off, removes the device and stops the pool; the memory keeps its blocks.
        type: str
        choices: [present, absent]
        default: present
  runtime_dir:
    description: Folder with the control socket of the daemon.
    type: path
    default: /run/cxl-datapath
attributes:
  check_mode:
    description: Reports what would be done and does nothing. Where the daemon does not run yet, that is to start it.
    support: full
  diff_mode:
    description: Shows each pool before and after.
    support: full
"""

EXAMPLES = r"""
- name: A block device and 256 MiB of swap on one memory
  kmem_blk:
    pools:
      - name: pool0
        memories: [/dev/dax0.0]
        reserve: 64M
        volume: {name: kmem0}
        swap: {size: 256M}

- name: The pool grows by a second memory
  kmem_blk:
    pools:
      - name: pool0
        memories: [/dev/dax0.0, /dev/dax1.0]
        volume: {name: kmem0}
"""

RETURN = r"""
pools:
  description: The pools of the list as the daemon has them, in its order; without those that are gone. C(pages) counts pages.
  returned: success
  type: list
  elements: dict
  sample:
    - name: pool0
      state: running
      memories: [/dev/dax0.0]
      capacity: 535625728
      pages: {pages: 131072, fixed: 257, blocks: 4096, swap: 1024, leases: 0, free: 125695, available: 125679}
      volume: {name: kmem0, device: /dev/kmem0, frontend: ublk, queues: 1}
      swap: null
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["format /dev/dax0.0 as pool pool0", "start pool pool0"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cbd_module import RUNTIME_OPTION, Kind, reach
from ..module_utils.cxl_lab import kmem_blk
from ..module_utils.cxl_lab.cbd import Seen, check_rows
from ..module_utils.cxl_lab.datapath_client import DatapathClient
from ..module_utils.cxl_lab.kmem_blk import PoolWant
from ..module_utils.lab_module import run_module

_VOLUME = {
    "name": {"type": "str", "default": "kmem0"},
    "frontend": {"type": "str", "choices": ["auto", "ublk", "nbd", "nbdkit"], "default": "auto"},
    "queues": {"type": "int", "default": 1},
}
_SWAP = {"size": {"type": "str", "required": True}, "priority": {"type": "int", "default": 100}}
_POOL = {
    "name": {"type": "str", "required": True},
    "memories": {"type": "list", "elements": "str"},
    "thick": {"type": "bool", "default": False},
    "spare": {"type": "int", "default": 16},
    "force": {"type": "bool", "default": False},
    "reserve": {"type": "str", "default": "0"},
    "lease_limit": {"type": "str", "default": "0"},
    "lease_group": {"type": "str"},
    "recall_ms": {"type": "int", "default": 5000},
    "volume": {"type": "dict", "options": _VOLUME},
    "swap": {"type": "dict", "options": _SWAP},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}
SPEC: dict[str, Any] = {
    "argument_spec": {
        "pools": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": _POOL,
            "required_if": [("state", "present", ["memories"])],
        },
        **RUNTIME_OPTION,
    },
    "supports_check_mode": True,
}


def observe(client: DatapathClient, wants: list[PoolWant]) -> Seen:
    """This host's pools, and what lies on the memory of those that do not run."""
    pools = check_rows(client.call("kmem_blk.pool.list"), "kmem_blk.pool.list")
    running = {row.get("name") for row in pools}
    down = [want for want in wants if want.state == "present" and want.name not in running]
    memories = {memory for want in down for memory in want.memories}
    probes = {memory: client.call("kmem_blk.pool.probe", memory=memory) for memory in sorted(memories)}
    return {"transports": [], "pools": pools, "probes": probes}


KIND = Kind("pools", kmem_blk.parse, kmem_blk.check, kmem_blk.plan, kmem_blk.find, kmem_blk.SHOWN, observe)


def work(module: AnsibleModule) -> dict[str, Any]:
    return reach(module, KIND)


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
