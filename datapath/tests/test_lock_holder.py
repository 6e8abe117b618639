# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is in the way is named."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from cxl_datapath.backing import held
from cxl_datapath.errors import DatapathError
from cxl_datapath.lock_holder import lock_holder
from cxl_datapath.memory import resolve
from cxl_datapath.workers.store import open_store

UUID = "43ec8f72-ad16-45a0-9bc5-1c13b2539c2e"
ME = f"(process {os.getpid()})"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    return path


def test_a_process_is_named_by_its_number_and_a_worker_by_what_it_serves(disk: Path) -> None:
    with disk.open("rb") as file:
        assert lock_holder(file.fileno()) == "another process", "nobody has it any more"
        fcntl.flock(file, fcntl.LOCK_EX)
        with disk.open("rb") as other:
            assert lock_holder(other.fileno()) == f"{Path('/proc/self/comm').read_text().strip()} {ME}"
            runtime = disk.parent / "node1"
            runtime.mkdir()
            with (runtime / f"backend-{UUID}-3.lock").open("wb"):
                assert lock_holder(other.fileno()) == f"backend 3 of the daemon in {runtime} {ME}"


def test_a_lock_of_which_the_kernel_tells_nothing_is_somebodys(disk: Path, tmp_path: Path) -> None:
    found = disk.stat()
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with disk.open("rb") as opened:
        for lines in (
            "",
            f"1: OFDLCK ADVISORY WRITE -1 {file} 0 EOF\n",
            f"1: -> FLOCK ADVISORY WRITE 1 {file} 0 EOF\n",
            "what\n",
        ):
            (tmp_path / "locks").write_text(lines)
            assert lock_holder(opened.fileno(), tmp_path) == "another process"
        (tmp_path / "locks").unlink()
        assert lock_holder(opened.fileno(), tmp_path) == "another process"


def test_who_is_refused_a_file_is_told_by_whom(disk: Path) -> None:
    with disk.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DatapathError, match=rf"is locked by .* \(process {os.getpid()}\)"):
            open_store(str(disk), False)
        with pytest.raises(DatapathError, match=rf"is locked by .* \(process {os.getpid()}\)"), held(resolve(str(disk))):
            pass
