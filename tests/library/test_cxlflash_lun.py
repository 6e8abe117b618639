# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules and the role for user-space LUNs, against a real daemon."""

from __future__ import annotations

import pytest
from ansible.modules import cxlflash_lun, cxlflash_lun_info
from fakes import run_module
from local_play import LocalPlay, changed
from real_daemons import needs_daemon, real_lab


@pytest.fixture(scope="module")
def lab():
    with real_lab("node1") as running:
        yield running


@pytest.fixture
def call(lab, monkeypatch, capsys):
    def run(module, check=False, **args):
        return run_module(module, monkeypatch, capsys, check=check, runtime_dir=lab.runtime("node1"), **args)

    return run


@needs_daemon
def test_the_whole_life_of_a_lun(lab, call):
    disk = lab.disk("flash")
    lun = {"name": "flash0", "path": disk}
    assert call(cxlflash_lun, check=True, luns=[lun])["changed"]
    assert call(cxlflash_lun_info)["luns"] == []
    made = call(cxlflash_lun, luns=[{**lun, "client_size": "4M"}])
    assert made["changed"] and made["steps"] == [f"make {disk} LUN flash0"], made
    assert (made["luns"][0]["state"], made["luns"][0]["client_size"]) == ("running", 4 << 20)
    assert call(cxlflash_lun, luns=[lun])["changed"] is False
    shown = call(cxlflash_lun_info, luns=["flash0"])
    assert [row["name"] for row in shown["luns"]] == ["flash0"] and shown["contexts"] == []
    assert call(cxlflash_lun_info, luns=["other"])["luns"] == []
    assert call(cxlflash_lun, check=True, luns=[{**lun, "mode": "legacy"}])["changed"]
    legacy = call(cxlflash_lun, luns=[{**lun, "mode": "legacy"}])
    assert legacy["steps"] == ["set mode of LUN flash0"] and legacy["luns"][0]["state"] == "stopped"
    assert "has path" in call(cxlflash_lun, luns=[{**lun, "path": lab.disk("other")}])["msg"]
    gone = {"name": "flash0", "state": "absent"}
    assert call(cxlflash_lun, luns=[gone])["changed"]
    assert call(cxlflash_lun, luns=[gone]) == call(cxlflash_lun, luns=[gone]) | {"changed": False}
    assert "No such file" in call(cxlflash_lun, luns=[{**lun, "path": "/nowhere"}])["msg"]


@needs_daemon
def test_the_role(lab, tmp_path):
    play = LocalPlay(tmp_path, {"node1": {"cxlflash_runtime_dir": lab.runtime("node1")}})
    luns = [{"name": "role0", "path": lab.disk("role0")}, {"name": "role1", "path": lab.disk("role1"), "mode": "legacy"}]
    role = play.role("cxlflash", cxlflash_luns=luns)
    for options in (("--check", "--diff"), ()):
        code, output = play.run(role, *options)
        assert code == 0 and changed(output) == 1, output
    code, output = play.run(role)
    assert code == 0 and changed(output) == 0, output
    role = play.role("cxlflash", cxlflash_luns=luns, cxlflash_state="absent")
    assert changed(play.run(role)[1]) == 1
    assert lab.hosts["node1"].call("lun.list") == []


def test_without_a_daemon(monkeypatch, capsys, tmp_path):
    def call(module, **args):
        return run_module(module, monkeypatch, capsys, runtime_dir=str(tmp_path), **args)

    luns = [{"name": "flash0", "path": "/dev/sdb"}]
    assert call(cxlflash_lun, check=True, luns=luns)["changed"]
    assert "nobody listens" in call(cxlflash_lun, luns=luns)["msg"]
    assert call(cxlflash_lun_info, check=True)["luns"] == []
    assert "nobody listens" in call(cxlflash_lun_info)["msg"]
