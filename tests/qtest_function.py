# SPDX-License-Identifier: GPL-3.0-or-later
"""The CXL device of a real QEMU without any guest: QEMU's test protocol (qtest) performs the loads and stores of the driver."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

ECAM, BAR0, BAR2 = 0xB0000000, 0xE0000000, 0xE0100000
ROOT_PORT, DEVICE = ECAM + (64 << 20), ECAM + (65 << 20)


class Qtest:
    """The connection, with the configuration space of all PCI functions at ``ECAM``."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + 60
        while self._socket.connect_ex(str(path)):
            assert time.monotonic() < end, "QEMU does not listen"
            time.sleep(0.1)
        self._lines = self._socket.makefile("r")
        self.ask(f"outl 0xcf8 {0x80000060:#x}")  # PCIEXBAR of the root complex
        self.ask(f"outl 0xcfc {ECAM | 1:#x}")

    def ask(self, line: str) -> int:
        """One load or store; the value of a load."""
        answer = self._exchange(line)
        return int(answer[1], 16) if len(answer) > 1 else 0

    def read(self, address: int, size: int) -> bytes:
        return bytes.fromhex(self._exchange(f"read {address:#x} {size:#x}")[1][2:])

    def _exchange(self, line: str) -> list[str]:
        self._socket.sendall(f"{line}\n".encode())
        answer = self._lines.readline().split()
        assert answer and answer[0] == "OK", (line, answer)
        return answer


class QtestFunction:
    """The device at the root port of ``stopped_qemu``, with addresses assigned as a firmware would."""

    name = "0000:41:00.0"

    def __init__(self, path: Path) -> None:
        self.ask = Qtest(path).ask
        self.ask(f"writel {ROOT_PORT + 0x18:#x} 0x414140")  # bus numbers
        self.ask(f"writel {ROOT_PORT + 0x20:#x} 0xe010e000")  # memory window
        self.ask(f"writew {ROOT_PORT + 0x04:#x} 0x6")
        for offset, value in ((0x10, BAR0), (0x14, 0), (0x18, BAR2), (0x1C, 0)):
            self.ask(f"writel {DEVICE + offset:#x} {value:#x}")

    def config(self) -> bytes:
        return b"".join(self.ask(f"readl {DEVICE + offset:#x}").to_bytes(4, "little") for offset in range(0, 4096, 4))

    def write_config16(self, offset: int, value: int) -> None:
        self.ask(f"writew {DEVICE + offset:#x} {value:#x}")

    def bar(self, number: int) -> QtestBar:
        return QtestBar(self.ask, {0: BAR0, 2: BAR2}[number])

    def driver(self) -> None:
        return None

    def take(self) -> None: ...

    def give_back(self) -> None: ...


class QtestBar:
    """64 KiB of registers."""

    size = 0x10000

    def __init__(self, ask: Callable[[str], int], base: int) -> None:
        self._ask, self._base = ask, base

    def read32(self, offset: int) -> int:
        return self._ask(f"readl {self._base + offset:#x}")

    def read64(self, offset: int) -> int:
        return self._ask(f"readq {self._base + offset:#x}")

    def write32(self, offset: int, value: int) -> None:
        self._ask(f"writel {self._base + offset:#x} {value:#x}")

    def write64(self, offset: int, value: int) -> None:
        self._ask(f"writeq {self._base + offset:#x} {value:#x}")
