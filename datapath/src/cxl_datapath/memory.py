# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a user calls a memory to the file that is mapped.

A memory is named by
* `/dev/daxX.Y`: a devdax device;
* `serial:0x...`: the devdax device on the CXL region of the memdev with this serial number (memdev names change over boots);
* `dcd:0x.../NAME`: the mapping NAME of the dynamic-capacity device with this serial number, a range of accepted extents;
* any other absolute path: a regular file, for hosts that are processes of one machine.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from .errors import Code, DatapathError, from_errno
from .names import check_name, check_path
from .sysfs import dax_of_serial, dax_properties

PAGE = 4096
DEVDAX_ALIGN = 2 << 20
_DAX = re.compile(r"dax[0-9]+\.[0-9]+")


#: A window is mapped from `/dev/mem`: the kernel has no page structures for it, so that O_DIRECT cannot read into it.
Kind = Literal["devdax", "file", "window"]


@dataclass(frozen=True)
class Memory:
    """A memory that exists: `spec` as the user named it, `size` bytes to map of `path`, from `offset` on."""

    spec: str
    path: str
    size: int
    kind: Kind
    offset: int = 0

    @property
    def dynamic(self) -> bool:
        """Whether it is dynamic capacity, which can be taken away, and is a part of what is at `path`."""
        return self.spec.startswith("dcd:")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Of a process that is trusted. Raises `invalid`."""
        try:
            return cls(check_spec(raw["spec"]), str(raw["path"]), int(raw["size"]), raw["kind"], int(raw["offset"]))
        except (KeyError, TypeError, ValueError):
            raise DatapathError(Code.INVALID, "memory", f"{raw!r:.80} is no memory") from None

    def is_same(self, other: Memory) -> bool:
        """Whether both are the same bytes, whatever they are called."""
        return (self.path, self.offset) == (other.path, other.offset)


#: Finds a mapping of dynamic capacity, by the serial number of its device and its name.
Extents = Callable[[int, str], Memory]


def check_spec(value: object) -> str:
    """`value` when it has the form of a memory name; says nothing about existence."""
    if isinstance(value, str) and value.startswith("serial:"):
        parse_serial(value)
        return value
    if isinstance(value, str) and value.startswith("dcd:"):
        parse_mapping(value)
        return value
    return check_path("memory", value)


def parse_serial(spec: str) -> int:
    return _serial(spec.removeprefix("serial:"), spec, "serial:0x<hex>")


def parse_mapping(spec: str) -> tuple[int, str]:
    """Serial number and name in `dcd:0x.../NAME`."""
    serial, _, name = spec.removeprefix("dcd:").partition("/")
    return _serial(serial, spec, "dcd:0x<hex>/NAME"), check_name("mapping", name)


def _serial(text: str, spec: str, form: str) -> int:
    if (
        re.fullmatch(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,20}", text)
        and (serial := int(text, 0 if text.startswith("0x") else 10)) < 1 << 64
    ):
        return serial
    raise DatapathError(Code.INVALID, "memory", f"{spec!r:.60} holds no serial number", f"write {form}")


def resolve(spec: str, sysfs: Path = Path("/sys"), dev: Path = Path("/dev"), extents: Extents | None = None) -> Memory:
    """The memory that `spec` names now. Raises `not_found`, `invalid` (not mappable), or what sysfs makes ambiguous.

    `extents`: of this host; only its daemon has them."""
    check_spec(spec)
    if spec.startswith("dcd:"):
        if extents is None:
            raise DatapathError(Code.UNSUPPORTED, spec, "is known to the host's daemon only", "ask it: cxl-datapath dcd map")
        return extents(*parse_mapping(spec))
    if spec.startswith("serial:"):
        return _devdax(spec, dax_of_serial(parse_serial(spec), sysfs), sysfs, dev)
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
