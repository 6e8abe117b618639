#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_datapath_release
short_description: Install a release of the data path daemon
description:
  - Unpacks the wheel into a folder of its own below O(root) and lets the link C(current) point at it. Nothing is downloaded.
  - Puts C(cxl-datapath) into the path and, where systemd runs the host, describes the service C(cxl-datapathd).
  - The release before it is kept; older ones are removed.
  - Several hosts that are processes of one machine can install at once; one of them does it.
options:
  wheel:
    description: The wheel, on this host.
    type: path
    required: true
  root:
    description: Folder of the releases.
    type: path
    default: /opt/cxl-datapath
  private:
    description: Whether command and service of the machine are left alone, for hosts that are processes of it.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Tells whether another release would become current.
  diff_mode:
    support: full
    description: Shows the current release before and after.
requirements:
  - python3-venv
author:
  - cxl.lab contributors
"""

EXAMPLES = r"""
- name: Install the daemon
  cxl_datapath_release:
    wheel: /opt/cxl-datapath/wheels/cxl_datapath-0.1.0-py3-none-linux_x86_64.whl
"""

RETURN = r"""
release:
  description: The current release.
  returned: success
  type: str
  sample: 0.1.0-0123456789ab
removed:
  description: Older releases that were removed.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.datapath_host import DatapathHost
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.locking import locked
from ..module_utils.cxl_lab.release import Release, install, remove_old
from ..module_utils.cxl_lab.runner import HostRunner
from ..module_utils.lab_module import run_module


def work(module: AnsibleModule) -> dict[str, Any]:
    root, wheel = Path(module.params["root"]), Path(module.params["wheel"])
    host = DatapathHost(root, private=module.params["private"])
    have = host.ready_release()
    if not wheel.is_file():
        if module.check_mode:
            return {"changed": True, "release": have, "removed": []}
        raise LabError(f"wheel {wheel}", "does not exist on this host", "copy it there first")
    release = Release(root, wheel)
    if module.check_mode:
        return _result(have, release.name, have, [])
    removed: list[str] = []
    with locked(root / ".lock"):
        have = host.ready_release()
        if release.name != have:
            install(release, HostRunner())
            host.connect()
            removed = remove_old(root)
        return _result(have, release.name, host.ready_release(), removed)


def _result(before: str, wanted: str, now: str, removed: list[str]) -> dict[str, Any]:
    return {
        "changed": before != wanted,
        "release": now,
        "removed": removed,
        "diff": {"before": f"{before}\n", "after": f"{wanted}\n"},
    }


def main() -> None:
    run_module(
        work,
        argument_spec={
            "wheel": {"type": "path", "required": True},
            "root": {"type": "path", "default": "/opt/cxl-datapath"},
            "private": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
