# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets a host let go of a memdev before it is unplugged: memory out of service, namespaces and regions away.

Pure but for `observe`.

Nothing is destroyed that data hangs on: a namespace is only disabled, and its label goes with the device.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import ModuleType
from typing import Sequence

from . import device_users, unmapped
from .boot_regions import record_path
from .cxl_list import Memdev, Region, find_memdev, format_serial, list_memdevs, list_regions
from .dax import DaxDevice, observe_on_region
from .errors import LabError
from .namespace import disable_step
from .ndctl_list import Namespace, list_nd_regions
from .runner import Runner, must, must_json
from .steps import Step


@dataclass(frozen=True)
class Held:
    """What a host has of a memdev: the regions over it, the namespaces and DAX devices on them, and who uses those.

    :param users: phrases such as "/dev/dax0.0: process 812 (python3)".
    """

    memdev: Memdev | None
    regions: tuple[Region, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    dax: tuple[DaxDevice, ...] = ()
    users: tuple[str, ...] = ()


def observe(runner: Runner, serial: int) -> Held:
    """Asks the host."""
    memdev = find_memdev(list_memdevs(runner), serial)
    if memdev is None:
        return Held(None)
    regions = tuple(region for region in list_regions(runner) if memdev.name in region.memdevs)
    nd_regions = [region for region in list_nd_regions(runner) if serial in region.serials]
    namespaces = tuple(space for region in nd_regions for space in region.namespaces if space.enabled)
    dax = tuple(device for region in regions if region.type == "ram" for device in observe_on_region(runner, region))
    devices = [space.device for space in namespaces if space.device]
    devices += [f"/dev/{device.name}" for device in dax if device.mode == "devdax"]
    return Held(memdev, regions, namespaces, dax, tuple(users(runner, devices)))


def plan(serial: int, held: Held, subject: str) -> list[Step]:
    """The steps after which nothing lies over the memdev; none when it is idle.

    :raises LabError: while somebody uses it, and for a region that spans other memdevs.
    """
    if held.users:
        raise LabError(subject, f"is in use: {'; '.join(held.users)}", "stop or unmount that first", observed=list(held.users))
    for region in held.regions:
        others = sorted(set(region.memdevs) - {held.memdev.name if held.memdev else ""})
        if others:
            problem = f"{region.name} takes turns with {', '.join(others)}"
            raise LabError(subject, problem, "destroy that region first (cxl_region, state: absent)")
    steps = [disable_step(space) for space in held.namespaces]
    for device in held.dax:
        if device.online:
            steps.append(Step(f"take the memory of {device.name} out of service", ("daxctl", "offline-memory", device.name)))
    for region in held.regions:
        if region.enabled:
            steps.append(Step(f"disable {region.name}", ("cxl", "disable-region", region.name)))
        steps.append(Step(f"destroy {region.name}", ("cxl", "destroy-region", region.name)))
    records = [str(record_path(serial, kind)) for kind in sorted({region.type for region in held.regions})]
    return [*steps, Step(f"have boot forget {format_serial(serial)}", ("rm", "-f", *records))] if records else steps


def forget_mappings(runner: Runner, serial: int) -> None:
    """Lets the host forget what QEMU mapped of a memdev that is unplugged: QEMU takes that away with the device."""
    program = _program(unmapped, "import sys\nforget(int(sys.argv[1]))")
    must(runner, ["python3", "-", str(serial)], "mappings of the memdev", stdin=program)


def users(runner: Runner, devices: Sequence[str]) -> list[str]:
    """Who uses these devices of the host, as phrases: a program that is sent there looks through its processes."""
    if not devices:
        return []
    program = _program(device_users, "import json, sys\nprint(json.dumps({device: users_of(device) for device in sys.argv[1:]}))")
    found = must_json(runner, ["python3", "-", *devices], "users of the memory", stdin=program)
    return [f"{device}: {', '.join(users)}" for device, users in found.items() if users]


def _program(module: ModuleType, end: str) -> str:
    """What Python on a host reads: a module that needs nothing else of ours, and what to do with it."""
    return f"{inspect.getsource(module)}\n{end}\n"
