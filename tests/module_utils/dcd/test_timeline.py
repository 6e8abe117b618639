# SPDX-License-Identifier: GPL-3.0-or-later
"""The time line of fabric manager and hosts."""

from __future__ import annotations

from ansible.module_utils.cxl_lab.dcd.timeline import merged, stamp


def test_oldest_first_whoever_saw_it():
    assert stamp(1795195000.25) == "2026-11-20T17:16:40.250Z"
    log = "2026-11-20T17:16:40.000Z node1 pool0 region 0 0x0+0x200000 tag a: offered\n"
    log += "2026-11-20T17:16:41.000Z node1 pool0 region 0 0x0+0x200000 tag a: accepted\n"
    seen = [{"time": 1795195000.25, "serial": 1, "what": "accepted", "ranges": ["0x0+0x200000"]}]
    assert merged(log, {"node1": seen}) == [
        "2026-11-20T17:16:40.000Z  fabric  node1 pool0 region 0 0x0+0x200000 tag a: offered",
        "2026-11-20T17:16:40.250Z  node1   accepted 0x0+0x200000",
        "2026-11-20T17:16:41.000Z  fabric  node1 pool0 region 0 0x0+0x200000 tag a: accepted",
    ]
    assert merged("", {}) == []


def test_no_control_characters_of_another_machine():
    assert merged("", {"a": [{"time": 0, "what": "\x1b[2Jhello"}]}) == ["1970-01-01T00:00:00.000Z  a  ?[2Jhello"]
