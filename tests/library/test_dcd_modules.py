# SPDX-License-Identifier: GPL-3.0-or-later
"""dcd_extent, mhsld_state and their _info twins as Ansible runs them: pretended devices, real claims in a real state file."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from ansible.module_utils import dcd_module
from ansible.module_utils.cxl_lab.dcd.monitor import QmpError
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.modules import dcd_balance_info, dcd_extent, dcd_extent_info, dcd_timeline_info, mhsld_info, mhsld_state
from dcd_devices import MIB, FakeDevice
from fakes import run_module
from real_daemons import DATAPATH, needs_daemon

pytestmark = needs_daemon
HOSTS = ("node1", "node2")


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The data path's program, from the source."""
    sys.path[:0] = [str(DATAPATH / "tests")]
    from core_build import build_library

    library = os.environ.get("CXL_CORE_LIBRARY") or str(build_library())
    path = tmp_path_factory.mktemp("bin") / "cxl-datapath"
    path.write_text(
        f"#!{sys.executable}\nimport os, sys\nos.environ['CXL_CORE_LIBRARY'] = {library!r}\n"
        f"sys.path.insert(0, {str(DATAPATH / 'src')!r})\nfrom cxl_datapath.cli import main\nsys.exit(main())\n"
    )
    path.chmod(0o755)
    return str(path)


class Pool:
    """Two hosts with a head each of one device."""

    def __init__(self, folder: Path, program: str, run) -> None:
        self.memory, self.file = folder / "pool0", folder / "pool0.mhsld"
        self.memory.write_bytes(b"\xaa" * MIB)
        os.truncate(self.memory, 512 * MIB)
        self.devices = {host: FakeDevice(str(self.memory)) for host in HOSTS}
        self._fm = {"lab": "demo", "state_dir": str(folder / "dcd"), "program": program, "uri": "test:///default"}
        self._run = run

    def extent(self, *extents, check=False, **args):
        files = {"state_files": {"pool0": str(self.file)}} if self.file.exists() else {}
        rows = [{"device": "pool0", **extent} for extent in extents]
        return self._run(
            dcd_extent, check=check, **self._fm, **files, extents=rows, wait_sleep=0.01, **{"wait_timeout": 0.1, **args}
        )

    def info(self):
        return self._run(dcd_extent_info, **self._fm, devices=[{"host": host, "device": "pool0"} for host in HOSTS])["devices"]

    def state(self, check=False, **args):
        fixed = {"device": "pool0", "path": str(self.file), "hosts": list(HOSTS), "size": "512M"}
        return self._run(mhsld_state, check=check, **self._fm, **{**fixed, **args})

    def claims(self, **args):
        return self._run(mhsld_info, **self._fm, path=str(self.file), **args)

    def balance(self, **args):
        return self._run(dcd_balance_info, **self._fm, device="pool0", hosts=list(HOSTS), **args)

    def told(self, **events):
        common = {name: self._fm[name] for name in ("lab", "state_dir")}
        return self._run(dcd_timeline_info, **common, events=events)

    def timeline(self):
        return (Path(self._fm["state_dir"]) / "demo" / "timeline.log").read_text()


@pytest.fixture
def alone(tmp_path, program, monkeypatch, capsys):
    """Devices without a state file."""
    pool = Pool(
        tmp_path, program, lambda module, check=False, **args: run_module(module, monkeypatch, capsys, check=check, **args)
    )

    def monitor(_runner, _params, host):
        if host not in pool.devices:
            raise AssertionError(host)
        return pool.devices[host]

    monkeypatch.setattr(dcd_module, "monitor_of", monitor)
    return pool


@pytest.fixture
def pool(alone):
    assert alone.state()["changed"]
    return alone


A = {"host": "node1", "tag": "a", "size": "64M"}
B = {"host": "node2", "tag": "b", "size": "64M"}


def states(result):
    return [(row["tag"], row["state"]) for row in result["extents"]]


