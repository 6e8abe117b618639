# SPDX-License-Identifier: GPL-3.0-or-later
"""What a device holds, found by asking it; and a hypervisor that answers something else."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.cxl_lab.dcd.device import BLOCK, DcDevice
from ansible.module_utils.cxl_lab.dcd.monitor import QmpError, VirshMonitor
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.runner import Result
from dcd_devices import DEVICE, MIB, FakeDevice
from fakes import FakeRunner
from hypothesis import given
from hypothesis import strategies as st

COUNT = 16
words = st.lists(st.sampled_from(["free", "accepted", "pending"]), min_size=COUNT, max_size=COUNT)


def device_of(fake: FakeDevice) -> DcDevice:
    return DcDevice(fake, "pool0", "device pool0 of node1")


@given(words, st.integers(0, COUNT - 1), st.integers(1, COUNT))
def test_every_mix_is_found(states, first, count):
    fake = FakeDevice(region_size=COUNT * BLOCK, regions=1)
    fake.accepted = {(0, at * BLOCK) for at, state in enumerate(states) if state == "accepted"}
    fake.pending = [{(0, at * BLOCK) for at, state in enumerate(states) if state == "pending"}]
    device, last = device_of(fake), min(first + count, COUNT)
    held = {at for offset, size in device.held(0, COUNT * BLOCK) for at in range(offset // BLOCK, (offset + size) // BLOCK)}
    assert held == {at for at, state in enumerate(states) if state != "free"}
    part = set(states[first:last])
    found = device.state(0, (first * BLOCK, (last - first) * BLOCK))
    assert found == (part.pop() if len(part) == 1 else "partly" if "accepted" in part else "pending")
    assert fake.commands == [], "looking changed something"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({(DEVICE, "num-dc-regions"): 0}, "is no device with dynamic capacity"),
        ({(DEVICE, "volatile-dc-memdev"): ""}, "is no device with dynamic capacity"),
        ({(DEVICE, "num-dc-regions"): 9}, "has 9 regions, QEMU keeps track of 8"),
    ],
)
def test_devices_that_are_none(change, message):
    fake = FakeDevice()
    fake.properties.update(change)
    with pytest.raises(LabError, match=message):
        device_of(fake).geometry()


@pytest.mark.parametrize(
    ("region", "offset", "size", "message"),
    [
        (2, 0, BLOCK, "has no region 2"),
        (0, 1, BLOCK, "not aligned"),
        (0, 0, 0, "not aligned"),
        (1, 255 * MIB - MIB, 4 * MIB, "beyond"),
    ],
)
def test_ranges_that_are_not_there(region, offset, size, message):
    with pytest.raises(LabError, match=message):
        device_of(FakeDevice()).geometry().check(region, offset, size, "extent a")


def monitor_of(answer: str | Result) -> VirshMonitor:
    return VirshMonitor(FakeRunner({"virsh": answer}), "qemu:///system", "cxl-lab.a.node1", "node1")


def test_a_command_goes_through_libvirt():
    runner = FakeRunner({"virsh": json.dumps({"return": {"ok": 1}, "id": "libvirt-7"})})
    assert VirshMonitor(runner, "qemu:///system", "cxl-lab.a.node1", "node1").execute("qom-get", {"path": "/x"}) == {"ok": 1}
    command = '{"execute": "qom-get", "arguments": {"path": "/x"}}'
    assert runner.ran == [f"virsh -q -c qemu:///system qemu-monitor-command cxl-lab.a.node1 {command}"]


@pytest.mark.parametrize("text", ["", "[]", "5", "{}", "nonsense", '{"error": 5}', "[" * 100000])
def test_answers_that_are_none(text):
    with pytest.raises(LabError, match="something unreadable"):
        monitor_of(text).execute("qom-get", {})


def test_a_machine_that_is_off_and_a_refusal():
    with pytest.raises(LabError, match=r"host node1: error: Requested operation is not valid.*is the machine switched on"):
        monitor_of(Result(1, "", "error: Requested operation is not valid: domain is not running\n")).execute("qom-get", {})
    with pytest.raises(QmpError, match="region id is too large; the device has fewer regions"):
        monitor_of('{"error": {"class": "GenericError", "desc": "region id is too large"}}').execute(
            "cxl-add-dynamic-capacity", {}
        )
