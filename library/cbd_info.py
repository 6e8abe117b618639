#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what the CBD daemon of this host knows."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cbd_info
short_description: Show the CBD transports of a host with all that is in them
description:
  - Lists the transports in which this host is registered, with the hosts, backends and blkdevs of each.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - a running cxl-datapathd on the host
options:
  transport:
    description: Show only the transport of this name.
    type: str
  runtime_dir:
    description: Folder with the control socket of the daemon.
    type: path
    default: /run/cxl-datapath
attributes:
  check_mode:
    description: Changes nothing. In check mode a daemon that does not run yet counts as one without transports.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: Wait until both hosts are alive in the transport
  cbd_info:
    transport: pool0
  register: cbd
  until: cbd.transports[0].host_list | selectattr("alive", "true") | length == 2
  retries: 20
  delay: 3
"""

RETURN = r"""
daemon:
  description: Version and host name of the daemon; null in check mode where it does not run.
  returned: success
  type: dict
  sample: {version: 0.1.0, host: node1, protocol: 1}
transports:
  description: The transports. C(host_list), C(backend_list) and C(blkdev_list) hold what is in them.
  returned: success
  type: list
  elements: dict
  sample:
    - name: pool0
      uuid: 53d0e0c1-77e5-4d93-9a51-1f1f2e3c0d01
      state: running
      path: /dev/dax0.0
      host_list:
        - {id: 0, name: node1, state: running, alive: true, local: true}
      backend_list: []
      blkdev_list: []
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cbd_module import RUNTIME_OPTION
from ..module_utils.cxl_lab.cbd import check_rows
from ..module_utils.cxl_lab.datapath_client import DaemonAbsent, DatapathClient
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {"argument_spec": {"transport": {"type": "str"}, **RUNTIME_OPTION}, "supports_check_mode": True}


def work(module: AnsibleModule) -> dict[str, Any]:
    wanted = module.params["transport"]
    try:
        with DatapathClient(module.params["runtime_dir"]) as client:
            status = client.call("status")
    except DaemonAbsent:
        if not module.check_mode:
            raise
        return {"changed": False, "daemon": None, "transports": []}
    transports = check_rows(status.get("transports"), "status")
    return {
        "changed": False,
        "daemon": {key: status.get(key) for key in ("version", "host", "protocol")},
        "transports": [row for row in transports if wanted in (None, row.get("name"))],
    }


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
