#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: write a tree of files, or a pattern, with known content to a block device, or compare it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_verify
short_description: Write a tree of files or a pattern to a block device, or compare every byte of it
description:
  - With O(action=write) a blank device gets an xfs file system with a tree of files of known content, and a MANIFEST with their
    SHA-256 sums. The file system is unmounted after that, so that all of it is on the device.
  - With O(action=compare) every file is read back and compared with the MANIFEST, past the page cache.
  - A device that is served over NBD cannot be mounted. It gets a pattern in its first bytes instead, which is flushed to the
    medium, and every byte of it is compared.
  - What a block device over shared memory delivers is proven by writing on its own host and comparing on the host of its backing
    device.
  - A device that carries something that is not ours is never written to.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - blkid, blockdev, mount and mkfs.xfs on the host
  - for a device over NBD nbdcopy, nbdinfo and nbdkit instead (packages libnbd-bin, nbdkit)
options:
  action:
    description:
      - V(write) makes the tree or pattern unless a complete one of this size is there.
      - V(compare) reads it.
    type: str
    choices: [write, compare]
    required: true
  device:
    description:
      - The block device, for example V(/dev/cbd0), or the NBD URI of one, for example V(nbd+unix:///?socket=/run/cxl-datapath/cbd0.sock).
      - With O(pattern) also the file that backs it.
    type: str
    required: true
  pattern:
    description: For O(action=compare) on a backing device, whether RV(pattern) of O(action=write) was true.
    type: bool
    default: false
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
    description: Total size of the files or size of the pattern, for O(action=write). From V(64K) to V(64G).
    type: str
    default: 32M
  transport:
    description: Name of the transport below the device; its UUID, which the daemon knows, is written into the MANIFEST.
    type: str
    default: ""
  runtime_dir:
    description: Folder of the daemon's control socket, to ask for that UUID.
    type: path
    default: /run/cxl-datapath
  host:
    description: What the report calls this host. The default is the name of the machine.
    type: str
    default: ""
  rerun:
    description: Write the tree or pattern anew even if a complete one is there, for O(action=write).
    type: bool
    default: false
  manifest:
    description: Sum of what has to be there, for O(action=compare). RV(manifest) of O(action=write) is that.
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
  description: SHA-256 sum of the MANIFEST, or of the header of the pattern.
  returned: success
  type: str
  sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
files:
  description: Number of files in the tree, 0 for a pattern.
  returned: success
  type: int
  sample: 15
bytes:
  description: Total size of the files or size of the pattern.
  returned: success
  type: int
  sample: 33554432
pattern:
  description: Whether it is a pattern.
  returned: success
  type: bool
  sample: false
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
  description: Whether it was written anew, so that it has to be compared on the backing device.
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

from ..module_utils.cbd_module import RUNTIME_OPTION
from ..module_utils.cxl_lab import nbd, verify, verify_pattern
from ..module_utils.cxl_lab.cbd import check_rows
from ..module_utils.cxl_lab.datapath_client import DatapathClient
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.runner import HostRunner, Runner
from ..module_utils.cxl_lab.sizes import format_size, parse_size
from ..module_utils.cxl_lab.verify_pattern import Pattern
from ..module_utils.cxl_lab.verify_tree import Manifest, plan_tree, read_manifest
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        "action": {"type": "str", "choices": ["write", "compare"], "required": True},
        "device": {"type": "str", "required": True},
        "pattern": {"type": "bool", "default": False},
        "mountpoint": {"type": "path", "default": "/mnt/cbd0"},
        "read_only": {"type": "bool", "default": False},
        "size": {"type": "str", "default": "32M"},
        "transport": {"type": "str", "default": ""},
        "host": {"type": "str", "default": ""},
        **RUNTIME_OPTION,
        "rerun": {"type": "bool", "default": False},
        "manifest": {"type": "str", "default": ""},
    },
    "supports_check_mode": True,
}


