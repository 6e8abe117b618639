# SPDX-License-Identifier: GPL-3.0-or-later
"""A region over one memdev or several: what to do so that it is there, or so that it is gone. Pure."""

from __future__ import annotations

from dataclasses import replace

from .cxl_list import Region, RootDecoder
from .errors import LabError
from .interleave import turn_order
from .namespace import disable_step
from .ndctl_list import Namespace
from .region_state import RegionState, RegionWant
from .sizes import format_size
from .steps import Step


def plan_present(want: RegionWant, have: RegionState) -> list[Step]:
    """The steps to one committed, enabled region over the memdevs; none when it is there.

    :raises LabError: when something else lies over a memdev, or when nothing can hold the region.
    """
    region = _own_region(want.subject, have)
    if region is None:
        return _create(want, have)
    _refuse_other(want, region, have.uuid)
    if not region.enabled:
        return [*_keep_offline(want), Step(f"enable {region.name}", ("cxl", "enable-region", region.name))]
    return []


def plan_absent(want: RegionWant, have: RegionState) -> list[Step]:
    """The steps after which no region lies over the memdevs; none when there is none.

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


def plan_take_back(want: RegionWant, have: RegionState) -> list[Step]:
    """The steps after which a region that was made just now is gone. Namespaces that their labels brought with it are only
    disabled, and nobody can have used them yet."""
    return [
        *(disable_step(space) for space in have.namespaces if space.enabled),
        *plan_absent(want, replace(have, namespaces=())),
    ]


def choose_decoder(want: RegionWant, have: RegionState) -> RootDecoder:
    """The root decoder to put a region under: it leads to the bridges of the memdevs alone, may hold the type and has room.

    Among several: one for the type alone before one for both kinds, then the window at the highest address (QEMU 11.1 maps the
    memory of a device behind the first of several windows indirectly: slow, and not atomic across hosts).
    """
    first, kind = have.memdevs[0].name, {"pmem": "persistent", "ram": "volatile"}[want.type]
    size = want.size or len(have.memdevs) * _capacity(want, have)
    capable = [one for one in have.decoders if (one.pmem_capable if want.type == "pmem" else one.volatile_capable)]
    if not capable:
        raise LabError(want.subject, f"no root decoder above {first} takes {kind} memory", "add a fixed memory window for it")
    roots = {path[0] for path in have.paths if path}
    fitting = [one for one in capable if one.ways == 1 or set(one.targets) == roots]
    fitting = [one for one in fitting if len(roots) < 2 or one.ways > 1]
    if not fitting:
        windows = ", ".join(f"{one.name} over {' '.join(one.targets) or one.ways}" for one in capable)
        problem = f"the memdevs lie below {' '.join(sorted(roots))}, and there is only {windows}"
        raise LabError(want.subject, problem, "add a window whose targets are just these bridges")
    roomy = [decoder for decoder in fitting if decoder.max_available_extent >= size]
    if not roomy:
        rooms = ", ".join(f"{one.name} {format_size(one.max_available_extent)}" for one in fitting)
        step = "destroy a region under that decoder or enlarge its fixed memory window"
        raise LabError(want.subject, f"needs {format_size(size)}, but there is room only for {rooms}", step)
    return max(roomy, key=lambda one: (not (one.pmem_capable and one.volatile_capable), one.resource))


def _capacity(want: RegionWant, have: RegionState) -> int:
    """Bytes of the type that each memdev can give: as much as the smallest has."""
    return min(memdev.pmem_size if want.type == "pmem" else memdev.ram_size for memdev in have.memdevs)


def _create(want: RegionWant, have: RegionState) -> list[Step]:
    capacity, ways = _capacity(want, have), len(have.memdevs)
    names = " ".join(memdev.name for memdev in have.memdevs)
    if capacity == 0:
        kind = {"pmem": "persistent", "ram": "volatile"}[want.type]
        raise LabError(want.subject, f"{names} has no {kind} capacity", f"choose a {kind} memdev")
    if want.type == "ram" and have.other_type:
        # Linux hands the memory of a device out from its beginning, and the volatile part of it comes first.
        taken = ", ".join(have.other_type)
        problem = f"{taken} of persistent memory was made first, and volatile memory of {names} cannot be had after that"
        raise LabError(want.subject, problem, f"destroy {taken}, make the region of type ram, then the other one again")
    if want.size > capacity * ways:
        problem = f"{format_size(want.size)} does not fit on {names} ({format_size(capacity * ways)})"
        raise LabError(want.subject, problem, "leave size away to take the whole memdev")
    decoder = choose_decoder(want, have)
    argv = ["cxl", "create-region", "-d", decoder.name, "-t", want.type]
    order = list(have.memdevs)
    if ways > 1:
        order = [order[index] for index in turn_order(want.subject, have.paths, decoder.targets)]
        argv += ["-w", str(ways), "-g", str(_granularity(want, decoder))]
    argv += ["-s", str(want.size)] if want.size else []
    argv += ["-U", want.uuid] if want.uuid else []
    shown = ", ".join(memdev.name for memdev in order)
    create = Step(f"create a {want.type} region over {shown} under {decoder.name}", (*argv, "-m", *(one.name for one in order)))
    return [*_keep_offline(want), create]


def _granularity(want: RegionWant, decoder: RootDecoder) -> int:
    """A region below a window with several targets takes turns as the window does; the kernel refuses anything else."""
    given = want.granularity
    if decoder.ways > 1 and given not in (0, decoder.granularity):
        problem = f"granularity {given} under {decoder.name}, which has {decoder.granularity}"
        raise LabError(want.subject, problem, "leave granularity away, or change the window")
    return given or (decoder.granularity if decoder.ways > 1 else 256)


def _keep_offline(want: RegionWant) -> list[Step]:
    """A Debian kernel brings new volatile memory into service by itself; of two hosts that share it both would."""
    if want.type != "ram":
        return []
    return [Step("keep new memory offline", ("tee", "/sys/devices/system/memory/auto_online_blocks"), "offline\n")]


def _own_region(subject: str, have: RegionState) -> Region | None:
    names = [memdev.name for memdev in have.memdevs]
    if len(have.regions) > 1:
        others = ", ".join(region.name for region in have.regions)
        raise LabError(subject, f"{others} share {', '.join(names)}", "destroy the ones that you do not need")
    region = have.regions[0] if have.regions else None
    if region and sorted(region.memdevs) != sorted(names):
        problem = f"{region.name} interleaves {', '.join(region.memdevs)}"
        raise LabError(subject, problem, f"destroy {region.name} yourself if it is not needed")
    return region


def _refuse_other(want: RegionWant, region: Region, region_uuid: str) -> None:
    again = "destroy it first (state: absent)"
    if region.type != want.type:
        raise LabError(want.subject, f"{region.name} exists with type {region.type or 'none'}, not {want.type}", again)
    if not region.committed:
        raise LabError(want.subject, f"{region.name} exists, but its decoders are not committed", again)
    if want.uuid and region_uuid != want.uuid:
        raise LabError(want.subject, f"{region.name} exists with uuid {region_uuid or 'unknown'}", "leave uuid away to keep it")
    if want.granularity and len(want.serials) > 1 and region.granularity != want.granularity:
        problem = f"{region.name} exists with granularity {region.granularity}, not {want.granularity}"
        raise LabError(want.subject, problem, "leave granularity away to keep it")
    if want.size and region.size != want.size:
        problem = f"{region.name} exists with {format_size(region.size)}, not {format_size(want.size)}"
        raise LabError(want.subject, problem, "leave size away to keep it; in QEMU another size needs a cold start of the guest")


def _describe(space: Namespace) -> str:
    return f"namespace {space.name or space.dev} ({space.mode}, {space.device or space.dev})"
