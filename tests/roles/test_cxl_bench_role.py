# SPDX-License-Identifier: GPL-3.0-or-later
"""The role cxl_bench and its playbook with real daemons, a real NBD server and fio; hosts are processes of this machine."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path

import pytest
import yaml
from local_play import ROOT, LocalPlay
from real_daemons import needs_daemon, real_lab

sys.path.append(str(ROOT / "datapath"))

HOSTS = ("node1", "node2")
needs_tools = pytest.mark.skipif(not all(map(shutil.which, ("fio", "nbdkit"))), reason="needs fio and nbdkit")
LOADS = yaml.safe_load((ROOT / "roles/cxl_bench/vars/main.yml").read_text(encoding="utf-8"))["__cxl_bench_loads"]


@pytest.fixture
def lab():
    with real_lab(*HOSTS) as running:
        running.hosts["node1"].call("cbd.transport.format", memory=running.memory, name="pool0", ring_depth=16)
        for host in HOSTS:
            running.hosts[host].call("cbd.transport.register", memory=running.memory)
        yield running


@pytest.fixture
def play(lab, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "cxl_bench_transport": "pool0",
        "cxl_bench_backing_host": "node1",
        "cxl_bench_device_host": "node2",
        "cxl_bench_address": "127.0.0.1",
        "cxl_bench_port": port,
        "cxl_bench_size": "8M",
        "cxl_bench_frontend": "nbdkit",
        "cxl_bench_runs": 1,
        "cxl_bench_seconds": 0.1,
        "cxl_bench_result": str(tmp_path / "result.json"),
    }
    return LocalPlay(tmp_path, {host: {"cxl_bench_runtime_dir": lab.runtime(host), **shared} for host in HOSTS})


def nothing_is_left(lab):
    """No backend, blkdev, server or file of the bench."""
    (pool,) = lab.hosts["node1"].call("status")["transports"]
    files = [*Path("/dev/shm").glob("cxl-bench.*"), *Path("/run/cxl-lab").glob("cxl-bench.*")]
    return not (pool["backend_list"] or pool["blkdev_list"] or files)


@needs_daemon
@needs_tools
def test_both_ways_are_measured_and_nothing_stays(lab, play, tmp_path):
    from bench import lab as bench_lab
    from bench.cases import LAB_NAMES

    facts, rows = bench_lab.measure(str(tmp_path / "hosts.json"), 1, 0.1)
    assert [row["name"] for row in rows] == list(LAB_NAMES)
    for row in rows:
        assert row["runs"] == 1 and row["ratios"] == {"nbd_tcp": row["median"] / row["peers"]["nbd_tcp"]}
    assert {"inventory", "commit", "runs", "cpu", "cores", "kernel", "fio"} <= facts.keys()
    assert nothing_is_left(lab)


@needs_daemon
@needs_tools
def test_a_failure_leaves_nothing_either(lab, play):
    code, output = play.run("playbooks/bench.yml", cxl_bench_runs=0)
    assert code != 0 and "runs: 0 is no number of runs" in output
    code, output = play.run("playbooks/bench.yml", cxl_bench_transport="pool9")
    assert code != 0 and "pool9" in output
    assert nothing_is_left(lab)


@needs_daemon
@needs_tools
def test_check_mode_makes_nothing(lab, play, tmp_path):
    code, output = play.run("playbooks/bench.yml", "--check")
    assert code == 0, output
    assert nothing_is_left(lab) and not (tmp_path / "result.json").exists()


def test_the_loads_are_those_of_the_bench():
    from ansible.module_utils.cxl_lab.sizes import parse_size
    from bench.cases import LAB_LOADS
    from bench.cases import LOADS as KNOWN

    given = {load["name"]: (load["op"], parse_size(load["block"]), load["depth"]) for load in LOADS}
    assert given == {name: (KNOWN[name].op, KNOWN[name].block, KNOWN[name].depth) for name in LAB_LOADS}
    assert list(given) == list(LAB_LOADS)
