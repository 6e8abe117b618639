# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend's medium: real files, and a real loop device where the machine lets us have one."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from mishaps import loop_device as looped

from cxl_datapath.cbd.layout import BACKEND_READ_ONLY
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.workers.presence import Presence
from cxl_datapath.workers.store import Store, open_store


def make(path: Path, size: int) -> str:
    path.write_bytes(b"")
    os.truncate(path, size)
    return str(path)


def refuse(path: str, read_only: bool = False) -> DatapathError:
    with pytest.raises(DatapathError) as caught:
        open_store(path, read_only)
    assert caught.value.object == path
    return caught.value


def close(store: Store) -> None:
    os.close(store.fd)


def test_a_file_keeps_its_bytes_and_size_when_it_is_opened(tmp_path):
    path = make(tmp_path / "disk", 1 << 20)
    Path(path).write_bytes(b"precious".ljust(1 << 20, b"\0"))
    store = open_store(path, False)
    assert (store.capacity, store.is_block, store.read_only) == (1 << 20, False, False)
    assert store.block_size in (512, 4096)
    assert os.fstat(store.fd).st_size == 1 << 20
    close(store)
    assert Path(path).read_bytes()[:8] == b"precious"


def test_a_file_that_only_512_divides(tmp_path):
    store = open_store(make(tmp_path / "disk", 4096 + 512), False)
    assert (store.block_size, store.capacity) == (512, 4608)
    close(store)


@pytest.mark.parametrize("size", [0, 100, 4097])
def test_sizes_that_are_no_whole_blocks(tmp_path, size):
    assert refuse(make(tmp_path / "disk", size)).code == Code.INVALID


def test_a_file_that_a_loop_device_shows_is_not_written_beside_it(tmp_path):
    """It may be mounted: two writers of one medium."""
    path = make(tmp_path / "disk", 1 << 20)
    with looped(Path(path)) as loop:
        error = refuse(path)
        assert (error.code, loop in error.message) == (Code.BUSY, True)
        close(open_store(path, True))
        close(open_store(loop, False))
    close(open_store(path, False))


def test_a_disk_that_was_removed_is_noticed(tmp_path):
    number = os.makedev(8, 16)
    entry = tmp_path / "dev/block/8:16"
    entry.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fstat", lambda _: SimpleNamespace(st_mode=stat.S_IFBLK, st_rdev=number))
        presence = Presence("/dev/sdb", 3, tmp_path)
        elsewhere = Presence("/dev/sdb", 3, tmp_path / "nothing is mounted here")
    presence.check()
    entry.rmdir()
    with pytest.raises(DatapathError) as caught:
        presence.check()
    assert (caught.value.code, caught.value.object) == (Code.NOT_READY, "/dev/sdb")
    elsewhere.check()


def test_files_and_pools_are_always_there(tmp_path):
    with Path(make(tmp_path / "disk", 4096)).open("rb") as file:
        for fd in (file.fileno(), -1):
            Presence("disk", fd, tmp_path).check()


def test_what_does_not_exist_or_is_no_medium(tmp_path):
    assert refuse(str(tmp_path / "missing")).code == Code.NOT_FOUND
    assert refuse(str(tmp_path)).code == Code.INVALID
    assert refuse("/dev/null").code == Code.INVALID


def test_a_file_has_one_writer(tmp_path):
    path = make(tmp_path / "disk", 8192)
    store = open_store(path, False)
    assert refuse(path).code == Code.BUSY
    assert refuse(path, read_only=True).code == Code.BUSY
    close(store)
    first, second = open_store(path, True), open_store(path, True)
    assert first.flags & BACKEND_READ_ONLY
    assert not first.discard
    assert not first.write_zeroes
    assert refuse(path).code == Code.BUSY
    close(first)
    close(second)
    close(open_store(path, False))


@pytest.fixture
def loop_device(tmp_path):
    backing = make(tmp_path / "backing", 4 << 20)
    made = subprocess.run(["losetup", "--find", "--show", backing], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    yield made.stdout.strip()
    subprocess.run(["blockdev", "--setrw", made.stdout.strip()], check=True)  # the flag would stay with the device
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_block_device_is_held_exclusively(loop_device):
    store = open_store(loop_device, False)
    assert (store.is_block, store.capacity, store.block_size) == (True, 4 << 20, 512)
    assert store.write_zeroes
    error = refuse(loop_device)
    assert (error.code, "mounted or held" in error.hint) == (Code.BUSY, True)
    close(store)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_read_only_block_device_says_so(loop_device):
    subprocess.run(["blockdev", "--setro", loop_device], check=True)
    assert refuse(loop_device).code == Code.DENIED
    close(open_store(loop_device, True))
