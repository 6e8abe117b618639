# SPDX-License-Identifier: GPL-3.0-or-later
"""Who holds a device, on a made-up /proc and on the real one."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from ansible.module_utils.cxl_lab.device_users import users_of


def test_open_mapped_and_mounted(tmp_path: Path):
    for pid, comm in [("7", "reader"), ("12", "mapper"), ("30", "idle")]:
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "comm").write_text(f"{comm}\n")
        (tmp_path / pid / "maps").write_text("")
    (tmp_path / "7" / "fd" / "3").symlink_to("/dev/dax0.0")
    (tmp_path / "12" / "maps").write_text("7f00-7f20 rw-s 00000000 00:06 421                /dev/dax0.0\n")
    (tmp_path / "30" / "fd" / "3").symlink_to("/dev/dax0.01")
    (tmp_path / "mounts").write_text("/dev/dax0.0 /mnt/x xfs rw 0 0\n/dev/vda / ext4 rw 0 0\n")
    assert users_of("/dev/dax0.0", tmp_path) == ["mounted at /mnt/x", "process 7 (reader)", "process 12 (mapper)"]
    assert users_of("/dev/dax1.0", tmp_path) == []


def test_this_very_process(tmp_path: Path):
    path = tmp_path / "memory"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 4096)
    me = f"process {os.getpid()} ("
    assert any(user.startswith(me) for user in users_of(str(path)))
    mapping.close()
    assert users_of(str(path)) == []
