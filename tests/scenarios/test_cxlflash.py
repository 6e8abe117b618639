# SPDX-License-Identifier: GPL-3.0-or-later
"""User-space LUNs on real virtual machines: a program of node2 uses the disk of node1, by way of CBD, without the block layer.

The steps build on each other and run in the order of this file. Part of no target: run it with pytest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from scenario import ROOT, VmLab, changed, wait_until

LAB = VmLab("cxlflash", ("-e", f"@{ROOT}/tests/scenarios/cxlflash.yml"))
PYTHON = "/opt/cxl-datapath/current/bin/python"
PROGRAM = """
import os
from cxl_datapath import cblk
lun = cblk.cblk_open("flash0", flags={flags})
if {flags}:
    cblk.cblk_set_size(lun, 2048)
data = os.urandom(4096 * 2048)
assert cblk.cblk_write(lun, data, 0) == 2048
cblk.cblk_sync(lun)
back = bytearray(len(data))
assert cblk.cblk_read(lun, back, 0) == 2048 and back == data
import hashlib
print(hashlib.sha256(data).hexdigest(), cblk.cblk_get_stats(lun)["recoveries"])
cblk.cblk_close(lun)
"""


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


def luns() -> list[dict[str, object]]:
    return list(json.loads(LAB.answer("node2", "cxl-datapath", "lun", "list", "--json") or "[]"))


def program(flags: int) -> list[str]:
    return LAB.on("node2", PYTHON, "-c", PROGRAM.format(flags=flags)).split()


def test_the_lun_is_there_and_a_second_run_changes_nothing() -> None:
    for phase in ("create", "memory", "datapath", "cbd", "cxlflash"):
        code, output = LAB.playbook(f"playbooks/{phase}.yml")
        assert code == 0, output
    assert [(row["name"], row["state"]) for row in luns()] == [("flash0", "running")]
    code, output = LAB.playbook("playbooks/cxlflash.yml")
    assert code == 0, output
    assert changed(output) == 0, output


def test_bytes_reach_the_disk_of_the_other_host() -> None:
    checksum, _ = program(flags=0)
    found = LAB.on("node1", "sh", "-c", "'dd if=/dev/ram0p1 bs=4096 count=2048 iflag=direct status=none | sha256sum'")
    assert found.split()[0] == checksum


def test_a_virtual_lun_on_it() -> None:
    program(flags=1)
    (row,) = luns()
    assert (row["contexts"], row["free"]) == (0, row["size"])


def test_the_device_is_nobody_elses() -> None:
    refused = LAB.on("node2", "sh", "-c", "'mount /dev/cbd0 /mnt 2>&1 || true'")
    assert "busy" in refused or "mounted" in refused, refused


def test_the_engine_is_killed() -> None:
    (row,) = luns()
    worker = row["worker"]
    assert isinstance(worker, dict)
    LAB.on("node2", "kill", "-9", str(worker["pid"]))
    wait_until(lambda: luns()[0]["state"] == "running", "the LUN runs again")
    program(flags=0)
