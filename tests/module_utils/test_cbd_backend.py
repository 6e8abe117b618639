# SPDX-License-Identifier: GPL-3.0-or-later
"""The plans of backends."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from ansible.module_utils.cxl_lab import cbd_backend
from ansible.module_utils.cxl_lab.cbd_backend import BackendWant
from ansible.module_utils.cxl_lab.errors import LabError
from hypothesis import given
from hypothesis import strategies as st

PRESENT = BackendWant("pool0", "present", "/dev/ram0p1")
ABSENT = replace(PRESENT, state="absent")
RECOVERED = BackendWant("pool0", "recovered", id=0)
CLEARED = BackendWant("pool0", "cleared", id=0)
SERVES = {"state": "running"}
OWN = {"id": 0, "path": "/dev/ram0p1", "state": "running", "local": True, "read_only": False, "worker": SERVES, "host": "node1"}
OTHERS = {key: value for key, value in OWN.items() if key != "worker"} | {"local": False, "alive": True, "fenced": False}
LOST = {**OTHERS, "alive": False}
FORGOTTEN = {**OTHERS, "local": True, "state": "forgotten"}
USER = {"id": 4, "backend": 0, "host": "node2", "alive": "unknown", "fenced": False, "state": "running"}


def plan(want, *rows, foresee=False, users=()):
    transport = {"name": "pool0", "backend_list": list(rows), "blkdev_list": list(users)}
    return cbd_backend.plan(want, {"transports": [transport]}, foresee)


def methods(calls):
    return [(call.method, call.params) for call in calls]


def item(**given):
    """An entry of the list as Ansible hands it over."""
    defaults = {"transport": "pool0", "path": None, "id": None, "read_only": None, "state": "present", "force": False}
    return {**defaults, **given}


def test_starts_once():
    params = {"transport": "pool0", "path": "/dev/ram0p1", "id": None, "read_only": False}
    assert methods(plan(PRESENT)) == [("cbd.backend.start", params)]
    assert plan(PRESENT, OWN) == []
    assert plan(PRESENT, OTHERS), "the same path of another host is another disk"


@pytest.mark.parametrize("change", [{"state": "pending"}, {"worker": {"state": "failed"}}, {"worker": None}])
def test_one_that_does_not_serve_is_started(change):
    assert plan(PRESENT, {**OWN, **change})


@pytest.mark.parametrize(
    ("want", "row", "match"),
    [
        (replace(PRESENT, id=3), OWN, "is backend 0 already, not 3"),
        (replace(PRESENT, read_only=True), OWN, "is backend 0 already, read-write"),
        (replace(PRESENT, id=0), {**OTHERS, "path": "/dev/sdb"}, "backend 0 is /dev/sdb on node1; choose another id"),
        (replace(PRESENT, id=0), LOST, r"choose another id; a backend of a dead host can be taken over \(state: recovered\)"),
        (
            replace(PRESENT, id=0),
            OTHERS,
            r"if node1 took it over: put host: node1 into cbd_backends, or .*; else choose another id",
        ),
        (replace(PRESENT, id=0), {"id": 0, "state": "corrupt", "local": False}, "on an unknown host"),
        (replace(ABSENT, id=3), OWN, "is backend 0 already, not 3"),
        (replace(RECOVERED, path="/dev/sdb"), OWN, "backend 0 is /dev/ram0p1 on this host already"),
        (replace(RECOVERED, read_only=True), OWN, "is backend 0 already, read-write"),
        (replace(RECOVERED, id=7), LOST, "backend 7: is not in transport pool0"),
        (CLEARED, OWN, "is this host's own; stop it"),
        (replace(ABSENT, id=3), FORGOTTEN, "is backend 0 already, not 3"),
        (replace(RECOVERED, read_only=True), FORGOTTEN, "is backend 0 already, read-write"),
    ],
)
def test_conflicts(want, row, match):
    with pytest.raises(LabError, match=match):
        plan(want, row)


@pytest.mark.parametrize("foresee", [True, False])
@pytest.mark.parametrize(("want", "row"), [(ABSENT, OWN), (ABSENT, FORGOTTEN), (CLEARED, LOST), (CLEARED, FORGOTTEN)])
def test_one_that_is_used_is_refused_before_the_daemon_does(want, row, foresee):
    with pytest.raises(LabError, match="backend 0 is used by blkdev 4 of host node2"):
        plan(want, row, foresee=foresee, users=[USER])
    for other in ({**USER, "backend": 1}, {**USER, "alive": False}, {**USER, "fenced": True}):
        assert plan(want, row, foresee=foresee, users=[other])
    # This host's wish, of which nothing is in the transport yet.
    assert plan(want, row, foresee=foresee, users=[{"id": 4, "backend": 0, "local": True, "state": "pending"}])


def test_what_is_used_goes_by_force_or_once_it_is_lost():
    assert plan(replace(CLEARED, force=True), LOST, users=[USER])
    assert plan(ABSENT, {**OWN, "state": "lost"}, users=[USER])
    with pytest.raises(LabError, match="is used by"):
        plan(replace(ABSENT, force=True), OWN, users=[USER])


def test_a_use_is_judged_once_the_host_of_the_backend_is_dead():
    """Both hosts may have died, and the use with it."""
    (call,) = plan(CLEARED, OTHERS, users=[USER])
    assert call.death_of == "node1"


def test_one_that_this_host_forgot_is_served_again_or_given_up():
    assert methods(plan(PRESENT, FORGOTTEN))[0][0] == "cbd.backend.start"
    assert methods(plan(ABSENT, FORGOTTEN))[0][0] == "cbd.backend.stop"
    (call,) = plan(replace(CLEARED, force=True), FORGOTTEN)
    assert (call.method, call.params["force"], call.waits_for) == ("cbd.backend.clear", True, "")
    moved = {"transport": "pool0", "id": 0, "path": "/dev/sdb"}
    assert methods(plan(replace(RECOVERED, path="/dev/sdb"), FORGOTTEN)) == [("cbd.backend.recover", moved)]


def test_stops_by_its_path_or_its_number(tmp_path):
    (tmp_path / "link").symlink_to("/dev/ram0p1")
    stop = [("cbd.backend.stop", {"transport": "pool0", "id": 0})]
    assert methods(plan(replace(ABSENT, path=str(tmp_path / "link")), OWN)) == stop
    assert methods(plan(replace(ABSENT, path="", id=0), OWN)) == stop
    assert plan(ABSENT, OTHERS) == plan(replace(ABSENT, path="", id=0), OTHERS) == []


def test_gives_up_what_another_host_took_over():
    """The host was away; its daemon would serve the backend again, could it."""
    taken = {**OTHERS, "host": "node2", "path": "/dev/replica"}
    lost = {**OWN, "state": "lost", "worker": {"state": "failed"}}
    stop = [("cbd.backend.stop", {"transport": "pool0", "id": 0})]
    for rows in ((taken, lost), (lost, taken)):
        for want in (ABSENT, replace(ABSENT, id=0), replace(ABSENT, path="", id=0)):
            assert methods(plan(want, *rows)) == stop
        step = r"it was taken over: put host: node2, path: /dev/replica into cbd_backends, or begin anew \(make down\)$"
        with pytest.raises(LabError, match=f"backend 0 is /dev/replica on node2; {step}"):
            plan(replace(PRESENT, id=0), *rows)
        assert plan(RECOVERED, *rows)[0].waits_for == "host node2 of backend 0 to be dead"


def test_what_was_lost_is_not_promised_under_any_number():
    taken = {**OTHERS, "host": "node2", "path": "/dev/replica"}
    lost = {**OWN, "state": "lost", "worker": {"state": "waiting"}}
    for number in (None, 1):
        with pytest.raises(LabError, match="backend 0 is /dev/replica on node2; it was taken over"):
            plan(replace(PRESENT, id=number), taken, lost, foresee=True)
    for number in (None, 0, 1):
        with pytest.raises(LabError, match=r"was backend 0 of this host until .*; its data may be old; .*\(state: absent\)"):
            plan(replace(PRESENT, id=number), lost, foresee=True)


def test_takes_over_from_a_dead_host():
    assert methods(plan(RECOVERED, LOST)) == [("cbd.backend.recover", {"transport": "pool0", "id": 0})]
    replica = replace(RECOVERED, path="/dev/sdb", read_only=True)
    params = {"transport": "pool0", "id": 0, "path": "/dev/sdb", "read_only": True}
    assert methods(plan(replica, LOST)) == [("cbd.backend.recover", params)]
    assert not plan(RECOVERED, {**OTHERS, "fenced": True})[0].waits_for, "that life of it is over, though the host lives again"


@pytest.mark.parametrize("state", ["recovered", "cleared"])
@pytest.mark.parametrize("alive", [True, "unknown"])
def test_waits_until_the_other_host_is_dead(state, alive):
    (call,) = plan(replace(RECOVERED, state=state), {**OTHERS, "alive": alive})
    assert call.waits_for == "host node1 of backend 0 to be dead" and "cxl_power" in call.hint


def test_what_was_taken_over_stays():
    assert plan(RECOVERED, OWN) == plan(replace(RECOVERED, path="/dev/ram0p1", read_only=False), OWN) == []
    assert [call.waits_for for call in plan(RECOVERED, {**OWN, "worker": {"state": "failed"}})] == [""], "it is started again"


def test_clears_away_what_a_dead_host_left():
    clear = [("cbd.backend.clear", {"transport": "pool0", "id": 0, "force": True})]
    assert methods(plan(replace(CLEARED, force=True), LOST)) == clear
    assert methods(plan(replace(CLEARED, force=True), {"id": 0, "state": "corrupt", "local": False})) == clear
    assert plan(CLEARED) == []


def test_a_transport_that_this_host_is_not_registered_in():
    for want in (PRESENT, RECOVERED):
        with pytest.raises(LabError, match="not registered"):
            cbd_backend.plan(want, {"transports": []}, False)
        assert len(cbd_backend.plan(want, {"transports": []}, True)) == 1, "check mode foresees it"
    for want in (ABSENT, CLEARED):
        assert cbd_backend.plan(want, {"transports": []}, False) == []


def test_what_is_shown_is_the_one_that_is_meant():
    seen = {"transports": [{"name": "pool0", "backend_list": [{**LOST, "id": 3}, OWN]}]}
    assert [row["id"] for row in cbd_backend.find(PRESENT, seen)] == [0]
    assert [row["id"] for row in cbd_backend.find(replace(CLEARED, id=3), seen)] == [3]
    assert cbd_backend.find(replace(ABSENT, path="", id=3), seen) == []


def test_a_backend_of_a_dead_host_is_not_ready():
    assert cbd_backend.is_ready(0, [{**OWN, "alive": "unknown"}])
    assert not cbd_backend.is_ready(0, [{**OWN, "alive": False}])
    assert not cbd_backend.is_ready(0, [{**OWN, "alive": True, "fenced": True}])
    assert not cbd_backend.is_ready(1, [{**OWN, "alive": True}])


def test_an_entry_of_the_list():
    assert cbd_backend.parse(item(path="/dev/ram0p1")) == PRESENT
    assert cbd_backend.parse(item(state="cleared", id=0, path="/ignored")) == CLEARED
    for wrong, match in (({"path": "/x", "id": 5000}, "choose 0 to 1023"), ({"path": "x"}, "no absolute path")):
        with pytest.raises(LabError, match=match):
            cbd_backend.parse(item(**wrong))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (PRESENT, replace(PRESENT, transport="pool1", path="/dev/../dev/ram0p1")),
        (RECOVERED, replace(RECOVERED, path="/dev/sdb")),
        (replace(PRESENT, id=0), CLEARED),
    ],
)
def test_a_list_that_means_one_thing_twice(one, two):
    with pytest.raises(LabError, match="is in the list twice"):
        cbd_backend.check([one, two])


def test_a_list_of_several():
    cbd_backend.check([PRESENT, replace(PRESENT, path="/dev/sdb"), RECOVERED, replace(RECOVERED, transport="pool1")])


rows = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.integers(0, 2),
            "path": st.sampled_from(["/dev/ram0p1", "/dev/sdb"]),
            "local": st.booleans(),
            "alive": st.sampled_from([True, False, "unknown"]),
            "fenced": st.booleans(),
            "host": st.sampled_from(["node1", "node2"]),
            "state": st.sampled_from(["running", "pending", "lost", "corrupt", "forgotten"]),
            "worker": st.none() | st.just(SERVES),
            "read_only": st.booleans(),
            "error": st.just({"message": "torn"}),
        },
    ),
    max_size=3,
)
wants = st.builds(
    BackendWant,
    st.just("pool0"),
    st.sampled_from(["present", "absent", "recovered", "cleared"]),
    st.just("/dev/ram0p1"),
    st.integers(0, 2),
    st.none() | st.booleans(),
)


def test_what_this_host_forgot_and_the_list_does_not_mean_is_told():
    other = {**OWN, "id": 1, "path": "/dev/sdb"}
    seen = {"transports": [{"name": "pool0", "backend_list": [FORGOTTEN, other], "blkdev_list": []}]}
    (remark,) = cbd_backend.remarks([BackendWant("pool0", "present", "/dev/sdb", id=1)], seen)
    assert "backend 0 of transport pool0 (/dev/ram0p1) was forgotten" in remark
    assert "state: present" in remark and "state: absent" in remark
    assert cbd_backend.remarks([PRESENT], seen) == cbd_backend.remarks([CLEARED], seen) == []
    assert cbd_backend.remarks([BackendWant("other", "present", "/dev/sdb")], seen) == []


def test_the_number_of_what_this_host_forgot_is_not_said_to_be_taken_over():
    with pytest.raises(LabError, match=r"this host forgot.*serve it again with that path \(state: present\)") as caught:
        plan(BackendWant("pool0", "present", "/dev/sdb", id=0), FORGOTTEN)
    assert "cbd_backends" not in str(caught.value)


@pytest.mark.parametrize("want", [RECOVERED, CLEARED])
def test_who_waits_for_a_host_hears_that_it_may_have_forgotten(want):
    (call,) = plan(want, OTHERS)
    assert call.waits_for and "if it forgot the backend" in call.hint


@given(wants, rows)
def test_rows_of_any_shape_give_a_plan_or_an_error(want, seen):
    """And nothing is taken from a host that may be alive without waiting for its death."""
    with contextlib.suppress(LabError):
        calls = plan(want, *seen)
        assert len(calls) <= 1
        for call in calls:
            if call.method in ("cbd.backend.recover", "cbd.backend.clear") and not call.waits_for:
                found = [row for row in seen if row.get("id") == want.id]
                entry = min(found, key=lambda row: row.get("state") == "lost")
                dead = entry.get("alive") is False or entry.get("fenced") is True or entry.get("state") == "corrupt"
                assert dead or entry.get("local")
