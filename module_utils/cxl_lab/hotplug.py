# SPDX-License-Identifier: GPL-3.0-or-later
"""Type-3 devices that come and go while a host runs: the QMP commands for it. Pure.

QEMU up to 11.1 keeps the memory objects of a device that is gone ("is mapped"), and takes none of them for a second device. So a
device that comes back gets new objects over the same files: ``cxl-mem.NAME.2``. That is right after the host let go of it.
Where it did not, nobody knows what still writes there: the device leaked, and nobody gets its memory until QEMU starts anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Mapping, Sequence

from .cxl_list import format_serial
from .errors import LabError
from .live_devices import BACKENDS, LABELS, DeviceWant, Live, LiveDevice
from .sizes import format_size


@dataclass(frozen=True)
class Command:
    """A QMP command, and what it does for the user."""

    what: str
    name: str
    arguments: Mapping[str, Any]


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


def after(live: Live, want: DeviceWant, commands: Sequence[Command]) -> Live:
    """What the host is going to have after these commands of ``plan_attach``, for the plan of the next device."""
    if not commands:
        return live
    *backends, plug = (command.arguments for command in commands)
    device = LiveDevice(want.name, plug["sn"], plug["bus"], want.parts)
    objects = live.objects | {backend["id"] for backend in backends}
    return replace(live, devices=(*live.devices, device), taken=live.taken | {plug["bus"]}, objects=objects)


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


def phrases(commands: Sequence[Command]) -> list[str]:
    """What a module reports as ``steps``."""
    return [command.what for command in commands]
