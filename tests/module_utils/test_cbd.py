# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plans of CBD objects have in common."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab import cbd
from ansible.module_utils.cxl_lab.cbd import Call
from ansible.module_utils.cxl_lab.errors import LabError


@pytest.mark.parametrize(
    "value", ["dax0.0", "serial:", "serial:xyz", "/dev/\n", "/" + "x" * 300, "", "dcd:0x91", "dcd:/a", "dcd:0x91/a/b"]
)
def test_memory_that_is_none(value):
    with pytest.raises(LabError):
        cbd.check_memory(value)


def test_memory_in_its_forms():
    for value in ("serial:0xc0de0001", "dcd:0xc0de0001/bus", "/dev/dax0.0", "/dev/shm/pool"):
        assert cbd.check_memory(value) == value


@pytest.mark.parametrize("value", ["", ".hidden", "a/b", "a b", "x" * 64, "node1\n"])
def test_a_name_that_no_host_has(value):
    with pytest.raises(LabError, match="no name of a host"):
        cbd.check_host(value)


def test_a_host_may_be_called_what_hosts_are_called():
    for value in ("node1", "Rack-7.example.org", "0x", "x" * 63):
        assert cbd.check_host(value) == value


@pytest.mark.parametrize("answer", [None, {}, [1], "rows"])
def test_a_list_that_is_none(answer):
    with pytest.raises(LabError, match="no list of objects"):
        cbd.check_rows(answer, "cbd.backend.list")
    with pytest.raises(LabError, match="backends of transport pool0: returned no list"):
        cbd.listed({"transports": [{"name": "pool0", "backend_list": answer}]}, "pool0", "backend")


def test_what_is_in_a_transport_says_in_which():
    seen = {"transports": [{"name": "other", "host_list": [{}]}, {"name": "pool0", "host_list": [{"id": 0}, {"id": 1}]}]}
    assert cbd.listed(seen, "pool0", "host") == [{"transport": "pool0", "id": 0}, {"transport": "pool0", "id": 1}]


def test_a_transport_that_this_host_does_not_know():
    assert cbd.listed({"transports": []}, "pool0", "host") == []
    with pytest.raises(LabError, match=r"transport pool0: this host is not registered in it; register it first"):
        cbd.listed({"transports": []}, "pool0", "host", need=True)


def test_an_object_that_is_named_twice():
    cbd.check_distinct([("a", 1), ("b", 2)])
    with pytest.raises(LabError, match=r"^a: is in the list twice; "):
        cbd.check_distinct([("a", 1), ("a", 1)])
    with pytest.raises(LabError, match=r"^b: is in the list twice, also as a; "):
        cbd.check_distinct([("a", 1), ("b", 1)])


@pytest.mark.parametrize(
    ("row", "dead"),
    [
        ({"alive": False}, True),
        ({"alive": True}, False),
        ({"alive": "unknown"}, False),
        ({}, False),
        ({"alive": True, "fenced": True}, True),
        ({"alive": "unknown", "fenced": False}, False),
    ],
)
def test_who_is_dead(row, dead):
    """An entry of a life that was fenced is dead, though the host lives again."""
    assert cbd.is_dead(row) is dead
    waiting = cbd.when_dead(Call("clear it", "m", {"id": 1}), {"host": "node1", **row}, "backend 0").waits_for
    assert waiting == ("" if dead else "host node1 of backend 0 to be dead")


def test_of_an_entry_that_cannot_be_read_the_daemon_judges():
    call = Call("clear it", "m", {})
    assert cbd.when_dead(call, {"state": "corrupt"}, "backend 0") == call


def test_a_call_may_take_the_leases_that_it_waits_for():
    assert cbd.call_seconds([]) == cbd.call_seconds([{"lease_ms": None}, {}]) == cbd.CALL_S
    assert cbd.call_seconds([{"lease_ms": 1000}, {"lease_ms": 600_000}]) > cbd.CALL_S + 2 * 600
    assert cbd.call_seconds([{"lease_ms": 600_000}]) > cbd.CALL_S + 4 * 600, "the claim alone is waited for two leases"


def test_a_module_waits_longer_where_a_death_takes_longer_to_be_certain():
    assert cbd.wait_seconds([]) == cbd.wait_seconds([{"lease_ms": 5000}]) == cbd.WAIT_S
    assert cbd.wait_seconds([{"lease_ms": 5000}, {"lease_ms": 600_000}]) > 2 * 600
