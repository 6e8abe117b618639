# SPDX-License-Identifier: GPL-3.0-or-later
"""How a host lets go of a memdev: in which order, and when it does not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible.module_utils.cxl_lab import guest_release
from ansible.module_utils.cxl_lab.cxl_list import parse_memdevs, parse_regions
from ansible.module_utils.cxl_lab.dax import DaxDevice
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.guest_release import Held, observe
from ansible.module_utils.cxl_lab.ndctl_list import parse_nd_regions
from ansible.module_utils.cxl_lab.runner import HostRunner
from fakes import FakeRunner, fixture

SERIAL = 0xC0DE0001
MEMDEV = parse_memdevs(fixture("cxl_list_memdevs"))[0]
PMEM = parse_regions(fixture("cxl_list_regions"))[0]
RAM = replace(PMEM, name="region4", type="ram")
SPACE = parse_nd_regions(fixture("ndctl_list"))[0].namespaces[0]
ONLINE = DaxDevice("dax4.0", 1, "system-ram", 1, 2, 2, True)


def argv(held):
    return [" ".join(step.argv) for step in guest_release.plan(SERIAL, held, "device hot")]


def test_a_memdev_that_nobody_uses_may_go_at_once():
    assert argv(Held(None)) == [] and argv(Held(MEMDEV)) == []


def test_persistent_memory_keeps_its_namespace():
    assert argv(Held(MEMDEV, (PMEM,), (SPACE,))) == [
        "ndctl disable-namespace namespace0.0",
        "cxl disable-region region3",
        "cxl destroy-region region3",
        "rm -f /etc/cxl-lab/regions.d/0xc0de0001.json",
    ]


def test_system_ram_goes_offline_first():
    assert argv(Held(MEMDEV, (RAM,), (), (ONLINE,))) == [
        "daxctl offline-memory dax4.0",
        "cxl disable-region region4",
        "cxl destroy-region region4",
        "rm -f /etc/cxl-lab/regions.d/0xc0de0001.ram.json",
    ]
    assert argv(Held(MEMDEV, (replace(RAM, enabled=False),), (), (replace(ONLINE, online=0),)))[0] == "cxl destroy-region region4"


def test_both_kinds_of_capacity():
    lines = argv(Held(MEMDEV, (PMEM, RAM), (SPACE,), (ONLINE,)))
    assert lines[-1] == "rm -f /etc/cxl-lab/regions.d/0xc0de0001.json /etc/cxl-lab/regions.d/0xc0de0001.ram.json"
    assert lines.index("daxctl offline-memory dax4.0") < lines.index("cxl disable-region region4")


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (Held(MEMDEV, (PMEM,), users=("/dev/dax0.0: process 7 (fio)",)), r"is in use: /dev/dax0\.0: process 7 \(fio\); stop"),
        (Held(MEMDEV, (replace(PMEM, memdevs=("mem1", "mem8", "mem9")),)), "region3 takes turns with mem8, mem9; destroy that"),
    ],
)
def test_what_is_not_let_go(held, words):
    with pytest.raises(LabError, match=words):
        argv(held)


def test_what_a_host_has_is_asked_for_by_serial_number():
    runner = FakeRunner(
        {
            "cxl list -M": json.dumps(fixture("cxl_list_memdevs")),
            "cxl list -R": json.dumps(fixture("cxl_list_regions")),
            "ndctl list": json.dumps(fixture("ndctl_list")),
            "python3 - /dev/dax0.0": json.dumps({"/dev/dax0.0": ["process 7 (fio)"]}),
        }
    )
    held = observe(runner, SERIAL)
    assert held.memdev == MEMDEV and held.regions == (PMEM,) and [space.name for space in held.namespaces] == ["cbd0"]
    assert held.users == ("/dev/dax0.0: process 7 (fio)",)
    assert observe(runner, 0xC0DE0002).regions == () and observe(runner, 0x77).memdev is None


def test_a_volatile_region_is_asked_for_its_dax_devices():
    row = {**fixture("cxl_list_regions")[0], "type": "ram"}
    runner = FakeRunner(
        {
            "cxl list -M": json.dumps(fixture("cxl_list_memdevs")),
            "cxl list -R": json.dumps([row]),
            "ndctl list": "",
            "daxctl list -D -i -r 3": json.dumps([{"chardev": "dax3.0", "mode": "devdax"}]),
            "python3 - /dev/dax3.0": json.dumps({"/dev/dax3.0": []}),
        }
    )
    held = observe(runner, SERIAL)
    assert [device.name for device in held.dax] == ["dax3.0"] and held.users == ()


def test_the_program_that_is_sent_finds_who_uses_a_device(tmp_path):
    """It really runs, with the Python of this machine."""
    path = tmp_path / "device"
    path.touch()
    with path.open("rb"):
        (line,) = guest_release.users(HostRunner(), [str(path)])
    assert line.startswith(f"{path}: process ")
