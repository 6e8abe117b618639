# SPDX-License-Identifier: GPL-3.0-or-later
"""The plans for hosts that died."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from ansible.module_utils.cxl_lab import cbd_host
from ansible.module_utils.cxl_lab.cbd_host import HostWant
from ansible.module_utils.cxl_lab.errors import LabError
from hypothesis import given
from hypothesis import strategies as st

CLEARED = HostWant("node1", "cleared", "pool0")
RECOVERED = HostWant("node1", "recovered")
DEAD = {"id": 0, "name": "node1", "state": "running", "alive": False, "fenced": False, "local": False}
SELF = {"id": 1, "name": "node2", "state": "running", "alive": True, "fenced": False, "local": True}
LOST = {"id": 4, "path": "/dev/sdb", "state": "running", "host": "node1", "alive": False, "local": False, "read_only": False}
TAKEN = {**LOST, "host": "node2", "alive": True, "local": True, "worker": {"state": "running"}}


def seen(*transports):
    """Transports pool0, pool1 ... with (hosts, backends) in each."""
    return {
        "transports": [
            {"name": f"pool{number}", "host_list": hosts, "backend_list": backends, "blkdev_list": []}
            for number, (hosts, backends) in enumerate(transports)
        ]
    }


def plan(want, *transports, foresee=False):
    return cbd_host.plan(want, seen(*transports), foresee)


def methods(calls):
    return [(call.method, call.params) for call in calls]


def item(**given):
    """An entry of the list as Ansible hands it over."""
    return {"name": "node1", "transport": None, "state": "cleared", "paths": None, "force": False, **given}


def clear(transport="pool0", force=False):
    return ("cbd.host.clear", {"transport": transport, "id": 0, "force": force})


def test_clears_a_dead_host_away():
    assert methods(plan(CLEARED, ([DEAD, SELF], [LOST]))) == [clear()]
    assert methods(plan(replace(CLEARED, force=True), ([DEAD, SELF], []))) == [clear(force=True)]
    assert plan(CLEARED, ([SELF], [])) == []


@pytest.mark.parametrize("alive", [True, "unknown"])
@pytest.mark.parametrize("state", ["cleared", "recovered"])
def test_waits_for_its_death(alive, state):
    living = [{**DEAD, "alive": alive}], [{**LOST, "alive": alive}]
    calls = plan(HostWant("node1", state), living)
    assert calls and all("host node1 of" in call.waits_for and "to be dead" in call.waits_for for call in calls)


def test_takes_over_all_that_it_served_and_then_clears_it_away():
    recover = [("cbd.backend.recover", {"transport": "pool0", "id": 4})]
    assert methods(plan(RECOVERED, ([DEAD, SELF], [LOST, {**TAKEN, "id": 5}]))) == [*recover, clear()]
    replica = [("cbd.backend.recover", {"transport": "pool0", "id": 4, "path": "/dev/sdd"})]
    assert methods(plan(replace(RECOVERED, paths={4: "/dev/sdd"}), ([DEAD, SELF], [LOST]))) == [*replica, clear()]


def test_what_is_done_is_not_done_again():
    paths = {4: "/dev/sdb"}
    assert plan(replace(RECOVERED, paths=paths), ([SELF], [TAKEN])) == []
    assert methods(plan(replace(RECOVERED, paths=paths), ([DEAD, SELF], [TAKEN]))) == [clear()], "it went on from there"


def test_in_every_transport_unless_one_is_named():
    both = ([DEAD], [LOST]), ([DEAD], [])
    assert [method for method, _ in methods(plan(RECOVERED, *both))] == [
        "cbd.backend.recover",
        "cbd.host.clear",
        "cbd.host.clear",
    ]
    assert methods(plan(replace(RECOVERED, transport="pool1"), *both)) == [clear("pool1")]


def test_this_host_is_not_dead():
    with pytest.raises(LabError, match="is this host itself; run this on a host that survived"):
        plan(HostWant("node2", "cleared"), ([SELF], []))


def test_a_path_for_a_backend_that_it_does_not_have():
    with pytest.raises(LabError, match="host node1: has no backend 7; correct paths"):
        plan(replace(RECOVERED, paths={7: "/dev/sdd"}), ([DEAD], [LOST]))


def test_a_transport_that_this_host_is_not_registered_in():
    with pytest.raises(LabError, match="not registered"):
        plan(CLEARED)
    assert plan(CLEARED, foresee=True) == []


def test_what_is_shown_is_what_is_left():
    assert cbd_host.find(RECOVERED, seen(([DEAD, SELF], []), ([DEAD], []))) == [
        {"transport": "pool0", **DEAD},
        {"transport": "pool1", **DEAD},
    ]
    assert cbd_host.find(CLEARED, seen(([SELF], []))) == []


def test_an_entry_of_the_list():
    assert cbd_host.parse(item(transport="pool0")) == CLEARED
    assert cbd_host.parse(item(paths={"0": "/dev/sdd"})).paths == {0: "/dev/sdd"}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"name": "a b"}, "no name of a host"),
        ({"transport": "../x"}, "no valid name"),
        ({"paths": {"x": "/dev/sdd"}}, "is no number and path"),
        ({"paths": {"-1": "/dev/sdd"}}, "is no number and path"),
        ({"paths": {"\u00b2": "/dev/sdd"}}, "is no number and path"),
        ({"paths": {"0": None}}, "is no number and path"),
        ({"paths": {"0": "sdd"}}, "no absolute path"),
        ({"paths": {"4096": "/dev/sdd"}}, "choose 0 to 1023"),
    ],
)
def test_an_entry_that_cannot_be(given, match):
    with pytest.raises(LabError, match=match):
        cbd_host.parse(item(**given))


@pytest.mark.parametrize("other", [CLEARED, RECOVERED])
def test_a_list_that_means_one_thing_twice(other):
    with pytest.raises(LabError, match="is in the list twice"):
        cbd_host.check([CLEARED, other])
    cbd_host.check([CLEARED, replace(CLEARED, transport="pool1"), replace(CLEARED, name="node3")])


alive = st.sampled_from([True, False, "unknown"])
hosts = st.lists(
    st.fixed_dictionaries({}, optional={"id": st.integers(0, 2), "name": st.sampled_from(["node1", "x"]), "alive": alive})
)
backends = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.integers(0, 2),
            "host": st.sampled_from(["node1", "x"]),
            "alive": alive,
            "local": st.booleans(),
            "state": st.sampled_from(["running", "pending", "corrupt"]),
        },
    )
)


@given(st.sampled_from(["cleared", "recovered"]), st.lists(st.tuples(hosts, backends), max_size=2))
def test_rows_of_any_shape_give_a_plan_or_an_error(state, transports):
    with contextlib.suppress(LabError):
        for call in plan(HostWant("node1", state), *transports):
            assert call.method in ("cbd.host.clear", "cbd.backend.recover")
