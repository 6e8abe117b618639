# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies between a window and a device: its host bridge and the switches, found in sysfs and in the firmware's tables."""

from __future__ import annotations

import re
import struct
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import Code, DatapathError
from .config import BLOCK_COMPONENT, locate
from .decoder import COMPONENT_BYTES, find_hdm
from .leader import Hop
from .registers import MappedRegisters, Registers, SysfsFunction
from .window import Firmware

_BRIDGE_CLASS = "0x0604"
_FUNCTION = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_STATUS, _STATUS_LIST, _LIST, _CAP_PCIE = 0x06, 0x10, 0x34, 0x10
_ROOT_PORT, _UPSTREAM, _DOWNSTREAM = 4, 5, 6
RELAXED = "boot with iomem=relaxed: the kernel keeps these registers from programs otherwise, for its own CXL driver"


class Access(Protocol):
    """Component registers, mapped for a moment."""

    def bar(self, function: str, number: int) -> AbstractContextManager[Registers]: ...

    def memory(self, base: int, size: int) -> AbstractContextManager[Registers]: ...


class RealAccess:
    """BARs in sysfs; the registers of host bridges, which are in no BAR, in `<dev>/mem`."""

    def __init__(self, sysfs: Path, dev: Path) -> None:
        self._sysfs, self._dev = sysfs, dev

    def bar(self, function: str, number: int) -> AbstractContextManager[Registers]:
        return MappedRegisters(self._sysfs / "bus/pci/devices" / function / f"resource{number}", hint=RELAXED)

    def memory(self, base: int, size: int) -> AbstractContextManager[Registers]:
        return MappedRegisters(self._dev / "mem", base, size, hint=RELAXED)


@dataclass(frozen=True)
class Above:
    """The host bridge of a device (its UID, None where the firmware does not say), and the bridge and switches that have decoders
    on the way, the first one next to the window; `shared`: the folder in sysfs of everything below that one, None without any."""

    bridge: int | None
    hops: tuple[Hop, ...]
    shared: Path | None


def find_above(sysfs: Path, name: str, firmware: Firmware, access: Access) -> Above:
    """`name`: of the device's PCI function. Raises `unsupported` for ways that are none of CXL."""
    device = (sysfs / "bus" / "pci" / "devices" / name).resolve()
    way = [part for part in device.parts[:-1] if _FUNCTION.fullmatch(part)]
    ports = [_port(SysfsFunction(sysfs, each)) for each in way]
    kinds = [kind for kind, _ in ports]
    if kinds != [_ROOT_PORT, *[_UPSTREAM, _DOWNSTREAM] * (len(kinds) // 2)]:
        what = f"is behind ports of the PCIe types {', '.join(map(str, kinds)) or 'none'}: no root port, or no switches below it"
        raise DatapathError(Code.UNSUPPORTED, name, what, "plug it into a root port or a switch")
    top = device.parents[len(way)]
    uid = _uid(top)
    hops = [_switch(sysfs, way[index], ports[index + 1][1], access) for index in range(1, len(way), 2)]
    shared = device.parents[len(way) - 2] if hops else None
    if _has_decoders(top, uid, firmware, access):
        hops.insert(0, _bridge(top, uid, ports[0][1], firmware, access))
        shared = top
    return Above(uid, tuple(hops), shared)


def _has_decoders(top: Path, uid: int | None, firmware: Firmware, access: Access) -> bool:
    """With several root ports a host bridge has to have some. With one its registers say whether it does, and where the kernel
    keeps even those to itself it is taken for one that passes everything through."""
    count = sum(port.read_text().startswith(_BRIDGE_CLASS) for port in top.glob("*/class"))
    if count > 1:
        return True
    try:
        base, size = firmware.component(_known(top, uid), top.name)
        with access.memory(base, min(size, COMPONENT_BYTES)) as registers:
            return find_hdm(registers, 0) is not None
    except DatapathError:
        return False


def _bridge(top: Path, uid: int | None, port: int, firmware: Firmware, access: Access) -> Hop:
    base, _ = firmware.component(_known(top, uid), f"host bridge {top.name}")
    return Hop(f"host bridge {top.name}", port, 0, lambda: access.memory(base, COMPONENT_BYTES))


def _known(top: Path, uid: int | None) -> int:
    if uid is None:
        what = "the firmware gives it no unique identifier"
        raise DatapathError(
            Code.UNSUPPORTED, f"host bridge {top.name}", what, "see firmware_node/uid in its folder of /sys/devices"
        )
    return uid


def _switch(sysfs: Path, upstream: str, port: int, access: Access) -> Hop:
    name = f"switch {upstream}"
    place = locate(SysfsFunction(sysfs, upstream).config(), name, (BLOCK_COMPONENT,))[BLOCK_COMPONENT]
    return Hop(name, port, place.offset, lambda: access.bar(upstream, place.bar))


def _uid(top: Path) -> int | None:
    try:
        return int((top / "firmware_node" / "uid").read_text())
    except (OSError, ValueError):
        return None


def _port(function: SysfsFunction) -> tuple[int, int]:
    """Type and number of a port, from its PCI Express capability (PCIe 6.0, 7.5.3)."""
    config = function.config()
    offset, seen = config[_LIST] & 0xFC if config[_STATUS] & _STATUS_LIST else 0, set()
    while offset >= 0x40 and offset not in seen:
        seen.add(offset)
        if config[offset] == _CAP_PCIE:
            flags, links = struct.unpack_from("<H8xI", config, offset + 2)
            return flags >> 4 & 0xF, links >> 24
        offset = config[offset + 1] & 0xFC
    raise DatapathError(Code.UNSUPPORTED, function.name, "is no PCI Express port", "plug the device into a root port or a switch")
