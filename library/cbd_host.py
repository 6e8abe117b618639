#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: hosts of CBD transports that died."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cbd_host
short_description: Take over from a host of a CBD transport that died, or clear it away
description:
  - Runs on a host that survived and is registered in the same transports.
  - A host is dead when its heartbeat stood still for the lease of the transport. Before anything of it is changed it is fenced
    for ever, so that it stops by itself should it come back to life; to switch it off first (M(cxl_power)) is safer still.
  - A living host unregisters by itself (M(cbd_transport)), so that is refused here.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - a running cxl-datapathd on the host
options:
  hosts:
    description: The dead hosts.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name under which the host registered, as M(cbd_info) shows it.
        type: str
        required: true
      transport:
        description: Name of the transport. Without it every transport in which this host is registered.
        type: str
      state:
        description:
          - V(cleared) removes the host with its backends and blkdevs from the transport. It is refused while a living host has a
            blkdev on one of those backends.
          - V(recovered) first makes this host serve every backend of the dead one, and then removes the rest.
        type: str
        choices: [cleared, recovered]
        default: cleared
      paths:
        description:
          - For O(hosts[].state=recovered) what this host serves instead of the path in the entry, by the number of the backend;
            for example a replica of the data.
        type: dict
      force:
        description: Clear backends away although a living host has a blkdev on one, whose requests then fail.
        type: bool
        default: false
  runtime_dir:
    description: Folder with the control socket of the daemon.
    type: path
    default: /run/cxl-datapath
  wait:
    description:
      - Whether to wait until the hosts are dead for certain.
      - Without it a host that may be alive is refused at once.
    type: bool
    default: true
  wait_living:
    description:
      - Whether to wait for the death of a host even while its heartbeat moves, because somebody is stopping it.
      - Without it such a host is refused as soon as that is seen; one that fell silent is waited for either way.
    type: bool
    default: false
  wait_timeout:
    description:
      - Seconds to wait. The message of a timeout carries the last state that was seen.
      - By default 120, or twice the lease of the transport and ten seconds where that is longer.
    type: float
  wait_sleep:
    description: Seconds between two looks.
    type: float
    default: 0.2
attributes:
  check_mode:
    description: Reports what would be done and does nothing. Where the daemon does not run, that is nothing.
    support: full
  diff_mode:
    description: Shows each host before and after.
    support: full
"""

EXAMPLES = r"""
- name: Forget a host that will not come back
  cbd_host:
    hosts:
      - {transport: pool0, name: node1}

- name: Serve what a dead host served, backend 0 from a replica
  cbd_host:
    hosts:
      - name: node1
        state: recovered
        paths: {"0": /dev/sdd}
"""

RETURN = r"""
hosts:
  description: What is left of the hosts, as read back from the transports; empty when all went well.
  returned: success
  type: list
  elements: dict
  sample: []
gone:
  description: Those of the list that were there and are not any more, as they were before; in check mode those that would go.
  returned: success
  type: list
  elements: dict
  sample: []
steps:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["take backend 0 over", "clear host node1 out of transport pool0"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cbd_module import DEATH_OPTION, RUNTIME_OPTION, Kind, reach
from ..module_utils.cxl_lab import cbd_host
from ..module_utils.lab_module import WAIT_OPTIONS, run_module

_HOST = {
    "name": {"type": "str", "required": True},
    "transport": {"type": "str"},
    "state": {"type": "str", "choices": ["cleared", "recovered"], "default": "cleared"},
    "paths": {"type": "dict"},
    "force": {"type": "bool", "default": False},
}
SPEC: dict[str, Any] = {
    "argument_spec": {
        "hosts": {"type": "list", "elements": "dict", "required": True, "options": _HOST},
        **RUNTIME_OPTION,
        **WAIT_OPTIONS,
        **DEATH_OPTION,
    },
    "supports_check_mode": True,
}


KIND = Kind("hosts", cbd_host.parse, cbd_host.check, cbd_host.plan, cbd_host.find, cbd_host.SHOWN)


def work(module: AnsibleModule) -> dict[str, Any]:
    return reach(module, KIND)


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
