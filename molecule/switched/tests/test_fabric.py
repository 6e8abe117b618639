# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fabric looks like from inside."""

from __future__ import annotations

import json

testinfra_hosts = ["ssh://node1"]


def test_every_device_is_there(host):
    memdevs = json.loads(host.check_output("cxl list -M"))
    assert sorted(memdev["serial"] for memdev in memdevs) == [0xC0DE0000 + n for n in range(1, 8)]


def test_regions_interleave_as_asked_for(host):
    regions = json.loads(host.check_output("cxl list -R"))
    ways = sorted((region["type"], region["interleave_ways"], region["decode_state"]) for region in regions)
    assert ways == [("pmem", 2, "commit"), ("pmem", 4, "commit"), ("ram", 1, "commit")]


def test_a_devdax_namespace_on_each_persistent_region(host):
    namespaces = json.loads(host.check_output("ndctl list -N"))
    assert sorted((space["name"], space["mode"]) for space in namespaces) == [("pair", "devdax"), ("quad", "devdax")]
