#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_local_lab
short_description: Remove a lab whose hosts are processes of this machine
description:
  - Stops the daemons of the lab and removes its memory and its folders. They are found by the name of the lab and by the pid
    files of its daemons, so that hosts are found as well that the inventory does not name any more.
  - Removes all that can be removed, then fails with everything that cannot be, and why.
options:
  lab:
    description: Name of the lab.
    type: str
    required: true
  paths:
    description: Files of the lab that lie elsewhere.
    type: list
    elements: str
    default: []
  state:
    description: The lab is to be gone.
    type: str
    choices: [absent]
    required: true
attributes:
  check_mode:
    support: full
    description: Says what it would remove.
  diff_mode:
    support: full
    description: Shows what is there before and after.
author:
  - cxl.lab contributors
"""

EXAMPLES = r"""
- name: Remove the lab
  cxl_local_lab:
    lab: local
    state: absent
"""

RETURN = r"""
removed:
  description: What was removed, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [daemon node1, /dev/shm/cxl-lab-local.pool0, /run/cxl-lab-local, /var/lib/cxl-lab-local]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.local_lab import LocalLab, remove
from ..module_utils.cxl_lab.names import check_name
from ..module_utils.lab_module import run_module


def work(module: AnsibleModule) -> dict[str, Any]:
    name = check_name(module.params["lab"], "cxl_local_lab")
    lab = LocalLab.of(name, module.params["paths"])
    before = lab.left()
    after: list[str] = []
    if not module.check_mode:
        _, problems = remove(lab)
        if problems:
            listed = "\n  - " + "\n  - ".join(problems)
            raise LabError(f"lab {name}", f"{len(problems)} thing(s) could not be removed{listed}", observed=lab.left())
        after = lab.left()
    return {"changed": bool(before), "removed": before, "diff": {"before": {"left": before}, "after": {"left": after}}}


def main() -> None:
    run_module(
        work,
        argument_spec={
            "lab": {"type": "str", "required": True},
            "paths": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["absent"], "required": True},
        },
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
