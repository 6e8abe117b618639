# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the lists of the role cbd over all hosts."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab.cbd_inventory import check
from hypothesis import given
from hypothesis import strategies as st

HOSTS = ["node1", "node2"]
POOL = {"name": "pool0", "memory": "/dev/shm/a", "format_on": "node1", "hosts": HOSTS}
BACKEND = {"transport": "pool0", "host": "node1", "path": "/dev/sdb", "id": 0}
BLKDEV = {"transport": "pool0", "host": "node2", "backend": 0, "name": "data", "shared": True}
ALONE = {"transport": "pool0", "host": "node1", "backend": 0, "name": "alone"}
TEXT = st.sampled_from(["node1", "node2", "pool0", "0", "1", ""])
ANY = st.one_of(TEXT, st.integers(-1, 2), st.none(), st.booleans(), st.floats(), st.lists(TEXT), st.dictionaries(TEXT, TEXT))


def test_lists_that_fit():
    lists = {
        "cbd_transports": [POOL, {**POOL, "name": "pool1"}],
        "cbd_backends": [
            BACKEND,
            {**BACKEND, "transport": "pool1", "path": "/dev/sdc"},
            {**BACKEND, "host": "node2", "id": 1},
            {**BACKEND, "host": "node2", "path": "/dev/sdd", "state": "absent"},
        ],
        "cbd_blkdevs": [BLKDEV, {**BLKDEV, "host": "node1"}, {**BLKDEV, "name": "two"}, {**BLKDEV, "state": "absent"}],
        "cbd_hosts": [{"host": "node2", "name": "a-host-that-is-gone"}],
    }
    assert check(lists, HOSTS) == []


@pytest.mark.parametrize(
    ("lists", "problems"),
    [
        (
            {"cbd_backends": [BACKEND, {**BACKEND, "host": "node2", "path": "/dev/sdc"}]},
            [
                "cbd_backends: 2 backends of transport pool0 have the id 0 (/dev/sdb on node1, /dev/sdc on node2); "
                "give each its own"
            ],
        ),
        (
            {"cbd_backends": [BACKEND, {"transport": "pool0", "host": "node2", "id": 0, "state": "recovered"}]},
            [
                "cbd_backends: 2 backends of transport pool0 have the id 0 (/dev/sdb on node1, what it takes over on node2); "
                "give each its own"
            ],
        ),
        (
            {"cbd_backends": [BACKEND, {**BACKEND, "id": 1}]},
            [
                "cbd_backends: /dev/sdb on node1 is given away 2 times (backend 0 of transport pool0, backend 1 of transport "
                "pool0); keep one of them"
            ],
        ),
        (
            {"cbd_blkdevs": [BLKDEV, {**BLKDEV, "transport": "pool1", "backend": 3}]},
            [
                "cbd_blkdevs: 2 blkdevs of node2 have the name data (on backend 0 of transport pool0, on backend 3 of "
                "transport pool1); give each its own"
            ],
        ),
        (
            {"cbd_blkdevs": [BLKDEV, {**BLKDEV, "name": None}]},
            ["cbd_blkdevs: node2 has 2 blkdevs on backend 0 of transport pool0, not all with a name; give each its own"],
        ),
        (
            {
                "cbd_backends": [
                    {**BACKEND, "id": 4},
                    {**BACKEND, "path": "/dev/sdc", "state": "absent"},
                    {**BACKEND, "id": 2, "path": ""},
                ],
                "cbd_blkdevs": [
                    {**BLKDEV, "backend": 9},
                    BLKDEV | {"name": "two"},
                    {**BLKDEV, "backend": 8, "transport": "pool1", "name": ""},
                ],
            },
            [
                "cbd_blkdevs: data of node2 is on backend 9 of transport pool0, which cbd_backends does not start "
                "(it starts 2, 4); correct the number, or add the backend",
                "cbd_blkdevs: two of node2 is on backend 0 of transport pool0, which cbd_backends does not start "
                "(it starts 2, 4); correct the number, or add the backend",
            ],
        ),
        (
            {"cbd_blkdevs": [BLKDEV, ALONE, {**ALONE, "name": "reader", "read_only": "yes"}]},
            [
                "cbd_blkdevs: backend 0 of transport pool0 has several writers (data of node2, alone of node1), not all shared; "
                "keep one of them, or make the others read_only, or all of them shared"
            ],
        ),
        (
            {"cbd_transports": [{**POOL, "geometry": {"lease_ms": "60000"}}], "cbd_blkdevs": [{**ALONE, "io_timeout": "59"}]},
            [
                "cbd_blkdevs: alone of node1 has an io_timeout of 59 s, below the lease of transport pool0, 60 s; choose "
                "at least 60, or none"
            ],
        ),
        (
            {"cbd_transports": [POOL, {**POOL, "memory": "/dev/shm/b", "format_on": "node8", "hosts": ["node9"]}]},
            [
                "cbd_transports: host node8 is no host of the inventory; correct the name",
                "cbd_transports: host node9 is no host of the inventory; correct the name",
                "cbd_transports: 2 transports have the name pool0 (/dev/shm/a and /dev/shm/b); give each its own",
            ],
        ),
    ],
)
def test_every_problem_names_hosts_and_a_fix(lists, problems):
    assert check(lists, HOSTS) == problems


