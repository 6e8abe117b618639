#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: write a tree of files with known content to a block device, or compare it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_verify
short_description: Write a tree of files to a block device, or compare every byte of it
description:
  - With O(action=write) a blank device gets an xfs file system with a tree of files of known content, and a MANIFEST with their
    SHA-256 sums. The file system is unmounted after that, so that all of it is on the device.
  - With O(action=compare) every file is read back and compared with the MANIFEST, past the page cache.
  - What a block device over shared memory delivers is proven by writing on its own host and comparing on the host of its backing
    device.
  - A device that carries something that is not ours is never written to.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - blkid, blockdev, mount and mkfs.xfs on the host
options:
  action:
    description:
      - V(write) makes the tree unless a complete one of this size is there.
      - V(compare) reads the tree.
    type: str
    choices: [write, compare]
    required: true
  device:
    description: The block device, for example V(/dev/cbd0).
    type: path
    required: true
  mountpoint:
    description: Where to mount the file system. Created when it is missing. With O(action=compare) it stays mounted there.
    type: path
    default: /mnt/cbd0
  read_only:
    description:
      - For O(action=compare) on the host of a backing device that a running backend holds open.
      - The device is read through a read-only loop device, mounted at a temporary place and unmounted again.
    type: bool
    default: false
  size:
    description: Total size of the files, for O(action=write). From V(64K) to V(64G).
    type: str
    default: 32M
  transport:
    description: Name of the transport below the device; its UUID, which the daemon knows, is written into the MANIFEST.
    type: str
    default: ""
  rerun:
    description: Write the tree anew even if a complete one is there, for O(action=write).
    type: bool
    default: false
  manifest:
    description: SHA-256 sum of the MANIFEST that has to be there, for O(action=compare). RV(manifest) of O(action=write) is that.
    type: str
    default: ""
attributes:
  check_mode:
    description: Reports what would be done and does nothing. Files are not compared, because that takes a mount.
    support: full
  diff_mode:
    description: Nothing but test files is changed, so no difference is shown.
    support: none
"""

EXAMPLES = r"""
- name: Write the tree on the host of the block device
  cxl_verify:
    action: write
    device: /dev/cbd0
  register: written

- name: Compare it on the host of the backing device
  cxl_verify:
    action: compare
    device: /dev/ram0p1
    read_only: true
    manifest: "{{ written.manifest }}"

- name: Compare it where it was written, and leave it mounted
  cxl_verify:
    action: compare
    device: /dev/cbd0
    mountpoint: /mnt/cbd0
"""

RETURN = r"""
manifest:
  description: SHA-256 sum of the MANIFEST.
  returned: success
  type: str
  sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
files:
  description: Number of files in the tree.
  returned: success
  type: int
  sample: 15
bytes:
  description: Total size of the files.
  returned: success
  type: int
  sample: 33554432
measured:
  description: What was done, with the number of files and bytes and the seconds that it took.
  returned: success
  type: list
  elements: dict
  sample:
    - {what: write, files: 15, size: 33554432, seconds: 1.7}
report:
  description: The same as lines of a table, to print under RV(header).
  returned: success
  type: list
  elements: str
header:
  description: The head of the table.
  returned: success
  type: str
written:
  description: Whether the tree was written anew, so that it has to be compared on the backing device.
  returned: success
  type: bool
