# SPDX-License-Identifier: GPL-3.0-or-later
"""DC devices below host bridges with several root ports and below switches, on a real QEMU: the daemon's own code reads the
firmware's table and the ports, and programs the decoders; the test stores through the window."""

from __future__ import annotations

import sys

import pytest
from ansible.module_utils.cxl_lab.dcd.device import DcDevice
from dcd_devices import EMULATORS, MIB
from qtest_fabric import CAPACITY, ONE_PORT, SWITCH, SWITCH_AND_PORT, TWO_PORTS, fabric_qemu
from real_daemons import DATAPATH

pytestmark = [
    pytest.mark.skipif(not EMULATORS, reason="no QEMU tree in /var/cache/cxl-lab; the role cxl_hypervisor builds it"),
    pytest.mark.skipif(sys.version_info < (3, 11), reason="the daemon needs Python 3.11"),
]
EXTENT = (32 * MIB, 64 * MIB)


@pytest.fixture(autouse=True)
def daemon(monkeypatch):
    monkeypatch.syspath_prepend(str(DATAPATH / "src"))


class Lab:
    """A fabric, the daemon's manager of it, and the fabric manager's end of each device."""

    def __init__(self, qemu, monkeypatch) -> None:
        from cxl_datapath.dcd import manager

        self.qemu = qemu
        monkeypatch.setattr(manager, "cxl_functions", lambda _: qemu.devices)
        self.restart()
        self.count = len(qemu.devices)

    def restart(self) -> None:
        from cxl_datapath.dcd.manager import DcdManager

        self.manager = DcdManager(self.qemu.folder, self.qemu.sysfs, access=self.qemu)

    def attach(self, number: int):
        """The device with a region, and all of ``EXTENT`` accepted."""
        from cxl_datapath.dcd.desired import DeviceState

        host = self.manager._attach(DeviceState(0x91 + number, None, None, False))
        fabric = DcDevice(self.qemu.monitor, f"pool{number}", f"device pool{number} of node1")
        if fabric.state(0, EXTENT) != "accepted":
            fabric.add(0, [EXTENT], "tag")
            host.service()
        assert fabric.state(0, EXTENT) == "accepted"
        return host

    def store(self, host, value: int) -> None:
        self.qemu.qtest.ask(f"writeq {host.route[0] + EXTENT[0] + 4096:#x} {value:#x}")

    def load(self, base: int) -> int:
        return self.qemu.qtest.ask(f"readq {base + EXTENT[0] + 4096:#x}")

    def stored(self, number: int) -> int:
        """What is in the backing file of a device at the place that ``store`` is about."""
        with (self.qemu.folder / f"pool{number}").open("rb") as file:
            file.seek(EXTENT[0] + 4096)
            return int.from_bytes(file.read(8), "little")

    def blocks(self) -> list[int]:
        """Bytes that each backing file takes."""
        return [(self.qemu.folder / f"pool{number}").stat().st_blocks * 512 for number in range(self.count)]

    def ranges(self) -> list[list[tuple[int, int]]]:
        """The committed ranges of each bridge, switch and device on the way to the devices, by name."""
        from cxl_datapath.dcd.above import find_above
        from cxl_datapath.dcd.decoder import Decoders
        from cxl_datapath.dcd.window import firmware

        found = {}
        for device in self.qemu.devices:
            for hop in find_above(self.qemu.sysfs, device.name, firmware(self.qemu.sysfs), self.qemu).hops:
                with hop.registers() as registers:
                    decoders = Decoders(registers, hop.place, hop.name, device=False)
                    found[hop.name] = [each.range for each in decoders.all() if each.committed]
            found[device.name] = [each.range for each in Decoders(device.bar(0), 0, "").all() if each.committed]
        return [found[name] for name in sorted(found)]


@pytest.fixture(params=["two ports", "switch", "switch and port"])
def lab(request, monkeypatch):
    fabrics = {"two ports": TWO_PORTS, "switch": SWITCH, "switch and port": SWITCH_AND_PORT}
    with fabric_qemu(fabrics[request.param]) as qemu:
        yield Lab(qemu, monkeypatch)


def test_each_device_gets_what_is_stored_at_its_addresses_and_no_other(lab):
    hosts = [lab.attach(number) for number in range(lab.count)]
    bases = [host.route[0] for host in hosts]
    assert bases == [bases[0] + number * CAPACITY for number in range(lab.count)], "side by side in the window"
    for number, host in enumerate(hosts):
        before = lab.blocks()
        lab.store(host, 0x1122334455667700 + number)
        assert lab.stored(number) == 0x1122334455667700 + number == lab.load(host.route[0])
        grown = [other for other, size in enumerate(lab.blocks()) if size != before[other]]
        assert grown == [number], "and no other file has a byte more"
    assert [lab.stored(number) for number in range(lab.count)] == [0x1122334455667700 + number for number in range(lab.count)]


