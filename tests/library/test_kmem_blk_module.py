# SPDX-License-Identifier: GPL-3.0-or-later
"""The kmem_blk modules against a real daemon."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.modules import kmem_blk, kmem_blk_info
from fakes import run_module
from real_daemons import MIB, RealLab, needs_daemon, real_lab

pytestmark = [needs_daemon, pytest.mark.skipif(not shutil.which("nbdkit"), reason="needs nbdkit")]


@pytest.fixture(scope="module")
def lab() -> Iterator[RealLab]:
    with real_lab("node1") as running:
        yield running


@pytest.fixture
def pool(lab, monkeypatch, capsys):
    def run(check=False, **item):
        pools = [{"name": "pool0", "memories": [lab.disk("memory")], **item}]
        return run_module(kmem_blk, monkeypatch, capsys, runtime_dir=lab.runtime("node1"), check=check, pools=pools)

    return run


def test_the_whole_life_of_a_pool(lab, pool, monkeypatch, capsys):
    device = {"volume": {"name": "kmem0", "frontend": "nbdkit"}}
    first, more = lab.disk("memory"), lab.disk("more")

    def info(**args):
        return run_module(kmem_blk_info, monkeypatch, capsys, runtime_dir=lab.runtime("node1"), **args)

    for check in (True, False):
        made = pool(check, reserve="1M", **device)
        assert made["steps"] == [f"format {first} as pool pool0", "start pool pool0", "start the volume of pool pool0"]
    assert made["pools"][0]["pages"]["reserve"] == 256 and made["pools"][0]["volume"]["device"].startswith("nbd+unix")
    assert pool(reserve="1M", **device)["changed"] is False
    assert pool(reserve="2M", **device)["steps"] == ["start pool pool0"]
    assert info()["pools"][0]["pages"]["reserve"] == 512

    grown = pool(reserve="2M", memories=[first, more], **device)
    assert grown["steps"] == [f"add {more} to pool pool0"]
    assert grown["pools"][0]["pages"]["pages"] == 16 * MIB // 4096
    assert pool(reserve="2M", memories=[first, more], **device)["changed"] is False
    assert pool(state="absent")["steps"] == ["stop the volume of pool pool0", "stop pool pool0"]
    assert pool(state="absent")["changed"] is False and info()["pools"] == []
    looked = info(memories=[first])["memories"][0]
    assert looked["formatted"] and looked["info"]["name"] == "pool0"

    again = pool(memories=[first, more])
    assert again["steps"] == ["start pool pool0"] and len(again["pools"][0]["ranges"]) == 2
    smaller = pool()
    assert smaller["steps"] == [f"give {more} of pool pool0 back"]
    assert pool(state="absent")["changed"]


def test_what_is_refused(lab, pool):
    assert pool()["changed"]
    assert pool(state="absent")["changed"]
    assert "carries the pool pool0" in pool(name="other")["msg"]
    assert pool(name="other", force=True)["changed"]
    foreign = lab.disk("foreign")
    Path(foreign).write_bytes(b"XFSB" + bytes(MIB - 4))
    assert "an XFS file system" in pool(name="third", memories=[foreign])["msg"]
    assert "no whole pages" in pool(name="third", reserve="5000")["msg"]
    assert "runs on" in pool(name="other", memories=[foreign])["msg"]
    assert pool(name="other", state="absent")["changed"]