verdict:
  description: The outcome of a comparison in one sentence.
  returned: success
  type: str
  sample: All 15 files (32.0 MiB) are right.
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["make an xfs file system on /dev/cbd0", "write 15 files, 32M"]
"""

import os
import platform
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import verify
from ..module_utils.cxl_lab.cbd import check_rows
from ..module_utils.cxl_lab.datapath_client import DatapathClient
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.runner import HostRunner, Runner
from ..module_utils.cxl_lab.sizes import format_size, parse_size
from ..module_utils.cxl_lab.verify_tree import Manifest, plan_tree, read_manifest
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        "action": {"type": "str", "choices": ["write", "compare"], "required": True},
        "device": {"type": "path", "required": True},
        "mountpoint": {"type": "path", "default": "/mnt/cbd0"},
        "read_only": {"type": "bool", "default": False},
        "size": {"type": "str", "default": "32M"},
        "transport": {"type": "str", "default": ""},
        "rerun": {"type": "bool", "default": False},
        "manifest": {"type": "str", "default": ""},
    },
    "supports_check_mode": True,
}


def transport_uuid(name: str) -> str:
    """The UUID of a transport that this host is registered in, "" for no name.

    :raises LabError: when the daemon does not run or knows no such transport.
    """
    if not name:
        return ""
    with DatapathClient() as client:
        rows = check_rows(client.call("cbd.transport.list"), "cbd.transport.list")
    for row in rows:
        if row["name"] == name:
            return str(row["uuid"])
    raise LabError(f"transport {name}", "is not registered on this host", "register it with cbd_transport first")


def write(module: AnsibleModule, runner: Runner) -> dict[str, Any]:
    options = module.params
    device, mountpoint = options["device"], os.path.normpath(options["mountpoint"])
    size = parse_size(options["size"], "size")
    files = plan_tree(size)
    writing = f"write {len(files)} files, {format_size(size)}"
    if module.check_mode and not Path(device).exists():
        return result(device, None, [], [f"make an xfs file system on {device} when it is there", writing])
    steps: list[str] = []
    measured: list[verify.Measured] = []
    mounted = verify.is_mounted(device, mountpoint)
    if not mounted and verify.observe_needs_filesystem(runner, device):
        steps.append(f"make an xfs file system on {device}")
        if module.check_mode:
            return result(device, None, [], [*steps, writing])
        measured.append(verify.make_filesystem(runner, device))
    if not mounted and module.check_mode:
        return result(device, None, [], [f"mount {device}", *([writing] if options["rerun"] else [])])
    if not mounted:
        verify.mount(runner, device, mountpoint)
    if verify.tree_is_complete(mountpoint, size) and not options["rerun"]:
        steps += [] if mounted else [f"mount {device}"]
        return result(device, read_manifest(Path(mountpoint) / verify.FOLDER), [], steps)
    steps.append(writing)
    if module.check_mode:
        return result(device, None, [], steps)
    filesystem = verify.filesystem_uuid(runner, device)
    manifest, spent = verify.write(mountpoint, size, uuid.uuid4().hex, transport_uuid(options["transport"]), filesystem)
    verify.unmount(runner, mountpoint)
    return result(device, manifest, [*measured, spent], steps)


def compare(module: AnsibleModule, runner: Runner) -> dict[str, Any]:
    options = module.params
    device, mountpoint = options["device"], os.path.normpath(options["mountpoint"])
    if module.check_mode:
        return result(device, None, [], [])
    if options["read_only"]:
        with verify.mounted_read_only(runner, device) as folder:
            return result(device, *verify.compare(folder, device, options["manifest"], verify.COMPARE), [])
    steps = []
    if not verify.is_mounted(device, mountpoint):
        verify.mount(runner, device, mountpoint)
        steps.append(f"mount {device}")
    return result(device, *verify.compare(Path(mountpoint), device, options["manifest"], verify.READ_BACK), steps)


def result(
    device: str, manifest: Manifest | None, measured: verify.Measured | list[verify.Measured], steps: list[str]
) -> dict[str, Any]:
    rows = measured if isinstance(measured, list) else [measured]
    return {
        "changed": bool(steps),
        "manifest": manifest.digest if manifest else "",
        "files": len(manifest.sums) if manifest else 0,
        "bytes": manifest.size if manifest else 0,
        "measured": [asdict(row) for row in rows],
        "report": [row.row(f"{device} on {platform.node()}") for row in rows],
        "header": verify.HEADER,
        "written": any(row.what == "write" for row in rows),
        "verdict": verify.verdict(rows),
        "steps": steps,
    }


def work(module: AnsibleModule) -> dict[str, Any]:
    action = write if module.params["action"] == "write" else compare
    return action(module, HostRunner())


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
