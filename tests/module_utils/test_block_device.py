# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures and mounts, from recordings and from a real image."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab.block_device import Signature, mount_points, mounted_at, read_signature, read_size
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.runner import HostRunner, Result
from fakes import FakeRunner

XFS = "DEVNAME=/dev/cbd0\nLABEL=cxl-verify\nUUID=1ef5\nBLOCK_SIZE=512\nTYPE=xfs\nUSAGE=filesystem\n"


@pytest.mark.parametrize(
    ("answer", "signature"),
    [
        (XFS, Signature("xfs", "cxl-verify", "1ef5")),
        ("DEVNAME=/dev/ram0\nPTUUID=77\nPTTYPE=gpt\n", Signature("gpt")),
        (Result(2, "", ""), None),
        (Result(8, "", "ambivalent result"), Signature("several contradicting things")),
        ("DEVNAME=/dev/x\n", Signature("something without a type")),
    ],
)
def test_signatures(answer, signature):
    assert read_signature(FakeRunner({"blkid": answer}), "/dev/cbd0") == signature


def test_a_device_that_cannot_be_read():
    with pytest.raises(LabError, match="cannot be examined"):
        read_signature(FakeRunner({"blkid": Result(2, "", "error: /dev/cbd0: Input/output error")}), "/dev/cbd0")
    with pytest.raises(LabError, match="has no size"):
        read_size(FakeRunner({"blockdev": "many\n"}), "/dev/cbd0")


def test_real_blkid_on_a_real_image(tmp_path: Path):
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    assert read_signature(HostRunner(), str(image)) is None
    HostRunner().run(["mkswap", "-L", "mine", str(image)])
    assert (read_signature(HostRunner(), str(image)).type, read_signature(HostRunner(), str(image)).label) == ("swap", "mine")


def test_mounts_follow_links_and_unescape(tmp_path: Path):
    (tmp_path / "ublkb0").write_text("")
    (tmp_path / "cbd0").symlink_to(tmp_path / "ublkb0")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"{tmp_path}/ublkb0 /mnt/two\\040words xfs rw 0 0\nproc /proc proc rw 0 0\n/dev/vda / ext4 rw 0 0\n")
    assert mount_points(f"{tmp_path}/cbd0", mounts) == ["/mnt/two words"]
    assert mounted_at("/", mounts) == "/dev/vda"
    assert mounted_at("/mnt", mounts) is None
