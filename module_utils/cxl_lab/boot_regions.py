# SPDX-License-Identifier: GPL-3.0-or-later
"""The regions that a host makes again by itself when it boots: a record for each, and one systemd unit for all."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from . import boot_program
from .cxl_list import format_serial
from .durable import sync_folder, write_whole
from .errors import LabError

_PROGRAM = Path("usr/local/lib/cxl-lab/boot-regions")
_UNITS = Path("etc/systemd/system")
_UNIT = "cxl-lab-boot-regions.service"
_UNIT_TEXT = f"""[Unit]
Description=Make the CXL regions of this host again
After=systemd-udev-trigger.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/{_PROGRAM}

[Install]
WantedBy=multi-user.target
"""


class BootRegions:
    """What a host boots with. ``root`` is the root folder of the host."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def is_current(self, region: dict[str, Any]) -> bool:
        """Whether the host makes this region, as `region.describe` shows it, at boot."""
        return all(_content(path) == text for path, text in self._files(region).items()) and self._link().is_symlink()

    def remembers(self, serial: int, type_: str) -> bool:
        """Whether the host makes a region of this type at boot whose lowest serial number is this one."""
        return self._record(serial, type_).exists()

    def remember(self, region: dict[str, Any]) -> None:
        """Has the host make this region at each boot. What is on the disk afterwards survives a reset.

        :raises LabError: on a host without systemd.
        """
        units = self._root / _UNITS
        if not units.is_dir():
            step = "run it where systemd is, or set boot: false"
            raise LabError("boot", f"{units} does not exist, so nothing would make the region at boot", step)
        for path, text in self._files(region).items():
            write_whole(path, text, 0o755 if path.name == _PROGRAM.name else 0o644)
        link = self._link()
        link.parent.mkdir(exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(f"/{_UNITS / _UNIT}")
            sync_folder(link.parent)

    def forget(self, serial: int, type_: str) -> None:
        """Takes the record of such a region away; program and unit stay, they do nothing without records."""
        record = self._record(serial, type_)
        if record.exists():
            record.unlink()
            sync_folder(record.parent)

    def _record(self, serial: int, type_: str) -> Path:
        return self._root / str(record_path(serial, type_)).lstrip("/")

    def _link(self) -> Path:
        return self._root / _UNITS / "multi-user.target.wants" / _UNIT

    def _files(self, region: dict[str, Any]) -> dict[Path, str]:
        serials = [int(serial, 16) for serial in region["serials"]]
        record = {
            "serials": serials,
            **{key: region[key] for key in ("decoder", "type", "size", "uuid", "granularity", "resource")},
        }
        return {
            self._root / _PROGRAM: "#!/usr/bin/python3\n" + inspect.getsource(boot_program),
            self._root / _UNITS / _UNIT: _UNIT_TEXT,
            self._record(min(serials), region["type"]): json.dumps(record, indent=1) + "\n",
        }


def record_path(serial: int, type_: str) -> Path:
    """Where a host keeps the record of a region of this type whose lowest serial number is this one."""
    # A memdev can lie under a region of each type.
    name = format_serial(serial) + (".ram" if type_ == "ram" else "")
    return boot_program.RECORDS / f"{name}.json"


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
