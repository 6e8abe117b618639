# SPDX-License-Identifier: GPL-3.0-or-later
"""How a host uses its DAX device: mapped by programs (devdax), or as ordinary memory (system-ram). Pure but for ``observe``.

The device lies on a volatile region, or on a persistent one with a namespace of mode devdax. As system RAM its blocks are online
or not, in a zone that lets them go again (movable) or in one that does not. Source: daxctl 81; kernel, drivers/dax/kmem.c.

Memory that several hosts see must never be the system RAM of one of them while another one uses it: both kernels would own every
page, and nothing would tell. A host cannot see that by itself, so `refuse_shared` is told what the others ask for and have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from .cxl_list import Region, find_memdev, format_serial, list_memdevs, list_regions, parse_serial
from .errors import LabError, shown
from .ndctl_list import find_nd_region, list_nd_regions
from .runner import Runner, must_json
from .steps import Step

POLICIES = ("offline", "online_kernel", "online_movable")
ONLINE_BY_ITSELF = "/sys/devices/system/memory/auto_online_blocks"
#: Prints every DAX device of a host.
LIST = ("daxctl", "list", "-D", "-i")
_NAME = re.compile(r"dax\d{1,9}\.\d{1,9}")
_AGAIN = "end what uses the memory (online_kernel memory may never come free: then restart the host)"


@dataclass(frozen=True)
class DaxWant:
    """The DAX device over the memdevs with these serial numbers.

    :param type: of its region, "ram" or "pmem".
    :param mode: "devdax" or "system-ram".
    :param online: one of `POLICIES`, for system RAM.
    """

    serials: tuple[int, ...]
    type: str
    mode: str
    online: str = "offline"

    @property
    def subject(self) -> str:
        return f"dax device on memdev {' '.join(map(format_serial, self.serials))}"


@dataclass(frozen=True)
class DaxDevice:
    """A DAX device. ``online`` of ``blocks`` memory blocks are online, in movable zones or not; 0 of 0 in mode devdax."""

    name: str
    size: int
    mode: str
    node: int
    online: int
    blocks: int
    movable: bool

    @property
    def policy(self) -> str:
        if not self.online:
            return "offline"
        return "online_movable" if self.movable else "online_kernel"


def observe(runner: Runner, serials: Sequence[int], type_: str) -> DaxDevice | None:
    """The DAX device over exactly these memdevs; None while there is none."""
    name = (_name_on_pmem if type_ == "pmem" else _name_on_ram)(runner, serials)
    if not name:
        return None
    rows = must_json(runner, LIST, "dax devices")
    return next((device for device in parse_devices(rows) if device.name == name), None)


def observe_on_region(runner: Runner, region: Region) -> list[DaxDevice]:
    """The DAX devices of a volatile region: its DAX region has its number."""
    number = region.name.removeprefix("region")
    return parse_devices(must_json(runner, [*LIST, "-r", number], "dax devices"))


def parse_devices(rows: object) -> list[DaxDevice]:
    """The records of ``daxctl list -D -i``; it prints a single device without a list around it."""
    listed = [rows] if isinstance(rows, dict) else rows
    if not isinstance(listed, list) or not all(
        isinstance(row, dict) and _NAME.fullmatch(str(row.get("chardev"))) for row in listed
    ):
        raise LabError("daxctl list", "printed no list of devices", "check that daxctl is version 81 or newer", observed=rows)
    return [
        DaxDevice(
            name=row["chardev"],
            size=int(row.get("size", 0)),
            mode=str(row.get("mode", "")),
            node=int(row.get("target_node", -1)),
            online=int(row.get("online_memblocks", 0)),
            blocks=int(row.get("total_memblocks", 0)),
            movable=row.get("movable") is True,
        )
        for row in listed
    ]


def plan(want: DaxWant, have: DaxDevice) -> list[Step]:
    """The steps to the wanted mode, and to memory that is online as asked for; none when it is so."""
    wanted = want.online if want.mode == "system-ram" else "offline"
    steps = []
    if have.online and have.policy != wanted:
        steps.append(Step(f"take the memory of {have.name} out of service", ("daxctl", "offline-memory", have.name)))
    if want.mode != have.mode:
        steps += _switch(want.mode, have.name)
    partly = have.policy == wanted and have.online < have.blocks
    if wanted != "offline" and (have.policy != wanted or partly):
        zone = () if wanted == "online_movable" else ("--no-movable",)
        steps.append(Step(f"bring the memory of {have.name} online ({wanted})", ("daxctl", "online-memory", *zone, have.name)))
    return steps


def explain(want: DaxWant, failed: LabError) -> LabError:
    """The same failure with what to do about it."""
    busy = failed.cmd is not None and "offline-memory" in failed.cmd
    step = _AGAIN if busy else failed.next_step
    return LabError(want.subject, failed.problem, step, cmd=failed.cmd, rc=failed.rc, stderr=failed.stderr)


def refuse_shared(want: DaxWant, others: Mapping[str, object]) -> None:
    """
    :param others: what other hosts ask for or have, by their names: entries with ``serial`` (one or a list) and ``mode``, if they
        have one.
    :raises LabError: when this host's system RAM would be another host's memory too.
    """
    for host, entries in others.items():
        for entry in entries if isinstance(entries, (list, tuple)) else [entries]:
            if not isinstance(entry, Mapping):
                problem = f"host {host} has {shown(entry)} in its lists of regions and DAX devices"
                raise LabError(want.subject, problem, "write a list of entries with serial (cxl_memory_regions, cxl_memory_dax)")
            given = entry.get("serial", [])
            theirs = {parse_serial(one) for one in (given if isinstance(given, list) else [given])}
            both = sorted(theirs & set(want.serials))
            if both and (want.mode == "system-ram" or entry.get("mode") == "system-ram"):
                role = "uses it too" if want.mode == "system-ram" else "takes it for its system RAM"
                problem = f"host {host} {role} (memdev {format_serial(both[0])}), and two kernels would own the same pages"
                raise LabError(want.subject, problem, "let one host alone use it, or choose mode devdax on all of them")


def describe(want: DaxWant, have: DaxDevice | None) -> dict[str, Any] | None:
    """What a module returns of the device; None when there is none."""
    if have is None:
        return None
    device = f"/dev/{have.name}" if have.mode == "devdax" else ""
    return {"serial": [format_serial(serial) for serial in want.serials], "type": want.type, "device": device, **state(have)}


def state(have: DaxDevice) -> dict[str, Any]:
    """A device as a module returns it, whatever lies below it."""
    return {
        "name": have.name,
        "size": have.size,
        "mode": have.mode,
        "node": have.node,
        "online": have.policy if have.mode == "system-ram" else "",
        "online_blocks": have.online,
        "blocks": have.blocks,
    }


def _switch(mode: str, name: str) -> list[Step]:
    if mode == "devdax":
        return [Step(f"let programs map {name}", ("daxctl", "reconfigure-device", "-m", "devdax", name))]
    # daxctl refuses where the kernel would bring the memory online by itself, and in a zone of its own choice.
    keep = Step("keep new memory offline", ("tee", ONLINE_BY_ITSELF), "offline\n")
    return [keep, Step(f"make {name} system RAM", ("daxctl", "reconfigure-device", "-m", "system-ram", "--no-online", name))]


def _name_on_pmem(runner: Runner, serials: Sequence[int]) -> str:
    region = find_nd_region(list_nd_regions(runner), serials)
    names = [space.device.removeprefix("/dev/") for space in region.namespaces] if region else []
    return next((name for name in names if _NAME.fullmatch(name)), "")


def _name_on_ram(runner: Runner, serials: Sequence[int]) -> str:
    memdevs = list_memdevs(runner)
    found = [find_memdev(memdevs, serial) for serial in serials]
    names = sorted(memdev.name for memdev in found if memdev)
    region = next((one for one in list_regions(runner) if one.type == "ram" and sorted(one.memdevs) == names), None)
    if region is None:
        return ""
    devices = observe_on_region(runner, region)
    return devices[0].name if devices else ""
