# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernels with dynamic capacity of their own. No mainline kernel up to 7.3 has it; its names moved over the patch series."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
