# SPDX-License-Identifier: GPL-3.0-or-later
"""dcd_region and dcd_region_info as Ansible runs them, against a pretended daemon."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.modules import dcd_region, dcd_region_info
from fakes import run_module

ROW = {"serial": 0x91, "state": "running", "available": 0, "limit": None, "remember": False, "mappings": []}


class Daemon:
    """What the modules need of it."""

    def __init__(self) -> None:
        self.rows: dict[int, dict] = {}
        self.calls: list[str] = []
        self.busy = False

    def __call__(self, _runtime):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def call(self, method, **params):
        if method.endswith(".list"):
            return list(self.rows.values()) if method == "dcd.region.list" else []
        self.calls.append(method)
        if method == "dcd.region.create":
            self.rows[params["serial"]] = {**ROW, **{key: params[key] for key in ("serial", "limit", "remember")}}
        elif self.busy:
            raise LabError("region of 0000:41:00.0", "is used by tool", "unmap them first")
        else:
            del self.rows[params["serial"]]
        return {}


@pytest.fixture
def daemon(monkeypatch):
    made = Daemon()
    monkeypatch.setattr(dcd_region, "DatapathClient", made)
    monkeypatch.setattr(dcd_region_info, "DatapathClient", made)
    return made


@pytest.fixture
def region(daemon, monkeypatch, capsys):
    def run(*regions, check=False, **args):
        return run_module(dcd_region, monkeypatch, capsys, check=check, regions=list(regions), **args)

    return run


def test_make_twice_destroy_twice(region, daemon, monkeypatch, capsys):
    wanted = {"serial": "0x91", "limit": "64M"}
    foreseen = region(wanted, check=True)
    assert foreseen["changed"] and foreseen["steps"] == ["make a region over device 0x91"] and daemon.calls == []
    made = region(wanted)
    assert made["changed"] and made["regions"][0]["limit"] == 64 << 20 and made["diff"]["before"]["regions"] == []
    assert region(wanted)["changed"] is False
    assert run_module(dcd_region_info, monkeypatch, capsys)["regions"] == made["regions"]
    gone = region(wanted, state="absent")
    assert gone["changed"] and gone["regions"] == [] and region(wanted, state="absent")["changed"] is False


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([{"serial": "x"}], "x"),
        ([{"serial": "0x91", "limit": "lots"}], "is no size"),
        ([{"serial": "0x91"}, {"serial": "145"}], "is named twice"),
        ([{"serial": "0x92", "remember": True}], "has remember False, not True"),
    ],
)
def test_refusals(region, daemon, regions, message):
    daemon.rows[0x92] = {**ROW, "serial": 0x92}
    refused = region(*regions)
    assert refused["failed"] and message in refused["msg"] and daemon.calls == []


def test_a_region_in_use_stays_and_an_answer_that_is_none_is_said(region, daemon):
    daemon.rows[0x91], daemon.busy = ROW, True
    assert "is used by tool; unmap them first" in region({"serial": "0x91"}, state="absent")["msg"]
    daemon.rows = {1: "what"}
    assert "its list of regions is none" in region({"serial": "0x91"})["msg"]
