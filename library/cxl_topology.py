#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_topology
short_description: Virtual machines that share CXL memory
description:
  - Defines and starts the virtual machines of a lab on this hypervisor, from declarative data, and waits until each lets the
    lab's key in.
  - Each host gets the CXL host bridges, switches and devices that the topology gives it, a label storage area of its own for
    each persistent device, a NIC whose only use is a loopback port that leads to its sshd, and a NIC on each of its lab networks.
    Where the topology names no bridge, a host has one with a root port for each device that it sees.
  - Several hosts that name the same memory share it for real.
  - The domains carry the lab's name in their libvirt metadata, so that O(state=absent) finds them whatever happened to the
    lab's files.
  - A host that joins a lab changes nothing for those that run, where the lab network is a switch; they are told its name (with
    O(wait)).
  - A machine that was built with other settings is refused, unless O(recreate) is set, for its disk and its labels would be lost.
options:
  lab:
    description: Name of the lab. Domains, files and shared memory carry it, so that labs do not collide.
    type: str
    required: true
  state:
    description: V(present) builds and starts, V(absent) removes every machine and file of the lab.
    type: str
    choices: [present, absent]
    default: present
  topology:
    description:
      - The hosts and the memory between them. Needed for O(state=present). C(docs/topology.md) describes every key of every
        entry; C(docs/topology.schema.json) is the same for editors and programs.
    type: dict
    suboptions:
      hosts:
        description: "Virtual machines, such as C({name: node1, memory: 2G, cpus: 2})."
        type: list
        elements: dict
      memories:
        description: "Type-3 devices, such as C({name: pool0, size: 512M, hosts: [node1, node2]}); sizes in units of 256M."
        type: list
        elements: dict
      pools:
        description: "Shared memory that several devices are made of, such as C({name: store, size: 4G})."
        type: list
        elements: dict
      bridges:
        description: "CXL host bridges, such as C({name: a, ports: 2}). Without any each host with memory has one."
        type: list
        elements: dict
      switches:
        description: "CXL switches, such as C({name: s, parent: a})."
        type: list
        elements: dict
      windows:
        description:
          - "Fixed memory windows, such as C({size: 8G, targets: [a, b], granularity: 1024})."
          - Without any there is one above each bridge.
        type: list
        elements: dict
      networks:
        description: "Lab networks, such as C({name: storage, subnet: 10.80.0.0/24}). Without any one joins all hosts."
        type: list
        elements: dict
      window:
        description: Size of the window above each bridge, where O(topology.windows) is left out.
        type: str
      network:
        description: Addresses of the one lab network, where O(topology.networks) is left out.
        type: str
  platform:
    description: "What runs the guests, as the roles P(cxl.lab.cxl_hypervisor#role) and P(cxl.lab.cxl_guest_image#role) report it.
      Needed for O(state=present)."
    type: dict
    suboptions:
      emulator: {description: QEMU binary or wrapper., type: path, required: true}
      accel: {description: How guests run., type: str, choices: [kvm, tcg], required: true}
      kernel: {description: Kernel of the guest image., type: path, required: true}
      initrd: {description: Initial RAM disk of the guest image., type: path, required: true}
      disk: {description: Root file system of the guest image., type: path, required: true}
  images:
    description:
      - Guest images of the hosts that have C(extra_packages), by the names of the hosts, as the role
        P(cxl.lab.cxl_guest_image#role) reports them. Each has C(disk), C(kernel) and C(initrd).
    type: dict
    default: {}
  lab_dir:
    description: Folder for the lab's files. QEMU's user must be able to reach it.
    type: path
    required: true
  uri:
    description: libvirt connection.
    type: str
    default: qemu:///system
  recreate:
    description: Build machines anew that were built with other settings.
    type: bool
    default: false
  wait:
    description: Wait until every host lets the lab's key in.
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait for each host.
    type: float
    default: 180.0
  wait_sleep:
    description: Seconds between two looks.
    type: float
    default: 0.2
attributes:
  check_mode:
    support: full
    description: Walks the same plan and stops before the first step.
  diff_mode:
    support: full
    description: Shows the state of each host before and after.
requirements:
  - libvirt-python
  - paramiko
author:
  - cxl.lab contributors
"""

EXAMPLES = r"""
- name: Two hosts that share 512 MiB of persistent memory
  cxl_topology:
    lab: demo
    lab_dir: /var/lib/cxl-lab/demo
    topology:
      hosts: [{name: node1}, {name: node2}]
      memories: [{name: pool0, size: 512M}]
    platform: "{{ cxl_platform }}"

- name: A switch with two devices, one volatile and one persistent
  cxl_topology:
    lab: switched
    lab_dir: /var/lib/cxl-lab/switched
    topology:
      hosts: [{name: node1, memory: 4G, cpus: 4}]
      bridges: [{name: a}]
      switches: [{name: s, parent: a}]
      memories:
        - {name: ram, volatile: 1G, parent: s}
        - {name: pmem, size: 1G, parent: s}
    platform: "{{ cxl_platform }}"

- name: Remove the lab
  cxl_topology:
    lab: demo
    lab_dir: /var/lib/cxl-lab/demo
    state: absent
"""

RETURN = r"""
hosts:
  description: The hosts as libvirt shows them.
  returned: success
  type: list
  elements: dict
  sample: [{name: node1, domain: cxl-lab.demo.node1, state: running, ssh_port: 40123, address: 10.77.0.11/24,
            addresses: {lab: 10.77.0.11/24},
            memories: [{name: pool0, serial: "0xc0de0001", size: 536870912, volatile: 0, dynamic: 0, dc_regions: 0, heads: 0,
                        head: null, hosts: [node1, node2]}]}]
steps:
  description: What was done, or would be.
  returned: success
  type: list
  elements: dict
  sample: [{action: create, host: node1, reason: does not exist}]
boot_seconds:
  description: How long each host took until it let the key in.
  returned: when waited for
  type: dict
  sample: {node1: 11.3}
ssh_config:
  description: For C(ssh -F) to the hosts by their names.
  returned: success
  type: str
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils.cxl_lab.errors import LabError, refuse_start, shown
from ..module_utils.cxl_lab.names import check_name
from ..module_utils.cxl_lab.preflight import running_domains
from ..module_utils.cxl_lab.runner import HostRunner
from ..module_utils.cxl_lab.topology.advice import warnings
from ..module_utils.cxl_lab.topology.host_names import HostNames
from ..module_utils.cxl_lab.topology.model import parse_topology
from ..module_utils.cxl_lab.topology.obstacles import obstacles
from ..module_utils.cxl_lab.topology.plan import LabPaths, Platform, Seen, Step, domain_name, plan_machines, plan_steps
from ..module_utils.cxl_lab.topology.schema import SECTIONS, SHORT
from ..module_utils.lab_module import WAIT_OPTIONS, run_module

try:
    from ..module_utils.cxl_lab.topology.lab import Lab, as_result
    from ..module_utils.cxl_lab.topology.libvirt_host import LibvirtHost
    from ..module_utils.cxl_lab.topology.store import Owner, Store, check_root, invoking_user
    from ..module_utils.cxl_lab.topology.switches import stop_switches

    MISSING = ""
except ImportError as error:
    MISSING = str(error.name)


def work(module: AnsibleModule) -> dict[str, Any]:
    """Observe, plan, apply, read back."""
    if MISSING:
        raise LabError("cxl_topology", missing_required_lib(MISSING), "run scripts/bootstrap")
    lab = check_name(module.params["lab"], "lab")
    paths = LabPaths(lab, Path(module.params["lab_dir"]))
    if not paths.root.is_absolute():
        raise LabError("lab_dir", f"{paths.root} is no absolute path", "write it from the root folder on: QEMU runs elsewhere")
    try:
        return (_absent if module.params["state"] == "absent" else _present)(module, paths)
    except OSError as error:
        where = error.filename or paths.root
        step = "check lab_dir, the rights there and the free space"
        raise LabError(f"files of lab {lab}", f"{where}: {error.strerror or error}", step) from error


def _present(module: AnsibleModule, paths: LabPaths) -> dict[str, Any]:
    topology = parse_topology(given(module.params["topology"]))
    machines = plan_machines(paths.lab, topology, Platform(**module.params["platform"]), _images(module.params["images"]))
    refuse_start(f"lab {paths.lab}", obstacles(topology, paths))
    for text in warnings(topology):
        module.warn(text)
    libvirt_host, seen = _observe(module, paths.lab)
    steps = plan_steps(machines, seen)
    check_root(paths)
    _refuse_loss(module, steps)
    names = HostNames(HostRunner(), paths.ssh_config, machines)
    told = names.outdated(_staying(steps, seen)) if module.params["wait"] else []
    steps += [Step("tell", host, "it does not know the names of all hosts") for host in told]
    before = as_result(machines, seen)
    result: dict[str, Any] = {
        "changed": bool(steps),
        "hosts": before,
        "steps": [asdict(step) for step in steps],
        "ssh_config": str(paths.ssh_config),
        "diff": _diff(before, [{**host, "state": "running"} for host in before]),
    }
    if module.check_mode or libvirt_host is None:
        return result
    store = Store(paths, HostRunner(), libvirt_host.emulator_user(), invoking_user())
    running = Lab(libvirt_host, store)
    ports = running.carry_out(steps, machines, seen)
    result["changed"] |= store.publish_access({machine.host.name: ports[machine.host.name] for machine in machines})
    if module.params["wait"]:
        result["boot_seconds"] = running.wait_ready(ports, module.params["wait_timeout"], module.params["wait_sleep"])
        names.tell(told)
    result["hosts"] = as_result(machines, libvirt_host.seen(paths.lab))
    return result


def _images(images: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
    """
    :raises LabError: for what is no image.
    """
    for host, image in images.items():
        if not isinstance(image, Mapping) or set(image) != {"disk", "kernel", "initrd"}:
            raise LabError(f"image of {host}", f"{shown(image)} is none", "give disk, kernel and initrd (role cxl_guest_image)")
    return images


def _staying(steps: list[Step], seen: dict[str, Seen]) -> list[str]:
    """The hosts that run before and after the steps, without a new start."""
    touched = {step.host for step in steps}
    return [host for host, known in sorted(seen.items()) if known.state == "running" and host not in touched]


def _absent(module: AnsibleModule, paths: LabPaths) -> dict[str, Any]:
    libvirt_host, seen = _observe(module, paths.lab, optional=True)
    steps = [Step("remove", host, "asked for") for host in seen]
    owner = libvirt_host.emulator_user() if libvirt_host else Owner(0, 0)
    store = Store(paths, HostRunner(), owner, invoking_user())
    check_root(paths)
    leftovers = [str(path) for path in (paths.root, *paths.shared.glob(f"{paths.memory_prefix}*")) if path.exists()]
    result: dict[str, Any] = {"changed": bool(steps or leftovers), "steps": [asdict(step) for step in steps], "hosts": []}
    result["diff"] = _diff([*seen, *leftovers], [])
    if not module.check_mode:
        if libvirt_host:
            result["removed"] = Lab(libvirt_host, store).remove(list(seen))
        else:
            stop_switches(paths)
            result["removed"] = store.drop_lab()
    return result


def _observe(module: AnsibleModule, lab: str, optional: bool = False) -> tuple[Any, dict[str, Seen]]:
    """The hypervisor and the lab's domains. Without libvirt there are none, unless it was stopped while they ran on."""
    try:
        libvirt_host = LibvirtHost(module.params["uri"])
    except LabError:
        orphans = any(name.startswith(domain_name(lab, "")) for name in running_domains())
        if module.check_mode or (optional and not orphans):
            return None, {}
        raise
    return libvirt_host, libvirt_host.seen(lab)


def _refuse_loss(module: AnsibleModule, steps: list[Step]) -> None:
    lost = [step for step in steps if step.action == "replace"]
    if lost and not module.params["recreate"]:
        first, *others = lost
        fix = "set cxl_topology_recreate=true to build it anew (its disk is lost), or run make down"
        more = "".join(f"\n  - host {step.host}: {step.reason}" for step in others)
        raise LabError(f"host {first.host}", f"{first.reason}{more}", fix)


def _diff(before: object, after: object) -> dict[str, Any]:
    return {"before": {"hosts": before}, "after": {"hosts": after}}


def given(data: Any) -> Any:
    """Without the keys that the user left out: Ansible fills suboptions with None."""
    if isinstance(data, dict):
        return {key: given(value) for key, value in data.items() if value is not None}
    return [given(value) for value in data] if isinstance(data, list) else data


def main() -> None:
    platform = {
        "type": "dict",
        "options": {
            **{name: {"type": "path", "required": True} for name in ("emulator", "kernel", "initrd", "disk")},
            "accel": {"type": "str", "choices": ["kvm", "tcg"], "required": True},
        },
    }
    topology = {
        "type": "dict",
        "options": {
            **{section: {"type": "list", "elements": "dict"} for section in SECTIONS},
            **{key: {"type": "str"} for key in SHORT},
        },
    }
    run_module(
        work,
        argument_spec={
            "lab": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "topology": topology,
            "platform": platform,
            "images": {"type": "dict", "default": {}},
            "lab_dir": {"type": "path", "required": True},
            "uri": {"type": "str", "default": "qemu:///system"},
            "recreate": {"type": "bool", "default": False},
            **WAIT_OPTIONS,
            "wait_timeout": {"type": "float", "default": 180.0},
        },
        required_if=[("state", "present", ("topology", "platform"))],
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
