#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what happened to dynamic capacity, as a time line."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dcd_timeline_info
short_description: What happened to dynamic capacity, as a time line
description:
  - Runs on the hypervisor. Puts what the fabric manager did and what the hosts saw into one list, oldest first. Clocks are those
    of the machines.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
options:
  lab:
    description: Name of the lab.
    type: str
    required: true
  state_dir:
    description: Folder on the hypervisor for what the fabric manager remembers, in a folder with the name of the lab.
    type: path
    default: /var/lib/cxl-lab-dcd
  events:
    description: What hosts saw, by host, as the C(events) of M(dcd_region_info).
    type: dict
    default: {}
attributes:
  check_mode:
    description: Nothing is changed in any mode.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
"""

EXAMPLES = r"""
- name: What did the fabric manager do
  dcd_timeline_info:
    lab: demo
"""

RETURN = r"""
timeline:
  description: A line for each event.
  returned: success
  type: list
  elements: str
  sample: ["2026-11-20T20:31:05.120Z  fabric  node3 pool0 region 0 0x0+0x200000 tag work: offered"]
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.dcd.journal import LOG
from ..module_utils.cxl_lab.dcd.timeline import merged
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.names import check_name
from ..module_utils.dcd_module import OPTIONS
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        **{name: OPTIONS[name] for name in ("lab", "state_dir")},
        "events": {"type": "dict", "default": {}},
    },
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    path = Path(module.params["state_dir"]) / check_name(module.params["lab"], "lab") / LOG
    try:
        log = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        log = ""  # nothing was offered yet
    except OSError as error:
        raise LabError(str(path), f"cannot be read: {error.strerror}", "run as root") from error
    try:
        return {"changed": False, "timeline": merged(log, module.params["events"])}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LabError("events", "are not those of dcd_region_info", "give its events, by host") from error


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
