# SPDX-License-Identifier: GPL-3.0-or-later
"""More than one path to a LUN: a multipath map with several members, as sysfs shows it."""

from __future__ import annotations

import pytest

from cxl_datapath.cxlflash.paths import joins_paths, several_paths


@pytest.mark.parametrize(
    ("uuid", "members", "several"),
    [("mpath-3600a0b80000f", ["sda", "sdb"], True), ("mpath-3600a0b80000f", ["sda"], False), ("LVM-abc", ["sda", "sdb"], False)],
)
def test_a_map(tmp_path, uuid, members, several):
    (tmp_path / "dm").mkdir()
    (tmp_path / "dm" / "uuid").write_text(uuid + "\n")
    for member in members:
        (tmp_path / "slaves" / member).mkdir(parents=True)
    assert joins_paths(tmp_path) == several


def test_what_is_no_map(tmp_path):
    (tmp_path / "disk").touch()
    assert not several_paths(str(tmp_path / "disk"))
    assert not several_paths(str(tmp_path / "nothing"))
    assert not several_paths("/dev/null")
