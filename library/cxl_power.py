#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_power
short_description: Switch machines of a lab off or on, or reset them
description:
  - Runs on the hypervisor. The guest is not asked, which is what a host that hangs or that others gave up needs, so that it can
    never again touch memory or disks that it shares (fencing).
  - Only machines that M(cxl_topology) made are touched. M(cxl_topology_info) shows their states.
options:
  lab:
    description: Name of the lab.
    type: str
    required: true
  hosts:
    description: Names of the hosts.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(off) makes sure that they do not run.
      - V(on) makes sure that they run. It does not wait until they can be logged in to; M(cxl_topology) does.
      - V(reset) starts each anew from its boot on, every time.
    type: str
    choices: ['off', 'on', reset]
    required: true
  uri:
    description: libvirt connection.
    type: str
    default: qemu:///system
attributes:
  check_mode:
    support: full
    description: Reports what would be done and does nothing.
  diff_mode:
    support: full
    description: Shows the state of each host before and after.
requirements:
  - libvirt-python
author:
  - cxl.lab contributors
"""

EXAMPLES = r"""
- name: Make sure that a host that died does not come back
  cxl_power:
    lab: demo
    hosts: [node1]
    state: 'off'
"""

RETURN = r"""
hosts:
  description: The hosts as libvirt shows them.
  returned: success
  type: list
  elements: dict
  sample: [{name: node1, domain: cxl-lab.demo.node1, state: 'off'}]
steps:
  description: What was done, or would be.
  returned: success
  type: list
  elements: dict
  sample: [{action: stop, host: node1, reason: it is running}]
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.names import check_name
from ..module_utils.cxl_lab.topology.plan import Seen, domain_name
from ..module_utils.cxl_lab.topology.power import check_hosts, plan_power
from ..module_utils.lab_module import run_module

try:
    from ..module_utils.cxl_lab.topology.libvirt_host import LibvirtHost

    MISSING = ""
except ImportError as error:
    MISSING = str(error.name)

SPEC: dict[str, Any] = {
    "argument_spec": {
        "lab": {"type": "str", "required": True},
        "hosts": {"type": "list", "elements": "str", "required": True},
        "state": {"type": "str", "choices": ["off", "on", "reset"], "required": True},
        "uri": {"type": "str", "default": "qemu:///system"},
    },
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    if MISSING:
        raise LabError("cxl_power", missing_required_lib(MISSING), "run scripts/bootstrap")
    lab, names, state = check_name(module.params["lab"], "lab"), check_hosts(module.params["hosts"]), module.params["state"]
    libvirt_host = LibvirtHost(module.params["uri"])
    seen = libvirt_host.seen(lab)
    steps = plan_power(lab, names, state, seen)
    before = after = shown(lab, names, seen)
    if steps and module.check_mode:
        after = [{**host, "state": "off" if state == "off" else "running"} for host in before]
    elif steps:
        for step in steps:
            libvirt_host.power(domain_name(lab, step.host), step.action)
        seen = libvirt_host.seen(lab)
        after = shown(lab, names, seen)
        if state != "reset" and plan_power(lab, names, state, seen):
            raise LabError(f"lab {lab}", f"not every host is {state} after that was done", "look at libvirt", observed=after)
    return {
        "changed": bool(steps),
        "hosts": after,
        "steps": [asdict(step) for step in steps],
        "diff": {"before": {"hosts": before}, "after": {"hosts": after}},
    }


def shown(lab: str, names: Sequence[str], seen: Mapping[str, Seen]) -> list[dict[str, Any]]:
    """The hosts as they are in the result."""
    states = {name: seen[name].state if name in seen else "absent" for name in names}
    return [{"name": name, "domain": domain_name(lab, name), "state": state} for name, state in states.items()]


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
