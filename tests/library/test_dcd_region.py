# SPDX-License-Identifier: GPL-3.0-or-later
"""dcd_region and dcd_region_info as Ansible runs them, against a pretended daemon."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.modules import dcd_mapping, dcd_region, dcd_region_info
from fakes import run_module

ROW = {"serial": 0x91, "state": "running", "available": 0, "limit": None, "remember": False, "direct_serial": None}


class Daemon:
    """What the modules need of it."""

    def __init__(self) -> None:
        self.rows: dict[int, dict] = {}
        self.mappings: dict[str, dict] = {}
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
            return list({"dcd.region.list": self.rows, "dcd.mapping.list": self.mappings}.get(method, {}).values())
        self.calls.append(method)
        if method == "dcd.region.create":
            shown = {key: params[key] for key in ("serial", "limit", "remember")}
            self.rows[params["serial"]] = {**ROW, **shown, "direct_serial": params["direct"]}
        elif method == "dcd.mapping.create":
            self.mappings[params["name"]] = params
        elif method == "dcd.mapping.remove":
            del self.mappings[params["name"]]
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
    monkeypatch.setattr(dcd_mapping, "DatapathClient", made)
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
        ([{"serial": "0x91", "data_path": "direct"}], "goes through another memdev; name it in direct_serial"),
        ([{"serial": "0x91", "direct_serial": "0x93"}], "direct_serial is for data_path direct"),
        ([{"serial": "0x92", "data_path": "direct", "direct_serial": "0x93"}], "has direct_serial None, not 147"),
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


@pytest.fixture
def mapping(daemon, monkeypatch, capsys):
    def run(*mappings, check=False, **args):
        return run_module(dcd_mapping, monkeypatch, capsys, check=check, mappings=list(mappings), **args)

    return run


def test_map_twice_let_go_twice(mapping, daemon):
    wanted = {"serial": "0x91", "name": "bus", "offset": "512M", "size": "64M"}
    foreseen = mapping(wanted, check=True)
    assert foreseen["changed"] and foreseen["steps"] == ["make mapping bus of device 0x91: 0x20000000+0x4000000"]
    assert daemon.mappings == {}
    made = mapping(wanted)
    assert made["changed"] and made["mappings"] == [{"serial": 0x91, "name": "bus", "dpa": 512 << 20, "size": 64 << 20}]
    assert mapping(wanted)["changed"] is False
    assert "other than asked for; remove it first" in mapping({**wanted, "size": "32M"})["msg"]
    gone = mapping(wanted, state="absent")
    assert gone["changed"] and gone["mappings"] == [] and mapping(wanted, state="absent")["changed"] is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"offset": "1M"}, "not aligned to blocks"), ({"size": "0"}, "size"), ({"name": "a/b"}, "a/b"), ({"serial": "x"}, "x")],
)
def test_mappings_that_cannot_be(mapping, daemon, changes, message):
    wanted = {"serial": "0x91", "name": "bus", "offset": "0", "size": "64M", **changes}
    refused = mapping(wanted)
    assert refused["failed"] and message in refused["msg"] and daemon.calls == []
    assert "is named twice" in mapping(*[{**wanted, "serial": "0x91", "name": "a", "offset": "0", "size": "2M"}] * 2)["msg"]
