# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel's own CXL driver has: its regions, and maybe dynamic capacity. No mainline kernel up to 7.3 has that; its names
moved over the patch series."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import Code, DatapathError
from .payloads import Range
from .registers import SysfsFunction, cxl_functions

CXL_DRIVER = "cxl_pci"


@dataclass(frozen=True)
class Generation:
    """Names in sysfs: of the attribute of a root decoder that makes a region, and of the partition of a memdev."""

    series: str
    create: str
    partition: str


GENERATIONS = (
    Generation("v11", "create_dynamic_ram_1_region", "dynamic_ram_1"),
    Generation("v8 to v10", "create_dynamic_ram_a_region", "dynamic_ram_a"),
    Generation("before v8", "create_dc_region", "dc0"),
)


def probe(sysfs: Path) -> Generation | None:
    """The generation that this kernel has: a root decoder with the attribute and a memdev with the partition; None without."""
    devices = sysfs / "bus" / "cxl" / "devices"
    for generation in GENERATIONS:
        decoders = any(devices.glob(f"decoder*/{generation.create}"))
        if decoders and any(devices.glob(f"mem*/{generation.partition}")):
            return generation
    return None


def decoders_in_use(sysfs: Path, function: str) -> list[str]:
    """Endpoint decoders of a PCI function that the kernel has programmed: there is a region of its on the device."""
    devices, used = sysfs / "bus" / "cxl" / "devices", []
    memdevs = {path.name for path in (sysfs / "bus" / "pci" / "devices" / function).glob("mem[0-9]*")}
    for endpoint in devices.glob("endpoint*"):
        try:
            if (endpoint / "uport").resolve().name not in memdevs:
                continue
            sizes = {path.parent.name: int(path.read_text().strip(), 0) for path in endpoint.glob("decoder*/size")}
        except (OSError, ValueError):
            continue  # it is about to go
        used += [name for name, size in sizes.items() if size]
    return sorted(used)


def regions(sysfs: Path) -> list[Range]:
    """Host addresses of the kernel's regions, those that are still being made included."""
    found = []
    for folder in (sysfs / "bus" / "cxl" / "devices").glob("region[0-9]*"):
        try:
            first, size = (int((folder / name).read_text().strip(), 0) for name in ("resource", "size"))
        except (OSError, ValueError):
            continue  # it has no addresses yet, or is about to go
        if size:
            found.append((first, size))
    return sorted(found)


def check_settled(sysfs: Path, shared: Path, function: str) -> None:
    """Raises `busy` while the kernel has other memory behind the same decoders (below the folder `shared`) without a region.

    It does not look at its decoders again once it has started: its next region would take the one that is taken here."""
    for other in cxl_functions(sysfs):
        folder = (sysfs / "bus" / "pci" / "devices" / other.name).resolve()
        if shared not in folder.parents or other.name == function or not _is_the_kernels(sysfs, other):
            continue
        memdevs = sorted(folder.glob("mem[0-9]*"))
        if not memdevs:
            what = f"{other.name} has the same host bridge or switch, and the kernel has only begun with it"
            raise DatapathError(Code.BUSY, function, what, "wait until cxl list -M shows its memdev")
        # One without a driver was taken out by hand.
        open_ = [each for each in memdevs if (each / "driver").exists() and _static_bytes(each)]
        if open_ and not decoders_in_use(sysfs, other.name):
            name = open_[0].name
            what = f"{name} ({other.name}) has the same host bridge or switch, and the kernel has no region over it yet"
            hint = f"make that region first (cxl create-region), or take it out: cxl disable-memdev {name}"
            raise DatapathError(Code.BUSY, function, what, hint)


def _is_the_kernels(sysfs: Path, function: SysfsFunction) -> bool:
    """Whether its CXL driver has the function, or is about to."""
    driver = function.driver()
    if driver is None:
        return not function.is_taken() and (sysfs / "bus" / "pci" / "drivers" / CXL_DRIVER).exists()
    return driver == CXL_DRIVER


def _static_bytes(memdev: Path) -> int:
    try:
        return sum(int((memdev / kind / "size").read_text().strip(), 0) for kind in ("ram", "pmem"))
    except (OSError, ValueError):
        return 0  # it is about to go
