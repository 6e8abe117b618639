# SPDX-License-Identifier: GPL-3.0-or-later
"""A region over one memdev: what to do so that it is there, or so that it is gone. Pure but for ``observe``."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from .cxl_list import (
    Memdev,
    Region,
    RootDecoder,
    find_memdev,
    format_serial,
    list_memdevs,
    list_regions,
    list_root_decoders,
)
from .errors import LabError
from .ndctl_list import Namespace, find_nd_region, list_nd_regions
from .runner import Runner
from .sizes import format_size, parse_size
from .steps import Step

#: A region covers whole 256 MiB units of each memdev (CXL 3.1, 8.2.4.20: HDM decoder size).
GRAIN = 256 << 20


@dataclass(frozen=True)
class RegionWant:
    """A pmem region over the memdev with ``serial``; ``size`` 0 takes the whole memdev, ``uuid`` "" any."""

    serial: int
    size: int = 0
    uuid: str = ""

    @property
    def subject(self) -> str:
        return f"region over memdev {format_serial(self.serial)}"


@dataclass(frozen=True)
class RegionState:
    """What this host has for one memdev: the regions over it with the uuid and the namespaces of the first and
    its root decoder, or the root decoders above the memdev while there is none."""

    memdev: Memdev
    regions: tuple[Region, ...]
    decoders: tuple[RootDecoder, ...]
    namespaces: tuple[Namespace, ...]
    uuid: str = ""
    decoder: str = ""


def parse_want(serial: int, size: str | None, region_uuid: str | None) -> RegionWant:
    """Checks what the user asked for.

    :raises LabError: a size that no region can have, or a uuid that is none.
    """
    want = RegionWant(serial, parse_size(size) if size else 0, parse_uuid(region_uuid) if region_uuid else "")
    if want.size % GRAIN:
        raise LabError(want.subject, f"size {size} is not n x 256 MiB", 'use for example "512M", or leave size away')
    return want


def parse_uuid(text: str) -> str:
    """The canonical form of a uuid.

    :raises LabError: when it is none.
    """
    try:
        return str(uuid.UUID(text))
    except ValueError as bad:
        raise LabError("uuid", f"{text!r} is no uuid", "write it as 8-4-4-4-12 hexadecimal digits") from bad


def observe(runner: Runner, serial: int, cxl_devices: Path = Path("/sys/bus/cxl/devices")) -> RegionState | None:
    """The state of one memdev, or None while this host has no such memdev that the kernel accepted."""
    memdev = find_memdev(list_memdevs(runner), serial)
    if memdev is None or not memdev.enabled:
        return None
    regions = tuple(region for region in list_regions(runner) if memdev.name in region.memdevs)
    nd_region = find_nd_region(list_nd_regions(runner), serial) if regions else None
    return RegionState(
        memdev=memdev,
        regions=regions,
        decoders=() if regions else tuple(list_root_decoders(runner, memdev)),
        namespaces=nd_region.namespaces if nd_region else (),
        uuid=_read(cxl_devices / regions[0].name / "uuid") if regions else "",
        decoder=_root_decoder(cxl_devices / regions[0].name) if regions else "",
    )


def plan_present(want: RegionWant, have: RegionState) -> list[Step]:
    """The steps to one committed, enabled pmem region over the memdev; none when it is there.

    :raises LabError: when something else lies over the memdev, or when nothing can hold the region.
    """
    region = _own_region(want.subject, have)
    if region is None:
        return [_create(want, have)]
    _refuse_other(want, region, have.uuid)
    if not region.enabled:
        return [Step(f"enable {region.name}", ("cxl", "enable-region", region.name))]
    return []


def plan_absent(want: RegionWant, have: RegionState) -> list[Step]:
    """The steps after which no region lies over the memdev; none when there is none.

    :raises LabError: while a namespace on it is in service, or when the region spans other memdevs too.
    """
    region = _own_region(want.subject, have)
    if region is None:
        return []
    active = [space for space in have.namespaces if space.enabled]
    if active:
        names = ", ".join(_describe(space) for space in active)
        raise LabError(want.subject, f"{region.name} carries {names}", "destroy the namespace first (cxl_namespace)")
    disable = Step(f"disable {region.name}", ("cxl", "disable-region", region.name))
    destroy = Step(f"destroy {region.name}", ("cxl", "destroy-region", region.name))
    return [disable, destroy] if region.enabled else [destroy]


def describe(have: RegionState | None) -> dict[str, Any] | None:
    """What a module returns of a region; None when there is none."""
    if have is None or not have.regions:
        return None
    region = have.regions[0]
    return {
        "name": region.name,
        "type": region.type,
        "size": region.size,
        "resource": f"{region.resource:#x}",
        "uuid": have.uuid,
        "decoder": have.decoder,
        "memdev": have.memdev.name,
        "serial": format_serial(have.memdev.serial),
        "committed": region.committed,
        "enabled": region.enabled,
    }


def choose_decoder(want: RegionWant, memdev: Memdev, decoders: Sequence[RootDecoder]) -> RootDecoder:
    """The root decoder to put a pmem region under: it leads to the memdev, may hold pmem and has room.

    Among several: one for pmem alone before one for both kinds, then the window at the highest address (QEMU 11.1 maps the memory
    of a device behind the first of several windows indirectly: slow, and not atomic across hosts).
    """
    size = want.size or memdev.pmem_size
    capable = [decoder for decoder in decoders if decoder.pmem_capable]
    if not capable:
        problem = f"no root decoder above {memdev.name} takes persistent memory"
        raise LabError(want.subject, problem, "add a fixed memory window for it")
    roomy = [decoder for decoder in capable if decoder.max_available_extent >= size]
    if not roomy:
        rooms = ", ".join(f"{one.name} {format_size(one.max_available_extent)}" for one in capable)
        step = "destroy a region under that decoder or enlarge its fixed memory window"
        raise LabError(want.subject, f"needs {format_size(size)}, but there is room only for {rooms}", step)
    return max(roomy, key=lambda decoder: (not decoder.volatile_capable, decoder.resource))


def _create(want: RegionWant, have: RegionState) -> Step:
    memdev = have.memdev
    if memdev.pmem_size == 0:
        raise LabError(want.subject, f"{memdev.name} has no persistent capacity", "choose a persistent memdev")
    if want.size > memdev.pmem_size:
        problem = f"{format_size(want.size)} does not fit on {memdev.name} ({format_size(memdev.pmem_size)})"
        raise LabError(want.subject, problem, "leave size away to take the whole memdev")
    decoder = choose_decoder(want, memdev, have.decoders)
    argv = ["cxl", "create-region", "-d", decoder.name, "-t", "pmem"]
    argv += ["-s", str(want.size)] if want.size else []
    argv += ["-U", want.uuid] if want.uuid else []
    return Step(f"create a pmem region over {memdev.name} under {decoder.name}", (*argv, "-m", memdev.name))


def _own_region(subject: str, have: RegionState) -> Region | None:
    if len(have.regions) > 1:
        names = ", ".join(region.name for region in have.regions)
        raise LabError(subject, f"{names} share {have.memdev.name}", "destroy the ones that you do not need")
    region = have.regions[0] if have.regions else None
    if region and region.memdevs != (have.memdev.name,):
        problem = f"{region.name} interleaves {', '.join(region.memdevs)}"
        raise LabError(subject, problem, f"destroy {region.name} yourself if it is not needed")
    return region


def _refuse_other(want: RegionWant, region: Region, region_uuid: str) -> None:
    again = "destroy it first (state: absent)"
    if region.type != "pmem":
        raise LabError(want.subject, f"{region.name} exists with type {region.type or 'none'}, not pmem", again)
    if not region.committed:
        raise LabError(want.subject, f"{region.name} exists, but its decoders are not committed", again)
    if want.uuid and region_uuid != want.uuid:
        raise LabError(want.subject, f"{region.name} exists with uuid {region_uuid or 'unknown'}", "leave uuid away to keep it")
    if want.size and region.size != want.size:
        problem = f"{region.name} exists with {format_size(region.size)}, not {format_size(want.size)}"
        raise LabError(want.subject, problem, "leave size away to keep it; in QEMU another size needs a cold start of the guest")


def _describe(space: Namespace) -> str:
    return f"namespace {space.name or space.dev} ({space.mode}, {space.device or space.dev})"


def _root_decoder(region: Path) -> str:
    """The kernel keeps a region below its root decoder; "" where it does not."""
    above = region.resolve().parent.name
    return above if above.startswith("decoder") else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
