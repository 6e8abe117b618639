# SPDX-License-Identifier: GPL-3.0-or-later
"""The file through which a range of a device is reached, on a sysfs tree of our own."""

from __future__ import annotations

import pytest
from test_memory_resolver import Sysfs

from cxl_datapath.dcd.reach import directly, open_devdax, through_window
from cxl_datapath.errors import Code, DatapathError

MIB = 1 << 20
BASE = 0x5D0000000


@pytest.fixture
def sysfs(tmp_path):
    return Sysfs(tmp_path / "sys")


def window(sysfs, offset: int, size: int):
    reach = through_window(BASE, (offset, size), sysfs.root, sysfs.root)
    return reach.path.name, reach.offset


def test_without_a_devdax_over_the_window_it_is_the_host_addresses(sysfs):
    sysfs.dax("dax0.0", sysfs.region(0, [1]), address=0x110200000)
    assert window(sysfs, 8 * MIB, 100) == ("mem", BASE + 8 * MIB)


def test_a_devdax_over_the_window(sysfs):
    sysfs.dax("dax1.0", sysfs.root / "devices/hmem.0", size=1024 * MIB, address=BASE)
    assert window(sysfs, 8 * MIB, 2 * MIB) == ("dax1.0", 8 * MIB)
    assert window(sysfs, 1023 * MIB, 2 * MIB) == ("mem", BASE + 1023 * MIB), "what it does not cover"
    open_devdax((BASE, 4096 * MIB), sysfs.root)  # it is open already
    with pytest.raises(DatapathError, match="maps no others") as caught:
        window(sysfs, 1 * MIB, 2 * MIB)
    assert caught.value.code == Code.INVALID


def test_a_devdax_that_is_system_memory_is_none(sysfs):
    sysfs.dax("dax1.0", sysfs.root / "devices/hmem.0", size=1024 * MIB, driver="kmem", address=BASE)
    assert window(sysfs, 0, 2 * MIB) == ("mem", BASE)
    with pytest.raises(DatapathError, match="driver kmem has it, and it lies over the window; run: daxctl") as caught:
        open_devdax((BASE, 4096 * MIB), sysfs.root)
    assert caught.value.code == Code.BUSY
    open_devdax((BASE + 1024 * MIB, 1024 * MIB), sysfs.root)  # beside the window it may be what it likes


def test_a_devdax_that_waits_for_a_driver_is_opened(sysfs):
    sysfs.dax("dax1.0", sysfs.root / "devices/hmem.0", size=1024 * MIB, driver="device_dax", address=BASE)
    (sysfs.root / "devices/hmem.0/dax1.0/driver").unlink()
    new_id = sysfs.root / "bus/dax/drivers/device_dax/new_id"
    open_devdax((BASE, 4096 * MIB), sysfs.root)
    assert new_id.read_text() == "dax1.0" and window(sysfs, 0, 2 * MIB) == ("mem", BASE), "until the kernel has done it"
    new_id.unlink()
    new_id.mkdir()
    with pytest.raises(DatapathError, match="load its driver: modprobe device_dax"):
        open_devdax((BASE, 4096 * MIB), sysfs.root)


def test_the_direct_way_counts_from_the_data_of_the_namespace(sysfs):
    sysfs.memdev(1, 0x92)
    sysfs.dax("dax0.0", sysfs.region(0, [1], address=0x110000000), size=254 * MIB, address=0x110200000)
    reach = directly(0x92, (8 * MIB, 2 * MIB), sysfs.root, sysfs.root)
    assert (reach.path.name, reach.offset) == ("dax0.0", 6 * MIB)
    for wanted in ((0, 2 * MIB), (254 * MIB, 4 * MIB)):
        with pytest.raises(DatapathError, match="reaches device addresses 0x200000 to 0x10000000 only"):
            directly(0x92, wanted, sysfs.root, sysfs.root)
    with pytest.raises(DatapathError, match="no such memdev"):
        directly(0x93, (8 * MIB, 2 * MIB), sysfs.root, sysfs.root)


def test_the_direct_way_through_a_devdax_that_does_not_say_where_it_is(sysfs):
    """One that goes while it is looked at."""
    sysfs.memdev(1, 0x92)
    sysfs.dax("dax0.0", sysfs.region(0, [1]))
    with pytest.raises(DatapathError, match="does not say where it is") as caught:
        directly(0x92, (8 * MIB, 2 * MIB), sysfs.root, sysfs.root)
    assert caught.value.code == Code.NOT_READY
