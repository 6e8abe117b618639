# SPDX-License-Identifier: GPL-3.0-or-later
"""A namespace over a whole region: what to do so that it is there, or so that it is gone.

Two hosts that share a memdev each have their own label (in their own label storage area) but one info block (in the first
2 MiB of the shared memory). The kernel takes a devdax or fsdax namespace only when the info block names the uuid of the
label as its parent; otherwise the namespace comes back as "raw" after the next start. Hence every host gives the namespace
the same uuid, made from the serial number of the memdev and the name. Whoever creates it later rewrites the info block
with the same parent and the same geometry, which touches no data. Destroying zeroes the info block: the namespace of the
other host goes on until its region is taken down, comes back raw, and ``present`` writes the info block again.

Mode "raw" has no info block: the whole region is a block device, and what another program put there stays. Mode "sector" (BTT)
keeps a map of its sectors in the memory, which one kernel owns: it is not for memory that several hosts use at one time.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from typing import Any, Callable, Sequence

from .cxl_list import format_serial
from .errors import LabError
from .names import check_name
from .ndctl_list import Namespace, NdRegion, find_nd_region, list_nd_regions
from .runner import Runner
from .sizes import format_size
from .steps import Step

#: Alignments with which the data starts at the same offset on every host, wherever the region lies (1 GiB is not one).
ALIGNMENTS = {"4K": 4 << 10, "2M": 2 << 20}
#: Modes with page structures in the kernel, hence with a map and an alignment. "raw" and "sector" have neither.
MAPPED_MODES = ("devdax", "fsdax")


@dataclass(frozen=True)
class NamespaceWant:
    """A namespace of this name over the region of the memdevs with these serial numbers; ``align`` in bytes.

    :param sector_size: bytes that mode "sector" writes as a whole or not at all.
    """

    serials: tuple[int, ...]
    name: str
    mode: str
    map: str
    align: int
    sector_size: int = 4096

    @property
    def subject(self) -> str:
        return f"namespace {self.name} on memdev {' '.join(map(format_serial, self.serials))}"

    @property
    def uuid(self) -> str:
        """The uuid that all hosts give it."""
        serials = "+".join(f"{serial:016x}" for serial in sorted(self.serials))
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"cxl.lab:namespace:{serials}:{self.name}"))


def parse_want(serials: Sequence[int], name: str, mode: str, map_: str, align: str, *, sector_size: int = 4096) -> NamespaceWant:
    """Checks what the user asked for.

    :raises LabError: for a name that may not reach a command line.
    """
    return NamespaceWant(tuple(serials), check_name(name, "namespace"), mode, map_, ALIGNMENTS[align], sector_size)


def observe(runner: Runner, serials: Sequence[int]) -> NdRegion | None:
    """The persistent-memory region over these memdevs; None while the kernel has not set it up."""
    return find_nd_region(list_nd_regions(runner), serials)


def plan_present(want: NamespaceWant, region: NdRegion, *, force: bool) -> list[Step]:
    """The steps to a namespace of ours, in service, as wanted; none when it is there.

    A namespace that is out of service is only enabled: what it really is shows after that, so plan again then.

    :param force: whether a namespace of ours in another mode may be made anew; its data is lost.
    :raises LabError: when the region belongs to somebody else's namespace.
    """
    mine = own(want, region)
    if mine is None:
        _refuse_foreign(want, region)
        return [_create(want, region)]
    if not mine.enabled:
        return [Step(f"enable {mine.dev}", ("ndctl", "enable-namespace", mine.dev))]
    different = differences(want, mine)
    if not different:
        return []
    # ndctl could reconfigure in place, but the kernel refuses to set the uuid that the namespace has.
    anew = [*_remove(mine), _create(want, region)]
    if info_block_is_gone(want, mine):
        return anew
    if not force:
        step = "destroy it first (state: absent), or set force: true to make it anew; its data is lost either way"
        raise LabError(want.subject, f"exists with {', '.join(different)}", step, observed=asdict(mine))
    return anew


def plan_absent(want: NamespaceWant, region: NdRegion) -> list[Step]:
    """The steps after which no namespace of ours is on the region; somebody else's is not ours to touch."""
    mine = own(want, region)
    return _remove(mine) if mine else []


