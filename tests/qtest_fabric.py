# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole CXL fabric of a real QEMU without a guest: the test is the firmware, and shows what it found as sysfs would."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from dcd_devices import EMULATORS, MIB, StoppedQemu
from qtest_function import ECAM, Qtest, QtestBar

FIRST_ADDRESS = 0xE0000000
BUS = 64
CLASS_BRIDGE, CLASS_CXL = 0x0604, 0x0502
CAPACITY = 512 * MIB
#: Fabrics: QEMU's arguments for the ports, and the buses of the devices pool0, pool1 and so on.
TWO_PORTS = (
    ["cxl-rp,port=3,bus=cxl.0,id=rp0,chassis=64,slot=0", "cxl-rp,port=7,bus=cxl.0,id=rp1,chassis=64,slot=1"],
    ["rp0", "rp1"],
)
_SWITCH = [
    "cxl-upstream,bus=rp0,id=us0",
    "cxl-downstream,port=2,bus=us0,id=ds0,chassis=65,slot=0",
    "cxl-downstream,port=5,bus=us0,id=ds1,chassis=65,slot=1",
]
SWITCH = ([TWO_PORTS[0][0], *_SWITCH], ["ds0", "ds1"])
SWITCH_AND_PORT = ([*TWO_PORTS[0], *_SWITCH], ["ds0", "ds1", "rp1"])
ONE_PORT = ([TWO_PORTS[0][0]], ["rp0"])


class FabricFunction:
    """A PCI function, as the daemon's driver wants it."""

    def __init__(self, qtest: Qtest, bus: int, device: int, place: Path) -> None:
        self.name = f"0000:{bus:02x}:{device:02x}.0"
        self.ask, self.folder = qtest.ask, place / self.name
        self._qtest, self.at = qtest, ECAM + (bus << 20) + (device << 15)
        self.bars: dict[int, int] = {}

    def config(self) -> bytes:
        return self._qtest.read(self.at, 4096)

    def write_config16(self, offset: int, value: int) -> None:
        self.ask(f"writew {self.at + offset:#x} {value:#x}")

    def bar(self, number: int) -> QtestBar:
        return QtestBar(self.ask, self.bars[number])

    def driver(self) -> None:
        return None

    def take(self) -> None: ...

    def give_back(self) -> None: ...


