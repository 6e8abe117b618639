#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: errors of a CXL device, as its host sees them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_error
short_description: Let a CXL device of a lab have an error, and see what its host makes of it
description:
  - Has QEMU play an error of a type-3 device, and returns what the kernel of the host told about it. Runs on the hypervisor.
  - The arguments are checked against what the running QEMU takes, all of them before anything happens.
  - A trace instance of its own (C(/sys/kernel/tracing/instances)) listens on the host meanwhile.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - libvirt-python
  - a guest whose kernel traces CXL events, with cxl version 81 or newer
options:
  lab:
    description: Name of the lab.
    type: str
    required: true
  lab_dir:
    description: Folder of the lab's files, C(/var/lib/cxl-lab/LAB) without it.
    type: path
  uri:
    description: libvirt connection.
    type: str
    default: qemu:///system
  host:
    description: Name of the host.
    type: str
    required: true
  device:
    description: Name of the device in the topology, or of one that was attached.
    type: str
    required: true
  kind:
    description:
      - V(poison) marks bytes of the memory as lost; they are in the poison list of the device from then on.
      - V(correctable) and V(uncorrectable) are errors of the protocol, which come by AER. Devices begin with such errors
        masked, and Linux 6.12 leaves them so; the module unmasks them on the host (setpci). After an uncorrectable one the host
        may give the device up.
      - V(general_media), V(dram) and V(memory_module) are records of the event log.
    type: str
    choices: [poison, correctable, uncorrectable, general_media, dram, memory_module]
    required: true
  arguments:
    description:
      - Arguments of the error, by the names that QEMU has for them, with V(_) or V(-). Each has a default.
      - M(cxl.lab.cxl_error_info) shows them all.
    type: dict
    default: {}
  wait:
    description: Whether to wait until the host told about it, and to fail when it does not.
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait.
    type: float
    default: 30.0
  wait_sleep:
    description: Seconds between two looks.
    type: float
    default: 0.2
attributes:
  check_mode:
    description: Checks the arguments, and does nothing.
    support: full
  diff_mode:
    description: Shows the poison list before and after.
    support: full
notes:
  - Each run is another error, so that it always changes something; only poison that is there already is no change.
seealso:
  - module: cxl.lab.cxl_error_info
"""

EXAMPLES = r"""
- name: Lose 64 bytes
  cxl_error:
    lab: switched
    host: node1
    device: m0
    kind: poison
    arguments: {start: 4096, length: 64}

- name: A record of the memory chips
  cxl_error:
    lab: switched
    host: node1
    device: x0
    kind: dram
    arguments: {log: warning, dpa: 4096, bank: 3, row: 17}
"""

RETURN = r"""
command:
  description: The command that QEMU got, with all its arguments.
  returned: success
  type: dict
  sample: {execute: cxl-inject-poison, arguments: {path: /machine/peripheral/cxl-dev.m0, start: 4096, length: 64}}
memdev:
  description: The name of the device on its host.
  returned: success
  type: str
  sample: mem4
seen:
  description: What the kernel of the host told about it.
  returned: success
  type: list
  elements: dict
  sample: [{event: cxl_poison, memdev: mem4, fields: {dpa: "0x1000", dpa_length: "0x40", source: Injected},
            text: "memdev=mem4 host=0000:37:00.0 serial=3235774469 trace_type=List dpa=0x1000 dpa_length=0x40 source=Injected"}]
poison:
  description: The poison list of the device as C(cxl list --media-errors) shows it.
  returned: success
  type: list
  elements: dict
  sample: [{offset: 4096, length: 64, source: Injected}]
listed:
  description:
    - What C(cxl list --health) shows of the device afterwards.
    - Null when its host gave it up, which it may do after an uncorrectable error.
  returned: success
  type: dict
  sample: {memdev: mem4, pmem_size: 268435456, serial: 3235774469, host: "0000:37:00.0", health: {life_used_percent: 1}}
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab import injection
from ..module_utils.cxl_lab.aer import tell_internal_errors
from ..module_utils.cxl_lab.cxl_list import show_memdev
from ..module_utils.cxl_lab.guest_trace import tracing
from ..module_utils.cxl_lab.live_devices import observe
from ..module_utils.cxl_lab.names import check_name
from ..module_utils.cxl_lab.poison import covers, poison_list, read_poison
from ..module_utils.cxl_lab.qmp_schema import QmpSchema
from ..module_utils.cxl_lab.runner import Runner
from ..module_utils.cxl_lab.waiting import wait_until
from ..module_utils.device_module import DEVICE_OPTIONS, LiveLab
from ..module_utils.lab_module import WAIT_OPTIONS, run_module

SPEC: dict[str, Any] = {
    "argument_spec": {
        **DEVICE_OPTIONS,
        "host": {"type": "str", "required": True},
        "device": {"type": "str", "required": True},
        "kind": {"type": "str", "choices": list(injection.KINDS), "required": True},
        "arguments": {"type": "dict", "default": {}},
        **WAIT_OPTIONS,
        "wait_timeout": {"type": "float", "default": 30.0},
    },
    "supports_check_mode": True,
}


def work(module: AnsibleModule) -> dict[str, Any]:
    options = module.params
    lab = LiveLab(options)
    device, kind = check_name(options["device"], "device"), options["kind"]
    monitor, guest = lab.monitor(options["host"]), lab.guest(options["host"])
    schema = QmpSchema(monitor.execute("query-qmp-schema", {}))
    command, arguments = injection.build(schema, kind, device, options["arguments"])
    subject = f"device {device} of {options['host']}"
    found = lab.memdev(options["host"], observe(monitor).device(device), subject)
    memdev = found.name
    before = poison_list(guest, memdev)
    there = kind == "poison" and covers(before, arguments["start"], arguments["length"])
    result = {"command": {"execute": command, "arguments": arguments}, "memdev": memdev, "seen": [], "poison": before}
    if not there and not module.check_mode:
        if kind in injection.BY_AER:
            tell_internal_errors(guest, found.host, subject)
        result["seen"] = inject(lambda: monitor.execute(command, arguments), guest, memdev, options)
        result["poison"] = poison_list(guest, memdev)
    result["listed"] = show_memdev(guest, found.serial)
    diff = {"before": {"poison": before}, "after": {"poison": result["poison"]}}
    return {"changed": not there, **result, "diff": diff}


def inject(play: Callable[[], Any], guest: Runner, memdev: str, options: Mapping[str, Any]) -> list[Any]:
    """Plays the error while the host's kernel is listened to; what it told."""
    kind = options["kind"]
    with tracing(guest, f"cxl-lab-{memdev}") as trace:
        play()

        def told() -> list[Any]:
            if kind == "poison":
                # The device tells nobody by itself: the host has to ask.
                read_poison(guest, memdev)
            return injection.about(injection.parse_trace(trace.text()), kind, memdev)

        if not options["wait"]:
            return told()
        return wait_until(
            told,
            bool,
            f"error {kind} on device {options['device']}",
            f"the kernel of {options['host']} to tell about it",
            timeout=options["wait_timeout"],
            sleep=options["wait_sleep"],
            next_step=f"look at dmesg of {options['host']}: it may not handle such errors",
        )


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
