# SPDX-License-Identifier: GPL-3.0-or-later
"""Another file at the path of a backend: never served in place of the one that its users know, unless somebody says so."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hosts import wait_until
from lab import DISK, MIB, Lab, io_works, needs_nbd

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.file_id import FileId

T = {"transport": "pool0"}
ONE = T | {"id": 0}
HERE = FileId(7, 2049, "b0" * 16, 5)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (HERE, True),
        (None, False),
        (replace(HERE, inode=8), False),
        (replace(HERE, device=2050), False),
        (replace(HERE, device=2050, boot="b1" * 16), True),  # the kernel numbers its devices anew
        (replace(HERE, inode=8, boot="b1" * 16), False),
        (replace(HERE, generation=6), False),
        (replace(HERE, generation=0), True),  # written before generations were kept
    ],
)
def test_what_makes_a_file_the_same(other: FileId | None, same: bool) -> None:
    assert HERE.is_same(other) is same


def test_only_regular_files_are_remembered(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        assert FileId.of(file.fileno()).inode == disk.stat().st_ino
    with Path("/dev/null").open("rb") as device:
        assert FileId.of(device.fileno()) is None
    assert FileId.of(-1) is None


@pytest.mark.parametrize("boot", ["0" * 32, "1" * 32, "0123456789abcdef" * 2])
def test_every_boot_id_can_be_remembered(boot: str) -> None:
    """Also that of a kernel that does not tell, and one that looks like a number."""
    there = replace(HERE, boot=boot)
    assert FileId.from_json(asdict(there)) == there


@pytest.mark.parametrize("boot", ["", "0" * 31, "g" * 32, 7, None])
def test_what_is_no_boot_id(boot: object) -> None:
    with pytest.raises(DatapathError) as caught:
        FileId.from_json(asdict(HERE) | {"boot": boot})
    assert caught.value.code == Code.INVALID


def test_a_new_file_in_the_inode_of_the_old_one_is_another(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    seen = []
    for _ in range(2):
        with disk.open("wb") as file:
            seen.append(FileId.of(file.fileno()))
        disk.unlink()
    old, new = seen
    if 0 in (old.generation, new.generation):
        pytest.skip("this file system tells no generations")
    assert not old.is_same(new)


def replaced(disk: Path) -> Path:
    """Another disk is moved to its place; where the old one is now."""
    old = disk.with_suffix(".old")
    os.link(disk, old)
    new = disk.with_suffix(".new")
    new.touch()
    os.truncate(new, DISK)
    new.rename(disk)
    return old


def refusal(lab: Lab) -> dict[str, str]:
    def error() -> dict[str, str] | None:
        found = lab.node1.worker("backend", "pool0", 0)["error"]
        return found if found and "is not the file that backend 0 was started on" in found["message"] else None

    return dict(wait_until(error, "the worker says why it does not run"))


@needs_nbd
@pytest.mark.parametrize("whole_daemon", [False, True])
def test_a_replaced_disk_is_not_served_and_the_old_one_goes_on(lab: Lab, whole_daemon: bool) -> None:
    disk, device = lab.mapped()
    assert io_works(device, 0x41)
    old = replaced(disk)
    if whole_daemon:
        lab.node1.stop()
        lab.node1.start()
    else:
        lab.node1.kill_worker("backend", "pool0", 0)
    error = refusal(lab)
    assert f"recover pool0 0 --path {disk}" in error["hint"]
    lab.node1.cli("cbd", "backend", "recover", "pool0", "0")
    assert lab.node1.worker("backend", "pool0", 0)["state"] != "running", "a takeover that names no path says nothing of it"
    assert disk.read_bytes().count(0) == DISK
    old.rename(disk)
    assert lab.node1.call("cbd.backend.start", **T, path=str(disk))["worker"]["state"] == "running"
    assert io_works(device, 0x42)
    assert disk.read_bytes()[MIB : MIB + 4] == b"\x42" * 4


@needs_nbd
def test_a_replaced_disk_is_served_when_somebody_says_that_it_has_the_data(lab: Lab) -> None:
    disk, device = lab.mapped()
    replaced(disk)
    lab.node1.kill_worker("backend", "pool0", 0)
    refusal(lab)
    done = lab.node1.cli("cbd", "backend", "recover", "pool0", "0", "--path", str(disk))
    assert done.returncode == 0, done.stderr
    assert io_works(device, 0x43)
    assert disk.read_bytes()[MIB : MIB + 4] == b"\x43" * 4
    lab.node1.stop()
    lab.node1.start()
    wait_until(lambda: lab.node1.worker("backend", "pool0", 0)["state"] == "running", "it is known from now on")
    assert io_works(device, 0x44)
