# SPDX-License-Identifier: GPL-3.0-or-later
"""The role dcd: its lists, and what reaches the daemon of a host that has no such device."""

from __future__ import annotations

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.modules import dcd_extent, dcd_region
from local_play import ROOT, LocalPlay, changed
from real_daemons import needs_daemon, real_lab

VARIABLES = yaml.safe_load((ROOT / "inventories/dcd_pool/group_vars/all.yml").read_text(encoding="utf-8"))


def test_the_inventory_gives_the_modules_what_they_take():
    regions = [{key: value for key, value in row.items() if key != "host"} for row in VARIABLES["dcd_regions"]]
    given = {"lab": "a", "extents": VARIABLES["dcd_extents"]}
    assert ArgumentSpecValidator(dcd_extent.SPEC["argument_spec"]).validate(given).error_messages == []
    assert ArgumentSpecValidator(dcd_region.SPEC["argument_spec"]).validate({"regions": regions}).error_messages == []
    assert [row["host"] for row in VARIABLES["dcd_regions"]] == VARIABLES["dcd_pools"][0]["hosts"]
    assert VARIABLES["dcd_pools"][0]["size"] == VARIABLES["cxl_topology_memories"][0]["dynamic"]


@needs_daemon
@pytest.mark.parametrize("host", ["node1"])
def test_a_host_takes_its_share(tmp_path, host):
    with real_lab(host) as lab:
        play = LocalPlay(tmp_path, {host: {"dcd_runtime_dir": lab.runtime(host)}})
        lists = {"dcd_lab": "demo", "dcd_regions": [{"host": host, "serial": "0x91"}, {"host": "node2", "serial": "0x92"}]}
        code, output = play.run(play.role("dcd", **lists))
        assert code != 0 and "device 0x91: is not there; compare the serial number with the topology" in output
        assert "0x92" not in output
        code, output = play.run(play.role("dcd", dcd_state="absent", **lists))
        assert code == 0 and changed(output) == 0
