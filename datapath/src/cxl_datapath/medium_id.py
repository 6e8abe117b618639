# SPDX-License-Identifier: GPL-3.0-or-later
"""Which medium a backend was started on, a file or a block device: another one that took its path has other data."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

from .cbd.hosting import boot_id
from .errors import Code, DatapathError
from .file_id import NUMBER, FileId, boot_of

_MARKS = {  # where the kernel tells what belongs to the medium and not to its place, below the folder of a disk
    "wwid": ("wwid", "device/wwid"),  # NVMe, SCSI
    "serial": ("serial", "device/serial"),  # virtio, NVMe and MMC
    "dm": ("dm/uuid",),
    "md": ("md/uuid",),
}
_BLKGETSIZE64, _LOOP_GET_STATUS64 = 0x80081272, 0x4C05
_LOOP_INFO = struct.Struct("QQ8xQ200x")  # struct loop_info64: device, inode, offset; 232 bytes
_SECTOR = 512  # bytes, of sysfs
_TEXT_MAX = 1024


@dataclass(frozen=True)
class DeviceId:
    """A block device. What has no marks is known by its place, which counts within `boot` only, and by its size."""

    marks: dict[str, str]  # by their kind; of a partition also those of its disk
    below: FileId | DeviceId | None  # what a loop device shows
    start: int  # bytes from the beginning of what is marked or below: of a partition, or of a loop device's part
    size: int  # bytes
    device: int  # st_rdev
    sequence: int  # of the disk: a number that the kernel gives to no other medium in one boot; 0 where it does not tell
    boot: str  # boot id, 32 hex digits

    @classmethod
    def of(cls, fd: int, sysfs: Path = Path("/sys")) -> Self:
        number = os.fstat(fd).st_rdev
        folder = (sysfs / f"dev/block/{os.major(number)}:{os.minor(number)}").resolve()
        disk = folder.parent if (folder / "partition").exists() else folder
        marks = {kind: text for kind, names in _MARKS.items() if (text := _first_text(disk, names))}
        if uuid := _uevent(folder, "PARTUUID"):
            marks["partuuid"] = uuid
        below, offset = _loop(fd, disk)
        start = offset + _number(folder / "start") * _SECTOR
        return cls(marks, below, start, _size(fd), number, _number(disk / "diskseq"), boot_id().hex())

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Raises `invalid`, KeyError, TypeError, AttributeError."""
        marks = {_short("mark", kind): _short("mark", text) for kind, text in raw["marks"].items()}
        numbers = {name: NUMBER(name, raw[name]) for name in ("start", "size", "device", "sequence")}
        return cls(marks=marks, below=medium_from_json(raw["below"]), boot=boot_of(raw["boot"]), **numbers)

    def is_same(self, other: MediumId | None) -> bool:
        if not isinstance(other, DeviceId) or self.start != other.start:
            return False
        if self.below is not None and not self.below.is_same(other.below):
            return False
        if self.marks or self.below is not None:
            return all(other.marks.get(kind) == text for kind, text in self.marks.items())
        return self._is_same_place(other)

    def _is_same_place(self, other: DeviceId) -> bool:
        if self.boot != other.boot:
            return self.size == other.size  # the kernel numbers its devices anew
        if 0 not in (self.sequence, other.sequence):
            return (self.device, self.sequence) == (other.device, other.sequence)
        return (self.device, self.size) == (other.device, other.size)


MediumId: TypeAlias = FileId | DeviceId


def medium_of(fd: int) -> MediumId | None:
    """None for a medium without a descriptor (-1)."""
    if fd >= 0 and stat.S_ISBLK(os.fstat(fd).st_mode):
        return DeviceId.of(fd)
    return FileId.of(fd)


def medium_from_json(raw: Any) -> MediumId | None:
    """Raises `invalid`, KeyError, TypeError, AttributeError."""
    return DeviceId.from_json(raw) if isinstance(raw, dict) and "marks" in raw else FileId.from_json(raw)


def _loop(fd: int, disk: Path) -> tuple[MediumId | None, int]:
    """What a loop device shows, and from which byte on; the file at its path may be another one by now."""
    path = _text(disk / "loop/backing_file")
    if not path:
        return None, 0
    info = bytearray(_LOOP_INFO.size)
    try:
        fcntl.ioctl(fd, _LOOP_GET_STATUS64, info)
    except OSError:
        return None, 0  # let go of its file meanwhile
    device, inode, offset = _LOOP_INFO.unpack(info)
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(file)
            if (found.st_ino, found.st_dev) == (inode, device):
                return medium_of(file), offset
        finally:
            os.close(file)
    return FileId(inode, device, boot_id().hex()), offset


def _size(fd: int) -> int:
    raw = bytearray(8)
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, _BLKGETSIZE64, raw)
    return int.from_bytes(raw, "little")


def _uevent(folder: Path, key: str) -> str:
    pairs = (line.partition("=") for line in _text(folder / "uevent").splitlines())
    return next((value for name, _, value in pairs if name == key), "")


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdecimal() else 0


def _first_text(folder: Path, names: tuple[str, ...]) -> str:
    return next((text for name in names if (text := _text(folder / name))), "")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip().strip("\0")[:_TEXT_MAX]
    except OSError:
        return ""


def _short(name: str, value: Any) -> str:
    if isinstance(value, str) and len(value) <= _TEXT_MAX:
        return value
    raise DatapathError(Code.INVALID, name, f"{value!r:.60} is no text of at most {_TEXT_MAX} characters")
