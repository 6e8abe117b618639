# SPDX-License-Identifier: GPL-3.0-or-later
"""Another file at the path of a backend: never served in place of the one that its users know, unless somebody says so."""

from __future__ import annotations

import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hosts import wait_until
from lab import DISK, MIB, Lab, io_works, needs_nbd
from mishaps import loop_device

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.file_id import FileId
from cxl_datapath.medium_id import DeviceId, medium_from_json, medium_of

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


# ---- devices

BARE = DeviceId({}, None, 0, DISK, 0x801, 5, "b0" * 16)
MARKED = replace(BARE, marks={"wwid": "naa.5000", "partuuid": "0a0b"}, start=MIB)
LOOP = replace(BARE, below=HERE)
LATER = "b1" * 16


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        (MARKED, replace(MARKED, device=0x811, sequence=6, boot=LATER), True),  # found at another place
        (MARKED, replace(MARKED, marks=MARKED.marks | {"serial": "7"}), True),  # a newer kernel tells more
        (MARKED, replace(MARKED, size=2 * DISK), True),  # it grew
        (MARKED, replace(MARKED, marks=MARKED.marks | {"wwid": "naa.5001"}), False),
        (MARKED, replace(MARKED, marks={}), False),
        (MARKED, replace(MARKED, start=2 * MIB), False),
        (MARKED, HERE, False),
        (MARKED, None, False),
        (HERE, MARKED, False),
        (LOOP, replace(LOOP, device=0x702, sequence=9), True),
        (LOOP, replace(LOOP, below=replace(HERE, inode=8)), False),
        (LOOP, replace(LOOP, start=512), False),
        (LOOP, BARE, False),
        (BARE, BARE, True),
        (BARE, replace(BARE, size=2 * DISK), True),
        (BARE, replace(BARE, sequence=6), False),
        (BARE, replace(BARE, device=0x811), False),
        (BARE, replace(BARE, device=0x811, sequence=6, boot=LATER), True),  # nothing tells them apart
        (BARE, replace(BARE, size=2 * DISK, boot=LATER), False),
        (replace(BARE, sequence=0), replace(BARE, sequence=0), True),
        (replace(BARE, sequence=0), replace(BARE, size=2 * DISK), False),
    ],
)
def test_what_makes_a_device_the_same(before: FileId | DeviceId, now: FileId | DeviceId | None, same: bool) -> None:
    assert before.is_same(now) is same


@pytest.mark.parametrize("medium", [HERE, BARE, MARKED, LOOP, replace(LOOP, below=MARKED)])
def test_every_medium_can_be_remembered(medium: FileId | DeviceId) -> None:
    assert medium_from_json(asdict(medium)) == medium


@pytest.mark.parametrize("damage", [{"marks": {"wwid": 7}}, {"size": -1}, {"below": 7}, {"marks": [1]}, {"boot": ""}])
def test_what_is_no_device(damage: dict[str, object]) -> None:
    with pytest.raises((DatapathError, TypeError, AttributeError)):
        medium_from_json(asdict(BARE) | damage)


