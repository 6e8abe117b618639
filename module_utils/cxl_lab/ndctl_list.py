# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``ndctl list`` says about the persistent-memory side of a region: its dimms and namespaces, as checked records.

The numbers in the names of a CXL region and of the persistent-memory region over it need not agree, so the two are
matched by the serial number of the memdev, which the dimm carries as its id. Source: the JSON of ndctl 81.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable

from .errors import LabError
from .runner import Runner, must_json

_REGION = re.compile(r"region\d{1,9}")
_NAMESPACE = re.compile(r"namespace\d{1,9}\.\d{1,9}")
_DEVICE = re.compile(r"(?:dax\d{1,9}\.\d{1,9}|pmem\d{1,9}(?:\.\d{1,9})?s?)")
_DECIMAL = re.compile(r"-?[0-9]{1,20}")
_SYSFS = Path("/sys/bus/nd/devices")

#: The claim of a namespace's label ("holder class"), and the mode that ndctl calls by it.
_MODE_OF_CLAIM = {"dax": "devdax", "pfn": "fsdax"}


@dataclass(frozen=True)
class Namespace:
    """A namespace. ``uuid`` is the one in its label; ``claim`` the mode that the label reserves it for ("" if none).

    Sizes are bytes. What its mode does not have is 0 or "".
    """

    dev: str
    name: str
    mode: str
    map: str
    size: int
    align: int
    uuid: str
    device: str
    enabled: bool
    claim: str
    sector_size: int = 0


@dataclass(frozen=True)
class NdRegion:
    """A persistent-memory region; ``serials`` are those of the memdevs below it."""

    name: str
    size: int
    available_size: int
    serials: tuple[int, ...]
    namespaces: tuple[Namespace, ...]


def list_nd_regions(runner: Runner, sysfs: Path = _SYSFS) -> list[NdRegion]:
    """All persistent-memory regions of this host with their configured namespaces."""
    # Buses are asked for because only then the shape of the answer does not depend on what there is.
    buses = must_json(runner, ["ndctl", "list", "-B", "-D", "-R", "-N", "-c", "-v"], "namespaces")
    return parse_nd_regions(buses, lambda dev: _claim(sysfs / dev))


def parse_nd_regions(buses: object, claim_of: Callable[[str], str] = lambda dev: "") -> list[NdRegion]:
    """The records of ``ndctl list -B -D -R -N -c -v``.

    :param claim_of: gives the claim in a namespace's label by the name of the namespace; ndctl does not print it.
    """
    regions: list[NdRegion] = []
    for bus in _rows({"buses": buses}, "buses"):
        serials = {str(row.get("dev")): _serial(row) for row in _rows(bus, "dimms")}
        regions += [_region(row, serials, claim_of) for row in _rows(bus, "regions")]
    return regions


def find_nd_region(regions: Iterable[NdRegion], serials: Iterable[int]) -> NdRegion | None:
    """The region over exactly the memdevs with these serial numbers, in whatever order."""
    wanted = sorted(serials)
    return next((region for region in regions if sorted(region.serials) == wanted), None)


def _region(row: dict[str, Any], serials: dict[str, int], claim_of: Callable[[str], str]) -> NdRegion:
    dimms = [str(mapping.get("dimm")) for mapping in _rows(row, "mappings")]
    return NdRegion(
        name=_text(row, "dev", _REGION),
        size=_number(row, "size"),
        available_size=_number(row, "available_size"),
        serials=tuple(serials.get(dimm, -1) for dimm in dimms),
        namespaces=tuple(_namespace(child, claim_of) for child in _rows(row, "namespaces")),
    )


def _namespace(row: dict[str, Any], claim_of: Callable[[str], str]) -> Namespace:
    dev = _text(row, "dev", _NAMESPACE)
    return Namespace(
        dev=dev,
        name=str(row.get("name", "")),
        mode=str(row.get("mode", "")),
        map=str(row.get("map", "")),
        size=_number(row, "size"),
        align=_number(row, "align"),
        uuid=str(row.get("raw_uuid") or row.get("uuid") or ""),
        device=_device(row),
        enabled=row.get("state") != "disabled",
        claim=claim_of(dev),
        sector_size=_number(row, "sector_size"),
    )


def _device(row: dict[str, Any]) -> str:
    """/dev/daxX.Y or /dev/pmemX of an enabled namespace, else ""."""
    dax = row.get("daxregion")
    devices = _rows(dax, "devices") if isinstance(dax, dict) else []
    name = str(devices[0].get("chardev", "")) if devices else str(row.get("chardev") or row.get("blockdev") or "")
    if not name or row.get("state") == "disabled":
        return ""
    return f"/dev/{_text({'device': name}, 'device', _DEVICE)}"


def _claim(namespace: Path) -> str:
    try:
        text = (namespace / "holder_class").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
    return _MODE_OF_CLAIM.get(text, "")


def _serial(row: dict[str, Any]) -> int:
    """The kernel prints the serial number of a CXL dimm as a signed decimal."""
    text = str(row.get("id", ""))
    return int(text) % (1 << 64) if _DECIMAL.fullmatch(text) else -1


def _rows(row: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = row.get(key, [])
    if isinstance(rows, list) and all(isinstance(child, dict) for child in rows):
        return rows
    raise LabError("ndctl list", f"{key} is no list of objects", "check that ndctl is version 81 or newer", observed=row)


def _text(row: dict[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    text = row.get(key)
    if isinstance(text, str) and pattern.fullmatch(text):
        return text
    raise LabError("ndctl list", f"{key} is {text!r}, which is no name of a device", observed=row)


def _number(row: dict[str, Any], key: str) -> int:
    number = row.get(key, 0)
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 64:
        return number
    raise LabError("ndctl list", f"{key} is {number!r}, which is no size", observed=row)
