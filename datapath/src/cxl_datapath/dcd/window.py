# SPDX-License-Identifier: GPL-3.0-or-later
"""What the firmware says of CXL (its CEDT table; CXL 3.1, 9.18.1): the host's addresses for CXL memory, and its host bridges."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from ..errors import Code, DatapathError, from_errno
from .decoder import COMPONENT_BYTES
from .payloads import Range

_HEADER = 36
_CHBS, _CFMWS = 0, 1
_CHBS_BYTES, _CFMWS_BYTES = 32, 36
_CXL_2 = 1  # a host bridge of CXL 2.0 and later; others show root complex registers at their base
_PAGE = 4096
_ADDRESSES = 1 << 52


@dataclass(frozen=True)
class Window:
    """A fixed memory window: `ways` host bridges (`targets`: their unique identifiers) take turns in it."""

    base: int
    size: int
    ways: int
    targets: tuple[int, ...] = ()


@dataclass(frozen=True)
class Bridge:
    """A host bridge by its unique identifier (_UID) in the firmware; its component registers are at `base`."""

    uid: int
    version: int
    base: int
    size: int


@dataclass(frozen=True)
class Firmware:
    """In the order of the table."""

    windows: tuple[Window, ...]
    bridges: tuple[Bridge, ...]

    def component(self, uid: int, name: str) -> Range:
        """Where the component registers of a host bridge are. Raises `unsupported` or `corrupt`."""
        found = [bridge for bridge in self.bridges if bridge.uid == uid]
        if len(found) != 1:
            what = f"the firmware describes it {len(found)} times (UID {uid})"
            raise DatapathError(Code.CORRUPT if found else Code.UNSUPPORTED, name, what, "see the CHBS entries of its CEDT table")
        bridge = found[0]
        if bridge.version != _CXL_2:
            raise DatapathError(Code.UNSUPPORTED, name, "is of CXL 1.1, and has no decoders", "use a bridge of CXL 2.0 or later")
        if bridge.base % _PAGE or bridge.size < COMPONENT_BYTES or not 0 < bridge.base < bridge.base + bridge.size <= _ADDRESSES:
            what = f"its component registers cannot be {bridge.size:#x} bytes at {bridge.base:#x}"
            raise DatapathError(Code.CORRUPT, name, what, "see the CHBS entries of the firmware's CEDT table")
        return bridge.base, bridge.size


def firmware(sysfs: Path) -> Firmware:
    """Raises `unsupported` without a CEDT table."""
    path = sysfs / "firmware" / "acpi" / "tables" / "CEDT"
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        hint = "is the machine built with CXL (cxl=on)?"
        raise DatapathError(Code.UNSUPPORTED, "firmware", "describes no CXL windows", hint) from None
    except OSError as error:
        raise from_errno(error.errno or 0, str(path), "read it", "run as root") from None
    return parse_cedt(raw)


def parse_cedt(raw: bytes) -> Firmware:
    """Ends at an entry that is longer than the table. What is in the entries is checked where it is used."""
    windows: list[Window] = []
    bridges: list[Bridge] = []
    place = _HEADER
    while place + 4 <= len(raw):
        kind, length = struct.unpack_from("<BxH", raw, place)
        if length < 4 or place + length > len(raw):
            break
        if kind == _CFMWS and length >= _CFMWS_BYTES:
            windows.append(_window(raw[place : place + length]))
        elif kind == _CHBS and length >= _CHBS_BYTES:
            bridges.append(Bridge(*struct.unpack_from("<II4xQQ", raw, place + 4)))
        place += length
    return Firmware(tuple(windows), tuple(bridges))


def _window(entry: bytes) -> Window:
    base, size, code = struct.unpack_from("<QQB", entry, 8)
    ways = 1 << code if code < 8 else 3 << (code - 8) if code < 11 else 0
    listed = min(ways, (len(entry) - _CFMWS_BYTES) // 4)
    return Window(base, size, ways, struct.unpack_from(f"<{listed}I", entry, _CFMWS_BYTES))


def choose(found: tuple[Window, ...], number: int | None, bridge: int | None) -> Window:
    """The window that the user named, or the only one that leads to the host bridge (its UID, None: unknown) and to no other."""
    if number is None:
        any_ = bridge is None or len(found) == 1
        fit = [index for index, each in enumerate(found) if any_ or _leads(each, bridge)]
        if len(fit) != 1:
            listed = ", ".join(f"{index}: {found[index].size:#x} at {found[index].base:#x}" for index in fit)
            hint = f"say which: {listed}" if fit else "see the topology"
            alone = f"none of {len(found)} leads to the host bridge of the device alone"
            what = f"there are {len(fit)}" if fit or not found else alone
            raise DatapathError(Code.INVALID, "fixed memory window", what, hint)
        number = fit[0]
    if number >= len(found):
        raise DatapathError(Code.RANGE, "fixed memory window", f"{number} is not there", f"there are {len(found)}, from 0 on")
    if found[number].ways != 1:
        hint = "name one that leads to one host bridge"
        raise DatapathError(Code.UNSUPPORTED, f"fixed memory window {number}", "interleaves host bridges", hint)
    if not _leads(found[number], bridge):
        hint = "name one that leads to the host bridge of the device"
        raise DatapathError(Code.INVALID, f"fixed memory window {number}", "leads to another host bridge", hint)
    return found[number]


def _leads(window: Window, bridge: int | None) -> bool:
    """Whether it leads to this bridge alone, as far as one can know."""
    return window.ways == 1 and (bridge is None or not window.targets or window.targets[0] == bridge)
