# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module leaves on a host, and the program that runs there at boot, with a `cxl` of the test's own in PATH."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import boot_program
from ansible.module_utils.cxl_lab.boot_regions import BootRegions

REGION = {
    "resource": "0x110000000",
    "name": "region0",
    "type": "pmem",
    "size": 512 << 20,
    "uuid": "2f6a4a54-9ac1-43c5-a9e6-7b5b2f6ac0de",
    "decoder": "decoder0.0",
    "serials": ["0xc0de0001"],
    "granularity": 256,
}
#: Answers from files in its folder and writes down what it is asked to make.
CXL = """#!/bin/sh
here=$(dirname "$0")
case "$*" in
"list -M") cat "$here/memdevs" ;;
"list -R -T -i") cat "$here/regions" ;;
create-region*) echo "$*" >> "$here/made"; exit "$(cat "$here/exit" 2>/dev/null || echo 0)" ;;
*) exit 9 ;;
esac
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def cxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "cxl").write_text(CXL)
    (folder / "cxl").chmod(0o755)
    (folder / "memdevs").write_text(json.dumps([{"memdev": "mem0", "serial": 7}, {"memdev": "mem3", "serial": 0xC0DE0001}]))
    (folder / "regions").write_text("")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def region_over(memdev: str, kind: str) -> dict:
    return {"region": "region0", "type": kind, "mappings": [{"position": 0, "memdev": memdev, "decoder": "decoder2.0"}]}


def records(root: Path) -> Path:
    return root / "etc/cxl-lab/regions.d"


def test_what_is_left_on_the_host_is_a_unit_that_runs_the_program(root):
    boot = BootRegions(root)
    assert not boot.is_current(REGION)
    boot.remember(REGION)
    assert boot.is_current(REGION) and boot.remembers(0xC0DE0001, "pmem") and not boot.remembers(1, "pmem")
    wanted = root / "etc/systemd/system/multi-user.target.wants/cxl-lab-boot-regions.service"
    assert wanted.readlink() == Path("/etc/systemd/system/cxl-lab-boot-regions.service")
    unit = (root / "etc/systemd/system/cxl-lab-boot-regions.service").read_text()
    program = unit.split("ExecStart=")[1].splitlines()[0]
    assert os.access(root / program.lstrip("/"), os.X_OK)
    boot.forget(0xC0DE0001, "pmem")
    assert not boot.remembers(0xC0DE0001, "pmem")


@pytest.mark.parametrize("damage", ["etc/cxl-lab/regions.d/0xc0de0001.json", "usr/local/lib/cxl-lab/boot-regions"])
def test_what_somebody_edited_is_written_again(root, damage):
    boot = BootRegions(root)
    boot.remember(REGION)
    (root / damage).write_bytes(b"\xff{")
    assert not boot.is_current(REGION)
    boot.remember(REGION)
    assert boot.is_current(REGION)


def test_the_program_on_the_host_makes_the_region_under_its_decoder_with_its_uuid(root, cxl):
    BootRegions(root).remember(REGION)
    program = (root / "usr/local/lib/cxl-lab/boot-regions").read_text().replace("/etc/cxl-lab/regions.d", str(records(root)))
    subprocess.run(["python3", "-c", program], check=True)
    shape = f"-t pmem -s {512 << 20} -d decoder0.0 -U {REGION['uuid']} -m mem3"
    assert (cxl / "made").read_text() == f"create-region {shape}\n"


def test_a_memdev_under_a_region_is_left_alone(root, cxl):
    BootRegions(root).remember(REGION)
    (cxl / "regions").write_text(json.dumps([region_over("mem3", "pmem")]))
    assert boot_program.main(records(root), 0) == 0
    assert not (cxl / "made").exists()


@pytest.mark.parametrize(("memdev", "kind"), [("mem0", "pmem"), ("mem3", "ram")])
def test_a_region_of_another_memdev_or_type_is_no_obstacle(root, cxl, memdev, kind):
    BootRegions(root).remember(REGION)
    (cxl / "regions").write_text(json.dumps([region_over(memdev, kind)]))
    assert boot_program.main(records(root), 0) == 0
    assert "-m mem3" in (cxl / "made").read_text()


def test_what_cannot_be_made_is_said_and_the_others_are_made(root, cxl, capsys):
    boot = BootRegions(root)
    boot.remember({**REGION, "serials": ["0x1"]})
    boot.remember({**REGION, "serials": ["0x7"], "decoder": "", "uuid": ""})
    (records(root) / "0x6.json").write_text('{"serial": 6')
    assert boot_program.main(records(root), 0) == 1
    said = capsys.readouterr().err
    assert "0x1.json: the memdev is not there" in said and "0x6.json: JSONDecodeError" in said
    assert (cxl / "made").read_text() == f"create-region -t pmem -s {512 << 20} -m mem0\n"


def test_a_refusal_of_cxl_is_a_failure_of_the_unit(root, cxl):
    BootRegions(root).remember(REGION)
    (cxl / "exit").write_text("1")
    assert boot_program.main(records(root), 0) == 1


def test_an_interleaved_region_is_made_in_its_order(root, cxl):
    BootRegions(root).remember({**REGION, "serials": ["0xc0de0001", "0x7"], "granularity": 1024})
    assert (records(root) / "0x7.json").exists(), "it is named by the lowest number, whatever the order"
    assert boot_program.main(records(root), 0) == 0
    shape = f"-t pmem -s {512 << 20} -w 2 -g 1024 -d decoder0.0 -U {REGION['uuid']} -m mem3 mem0"
    assert (cxl / "made").read_text() == f"create-region {shape}\n"


def test_volatile_memory_of_a_device_comes_before_its_persistent_memory(root, cxl, monkeypatch):
    monkeypatch.setattr(boot_program, "ONLINE_POLICY", root / "auto_online_blocks")
    boot = BootRegions(root)
    boot.remember({**REGION, "serials": ["0x7"]})
    boot.remember(REGION)
    boot.remember({**REGION, "type": "ram", "uuid": ""})
    assert boot_program.main(records(root), 0) == 0
    made = [line.split()[2] for line in (cxl / "made").read_text().splitlines()]
    assert made == ["ram", "pmem", "pmem"]


def test_regions_are_made_by_ascending_address(root, cxl):
    """Linux refuses a region below a bridge that has one at a higher address."""
    boot = BootRegions(root)
    boot.remember({**REGION, "serials": ["0x7"], "resource": "0x90000000"})
    boot.remember({**REGION, "resource": "0x110000000"})
    boot.remember({**REGION, "serials": ["0xc0de0001", "0x7"], "type": "ram", "resource": "0x10000000"})
    order = sorted(records(root).glob("*.json"), key=boot_program.turn)
    assert [file.name for file in order] == ["0x7.ram.json", "0x7.json", "0xc0de0001.json"]


def test_volatile_memory_stays_offline_at_boot(root, cxl, monkeypatch):
    policy = root / "auto_online_blocks"
    monkeypatch.setattr(boot_program, "ONLINE_POLICY", policy)
    boot = BootRegions(root)
    boot.remember({**REGION, "type": "ram", "uuid": ""})
    assert boot.remembers(0xC0DE0001, "ram") and not boot.remembers(0xC0DE0001, "pmem"), "a memdev may have one of each"
    assert boot_program.main(records(root), 0) == 0
    assert policy.read_text() == "offline"
    assert (cxl / "made").read_text() == f"create-region -t ram -s {512 << 20} -d decoder0.0 -m mem3\n"
