# SPDX-License-Identifier: GPL-3.0-or-later
"""Conformance of USER_DIRECT and USER_VIRTUAL, and of the modes that exclude each other."""

from __future__ import annotations

import errno
import os

import pytest
from lun_app import BLOCKS, CHUNK, MIB, READ, SYNC

from cxl_datapath.cxlflash import wire
from cxl_datapath.cxlflash.wire import BLOCK, Service


class TestDirect:
    def test_it_is_the_whole_lun(self, app):
        context = app.attach()
        answer = context.ask(Service.USER_DIRECT)
        assert (answer.handle, answer.last_lba) == (0, BLOCKS - 1)
        assert context.write(BLOCKS - 1, b"\x5a" * BLOCK) == 0
        assert context.io(READ, BLOCKS, 1) == -errno.ERANGE

    def test_what_it_wrote_is_on_the_medium(self, app, host):
        context = app.direct()
        data = os.urandom(3 * BLOCK)
        assert context.write(1000, data) == 0
        assert context.io(SYNC, 0, 0) == 0
        with (host.folder / "flash0.disk").open("rb") as file:
            file.seek(1000 * BLOCK)
            assert file.read(len(data)) == data

    def test_it_is_still_there_after_a_detach(self, app):
        data = os.urandom(BLOCK)
        first = app.direct()
        first.write(77, data)
        first.ask(Service.DETACH)
        assert app.direct().read(77) == data

    def test_several_contexts_share_it(self, app, other):
        first, second = app.direct(), other.direct()
        first.write(5, b"\x11" * BLOCK)
        assert second.read(5) == b"\x11" * BLOCK

    def test_a_context_can_have_several(self, app):
        context = app.direct()
        answer = context.ask(Service.USER_DIRECT)
        assert answer.handle == 1
        context.write(5, b"\x12" * BLOCK, handle=1)
        assert context.read(5, handle=0) == b"\x12" * BLOCK

    def test_it_has_no_size_of_its_own(self, app):
        assert "size of its LUN" in app.direct().refused(errno.EINVAL, Service.VLUN_RESIZE, size=1)

    def test_a_token_is_needed(self, app):
        app.refused(errno.EINVAL, Service.USER_DIRECT)


