# SPDX-License-Identifier: GPL-3.0-or-later
"""Conformance of VLUN_RESIZE, RELEASE and DETACH."""

from __future__ import annotations

import errno

import pytest
from lun_app import BLOCKS, CHUNK, CHUNKS, MIB, READ, WRITE, lun_row

from cxl_datapath.cxlflash import wire
from cxl_datapath.cxlflash.wire import BLOCK, Service


class TestResize:
    def test_it_grows_and_returns_the_last_lba(self, app):
        context = app.virtual(0)
        assert context.ask(Service.VLUN_RESIZE, size=1).last_lba == 0
        assert context.ask(Service.VLUN_RESIZE, size=3 * CHUNK + 1).last_lba == 3 * CHUNK
        assert context.read(3 * CHUNK) == bytes(BLOCK)

    def test_what_was_there_stays(self, app):
        context = app.virtual(CHUNK)
        context.write(CHUNK - 1, b"\x33" * BLOCK)
        context.ask(Service.VLUN_RESIZE, size=5 * CHUNK)
        context.ask(Service.VLUN_RESIZE, size=CHUNK)
        assert context.read(CHUNK - 1) == b"\x33" * BLOCK

    def test_it_shrinks(self, app, host):
        context = app.virtual(4 * CHUNK)
        assert context.ask(Service.VLUN_RESIZE, size=CHUNK + 1).last_lba == CHUNK
        assert context.io(READ, CHUNK + 1, 1) == -errno.ERANGE
        assert lun_row(host)["free"] == (CHUNKS - 2) * MIB

    def test_to_nothing(self, app, host):
        context = app.virtual(4 * CHUNK)
        assert context.ask(Service.VLUN_RESIZE, size=0).last_lba == wire.NO_LBA
        assert lun_row(host)["free"] == CHUNKS * MIB

    def test_to_the_size_that_it_has(self, app):
        context = app.virtual(9)
        context.write(8, b"\x44" * BLOCK)
        assert context.ask(Service.VLUN_RESIZE, size=9).last_lba == 8
        assert context.read(8) == b"\x44" * BLOCK

    def test_what_was_cut_off_reads_as_zeroes_when_it_is_back(self, app):
        context = app.virtual(2 * CHUNK)
        for lba in range(2 * CHUNK):
            context.write(lba, b"\x55" * BLOCK)
        context.ask(Service.VLUN_RESIZE, size=10)
        context.ask(Service.VLUN_RESIZE, size=2 * CHUNK)
        assert context.read(9) == b"\x55" * BLOCK
        assert all(context.read(lba) == bytes(BLOCK) for lba in (10, CHUNK - 1, CHUNK, 2 * CHUNK - 1))

    def test_a_full_lun_changes_nothing(self, app, other):
        context = app.virtual(BLOCKS - CHUNK)
        rival = other.virtual(1)
        rival.write(0, b"\x66" * BLOCK)
        rival.refused(errno.ENOSPC, Service.VLUN_RESIZE, size=CHUNK + 1)
        context.refused(errno.ENOSPC, Service.VLUN_RESIZE, size=BLOCKS)
        assert rival.ask(Service.VERIFY).last_lba == 0
        assert rival.read(0) == b"\x66" * BLOCK
        assert context.read(BLOCKS - CHUNK - 1)

    def test_what_one_gives_back_another_one_gets(self, app, other):
        first, second = app.virtual(BLOCKS), other.virtual(0)
        second.refused(errno.ENOSPC, Service.VLUN_RESIZE, size=1)
        first.ask(Service.VLUN_RESIZE, size=BLOCKS - CHUNK)
        assert second.ask(Service.VLUN_RESIZE, size=CHUNK).last_lba == CHUNK - 1

    def test_scrub_zeroes_what_is_given_back_at_once(self, app, host):
        context = app.virtual(CHUNK)
        mark = b"secret to be scrubbed" + bytes(BLOCK - 21)
        context.write(100, mark)
        disk = host.folder / "flash0.disk"
        context.ask(Service.VLUN_RESIZE, size=0, flags=wire.SCRUB)
        assert mark[:21] not in disk.read_bytes()

    @pytest.mark.parametrize("handle", [1, 15, 16, (1 << 32) - 1])
    def test_a_handle_that_is_not_open(self, app, handle):
        app.virtual(1).refused(errno.EINVAL, Service.VLUN_RESIZE, handle=handle, size=2)

    def test_a_read_only_context_may_have_a_size(self, app):
        context = app.virtual(1, flags=wire.ATTACH_READ_ONLY)
        assert context.ask(Service.VLUN_RESIZE, size=2).last_lba == 1


class TestRelease:
    def test_the_handle_is_closed(self, app):
        context = app.direct()
        context.ask(Service.RELEASE)
        assert context.io(READ, 0, 1) == -errno.EBADF
        context.refused(errno.EINVAL, Service.RELEASE)

    def test_a_virtual_lun_gives_its_space_back(self, app, host):
        context = app.virtual(10 * CHUNK)
        context.ask(Service.RELEASE)
        assert lun_row(host)["free"] == CHUNKS * MIB

    def test_the_others_of_the_context_stay(self, app):
        context = app.virtual(1)
        context.ask(Service.USER_VIRTUAL, size=2)
        context.ask(Service.RELEASE, handle=0)
        assert context.read(1, handle=1)

    @pytest.mark.parametrize("handle", [1, 16, (1 << 32) - 1])
    def test_a_handle_that_is_not_open(self, app, handle):
        app.virtual(1).refused(errno.EINVAL, Service.RELEASE, handle=handle)

    def test_with_scrub(self, app, host):
        context = app.virtual(CHUNK)
        context.write(0, b"release scrubs this" + bytes(BLOCK - 19))
        context.ask(Service.RELEASE, flags=wire.SCRUB)
        assert b"release scrubs this" not in (host.folder / "flash0.disk").read_bytes()

    def test_detach_ends_every_handle(self, app, host):
        context = app.virtual(CHUNK)
        context.ask(Service.USER_VIRTUAL, size=CHUNK)
        context.ask(Service.DETACH)
        row = lun_row(host)
        assert (row["contexts"], row["handles"], row["free"]) == (0, 0, CHUNKS * MIB)

    def test_detach_twice(self, app):
        context = app.attach()
        context.ask(Service.DETACH)
        context.refused(errno.EINVAL, Service.DETACH)

    def test_detach_with_scrub(self, app, host):
        context = app.virtual(CHUNK)
        context.write(0, b"detach scrubs this" + bytes(BLOCK - 18))
        context.ask(Service.DETACH, flags=wire.SCRUB)
        assert b"detach scrubs this" not in (host.folder / "flash0.disk").read_bytes()

    def test_nobody_listens_to_a_ring_after_its_detach(self, app):
        context = app.direct()
        assert context.read(0)
        context.ask(Service.DETACH)
        context.send(WRITE, 0, 1)
        assert app.direct().read(0) is not None
        assert context.master[wire.RINGS + wire.LINE : wire.RINGS + wire.LINE + 8] == bytes(8)
