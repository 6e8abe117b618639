# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies between a window and a device, as sysfs and the firmware's table have it, and who else uses the same decoders."""

from __future__ import annotations

import contextlib
import shutil
import struct

import pytest
from dcd_model import HDM, Model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_dcd_payloads import cedt, port_config, tree

from cxl_datapath.dcd import kernel, manager
from cxl_datapath.dcd.above import RealAccess, find_above
from cxl_datapath.dcd.decoder import Decoders, find_hdm
from cxl_datapath.dcd.desired import DeviceState
from cxl_datapath.dcd.manager import DcdManager
from cxl_datapath.dcd.window import parse_cedt
from cxl_datapath.errors import Code, DatapathError

DEVICE = "0000:50:00.0"
CHBS = 0x10000
FIRMWARE = parse_cedt(cedt(bridges=[(64, 1, CHBS, 0x10000)]))
ONE, TWO = ("0000:40:00.0",), ("0000:40:00.0", "0000:40:01.0")
WANTED = DeviceState(0x91, None, None, False)
SWITCH = ("0000:40:00.0/0000:41:00.0/0000:42:00.0",)


def component() -> bytes:
    """Component registers with four decoders."""
    raw = bytearray(0x2000)
    struct.pack_into("<II", raw, 0x1000, 1 << 24 | 1, (HDM - 0x1000) << 20 | 5)
    struct.pack_into("<I", raw, HDM, 2)
    return bytes(raw)


@pytest.fixture
def dev(tmp_path):
    """A folder with a `mem` that has a host bridge's registers."""
    folder = tmp_path / "dev"
    folder.mkdir()
    (folder / "mem").write_bytes(bytes(CHBS) + component())
    return folder


def above(root, dev, firmware=FIRMWARE):
    return find_above(root, DEVICE, firmware, RealAccess(root, dev))


def shown(hops) -> list[tuple[str, int]]:
    return [(hop.name, hop.port) for hop in hops]


def test_one_root_port_that_passes_through(tmp_path, dev):
    (dev / "mem").write_bytes(bytes(CHBS + 0x2000))
    found = above(tree(tmp_path, *ONE), dev)
    assert (found.bridge, found.hops, found.shared) == (64, (), None)


def test_one_root_port_with_decoders(tmp_path, dev):
    assert shown(above(tree(tmp_path, *ONE), dev).hops) == [("host bridge pci0000:40", 3)]


def test_one_root_port_whose_bridge_cannot_be_asked(tmp_path, dev):
    """The firmware says nothing of it, or the kernel does not let anybody see it."""
    root = tree(tmp_path, *ONE)
    assert above(root, dev, parse_cedt(cedt())).hops == ()
    (dev / "mem").unlink()
    assert above(root, dev).hops == ()
    (root / "devices/pci0000:40/firmware_node/uid").write_text("CXL0\n")
    assert above(root, dev).bridge is None


def test_several_root_ports(tmp_path, dev):
    root = tree(tmp_path, *TWO)
    found = above(root, dev)
    assert shown(found.hops) == [("host bridge pci0000:40", 3)] and found.shared == root / "devices/pci0000:40"
    message = r"host bridge: decoder 1 did not commit 0x10000000 bytes at 0x100000000 \(control 0x1200\)"
    with found.hops[0].registers() as registers, pytest.raises(DatapathError, match=message):
        Decoders(registers, 0, "host bridge", device=False).commit(1, (1 << 32, 1 << 28), 3)  # nobody commits in a file
    raw = (dev / "mem").read_bytes()[CHBS + HDM :]
    assert struct.unpack_from("<7I", raw, 0x30) == (0, 0, 0, 0, 0x1000, 3, 0), "it is emptied"
    assert struct.unpack_from("<I", raw, 4) == (0,), "the switch for all decoders is one of devices"


def test_several_root_ports_whose_bridge_cannot_be_asked(tmp_path, dev):
    root = tree(tmp_path, *TWO)
    with pytest.raises(DatapathError, match="host bridge pci0000:40: the firmware describes it 0 times"):
        above(root, dev, parse_cedt(cedt()))
    (dev / "mem").unlink()
    with pytest.raises(DatapathError, match="boot with iomem=relaxed"), above(root, dev).hops[0].registers():
        pass
    (root / "devices/pci0000:40/firmware_node/uid").unlink()
    with pytest.raises(DatapathError, match="gives it no unique identifier"):
        above(root, dev)