def transport_uuid(name: str, runtime_dir: str) -> str:
    """The UUID of a transport that this host is registered in, "" for no name.

    :raises LabError: when the daemon does not run or knows no such transport.
    """
    if not name:
        return ""
    with DatapathClient(runtime_dir) as client:
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
        return result(options, None, [], [f"make an xfs file system on {device} when it is there", writing])
    steps: list[str] = []
    measured: list[verify.Measured] = []
    mounted = verify.is_mounted(device, mountpoint)
    if not mounted and verify.observe_needs_filesystem(runner, device):
        steps.append(f"make an xfs file system on {device}")
        if module.check_mode:
            return result(options, None, [], [*steps, writing])
        measured.append(verify.make_filesystem(runner, device))
    if not mounted and module.check_mode:
        return result(options, None, [], [f"mount {device}", *([writing] if options["rerun"] else [])])
    if not mounted:
        verify.mount(runner, device, mountpoint)
    if verify.tree_is_complete(mountpoint, size) and not options["rerun"]:
        steps += [] if mounted else [f"mount {device}"]
        return result(options, read_manifest(Path(mountpoint) / verify.FOLDER), [], steps)
    steps.append(writing)
    if module.check_mode:
        return result(options, None, [], steps)
    filesystem = verify.filesystem_uuid(runner, device)
    transport = transport_uuid(options["transport"], options["runtime_dir"])
    manifest, spent = verify.write(mountpoint, size, uuid.uuid4().hex, transport, filesystem)
    verify.unmount(runner, mountpoint)
    return result(options, manifest, [*measured, spent], steps)


def compare(module: AnsibleModule, runner: Runner) -> dict[str, Any]:
    options = module.params
    device, mountpoint = options["device"], os.path.normpath(options["mountpoint"])
    if module.check_mode:
        return result(options, None, [], [])
    if options["read_only"]:
        with verify.mounted_read_only(runner, device) as folder:
            return result(options, *verify.compare(folder, device, options["manifest"], verify.COMPARE), [])
    steps = []
    if not verify.is_mounted(device, mountpoint):
        verify.mount(runner, device, mountpoint)
        steps.append(f"mount {device}")
    return result(options, *verify.compare(Path(mountpoint), device, options["manifest"], verify.READ_BACK), steps)


def write_pattern(module: AnsibleModule, runner: Runner) -> dict[str, Any]:
    options = module.params
    uri, size = options["device"], verify_pattern.check_size(parse_size(options["size"], "size"))
    steps = [f"write a pattern of {format_size(size)}"]
    if module.check_mode and not nbd.socket_path(uri).exists():
        return result(options, None, [], steps)
    have = verify_pattern.observe(runner, uri, size)
    if have and have.size == size and not options["rerun"]:
        return result(options, have, [], [])
    if module.check_mode:
        return result(options, None, [], steps)
    pattern = Pattern(uuid.uuid4().hex, transport_uuid(options["transport"], options["runtime_dir"]), size)
    return result(options, pattern, verify_pattern.write(runner, uri, pattern), steps)


def compare_pattern(module: AnsibleModule, runner: Runner) -> dict[str, Any]:
    options = module.params
    if module.check_mode:
        return result(options, None, [], [])
    if nbd.is_uri(options["device"]):
        return result(options, *verify_pattern.compare_uri(runner, options["device"], options["manifest"], verify.READ_BACK), [])
    return result(options, *verify_pattern.compare_path(options["device"], options["manifest"], verify.COMPARE), [])


def is_pattern(options: dict[str, Any]) -> bool:
    """Whether the device carries a pattern, or is to."""
    return options["pattern"] or nbd.is_uri(options["device"])


def result(
    options: dict[str, Any],
    content: Manifest | Pattern | None,
    measured: verify.Measured | list[verify.Measured],
    steps: list[str],
) -> dict[str, Any]:
    rows = measured if isinstance(measured, list) else [measured]
    device, host = options["device"], options["host"] or platform.node()
    shown = nbd.socket_path(device).name if nbd.is_uri(device) else device
    return {
        "changed": bool(steps),
        "manifest": content.digest if content else "",
        "files": content.files if content else 0,
        "bytes": content.size if content else 0,
        "pattern": is_pattern(options),
        "measured": [asdict(row) for row in rows],
        "report": [row.row(f"{shown} on {host}") for row in rows],
        "header": verify.HEADER,
        "written": any(row.what == "write" for row in rows),
        "verdict": verify.verdict(rows),
        "steps": steps,
    }


def work(module: AnsibleModule) -> dict[str, Any]:
    actions = {
        ("write", False): write,
        ("compare", False): compare,
        ("write", True): write_pattern,
        ("compare", True): compare_pattern,
    }
    return actions[module.params["action"], is_pattern(module.params)](module, HostRunner())


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
