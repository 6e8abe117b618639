# SPDX-License-Identifier: GPL-3.0-or-later
"""Dynamic capacity below a switch and below a host bridge with several root ports, on one real virtual machine whose kernel has a
region of its own below the same bridge.

The steps build on each other and run in the order of this file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scenario import ROOT, VmLab, wait_until

EXTRA = ROOT / "tests/scenarios/dcd_fabric.yml"
LAB = VmLab("hdm", ("-e", f"@{EXTRA}"), inventory="switched")
MIB = 1 << 20
DEVICES = {0xC0DE0001: "d0", 0xC0DE0002: "d1", 0xC0DE0003: "d2"}
EXTENT = 32 * MIB
PLAIN = 2 * MIB  # where the data of a namespace begins
WRITE = """
import mmap, os, sys
path, offset, text = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
with mmap.mmap(os.open(path, os.O_RDWR | os.O_SYNC), 2 << 20, offset=offset) as mapping:
    if text != b"-":
        mapping[: len(text)] = text
    print(mapping[:5].decode(errors="replace"))
"""


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


def datapath(*words: str) -> Any:
    return json.loads(LAB.on("node1", "cxl-datapath", *words, "--json"))


def bases() -> dict[int, int]:
    return {row["serial"]: row["base"] for row in datapath("dcd", "regions")}


def states() -> set[str]:
    return {row["state"] for row in json.loads(LAB.answer("node1", "cxl-datapath", "dcd", "regions", "--json") or "[]")}


def word(path: str, offset: int, text: str = "-") -> str:
    """Writes a word of five letters into a file of node1, and reads it back through the same mapping."""
    LAB.on("node1", "sh", "-c", f"'cat > /tmp/word.py <<EOF\n{WRITE}\nEOF'")
    return LAB.on("node1", "python3", "/tmp/word.py", path, str(offset), text).strip()


def mapped(text: str = "-") -> dict[str, str]:
    """The same through the mapping of each device: the word gets the device's name in front."""
    rows = {DEVICES[row["serial"]]: row for row in datapath("dcd", "mappings")}
    return {name: word(row["path"], row["offset"], name + text if text != "-" else text) for name, row in sorted(rows.items())}


def stored(file: str, offset: int) -> str:
    with Path(f"/dev/shm/cxl-lab.{LAB.name}.{file}").open("rb") as opened:
        opened.seek(offset)
        return opened.read(5).decode(errors="replace")


def plain() -> str:
    (row,) = json.loads(LAB.on("node1", "ndctl", "list", "-N", "-v"))
    return f"/dev/{row['daxregion']['devices'][0]['chardev']}"


def test_the_lab_comes_up_and_stays() -> None:
    LAB.comes_up("create", "memory", "datapath", "dcd")
    assert "iomem=relaxed" in LAB.on("node1", "cat", "/proc/cmdline").split()
    assert states() == {"running"}


def test_the_regions_are_side_by_side_behind_that_of_the_kernel() -> None:
    (kernel,) = json.loads(LAB.on("node1", "cxl", "list", "-R"))
    found = sorted(bases().values())
    assert found[0] >= kernel["resource"] + kernel["size"]
    assert [base - found[0] for base in found] == [0, 512 * MIB, 1024 * MIB]


def test_each_device_gets_its_own_bytes() -> None:
    assert word(plain(), 0, "plain") == "plain"
    assert mapped("abc") == {name: f"{name}abc" for name in DEVICES.values()}
    assert {name: stored(f"{name}.dynamic", EXTENT) for name in DEVICES.values()} == {n: f"{n}abc" for n in DEVICES.values()}
    assert stored("m0", PLAIN) == "plain" == word(plain(), 0)


def test_a_daemon_that_starts_finds_the_routes() -> None:
    before = bases()
    LAB.on("node1", "systemctl", "restart", "cxl-datapathd")
    wait_until(lambda: states() == {"running"}, "the regions are taken up")
    assert bases() == before and mapped() == {name: f"{name}abc" for name in DEVICES.values()}


def test_one_goes_and_comes_back_while_the_others_work() -> None:
    before = bases()
    LAB.on("node1", "cxl-datapath", "dcd", "unmap", "0xc0de0001", "tool")
    LAB.on("node1", "cxl-datapath", "dcd", "destroy", "0xc0de0001")
    wait_until(lambda: "0xc0de0001" in hex_serials(), "the kernel has it again")
    assert mapped("xyz") == {"d1": "d1xyz", "d2": "d2xyz"} and word(plain(), 0) == "plain"
    assert LAB.playbook("playbooks/dcd.yml")[0] == 0
    assert bases() == before
    assert mapped() == {"d0": "d0abc", "d1": "d1xyz", "d2": "d2xyz"}


def hex_serials() -> list[str]:
    return [hex(row["serial"]) for row in json.loads(LAB.on("node1", "cxl", "list", "-M") or "[]")]


def test_a_reboot_brings_everything_back() -> None:
    before, boot = bases(), LAB.boot_id("node1")
    LAB.on("node1", "sh", "-c", "'systemctl reboot || true'")
    wait_until(lambda: LAB.boot_id("node1") not in ("", boot), "node1 is back")
    wait_until(lambda: states() == {"running"}, "the regions are there, behind that of the kernel")
    assert sorted(bases().values()) == sorted(before.values())
    assert LAB.playbook("playbooks/dcd.yml")[0] == 0
    assert mapped() == {"d0": "d0abc", "d1": "d1xyz", "d2": "d2xyz"} and word(plain(), 0) == "plain"


def test_down_leaves_nothing() -> None:
    assert LAB.playbook("playbooks/down.yml")[0] == 0
    assert LAB.remains() == []
