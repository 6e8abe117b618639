# SPDX-License-Identifier: GPL-3.0-or-later
"""The type-3 devices of a running QEMU: what a user wants, and what there is.

QEMU has no list of CXL devices; its object model (QOM) tells all the same. A device that was attached by hand or by the topology
looks alike: its id is ``cxl-dev.NAME``, and the memory behind it are objects ``cxl-mem.NAME`` and so on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Mapping, Protocol

from .cxl_list import format_serial, parse_serial
from .dcd.monitor import QmpError
from .errors import LabError
from .names import check_name
from .sizes import parse_size

#: What QEMU calls the memory of a device, by kind of capacity, and the property of the device that takes it.
BACKENDS = {"persistent": ("cxl-mem", "persistent-memdev"), "volatile": ("cxl-volatile", "volatile-memdev")}
LABELS = "cxl-lsa"
#: Of devices and windows (CXL 3.1, 9.18.1.3).
CAPACITY_UNIT = 256 << 20
LSA_SIZE = 1 << 20
_PREFIXES = (*(prefix for prefix, _ in BACKENDS.values()), LABELS)
_PERIPHERAL = "/machine/peripheral"


class Monitor(Protocol):
    """What is needed of a running QEMU."""

    def execute(self, command: str, arguments: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True)
class DeviceWant:
    """A device to be attached. Sizes are bytes; ``port`` None takes the next free one of ``parent``, a host bridge.

    :param host: that it is attached to.
    :param serial: 0 takes the next free one.
    """

    host: str
    name: str
    parent: str
    size: int = 0
    volatile: int = 0
    serial: int = 0
    lsa_size: int = 0
    port: int | None = None

    @property
    def subject(self) -> str:
        return f"device {self.name} of {self.host}"

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of each kind of capacity."""
        return {kind: size for kind, size in (("persistent", self.size), ("volatile", self.volatile)) if size}


@dataclass(frozen=True)
class LiveDevice:
    """A type-3 device of a running QEMU; ``port`` is the id of the port that it is plugged into, ``parts`` as of `DeviceWant`."""

    name: str
    serial: int
    port: str
    parts: Mapping[str, int]


@dataclass(frozen=True)
class Live:
    """What a running QEMU has. ``taken`` are the ports with something in them; ``objects`` the names of all memory objects."""

    devices: tuple[LiveDevice, ...]
    ports: tuple[str, ...]
    taken: frozenset[str]
    objects: frozenset[str]

    def device(self, name: str) -> LiveDevice | None:
        return next((device for device in self.devices if device.name == name), None)

    def backends(self, name: str) -> list[str]:
        """The memory objects that belong to a device of this name, or did."""
        own = re.compile(rf"({'|'.join(_PREFIXES)})\.{re.escape(name)}(\.\d+)?")
        return sorted(one for one in self.objects if own.fullmatch(one))


def parse_device(host: str, entry: Mapping[str, Any], attach: bool) -> DeviceWant:
    """What a user wrote of a device.

    :param attach: whether it has to say what the device is made of.
    :raises LabError: for names, sizes and numbers that cannot be.
    """
    name = check_name(entry["name"], "device")
    subject = f"device {name} of {host}"
    sizes = {}
    for key in ("size", "volatile"):
        sizes[key] = parse_size(entry[key], f"{subject}: {key}") if entry[key] else 0
        if sizes[key] % CAPACITY_UNIT:
            raise LabError(subject, f"{key} {entry[key]} is no multiple of 256M", "the driver would not bind it; use n x 256M")
    if attach and not any(sizes.values()):
        raise LabError(subject, "has neither size nor volatile", "give it one of them")
    return DeviceWant(
        check_name(host, "host"),
        name,
        check_name(entry["parent"], f"{subject}: parent"),
        **sizes,
        serial=parse_serial(entry["serial"]) if entry["serial"] else 0,
        lsa_size=LSA_SIZE if sizes["size"] else 0,
        port=entry["port"],
    )


def observe(monitor: Monitor) -> Live:
    """Asks a running QEMU what it has."""
    children = _children(monitor, _PERIPHERAL)
    devices, taken = [], set()
    for name, kind in children.items():
        if kind not in ("cxl-type3", "cxl-upstream"):
            continue
        try:
            port = _last(monitor, f"{_PERIPHERAL}/{name}", "parent_bus")
            if kind == "cxl-type3":
                devices.append(_device(monitor, name, port))
        except QmpError as error:
            if "not found" in error.said:
                continue  # it went while we were asking
            raise
        taken.add(port)
    ports = sorted((name for name, kind in children.items() if kind == "cxl-rp"), key=_port_order)
    return Live(tuple(devices), tuple(ports), frozenset(taken), frozenset(_children(monitor, "/objects")))


def describe(live: Live, name: str) -> dict[str, Any] | None:
    """A device as a module returns it; None when there is none."""
    device = live.device(name)
    if device is None:
        return None
    return {
        "name": name,
        "serial": format_serial(device.serial),
        "size": device.parts.get("persistent", 0),
        "volatile": device.parts.get("volatile", 0),
        "port": device.port,
    }


def _device(monitor: Monitor, identity: str, port: str) -> LiveDevice:
    path = f"{_PERIPHERAL}/{identity}"
    parts = {}
    for kind, (_, key) in BACKENDS.items():
        backend = monitor.execute("qom-get", {"path": path, "property": key})
        if backend:
            parts[kind] = int(monitor.execute("qom-get", {"path": backend, "property": "size"}))
    serial = int(monitor.execute("qom-get", {"path": path, "property": "sn"}))
    return LiveDevice(identity.removeprefix("cxl-dev."), serial, port, parts)


def _children(monitor: Monitor, path: str) -> dict[str, str]:
    """The children of an object and their types."""
    rows = monitor.execute("qom-list", {"path": path})
    return {row["name"]: row["type"][6:-1] for row in rows if str(row.get("type", "")).startswith("child<")}


def _last(monitor: Monitor, path: str, key: str) -> str:
    return str(monitor.execute("qom-get", {"path": path, "property": key})).rsplit("/", 1)[-1]


def _port_order(port: str) -> tuple[str, int]:
    bridge, _, number = port.rpartition(".")
    return bridge, int(number) if number.isdecimal() else 0
