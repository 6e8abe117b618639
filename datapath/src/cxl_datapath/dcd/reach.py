# SPDX-License-Identifier: GPL-3.0-or-later
"""Through which file a program reaches a range of a device: the window of the device itself, or another way to the same bytes.

The window's host addresses are in `/dev/mem`. Where the guest was booted with a devdax device over the window, that is taken
instead: the kernel then keeps `/dev/mem` off it. Either way the device itself lets accepted extents through and nothing else.

The direct way is a persistent memdev over the same bytes, mapped through its devdax. It is as fast as memory, and only this
daemon keeps programs to accepted extents there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import Code, DatapathError, from_errno
from ..sysfs import DaxPlace, dax_of_serial, dax_places, region_start
from .payloads import Range

DRIVER = "device_dax"


@dataclass(frozen=True)
class Reach:
    """The range is at `offset` of the file `path`."""

    path: Path
    offset: int


def open_devdax(window: Range, sysfs: Path) -> None:
    """Has the kernel show a devdax over the window as a device: left alone it waits for the driver of system memory.

    Raises `busy` when that one has it: memory that comes and goes must never be the kernel's."""
    for place in dax_places(sysfs):
        if place.start >= sum(window) or window[0] >= place.start + place.size or place.driver == DRIVER:
            continue
        if place.driver:
            hint = f"run: daxctl reconfigure-device --mode=devdax {place.name}"
            raise DatapathError(Code.BUSY, place.name, f"driver {place.driver} has it, and it lies over the window", hint)
        try:
            (sysfs / "bus/dax/drivers" / DRIVER / "new_id").write_text(place.name)
        except OSError as error:
            raise from_errno(error.errno or 0, place.name, "open it", f"load its driver: modprobe {DRIVER}") from None


def through_window(base: int, wanted: Range, sysfs: Path, dev: Path) -> Reach:
    """`base`: host address of device address 0. Raises `invalid` for what a devdax over the window cannot map."""
    address, size = base + wanted[0], wanted[1]
    for place in dax_places(sysfs):
        if place.driver == DRIVER and place.start <= address and address + size <= place.start + place.size:
            return _in_devdax(place, address - place.start, size, dev)
    return Reach(dev / "mem", address)


def directly(serial: int, wanted: Range, sysfs: Path, dev: Path) -> Reach:
    """`serial`: of the persistent memdev. What lies in front of its namespace's data cannot be had: raises `range`."""
    name = dax_of_serial(serial, sysfs)
    place = next((each for each in dax_places(sysfs) if each.name == name), None)
    if place is None:
        raise DatapathError(Code.NOT_READY, name, "does not say where it is; it has only come, or is about to go", "try again")
    ahead = place.start - region_start(name, sysfs)
    if wanted[0] < ahead or sum(wanted) > ahead + place.size:
        what = f"{name} reaches device addresses {ahead:#x} to {ahead + place.size:#x} only"
        raise DatapathError(
            Code.RANGE, f"direct data path {serial:#x}", what, f"map from {ahead:#x} on: its namespace has the rest"
        )
    return _in_devdax(place, wanted[0] - ahead, wanted[1], dev)


def _in_devdax(place: DaxPlace, offset: int, size: int, dev: Path) -> Reach:
    if offset % place.align or size % place.align:
        what = f"{offset:#x}+{size:#x} is not whole units of {place.align:#x} bytes, and the kernel maps no others of it"
        raise DatapathError(Code.INVALID, place.name, what, "choose first byte and size accordingly")
    return Reach(dev / place.name, offset)
