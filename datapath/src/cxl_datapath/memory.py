# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a user calls a memory to the file that is mapped.

A memory is named by
* `/dev/daxX.Y`: a devdax device;
* `serial:0x...`: the devdax device on the CXL region of the memdev with this serial number (memdev names change over boots);
* `dcd:0x.../<mapping>`: a mapping of dynamic capacity (`cxl-datapath dcd map`) of the device with this serial number, for pools
  of pages; where that is, the daemon knows (`Datapath.memory`);
* any other absolute path: a regular file, for hosts that are processes of one machine.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from .errors import Code, DatapathError, from_errno
from .names import check_name, check_path
from .sysfs import dax_of_serial, dax_properties

PAGE = 4096
DEVDAX_ALIGN = 2 << 20
_DAX = re.compile(r"dax[0-9]+\.[0-9]+")


@dataclass(frozen=True)
class Memory:
    """A memory that exists: `spec` as the user named it, `path` to map from `offset` on, `size` in bytes."""

    spec: str
    path: str
    size: int
    kind: Literal["devdax", "file", "dcd"]
    offset: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Of a process that is trusted. Raises `invalid`."""
        try:
            return cls(check_spec(raw["spec"]), str(raw["path"]), int(raw["size"]), raw["kind"], int(raw["offset"]))
        except (KeyError, TypeError, ValueError):
            raise DatapathError(Code.INVALID, "memory", f"{raw!r:.80} is no memory") from None


def check_spec(value: object) -> str:
    """`value` when it has the form of a memory name; says nothing about existence."""
    if isinstance(value, str) and value.startswith("serial:"):
        parse_serial(value.removeprefix("serial:"))
        return value
    if isinstance(value, str) and value.startswith("dcd:"):
        parse_dcd(value)
        return value
    return check_path("memory", value)


def parse_dcd(spec: str) -> tuple[int, str]:
    """Serial number and name of the mapping."""
    serial, slash, name = spec.removeprefix("dcd:").partition("/")
    if not slash:
        raise DatapathError(
            Code.INVALID, "memory", f"{spec!r:.60} names no mapping", "write dcd:0x<serial>/<name of the mapping>"
        )
    return parse_serial(serial), check_name("mapping", name)


def parse_serial(text: str) -> int:
    if (
        re.fullmatch(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,20}", text)
        and (serial := int(text, 0 if text.startswith("0x") else 10)) < 1 << 64
    ):
        return serial
    raise DatapathError(Code.INVALID, "memory", f"{text!r:.60} is no serial number", "write it as 0x<hex>")


def resolve(spec: str, sysfs: Path = Path("/sys"), dev: Path = Path("/dev")) -> Memory:
    """The memory that `spec` names now. Raises `not_found`, `invalid` (not mappable), or what sysfs makes ambiguous."""
    check_spec(spec)
    if spec.startswith("serial:"):
        return _devdax(spec, dax_of_serial(parse_serial(spec.removeprefix("serial:")), sysfs), sysfs, dev)
    if spec.startswith("dcd:"):
        raise DatapathError(
            Code.UNSUPPORTED, spec, "dynamic capacity is for pools of pages only", "see: cxl-datapath kmem-blk pool"
        )
    path = Path(spec)
    if path.parent == dev and _DAX.fullmatch(path.name):
        return _devdax(spec, path.name, sysfs, dev)
    return _file(spec, path)


def _devdax(spec: str, name: str, sysfs: Path, dev: Path) -> Memory:
    properties = dax_properties(name, sysfs)
    if properties.driver == "kmem":
        hint = f"run: daxctl reconfigure-device --mode=devdax {name}"
        raise DatapathError(Code.INVALID, spec, f"{name} is in use as system memory (mode system-ram)", hint)
    if properties.align != DEVDAX_ALIGN and properties.align % DEVDAX_ALIGN:
        hint = "create the namespace with a 2 MiB alignment"
        raise DatapathError(Code.INVALID, spec, f"{name} has an alignment of {properties.align} bytes", hint)
    size = properties.size - properties.size % properties.align
    if size <= 0:
        raise DatapathError(Code.INVALID, spec, f"{name} has {properties.size} bytes, less than its alignment")
    return Memory(spec, str(dev / name), size, "devdax")


def _file(spec: str, path: Path) -> Memory:
    try:
        found = path.stat()
    except OSError as error:
        hint = "create it with its full size first" if error.errno == 2 else ""
        raise from_errno(error.errno or 0, spec, "look at it", hint) from None
    if stat.S_ISBLK(found.st_mode):
        hint = "CXL memory is mapped as devdax: ndctl create-namespace --mode=devdax, then use /dev/daxX.Y"
        raise DatapathError(Code.INVALID, spec, "is a block device (fsdax or a disk), which hosts cannot share by mapping", hint)
    if not stat.S_ISREG(found.st_mode):
        raise DatapathError(
            Code.INVALID, spec, "is neither a devdax device nor a regular file", "name /dev/daxX.Y, serial:0x..., or a file"
        )
    if found.st_size == 0 or found.st_size % PAGE:
        raise DatapathError(
            Code.INVALID, spec, f"has {found.st_size} bytes, not a multiple of {PAGE}", f"run: truncate -s SIZE {path}"
        )
    return Memory(spec, os.path.realpath(path), found.st_size, "file")
