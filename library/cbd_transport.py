#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: CBD transports on this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cbd_transport
short_description: Manage CBD transports in shared memory
description:
  - A transport is a range of memory that several hosts map. Block devices travel through it.
  - One host formats it, then every host registers.
  - One call deals with all transports of a host. Nothing is changed unless every entry of the list is possible.
  - Everything is done by C(cxl-datapathd) on the host.
version_added: 0.1.0
author:
  - cxl.lab contributors (!UNKNOWN)
requirements:
  - a running cxl-datapathd on the host
options:
  transports:
    description: The transports, each at most once.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the transport.
        type: str
        required: true
      memory:
        description:
          - The memory. V(serial:0x...) is the devdax namespace over the memdev with this serial number, V(/dev/daxX.Y) a devdax
            device, V(dcd:0x.../NAME) a mapping of dynamic capacity (M(dcd_mapping)),
            and any other absolute path a file that several daemons of one machine share.
          - Required unless O(transports[].state=absent).
        type: str
      state:
        description:
          - V(formatted) makes sure that the transport lies on the memory. Do this on one host.
          - V(registered) makes sure that this host takes part in it. Do this on every host.
          - V(absent) makes sure that this host takes no part in it. The transport stays in the memory. It is refused while this
            host has backends or blkdevs in it; those that it lost while it was away are forgotten.
        type: str
        choices: [formatted, registered, absent]
        default: registered
      geometry:
        description:
          - Settings of the format, for O(transports[].state=formatted). Without one the daemon decides.
          - A transport that was formatted with another one of these settings is not as wanted.
        type: dict
        suboptions:
          hosts:
            description: How many hosts can register; 16 by default.
            type: int
          backends:
            description: How many backends it can hold; 16 by default.
            type: int
          blkdevs:
            description: How many blkdevs it can hold; 16 by default.
            type: int
          channels:
            description: How many queues it can hold; by default as many as fit, at most 64.
            type: int
          ring_depth:
            description: Requests in flight for each queue, a power of two from 2 to 1024; 64 by default.
            type: int
          slot_bytes:
            description: Data for each request in flight, a multiple of 4 KiB up to 1 MiB; V(64K) by default.
            type: str
          coherence:
            description:
              - How caches of the hosts are kept equal. V(software) flushes cache lines, V(hardware) relies on the machine.
              - V(software) by default.
            type: str
            choices: [software, hardware]
          data_crc:
            description: Whether payload carries checksums; V(true) by default.
            type: bool
          lease_ms:
            description:
              - Milliseconds, 1000 to 600000, for which the heartbeat of a host has to stand still until the others call it dead;
                5000 by default.
              - A shorter lease shortens a takeover and makes it likelier that a host is given up that was only slow.
            type: int
      force:
        description:
          - Format although something else lies on the memory, which is lost. That is a transport, known content, or any
            byte that is not zero in the first MiB.
          - Refused all the same while a host is alive in it, and while another process has the file locked (a backend, a pool).
          - A transport that is already as wanted is left alone.
        type: bool
        default: false
  leaving:
    description:
      - What tasks before this one stop on this host, as they return it (C(gone)). In check mode, in which it is still there, it
        does not keep the host from leaving a transport; otherwise what is really there decides.
    type: dict
    suboptions:
      backends:
        description: What M(cbd_backend) returned.
        type: list
        elements: dict
      blkdevs:
        description: What M(cbd_blkdev) returned.
        type: list
        elements: dict
  runtime_dir:
    description: Folder with the control socket of the daemon.
    type: path
    default: /run/cxl-datapath
attributes:
  check_mode:
    description:
      - Reports what would be done and does nothing. Where the daemon does not run yet, that is everything.
      - A memory that is not there yet counts as one that an earlier phase makes, without anything on it.
    support: full
  diff_mode:
    description: Shows each transport before and after.
    support: full
"""

EXAMPLES = r"""
- name: Format the transport on one host
  cbd_transport:
    transports:
      - name: pool0
        memory: serial:0xc0de0001
        state: formatted
        geometry: {ring_depth: 128, lease_ms: 2000}
  run_once: true

