#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the kmem_blk pools of this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kmem_blk_info
short_description: Show the kmem_blk pools of a host and who has their pages
description:
  - Lists the pools that this host has started, with their pages by user, and what is on memories that are named.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - a running cxl-datapathd on the host
options:
  memories:
    description: Memories to look at, whether a pool on them is started or not.
    type: list
    elements: str
    default: []
  runtime_dir:
    description: Folder with the control socket of the daemon.
    type: path
    default: /run/cxl-datapath
attributes:
  check_mode:
    description: Changes nothing. In check mode a daemon that does not run yet counts as one without pools.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: How much of the pool is free
  kmem_blk_info:
  register: kmem

- name: Tell it
  ansible.builtin.debug:
    msg: "{{ kmem.pools[0].pages.available * kmem.pools[0].page_size }} bytes"
"""

RETURN = r"""
pools:
  description: The pools. C(pages) has C(pages) (all), C(fixed) (superblock and index), C(blocks), C(swap), C(leases), C(free),
    C(available) (what a write may take), C(reserve) (what only writes may take) and C(wanted) (what writes wait for).
  returned: success
  type: list
  elements: dict
  sample:
    - name: pool0
      state: running
      memories: [/dev/dax0.0]
      pages: {pages: 131072, fixed: 257, blocks: 4096, swap: 1024, leases: 0, free: 125695, available: 125679}
      leases: []
      volume: {name: kmem0, device: /dev/kmem0, frontend: ublk, queues: 1}
      swap: null
memories:
  description: What is on the memories that were named.
  returned: success
  type: list
  elements: dict
  sample:
    - {memory: /dev/dax0.0, path: /dev/dax0.0, size: 536870912, formatted: true, foreign: null, problem: null}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cbd_module import RUNTIME_OPTION
from ..module_utils.cxl_lab.cbd import check_memory, check_rows
from ..module_utils.cxl_lab.datapath_client import DaemonAbsent, DatapathClient
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {"memories": {"type": "list", "elements": "str", "default": []}, **RUNTIME_OPTION},
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    wanted = [check_memory(memory) for memory in module.params["memories"]]
    try:
        with DatapathClient(module.params["runtime_dir"]) as client:
            pools = check_rows(client.call("kmem_blk.pool.list"), "kmem_blk.pool.list")
            memories = [client.call("kmem_blk.pool.probe", memory=memory) for memory in wanted]
    except DaemonAbsent:
        if not module.check_mode:
            raise
        pools, memories = [], []
    return {"changed": False, "pools": pools, "memories": memories}


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
