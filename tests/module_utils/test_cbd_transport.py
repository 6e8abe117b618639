# SPDX-License-Identifier: GPL-3.0-or-later
"""The plans of transports."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible.module_utils.cxl_lab import cbd_transport
from ansible.module_utils.cxl_lab.cbd_transport import TransportWant
from ansible.module_utils.cxl_lab.errors import LabError

INFO = {"name": "pool0", "uuid": "u1", "ring_depth": 64, "slot_bytes": 65536, "data_crc": True, "coherence": "software"}
BLANK = {"memory": "/dev/dax0.0", "path": "/dev/dax0.0", "formatted": False, "foreign": False, "problem": None, "info": None}
MADE = {**BLANK, "formatted": True, "info": INFO}
FORMATTED = TransportWant("pool0", "/dev/dax0.0", "formatted")
REGISTERED = replace(FORMATTED, state="registered")
ABSENT = TransportWant("pool0", "", "absent")
RUNNING = {"name": "pool0", "uuid": "u1", "path": "/dev/dax0.0", "memory": "/dev/dax0.0", "state": "running"}


def plan(want, probe=BLANK, *rows, foresee=False):
    seen = {"transports": list(rows), "probes": {"/dev/dax0.0": probe}}
    return [(call.method, call.params) for call in cbd_transport.plan(want, seen, foresee)]


def item(**given):
    """An entry of the list as Ansible hands it over."""
    return {"name": "pool0", "memory": "/dev/dax0.0", "state": "formatted", "geometry": None, "force": False, **given}


def test_format_a_blank_memory_with_the_chosen_settings_only():
    params = {"memory": "/dev/dax0.0", "name": "pool0", "force": False, "ring_depth": 128}
    assert plan(replace(FORMATTED, geometry={"ring_depth": 128})) == [("cbd.transport.format", params)]


@pytest.mark.parametrize("force", [False, True])
def test_the_same_transport_is_left_alone_even_with_force(force):
    assert plan(replace(FORMATTED, geometry={"ring_depth": 64, "data_crc": True}, force=force), MADE) == []


@pytest.mark.parametrize(
    ("want", "probe", "match"),
    [
        (FORMATTED, {**MADE, "info": {**INFO, "name": "other"}}, r"carries the transport other \(u1\)"),
        (replace(FORMATTED, geometry={"ring_depth": 128, "lease_ms": 1000}), MADE, "formatted with lease_ms None, ring_depth 64"),
        (FORMATTED, {**MADE, "info": None, "problem": "version 9"}, r"cannot be read \(version 9\)"),
        (FORMATTED, {**BLANK, "foreign": True, "problem": None}, "no transport .unknown bytes"),
    ],
)
def test_anything_else_is_only_destroyed_by_force(want, probe, match):
    with pytest.raises(LabError, match=match):
        plan(want, probe)
    assert plan(replace(want, force=True), probe)[0][1]["force"] is True


MINE = {"id": 0, "transport": "pool0", "local": True, "state": "running"}
FULL = {
    **RUNNING,
    "backend_list": [{**MINE, "path": "/dev/ram0p1"}, {**MINE, "id": 1, "local": False}, {**MINE, "id": 2, "state": "lost"}],
    "blkdev_list": [{**MINE, "name": "cbd0"}],
}


def test_who_has_something_in_it_does_not_leave_it():
    with pytest.raises(LabError, match=r"this host has blkdev 0 \(cbd0\), backend 0 \(/dev/ram0p1\) in it; stop them first"):
        plan(ABSENT, BLANK, FULL, foresee=True)


def test_what_goes_before_and_what_was_lost_does_not_keep_a_host_in_it():
    leaving = {"backends": [MINE], "blkdevs": [MINE]}
    (row,) = cbd_transport.without([FULL], leaving)
    assert [each["id"] for each in row["backend_list"]] == [1, 2]
    (call,) = cbd_transport.plan(ABSENT, {"transports": [row]}, True)
    assert call.what == "unregister this host from transport pool0, and forget its lost backend 2"
    other = {"backends": [{**MINE, "transport": "pool1"}], "blkdevs": []}
    assert cbd_transport.without([FULL], other) == [FULL]


def test_a_device_that_was_forgotten_is_in_no_transport():
    device = {"id": None, "name": "cbd0", "local": True, "state": "forgotten"}
    assert plan(ABSENT, BLANK, {**RUNNING, "blkdev_list": [device]}) == [("cbd.transport.unregister", {"transport": "pool0"})]


def test_register():
    assert plan(REGISTERED, MADE) == [("cbd.transport.register", {"memory": "/dev/dax0.0"})]
    assert plan(REGISTERED, MADE, RUNNING) == []
    assert plan(REGISTERED, MADE, {**RUNNING, "state": "pending", "path": None}), "the daemon tries at once"


def test_register_before_format_is_an_error_but_foreseen_in_check_mode():
    with pytest.raises(LabError, match="holds no transport; format it on one host first"):
        plan(REGISTERED)
    assert plan(REGISTERED, foresee=True)


@pytest.mark.parametrize("foresee", [True, False])
@pytest.mark.parametrize("mine", [RUNNING, {**RUNNING, "state": "pending", "path": None}])
def test_a_transport_that_was_lost_is_left_before_there_is_another(mine, foresee):
    """As its daemon says; a run with --check must not promise more."""
    there = {**BLANK, "size": 1 << 27}
    with pytest.raises(LabError, match=r"this host is registered in pool0 on /dev/dax0\.0; .*cbd_state: absent"):
        plan(FORMATTED, there, mine, foresee=foresee)
    with pytest.raises(LabError, match=r"is not on /dev/dax0\.0 any more, and this host is in it; .*cbd_state: absent"):
        plan(REGISTERED, there, mine, foresee=foresee)
    smaller = replace(FORMATTED, geometry={"ring_depth": 128}, force=True)
    with pytest.raises(LabError, match="this host is registered in pool0"):
        plan(smaller, {**there, "formatted": True, "info": INFO}, mine, foresee=foresee)
    assert plan(FORMATTED, there, {**mine, "memory": "/dev/dax1.0", "path": "/dev/dax1.0"}, foresee=foresee)
    assert plan(FORMATTED, cbd_transport.unmade("/dev/dax0.0"), mine, foresee=True), "it may be there with its memory"


def test_a_memory_that_is_not_there_yet_will_be_blank():
    unmade = cbd_transport.unmade("/dev/dax0.0")
    assert unmade.keys() == BLANK.keys()
    assert plan(FORMATTED, unmade) == plan(FORMATTED, BLANK)
    assert plan(REGISTERED, unmade, foresee=True) == plan(REGISTERED, BLANK, foresee=True)
    assert cbd_transport.unmade("serial:0xc0de0001")["path"] is None


@pytest.mark.parametrize("probe", [BLANK, cbd_transport.unmade("/dev/dax0.0")])
def test_a_move_to_another_memory_is_refused_in_check_mode_as_in_the_run(probe):
    with pytest.raises(LabError, match=r"is registered on /dev/dax1\.0, not on /dev/dax0\.0"):
        plan(REGISTERED, probe, {**RUNNING, "path": "/dev/dax1.0"}, foresee=True)


@pytest.mark.parametrize(
    ("memory", "hint", "step"),
    [
        ("/dev/shm/a", "create it", "create it; ansible-playbook -i INVENTORY playbooks/memory.yml (or site.yml) makes"),
        ("serial:0xc0de0001", "", "ansible-playbook -i INVENTORY playbooks/memory.yml (or site.yml) makes"),
        ("dcd:0xc0de0001/a", "", "ansible-playbook -i INVENTORY playbooks/dcd.yml (or site.yml) makes"),
    ],
)
def test_who_makes_a_memory_that_is_not_there(memory, hint, step):
    error = LabError(memory, "is not there", hint, observed={"code": "not_found"})
    assert cbd_transport.is_missing(error)
    told = cbd_transport.say_who_makes(memory, error)
    assert (told.subject, told.problem, told.observed) == (error.subject, error.problem, error.observed)
    assert told.next_step.startswith(step)


@pytest.mark.parametrize("observed", [None, {"code": "invalid"}, ["not_found"]])
def test_any_other_error_is_not_that_of_a_missing_memory(observed):
    assert not cbd_transport.is_missing(LabError("/dev/dax0.0", "is wrong", observed=observed))


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
        plan(REGISTERED, probe, *rows)


def test_unregister():
    assert plan(ABSENT, BLANK, RUNNING) == [("cbd.transport.unregister", {"transport": "pool0"})]
    assert plan(ABSENT) == []


def test_what_is_shown_is_what_is_there():
    seen = {"transports": [RUNNING], "probes": {"/dev/dax0.0": MADE}}
    assert cbd_transport.find(FORMATTED, seen) == [{"memory": "/dev/dax0.0", "path": "/dev/dax0.0", **INFO}]
    assert cbd_transport.find(REGISTERED, seen) == cbd_transport.find(ABSENT, seen) == [RUNNING]
    nothing = {"transports": [], "probes": {"/dev/dax0.0": BLANK}}
    assert [cbd_transport.find(want, nothing) for want in (FORMATTED, REGISTERED, ABSENT)] == [[], [], []]


def test_an_entry_of_the_list():
    given = {"slot_bytes": "16K", "lease_ms": 2000, "hosts": None}
    assert cbd_transport.parse(item(geometry=given)).geometry == {"slot_bytes": 16384, "lease_ms": 2000}
    assert cbd_transport.parse(item(memory=None, state="absent")) == ABSENT


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"name": "Pool 0"}, "no valid name"),
        ({"memory": "dax0.0"}, "no absolute path"),
        ({"geometry": {"slot_bytes": "many"}}, "slot_bytes: .many. is no size"),
        ({"geometry": {"slot_bytes": "5000"}}, "a multiple of 4K"),
        ({"geometry": {"slot_bytes": "2M"}}, "at most 1M"),
        ({"geometry": {"ring_depth": 96}}, "ring_depth: 96 is no power of two"),
        ({"geometry": {"ring_depth": 2048}}, "ring_depth: 2048 is not possible; choose 2 to 1024"),
        ({"geometry": {"hosts": 0}}, "hosts: 0 is not possible; choose 1 to 1024"),
        ({"geometry": {"lease_ms": 999}}, "transport pool0: lease_ms: 999 is not possible; choose 1000 to 600000"),
    ],
)
def test_an_entry_that_cannot_be(given, match):
    with pytest.raises(LabError, match=match):
        cbd_transport.parse(item(**given))


@pytest.mark.parametrize("other", [{"memory": "/dev/dax1.0"}, {"name": "pool1", "memory": "/dev/../dev/dax0.0"}])
def test_a_list_that_means_one_thing_twice(other):
    """Forced, the second would destroy what the first made."""
    with pytest.raises(LabError, match="is in the list twice"):
        cbd_transport.check([cbd_transport.parse(item()), cbd_transport.parse(item(**other))])
    cbd_transport.check([cbd_transport.parse(item()), cbd_transport.parse(item(name="pool1", memory="/dev/dax1.0"))])