def fake_disk(sysfs: Path, number: int) -> Path:
    """A disk and its partition 1 as the kernel shows them, the partition under this device number."""
    disk = sysfs / "devices/pci/block/sdb"
    part = disk / "sdb1"
    for path, text in {
        disk / "diskseq": "5\n",
        disk / "device/wwid": "naa.5000\n",
        disk / "serial": "\n",
        part / "partition": "1\n",
        part / "start": "2048\n",
        part / "uevent": "DEVTYPE=partition\nPARTUUID=0a0b\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    link = sysfs / f"dev/block/{os.major(number)}:{os.minor(number)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(part)
    return disk


def test_a_partition_has_the_marks_of_its_disk_and_its_own(tmp_path: Path) -> None:
    with Path("/dev/null").open("rb") as device:
        number = os.fstat(device.fileno()).st_rdev
        disk = fake_disk(tmp_path, number)
        found = DeviceId.of(device.fileno(), tmp_path)
        assert (found.marks, found.start, found.sequence, found.below) == (MARKED.marks, MIB, 5, None)
        (disk / "device/wwid").write_text("naa.5001\n")
        assert not found.is_same(DeviceId.of(device.fileno(), tmp_path))


def test_a_loop_device_is_the_file_that_it_shows(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    os.truncate(disk, DISK)
    with loop_device(disk) as loop, Path(loop).open("rb") as device, disk.open("rb") as file:
        found = medium_of(device.fileno())
        assert found.below == FileId.of(file.fileno())
        disk.rename(tmp_path / "moved")
        disk.touch()
        assert found.is_same(medium_of(device.fileno())), "it still shows the file that was moved"
        disk.unlink()


@needs_nbd
def test_a_device_that_shows_another_disk_is_not_served_and_the_old_one_goes_on(lab: Lab) -> None:
    disk, link = lab.disk(), lab.folder / "sdb"
    with loop_device(disk) as first:
        link.symlink_to(first)
        lab.node1.call("cbd.backend.start", transport="pool0", path=str(link))
        blkdev = {"transport": "pool0", "backend": 0, "frontend": "nbdkit", "io_timeout": 3600}
        device = lab.node2.call("cbd.blkdev.start", **blkdev)["device"]
        assert io_works(device, 0x51)
        lab.node1.stop()
        shown = lab.disk("another")
        subprocess.run(["losetup", "--detach", first], check=True)
        subprocess.run(["losetup", first, shown], check=True)
        lab.node1.start()
        error = refusal(lab, "device")
        assert f"recover pool0 0 --path {link}" in error["hint"]
        assert shown.read_bytes().count(0) == DISK
        with loop_device(disk) as second:  # the disk is back, at another place
            link.unlink()
            link.symlink_to(second)
            assert lab.node1.call("cbd.backend.start", **T, path=str(link))["worker"]["state"] == "running"
            assert io_works(device, 0x52)
            lab.node2.stop()
            lab.node1.stop()
    assert disk.read_bytes()[MIB : MIB + 4] == b"\x52" * 4


# ---- what a backend does with it


def replaced(disk: Path) -> Path:
    """Another disk is moved to its place; where the old one is now."""
    old = disk.with_suffix(".old")
    os.link(disk, old)
    new = disk.with_suffix(".new")
    new.touch()
    os.truncate(new, DISK)
    new.rename(disk)
    return old


def refusal(lab: Lab, noun: str = "file") -> dict[str, str]:
    def error() -> dict[str, str] | None:
        found = lab.node1.worker("backend", "pool0", 0)["error"]
        return found if found and f"is not the {noun} that backend 0 was started on" in found["message"] else None

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


@needs_nbd
def test_a_disk_that_is_gone_is_asked_back_by_name(lab: Lab) -> None:
    """Nobody is told to name another one: the backend has users, who know its data."""
    disk, device = lab.mapped()
    assert io_works(device, 0x51)
    hidden = disk.rename(disk.with_suffix(".hidden"))
    lab.node1.kill_worker("backend", "pool0", 0)
    wait_until(lambda: lab.node1.worker("backend", "pool0", 0)["error"], "it cannot start again")
    error = lab.node1.refuse(Code.NOT_FOUND, "cbd.backend.start", **T, path=str(disk))
    assert error.object == str(disk) and error.hint.startswith(
        "backend 0 is on it: bring it back; or put what has its data there"
    )
    assert (
        lab.node1.refuse(Code.NOT_FOUND, "cbd.backend.start", **T, path=f"{disk}2").hint
        == "name an existing block device or file"
    )
    hidden.rename(disk)
    wait_until(lambda: lab.node1.worker("backend", "pool0", 0)["state"] == "running", "it serves again by itself")
    assert io_works(device, 0x52)
