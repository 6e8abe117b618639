#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the state of a host in an archive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_diagnostics
short_description: Put what is known about a host, or about the machines of a lab, into an archive
description:
  - Without O(lab) it describes this host - kernel messages, journal, memdevs, regions, namespaces, DAX devices, memory blocks,
    PCI, and the daemon. With O(lab) it describes the virtual machines of that lab from outside - the logs of QEMU, what the
    guests wrote to their consoles, definitions, memory maps and leaks.
  - A command that fails does not stop it. Its error is in the archive.
  - Keys and credentials are left out.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
options:
  dest:
    description: The archive, a tar file that is compressed by gzip. Only root reads it.
    type: path
    required: true
  name:
    description: Name of the folder in the archive.
    type: str
    required: true
  runtime_dir:
    description: Folder of the daemon's control socket, for a host.
    type: path
    default: /run/cxl-datapath
  lab:
    description: Name of the lab, on a hypervisor.
    type: str
  lab_dir:
    description: Folder of the lab's files, C(/var/lib/cxl-lab/LAB) without it.
    type: path
  uri:
    description: libvirt connection.
    type: str
    default: qemu:///system
attributes:
  check_mode:
    description: Tells what would be in the archive, and writes none.
    support: full
  diff_mode:
    description: The archive is new each time.
    support: none
seealso:
  - module: cxl.lab.cxl_status_info
"""

EXAMPLES = r"""
- name: What is known about this host
  cxl_diagnostics:
    dest: /tmp/node1.tar.gz
    name: node1
"""

RETURN = r"""
dest:
  description: The archive.
  returned: success
  type: str
  sample: /tmp/node1.tar.gz
names:
  description: What is in it.
  returned: success
  type: list
  elements: str
  sample: [cxl.json, dmesg.txt]
"""

import re
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import diagnostics
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.names import check_name
from ..module_utils.cxl_lab.runner import HostRunner
from ..module_utils.cxl_lab.topology.plan import domain_name, lab_folder
from ..module_utils.lab_module import run_module

try:
    from ..module_utils.cxl_lab.topology.libvirt_host import LibvirtHost
except ImportError:
    LibvirtHost = None

SPEC: dict[str, Any] = {
    "argument_spec": {
        "dest": {"type": "path", "required": True},
        "name": {"type": "str", "required": True},
        "runtime_dir": {"type": "path", "default": "/run/cxl-datapath"},
        "lab": {"type": "str"},
        "lab_dir": {"type": "path"},
        "uri": {"type": "str", "default": "qemu:///system"},
    },
    "supports_check_mode": True,
}


#: The name of a host in any inventory, and nothing that leads out of the archive.
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


def work(module: AnsibleModule) -> dict[str, Any]:
    options = module.params
    folder, dest = options["name"], Path(options["dest"])
    if not FOLDER.fullmatch(folder):
        raise LabError("name", f"{folder!r} is no name of a folder", 'use letters, digits, ".", "-" and "_"')
    if options["lab"]:
        lab = check_name(options["lab"], "lab")
        lab_dir = lab_folder(lab, options["lab_dir"])
        plan = diagnostics.plan_hypervisor(options["uri"], domains(options["uri"], lab, lab_dir), lab_dir)
    else:
        plan = diagnostics.plan_host(options["runtime_dir"])
    names = sorted({*plan.commands, *plan.files})
    if not module.check_mode:
        names = diagnostics.collect(HostRunner(), plan, dest, folder)
    return {"changed": True, "dest": str(dest), "names": names}


def domains(uri: str, lab: str, lab_dir: Path) -> list[str]:
    """The machines of the lab; by the folders of its hosts where libvirt does not answer."""
    try:
        if LibvirtHost is not None:
            return [domain_name(lab, host) for host in sorted(LibvirtHost(uri).seen(lab))]
    except LabError:
        pass
    return [domain_name(lab, path.name) for path in sorted((lab_dir / "hosts").glob("*"))]


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
