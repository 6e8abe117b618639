# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a device comes from: PCI functions in sysfs, and what is checked before one is taken from the kernel."""

from __future__ import annotations

import struct

import pytest
from dcd_model import MIB, REGION, Model
from test_dcd_payloads import cedt, tree

from cxl_datapath.dcd import kernel, manager
from cxl_datapath.dcd.config import serial_number
from cxl_datapath.dcd.desired import DeviceState
from cxl_datapath.dcd.manager import DcdManager
from cxl_datapath.dcd.registers import MappedRegisters, SysfsFunction, cxl_functions
from cxl_datapath.errors import Code, DatapathError

NAME = "0000:50:00.0"
WANTED = DeviceState(0x91, None, None, False)


@pytest.fixture
def sysfs(tmp_path):
    """A host bridge with one root port, a device with the configuration of the model, a window."""
    root = tree(tmp_path, "0000:40:00.0")
    folder = root / "bus/pci/devices" / NAME
    (folder / "class").write_text("0x050210\n")
    (folder / "config").write_bytes(Model().config())
    (folder / "driver_override").write_text("(null)\n")
    (root / "bus/pci/drivers_probe").write_text("")
    tables = root / "firmware/acpi/tables"
    tables.mkdir(parents=True)
    (tables / "CEDT").write_bytes(cedt((0x5D0000000, 4 << 30, 0)))
    other = root / "bus/pci/devices/0000:00:01.0"
    other.mkdir()
    (other / "class").write_text("0x020000\n")
    return root


def test_cxl_functions_are_found_by_class_and_serial(sysfs):
    (found,) = cxl_functions(sysfs)
    assert found.name == NAME and serial_number(found.config()) == 0x91 and found.driver() is None


def test_taken_and_given_back_by_name(sysfs):
    function = SysfsFunction(sysfs, NAME)
    function.take()
    folder = sysfs / "bus/pci/devices" / NAME
    assert (folder / "driver_override").read_text() == "cxl-datapath\n"
    function.give_back()
    assert (folder / "driver_override").read_text() == "\n" and (sysfs / "bus/pci/drivers_probe").read_text() == NAME


def test_a_driver_that_does_not_let_go(sysfs):
    driver = sysfs / "bus/pci/drivers/cxl_pci"
    driver.mkdir(parents=True)
    (driver / "unbind").write_text("")
    (sysfs / "bus/pci/devices" / NAME / "driver").symlink_to(driver)
    with pytest.raises(DatapathError, match="driver cxl_pci does not let go"):
        SysfsFunction(sysfs, NAME).take()
    assert (driver / "unbind").read_text() == NAME


def test_a_configuration_that_is_cut_off_asks_for_root(sysfs):
    (sysfs / "bus/pci/devices" / NAME / "config").write_bytes(bytes(64))
    with pytest.raises(DatapathError, match="shows 64 bytes of its configuration; run as root"):
        SysfsFunction(sysfs, NAME).config()


def test_registers_are_single_accesses_to_the_file(sysfs, tmp_path):
    folder = sysfs / "bus/pci/devices" / NAME
    (folder / "resource2").write_bytes(struct.pack("<QII", 7, 8, 9) + bytes(4080))
    function = SysfsFunction(sysfs, NAME)
    bar = function.bar(2)
    assert (bar.size, bar.read64(0), bar.read32(8), bar.read32(12)) == (4096, 7, 8, 9)
    bar.write64(16, (1 << 64) - 1)
    bar.write32(16, 5)
    assert bar.read64(16) == 0xFFFFFFFF00000005 and function.bar(2) is bar
    function.write_config16(4, 0x1234)
    assert struct.unpack_from("<H", function.config(), 4)[0] == 0x1234
    with pytest.raises(DatapathError, match="map the registers"):
        MappedRegisters(folder / "resource0")
    (folder / "resource0").write_bytes(b"")
    with pytest.raises(DatapathError, match="map the registers"):
        MappedRegisters(folder / "resource0")


@pytest.fixture
def model(monkeypatch):
    """The device that the daemon finds."""
    found = Model()
    monkeypatch.setattr(manager, "cxl_functions", lambda _: [found])
    return found


def refused(sysfs, desired=WANTED) -> DatapathError:
    with pytest.raises(DatapathError) as caught:
        DcdManager(sysfs, sysfs)._attach(desired)
    return caught.value


def test_taken_with_a_region(sysfs, model):
    host = DcdManager(sysfs, sysfs)._attach(WANTED)
    assert model.committed and host.route == (0x5D0000000, 2 * REGION)


def test_a_device_that_has_no_dynamic_capacity_goes_back(sysfs, monkeypatch):
    plain = Model(regions=0)
    monkeypatch.setattr(manager, "cxl_functions", lambda _: [plain])
    assert "has no dynamic capacity" in str(refused(sysfs)) and plain.bound == "cxl_pci"


def test_a_window_that_is_too_small_changes_nothing(sysfs, model):
    (sysfs / "firmware/acpi/tables/CEDT").write_bytes(cedt((0x5D0000000, 512 * MIB, 0)))
    assert refused(sysfs).code == Code.FULL and model.bound == "cxl_pci" and not model.committed


def test_no_window_and_no_device(sysfs, model):
    (sysfs / "firmware/acpi/tables/CEDT").unlink()
    assert "describes no CXL windows" in str(refused(sysfs)) and model.bound == "cxl_pci"
    assert "is not there" in str(refused(sysfs, DeviceState(0x92, None, None, False)))


def test_a_region_of_the_kernel_is_left_alone(sysfs, model):
    memdev = sysfs / "bus/pci/devices" / NAME / "mem3"
    memdev.mkdir()
    for number, (endpoint, target, size) in enumerate([("endpoint2", memdev, "0x20000000"), ("endpoint5", sysfs, "0x10000000")]):
        decoder = sysfs / "bus/cxl/devices" / endpoint / f"decoder{number}.0"
        decoder.mkdir(parents=True)
        (decoder / "size").write_text(size)
        (decoder.parent / "uport").symlink_to(target)
    assert kernel.decoders_in_use(sysfs, NAME) == ["decoder0.0"]
    assert refused(sysfs).code == Code.BUSY and model.bound == "cxl_pci"
    (sysfs / "bus/cxl/devices/endpoint2/decoder0.0/size").write_text("0x0")
    assert kernel.decoders_in_use(sysfs, NAME) == []


def test_a_kernel_that_does_it_itself_keeps_the_device(sysfs, model):
    devices = sysfs / "bus/cxl/devices"
    (devices / "decoder0.0").mkdir(parents=True)
    (devices / "decoder0.0/create_dynamic_ram_1_region").touch()
    (devices / "mem0/dynamic_ram_1").mkdir(parents=True)
    assert "dynamic capacity of its own (names of v11)" in str(refused(sysfs)) and model.bound == "cxl_pci"