class TestVirtual:
    def test_its_size_is_zero_unless_it_is_given(self, app):
        context = app.attach()
        assert context.ask(Service.USER_VIRTUAL).last_lba == wire.NO_LBA
        assert context.io(READ, 0, 1) == -errno.ERANGE

    def test_its_size_is_what_was_asked_for(self, app):
        context = app.attach()
        assert context.ask(Service.USER_VIRTUAL, size=10).last_lba == 9
        assert context.read(9)
        assert context.io(READ, 10, 1) == -errno.ERANGE

    def test_it_reads_as_zeroes(self, app):
        direct = app.direct()
        for lba in range(0, BLOCKS, CHUNK):
            direct.write(lba, b"\xee" * BLOCK)
        direct.ask(Service.DETACH)
        context = app.virtual(3 * CHUNK)
        assert all(context.read(lba) == bytes(BLOCK) for lba in range(0, 3 * CHUNK, CHUNK))

    def test_nobody_reads_what_another_one_left(self, app):
        first = app.virtual(4 * CHUNK)
        for lba in range(0, 4 * CHUNK, 32):
            first.write(lba, b"\xcc" * (32 * BLOCK))
        first.ask(Service.DETACH)
        second = app.virtual(8 * CHUNK)
        assert all(second.read(lba, 32) == bytes(32 * BLOCK) for lba in range(0, 8 * CHUNK, 32))

    def test_two_never_touch(self, app, other):
        first, second = app.virtual(2 * CHUNK), other.virtual(2 * CHUNK)
        for lba in range(0, 2 * CHUNK, 16):
            first.write(lba, b"\x01" * (16 * BLOCK))
            second.write(lba, b"\x02" * (16 * BLOCK))
        assert all(first.read(lba, 16) == b"\x01" * (16 * BLOCK) for lba in range(0, 2 * CHUNK, 16))
        assert all(second.read(lba, 16) == b"\x02" * (16 * BLOCK) for lba in range(0, 2 * CHUNK, 16))

    def test_several_in_one_context(self, app):
        context = app.attach()
        for number in range(3):
            assert context.ask(Service.USER_VIRTUAL, size=8).handle == number
            context.write(0, bytes([number + 1]) * BLOCK, handle=number)
        assert [context.read(0, handle=number)[0] for number in range(3)] == [1, 2, 3]

    def test_a_context_has_sixteen_handles(self, app):
        context = app.attach()
        for number in range(wire.HANDLES_MAX):
            assert context.ask(Service.USER_VIRTUAL, size=1).handle == number
        assert "16 handles" in context.refused(errno.ENOSPC, Service.USER_VIRTUAL, size=1)
        context.ask(Service.RELEASE, handle=7)
        assert context.ask(Service.USER_VIRTUAL, size=1).handle == 7

    def test_together_they_fill_the_lun(self, app):
        contexts = [app.virtual(BLOCKS // 4) for _ in range(4)]
        assert contexts[3].read(BLOCKS // 4 - 1)
        app.attach().refused(errno.ENOSPC, Service.USER_VIRTUAL, size=1)

    @pytest.mark.parametrize("size", [BLOCKS + 1, 1 << 40, (1 << 64) - 1])
    def test_more_than_there_is(self, app, size):
        context = app.attach()
        assert "chunks are needed" in context.refused(errno.ENOSPC, Service.USER_VIRTUAL, size=size)
        assert context.ask(Service.USER_VIRTUAL, size=BLOCKS).last_lba == BLOCKS - 1

    def test_a_user_has_a_limit(self, app, host):
        host.call("lun.set", lun="flash0", client_size=10 * MIB)
        try:
            context = app.virtual(2000)
            assert "2560 blocks" in context.refused(errno.EDQUOT, Service.USER_VIRTUAL, size=561)
            assert context.ask(Service.USER_VIRTUAL, size=560).last_lba == 559
            context.refused(errno.EDQUOT, Service.VLUN_RESIZE, size=2001)
            context.ask(Service.VLUN_RESIZE, size=1000)
            context.ask(Service.VLUN_RESIZE, size=2000)
        finally:
            host.call("lun.set", lun="flash0", client_size=0)

    def test_a_limit_below_a_block_is_one(self, app, host):
        host.call("lun.set", lun="flash0", client_size=BLOCK - 1)
        try:
            assert "0 blocks" in app.attach().refused(errno.EDQUOT, Service.USER_VIRTUAL, size=1)
        finally:
            host.call("lun.set", lun="flash0", client_size=0)

    def test_no_path_but_one_leads_to_it(self, app):
        assert not app.attach().ask(Service.USER_VIRTUAL, size=1).return_flags & wire.ALL_PORTS_ACTIVE


class TestModes:
    def test_no_virtual_lun_beside_a_direct_user(self, app, other):
        app.direct()
        assert "other mode" in other.attach().refused(errno.EBUSY, Service.USER_VIRTUAL, size=1)

    def test_no_direct_user_beside_a_virtual_lun(self, app, other):
        app.virtual(0)
        assert "other mode" in other.attach().refused(errno.EBUSY, Service.USER_DIRECT)

    def test_not_in_one_context_either(self, app):
        app.direct().refused(errno.EBUSY, Service.USER_VIRTUAL)

    def test_the_mode_ends_with_the_last_handle(self, app, other):
        first, second = app.direct(), other.direct()
        first.ask(Service.RELEASE)
        first.refused(errno.EBUSY, Service.USER_VIRTUAL, size=1)
        second.ask(Service.RELEASE)
        first.ask(Service.USER_VIRTUAL, size=1)

    def test_an_attached_context_without_handles_takes_no_side(self, app, other):
        app.attach()
        other.virtual(1)

    def test_other_luns_have_their_own(self, app, other):
        app.direct()
        other.virtual(1, lun=b"flash1")
