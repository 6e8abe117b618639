# SPDX-License-Identifier: GPL-3.0-or-later
"""Register access: what the driver needs of a PCI function, and the real one in sysfs.

Everything above works on `Function`, so that a model of a device takes the place of the real one in tests.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from typing import Protocol

from ..errors import Code, DatapathError, from_errno

CONFIG_BYTES = 4096
OVERRIDE = "cxl-datapath"  # a driver name that nobody has: keeps the kernel's driver from coming back


class Registers(Protocol):
    """One BAR. Offsets are aligned to the access; each call is one load or store of this width."""

    @property
    def size(self) -> int: ...

    def read32(self, offset: int) -> int: ...

    def read64(self, offset: int) -> int: ...

    def write32(self, offset: int, value: int) -> None: ...

    def write64(self, offset: int, value: int) -> None: ...


class Function(Protocol):
    """A PCI function of class 0502h (CXL memory device)."""

    @property
    def name(self) -> str: ...

    def config(self) -> bytes: ...

    def write_config16(self, offset: int, value: int) -> None: ...

    def bar(self, number: int) -> Registers: ...

    def driver(self) -> str | None: ...

    def take(self) -> None: ...

    def give_back(self) -> None: ...


class MappedRegisters:
    """Mapped registers: a BAR, or `size` bytes from the page `base` of a file on.

    An element of a cast view is one load or store; a slice would be a memcpy of any widths."""

    def __init__(self, path: Path, base: int = 0, size: int | None = None, hint: str = "") -> None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
            try:
                self.size = os.fstat(fd).st_size if size is None else size
                self._map = mmap.mmap(fd, self.size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=base)
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            hint = hint or "the kernel refuses while a driver has the device: unbind it first"
            raise from_errno(getattr(error, "errno", 22) or 22, str(path), "map the registers", hint) from None
        self._words = memoryview(self._map).cast("I")
        self._longs = memoryview(self._map).cast("Q")

    def __enter__(self) -> MappedRegisters:
        return self

    def __exit__(self, *_: object) -> None:
        self._words.release()
        self._longs.release()
        self._map.close()

    def read32(self, offset: int) -> int:
        return self._words[offset >> 2]

    def read64(self, offset: int) -> int:
        return self._longs[offset >> 3]

    def write32(self, offset: int, value: int) -> None:
        self._words[offset >> 2] = value

    def write64(self, offset: int, value: int) -> None:
        self._longs[offset >> 3] = value


class SysfsFunction:
    """A function in `<sysfs>/bus/pci/devices`."""

    def __init__(self, sysfs: Path, name: str) -> None:
        self.name = name
        self._bus = sysfs / "bus" / "pci"
        self._folder = self._bus / "devices" / name
        self._bars: dict[int, MappedRegisters] = {}

    def config(self) -> bytes:
        raw = self._read("config")
        if len(raw) < CONFIG_BYTES:
            raise DatapathError(Code.DENIED, self.name, f"shows {len(raw)} bytes of its configuration", "run as root")
        return raw

    def write_config16(self, offset: int, value: int) -> None:
        try:
            with (self._folder / "config").open("r+b", buffering=0) as file:
                file.seek(offset)
                file.write(value.to_bytes(2, "little"))
        except OSError as error:
            raise from_errno(error.errno or 0, self.name, "write its configuration", "run as root") from None

    def bar(self, number: int) -> Registers:
        if number not in self._bars:
            self._bars[number] = MappedRegisters(self._folder / f"resource{number}")
        return self._bars[number]

    def driver(self) -> str | None:
        with contextlib.suppress(OSError):
            return (self._folder / "driver").readlink().name
        return None

    def take(self) -> None:
        """Detaches the kernel's driver and keeps it away."""
        self._write("driver_override", f"{OVERRIDE}\n")
        if self.driver() is not None:
            self._write("driver/unbind", self.name)
        if (still := self.driver()) is not None:
            raise DatapathError(Code.BUSY, self.name, f"driver {still} does not let go", "see dmesg")

    def is_taken(self) -> bool:
        """Whether this daemon keeps the kernel's driver away from it."""
        with contextlib.suppress(OSError):
            return (self._folder / "driver_override").read_text().strip() == OVERRIDE
        return False

    def give_back(self) -> None:
        """Lets the kernel's driver have it again. Every decoder must be free: else the kernel makes a region of it."""
        self._bars.clear()
        self._write("driver_override", "\n")
        try:
            (self._bus / "drivers_probe").write_text(self.name)
        except OSError as error:
            raise from_errno(error.errno or 0, self.name, "give it back to the kernel's driver", "see dmesg") from None

    def _read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise from_errno(error.errno or 0, self.name, f"read {name}") from None

    def _write(self, name: str, text: str) -> None:
        try:
            (self._folder / name).write_text(text)
        except OSError as error:
            raise from_errno(error.errno or 0, self.name, f"write {name}", "run as root") from None


def cxl_functions(sysfs: Path) -> list[SysfsFunction]:
    """Every function of class 0502h."""
    found = []
    for folder in sorted((sysfs / "bus" / "pci" / "devices").glob("*")):
        with contextlib.suppress(OSError):
            if (folder / "class").read_text().startswith("0x0502"):
                found.append(SysfsFunction(sysfs, folder.name))
    return found