def own(want: NamespaceWant, region: NdRegion) -> Namespace | None:
    """Our namespace on the region: the one that carries our name."""
    return next((space for space in region.namespaces if space.name == want.name), None)


def differences(want: NamespaceWant, have: Namespace) -> list[str]:
    """What is not as wanted, as phrases such as "mode fsdax"."""
    pairs = [("mode", want.mode, have.mode), ("uuid", want.uuid, have.uuid)]
    if have.mode == want.mode == "sector":
        pairs += [("sector_size", str(want.sector_size), str(have.sector_size))]
    if have.mode == want.mode and want.mode in MAPPED_MODES:
        pairs += [("map", want.map, have.map), ("align", format_size(want.align), format_size(have.align))]
    return [f"{key} {has}" for key, wanted, has in pairs if wanted != has]


def info_block_is_gone(want: NamespaceWant, have: Namespace) -> bool:
    """Whether it is our namespace in all but the info block: the label reserves it for the wanted mode, yet it came up raw.

    That is what another host leaves behind that destroyed its namespace over the same memory.
    """
    return have.mode == "raw" and have.claim == want.mode and have.uuid == want.uuid


def refuse_in_use(want: NamespaceWant, have: Namespace, users_of: Callable[[str], list[str]]) -> None:
    """
    :raises LabError: when anybody has the device of the namespace open, mapped or mounted.
    """
    users = users_of(have.device) if have.device else []
    if users:
        raise LabError(want.subject, f"{have.device} is in use: {', '.join(users)}", "stop or unmount that first", observed=users)


def describe(want: NamespaceWant, region: NdRegion | None) -> dict[str, Any] | None:
    """What a module returns of our namespace; None when there is none."""
    mine = own(want, region) if region else None
    if mine is None or region is None:
        return None
    return {
        "name": mine.name,
        "dev": mine.dev,
        "mode": mine.mode,
        "map": mine.map,
        "size": mine.size,
        "align": mine.align,
        "sector_size": mine.sector_size,
        "uuid": mine.uuid,
        "device": mine.device,
        "region": region.name,
        "serial": format_serial(want.serials[0]),
        "serials": [format_serial(serial) for serial in want.serials],
        "enabled": mine.enabled,
    }


def _create(want: NamespaceWant, region: NdRegion) -> Step:
    shape: tuple[str, ...] = (f"--map={want.map}", "-a", str(want.align)) if want.mode in MAPPED_MODES else ()
    if want.mode == "sector":
        shape = ("-l", str(want.sector_size))
    settings = ("-m", want.mode, *shape, "-n", want.name, "-u", want.uuid)
    what = f"create {want.mode} namespace {want.name} on {region.name}"
    return Step(what, ("ndctl", "create-namespace", "-r", region.name, *settings))


def _remove(mine: Namespace) -> list[Step]:
    destroy = Step(f"destroy {mine.dev}", ("ndctl", "destroy-namespace", mine.dev))
    return [disable_step(mine), destroy] if mine.enabled else [destroy]


def disable_step(space: Namespace) -> Step:
    """Takes a namespace out of service; its label and its data stay."""
    return Step(f"disable {space.dev}", ("ndctl", "disable-namespace", space.dev))


def _refuse_foreign(want: NamespaceWant, region: NdRegion) -> None:
    if not region.namespaces:
        return
    others = ", ".join(f"{one.dev} (name {one.name or 'none'}, mode {one.mode}, uuid {one.uuid})" for one in region.namespaces)
    destroy = f"ndctl destroy-namespace -f {region.namespaces[0].dev}"
    step = f"use that one, or destroy it yourself ({destroy}) if nobody needs its data"
    raise LabError(want.subject, f"{region.name} carries a namespace that is not ours: {others}", step)
