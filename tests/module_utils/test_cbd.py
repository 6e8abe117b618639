# SPDX-License-Identifier: GPL-3.0-or-later
"""The plans of transports, backends and blkdevs."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from ansible.module_utils.cxl_lab import cbd
from ansible.module_utils.cxl_lab.cbd import BackendWant, BlkdevWant, TransportWant
from ansible.module_utils.cxl_lab.errors import LabError
from hypothesis import given
from hypothesis import strategies as st

INFO = {"name": "pool0", "uuid": "u1", "ring_depth": 64, "slot_bytes": 65536, "data_crc": True, "coherence": "software"}
BLANK = {"memory": "/dev/dax0.0", "path": "/dev/dax0.0", "formatted": False, "foreign": False, "problem": None, "info": None}
MADE = {**BLANK, "formatted": True, "info": INFO}
WANT = TransportWant("pool0", "/dev/dax0.0")
RUNNING = {"name": "pool0", "uuid": "u1", "path": "/dev/dax0.0", "memory": "/dev/dax0.0", "state": "running"}


def methods(calls):
    return [(call.method, call.params) for call in calls]


def test_format_a_blank_memory_with_the_chosen_options_only():
    want = replace(WANT, options={"ring_depth": 128})
    params = {"memory": "/dev/dax0.0", "name": "pool0", "force": False, "ring_depth": 128}
    assert methods(cbd.plan_format(want, BLANK)) == [("cbd.transport.format", params)]


@pytest.mark.parametrize("force", [False, True])
def test_the_same_transport_is_left_alone_even_with_force(force):
    assert cbd.plan_format(replace(WANT, options={"ring_depth": 64, "data_crc": True}, force=force), MADE) == []


@pytest.mark.parametrize(
    ("want", "probe", "match"),
    [
        (WANT, {**MADE, "info": {**INFO, "name": "other"}}, r"carries the transport other \(u1\)"),
        (replace(WANT, options={"ring_depth": 128, "data_crc": False}), MADE, "formatted with data_crc True, ring_depth 64"),
        (WANT, {**MADE, "info": None, "problem": "version 9"}, r"cannot be read \(version 9\)"),
        (WANT, {**BLANK, "foreign": True, "problem": None}, "no transport .unknown bytes"),
    ],
)
def test_anything_else_is_only_destroyed_by_force(want, probe, match):
    with pytest.raises(LabError, match=match):
        cbd.plan_format(want, probe)
    assert cbd.plan_format(replace(want, force=True), probe)[0].params["force"] is True


def test_register():
    assert methods(cbd.plan_register(WANT, [], MADE)) == [("cbd.transport.register", {"memory": "/dev/dax0.0"})]
    assert cbd.plan_register(WANT, [RUNNING], MADE) == []
    assert cbd.plan_register(WANT, [{**RUNNING, "state": "pending", "path": None}], MADE), "the daemon tries at once"


def test_register_before_format_is_an_error_but_foreseen_in_check_mode():
    with pytest.raises(LabError, match="holds no transport; format it on one host first"):
        cbd.plan_register(WANT, [], BLANK)
    assert cbd.plan_register(WANT, [], BLANK, foresee=True)


@pytest.mark.parametrize(
    ("rows", "probe", "match"),
    [
        ([], {**MADE, "info": {**INFO, "name": "other"}}, "holds transport other"),
        ([{**RUNNING, "path": "/dev/dax1.0"}], MADE, "is registered on /dev/dax1.0, not on /dev/dax0.0"),
        ([{**RUNNING, "uuid": "u0"}], MADE, "was formatted again"),
    ],
)
def test_register_conflicts(rows, probe, match):
    with pytest.raises(LabError, match=match):
        cbd.plan_register(WANT, rows, probe)


def test_unregister():
    assert methods(cbd.plan_unregister(WANT, [RUNNING])) == [("cbd.transport.unregister", {"transport": "pool0"})]
    assert cbd.plan_unregister(WANT, []) == []


BACKEND = BackendWant("pool0", "/dev/ram0p1", None, False)
SERVES = {"state": "running"}
BACKEND_ROW = {
    "id": 0,
    "path": "/dev/ram0p1",
    "state": "running",
    "local": True,
    "read_only": False,
    "worker": SERVES,
    "host": "node1",
}


def test_backend_starts_once():
    params = {"transport": "pool0", "path": "/dev/ram0p1", "id": None, "read_only": False}
    assert methods(cbd.plan_backend(BACKEND, [])) == [("cbd.backend.start", params)]
    assert cbd.plan_backend(BACKEND, [BACKEND_ROW]) == []
    assert cbd.plan_backend(BACKEND, [{**BACKEND_ROW, "local": False}]), "the same path of another host is another disk"


@pytest.mark.parametrize("change", [{"state": "pending"}, {"worker": {"state": "failed"}}, {"worker": None}])
def test_a_backend_that_does_not_serve_is_started(change):
    assert cbd.plan_backend(BACKEND, [{**BACKEND_ROW, **change}])


@pytest.mark.parametrize(
    ("want", "row", "match"),
    [
        (replace(BACKEND, id=3), BACKEND_ROW, "is backend 0 already, not 3"),
        (replace(BACKEND, read_only=True), BACKEND_ROW, "is backend 0 already, read-write"),
        (replace(BACKEND, id=0), {**BACKEND_ROW, "path": "/dev/sdb", "local": False}, "backend 0 is /dev/sdb on node1"),
    ],
)
def test_backend_conflicts(want, row, match):
    with pytest.raises(LabError, match=match):
        cbd.plan_backend(want, [row])


def test_backend_stops_by_its_path(tmp_path):
    (tmp_path / "link").symlink_to("/dev/ram0p1")
    want = replace(BACKEND, path=str(tmp_path / "link"))
    assert methods(cbd.plan_no_backend(want, [BACKEND_ROW])) == [("cbd.backend.stop", {"transport": "pool0", "id": 0})]
    assert cbd.plan_no_backend(BACKEND, [{**BACKEND_ROW, "local": False}]) == []


BLKDEV = BlkdevWant("pool0", 0, 2, "auto", "cbd0")
BLKDEV_ROW = {
    "id": 1,
    "backend": 0,
    "queues": 2,
    "state": "running",
    "local": True,
    "name": "cbd0",
    "device": "/dev/cbd0",
    "frontend": "ublk",
    "worker": SERVES,
}


def test_blkdev_starts_once():
    params = {"transport": "pool0", "backend": 0, "queues": 2, "frontend": "auto", "name": "cbd0"}
    assert methods(cbd.plan_blkdev(BLKDEV, [])) == [("cbd.blkdev.start", params)]
    assert cbd.plan_blkdev(replace(BLKDEV, name=""), [])[0].params["name"] is None
    assert cbd.plan_blkdev(BLKDEV, [BLKDEV_ROW]) == []
    assert cbd.plan_blkdev(BLKDEV, [{**BLKDEV_ROW, "device": None}])


@pytest.mark.parametrize(
    ("change", "match"), [({"queues": 1}, "queues 2"), ({"frontend": "nbd"}, "frontend ublk"), ({"name": "other"}, "name cbd0")]
)
def test_blkdev_with_other_settings(change, match):
    with pytest.raises(LabError, match=f"is blkdev 1 already, with {match}; stop it first"):
        cbd.plan_blkdev(replace(BLKDEV, **change), [BLKDEV_ROW])


def test_blkdev_stops():
    assert methods(cbd.plan_no_blkdev(BLKDEV, [BLKDEV_ROW])) == [("cbd.blkdev.stop", {"transport": "pool0", "id": 1})]
    assert cbd.plan_no_blkdev(BLKDEV, [{**BLKDEV_ROW, "local": False}]) == []


def test_a_backend_of_a_dead_host_is_not_ready():
    assert cbd.backend_is_ready(0, [{**BACKEND_ROW, "alive": "unknown"}])
    assert not cbd.backend_is_ready(0, [{**BACKEND_ROW, "alive": False}])
    assert not cbd.backend_is_ready(1, [{**BACKEND_ROW, "alive": True}])


@pytest.mark.parametrize("value", ["dax0.0", "serial:", "serial:xyz", "/dev/\n", "/" + "x" * 300, ""])
def test_memory_that_is_none(value):
    with pytest.raises(LabError):
        cbd.check_memory(value)


def test_memory_in_its_forms():
    for value in ("serial:0xc0de0001", "/dev/dax0.0", "/dev/shm/pool"):
        assert cbd.check_memory(value) == value


@pytest.mark.parametrize("answer", [None, {}, [1], "rows"])
def test_a_list_that_is_none(answer):
    with pytest.raises(LabError, match="no list of objects"):
        cbd.check_rows(answer, "cbd.backend.list")


rows = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.integers(0, 2),
            "path": st.sampled_from(["/dev/ram0p1", "/dev/sdb"]),
            "backend": st.integers(0, 1),
            "local": st.booleans(),
            "state": st.sampled_from(["running", "pending", "corrupt"]),
            "worker": st.none() | st.just(SERVES),
            "read_only": st.booleans(),
            "queues": st.integers(1, 2),
            "name": st.sampled_from(["cbd0", "x"]),
            "frontend": st.sampled_from(["ublk", "nbd"]),
            "device": st.none() | st.just("/dev/cbd0"),
            "error": st.just({"message": "torn"}),
        },
    ),
    max_size=3,
)


@given(rows)
def test_rows_of_any_shape_give_a_plan_or_an_error(seen):
    for plan, want in ((cbd.plan_backend, BACKEND), (cbd.plan_blkdev, BLKDEV)):
        with contextlib.suppress(LabError):
            assert len(plan(want, seen)) <= 1
