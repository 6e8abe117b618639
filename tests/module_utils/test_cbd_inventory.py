# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the lists of the role cbd over all hosts."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab.cbd_inventory import check

HOSTS = ["node1", "node2"]
POOL = {"name": "pool0", "memory": "/dev/shm/a", "format_on": "node1", "hosts": HOSTS}
BACKEND = {"transport": "pool0", "host": "node1", "path": "/dev/sdb", "id": 0}
BLKDEV = {"transport": "pool0", "host": "node2", "backend": 0, "name": "data"}


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
