# SPDX-License-Identifier: GPL-3.0-or-later
"""Loads by fio: what it is told, what it says, and real runs against a real NBD server."""

from __future__ import annotations

import json
import shutil

import pytest
from ansible.module_utils.cxl_lab import fio
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.fio import Load
from ansible.module_utils.cxl_lab.runner import HostRunner, Result
from fakes import FakeRunner
from nbd_server import serve

needs_fio = pytest.mark.skipif(not shutil.which("fio"), reason="needs fio")
SMALL, LARGE = Load("small", "read", 4096, 1), Load("large", "write", 1 << 20, 4)


def job(**changes):
    done = {"iops": 100.5, "total_ios": 201, "clat_ns": {"percentile": {"99.000000": 25000}}}
    return json.dumps({"jobs": [{"error": 0, "read": {**done, **changes}}]})


def test_a_block_device_and_a_uri():
    line = " ".join(fio.command(SMALL, "/dev/cbd1", 2.5))
    assert (
        "--rw=randread --bs=4096 --iodepth=1 --ioengine=libaio --direct=1 --filename=/dev/cbd1 --runtime=2.5 --time_based" in line
    )
    line = " ".join(fio.command(LARGE, "nbd://10.77.0.11:10809", 0))
    assert "--rw=write --bs=1048576 --iodepth=4 --ioengine=nbd --uri=nbd://10.77.0.11:10809" in line
    assert "--runtime" not in line and "--filename" not in line


def test_a_result_behind_what_an_engine_prints():
    assert fio.parse_result("fio: connected to NBD server\n" + job(), "read", "x") == {"iops": 100.5, "p99_us": 25.0}


@pytest.mark.parametrize(
    "text", ["", "no JSON", "{", '{"jobs": []}', job(iops="many"), job(iops=0), job(total_ios=0), job(clat_ns={})]
)
def test_no_result_is_an_error(text):
    with pytest.raises(LabError, match=r"^/dev/cbd1: fio "):
        fio.parse_result(text, "read", "/dev/cbd1")


def test_an_error_of_the_device_is_an_error():
    with pytest.raises(LabError, match="fio did 201 requests, with error 5"):
        fio.parse_result(job().replace('"error": 0', '"error": 5'), "read", "/dev/cbd1")


def test_loads_as_people_write_them():
    assert fio.parse_load({"name": "4k_qd1_read", "op": "read", "block": "4K", "depth": 1}) == Load(
        "4k_qd1_read", "read", 4096, 1
    )
    for changes, problem in (
        ({"block": "100"}, "no size of a block"),
        ({"block": "32M"}, "no size of a block"),
        ({"block": "x"}, "is no size"),
        ({"depth": 0}, "no depth"),
        ({"depth": 1025}, "no depth"),
        ({"name": "a b"}, "is no name"),
    ):
        with pytest.raises(LabError, match=problem):
            fio.parse_load({"name": "l", "op": "read", "block": "4K", "depth": 1, **changes})


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 1e9])
def test_a_run_takes_a_time(seconds):
    with pytest.raises(LabError, match="is no duration"):
        fio.check_seconds(seconds)


@pytest.mark.parametrize(
    "device", ["cbd0", "/dev/../etc/passwd", "/dev/cbd0:/dev/sda", "nbd://h", "nbd://h:1/x y", "nbd+unix:///?x"]
)
def test_what_is_no_device_reaches_no_command(device):
    runner = FakeRunner({})
    with pytest.raises(LabError):
        fio.check_device(runner, device)
    assert runner.ran == []


def test_what_somebody_may_miss_is_refused(monkeypatch):
    runner = FakeRunner({"blkid": "TYPE=xfs\n"})
    with pytest.raises(LabError, match="carries xfs; measure another one"):
        fio.check_device(runner, "/dev/cbd0")
    monkeypatch.setattr(fio, "mount_points", lambda device: ["/mnt/cbd0"])
    with pytest.raises(LabError, match="is mounted at /mnt/cbd0"):
        fio.check_device(runner, "/dev/cbd0")
    monkeypatch.setattr(fio, "mount_points", lambda device: [])
    fio.check_device(FakeRunner({"blkid": Result(2, "", "")}), "/dev/cbd0")


def test_devices_take_turns():
    runner = FakeRunner({"fio": job()})
    loads = [SMALL, Load("deep", "read", 4096, 32)]
    taken = fio.take_turns(runner, {"cbd": "/dev/cbd1", "nbd_tcp": "/dev/nbd0"}, loads, 2, 1)
    order = [(line.split("--iodepth=")[1].split()[0], line.split("--filename=")[1].split()[0]) for line in runner.ran]
    assert order == [("1", "/dev/cbd1"), ("1", "/dev/nbd0"), ("32", "/dev/cbd1"), ("32", "/dev/nbd0")] * 2
    assert taken["deep"]["nbd_tcp"] == [{"iops": 100.5, "p99_us": 25.0}] * 2


@needs_fio
def test_real_runs(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8 << 20))
    uri = f"nbd+unix:///?socket={tmp_path}/socket"
    with serve(disk, tmp_path / "socket"):
        fio.check_devices(HostRunner(), {"disk": uri})
        fio.fill(HostRunner(), uri, 8 << 20)
        assert all(any(disk.read_bytes()[at : at + 4096]) for at in range(0, 8 << 20, 4096))
        taken = fio.take_turns(HostRunner(), {"disk": uri}, [SMALL, LARGE], 2, 0.2)
    for load in ("small", "large"):
        assert len(taken[load]["disk"]) == 2 and all(run["iops"] > 0 and run["p99_us"] > 0 for run in taken[load]["disk"])


@needs_fio
def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(LabError, match="look at dmesg"):
        fio.take_turns(HostRunner(), {"disk": f"nbd+unix:///?socket={tmp_path}/socket"}, [SMALL], 1, 0.2)


@needs_fio
def test_facts_of_this_host(tmp_path):
    processor = tmp_path / "cpuinfo"
    processor.write_text("processor\t: 0\nmodel name\t: QEMU TCG CPU version 2.5+\n")
    facts = fio.facts(HostRunner(), processor)
    assert facts["cpu"] == "QEMU TCG CPU version 2.5+" and facts["cores"] >= 1 and facts["fio"][0].isdigit()
