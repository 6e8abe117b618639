# SPDX-License-Identifier: GPL-3.0-or-later
"""User-space LUNs on real virtual machines: programs of node2 use disks of node1, by way of CBD, without the block layer.

The steps build on each other and run in the order of this file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from scenario import PYTHON, ROOT, VmLab, changed, wait_until

LAB = VmLab("cxlflash", ("-e", f"@{ROOT}/tests/scenarios/cxlflash.yml"))
PHASES = ("create", "memory", "datapath")
MIB = 1 << 20
# Writes and reads back 8 MiB; on request waits in between until the data path was started again under it.
PROGRAM = """
import hashlib, os, time
from cxl_datapath import cblk
lun = cblk.cblk_open("flash0", flags={flags})
if {flags}:
    cblk.cblk_set_size(lun, 2048)
data = os.urandom(4096 * 2048)
back = bytearray(len(data))
assert cblk.cblk_write(lun, data, 0) == 2048
cblk.cblk_sync(lun)
rounds, end = 0, time.monotonic() + 240
while not rounds or cblk.cblk_get_stats(lun)["recoveries"] < {recoveries}:
    assert time.monotonic() < end, "the data path was never started again"
    assert cblk.cblk_read(lun, back, 0) == 2048 and back == data
    rounds += 1
print(hashlib.sha256(data).hexdigest(), rounds)
cblk.cblk_close(lun)
"""


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


def luns() -> list[dict[str, Any]]:
    return list(json.loads(LAB.answer("node2", "cxl-datapath", "lun", "list", "--json") or "[]"))


def program(flags: int = 0, recoveries: int = 0) -> str:
    return PROGRAM.format(flags=flags, recoveries=recoveries)


def run_program(flags: int = 0) -> str:
    """The checksum of what it wrote."""
    return LAB.on("node2", PYTHON, "-c", f"'{program(flags)}'").split()[0]


def shell(host: str, script: str) -> str:
    return LAB.on(host, "sh", "-c", f"'{script}'")


def test_the_lun_is_there_and_a_second_run_changes_nothing() -> None:
    for phase in PHASES:
        assert LAB.playbook(f"playbooks/{phase}.yml")[0] == 0
    shell("node1", "dd if=/dev/zero of=/var/lib/flash-disk bs=1M count=64 oflag=direct status=none && sync")
    for phase in ("cbd", "cxlflash"):
        code, output = LAB.playbook(f"playbooks/{phase}.yml")
        assert code == 0, output
    assert [(row["name"], row["state"], row["size"]) for row in luns()] == [("flash0", "running", 256 * MIB)]
    for phase in ("cbd", "cxlflash"):
        code, output = LAB.playbook(f"playbooks/{phase}.yml")
        assert (code, changed(output)) == (0, 0), output


def test_bytes_reach_the_disk_of_the_other_host() -> None:
    checksum = run_program()
    found = shell("node1", "dd if=/dev/ram0 bs=4096 count=2048 iflag=direct status=none | sha256sum")
    assert found.split()[0] == checksum


def test_a_virtual_lun_on_it() -> None:
    run_program(flags=1)
    (row,) = luns()
    assert (row["contexts"], row["free"]) == (0, row["size"])


def test_the_device_is_nobody_elses() -> None:
    """Opened for itself alone, as a file system or a backend would."""
    refused = shell("node2", f'{PYTHON} -c "import os; os.open(\\"/dev/cbd0\\", os.O_RDWR | os.O_EXCL)" 2>&1 || true')
    assert "busy" in refused, refused


@pytest.mark.parametrize("flags", [0, 1], ids=["direct", "virtual"])
def test_the_engine_is_killed_under_a_program(flags: int) -> None:
    running = LAB.background("node2", PYTHON, "-c", f"'{program(flags, recoveries=1)}'")
    wait_until(lambda: luns()[0]["contexts"] == 1, "the program has its LUN")
    LAB.on("node2", "kill", "-9", str(luns()[0]["worker"]["pid"]))
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output


@pytest.mark.parametrize("flags", [0, 1], ids=["direct", "virtual"])
def test_the_daemon_is_started_again_under_a_program(flags: int) -> None:
    running = LAB.background("node2", PYTHON, "-c", f"'{program(flags, recoveries=1)}'")
    wait_until(lambda: luns()[0]["contexts"] == 1, "the program has its LUN")
    LAB.on("node2", "systemctl", "restart", "cxl-datapathd")
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output
    wait_until(lambda: [row["contexts"] for row in luns()] == [0], "the program has ended")


def test_virtual_luns_serve_both_hosts() -> None:
    """node1 has one by nbdkit and CBD, a program of node2 has another beside it."""
    plugin = shell("node2", "find -L /opt/cxl-datapath/current/ -name cxl-lun-nbdkit-plugin.so | head -n 1").strip()
    shell("node2", f"nbdkit -U /run/flash.sock -P /run/flash.pid {plugin} lun=flash0 size=64M")
    shell("node2", "modprobe nbd && nbd-client -unix /run/flash.sock /dev/nbd0 -b 4096")
    LAB.on("node2", "cxl-datapath", "cbd", "backend", "start", "pool0", "/dev/nbd0", "--id", "5")
    started = LAB.on("node1", "cxl-datapath", "cbd", "blkdev", "start", "pool0", "5", "--name", "part0", "--json")
    assert json.loads(started)["device"] == "/dev/part0"
    shell("node1", "head -c 16M /dev/urandom > /tmp/data && dd if=/tmp/data of=/dev/part0 bs=1M oflag=direct status=none")
    run_program(flags=1)
    back = shell("node1", "dd if=/dev/part0 bs=1M count=16 iflag=direct status=none | sha256sum; sha256sum < /tmp/data").split()
    assert back[0] == back[2]
    (row,) = luns()
    assert row["size"] - row["free"] == 64 * MIB
    LAB.on("node1", "cxl-datapath", "cbd", "blkdev", "stop", "pool0", "part0")
    LAB.on("node2", "cxl-datapath", "cbd", "backend", "stop", "pool0", "5")
    shell("node2", "nbd-client -d /dev/nbd0 && kill $(cat /run/flash.pid)")
    wait_until(lambda: luns()[0]["free"] == row["size"], "the virtual LUN ends with its server")


def test_conformance_against_a_disk_of_the_other_host() -> None:
    """The suite that runs on files elsewhere, with a daemon of its own and /dev/cbd1 as the LUN."""
    LAB.suite("node2", "lun", "CXL_TEST_LUN=/dev/cbd1")


def test_down_leaves_nothing() -> None:
    assert LAB.playbook("playbooks/down.yml")[0] == 0
    assert LAB.remains() == []
