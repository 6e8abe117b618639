#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what the CBD daemon of this host knows."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cbd_info
short_description: Show the CBD transports of a host with all that is in them
description:
  - Lists the transports in which this host is registered, and the hosts, backends and blkdevs of all of them.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - a running cxl-datapathd on the host
options:
  transports:
    description: Show only the transports of these names, and what is in them.
    type: list
    elements: str
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
    transports: [pool0]
  register: cbd
  until: cbd.hosts | selectattr("alive", "true") | length == 2
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
  description: The transports.
  returned: success
  type: list
  elements: dict
  sample:
    - name: pool0
      uuid: 53d0e0c1-77e5-4d93-9a51-1f1f2e3c0d01
      state: running
      path: /dev/dax0.0
      lease_ms: 5000
hosts:
  description: The hosts that are registered, each with its C(transport). C(alive) is true, false or V(unknown); C(fenced) says
    that the host was given up in this life of its own.
  returned: success
  type: list
  elements: dict
  sample:
    - {transport: pool0, id: 0, name: node1, state: running, alive: true, fenced: false, local: true}
backends:
  description: The backends, each with its C(transport). C(fenced) says that the life of its host that started it was given up.
    One that this host wants has a C(worker); its C(state) is V(pending) before it is in the transport, V(lost) when another host
    has its number now. One that is V(forgotten) is this host's, but only in the transport; its C(error) says what to do.
  returned: success
  type: list
  elements: dict
  sample:
    - {transport: pool0, id: 0, host: node1, path: /dev/sdb, state: running, alive: true, fenced: false, blkdevs: [0]}
blkdevs:
  description: The blkdevs, each with its C(transport). C(name), C(device) and C(io_timeout) are known for those of this host.
  returned: success
  type: list
  elements: dict
  sample:
    - {transport: pool0, id: 0, host: node2, backend: 0, queues: 2, state: running, alive: true, fenced: false}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cbd_module import RUNTIME_OPTION
from ..module_utils.cxl_lab.cbd import check_rows, listed
from ..module_utils.cxl_lab.datapath_client import DaemonAbsent, DatapathClient
from ..module_utils.lab_module import run_module

SPEC: dict[str, Any] = {
    "argument_spec": {"transports": {"type": "list", "elements": "str"}, **RUNTIME_OPTION},
    "supports_check_mode": True,
}
_KINDS = ("host", "backend", "blkdev")
_LISTS = {f"{kind}_list" for kind in _KINDS}


def work(module: AnsibleModule) -> dict[str, Any]:
    wanted = module.params["transports"]
    try:
        with DatapathClient(module.params["runtime_dir"]) as client:
            status = client.call("status")
    except DaemonAbsent:
        if not module.check_mode:
            raise
        status = {"transports": []}
    rows = [row for row in check_rows(status.get("transports"), "status") if wanted is None or row.get("name") in wanted]
    seen = {"transports": rows}
    return {
        "changed": False,
        "daemon": {key: status.get(key) for key in ("version", "host", "protocol")} if "host" in status else None,
        "transports": [{key: value for key, value in row.items() if key not in _LISTS} for row in rows],
        **{f"{kind}s": [each for row in rows for each in listed(seen, str(row.get("name")), kind)] for kind in _KINDS},
    }


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
