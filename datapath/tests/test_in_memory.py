# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as memory, on the file systems and devices of this machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from cxl_datapath.core import ENGINE_AUTO, ENGINE_INLINE
from cxl_datapath.workers import backend
from cxl_datapath.workers.in_memory import block_device_in_memory, file_in_memory
from cxl_datapath.workers.store import open_store


def disks() -> list[Path]:
    return [disk for disk in Path("/sys/block").iterdir() if (disk / "dev").exists()]


def test_a_file_on_tmpfs_is_and_the_store_says_so():
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.truncate(1 << 20)
        assert file_in_memory(os.fstat(file.fileno()).st_dev)
        store = open_store(file.name, True)
        assert store.in_memory
        os.close(store.fd)


def test_a_file_on_a_disk_is_not():
    here = Path(__file__).stat().st_dev
    if os.major(here) == 0:
        pytest.skip("the sources are on a file system without a device")
    assert not file_in_memory(here)


def test_ram_disks_are_and_others_are_not():
    if not disks():
        pytest.skip("no block devices here")
    for disk in disks():
        number = os.makedev(*map(int, (disk / "dev").read_text().split(":")))
        dax = disk / "queue" / "dax"
        expected = disk.name.startswith("ram") or (dax.exists() and dax.read_text().strip() == "1")
        assert block_device_in_memory(number) == expected, disk.name


def test_what_does_not_exist_is_not():
    assert not block_device_in_memory(os.makedev(4095, 1))
    assert not file_in_memory(os.makedev(4095, 1))


@pytest.mark.parametrize(("kind", "engine"), [("devdax", ENGINE_INLINE), ("file", ENGINE_INLINE), ("window", ENGINE_AUTO)])
def test_nothing_is_read_straight_into_memory_without_pages(monkeypatch, kind, engine):
    """O_DIRECT into a mapping of /dev/mem ends with EFAULT: a blkdev over dynamic capacity could be written and not be read."""
    monkeypatch.setattr(backend, "fence_line_off", lambda *_: 0)
    config = SimpleNamespace(transport=SimpleNamespace(host_id=0, host_epoch=1, kind=kind))
    store = SimpleNamespace(fd=3, is_block=True, read_only=False, in_memory=True)
    entry = SimpleNamespace(logical_block_size=512, capacity=1 << 20)
    conf = backend._engine_conf(config, store, SimpleNamespace(registry=None), entry)
    assert conf.engine == engine
