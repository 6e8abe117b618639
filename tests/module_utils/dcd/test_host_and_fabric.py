# SPDX-License-Identifier: GPL-3.0-or-later
"""Both ends on a real QEMU: the fabric manager asks by QMP, the driver of the daemon answers through the device's registers."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab.dcd.device import BLOCK, DcDevice
from ansible.module_utils.cxl_lab.dcd.monitor import QmpError
from dcd_devices import EMULATORS, MIB, stopped_qemu
from qtest_function import QtestFunction
from real_daemons import DATAPATH

pytestmark = [
    pytest.mark.skipif(not EMULATORS, reason="no QEMU tree in /var/cache/cxl-lab; the role cxl_hypervisor builds it"),
    pytest.mark.skipif(sys.version_info < (3, 11), reason="the daemon needs Python 3.11"),
]
REGION = 256 * MIB
E0 = (32 * MIB, 64 * MIB)


@pytest.fixture
def ends():
    """The fabric manager's device and the host's."""
    sys.path[:0] = [str(DATAPATH / "src")]
    from cxl_datapath.dcd.host import DcdHost

    with tempfile.TemporaryDirectory(prefix="cxl-test-", dir="/dev/shm") as folder:
        socket = Path(folder) / "qtest"
        extra = ("-accel", "qtest", "-qtest", f"unix:{socket},server=on,wait=off", "-qtest-log", "none")
        with stopped_qemu(Path(folder) / "pool0", extra=extra) as monitor:
            yield DcDevice(monitor, "pool0", "device pool0 of node1"), DcdHost(QtestFunction(socket))


def window():
    from cxl_datapath.dcd.window import Window

    return Window(0x5D0000000, 4 << 30, 1)


def test_the_device_is_what_qemu_was_given(ends):
    _, host = ends
    assert host.serial == 0x91
    assert [(region.base, region.length, region.block) for region in host.regions] == [
        (0, REGION, BLOCK),
        (REGION, REGION, BLOCK),
    ]


def test_the_whole_flow(ends):
    fabric, host = ends
    fabric.add(0, [E0], "early")
    host.service()
    assert fabric.state(0, E0) == "free" and host.history[-1].what == "refused: no region"
    assert host.make_region(window()) is True and host.make_region(window()) is False
    fabric.add(0, [E0, (0, BLOCK)], "two")
    assert fabric.state(0, E0) == "pending"
    host.service()
    assert fabric.state(0, E0) == "accepted" and fabric.state(0, (0, REGION)) == "partly"
    assert fabric.held(0, REGION) == [(0, BLOCK), E0] == host.holdings.held
    fabric.add(1, [(0, BLOCK)], "other")
    host.service()
    assert fabric.held(1, REGION) == [(0, BLOCK)] and host.holdings.held[-1] == (REGION, BLOCK)
    host.map("tool", E0)
    fabric.release(0, [E0], "two")
    host.service()
    assert fabric.state(0, E0) == "accepted" and host.history[-1].what == "release ignored"
    host.unmap("tool")
    fabric.release(0, [(E0[0], 16 * MIB)], "two")
    host.service()
    assert fabric.state(0, (E0[0], 16 * MIB)) == "free" and fabric.state(0, E0) == "partly"
    assert fabric.accepted(0, E0) == [(E0[0] + 16 * MIB, 48 * MIB)]
    with pytest.raises(QmpError, match="non-existing"):
        fabric.release(0, [E0], "two")
    with pytest.raises(QmpError, match="already accessible"):
        fabric.add(0, [(0, BLOCK)], "again")
    host.destroy_region()
    assert fabric.held(0, REGION) == fabric.held(1, REGION) == []


def test_a_limit_takes_a_part_and_a_new_driver_finds_it(ends):
    from cxl_datapath.dcd.host import DcdHost

    fabric, host = ends
    host.make_region(window(), limit=16 * MIB)
    fabric.add(0, [E0], "much")
    host.service()
    assert fabric.accepted(0, E0) == [(E0[0], 16 * MIB)] and host.history[-1].what == "accepted in part"
    fabric.add(0, [(0, BLOCK)], "more")
    again = DcdHost(host._device._function)
    assert again.holdings.held == [(E0[0], 16 * MIB)], "what is pending is not held"
    again.service()
    assert fabric.state(0, (0, BLOCK)) == "free", "no region, no accept: QEMU lives on"


def test_more_requests_than_the_log_holds(ends):
    fabric, host = ends
    host.make_region(window())
    for number in range(10):
        fabric.add(0, [(number * 2 * BLOCK, BLOCK)], "")
    host.service()
    assert len(host.extents) == 8 and any("lost" in each.what for each in host.history)


def test_qemu_keeps_neither_tags_nor_an_order_of_shared_extents(ends):
    """So a host cannot see several tags, or a gap: it looks at ranges alone, and so does QEMU when extents are asked back."""
    from cxl_datapath.dcd.policy import requests

    fabric, host = ends
    host.make_region(window())
    fabric.add(0, [E0, (0, BLOCK)], "one")
    fabric.add(0, [(4 * BLOCK, BLOCK)], "two")
    lost, events = host._device.events()
    assert (lost, [event.more for event in events]) == (0, [True, False, False])
    assert {(event.extent.tag, event.extent.sequence) for event in events} == {(bytes(16), 0)}
    assert [each.fault for each in requests(events)] == ["", ""]
    host.service()
    assert {(extent.tag, extent.sequence) for extent in host.extents} == {(bytes(16), 0)}
    host.map("tool", (4 * BLOCK, BLOCK))
    fabric.release(0, [E0, (4 * BLOCK, BLOCK)], "one")
    host.service()
    assert host.holdings.held == [(0, BLOCK), (4 * BLOCK, BLOCK)], "one is released, and two is somebody's, whatever the tag"
    by_tag = fabric._request(0, [(0, BLOCK)], "removal-policy", "one") | {"removal-policy": "tag-based"}
    with pytest.raises(QmpError, match="Removal policy not supported"):
        fabric._monitor.execute("cxl-release-dynamic-capacity", by_tag)
    host.unmap("tool")
    fabric.release(0, [(0, BLOCK), (4 * BLOCK, BLOCK)], "neither")
    host.service()
    assert host.holdings.held == []


def test_the_window_leads_to_what_is_accepted_and_to_nothing_else(ends):
    from cxl_datapath.dcd.window import Window

    fabric, host = ends
    tree = fabric._monitor.execute("human-monitor-command", {"command-line": "info mtree"})
    base = int(re.search(r"([0-9a-f]{16})-[0-9a-f]{16} .*cxl-fixed-memory-region", tree)[1], 16)
    host.make_region(Window(base, 4 << 30, 1))
    memory = host._device._function
    word, value = base + E0[0] + 4096, 0x1122334455667788
    memory.ask(f"writeq {word:#x} {value:#x}")
    assert memory.ask(f"readq {word:#x}") == 0, "nothing is accepted there"
    fabric.add(0, [E0], "tag")
    host.service()
    assert host.map("tool", (E0[0], BLOCK)) == base + E0[0]
    memory.ask(f"writeq {word:#x} {value:#x}")
    assert memory.ask(f"readq {word:#x}") == value
    with Path(fabric.geometry().path).open("rb") as file:
        file.seek(E0[0] + 4096)
        assert int.from_bytes(file.read(8), "little") == value, "at the same place of the backing file"
    host.unmap("tool")
    fabric.release(0, [E0], "tag")
    host.service()
    assert memory.ask(f"readq {word:#x}") == 0, "and not readable after the release"