- name: Register every host in two transports
  cbd_transport:
    transports:
      - {name: pool0, memory: "serial:0xc0de0001"}
      - {name: pool1, memory: "serial:0xc0de0002"}
"""

RETURN = r"""
transports:
  description: The transports of the list as read back, in its order; without those that are absent. C(host_id) is this host's
    number in one.
  returned: success
  type: list
  elements: dict
  sample:
    - name: pool0
      uuid: 53d0e0c1-77e5-4d93-9a51-1f1f2e3c0d01
      memory: serial:0xc0de0001
      path: /dev/dax0.0
      state: running
      host_id: 0
      size: 534773760
      coherence: software
      data_crc: true
      lease_ms: 5000
      hosts: 16
      backends: 16
      blkdevs: 16
      channels: 62
      ring_depth: 64
      slot_bytes: 65536
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
  sample: ["register this host in transport pool0"]
"""

from dataclasses import replace
from functools import partial
from typing import Any, cast

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cbd_module import RUNTIME_OPTION, Kind, reach
from ..module_utils.cxl_lab import cbd_transport
from ..module_utils.cxl_lab.cbd import Row, Seen, check_rows
from ..module_utils.cxl_lab.cbd_transport import TransportWant
from ..module_utils.cxl_lab.datapath_client import DatapathClient
from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.lab_module import run_module

_GEOMETRY = {
    "hosts": {"type": "int"},
    "backends": {"type": "int"},
    "blkdevs": {"type": "int"},
    "channels": {"type": "int"},
    "ring_depth": {"type": "int"},
    "slot_bytes": {"type": "str"},
    "coherence": {"type": "str", "choices": ["software", "hardware"]},
    "data_crc": {"type": "bool"},
    "lease_ms": {"type": "int"},
}
_TRANSPORT = {
    "name": {"type": "str", "required": True},
    "memory": {"type": "str"},
    "state": {"type": "str", "choices": ["formatted", "registered", "absent"], "default": "registered"},
    "geometry": {"type": "dict", "options": _GEOMETRY},
    "force": {"type": "bool", "default": False},
}
SPEC: dict[str, Any] = {
    "argument_spec": {
        "transports": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": _TRANSPORT,
            "required_if": [("state", "formatted", ["memory"]), ("state", "registered", ["memory"])],
        },
        "leaving": {"type": "dict", "options": {kind: {"type": "list", "elements": "dict"} for kind in ("backends", "blkdevs")}},
        **RUNTIME_OPTION,
    },
    "supports_check_mode": True,
}


def observe(leaving: dict[str, list[Row]], foresee: bool, client: DatapathClient, wants: list[TransportWant]) -> Seen:
    """This host's transports, but for what is ``leaving`` them, and what lies on each memory that matters."""
    memories = {want.memory for want in wants if want.state != "absent"}
    return {
        "transports": cbd_transport.without(check_rows(client.call("status").get("transports"), "status"), leaving),
        "probes": {memory: probe(client, memory, foresee) for memory in sorted(memories)},
    }


def probe(client: DatapathClient, memory: str, foresee: bool) -> Row:
    """What lies on a memory. In check mode (``foresee``) one that is not there yet is what an earlier phase makes.

    :raises LabError: when it cannot be looked at.
    """
    try:
        return cast(Row, client.call("cbd.transport.probe", memory=memory))
    except LabError as error:
        if not cbd_transport.is_missing(error):
            raise
        if foresee:
            return cbd_transport.unmade(memory)
        raise cbd_transport.say_who_makes(memory, error) from error


KIND = Kind("transports", cbd_transport.parse, cbd_transport.check, cbd_transport.plan, cbd_transport.find, cbd_transport.SHOWN)


def work(module: AnsibleModule) -> dict[str, Any]:
    leaving = (module.params["leaving"] or {}) if module.check_mode else {}
    rows = {kind: each or [] for kind, each in leaving.items()}
    return reach(module, replace(KIND, observe=partial(observe, rows, module.check_mode)))


def main() -> None:
    run_module(work, **SPEC)


if __name__ == "__main__":
    main()
