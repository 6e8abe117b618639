# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel says of devdax devices and the CXL regions below them.

`/sys/bus/dax/devices/daxX.Y` resolves into a path that goes through its CXL region; `regionN/targetI` names an endpoint
decoder, whose path goes through `endpointM`, and `endpointM/uport` is the memdev.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .errors import Code, DatapathError

_MEMDEV = re.compile(r"mem[0-9]+")
_REGION = re.compile(r"region[0-9]+")
_ENDPOINT = re.compile(r"endpoint[0-9]+")
_TARGETS_MAX = 16  # ways of an interleave set, CXL 3.1 table 8-21


@dataclass(frozen=True)
class DaxProperties:
    size: int  # bytes
    align: int  # bytes
    driver: str  # device_dax, kmem, or empty when unbound


def dax_properties(name: str, sysfs: Path) -> DaxProperties:
    """Size, alignment and driver of a devdax device; `not_found` when the kernel has no such device."""
    device = sysfs / "bus/dax/devices" / name
    if not device.is_dir():
        known = ", ".join(sorted(dax_names(sysfs))) or "none"
        raise DatapathError(
            Code.NOT_FOUND,
            name,
            f"no such devdax device (there are: {known})",
            "create a namespace: ndctl create-namespace -m devdax",
        )
    driver = device / "driver"
    return DaxProperties(
        size=_number(device / "size"),
        align=_number(device / "align") if (device / "align").exists() else 2 << 20,
        driver=driver.resolve().name if driver.exists() else "",
    )


@dataclass(frozen=True)
class DaxPlace:
    """`size` bytes at the host address `start`, in units of `align` bytes; `driver` as in `DaxProperties`."""

    name: str
    start: int
    size: int
    align: int
    driver: str


def dax_places(sysfs: Path) -> list[DaxPlace]:
    """Where each devdax device is that says so."""
    found = []
    for name in sorted(dax_names(sysfs)):
        properties, resource = dax_properties(name, sysfs), sysfs / "bus/dax/devices" / name / "resource"
        if resource.exists():
            found.append(DaxPlace(name, _number(resource), properties.size, properties.align, properties.driver))
    return found


def region_start(name: str, sysfs: Path) -> int:
    """Host address at which the CXL region of a devdax device begins."""
    device = sysfs / "bus/dax/devices" / name
    region = _region_above(device) or _region_around(device, sysfs)
    if region is None:
        raise DatapathError(Code.NOT_FOUND, name, "lies in no CXL region", "name a memdev with a region: cxl list -R")
    return _number(region / "resource")


def dax_names(sysfs: Path) -> list[str]:
    folder = sysfs / "bus/dax/devices"
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def dax_of_serial(serial: int, sysfs: Path) -> str:
    """Name of the only devdax device whose CXL region consists of the memdev with this serial."""
    wanted = f"memdev with serial {serial:#x}"
    memdevs = memdev_serials(sysfs)
    own = {name for name, value in memdevs.items() if value == serial}
    if not own:
        known = ", ".join(f"{name}={value:#x}" for name, value in sorted(memdevs.items())) or "none"
        raise DatapathError(Code.NOT_FOUND, wanted, f"this host has no such memdev (there are: {known})", "run: cxl list -M")
    if len(own) > 1:
        raise DatapathError(
            Code.INVALID, wanted, f"several memdevs carry it: {', '.join(sorted(own))}", "name /dev/daxX.Y instead"
        )
    memdev = own.pop()
    exact: list[str] = []
    shared: list[str] = []
    for name in sorted(dax_names(sysfs)):
        members = region_memdevs(sysfs / "bus/dax/devices" / name, sysfs)
        if memdev in members:
            (exact if members == {memdev} else shared).append(name)
    if len(exact) == 1:
        return exact[0]
    if exact:
        raise DatapathError(
            Code.INVALID, wanted, f"{memdev} carries several devdax devices: {', '.join(exact)}", "name one of them"
        )
    if shared:
        raise DatapathError(
            Code.INVALID, wanted, f"{memdev} is only a part of {', '.join(shared)} (interleaved)", "name it as /dev/daxX.Y"
        )
    raise DatapathError(Code.NOT_FOUND, wanted, f"{memdev} carries no devdax device{_other_mode(memdev, sysfs)}", _DEVDAX_HINT)


_DEVDAX_HINT = "create a region (cxl create-region) and a namespace (ndctl create-namespace -m devdax)"


def memdev_serials(sysfs: Path) -> dict[str, int]:
    """Serial number of each memdev, by name."""
    folder = sysfs / "bus/cxl/devices"
    found: dict[str, int] = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        if _MEMDEV.fullmatch(entry.name) and (entry / "serial").exists():
            found[entry.name] = _number(entry / "serial")
    return found


def region_memdevs(device: Path, sysfs: Path) -> set[str]:
    """Names of the memdevs that make up the CXL region which `device` lies in; empty when it lies in none."""
    region = _region_above(device) or _region_around(device, sysfs)
    if region is None:
        return set()
    members = set()
    for index in range(_TARGETS_MAX):
        target = region / f"target{index}"
        decoder = _text(target) if target.exists() else ""
        if not decoder:
            break
        if (memdev := _memdev_of_decoder(decoder, sysfs)) is not None:
            members.add(memdev)
    return members


def _region_above(device: Path) -> Path | None:
    return next(
        (parent for parent in device.resolve().parents if _REGION.fullmatch(parent.name) and (parent / "target0").exists()), None
    )


def _region_around(device: Path, sysfs: Path) -> Path | None:
    """The CXL region whose addresses contain the device's: a namespace's own path may go over the nvdimm bus instead."""
    folder = sysfs / "bus/cxl/devices"
    if not (device / "resource").exists() or not folder.is_dir():
        return None
    address = _number(device / "resource")
    for region in sorted(folder.iterdir()):
        if _REGION.fullmatch(region.name) and (region / "resource").exists() and (region / "size").exists():
            start = _number(region / "resource")
            if start <= address < start + _number(region / "size"):
                return region
    return None


def _memdev_of_decoder(decoder: str, sysfs: Path) -> str | None:
    if not re.fullmatch(r"decoder[0-9]+\.[0-9]+", decoder):
        return None
    devices = sysfs / "bus/cxl/devices"
    for parent in (devices / decoder).resolve().parents:
        if _ENDPOINT.fullmatch(parent.name):
            return (devices / parent.name / "uport").resolve().name
    return None


def _other_mode(memdev: str, sysfs: Path) -> str:
    """Says so when the memdev is in use as a pmem block device, the usual reason why there is no devdax."""
    folder = sysfs / "class/block"
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        if entry.name.startswith("pmem") and memdev in region_memdevs(entry, sysfs):
            return f", its namespace is the block device {entry.name} (fsdax mode)"
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError as error:
        raise DatapathError(Code.FAILED, str(path), f"cannot read it: {error.strerror}") from None


def _number(path: Path) -> int:
    text = _text(path)
    if not re.fullmatch(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,20}", text):
        raise DatapathError(Code.CORRUPT, str(path), f"holds {text!r:.60}, not a number")
    return int(text, 16 if text.startswith("0x") else 10)
