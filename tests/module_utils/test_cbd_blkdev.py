# SPDX-License-Identifier: GPL-3.0-or-later
"""The plans of blkdevs."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from ansible.module_utils.cxl_lab import cbd_blkdev
from ansible.module_utils.cxl_lab.cbd_blkdev import BlkdevWant
from ansible.module_utils.cxl_lab.errors import LabError
from hypothesis import given
from hypothesis import strategies as st

PRESENT = BlkdevWant("pool0", "present", 0, queues=2, name="cbd0")
NAMELESS = replace(PRESENT, name="")
ABSENT = replace(PRESENT, state="absent")
CLEARED = BlkdevWant("pool0", "cleared", id=1)
SERVES = {"state": "running"}
OWN = {
    "id": 1,
    "backend": 0,
    "queues": 2,
    "state": "running",
    "local": True,
    "name": "cbd0",
    "device": "/dev/cbd0",
    "frontend": "ublk",
    "read_only": False,
    "shared": False,
    "io_timeout": 120,
    "worker": SERVES,
    "host": "node2",
}
OTHERS = {"id": 1, "backend": 0, "queues": 2, "state": "running", "local": False, "host": "node3", "alive": True}
BACKEND = {"id": 0, "state": "running", "alive": True}


def plan(want, *rows, backends=(BACKEND,), foresee=False, **info):
    transport = {"name": "pool0", "blkdev_list": list(rows), "backend_list": list(backends), **info}
    return cbd_blkdev.plan(want, {"transports": [transport]}, foresee)


def methods(calls):
    return [(call.method, call.params) for call in calls]


def item(**given):
    """An entry of the list as Ansible hands it over."""
    nothing = dict.fromkeys(("backend", "name", "io_timeout", "id"))
    flags = dict.fromkeys(("read_only", "shared", "force"), False)
    return {**nothing, **flags, "transport": "pool0", "queues": 1, "frontend": "auto", "state": "present", **given}


def test_starts_once_with_what_was_chosen():
    params = {"transport": "pool0", "backend": 0, "queues": 2, "name": "cbd0"}
    assert methods(plan(PRESENT)) == [("cbd.blkdev.start", params)]
    chosen = replace(NAMELESS, frontend="nbd", read_only=True, shared=True, io_timeout=5)
    more = {
        "transport": "pool0",
        "backend": 0,
        "queues": 2,
        "frontend": "nbd",
        "read_only": True,
        "shared": True,
        "io_timeout": 5,
    }
    assert methods(plan(chosen)) == [("cbd.blkdev.start", more)]
    assert plan(PRESENT, OWN) == plan(NAMELESS, OWN) == plan(replace(PRESENT, io_timeout=120), OWN) == []


def test_stays_while_its_backend_is_away():
    assert plan(PRESENT, OWN, backends=()) == []


@pytest.mark.parametrize("change", [{"device": None}, {"worker": {"state": "failed"}}, {"state": "pending"}])
def test_one_without_a_device_is_started_as_it_was(change):
    (call,) = plan(PRESENT, {**OWN, "io_timeout": 5, **change})
    assert call.params["io_timeout"] == 5, "the daemon would take its default for another setting"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"queues": 1}, "queues 2"),
        ({"frontend": "nbd"}, "frontend ublk"),
        ({"backend": 3}, "backend 0"),
        ({"read_only": True}, "read_only False"),
        ({"shared": True}, "shared False"),
        ({"io_timeout": 5}, "io_timeout 120"),
    ],
)
def test_other_settings(change, match):
    with pytest.raises(LabError, match=f"is blkdev 1 already, with {match}; stop it first"):
        plan(replace(PRESENT, **change), OWN)


@pytest.mark.parametrize("foresee", [True, False])
def test_an_io_timeout_below_the_lease_is_not_promised(foresee):
    short = replace(PRESENT, io_timeout=4)
    with pytest.raises(
        LabError, match=r"an io_timeout of 4 s is below the lease of the transport, 4\.5 s; choose at least 5, or none"
    ):
        plan(short, foresee=foresee, lease_ms=4500)
    assert plan(replace(PRESENT, io_timeout=5), lease_ms=4500)
    assert plan(short, lease_ms=4000) and plan(short) and plan(PRESENT, lease_ms=600_000)
    assert plan(replace(PRESENT, io_timeout=120), OWN, lease_ms=600_000) == []


@pytest.mark.parametrize("foresee", [True, False])
def test_a_second_writer_is_not_promised(foresee):
    writer = {**OTHERS, "id": 3, "read_only": False, "shared": False}
    for want in (PRESENT, replace(PRESENT, shared=True)):
        with pytest.raises(LabError, match=r"backend 0 is written by blkdev 3 of host node3; stop that one .*state: cleared.*"):
            plan(want, writer, foresee=foresee)
    with pytest.raises(LabError, match="is written by"):
        plan(PRESENT, {**writer, "shared": True})
    assert plan(replace(PRESENT, shared=True), {**writer, "shared": True})
    assert plan(replace(PRESENT, read_only=True), writer)
    # Another backend's, readers, and what is in no transport: nobody counts these.
    assert plan(PRESENT, {**writer, "backend": 1}, {**writer, "read_only": True}, {**OWN, "name": "x", "state": "pending"})
    assert plan(PRESENT, OWN, writer) == [], "what is there was allowed"


def test_what_was_lost_is_not_promised():
    with pytest.raises(LabError, match=r"was blkdev 1 of this host, and is lost: .*; forget it first \(state: absent\)"):
        plan(PRESENT, {**OWN, "state": "lost", "worker": {"state": "waiting"}}, foresee=True)


def test_a_host_can_have_several_on_one_backend_by_name():
    assert methods(plan(replace(PRESENT, name="other"), OWN))[0][1]["name"] == "other"
    assert plan(PRESENT, OWN, {**OWN, "id": 2, "name": "other"}) == []
    with pytest.raises(LabError, match="blkdev on backend 0 of transport pool0: this host has cbd0, other there; say which one"):
        plan(NAMELESS, OWN, {**OWN, "id": 2, "name": "other"})


@pytest.mark.parametrize(
    "backends", [[], [{**BACKEND, "alive": False}], [{**BACKEND, "fenced": True}], [{**BACKEND, "state": "corrupt"}]]
)
def test_waits_for_its_backend(backends):
    (call,) = plan(PRESENT, backends=backends)
    assert call.waits_for == "backend 0" and "cbd_backend" in call.hint


def test_stops():
    stop = [("cbd.blkdev.stop", {"transport": "pool0", "id": 1})]
    for want in (ABSENT, replace(ABSENT, name=""), replace(ABSENT, backend=None)):
        assert methods(plan(want, OWN)) == stop
        assert plan(want, {**OWN, "local": False}) == []
    with pytest.raises(LabError, match="is on backend 0, not 3"):
        plan(replace(ABSENT, backend=3), OWN)


def test_a_device_that_the_kernel_kept_is_taken_back_or_removed_by_its_name():
    device = {"id": None, "name": "cbd0", "backend": None, "state": "forgotten", "local": True, "device": "/dev/cbd0"}
    assert methods(plan(PRESENT, device)) == methods(plan(PRESENT))
    assert methods(plan(ABSENT, device)) == [("cbd.blkdev.stop", {"transport": "pool0", "id": "cbd0"})]
    assert plan(replace(ABSENT, name="other"), device) == plan(replace(ABSENT, name=""), device) == []


def test_clears_away_what_a_dead_host_left():
    (call,) = plan(CLEARED, OTHERS)
    assert call.waits_for == "host node3 of blkdev 1 to be dead"
    clear = {"transport": "pool0", "id": 1, "force": False}
    assert methods(plan(CLEARED, {**OTHERS, "alive": False})) == [("cbd.blkdev.clear", clear)]
    damaged = {"id": 1, "state": "corrupt", "local": False}
    assert methods(plan(replace(CLEARED, force=True), damaged)) == [("cbd.blkdev.clear", {**clear, "force": True})]
    assert not plan(CLEARED, {**OTHERS, "alive": False})[0].waits_for
    assert plan(CLEARED) == []
    with pytest.raises(LabError, match="is this host's own; stop it"):
        plan(CLEARED, OWN)


def test_a_transport_that_this_host_is_not_registered_in():
    with pytest.raises(LabError, match="not registered"):
        cbd_blkdev.plan(PRESENT, {"transports": []}, False)
    assert len(cbd_blkdev.plan(PRESENT, {"transports": []}, True)) == 1, "check mode foresees it"
    for want in (ABSENT, CLEARED):
        assert cbd_blkdev.plan(want, {"transports": []}, False) == []


def test_an_entry_of_the_list():
    assert cbd_blkdev.parse(item(backend=0, queues=2, name="cbd0")) == PRESENT
    assert cbd_blkdev.parse(item(id=1, state="cleared", name="not-looked-at")) == CLEARED
    assert cbd_blkdev.parse(item(id=1, state="cleared", force=True)) == replace(CLEARED, force=True)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"queues": 17}, "queues: 17 is not possible; choose 1 to 16"),
        ({"name": "../x"}, "no valid name"),
        ({"name": "control"}, "is reserved"),
        ({"backend": -1}, "choose 0 to 1023"),
        ({"io_timeout": 0}, "choose 1 to 86400"),
        ({"transport": "a b"}, "no valid name"),
    ],
)
def test_an_entry_that_cannot_be(given, match):
    with pytest.raises(LabError, match=match):
        cbd_blkdev.parse(item(**{"backend": 0, **given}))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (PRESENT, replace(PRESENT, transport="pool1", backend=3)),
        (NAMELESS, NAMELESS),
        (NAMELESS, PRESENT),
        (CLEARED, CLEARED),
    ],
)
def test_a_list_that_means_one_thing_twice(one, two):
    with pytest.raises(LabError, match="is in the list twice"):
        cbd_blkdev.check([one, two])


def test_a_list_of_several():
    cbd_blkdev.check([PRESENT, replace(PRESENT, name="other"), replace(NAMELESS, backend=3), CLEARED])


rows = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.integers(0, 2),
            "backend": st.integers(0, 1),
            "local": st.booleans(),
            "alive": st.sampled_from([True, False, "unknown"]),
            "fenced": st.booleans(),
            "state": st.sampled_from(["running", "pending", "corrupt"]),
            "worker": st.none() | st.just(SERVES),
            "queues": st.integers(1, 2),
            "name": st.sampled_from(["cbd0", "x"]),
            "frontend": st.sampled_from(["ublk", "nbd"]),
            "device": st.none() | st.just("/dev/cbd0"),
            "error": st.just({"message": "torn"}),
        },
    ),
    max_size=3,
)


@given(st.sampled_from([PRESENT, NAMELESS, ABSENT, replace(CLEARED, id=0)]), rows, rows)
def test_rows_of_any_shape_give_a_plan_or_an_error(want, seen, backends):
    with contextlib.suppress(LabError):
        assert len(plan(want, *seen, backends=backends)) <= 1