def test_offer_twice_release_twice(alone):
    foreseen = alone.extent(A, check=True)
    assert foreseen["changed"] and not alone.devices["node1"].commands
    first = alone.extent(A)
    assert first["changed"] and first["steps"] == ["offer extent a of pool0 on node1: 64M at 0x0 of region 0"]
    assert first["extents"] == [
        {
            "host": "node1",
            "device": "pool0",
            "tag": "a",
            "region": 0,
            "offset": 0,
            "size": 64 * MIB,
            "shared": False,
            "state": "accepted",
        }
    ]
    assert first["diff"]["before"]["extents"][0]["state"] == "absent"
    assert alone.extent(A)["changed"] is False
    assert alone.info()[0]["held"] == [{"region": 0, "offset": 0, "size": 64 * MIB}]
    gone = {**A, "state": "absent"}
    assert alone.extent(gone)["changed"] and alone.info()[0]["held"] == []
    assert alone.extent(gone)["changed"] is False and states(alone.extent(gone)) == [("a", "absent")]
    assert [line.rpartition(": ")[2] for line in alone.timeline().splitlines()] == [
        "about to be offered",
        "offered",
        "accepted",
        "asked back",
        "released",
    ]


def test_first_fit_goes_round_what_is_there(alone):
    alone.devices["node1"].accepted = {(0, at * 2 * MIB) for at in range(2, 4)}  # somebody else's
    placed = alone.extent({**A, "size": "4M"}, {**A, "tag": "c", "size": "8M"}, {**A, "tag": "d", "size": "2M", "offset": "16M"})
    assert [row["offset"] // MIB for row in placed["extents"]] == [0, 8, 16]
    refused = alone.extent({**A, "tag": "e", "size": "2M", "offset": "4M"})
    assert "which is taken; choose another offset" in refused["msg"]
    assert "do not fit in one piece: region 0 has" in alone.extent({**A, "tag": "e", "size": "250M"})["msg"]


def test_an_offer_that_nobody_answers_and_one_that_is_refused(alone):
    device = alone.devices["node1"]
    device.answer = lambda blocks: None
    late = alone.extent(A)
    assert "the host has not accepted it: pending; make a region" in late["msg"] and late["observed"][0]["state"] == "pending"
    again = alone.extent(A, wait=False)
    assert again["changed"] is False and states(again) == [("a", "pending")]
    assert "still pending: the host has not answered" in alone.extent({**A, "state": "absent"})["msg"]
    device.answer = lambda blocks: set()
    device.host_looks()
    assert [row["state"] for row in alone.info()[0]["extents"]] == ["refused"]
    assert "has not accepted it: refused" in alone.extent(A)["msg"], "it was offered again"
    assert alone.extent({**A, "state": "absent"})["changed"] and alone.info()[0]["extents"] == []


def test_a_part_that_the_host_took(alone):
    alone.devices["node1"].answer = lambda blocks: {block for block in blocks if block[1] < 16 * MIB}
    done = alone.extent(A)
    assert states(done) == [("a", "partly")] and done["extents"][0]["accepted"] == [{"offset": 0, "size": 16 * MIB}]
    assert alone.extent(A)["changed"] is False
    assert alone.extent({**A, "state": "absent"})["changed"] and alone.devices["node1"].accepted == set()


def test_a_host_that_uses_it_keeps_it(alone):
    alone.extent(A)
    device = alone.devices["node1"]
    device.gives_back = False
    kept = alone.extent({**A, "state": "absent"})
    assert "has not given it back: accepted; the host uses it: stop what uses it there, then ask again" in kept["msg"]
    device.gives_back = True
    assert states(alone.extent({**A, "state": "absent"})) == [("a", "absent")]


def test_a_machine_that_was_restarted_gets_it_again(alone):
    alone.extent(A)
    alone.devices["node1"].restart()
    assert [row["state"] for row in alone.info()[0]["extents"]] == ["lost"]
    again = alone.extent(A)
    assert again["changed"] and states(again) == [("a", "accepted")]


@pytest.mark.parametrize("sanitize", [True, False])
def test_data_goes_only_when_asked(alone, sanitize):
    alone.extent(A)
    alone.extent({**A, "state": "absent", "sanitize": sanitize})
    assert (alone.memory.read_bytes()[:MIB] == bytes(MIB)) is sanitize


def test_more_offers_than_the_host_can_be_told_of(alone):
    alone.devices["node1"].answer = lambda blocks: None
    many = [{**A, "tag": f"t{number}", "size": "2M"} for number in range(9)]
    refused = alone.extent(*many, wait=False)
    assert "8 offers to node1 are pending" in refused["msg"] and len(alone.devices["node1"].pending) == 8


@pytest.mark.parametrize(
    ("extent", "message"),
    [
        ({**A, "tag": "A b"}, "is no valid name"),
        ({"host": "node1", "tag": "a"}, "has no size"),
        ({**A, "size": "3M"}, "not aligned"),
        ({**A, "size": "512M"}, "beyond the region"),
        ({**A, "region": 2}, "has no region 2"),
        ({**A, "offset": "1M"}, "not aligned"),
        ({**A, "device": "other"}, "does not know it"),
    ],
)
def test_bad_extents(alone, extent, message):
    refused = alone.extent(extent)
    assert refused["failed"] and message in refused["msg"] and alone.devices["node1"].commands == []


def test_another_extent_under_the_same_tag(alone):
    alone.extent(A)
    for change, message in (
        ({"size": "32M"}, "has size 64M"),
        ({"offset": "2M"}, "has offset 0x0"),
        ({"region": 1}, "has region 0"),
    ):
        assert message in alone.extent({**A, **change})["msg"]
        assert message in alone.extent({**A, **change, "state": "absent"})["msg"], "a release must not take another one"
    assert "is named twice" in alone.extent(A, A)["msg"]
    wrong = {**A, "tag": "b", "offset": "2M", "state": "absent"}
    assert "extent b of pool0 on node1: at 0x200000 is the extent a; release it by its own tag" in alone.extent(wrong)["msg"]
    assert alone.extent({**wrong, "offset": "64M"})["changed"] is False


# ---- several heads


def test_the_state_file_is_made_once(alone):
    assert alone.state(check=True)["steps"] == [f"make {alone.file} for 2 heads"] and not alone.file.exists()
    assert alone.state()["changed"] and alone.state()["changed"] is False
    assert "is there with 2 heads" in alone.state(size="256M")["msg"]
    assert "node9 has no head" in alone.state(clear=["node9"])["msg"]
    alone.file.unlink()
    assert "is missing, and there is no size" in alone.state(size=None)["msg"]


def test_a_conflict_names_the_head(pool):
    pool.extent({**A, "offset": "0"})
    refused = pool.extent({**B, "offset": "32M"})
    assert "head node2: block 16 (at 0x2000000) belongs to node1" in refused["msg"]
    assert pool.devices["node2"].commands == [] and pool.info()[1]["extents"] == []
    placed = pool.extent(B)
    assert placed["extents"][0]["offset"] == 64 * MIB, "first fit looks at the other heads"
    assert [row["heads"] for row in pool.claims()["mhsld"]["claims"]] == [["node1"], ["node2"]]


def test_move_from_one_head_to_the_other(pool):
    pool.extent(A)
    moved = pool.extent({**B, "tag": "a", "offset": "0"}, {**A, "state": "absent", "sanitize": True})
    assert moved["changed"] and states(moved) == [("a", "absent"), ("a", "accepted")]
    assert pool.claims()["mhsld"]["claims"] == [{"offset": 0, "length": 64 * MIB, "heads": ["node2"], "shared": False}]
    assert pool.memory.read_bytes()[:MIB] == bytes(MIB)


def test_a_shared_extent_lies_at_one_place_and_is_scrubbed_by_the_last(pool):
    pool.extent({**A, "offset": "8M", "shared": True})
    both = pool.extent({**B, "tag": "a", "shared": True})
    assert both["extents"][0]["offset"] == 8 * MIB
    content = pool.memory.read_bytes()[:MIB]
    gone = [{**each, "tag": "a", "offset": "8M", "state": "absent", "sanitize": True} for each in (A, B)]
    pool.extent(gone[0])
    assert pool.memory.read_bytes()[:MIB] == content and pool.devices["node2"].accepted
    pool.extent(gone[1])
    assert pool.claims()["mhsld"]["claims"] == []


def test_a_refusal_by_qemu_leaves_no_claim(pool, monkeypatch):
    def refuse(*_):
        raise QmpError("host node1", "region id is too large", "cxl-add-dynamic-capacity")

    monkeypatch.setattr("ansible.module_utils.cxl_lab.dcd.device.DcDevice.add", refuse)
    assert "region id is too large" in pool.extent(A)["msg"]
    assert pool.claims()["mhsld"]["claims"] == [] and pool.info()[0]["extents"] == []


def test_a_machine_that_dies_during_the_offer_keeps_its_claim(pool, monkeypatch):
    """Whether the host has it is not known then."""

    def vanish(*_):
        raise LabError("host node1", "error: domain is not running")

    monkeypatch.setattr("ansible.module_utils.cxl_lab.dcd.device.DcDevice.add", vanish)
    assert "domain is not running" in pool.extent(A)["msg"]
    assert [row["heads"] for row in pool.claims()["mhsld"]["claims"]] == [["node1"]]
    assert [row["state"] for row in pool.info()[0]["extents"]] == ["refused"]


@pytest.mark.parametrize("heal", ["the next run", "a repair"])
def test_a_fabric_manager_that_dies_between_claim_and_offer(pool, heal):
    pool.devices["node1"].die_before = "cxl-add-dynamic-capacity"
    with pytest.raises(KeyboardInterrupt):
        pool.extent(A)
    pool.devices["node1"].die_before = ""
    held = {"device": "pool0", "hosts": list(HOSTS)}
    assert [row["kind"] for row in pool.claims(**held)["findings"]] == ["stale"]
    if heal == "a repair":
        assert pool.state(repair=True, check=True)["changed"]
        repaired = pool.state(repair=True)
        assert repaired["steps"] == ["repair: stale 64M at 0x0 of node1"] and repaired["mhsld"]["claims"] == []
        assert pool.state(repair=True)["changed"] is False
    assert states(pool.extent(A)) == [("a", "accepted")]
    assert pool.claims(**held)["findings"] == []


def test_heads_that_hold_without_a_claim(pool):
    pool.devices["node1"].accepted = {(1, 0)}
    pool.devices["node2"].accepted = {(1, 0), (1, 2 * MIB)}
    found = pool.state(repair=True)["findings"]
    assert {row["kind"] for row in found} == {"conflict", "unclaimed"}
    assert pool.claims()["mhsld"]["claims"] == [{"offset": 258 * MIB, "length": 2 * MIB, "heads": ["node2"], "shared": False}]


def test_a_machine_that_is_off_or_was_started_anew(pool):
    pool.extent(A, {**B, "offset": "64M"})
    assert pool.state(clear=["node1"])["steps"] == ["clear the claims of node1"]
    assert pool.state(clear=["node1"])["changed"] is False
    assert [row["head"] for row in pool.state(repair=True, off=["node2"])["findings"]] == ["node1", "node2"]


def test_a_journal_that_is_damaged_is_never_guessed_at(pool, tmp_path):
    pool.extent(A)
    journal = tmp_path / "dcd" / "demo" / "extents.json"
    good = json.loads(journal.read_text())
    for bad in ("", "[]", '{"version": 9}', json.dumps({**good, "extents": [{**good["extents"][0], "size": -1}]}), "[" * 100000):
        journal.write_text(bad)
        assert "is damaged" in pool.extent(A)["msg"]
    assert len(pool.devices["node1"].commands) == 1


def test_a_balancing_policy_leaves_what_is_used(alone):
    alone.extent(A, {**A, "tag": "c"})
    move = {"from": "node1", "to": "node2", "tag": "a", "region": 0, "offset": 0, "size": 64 * MIB}
    found = alone.balance()
    assert (found["moves"], found["held"], found["changed"]) == ([move], {"node1": 128 * MIB, "node2": 0}, False)
    used = {"node1": [{"serial": 0x91, "name": "tool", "dpa": 0, "size": 2 * MIB}]}
    assert [each["tag"] for each in alone.balance(mappings=used)["moves"]] == ["c"]
    assert "are not those of dcd_region_info" in alone.balance(mappings={"node1": ["x"]})["msg"]


def test_a_time_line_of_everybody(alone):
    assert alone.told()["timeline"] == []
    alone.extent(A)
    lines = alone.told(node1=[{"time": 0, "what": "accepted", "ranges": ["0x0+0x4000000"]}])["timeline"]
    assert lines[0] == "1970-01-01T00:00:00.000Z  node1   accepted 0x0+0x4000000" and "fabric  node1 pool0" in lines[1]
    assert "are not those of dcd_region_info" in alone.told(node1=["x"])["msg"]