def test_writers_and_timeouts_that_are_right():
    readers = [{**ALONE, "name": name, "read_only": True} for name in ("r1", "r2")]
    going = {**ALONE, "name": "going", "state": "absent"}
    waits = [{**ALONE, "backend": 1, "io_timeout": 60}, {**ALONE, "transport": "pool1", "name": "other", "io_timeout": 1}]
    pool = {**POOL, "geometry": {"lease_ms": 60000}}
    assert check({"cbd_transports": [pool], "cbd_blkdevs": [ALONE | {"name": "w"}, *readers, going, *waits]}, HOSTS) == []


def test_a_number_that_is_written_as_text_is_that_number():
    lists = {"cbd_backends": [{**BACKEND, "id": "0"}], "cbd_blkdevs": [BLKDEV, {**BLKDEV, "backend": "0", "name": "two"}]}
    assert check(lists, HOSTS) == []
    both = [{**BACKEND, "id": "0"}, {**BACKEND, "host": "node2"}]
    (problem,) = check({"cbd_backends": both}, HOSTS)
    assert "2 backends of transport pool0 have the id 0" in problem
    others = [{**BACKEND, "id": "2"}, {**BACKEND, "id": 1, "path": "/x"}]
    (problem,) = check({"cbd_backends": others, "cbd_blkdevs": [BLKDEV]}, HOSTS)
    assert "(it starts 1, 2)" in problem


@pytest.mark.parametrize(
    ("variable", "entry", "said"),
    [
        ("cbd_transports", {**POOL, "hosts": "node1,node2"}, "hosts is 'node1,node2'; write a list of names"),
        ("cbd_transports", {**POOL, "hosts": None}, "hosts is None; write a list of names"),
        ("cbd_transports", {**POOL, "hosts": [["node1"]]}, "hosts is [['node1']]; write a list of names"),
        ("cbd_backends", {**BACKEND, "host": ["node1"]}, "host is ['node1']; write one name"),
        ("cbd_backends", {**BACKEND, "id": True}, "id is True; write a whole number"),
        ("cbd_blkdevs", {**BLKDEV, "backend": "first"}, "backend is 'first'; write a whole number"),
        ("cbd_blkdevs", {**BLKDEV, "name": {"a": 1}}, "name is {'a': 1}; write one name"),
    ],
)
def test_what_has_another_shape_is_one_problem(variable, entry, said):
    (problem,) = check({variable: [entry]}, HOSTS)
    assert problem.startswith(f"{variable}: {said}")


def test_who_is_not_registered_can_have_nothing():
    lists = {"cbd_transports": [{**POOL, "hosts": ["node2"]}], "cbd_backends": [BACKEND], "cbd_blkdevs": [BLKDEV]}
    (problem,) = check(lists, HOSTS)
    assert problem.startswith("cbd_backends: node1 is not registered in transport pool0 (cbd_transports has node2); add node1")
    assert check({**lists, "cbd_backends": [{**BACKEND, "state": "absent"}], "cbd_blkdevs": []}, HOSTS) == []
    assert check({**lists, "cbd_transports": [{**POOL, "name": "other"}]}, HOSTS) == [], "somebody else registered it"


entries = st.lists(
    st.fixed_dictionaries(
        {"name": ANY, "memory": ANY, "format_on": ANY, "hosts": ANY, "transport": ANY, "host": ANY, "id": ANY, "backend": ANY},
        optional={"path": ANY, "state": ANY},
    ),
    max_size=4,
)


@given(st.fixed_dictionaries(dict.fromkeys(("cbd_transports", "cbd_backends", "cbd_blkdevs", "cbd_hosts"), entries)))
def test_whatever_is_written_there_is_an_answer(lists):
    assert all(": " in problem and "; " in problem for problem in check(lists, HOSTS))
