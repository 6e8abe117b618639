#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the user-space LUNs of this host and who uses them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxlflash_lun_info
short_description: Show the user-space LUNs of a host and the programs that use them
description:
  - Lists the LUNs, and the contexts that processes have on them.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - a running cxl-datapathd on the host
options:
  luns:
    description: Show only the LUNs of these names.
    type: list
    elements: str
  runtime_dir:
    description: Folder with the control socket of the daemon.
    type: path
    default: /run/cxl-datapath
attributes:
  check_mode:
    description: Changes nothing. In check mode a daemon that does not run yet counts as one without LUNs.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: Wait until nobody uses the LUN
  cxlflash_lun_info:
    luns: [flash0]
  register: flash
  until: flash.contexts | length == 0
  retries: 20
  delay: 3
"""

RETURN = r"""
luns:
  description: The LUNs. Sizes are in bytes, and null for a LUN that does not run.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: flash0, path: /dev/sdb, mode: superpipe, state: running, use: virtual, size: 107374182400, free: 96636764160}
contexts:
  description: The contexts of processes, each with the name of its C(lun).
  returned: success
  type: list
  elements: dict
  sample:
    - {lun: flash0, slot: 0, pid: 4711, uid: 105, state: active, handles: [{handle: 0, kind: virtual, size: 10737418240}]}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cbd_module import RUNTIME_OPTION
from ..module_utils.cxl_lab.cbd import check_rows
from ..module_utils.cxl_lab.datapath_client import DaemonAbsent, DatapathClient
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {"luns": {"type": "list", "elements": "str"}, **RUNTIME_OPTION},
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    wanted = module.params["luns"]
    try:
        client = DatapathClient(module.params["runtime_dir"])
    except DaemonAbsent:
        if not module.check_mode:
            raise
        return {"changed": False, "luns": [], "contexts": []}
    with client:
        luns = [row for row in check_rows(client.call("lun.list"), "lun.list") if wanted is None or row.get("name") in wanted]
        contexts = [
            {"lun": row["name"], **each}
            for row in luns
            for each in check_rows(client.call("lun.contexts", lun=row["name"]), "lun.contexts")
        ]
    return {"changed": False, "luns": luns, "contexts": contexts}


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
