# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixed memory windows (CXL 3.1, 9.18.1): the host's addresses for CXL memory, and what lies between them and a device."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from ..errors import Code, DatapathError, from_errno

_HEADER = 36
_CFMWS = 1
_BRIDGE_CLASS = "0x0604"
_FUNCTION = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


@dataclass(frozen=True)
class Window:
    """`ways` host bridges take turns in it."""

    base: int
    size: int
    ways: int


def windows(sysfs: Path) -> list[Window]:
    """Those of the firmware's CEDT table, in its order. Raises `unsupported` without one."""
    path = sysfs / "firmware" / "acpi" / "tables" / "CEDT"
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        hint = "is the machine built with CXL (cxl=on)?"
        raise DatapathError(Code.UNSUPPORTED, "firmware", "describes no CXL windows", hint) from None
    except OSError as error:
        raise from_errno(error.errno or 0, str(path), "read it", "run as root") from None
    return parse_cedt(raw)


def parse_cedt(raw: bytes) -> list[Window]:
    found, place = [], _HEADER
    while place + 4 <= len(raw):
        kind, length = struct.unpack_from("<BxH", raw, place)
        if length < 4 or place + length > len(raw):
            break
        if kind == _CFMWS and length >= _HEADER:
            base, size, ways = struct.unpack_from("<QQB", raw, place + 8)
            found.append(Window(base, size, 1 << ways if ways < 8 else 3 << (ways - 8) if ways < 11 else 0))
        place += length
    return found


def choose(found: list[Window], number: int | None) -> Window:
    """The window that the user named, or the only one."""
    if number is None and len(found) != 1:
        hint = "say which: " + ", ".join(f"{index}: {each.size:#x} at {each.base:#x}" for index, each in enumerate(found))
        raise DatapathError(Code.INVALID, "fixed memory window", f"there are {len(found)}", hint if found else "see the topology")
    index = number or 0
    if index >= len(found):
        raise DatapathError(Code.RANGE, "fixed memory window", f"{index} is not there", f"there are {len(found)}, from 0 on")
    if found[index].ways != 1:
        hint = "name one that leads to one host bridge"
        raise DatapathError(Code.UNSUPPORTED, f"fixed memory window {index}", "interleaves host bridges", hint)
    return found[index]


def check_direct(sysfs: Path, name: str) -> None:
    """Raises `unsupported` where decoders between the window and the device would have to be programmed.

    With one root port a host bridge passes everything through; with several, or with a switch, it does not."""
    path = (sysfs / "bus" / "pci" / "devices" / name).resolve()
    bridges = [part for part in path.parts[:-1] if _FUNCTION.fullmatch(part)]
    if len(bridges) > 1:
        raise DatapathError(Code.UNSUPPORTED, name, "is behind a switch", "put it at a root port of its own host bridge")
    ports = [port for port in path.parent.parent.glob("*/class") if port.read_text().startswith(_BRIDGE_CLASS)]
    if len(ports) > 1:
        what = f"shares its host bridge, which has {len(ports)} root ports"
        raise DatapathError(Code.UNSUPPORTED, name, what, "give it a host bridge of its own")
