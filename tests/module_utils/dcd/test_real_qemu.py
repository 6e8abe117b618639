# SPDX-License-Identifier: GPL-3.0-or-later
"""The fabric manager against a real QEMU. Its guest never runs, so that everything that is offered stays pending."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab.dcd.device import BLOCK, DcDevice
from ansible.module_utils.cxl_lab.dcd.monitor import QmpError
from ansible.module_utils.cxl_lab.errors import LabError
from dcd_devices import EMULATORS, MIB, stopped_qemu

pytestmark = pytest.mark.skipif(not EMULATORS, reason="no QEMU tree in /var/cache/cxl-lab; the role cxl_hypervisor builds it")


@pytest.fixture(scope="module")
def qemu():
    with (
        tempfile.TemporaryDirectory(prefix="cxl-test-", dir="/dev/shm") as folder,
        stopped_qemu(Path(folder) / "pool0") as monitor,
    ):
        yield monitor


@pytest.fixture
def device(qemu):
    return DcDevice(qemu, "pool0", "device pool0 of node1")


def test_geometry_is_what_qemu_was_given(device):
    geometry = device.geometry()
    assert (geometry.serial, geometry.regions, geometry.region_size) == (0x91, 2, 256 * MIB)
    assert geometry.path.endswith("/pool0") and geometry.file_offset == 0


def test_other_devices_are_no_dc_devices(qemu):
    with pytest.raises(LabError, match=r"QEMU does not know it: .*not found"):
        DcDevice(qemu, "nothing", "device nothing of node1").geometry()


def test_looking_has_no_effect_and_an_offer_has(device):
    assert device.held(0, 256 * MIB) == []
    for _ in range(3):
        assert device.state(0, (0, 256 * MIB)) == "free"
    device.add(0, [(32 * MIB, 64 * MIB)], "one")
    assert device.state(0, (32 * MIB, 64 * MIB)) == "pending"
    assert device.state(0, (0, 32 * MIB)) == "free" and device.state(0, (96 * MIB, 160 * MIB)) == "free"
    assert device.held(0, 256 * MIB) == [(32 * MIB, 64 * MIB)]
    device.add(0, [(96 * MIB, BLOCK), (200 * MIB, BLOCK)], "two")
    assert device.held(0, 256 * MIB) == [(32 * MIB, 64 * MIB + BLOCK), (200 * MIB, BLOCK)]
    assert device.held(1, 256 * MIB) == [], "the other region is another one"


@pytest.mark.parametrize(
    ("region", "extents", "said"),
    [
        (1, [(BLOCK // 2, BLOCK)], "not aligned"),
        (1, [(0, BLOCK + 4096)], "not aligned"),
        (1, [(256 * MIB - BLOCK, 2 * BLOCK)], "beyond the region end"),
        (1, [(0, BLOCK), (0, BLOCK)], "duplicate or overlapped"),
        (1, [(0, 0)], "0 length"),
        (7, [(0, BLOCK)], "region id is too large"),
    ],
)
def test_refusals_of_an_offer(device, region, extents, said):
    with pytest.raises(QmpError, match=said) as caught:
        device.add(region, extents, "tag")
    assert caught.value.next_step, "every refusal that can happen has advice"


def test_overlap_with_what_is_pending_and_releases_that_are_too_early(device):
    device.add(1, [(64 * MIB, 4 * BLOCK)], "early")
    with pytest.raises(QmpError, match="still pending") as caught:
        device.add(1, [(64 * MIB + BLOCK, BLOCK)], "again")
    assert "has not answered" in caught.value.next_step
    with pytest.raises(QmpError, match="with pending"):
        device.release(1, [(64 * MIB, 4 * BLOCK)], "early")
    with pytest.raises(QmpError, match="non-existing"):
        device.release(1, [(0, BLOCK)], "never")
    assert device.state(1, (64 * MIB, 4 * BLOCK)) == "pending" and device.state(1, (0, BLOCK)) == "free"


def test_a_request_without_extents_never_reaches_qemu(device):
    for act in (device.add, device.release):
        with pytest.raises(LabError, match="without extents"):
            act(0, [], "tag")
