# SPDX-License-Identifier: GPL-3.0-or-later
"""Conformance of VERIFY, and of MANAGE_LUN with its two modes."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest
from lun_app import BLOCKS, CHUNK, MIB, READ, App, become, in_child, lun_row, needs_file

from cxl_datapath.cxlflash import wire
from cxl_datapath.cxlflash.wire import BLOCK, Service
from cxl_datapath.errors import Code

CAPACITY_CHANGED = bytes([0x70, 0, 6] + [0] * 9 + [0x2A, 9])


class TestVerify:
    def test_it_tells_the_last_lba_of_a_handle(self, app):
        context = app.virtual(10)
        context.ask(Service.USER_VIRTUAL, size=20)
        assert [context.ask(Service.VERIFY, handle=number).last_lba for number in (0, 1)] == [9, 19]

    def test_a_handle_that_is_not_open(self, app):
        app.attach().refused(errno.EINVAL, Service.VERIFY)

    def test_sense_without_its_flag(self, app):
        app.direct().refused(errno.EINVAL, Service.VERIFY, sense=CAPACITY_CHANGED)

    @pytest.mark.parametrize("sense", [b"", b"\x01", b"\x74" + bytes(20)])
    def test_what_is_no_sense_data(self, app, sense):
        app.direct().refused(errno.EINVAL, Service.VERIFY, flags=wire.HINT_SENSE, sense=sense)

    @pytest.mark.parametrize(
        "sense", [bytes([0x70, 0, 4] + [0] * 11), bytes([0x72, 3, 0x11, 0]), bytes([0x70, 0, 6] + [0] * 9 + [0x28, 0])]
    )
    def test_sense_of_a_broken_device(self, app, sense):
        app.direct().refused(errno.EIO, Service.VERIFY, flags=wire.HINT_SENSE, sense=sense)

    @pytest.mark.parametrize("key", [0, 1, 2])
    def test_sense_that_says_nothing_changed(self, app, key):
        answer = app.direct().ask(Service.VERIFY, flags=wire.HINT_SENSE, sense=bytes([0x70, 0, key, 1]))
        assert answer.last_lba == BLOCKS - 1

    @needs_file
    @pytest.mark.parametrize("sense", [CAPACITY_CHANGED, bytes([0x70, 0, 6] + [0] * 9 + [0x29, 1]), bytes([0xF2, 6, 0x3F, 0x0E])])
    def test_a_lun_that_grew(self, app, host, sense):
        disk = host.folder / "flash0.disk"
        context = app.direct()
        os.truncate(disk, 80 * MIB)
        try:
            assert context.ask(Service.VERIFY).last_lba == BLOCKS - 1, "without a hint nobody looks"
            assert context.ask(Service.VERIFY, flags=wire.HINT_SENSE, sense=sense).last_lba == 80 * MIB // BLOCK - 1
            assert context.write(80 * MIB // BLOCK - 1, b"\x01" * BLOCK) == 0
            again = context.ask(Service.ATTACH, flags=wire.ATTACH_REUSE, lun=b"flash0")
            assert again.last_lba == 80 * MIB // BLOCK - 1
        finally:
            os.truncate(disk, 64 * MIB)
            assert context.ask(Service.VERIFY, flags=wire.HINT_SENSE, sense=sense).last_lba == BLOCKS - 1
        assert context.io(READ, BLOCKS, 1) == -errno.ERANGE

    @needs_file
    def test_a_lun_that_shrank_under_a_virtual_one(self, app, host):
        disk = host.folder / "flash0.disk"
        context = app.virtual(BLOCKS)
        os.truncate(disk, 32 * MIB)
        try:
            context.ask(Service.VERIFY, flags=wire.HINT_SENSE, sense=CAPACITY_CHANGED)
            results = {context.io(READ, lba, 1) for lba in range(0, BLOCKS, CHUNK)}
            assert results == {0, -errno.EIO}
        finally:
            os.truncate(disk, 64 * MIB)
            context.ask(Service.VERIFY, flags=wire.HINT_SENSE, sense=CAPACITY_CHANGED)
        assert context.read(BLOCKS - 1)


class TestManage:
    @pytest.mark.parametrize("flags", [0, wire.ENABLE_SUPERPIPE | wire.DISABLE_SUPERPIPE])
    def test_one_of_two(self, app, flags):
        app.refused(errno.EINVAL, Service.MANAGE_LUN, flags=flags, lun=b"flash1")

    def test_a_lun_that_is_not_there(self, app):
        app.refused(errno.ENODEV, Service.MANAGE_LUN, flags=wire.ENABLE_SUPERPIPE, lun=b"flash9")

    def test_not_while_it_is_used(self, app):
        app.attach(lun=b"flash1")
        assert "context" in app.refused(errno.EBUSY, Service.MANAGE_LUN, flags=wire.DISABLE_SUPERPIPE, lun=b"flash1")

    def test_a_legacy_lun_is_not_for_user_space_and_free_for_others(self, app, host):
        disk = str(host.folder / "flash1.disk")
        app.ask(Service.MANAGE_LUN, flags=wire.DISABLE_SUPERPIPE, lun=b"flash1")
        try:
            assert "legacy" in app.refused(errno.EBUSY, Service.ATTACH, lun=b"flash1")
            assert (lun_row(host, "flash1")["mode"], lun_row(host, "flash1")["state"]) == ("legacy", "stopped")
            with _locked(disk):
                app.refused(errno.EBUSY, Service.MANAGE_LUN, flags=wire.ENABLE_SUPERPIPE, lun=b"flash1")
                assert lun_row(host, "flash1")["mode"] == "legacy"
        finally:
            answer = app.ask(Service.MANAGE_LUN, flags=wire.ENABLE_SUPERPIPE, lun=b"flash1")
        assert answer.last_lba == 8 * MIB // BLOCK - 1
        assert app.direct(lun=b"flash1").read(0)

    def test_superpipe_keeps_others_out(self, host):
        with pytest.raises(BlockingIOError), _locked(str(host.folder / "flash1.disk")):
            pass

    def test_a_backend_of_this_host_is_no_lun(self, host, tmp_path):
        memory, disk = tmp_path / "memory", tmp_path / "disk"
        for path, size in ((memory, 64 * MIB), (disk, 8 * MIB)):
            path.touch()
            os.truncate(path, size)
        host.call("cbd.transport.format", memory=str(memory), name="pool0", ring_depth=16, lease_ms=2500)
        host.call("cbd.transport.register", memory=str(memory))
        host.call("cbd.backend.start", transport="pool0", path=str(disk))
        assert "is backend 0 of transport pool0" in str(host.refuse(Code.BUSY, "lun.create", path=str(disk), name="both"))
        host.call("cbd.backend.stop", transport="pool0", id=0)
        host.call("lun.create", path=str(disk), name="both")
        assert "lock" in str(host.refuse(Code.BUSY, "cbd.backend.start", transport="pool0", path=str(disk)))
        host.call("lun.set", lun="both", mode="legacy")
        host.call("cbd.backend.start", transport="pool0", path=str(disk))
        App(host).refused(errno.EBUSY, Service.MANAGE_LUN, flags=wire.ENABLE_SUPERPIPE, lun=b"both")
        host.call("cbd.backend.stop", transport="pool0", id=0)
        host.call("cbd.transport.unregister", transport="pool0")
        host.call("lun.remove", lun="both")

    def test_to_what_it_is_already(self, app):
        app.attach(lun=b"flash1")
        app.ask(Service.MANAGE_LUN, flags=wire.ENABLE_SUPERPIPE, lun=b"flash1")

    def test_it_is_for_root(self, app, host):
        if os.geteuid():
            pytest.skip("needs root to become somebody else")

        def switch():
            mine = App(host)
            become(12345)
            mine.refused(errno.EPERM, Service.MANAGE_LUN, flags=wire.DISABLE_SUPERPIPE, lun=b"flash1")

        in_child(switch)


class _locked:
    """What a backend of another daemon does."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
