# SPDX-License-Identifier: GPL-3.0-or-later
"""Which devices this host has in its hands, and who uses what of them: `<state>/dcd.json`, for the next start."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Code, DatapathError, from_errno
from ..names import check_name
from ..state import write_whole
from .payloads import Range

VERSION = 1


@dataclass
class DeviceState:
    """A wanted region: the device by its serial number, the window by its place in the firmware's table (None: the only one).

    `direct`: serial number of the persistent memdev through which its bytes are mapped; None: through the device itself.
    """

    serial: int
    window: int | None
    limit: int | None
    remember: bool
    direct: int | None = None
    mappings: dict[str, Range] = field(default_factory=dict)


class DesiredFile:
    """Written whole, atomically, with fsync."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "dcd.json"

    def load(self) -> list[DeviceState]:
        """Empty without a file. A damaged one is never guessed at: raises `corrupt`."""
        try:
            raw = json.loads(self.path.read_bytes())
            if raw["version"] != VERSION:
                raise ValueError(f"version {raw['version']!r:.20} is unknown")
            found = [_device(each) for each in raw["devices"]]
            if len({each.serial for each in found}) < len(found):
                raise ValueError("two devices have one serial number")
            return found
        except FileNotFoundError:
            return []
        except OSError as error:
            raise from_errno(error.errno or 0, str(self.path), "read it") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, DatapathError) as error:
            hint = "restore it, or move it away and make the regions anew"
            raise DatapathError(Code.CORRUPT, str(self.path), f"is damaged: {type(error).__name__}: {error}", hint) from None

    def save(self, devices: list[DeviceState]) -> None:
        text = json.dumps({"version": VERSION, "devices": [asdict(each) for each in devices]}, indent=1)
        write_whole(self.path, text)


def _device(raw: Any) -> DeviceState:
    mappings = {
        check_name("mapping", name): (_number(first), _number(length)) for name, (first, length) in raw["mappings"].items()
    }
    numbers = {name: raw.get(name) for name in ("window", "limit", "direct")}
    if not isinstance(raw["remember"], bool):
        raise ValueError("remember is neither true nor false")
    optional = {name: None if value is None else _number(value) for name, value in numbers.items()}
    return DeviceState(_number(raw["serial"]), remember=raw["remember"], mappings=mappings, **optional)


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise ValueError(f"{value!r:.40} is no number")
    return value