class FabricQemu:
    """The machine: its functions by name, access to component registers (`Access` of the daemon), and a tree like sysfs."""

    def __init__(self, monitor: StoppedQemu, qtest: Qtest, folder: Path) -> None:
        self.monitor, self.qtest, self.folder, self.sysfs = monitor, qtest, folder, folder / "sys"
        self.functions: dict[str, FabricFunction] = {}
        self._next_address, self._next_bus = FIRST_ADDRESS, BUS + 1
        top = self.sysfs / "devices" / f"pci0000:{BUS:02x}"
        (top / "firmware_node").mkdir(parents=True)
        (top / "firmware_node" / "uid").write_text(f"{BUS}\n")
        (self.sysfs / "bus/pci/devices").mkdir(parents=True)
        self._scan(BUS, top)
        tables = self.sysfs / "firmware/acpi/tables"
        tables.mkdir(parents=True)
        (tables / "CEDT").write_bytes(self._table(b"CEDT"))

    @property
    def devices(self) -> list[FabricFunction]:
        return [each for each in self.functions.values() if (each.folder / "class").read_text().startswith("0x0502")]

    @contextlib.contextmanager
    def bar(self, function: str, number: int) -> Iterator[QtestBar]:
        yield self.functions[function].bar(number)

    @contextlib.contextmanager
    def memory(self, base: int, size: int) -> Iterator[QtestBar]:
        yield QtestBar(self.qtest.ask, base)

    def _scan(self, bus: int, place: Path) -> None:
        """Numbers and addresses for everything on a bus and below, as a firmware does."""
        for device in range(32):
            function = FabricFunction(self.qtest, bus, device, place)
            if self.qtest.ask(f"readl {function.at:#x}") == 0xFFFFFFFF:
                continue
            self.functions[function.name] = function
            kind = self.qtest.ask(f"readl {function.at + 8:#x}") >> 16
            self._place_bars(function, 2 if kind == CLASS_BRIDGE else 6)
            function.folder.mkdir()
            if kind == CLASS_BRIDGE:
                self._open(function)
            function.write_config16(4, 6)
            (function.folder / "class").write_text(f"{kind:#06x}00\n")
            (function.folder / "config").write_bytes(function.config())
            (self.sysfs / "bus/pci/devices" / function.name).symlink_to(function.folder)

    def _place_bars(self, function: FabricFunction, count: int) -> None:
        number = 0
        while number < count:
            register = function.at + 0x10 + 4 * number
            self.qtest.ask(f"writel {register:#x} 0xffffffff")
            answer = self.qtest.ask(f"readl {register:#x}")
            if size := -(answer & ~0xF) & 0xFFFFFFFF:
                address = -(-self._next_address // size) * size
                self.qtest.ask(f"writel {register:#x} {address:#x}")
                function.bars[number], self._next_address = address, address + size
            if wide := answer & 4:
                self.qtest.ask(f"writel {register + 4:#x} 0")
            number += 2 if wide else 1

    def _open(self, bridge: FabricFunction) -> None:
        """Buses and addresses behind a bridge."""
        secondary, self._next_bus = self._next_bus, self._next_bus + 1
        own = int(bridge.name[5:7], 16)
        self.qtest.ask(f"writel {bridge.at + 0x18:#x} {0xFF << 16 | secondary << 8 | own:#x}")
        first = self._next_address = -(-self._next_address // MIB) * MIB
        self._scan(secondary, bridge.folder)
        self._next_address = -(-self._next_address // MIB) * MIB
        self.qtest.ask(f"writel {bridge.at + 0x18:#x} {(self._next_bus - 1) << 16 | secondary << 8 | own:#x}")
        self.qtest.ask(f"writel {bridge.at + 0x20:#x} {(self._next_address - MIB) & 0xFFF00000 | first >> 16:#x}")

    def _table(self, signature: bytes) -> bytes:
        """A table of the machine's ACPI, from its firmware configuration device."""
        tables = self._file(b"etc/acpi/tables")
        at = tables.index(signature)
        return tables[at : at + struct.unpack_from("<I", tables, at + 4)[0]]

    def _file(self, name: bytes) -> bytes:
        (count,) = struct.unpack(">I", self._item(0x19, 4))
        listing = self._item(0x19, 4 + 64 * count)[4:]
        rows = [struct.unpack_from(">IHxx56s", listing, at) for at in range(0, 64 * count, 64)]
        size, item = next((size, item) for size, item, each in rows if each.rstrip(b"\0") == name)
        return self._item(item, size)

    def _item(self, item: int, size: int) -> bytes:
        order, data = 0x10000, 0x100000
        select_and_read = item << 16 | 1 << 3 | 1 << 1
        words = struct.unpack("<4I", struct.pack(">IIQ", select_and_read, size, data))
        for number, word in enumerate(words):
            self.qtest.ask(f"writel {order + 4 * number:#x} {word:#x}")
        self.qtest.ask("outl 0x514 0")
        self.qtest.ask(f"outl 0x518 {int.from_bytes(order.to_bytes(4, 'little'), 'big'):#x}")
        return self.qtest.read(data, size)


@contextlib.contextmanager
def fabric_qemu(fabric: tuple[Sequence[str], Sequence[str]], bridge: str = "", plain: bool = False) -> Iterator[FabricQemu]:
    """A machine whose devices pool0, pool1 and so on are plugged in as ``fabric`` says, each over a file of its own.

    :param bridge: more properties of the host bridge.
    :param plain: the last device has volatile capacity in place of dynamic.
    """
    ports, buses = fabric
    with tempfile.TemporaryDirectory(prefix="cxl-test-", dir="/dev/shm") as name:
        folder = Path(name)
        command = ["nice", "-n", "19", str(EMULATORS[0]), "-machine", "q35,cxl=on", "-S", "-nodefaults", "-display", "none"]
        command += ["-m", "128M", "-qmp", "stdio", "-device", f"pxb-cxl,bus_nr={BUS},bus=pcie.0,id=cxl.0,addr=0x18{bridge}"]
        for port in ports:
            command += ["-device", port]
        for number, bus in enumerate(buses):
            memory, device = f"cxl-mem.pool{number}", f"cxl-dev.pool{number}"
            command += ["-object", f"memory-backend-file,id={memory},share=on,mem-path={folder}/pool{number},size={CAPACITY}"]
            is_plain = plain and number + 1 == len(buses)
            kind = f"volatile-memdev={memory}" if is_plain else f"volatile-dc-memdev={memory},num-dc-regions=1"
            command += ["-device", f"cxl-type3,bus={bus},{kind},id={device},sn={0x91 + number}"]
        command += ["-M", "cxl-fmw.0.targets.0=cxl.0,cxl-fmw.0.size=4G"]
        command += ["-accel", "qtest", "-qtest", f"unix:{folder}/qtest,server=on,wait=off", "-qtest-log", "none"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield FabricQemu(StoppedQemu(process), Qtest(folder / "qtest"), folder)
            finally:
                process.kill()
