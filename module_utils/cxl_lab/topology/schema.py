# SPDX-License-Identifier: GPL-3.0-or-later
"""Every key that a user may write into a topology: what it means, what it may be, and what it is when it is left out.

The one place for this. The model reads with it, `docs/topology.schema.json` is made from it, and a test holds the guide to it.
"""

from __future__ import annotations

from typing import Any, Mapping

from .fields import (
    Field,
    capacity,
    choice,
    file_path,
    flag,
    integer,
    list_of_names,
    list_of_packages,
    list_of_texts,
    name,
    port_number,
    size,
    subnet,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
#: What one root port or downstream port of a lab may be numbered; a bus carries 32 devices, a decoder interleaves over 8 of them.
MAX_PORTS = 16
#: Slots of the root bus that are left for CXL host bridges, and the NICs for lab networks.
MAX_BRIDGES, MAX_NETWORKS = 8, 4
#: Bytes of a kernel's command line that a host may use. The kernel cuts it at 2047 without a word; the lab's own come first.
KERNEL_ROOM = 1800
GRANULARITIES = (256, 512, 1024, 2048, 4096, 8192, 16384)
HEADS = (8, 16, 32, 64)

HOST: Mapping[str, Field] = {
    "name": name("Name of the virtual machine, in its inventory too"),
    "memory": size("Ordinary memory", low=512 * MIB, high=1 << 60, step=MIB, default="2G", fix="give at least 512M"),
    "cpus": integer("Virtual processors", 1, 64, default=2),
    "ssh_port": port_number("Loopback port that leads to its sshd"),
    "accel": choice("How it runs; `auto` is what was found for the whole lab", ("auto", "kvm", "tcg"), default="auto"),
    "emulator": file_path("QEMU binary or wrapper of its own"),
    "kernel": file_path("Kernel of its own (bzImage)"),
    "initrd": file_path("Initial RAM disk for that kernel"),
    "kernel_options": list_of_texts("Words that are added to the kernel's command line", room=KERNEL_ROOM),
    "extra_packages": list_of_packages("Debian packages that its guest image has on top"),
    "gdb_port": integer("Loopback port of QEMU's gdb stub; none without it", 1024, 65535, default=None),
    "qemu_arguments": list_of_texts("Arguments that are added to QEMU's command line"),
}

MEMORY: Mapping[str, Field] = {
    "name": name("Name of the type-3 device"),
    "size": capacity("Persistent capacity"),
    "volatile": capacity("Volatile capacity"),
    "dynamic": capacity("Capacity that a fabric manager hands out in extents (DCD)"),
    "dc_regions": integer("Number of dynamic capacity regions", 1, 8, default=None),
    "serial": integer("Serial number, the same on every host", 1, (1 << 64) - 1, default=None),
    "lsa_size": size(
        "Label storage area, one for each host",
        low=256 * KIB,
        high=64 * MIB,
        step=4096,
        default=None,
        fix="use 256K to 64M, a multiple of 4K",
        why="is out of range",
    ),
    "hosts": list_of_names("Hosts that see it; several of them share it"),
    "parent": name("Bridge or switch that it is plugged into", default=None),
    "port": integer("Port of the parent", 0, MAX_PORTS - 1, default=None),
    "pool": name("Pool that its bytes are in; a file of its own without it", default=None),
    "offset": size("Where in the pool its bytes begin", low=0, high=1 << 50, step=256 * MIB, default=None, fix="use n x 256M"),
    "heads": choice("Heads of a multi-headed device; each host has one, in the order of `hosts`", HEADS, default=None),
}

POOL: Mapping[str, Field] = {
    "name": name("Name of the shared memory"),
    "size": capacity("Its size"),
}

BRIDGE: Mapping[str, Field] = {
    "name": name("Name of the CXL host bridge"),
    "ports": integer(
        "Root ports; as many as are plugged in, and at least 2; 1 for a lone device or switch with nothing but dynamic capacity",
        1,
        MAX_PORTS,
        default=None,
    ),
    "bus": integer("PCI bus number", 32, 254, default=None),
    "hdm_for_passthrough": flag("Whether a bridge with a single root port has HDM decoders"),
    "hosts": list_of_names("Hosts that have it"),
}

SWITCH: Mapping[str, Field] = {
    "name": name("Name of the switch"),
    "parent": name("Bridge or switch that its upstream port is plugged into"),
    "port": integer("Port of the parent", 0, MAX_PORTS - 1, default=None),
    "ports": integer("Downstream ports; as many as are plugged in, and at least 1", 1, MAX_PORTS, default=None),
}

WINDOW: Mapping[str, Field] = {
    "size": capacity("Size, a multiple of 256M for each target"),
    "targets": list_of_names("Bridges that it interleaves over, in this order"),
    "granularity": choice("Bytes that go to a target before the next one has its turn", GRANULARITIES, default=256),
}

NETWORK: Mapping[str, Field] = {
    "name": name("Name of the lab network"),
    "subnet": subnet("Its addresses"),
    "kind": choice("`cable` joins two hosts, `switch` any number", ("auto", "cable", "switch"), default="auto"),
    "hosts": list_of_names("Hosts that are on it"),
}

#: The lists of a topology, and what an entry of each may hold.
SECTIONS: Mapping[str, Mapping[str, Field]] = {
    "hosts": HOST,
    "memories": MEMORY,
    "pools": POOL,
    "bridges": BRIDGE,
    "switches": SWITCH,
    "windows": WINDOW,
    "networks": NETWORK,
}

#: Short forms for what most labs have one of.
SHORT: Mapping[str, Field] = {
    "window": size(
        "Size of the fixed memory window above each bridge, where `windows` is left out",
        low=256 * MIB,
        high=1 << 60,
        step=256 * MIB,
        default=None,
        fix="round it up",
        why="is no multiple of 256M",
    ),
    "network": subnet("Addresses of the one lab network, where `networks` is left out"),
}


def json_schema() -> dict[str, Any]:
    """The topology as a JSON schema (draft 2020-12). What no entry can know alone is not in it; the modules check that."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Topology of a cxl.lab",
        "type": "object",
        "additionalProperties": False,
        "required": ["hosts"],
        "properties": {
            **{section: {"type": "array", "items": _entry(fields)} for section, fields in SECTIONS.items()},
            **{key: _property(field) for key, field in SHORT.items()},
        },
    }


def _entry(fields: Mapping[str, Field]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [key for key, field in fields.items() if field.required],
        "properties": {key: _property(field) for key, field in fields.items()},
    }


def _property(field: Field) -> dict[str, Any]:
    given = {} if field.default is None or field.required else {"default": field.default}
    return {"description": field.doc, **field.schema, **given}
