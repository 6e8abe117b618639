# SPDX-License-Identifier: GPL-3.0-or-later
"""Which devices get a file system, and how a comparison fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import verify
from ansible.module_utils.cxl_lab.block_device import Signature
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.runner import Result
from fakes import FakeRunner

GIB = 1 << 30


def test_only_a_blank_device_gets_a_filesystem():
    assert verify.needs_filesystem("/dev/cbd0", None, GIB, blank=True)
    assert not verify.needs_filesystem("/dev/cbd0", Signature("xfs", verify.LABEL), GIB, blank=False)


@pytest.mark.parametrize(
    ("signature", "blank", "size", "match"),
    [
        (Signature("xfs", "home"), False, GIB, r"carries xfs \(label home\), which is not ours"),
        (Signature("ext4", verify.LABEL), False, GIB, "carries ext4"),
        (Signature("gpt"), True, GIB, "carries gpt"),
        (None, False, GIB, "bytes that carry no signature"),
        (None, True, 256 << 20, "256M, and xfs takes no less than 300 MiB"),
    ],
)
def test_everything_else_is_refused(signature, blank, size, match):
    with pytest.raises(LabError, match=match):
        verify.needs_filesystem("/dev/cbd0", signature, size, blank)


def test_a_device_that_is_none(tmp_path: Path):
    with pytest.raises(LabError, match="is no block device; start the blkdev first"):
        verify.observe_needs_filesystem(FakeRunner({}), str(tmp_path / "cbd0"))


def test_what_is_somebody_elses_is_told_without_reading_the_device(tmp_path: Path, monkeypatch):
    device = str(tmp_path / "cbd0")  # to read it would be another error
    monkeypatch.setattr(Path, "is_block_device", lambda _: True)
    runner = FakeRunner(
        {f"blkid -p -o export {device}": Result(0, "TYPE=ext4\n", ""), f"blockdev --getsize64 {device}": Result(0, "1", "")}
    )
    with pytest.raises(LabError, match="carries ext4"):
        verify.observe_needs_filesystem(runner, device)


def test_write_and_compare_on_a_folder(tmp_path: Path):
    manifest, spent = verify.write(str(tmp_path), 100_000, "5eed", "t", "f")
    assert (spent.files, spent.size) == (len(manifest.sums), 100_000)
    assert verify.tree_is_complete(str(tmp_path), 100_000) and not verify.tree_is_complete(str(tmp_path), 200_000)
    assert verify.compare(tmp_path, "/dev/cbd0", manifest.digest, "compare")[0] == manifest
    again, _ = verify.write(str(tmp_path), 100_000, "other", "t", "f")
    with pytest.raises(LabError, match="another tree than the one just written"):
        verify.compare(tmp_path, "/dev/cbd0", manifest.digest, "compare")
    (tmp_path / verify.FOLDER / sorted(again.sums)[-1]).write_bytes(b"x")
    with pytest.raises(LabError, match=rf"1 of {len(again.sums)} files are wrong: .*file.*: SHA-256"):
        verify.compare(tmp_path, "/dev/cbd0", "", "compare")


def test_compare_without_a_tree(tmp_path: Path):
    with pytest.raises(LabError, match="no verification tree"):
        verify.compare(tmp_path, "/dev/cbd0", "", "compare")


def test_read_only_mount_is_undone_also_after_a_failure():
    runner = FakeRunner({"mount": "", "umount": ""})
    with pytest.raises(RuntimeError), verify.mounted_read_only(runner, "/dev/ram0p1") as folder:
        assert folder.is_dir()
        raise RuntimeError
    assert "ro,norecovery,nouuid,loop /dev/ram0p1" in runner.ran[0] and runner.ran[1] == f"umount {folder}"
    assert not folder.exists()
    refused = FakeRunner({"mount": Result(32, "", "mount: wrong fs type")})
    with pytest.raises(LabError, match="wrong fs type"), verify.mounted_read_only(refused, "/dev/ram0p1"):
        pass


def test_a_row_of_the_report_stands_under_its_head():
    row = verify.Measured("write", 15, 32 << 20, 2.0).row("/dev/cbd0 on node2")
    assert len(row) == len(verify.HEADER) and row.endswith("16.0")
    assert verify.Measured("make xfs", 0, 0, 1.0).row("x").endswith("-")
