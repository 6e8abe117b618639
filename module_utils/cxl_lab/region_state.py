# SPDX-License-Identifier: GPL-3.0-or-later
"""A region over one memdev or several: what a user wants, and what this host has."""

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
from .interleave import WAYS
from .ndctl_list import Namespace, find_nd_region, list_nd_regions
from .runner import Runner
from .sizes import parse_size

#: A region covers whole 256 MiB units of each memdev (CXL 3.1, 8.2.4.20: HDM decoder size).
GRAIN = 256 << 20


@dataclass(frozen=True)
class RegionWant:
    """A region over the memdevs with these serial numbers.

    :param size: bytes; 0 takes the whole of each memdev.
    :param uuid: "" for any.
    :param type: "pmem" or "ram".
    :param granularity: bytes until the next memdev has its turn; 0 for what the window has.
    """

    serials: tuple[int, ...]
    size: int = 0
    uuid: str = ""
    type: str = "pmem"
    granularity: int = 0

    @property
    def subject(self) -> str:
        return f"region over memdev {' '.join(map(format_serial, self.serials))}"


@dataclass(frozen=True)
class RegionState:
    """What this host has for some memdevs: the regions over any of them with the uuid and the namespaces of the first and
    its root decoder, or the root decoders while there is none.

    :param dpa: address on the first memdev where the region begins.
    :param paths: where each memdev is: PCI root, root port, and every function below.
    :param other_type: names of the regions of the other type over memdevs with both kinds of capacity.
    """

    memdevs: tuple[Memdev, ...]
    regions: tuple[Region, ...]
    decoders: tuple[RootDecoder, ...]
    namespaces: tuple[Namespace, ...]
    uuid: str = ""
    decoder: str = ""
    dpa: int = 0
    paths: tuple[tuple[str, ...], ...] = ()
    other_type: tuple[str, ...] = ()


def parse_want(
    serials: Sequence[int], size: str | None, region_uuid: str | None, type_: str = "pmem", granularity: int | None = None
) -> RegionWant:
    """Checks what the user asked for.

    :raises LabError: a size or a number of memdevs that no region can have, or a uuid that is none.
    """
    want = RegionWant(
        tuple(serials), parse_size(size) if size else 0, parse_uuid(region_uuid) if region_uuid else "", type_, granularity or 0
    )
    if len(set(serials)) != len(serials) or len(serials) not in WAYS:
        step = f"name {', '.join(map(str, WAYS))} memdevs, each once"
        raise LabError(want.subject, f"{len(serials)} memdevs cannot be interleaved", step)
    if want.size % (GRAIN * len(serials)):
        each = "n x 256 MiB" if len(serials) == 1 else f"n x 256 MiB for each of {len(serials)} memdevs"
        raise LabError(want.subject, f"size {size} is not {each}", 'use for example "512M", or leave size away')
    if want.type == "ram" and want.uuid:
        raise LabError(want.subject, "a region of type ram has no uuid", "leave uuid away")
    return want


def parse_uuid(text: str) -> str:
    """The canonical form of a uuid.

    :raises LabError: when it is none.
    """
    try:
        return str(uuid.UUID(text))
    except ValueError as bad:
        raise LabError("uuid", f"{text!r} is no uuid", "write it as 8-4-4-4-12 hexadecimal digits") from bad


def observe(runner: Runner, want: RegionWant, cxl_devices: Path = Path("/sys/bus/cxl/devices")) -> RegionState | None:
    """The state of these memdevs, or None while this host lacks one of them or the kernel did not accept it."""
    known = list_memdevs(runner)
    found = [find_memdev(known, serial) for serial in want.serials]
    memdevs = tuple(memdev for memdev in found if memdev is not None and memdev.enabled)
    if len(memdevs) < len(found):
        return None
    names = {memdev.name for memdev in memdevs}
    # A memdev with both kinds of capacity can lie under a region of each.
    mixed = all(memdev.pmem_size and memdev.ram_size for memdev in memdevs)
    over = [region for region in list_regions(runner) if names & set(region.memdevs)]
    regions = tuple(region for region in over if region.type == want.type or not mixed)
    nd_region = find_nd_region(list_nd_regions(runner), want.serials) if regions and want.type == "pmem" else None
    return RegionState(
        memdevs=memdevs,
        regions=regions,
        decoders=() if regions else tuple(list_root_decoders(runner, memdevs[0])),
        namespaces=nd_region.namespaces if nd_region else (),
        uuid=_read(cxl_devices / regions[0].name / "uuid") if regions else "",
        decoder=_root_decoder(cxl_devices / regions[0].name) if regions else "",
        dpa=_dpa(cxl_devices / regions[0].decoders[0]) if regions and any(regions[0].decoders) else 0,
        paths=tuple(_place(cxl_devices / memdev.name) for memdev in memdevs),
        other_type=tuple(region.name for region in over if region not in regions),
    )


def regions_above(runner: Runner, command: Sequence[str]) -> list[str]:
    """The regions at higher addresses than the window that ``cxl create-region -d DECODER ...`` was to take memory from.

    None for another command, and where the host does not tell: this explains a failure, and must not become one.
    """
    if "create-region" not in command:
        return []
    try:
        windows = [decoder.resource for decoder in list_root_decoders(runner) if decoder.name in command]
        return [region.name for region in list_regions(runner) if windows and region.resource > windows[0]]
    except LabError:
        return []


def describe(have: RegionState | None) -> dict[str, Any] | None:
    """What a module returns of a region; None when there is none. Memdevs and serials are in interleave order."""
    if have is None or not have.regions:
        return None
    region = have.regions[0]
    serials = {memdev.name: format_serial(memdev.serial) for memdev in have.memdevs}
    return {
        "name": region.name,
        "type": region.type,
        "size": region.size,
        "resource": f"{region.resource:#x}",
        "uuid": have.uuid,
        "decoder": have.decoder,
        "memdev": region.memdevs[0] if region.memdevs else "",
        "memdevs": list(region.memdevs),
        "serial": serials.get(region.memdevs[0] if region.memdevs else "", format_serial(have.memdevs[0].serial)),
        "serials": [serials[name] for name in region.memdevs if name in serials],
        "ways": len(region.memdevs),
        "granularity": region.granularity,
        "committed": region.committed,
        "enabled": region.enabled,
    }


def _root_decoder(region: Path) -> str:
    """The kernel keeps a region below its root decoder; "" where it does not."""
    above = region.resolve().parent.name
    return above if above.startswith("decoder") else ""


def _dpa(decoder: Path) -> int:
    """Where an endpoint decoder begins on its memdev; 0 where sysfs does not show it."""
    text = _read(decoder / "dpa_resource")
    return int(text, 16) if text.startswith("0x") else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _place(memdev: Path) -> tuple[str, ...]:
    """The PCI functions on the way to a memdev, from its PCI root on; empty where sysfs does not show it."""
    parts = memdev.resolve().parts
    roots = [index for index, part in enumerate(parts) if part.startswith("pci")]
    return parts[roots[0] : -1] if roots else ()
