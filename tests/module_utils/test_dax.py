# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a DAX device: the mode, and which memory is online."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from ansible.module_utils.cxl_lab import dax
from ansible.module_utils.cxl_lab.errors import LabError

MAPPED = dax.DaxDevice("dax1.0", 256 << 20, "devdax", 1, 0, 0, False)
ASLEEP = replace(MAPPED, mode="system-ram", blocks=2)
MOVABLE = replace(ASLEEP, online=2, movable=True)
KERNEL = replace(ASLEEP, online=2)
DEVICES = {"devdax": MAPPED, "offline": ASLEEP, "online_movable": MOVABLE, "online_kernel": KERNEL}
OFFLINE, MAP = "daxctl offline-memory dax1.0", "daxctl reconfigure-device -m devdax dax1.0"
RAM = "daxctl reconfigure-device -m system-ram --no-online dax1.0"
ONLINE, ONLINE_KERNEL = "daxctl online-memory dax1.0", "daxctl online-memory --no-movable dax1.0"
KEEP = "tee /sys/devices/system/memory/auto_online_blocks"


def want(mode="system-ram", online="online_movable", type_="ram"):
    return dax.DaxWant((0xC0DE0007,), type_, mode, online)


def argv(steps):
    return [" ".join(step.argv) for step in steps]


@pytest.mark.parametrize(
    ("have", "mode", "online", "commands"),
    [
        ("devdax", "devdax", "online_movable", []),
        ("offline", "system-ram", "offline", []),
        ("online_movable", "system-ram", "online_movable", []),
        ("online_kernel", "system-ram", "online_kernel", []),
        ("devdax", "system-ram", "offline", [KEEP, RAM]),
        ("devdax", "system-ram", "online_movable", [KEEP, RAM, ONLINE]),
        ("devdax", "system-ram", "online_kernel", [KEEP, RAM, ONLINE_KERNEL]),
        ("offline", "system-ram", "online_movable", [ONLINE]),
        ("offline", "devdax", "online_movable", [MAP]),
        ("online_movable", "devdax", "online_movable", [OFFLINE, MAP]),
        ("online_movable", "system-ram", "offline", [OFFLINE]),
        ("online_movable", "system-ram", "online_kernel", [OFFLINE, ONLINE_KERNEL]),
        ("online_kernel", "system-ram", "online_movable", [OFFLINE, ONLINE]),
    ],
)
def test_from_each_state_to_each_other(have, mode, online, commands):
    assert argv(dax.plan(want(mode, online), DEVICES[have])) == commands


def test_memory_that_is_online_in_part_is_completed():
    assert argv(dax.plan(want(), replace(MOVABLE, online=1))) == [ONLINE]


def played(device, steps):
    """What a host makes of the steps."""
    for line in argv(steps):
        if line == OFFLINE:
            device = replace(device, online=0, movable=False)
        elif line == MAP:
            assert not device.online, "daxctl refuses that"
            device = MAPPED
        elif line == RAM:
            device = ASLEEP
        elif line.startswith("daxctl online-memory"):
            assert device.mode == "system-ram"
            device = replace(device, online=device.blocks, movable=line == ONLINE)
    return device


@pytest.mark.parametrize(("have", "goal"), list(itertools.product(DEVICES, DEVICES)))
def test_a_plan_leads_there_and_then_nothing_is_left(have, goal):
    wanted = want("devdax") if goal == "devdax" else want("system-ram", goal)
    assert dax.plan(wanted, played(DEVICES[have], dax.plan(wanted, DEVICES[have]))) == []


@pytest.mark.parametrize(
    ("mode", "entry", "words"),
    [
        ("system-ram", {"serial": "0xc0de0007"}, "host node2 uses it too"),
        ("system-ram", {"serial": ["0xc0de0001", "3235774471"], "mode": "devdax"}, "host node2 uses it too"),
        ("devdax", {"serial": "0xc0de0007", "mode": "system-ram"}, "host node2 takes it for its system RAM"),
    ],
)
def test_shared_memory_is_never_system_ram(mode, entry, words):
    with pytest.raises(LabError, match=words) as caught:
        dax.refuse_shared(want(mode), {"node3": [], "node2": [{"serial": "0xc0de0001"}, entry]})
    assert "memdev 0xc0de0007" in str(caught.value) and caught.value.next_step


@pytest.mark.parametrize("mode", ["devdax", "system-ram"])
def test_memory_of_ones_own_may_be_anything(mode):
    dax.refuse_shared(want(mode), {"node2": [{"serial": "0xc0de0001", "mode": "system-ram"}]})


def test_memory_that_all_map_is_fine():
    dax.refuse_shared(want("devdax"), {"node2": [{"serial": "0xc0de0007", "mode": "devdax"}, {"serial": "0xc0de0007"}]})


def test_what_uses_the_memory_is_what_to_end():
    failed = LabError("x", "dax1.0: failed to offline memory", cmd=["daxctl", "offline-memory", "dax1.0"], rc=1, stderr="busy")
    told = dax.explain(want(), failed)
    assert "end what uses the memory" in told.next_step and told.rc == 1 and told.subject == "dax device on memdev 0xc0de0007"


@pytest.mark.parametrize("rows", [None, [1], [{"chardev": "../x"}], "text", {"chardev": None}])
def test_what_is_no_list_of_devices(rows):
    with pytest.raises(LabError, match="daxctl list: printed no list of devices"):
        dax.parse_devices(rows)
