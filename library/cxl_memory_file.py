#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: files that stand in for shared memory or for a disk."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_memory_file
short_description: Manage files that stand in for shared memory or for a disk
description:
  - Makes files of a fixed size that only their owner can open, for hosts that are processes of one machine. In C(/dev/shm) a file
    is memory that all of them map; elsewhere it can be the disk of a backend.
  - The files are sparse, they take room when they are written to. Nothing is written into them here, and none changes its size.
  - A path that holds anything else (a link, a device, a file of another user or of another size) is left alone and reported.
  - Several hosts of a machine can name the same files at once.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path. Missing folders above it are made.
        type: str
        required: true
      size:
        description: Size, a multiple of 4 KiB. Needed for O(state=present).
        type: str
  state:
    description:
      - V(present) makes the files that are missing.
      - V(absent) removes them, and all data is lost. It is refused while a process has one open or mapped.
    type: str
    choices: [present, absent]
    default: present
  of_others:
    description:
      - The files that hosts of the same machine before this one deal with in the same task. In check mode, in which nobody does,
        they count as made or removed, so that a change is shown once. A file that is in the way is reported all the same.
    type: list
    elements: dict
    default: []
attributes:
  check_mode:
    description: Reports what would be done and does nothing.
    support: full
  diff_mode:
    description: Shows the files before and after.
    support: full
"""

EXAMPLES = r"""
- name: Shared memory and a disk for hosts that are processes of this machine
  cxl_memory_file:
    files:
      - {path: /dev/shm/pool0, size: 128M}
      - {path: /var/lib/lab/disk0, size: 1G}
"""

RETURN = r"""
files:
  description: The files as read back, in the order of O(files); those that are not there are left out.
  returned: success
  type: list
  elements: dict
  sample: [{path: /dev/shm/pool0, kind: regular file, size: 134217728, mode: "0600"}]
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["create /dev/shm/pool0 of 128M"]
"""

import os
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import memory_file
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.memory_file import Change, MemoryFileState, MemoryFileWant
from ..module_utils.lab_module import run_module

Plan = Callable[[MemoryFileWant, MemoryFileState], "list[Change]"]

SPEC: dict[str, Any] = {
    "argument_spec": {
        "files": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": {"path": {"type": "str", "required": True}, "size": {"type": "str"}},
        },
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "of_others": {"type": "list", "elements": "dict", "default": []},
    },
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    present, user = module.params["state"] == "present", os.geteuid()
    plan = memory_file.plan_present if present else memory_file.plan_absent
    wants = memory_file.parse_wants(module.params["files"], sized=present)
    haves = [memory_file.observe(want, users=not present) for want in wants]
    changes = [change for want, have in zip(wants, haves) for change in plan(want, have, user)]
    if module.check_mode:
        # What is refused here is refused there as well.
        theirs = {file.get("path") for file in module.params["of_others"]}
        haves = foreseen(wants, haves, [change for change in changes if change.want.path in theirs], user)
        changes = [change for change in changes if change.want.path not in theirs]
        now = foreseen(wants, haves, changes, user)
    else:
        now = reach(changes, wants, lambda want, have: plan(want, have, user)) if changes else haves
    before, after = shown(wants, haves), shown(wants, now)
    return {
        "changed": bool(changes),
        "files": after,
        "steps": [change.what for change in changes],
        "diff": {"before": {"files": before}, "after": {"files": after}},
    }


def reach(changes: list[Change], wants: list[MemoryFileWant], plan: Plan) -> list[MemoryFileState]:
    """Makes the changes; the files as read back.

    :raises LabError: when a change is undone by somebody else.
    """
    for change in changes:
        memory_file.apply(change)
    haves = [memory_file.observe(want) for want in wants]
    for want, have in zip(wants, haves):
        if left := plan(want, have):
            raise LabError(want.subject, f"was done and is needed again: {left[0].what}", "see who else changes it")
    return haves


def foreseen(
    wants: list[MemoryFileWant], haves: list[MemoryFileState], changes: list[Change], user: int
) -> list[MemoryFileState]:
    """The files as the changes would leave them."""
    by_path = {change.want.path: change for change in changes}
    pairs = [(by_path.get(want.path), have) for want, have in zip(wants, haves)]
    return [memory_file.foresee(change, have, user) if change else have for change, have in pairs]


def shown(wants: list[MemoryFileWant], haves: list[MemoryFileState]) -> list[dict[str, Any]]:
    found = (memory_file.describe(want, have) for want, have in zip(wants, haves))
    return [file for file in found if file]


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
