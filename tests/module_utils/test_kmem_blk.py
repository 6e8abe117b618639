# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans of kmem_blk pools."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.kmem_blk import PAGE, check, parse, plan

ITEM: dict[str, Any] = {
    "name": "pool0",
    "memories": ["/dev/dax0.0"],
    "thick": False,
    "spare": 16,
    "force": False,
    "reserve": "0",
    "lease_limit": "0",
    "lease_group": None,
    "recall_ms": 5000,
    "volume": None,
    "swap": None,
    "state": "present",
}
BLANK = {"formatted": False, "foreign": None, "problem": None, "info": None, "range_of": None}
BOTH = ["/dev/dax0.0", "dcd:0x91/more"]
SWAP = {"size": "256M", "priority": 5}
VOLUME = {"name": "kmem0", "frontend": "ublk", "queues": 2}


def want(**item: Any):
    return parse({**ITEM, **item})


def row(**state: Any) -> dict[str, Any]:
    have = {"name": "pool0", "state": "running", "memories": ["/dev/dax0.0"], "reserve": 0, "lease_limit": 0}
    return {**have, "lease_group": None, "recall_ms": 5000, "volume": None, "swap": None, **state}


def steps(wanted: Any, pools: list[dict[str, Any]], **probes: Any) -> list[str]:
    seen = {"pools": pools, "probes": {memory: {**BLANK, **probes} for memory in wanted.memories}}
    return [call.method.removeprefix("kmem_blk.") for call in plan(wanted, seen, False)]


RUNNING = {"worker": {"state": "running"}}


@pytest.mark.parametrize(
    ("item", "have", "expected"),
    [
        ({}, [], ["pool.format", "pool.start"]),
        ({"memories": ["/a", "/b"]}, [], ["pool.format", "pool.start", "pool.grow"]),
        ({"swap": SWAP, "volume": VOLUME}, [], ["pool.format", "pool.start", "swap.start", "volume.start"]),
        ({}, [row()], []),
        ({"reserve": "1M"}, [row()], ["pool.start"]),
        ({}, [row(state="waiting")], ["pool.start"]),
        ({"memories": ["/dev/dax0.0", "/b"]}, [row()], ["pool.grow"]),
        ({}, [row(memories=["/dev/dax0.0", "/b"])], ["pool.shrink"]),
        ({"memories": BOTH}, [row()], ["pool.grow"]),
        ({"memories": BOTH}, [row(memories=BOTH)], []),
        (
            {"memories": BOTH},
            [row(memories=BOTH, ranges=[{"memory": "/dev/dax0.0"}])],
            ["pool.grow"],
        ),
        ({"swap": SWAP}, [row(swap={"blocks": 65536, "priority": 5, **RUNNING})], []),
        ({"swap": SWAP}, [row(swap={"blocks": 65536, "priority": 6, **RUNNING})], ["swap.stop", "swap.start"]),
        ({}, [row(swap={"blocks": 65536, "priority": 6, **RUNNING})], ["swap.stop"]),
        ({"volume": VOLUME}, [row(volume={**VOLUME, "device": "/dev/kmem0", **RUNNING})], []),
        ({"volume": VOLUME}, [row(volume={**VOLUME, "worker": {"state": "waiting"}})], ["volume.start"]),
        ({"state": "absent"}, [], []),
        ({"state": "absent"}, [row(volume=VOLUME, swap={})], ["volume.stop", "pool.stop"]),
        ({"state": "absent"}, [row(volume=VOLUME, swap=SWAP)], ["swap.stop", "volume.stop", "pool.stop"]),
    ],
)
def test_plans(item, have, expected):
    assert steps(want(**item), have) == expected


