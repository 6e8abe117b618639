# SPDX-License-Identifier: GPL-3.0-or-later
"""Type-3 devices that come and go while a host runs: what its QEMU has, and the QMP commands that change it.

QEMU has no list of CXL devices; its object model (QOM) tells all the same. A device that was attached by hand or by the topology
looks alike: its id is ``cxl-dev.NAME``, and the memory behind it are objects ``cxl-mem.NAME`` and so on.

QEMU up to 11.1 keeps the memory objects of a device that is gone ("is mapped"), and takes none of them for a second device. So a
device that comes back gets new objects over the same files: ``cxl-mem.NAME.2``. That is right after the host let go of it.
Where it did not, nobody knows what still writes there: the device leaked, and nobody gets its memory until QEMU starts anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Protocol, Sequence

from .cxl_list import format_serial, parse_serial
from .errors import LabError
from .names import check_name
from .sizes import format_size, parse_size

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


@dataclass(frozen=True)
class Command:
    """A QMP command, and what it does for the user."""

    what: str
    name: str
    arguments: Mapping[str, Any]


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
        port = _last(monitor, f"{_PERIPHERAL}/{name}", "parent_bus")
        taken.add(port)
        if kind == "cxl-type3":
            devices.append(_device(monitor, name, port))
    ports = sorted((name for name, kind in children.items() if kind == "cxl-rp"), key=_port_order)
    return Live(tuple(devices), tuple(ports), frozenset(taken), frozenset(_children(monitor, "/objects")))


def plan_attach(want: DeviceWant, live: Live, files: Mapping[str, Path]) -> list[Command]:
    """The commands after which the device is there; none when it is.

    :param files: the file of each kind of capacity, and that of "labels".
    :raises LabError: when something else has its name, serial number or port.
    """
    there = live.device(want.name)
    if there:
        _refuse_other(want, there)
        return []
    serial = want.serial or _free_serial(live)
    same = next((device for device in live.devices if device.serial == serial), None)
    if same:
        raise LabError(want.subject, f"{same.name} has the serial number {format_serial(serial)}", "choose another one")
    port = choose_port(want, live)
    end = _generation(want.name, live)
    commands: list[Command] = []
    options: dict[str, Any] = {}
    for kind, size in want.parts.items():
        prefix, key = BACKENDS[kind]
        commands.append(_backend(f"{prefix}.{want.name}{end}", files[kind], size))
        options[key] = f"{prefix}.{want.name}{end}"
    if want.size:
        commands.append(_backend(f"{LABELS}.{want.name}{end}", files["labels"], want.lsa_size))
        options["lsa"] = f"{LABELS}.{want.name}{end}"
    identity = {"driver": "cxl-type3", "id": f"cxl-dev.{want.name}", "bus": port, "sn": serial}
    return [*commands, Command(f"plug {want.name} into {port}", "device_add", {**identity, **options})]


def choose_port(want: DeviceWant, live: Live) -> str:
    """The id of the root port to plug it into.

    :raises LabError: when there is none that is free.
    """
    prefix = f"cxl-rp.{want.parent}."
    of_parent = [port for port in live.ports if port.startswith(prefix)]
    free = [port for port in of_parent if port not in live.taken]
    if not of_parent:
        bridges = ", ".join(sorted({port.split(".")[1] for port in live.ports})) or "none"
        step = f"name one of its host bridges ({bridges}); a switch of QEMU cannot let a device go again"
        raise LabError(want.subject, f"{want.host} has no host bridge {want.parent}", step)
    wanted = f"{prefix}{want.port}"
    if want.port is not None and wanted not in free:
        problem = f"port {want.port} of {want.parent} is {'taken' if wanted in of_parent else 'not there'}"
        raise LabError(want.subject, problem, f"free are {', '.join(free) or 'none'}")
    if not free:
        step = "give the bridge more ports in cxl_topology_bridges, or detach another device"
        raise LabError(want.subject, f"all {len(of_parent)} root ports of {want.parent} are taken", step)
    return wanted if want.port is not None else free[0]


def drop(backend: str) -> Command:
    """Takes memory back from QEMU."""
    return Command(f"take {backend} back", "object-del", {"id": backend})


def unplug(name: str) -> Command:
    """Asks the guest for the device; QEMU answers at once, and the guest later."""
    return Command(f"unplug {name}", "device_del", {"id": f"cxl-dev.{name}"})


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


def _refuse_other(want: DeviceWant, there: LiveDevice) -> None:
    have, wanted = dict(there.parts), want.parts
    different = [
        f"{kind} {format_size(have.get(kind, 0))} instead of {format_size(wanted.get(kind, 0))}"
        for kind in sorted({*have, *wanted})
        if have.get(kind, 0) != wanted.get(kind, 0)
    ]
    if want.serial not in (0, there.serial):
        different.append(f"serial {format_serial(there.serial)} instead of {format_serial(want.serial)}")
    if want.port is not None and there.port != f"cxl-rp.{want.parent}.{want.port}":
        different.append(f"port {there.port} instead of {want.parent} {want.port}")
    if different:
        raise LabError(want.subject, f"is attached with {', '.join(different)}", "detach it first (state: absent)")


def _free_serial(live: Live) -> int:
    """Above those of the topology, which counts from 0xc0de0001 on."""
    taken = {device.serial for device in live.devices}
    return next(serial for serial in range(0xC0DE1001, 0xC0DE1001 + len(taken) + 1) if serial not in taken)


def _generation(name: str, live: Live) -> str:
    """What the names of new objects end with, so that they are new."""
    left = live.backends(name)
    number = next(number for number in range(1, len(left) + 2) if not any(one.endswith(_ending(name, number)) for one in left))
    return "" if number == 1 else f".{number}"


def _ending(name: str, number: int) -> str:
    return f".{name}" if number == 1 else f".{name}.{number}"


def _backend(name: str, file: Path, size: int) -> Command:
    arguments = {"qom-type": "memory-backend-file", "id": name, "share": True, "mem-path": str(file), "size": size}
    return Command(f"give QEMU {format_size(size)} as {name}", "object-add", arguments)


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


def phrases(commands: Sequence[Command]) -> list[str]:
    """What a module reports as ``steps``."""
    return [command.what for command in commands]