def test_a_switch(tmp_path, dev):
    (dev / "mem").write_bytes(bytes(CHBS + 0x2000))
    root = tree(tmp_path, *SWITCH)
    upstream = root / "bus/pci/devices/0000:41:00.0"
    (upstream / "resource0").write_bytes(component())
    found = above(root, dev)
    assert shown(found.hops) == [("switch 0000:41:00.0", 9)]
    assert found.shared == upstream.resolve()
    with found.hops[0].registers() as registers:
        assert Decoders(registers, found.hops[0].place, "", device=False).count == 4


def test_a_switch_below_one_of_several_ports(tmp_path, dev):
    root = tree(tmp_path, *SWITCH, "0000:40:01.0")
    found = above(root, dev)
    assert shown(found.hops) == [("host bridge pci0000:40", 3), ("switch 0000:41:00.0", 9)]
    assert found.shared == root / "devices/pci0000:40"


@pytest.mark.parametrize("kinds", [(5,), (0,), (4, 5, 5), (4, 6, 5)])
def test_ways_that_are_none_of_cxl(tmp_path, dev, kinds):
    root = tree(tmp_path, *(ONE if len(kinds) == 1 else SWITCH))
    for name, kind in zip(("0000:40:00.0", "0000:41:00.0", "0000:42:00.0"), kinds, strict=False):
        (root / "bus/pci/devices" / name / "config").write_bytes(port_config(kind, 1))
    with pytest.raises(DatapathError, match=f"PCIe types {', '.join(map(str, kinds))}: no root port, or no switches"):
        above(root, dev)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 0x60) | st.integers(0x100, 0x120), junk=st.binary(min_size=1, max_size=8))
def test_a_damaged_configuration_of_a_switch_is_an_error_and_never_more(tmp_path_factory, dev, place, junk):
    root = tree(tmp_path_factory.mktemp("sys"), *SWITCH)
    raw = bytearray(port_config(5, 1))
    raw[place : place + len(junk)] = junk
    (root / "bus/pci/devices/0000:41:00.0/config").write_bytes(raw)
    (root / "bus/pci/devices/0000:41:00.0/resource0").write_bytes(component())
    with contextlib.suppress(DatapathError):
        for hop in above(root, dev).hops:
            with hop.registers() as registers:
                Decoders(registers, hop.place, hop.name, device=False)


def test_registers_without_decoders(tmp_path):
    (tmp_path / "resource0").write_bytes(bytes(0x2000))
    (tmp_path / "bus/pci/devices").mkdir(parents=True)
    (tmp_path / "bus/pci/devices/x").symlink_to(tmp_path)
    with RealAccess(tmp_path, tmp_path).bar("x", 0) as registers:
        assert find_hdm(registers, 0) is None
        with pytest.raises(DatapathError, match="has no HDM decoders"):
            Decoders(registers, 0x800, "x")


# ---- who else is there


def memdev(root, port, size, decoded="0x0"):
    """A memdev of the kernel below a port, and its endpoint."""
    name = "0000:60:00.0"
    folder = root / "bus/pci/devices" / port / name / "mem4"
    for kind, bytes_ in (("ram", "0x0"), ("pmem", size)):
        (folder / kind).mkdir(parents=True)
        (folder / kind / "size").write_text(f"{bytes_}\n")
    (root / "bus/pci/devices" / name).symlink_to(folder.parent.resolve())
    (folder.parent / "class").write_text("0x050210\n")
    (root / "bus/pci/drivers/cxl_pci").mkdir(parents=True)
    (folder.parent / "driver").symlink_to(root / "bus/pci/drivers/cxl_pci")
    devices = root / "bus/cxl/devices"
    (devices / "endpoint3/decoder3.0").mkdir(parents=True)
    (devices / "endpoint3/decoder3.0/size").write_text(decoded)
    (devices / "endpoint3/uport").symlink_to(folder.resolve())
    (devices / "mem4").symlink_to(folder.resolve())
    (folder / "driver").symlink_to(root)
    return folder


def refuses(root) -> bool:
    try:
        kernel.check_settled(root, root / "devices/pci0000:40", DEVICE)
    except DatapathError as error:
        assert error.code == Code.BUSY and "0000:60:00.0" in str(error) and "has the same host bridge" in str(error)
        return True
    return False