def test_a_pool_that_was_stopped_starts_with_the_memories_that_are_its_own():
    wanted = want(memories=["/a", "/b", "/c"])
    pool = {**BLANK, "formatted": True, "info": {"name": "pool0", "uuid": "u"}}
    probes = {"/a": pool, "/b": {**BLANK, "range_of": "u"}, "/c": {**BLANK, "range_of": "v"}}
    calls = plan(wanted, {"pools": [], "probes": probes}, False)
    assert [(call.method, call.params.get("memories") or call.params.get("memory")) for call in calls] == [
        ("kmem_blk.pool.start", ["/a", "/b"]),
        ("kmem_blk.pool.grow", "/c"),
    ]


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        ({"foreign": "an XFS file system"}, "carries an XFS file system"),
        ({"formatted": True, "info": {"name": "other"}}, "carries the pool other"),
        ({"formatted": True, "problem": "superblock: its checksum is wrong"}, "checksum"),
    ],
)
def test_foreign_memory_needs_force(probe, says):
    with pytest.raises(LabError, match=says):
        steps(want(), [], **probe)
    assert steps(want(force=True), [], **probe) == ["pool.format", "pool.start"]


def test_sizes_become_pages():
    wanted = want(reserve="64M", lease_limit="8K", swap=SWAP)
    assert wanted.limits["reserve"] == (64 << 20) // PAGE and wanted.limits["lease_limit"] == 2
    assert wanted.swap == {"size": 256 << 20, "priority": 5}


@pytest.mark.parametrize(
    "item",
    [
        {"reserve": "5000"},
        {"reserve": "much"},
        {"name": "../x"},
        {"memories": ["dax0.0"]},
        {"memories": ["dcd:0x91"]},
        {"memories": ["dcd:more/0x91"]},
        {"recall_ms": -1},
        {"spare": 0},
        {"swap": {"size": "1M", "priority": 40000}},
        {"volume": {"name": "kmem0", "frontend": "ublk", "queues": 99}},
    ],
)
def test_what_cannot_be_is_refused(item):
    with pytest.raises(LabError):
        want(**item)


def test_a_memory_belongs_to_one_pool():
    with pytest.raises(LabError, match="twice"):
        check([want(), want(name="other")])
    with pytest.raises(LabError, match="runs on"):
        steps(want(memories=["/elsewhere"]), [row()])


def test_limits_change_without_a_memory_that_was_given_back():
    """The daemon refuses to start a pool with a memory that it has not."""
    have = row(memories=["/dev/dax0.0", "/b", "/c"])
    calls = plan(want(reserve="1M", memories=["/dev/dax0.0", "/c"]), {"pools": [have], "probes": {}}, False)
    assert [call.method for call in calls] == ["kmem_blk.pool.shrink", "kmem_blk.pool.start"]
    assert calls[0].params["memory"] == "/b" and calls[1].params["memories"] == ["/dev/dax0.0", "/c"]


def test_a_device_belongs_to_one_pool():
    """The second one would only fail once its memory was formatted."""
    two = [want(volume=VOLUME), want(name="other", memories=["/b"], volume=VOLUME)]
    with pytest.raises(LabError, match="device kmem0 of pool other"):
        check(two)
    with pytest.raises(LabError, match="pool0-swap"):
        check([want(swap=SWAP), want(name="other", memories=["/b"], volume={**VOLUME, "name": "pool0-swap"})])
    check([want(volume=VOLUME), want(name="other", memories=["/b"], volume=VOLUME, state="absent")])
    check([want(volume=VOLUME), want(name="other", memories=["/b"], volume={**VOLUME, "name": "kmem1"})])


@pytest.mark.parametrize(
    "item",
    [
        {"memories": []},
        {"reserve": "16T"},
        {"lease_limit": "17592186044416K"},
        {"lease_group": ""},
        {"swap": {"size": "0", "priority": 1}},
        {"swap": {"size": "512K", "priority": 1}},
        {"swap": {"size": "16T", "priority": 1}},
        {"volume": {**VOLUME, "name": "control"}},
    ],
)
def test_what_the_daemon_would_refuse_later_is_refused_before_anything_is_formatted(item):
    with pytest.raises(LabError) as caught:
        want(**item)
    assert "pool0" in str(caught.value)
