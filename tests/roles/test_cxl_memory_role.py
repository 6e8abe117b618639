# SPDX-License-Identifier: GPL-3.0-or-later
"""The role cxl_memory on hosts that are processes of one machine, with real files."""

from __future__ import annotations

import re

from local_play import LocalPlay, changed

HOSTS = ("node1", "node2", "node3")


def test_a_file_that_hosts_have_in_common_is_shown_once(tmp_path):
    shared = {"path": str(tmp_path / "pool0"), "size": "1M"}
    own = {"path": str(tmp_path / "disk0"), "size": "1M"}
    lists = {host: {"cxl_memory_files": [shared]} for host in HOSTS}
    lists["node2"] = {"cxl_memory_files": [shared, own]}
    play = LocalPlay(tmp_path, lists)
    for state, there in (("present", False), ("absent", True)):
        role = play.role("cxl_memory", cxl_memory_state=state)
        code, output = play.run(role, "--check", "--diff")
        assert code == 0 and changed(output) == 2, output
        assert output.count("changed: [") == 2 and "changed: [node1]" in output and "changed: [node2]" in output
        assert (tmp_path / "pool0").exists() is there
        assert play.run(role)[0] == 0
        assert [(tmp_path / name).exists() for name in ("pool0", "disk0")] == [not there] * 2
        code, output = play.run(role, "--check")
        assert code == 0 and changed(output) == 0, output


def test_what_is_in_the_way_is_told_by_every_host(tmp_path):
    shared = {"path": str(tmp_path / "pool0"), "size": "1M"}
    (tmp_path / "pool0").mkdir()
    play = LocalPlay(tmp_path, {host: {"cxl_memory_files": [shared]} for host in HOSTS})
    code, output = play.run(play.role("cxl_memory"), "--check")
    assert code != 0 and output.count("is a folder") >= len(HOSTS), output


def test_volatile_memory_of_a_device_comes_first_and_goes_last(tmp_path):
    """What the modules are asked for, in its order: on a host without devices each of them fails."""
    one, two, other = {"serial": "0x1"}, {"serial": ["0x2", "0x3"], "type": "pmem"}, {"serial": "0x4", "type": "ram"}
    regions = [one, two, {**one, "type": "ram"}, other]
    spaces = [{"serial": "0x1", "name": "first"}, {"serial": ["0x2", "0x3"], "name": "second"}]
    play = LocalPlay(tmp_path, {"node1": {"cxl_memory_regions": regions, "cxl_memory_namespaces": spaces}})
    order = [("ram", "0x1"), ("pmem", "0x1"), ("pmem", "['0x2', '0x3']"), ("ram", "0x4")]
    for state, expected in (("present", order), ("absent", order[::-1])):
        spaces_of = {} if state == "present" else {"cxl_memory_namespaces": []}
        _, output = play.run(play.role("cxl_memory", cxl_memory_state=state, cxl_memory_wait_timeout=0, **spaces_of))
        assert re.findall(r"\(item=(ram|pmem) of memdev ([^)]*)\)", output) == expected
