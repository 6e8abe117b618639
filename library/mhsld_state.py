#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: who may have which block of a multi-headed device."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mhsld_state
short_description: State file of a multi-headed device
description:
  - Runs on the hypervisor. Makes the file in which the heads of a multi-headed device claim blocks; M(dcd_extent) does that
    before
    it offers an extent.
  - Compares the claims with what the heads hold and repairs them, after a crash between the two.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
options:
  lab:
    description: Name of the lab.
    type: str
    required: true
  uri:
    description: libvirt connection.
    type: str
    default: qemu:///system
  state_dir:
    description: Folder on the hypervisor for what the fabric manager remembers, in a folder with the name of the lab.
    type: path
    default: /var/lib/cxl-lab-dcd
  program:
    description: The program of the data path, which makes claims. The role C(cxl_datapath) installs it on the hypervisor, too.
    type: path
    default: /opt/cxl-datapath/current/bin/cxl-datapath
  device:
    description: Name of the device in the topology.
    type: str
    required: true
  path:
    description: The state file.
    type: path
    required: true
  hosts:
    description: The hosts that have a head of the device, in the order of the heads. They are the names of the heads.
    type: list
    elements: str
    required: true
  heads:
    description: For how many heads there is room, at most 64. Without it for as many as O(hosts).
    type: int
  size:
    description: Size of the shared memory. Needed to make the file.
    type: str
  block:
    description: Block size of the device's regions. QEMU's is 2 MiB.
    type: str
    default: 2M
  clear:
    description: Hosts whose machine was started anew, so that nothing that they claimed is theirs any more.
    type: list
    elements: str
    default: []
  repair:
    description: Compare the claims with what the heads hold, and repair them. Every machine must be on, or be in O(off).
    type: bool
    default: false
  'off':
    description: Hosts whose machine is off, and so holds nothing.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Reports what would be done and does nothing.
    support: full
  diff_mode:
    description: Shows the claims before and after.
    support: full
"""

EXAMPLES = r"""
- name: Four heads over 1 GiB
  mhsld_state:
    lab: demo
    device: pool0
    path: /dev/shm/cxl-lab.demo.pool0.mhsld
    hosts: [node1, node2, node3, node4]
    size: 1G
"""

RETURN = r"""
mhsld:
  description: The file and its claims as read back.
  returned: success
  type: dict
  sample: {path: /dev/shm/cxl-lab.demo.pool0.mhsld, size: 1073741824, block: 2097152, heads: [node1, node2], claims: []}
findings:
  description: What the comparison found. C(kind) is V(stale) (claimed, not held), V(unclaimed) (held, not claimed) or V(conflict)
    (held by two; only a release on one of them helps).
  returned: with O(repair)
  type: list
  elements: dict
  sample: [{kind: stale, head: node1, offset: 0, length: 2097152}]
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["make /dev/shm/cxl-lab.demo.pool0.mhsld for 4 heads"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.dcd.claims import Claims
from ..module_utils.cxl_lab.dcd.heads import held_by, missing, summary
from ..module_utils.cxl_lab.dcd.manager import Manager
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.names import check_name
from ..module_utils.cxl_lab.runner import HostRunner
from ..module_utils.cxl_lab.sizes import parse_size
from ..module_utils.dcd_module import OPTIONS, manager
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        **{name: option for name, option in OPTIONS.items() if name != "state_files"},
        "device": {"type": "str", "required": True},
        "path": {"type": "path", "required": True},
        "hosts": {"type": "list", "elements": "str", "required": True},
        "heads": {"type": "int"},
        "size": {"type": "str"},
        "block": {"type": "str", "default": "2M"},
        "clear": {"type": "list", "elements": "str", "default": []},
        "repair": {"type": "bool", "default": False},
        "off": {"type": "list", "elements": "str", "default": []},
    },
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    params, check = module.params, module.check_mode
    hosts = [check_name(host, "host") for host in params["hosts"]]
    if strangers := sorted({*params["clear"], *params["off"]} - set(hosts)):
        raise LabError("mhsld_state", f"{strangers[0]} has no head", f"name it in hosts, which has {', '.join(hosts)}")
    claims = Claims(HostRunner(), params["path"], params["program"])
    with manager({**params, "state_files": {params["device"]: params["path"]}}) as fabric:
        steps = make(claims, hosts, params, check)
        if steps and check:
            return {"changed": True, "steps": steps, "mhsld": None}
        before = claims.show()
        steps += clear(claims, before, params["clear"], check)
        result: dict[str, Any] = {}
        if params["repair"]:
            result["findings"] = repair(fabric, claims, hosts, params, check)
            steps += [f"repair: {summary(each)}" for each in result["findings"] if each["kind"] != "conflict"]
        after = claims.show()
    diff = {"before": {"claims": before["claims"]}, "after": {"claims": after["claims"]}}
    return {"changed": bool(steps), "steps": steps, "mhsld": after, "diff": diff, **result}


def make(claims: Claims, hosts: list[str], params: dict[str, Any], check: bool) -> list[str]:
    """Makes the file if it is missing; one that is there must be the wanted one."""
    there = not missing(claims.path)
    if not there and params["size"] is None:
        raise LabError(
            f"state file {claims.path}", "is missing, and there is no size to make it with", "give the size of the memory"
        )
    heads = params["heads"] or len(hosts)
    if params["size"] is not None and not (check and not there):
        size, block = parse_size(params["size"], "size"), parse_size(params["block"], "block")
        claims.create(size, block, heads, hosts)
    return [] if there else [f"make {claims.path} for {heads} heads"]


def clear(claims: Claims, have: dict[str, Any], hosts: list[str], check: bool) -> list[str]:
    stale = [host for host in hosts if any(host in row["heads"] for row in have["claims"])]
    for host in stale:
        if not check:
            claims.clear(host)
    return [f"clear the claims of {host}" for host in stale]


def repair(fabric: Manager, claims: Claims, hosts: list[str], params: dict[str, Any], check: bool) -> list[dict[str, Any]]:
    held = {host: [] if host in params["off"] else held_by(fabric, host, params["device"]) for host in hosts}
    found: list[dict[str, Any]] = claims.audit(held, repair=not check)["findings"]
    return found


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
