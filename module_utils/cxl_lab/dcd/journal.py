# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fabric manager did and was about to do, on the hypervisor's disk: it survives controller, module and machine.

QEMU drops tags and forgets releases, so the only memory of either is here. An entry is written before the act that it tells of.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ..durable import write_whole
from ..errors import LabError
from ..names import check_name
from .timeline import stamp

VERSION = 1
LOG = "timeline.log"
PHASES = ("offered", "accepted", "releasing")
Phase = Literal["offered", "accepted", "releasing"]


@dataclass(frozen=True)
class Entry:
    """An extent of ours. ``phase`` is what was known or begun last; the device says what it is now."""

    host: str
    device: str
    region: int
    tag: str
    offset: int
    size: int
    shared: bool
    phase: Phase

    @property
    def key(self) -> tuple[str, str, str]:
        return self.host, self.device, self.tag


class Journal:
    """The entries of one lab, and a time line of what happened to them. The caller holds ``lock_path``.

    :param folder: of the lab's fabric manager.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "extents.json"
        self._log = folder / LOG
        self.entries = {entry.key: entry for entry in self._load()}

    @staticmethod
    def lock_path(folder: Path) -> Path:
        return folder / "lock"

    def put(self, entry: Entry, what: str) -> None:
        """Writes the entry; on return it is on the medium."""
        self.entries[entry.key] = entry
        self._save()
        self._trace(entry, what)

    def drop(self, entry: Entry, what: str) -> None:
        self.entries.pop(entry.key, None)
        self._save()
        self._trace(entry, what)

    def of_device(self, host: str, device: str) -> list[Entry]:
        return [entry for entry in self.entries.values() if (entry.host, entry.device) == (host, device)]

    def _load(self) -> list[Entry]:
        try:
            raw = json.loads(self._file.read_text(encoding="utf-8"))
            if raw["version"] != VERSION:
                raise ValueError(f"version {raw['version']!r:.20} is unknown")
            return [_entry(each) for each in raw["extents"]]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise LabError(str(self._file), f"cannot be read: {error.strerror}", "run as root") from error
        except (ValueError, KeyError, TypeError, RecursionError, LabError) as error:
            step = "restore it, or move it away: mhsld_state with repair finds what is held"
            raise LabError(str(self._file), f"is damaged: {type(error).__name__}: {error}", step) from error

    def _save(self) -> None:
        rows = [asdict(entry) for _, entry in sorted(self.entries.items())]
        text = json.dumps({"version": VERSION, "extents": rows}, indent=1)
        try:
            write_whole(self._file, text)
        except OSError as error:
            raise LabError(str(self._file), f"cannot be written: {error.strerror}", "make room, then run again") from error

    def _trace(self, entry: Entry, what: str) -> None:
        """A line that a person reads; losing one is no reason to stop."""
        where = f"{entry.host} {entry.device} region {entry.region} {entry.offset:#x}+{entry.size:#x} tag {entry.tag}"
        try:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(f"{stamp(time.time())} {where}: {what}\n")
        except OSError:
            pass


def _entry(raw: Any) -> Entry:
    numbers = [raw[name] for name in ("region", "offset", "size")]
    if any(isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 1 << 63 for number in numbers):
        raise ValueError("a number of an extent is none")
    if raw["phase"] not in PHASES or not isinstance(raw["shared"], bool):
        raise ValueError("an extent has no phase")
    names = [check_name(raw[name], name) for name in ("host", "device", "tag")]
    return Entry(names[0], names[1], numbers[0], names[2], numbers[1], numbers[2], raw["shared"], cast(Phase, raw["phase"]))