def test_a_device_that_goes_leaves_the_others_alone_and_gets_its_addresses_back(lab):
    first, second = lab.attach(0), lab.attach(1)
    lab.store(first, 1)
    base = first.route[0]
    first.destroy_region()
    lab.store(second, 2)
    assert lab.load(second.route[0]) == 2 and lab.load(base) == 0, "nobody answers there"
    again = lab.attach(0)
    assert again.route[0] == base and lab.load(base) == 1
    lab.store(again, 3)
    assert (lab.stored(0), lab.stored(1)) == (3, 2)
    second.destroy_region()
    again.destroy_region()
    assert not any(lab.ranges()), "every decoder on the way is free"


def test_what_is_below_goes_with_what_is_above(lab):
    first, second = lab.attach(0), lab.attach(1)
    first.destroy_region()
    assert [first_ := (second.route[0] - CAPACITY, CAPACITY), second.route] in lab.ranges(), f"{first_} waits"
    second.destroy_region()
    assert not any(lab.ranges())


def test_a_new_daemon_finds_everything(lab):
    hosts = [lab.attach(number) for number in range(lab.count)]
    for number, host in enumerate(hosts):
        lab.store(host, number + 1)
    before = lab.ranges()
    lab.restart()
    again = [lab.attach(number) for number in reversed(range(lab.count))]
    assert [host.route for host in reversed(again)] == [host.route for host in hosts] and lab.ranges() == before
    assert [lab.load(host.route[0]) for host in hosts] == [number + 1 for number in range(lab.count)]


def test_behind_a_region_of_the_kernel(lab):
    """A decoder that somebody else has committed is left alone, and so are its addresses."""
    from cxl_datapath.dcd.above import find_above
    from cxl_datapath.dcd.decoder import Decoders
    from cxl_datapath.dcd.window import firmware

    found = firmware(lab.qemu.sysfs)
    (hop, *_) = find_above(lab.qemu.sysfs, lab.qemu.devices[0].name, found, lab.qemu).hops
    theirs = (found.windows[0].base, 256 * MIB)
    with hop.registers() as registers:
        decoders = Decoders(registers, hop.place, hop.name, device=False)
        decoders.commit(0, theirs, 9)
        host = lab.attach(0)
        assert host.route == (sum(theirs), CAPACITY) and decoders.all()[1].is_plainly(host.route, hop.port)
        lab.store(host, 5)
        assert lab.stored(0) == 5
        host.destroy_region()
        assert [each.committed for each in decoders.all()] == [True, False, False, False]


def test_a_route_that_somebody_else_breaks_is_noticed(lab):
    from cxl_datapath.dcd.above import find_above
    from cxl_datapath.dcd.decoder import Decoders
    from cxl_datapath.dcd.window import firmware
    from cxl_datapath.errors import DatapathError

    host = lab.attach(0)
    assert host.view()["state"] == "running"
    (hop, *_) = find_above(lab.qemu.sysfs, lab.qemu.devices[0].name, firmware(lab.qemu.sysfs), lab.qemu).hops
    with hop.registers() as registers:
        Decoders(registers, hop.place, hop.name, device=False).commit(0, (host.route[0], 256 * MIB), hop.port)
    assert host.view()["state"] == "cut off"
    with pytest.raises(DatapathError, match="somebody else has programmed a decoder on the way"):
        host.map("tool", EXTENT)


@pytest.mark.parametrize("fabric", [TWO_PORTS, SWITCH, SWITCH_AND_PORT])
def test_beside_memory_that_qemu_maps_directly(monkeypatch, fabric):
    """A region of the kernel over other memory below the same bridge, which QEMU 11 takes out of its emulation."""
    from cxl_datapath.dcd.above import find_above
    from cxl_datapath.dcd.decoder import Decoders
    from cxl_datapath.dcd.window import firmware

    with fabric_qemu(fabric, plain=True) as qemu:
        lab = Lab(qemu, monkeypatch)
        *_, device = qemu.devices
        found = firmware(qemu.sysfs)
        theirs = (found.windows[0].base, CAPACITY)
        Decoders(device.bar(0), 0, "").commit(0, theirs, 0)
        for hop in reversed(find_above(qemu.sysfs, device.name, found, qemu).hops):
            with hop.registers() as registers:
                Decoders(registers, hop.place, hop.name, device=False).commit(0, theirs, hop.port)
        hosts = [lab.attach(number) for number in range(lab.count - 1)]
        bases = [*(host.route[0] for host in hosts), theirs[0]]
        for number, base in enumerate(bases):
            qemu.qtest.ask(f"writeq {base + EXTENT[0] + 4096:#x} {number + 1:#x}")
        assert [lab.stored(number) for number in range(lab.count)] == [number + 1 for number in range(lab.count)]
        hosts[0].destroy_region()
        assert [lab.load(base) for base in bases] == [0, *range(2, lab.count + 1)]


def test_a_bridge_with_one_port_may_have_decoders_nevertheless(monkeypatch):
    for bridge, decoders in ((",hdm_for_passthrough=on", 1), ("", 0)):
        with fabric_qemu(ONE_PORT, bridge) as qemu:
            lab = Lab(qemu, monkeypatch)
            host = lab.attach(0)
            lab.store(host, 7)
            assert lab.stored(0) == 7 and len(lab.ranges()) == 1 + decoders
            host.destroy_region()
            assert not any(lab.ranges())
