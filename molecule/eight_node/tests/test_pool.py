# SPDX-License-Identifier: GPL-3.0-or-later
"""What the shared memory and the network look like from inside."""

from __future__ import annotations

import json

testinfra_hosts = [f"ssh://node{number}" for number in range(1, 9)]


def test_one_memdev_with_a_namespace(host):
    assert [memdev["serial"] for memdev in json.loads(host.check_output("cxl list -M"))] == [0xC0DE0001]
    assert [space["name"] for space in json.loads(host.check_output("ndctl list -N"))] == ["pool0"]


def test_the_others_are_reached_by_name(host):
    for number in range(1, 9):
        assert host.run(f"ping -c 1 -W 20 node{number}").rc == 0