def test_memory_of_the_kernel_without_a_region_behind_the_same_decoders(tmp_path):
    root = tree(tmp_path, *TWO)
    assert not refuses(root)
    folder = memdev(root, TWO[1], "0x10000000")
    assert refuses(root)
    (folder / "driver").unlink()
    assert not refuses(root), "it was taken out"
    (folder / "driver").symlink_to(root)
    (root / "bus/cxl/devices/endpoint3/decoder3.0/size").write_text("0x10000000")
    assert not refuses(root), "it has its region"
    (root / "bus/cxl/devices/endpoint3/decoder3.0/size").write_text("0x0")
    (folder / "pmem/size").write_text("0x0\n")
    assert not refuses(root), "a device without capacity of its own"
    (folder / "pmem/size").write_text("0x10000000\n")
    kernel.check_settled(root, root / "devices/pci0000:40/0000:40:00.0", DEVICE)
    bound = folder.parent / "driver"
    bound.unlink()
    assert refuses(root), "the kernel is about to have it"
    (folder.parent / "driver_override").write_text("cxl-datapath\n")
    assert not refuses(root), "another device in this daemon's hands"
    (folder.parent / "driver_override").write_text("(null)\n")
    bound.symlink_to(root / "bus/pci/drivers/vfio-pci")
    assert not refuses(root), "it is somebody's who makes no regions"
    bound.unlink()
    (root / "bus/pci/drivers/cxl_pci").rmdir()
    assert not refuses(root), "a kernel without CXL"


def test_memory_that_the_kernel_has_only_begun_with(tmp_path):
    root = tree(tmp_path, *TWO)
    folder = memdev(root, TWO[1], "0x10000000")
    shutil.rmtree(folder)
    with pytest.raises(DatapathError, match="the kernel has only begun with it"):
        kernel.check_settled(root, root / "devices/pci0000:40", DEVICE)


def test_regions_of_the_kernel(tmp_path):
    assert kernel.regions(tmp_path) == []
    for name, resource, size in (
        ("region1", "0x20", "0x10"),
        ("region0", "0x10", "0x10"),
        ("region2", "", "0x10"),
        ("region3", "0x0", "0x0"),
    ):
        folder = tmp_path / "bus/cxl/devices" / name
        folder.mkdir(parents=True)
        (folder / "resource").write_text(f"{resource}\n")
        (folder / "size").write_text(f"{size}\n")
    assert kernel.regions(tmp_path) == [(0x10, 0x10), (0x20, 0x10)]


class BridgeOf(Model):
    """Its decoders stand for those of a host bridge."""

    @contextlib.contextmanager
    def memory(self, base, size):
        yield self._component


@pytest.fixture
def two_ports(tmp_path, monkeypatch):
    """A tree with a window, and the device in it."""
    root, model = tree(tmp_path / "sys", *TWO), Model()
    tables = root / "firmware/acpi/tables"
    tables.mkdir(parents=True)
    (tables / "CEDT").write_bytes(cedt((0x5D0000000, 4 << 30, 0, 64), bridges=[(64, 1, CHBS, 0x10000)]))
    monkeypatch.setattr(manager, "cxl_functions", lambda _: [model])
    return root, model


def test_a_bridge_that_the_kernel_keeps_to_itself(tmp_path, two_ports, dev):
    root, model = two_ports
    (dev / "mem").unlink()
    with pytest.raises(DatapathError, match=r"mem: .* boot with iomem=relaxed"):
        DcdManager(tmp_path, root, dev)._attach(WANTED)
    assert model.bound == "cxl_pci" and model.commands == [], "the device was not taken for that"


def test_the_manager_programs_the_bridge_and_waits_for_the_kernel(tmp_path, two_ports):
    root, model = two_ports
    bridge = BridgeOf()
    found = DcdManager(tmp_path, root, access=bridge)
    folder = memdev(root, TWO[1], "0x10000000")
    with pytest.raises(DatapathError, match="make that region first"):
        found._attach(WANTED)
    assert model.bound == "cxl_pci" and not model.committed and not bridge.committed
    assert model.commands == [], "nor is it taken from the kernel for a look every two seconds"
    (folder / "driver").unlink()
    host = found._attach(WANTED)
    assert model.committed and bridge.committed and host.view()["state"] == "running"
    (folder / "driver").symlink_to(root)
    assert found._attach(WANTED).route == host.route, "one that was ours before stays"
    host.destroy_region()
    assert not model.committed and not bridge.committed
