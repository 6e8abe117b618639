#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_topology_info
short_description: The machines of a lab as libvirt shows them
description:
  - Reads which domains belong to a lab, from their metadata, with their state, their ssh port and the settings that they were
    built with.
options:
  lab:
    description: Name of the lab.
    type: str
    required: true
  uri:
    description: libvirt connection.
    type: str
    default: qemu:///system
attributes:
  check_mode:
    support: full
    description: Nothing is changed in any mode.
  diff_mode:
    support: none
    description: Nothing is changed.
requirements:
  - libvirt-python
author:
  - cxl.lab contributors
"""

EXAMPLES = r"""
- name: What runs
  cxl_topology_info:
    lab: demo
"""

RETURN = r"""
hosts:
  description: The hosts by name.
  returned: success
  type: list
  elements: dict
  sample: [{name: node1, domain: cxl-lab.demo.node1, state: running, accel: tcg, ssh_port: 40123, spec: {host: {cpus: 2}}}]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.names import check_name
from ..module_utils.cxl_lab.topology.plan import domain_name
from ..module_utils.lab_module import run_module

try:
    from ..module_utils.cxl_lab.topology.libvirt_host import LibvirtHost

    MISSING = ""
except ImportError as error:
    MISSING = str(error.name)


def work(module: AnsibleModule) -> dict[str, Any]:
    if MISSING:
        raise LabError("cxl_topology_info", missing_required_lib(MISSING), "run scripts/bootstrap")
    lab = check_name(module.params["lab"], "lab")
    seen = LibvirtHost(module.params["uri"]).seen(lab)
    hosts = [
        {
            "name": name,
            "domain": domain_name(lab, name),
            "state": host.state,
            "accel": (host.spec or {}).get("platform", {}).get("accel", ""),
            "ssh_port": host.ssh_port,
            "spec": host.spec,
        }
        for name, host in sorted(seen.items())
    ]
    return {"changed": False, "hosts": hosts}


def main() -> None:
    run_module(
        work,
        argument_spec={"lab": {"type": "str", "required": True}, "uri": {"type": "str", "default": "qemu:///system"}},
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
