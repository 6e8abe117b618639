#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_datapath_release_info
short_description: Which release of the data path daemon a host has
description:
  - Tells the release that command and service of this host lead to, and whether systemd runs the host.
options:
  root:
    description: Folder of the releases.
    type: path
    default: /opt/cxl-datapath
  private:
    description: Whether the releases are for hosts that are processes of this machine; its command and service do not count then.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Nothing is changed in any mode.
  diff_mode:
    support: none
    description: Nothing is changed.
author:
  - cxl.lab contributors
"""

EXAMPLES = r"""
- name: What is installed
  cxl_datapath_release_info:
"""

RETURN = r"""
release:
  description: The current release; empty when there is none, or when command or service do not lead to it.
  returned: success
  type: str
  sample: 0.1.0-0123456789ab
systemd:
  description: Whether systemd runs this host.
  returned: success
  type: bool
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.datapath_host import DatapathHost
from ..module_utils.lab_module import run_module


def work(module: AnsibleModule) -> dict[str, Any]:
    host = DatapathHost(Path(module.params["root"]), private=module.params["private"])
    return {"changed": False, "release": host.ready_release(), "systemd": host.systemd}


def main() -> None:
    run_module(
        work,
        argument_spec={
            "root": {"type": "path", "default": "/opt/cxl-datapath"},
            "private": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
