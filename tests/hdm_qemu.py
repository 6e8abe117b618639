# SPDX-License-Identifier: GPL-3.0-or-later
"""A real QEMU with a type-3 device and no guest: the test programs the HDM decoders and stores through the fixed window."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dcd_devices import EMULATORS, MIB, StoppedQemu
from qtest_function import BAR0, DEVICE, QtestFunction

_HDM_CAPABILITY = 5
_COMMIT = 1 << 9


class HdmQemu:
    """The machine. The device has ``SIZE`` bytes of persistent memory, in the file ``memory``."""

    SIZE = 1024 * MIB

    def __init__(self, monitor: StoppedQemu, function: QtestFunction, memory: Path) -> None:
        self._ask, self.memory = function.ask, memory
        self._ask(f"writew {DEVICE + 4:#x} 6")  # answer to loads and stores
        tree = monitor.execute("human-monitor-command", {"command-line": "info mtree"})
        line = next(line for line in tree.splitlines() if "cxl-fixed-memory-region" in line)
        self.window = int(line.strip().split("-")[0], 16)
        self._hdm = self._find_decoders()

    def commit(self, decoder: int, base: int, size: int) -> None:
        """Lets a decoder take ``size`` bytes at a host physical address; its place on the device follows those before it."""
        registers = self._hdm + 0x20 * decoder
        self._ask(f"writel {self._hdm + 4:#x} 2")
        for offset, value in ((0x10, base), (0x18, size)):
            self._ask(f"writel {registers + offset:#x} {value & 0xFFFFFFFF:#x}")
            self._ask(f"writel {registers + offset + 4:#x} {value >> 32:#x}")
        self._ask(f"writel {registers + 0x20:#x} {_COMMIT:#x}")

    def uncommit(self, *decoders: int) -> None:
        for decoder in decoders:
            self._ask(f"writel {self._hdm + 0x20 * decoder + 0x20:#x} 0")

    def store(self, address: int, value: int) -> None:
        self._ask(f"writeq {address:#x} {value:#x}")

    def place(self, value: int) -> int:
        """Where in the memory of the device this 64-bit value is, -1 when it is nowhere."""
        with self.memory.open("rb") as file:
            at = 0
            # Only where there are data: the rest of the file is a hole.
            while at < self.SIZE:
                try:
                    begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
                except OSError:
                    return -1
                at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
                found = os.pread(file.fileno(), at - begin, begin).find(value.to_bytes(8, "little"))
                if found >= 0:
                    return begin + found
        return -1

    def _find_decoders(self) -> int:
        headers = BAR0 + 0x1000
        count = self._ask(f"readl {headers:#x}") >> 24
        found = [self._ask(f"readl {headers + 4 * number:#x}") for number in range(1, count + 1)]
        return next(headers + (header >> 20) for header in found if header & 0xFFFF == _HDM_CAPABILITY)


@contextlib.contextmanager
def hdm_qemu() -> Iterator[HdmQemu]:
    with tempfile.TemporaryDirectory(prefix="cxl-test-", dir="/dev/shm") as name:
        folder = Path(name)
        command = ["nice", "-n", "19", str(EMULATORS[0]), "-machine", "q35,cxl=on", "-S", "-nodefaults", "-display", "none"]
        command += ["-m", "128M", "-qmp", "stdio", "-device", "pxb-cxl,bus_nr=64,bus=pcie.0,id=cxl.0,addr=0x18"]
        command += ["-device", "cxl-rp,port=0,bus=cxl.0,id=rp0,chassis=64,slot=0"]
        command += ["-object", f"memory-backend-file,id=mem,share=on,mem-path={folder}/mem,size={HdmQemu.SIZE}"]
        command += ["-object", f"memory-backend-file,id=lsa,share=on,mem-path={folder}/lsa,size=1M"]
        command += ["-device", "cxl-type3,bus=rp0,persistent-memdev=mem,lsa=lsa,sn=7"]
        command += ["-M", "cxl-fmw.0.targets.0=cxl.0,cxl-fmw.0.size=4G"]
        command += ["-accel", "qtest", "-qtest", f"unix:{folder}/qtest,server=on,wait=off", "-qtest-log", "none"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield HdmQemu(StoppedQemu(process), QtestFunction(folder / "qtest"), folder / "mem")
            finally:
                process.kill()
