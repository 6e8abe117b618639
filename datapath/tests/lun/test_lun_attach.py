# SPDX-License-Identifier: GPL-3.0-or-later
"""Conformance of ATTACH, and of the tokens that it gives."""

from __future__ import annotations

import errno
import os

import pytest
from hosts import Host
from lun_app import BLOCKS, CHUNK, READ, SYNC, UNMAP, App, Refused, become, in_child, lun_row

from cxl_datapath.cxlflash import wire
from cxl_datapath.cxlflash.wire import BLOCK, Request, Service


class TestAttach:
    def test_it_gives_a_context_and_what_is_known_about_the_lun(self, app):
        answer = app.ask(Service.ATTACH, lun=b"flash0")
        assert answer.context
        assert (answer.last_lba, answer.depth, answer.chunk_blocks) == (BLOCKS - 1, 64, CHUNK)
        assert answer.return_flags == wire.APP_CLOSE_ADAP_FD
        assert len(answer.descriptors) == 3
        for fd in answer.descriptors:
            os.close(fd)

    def test_it_tells_the_size_of_a_block_and_of_the_longest_transfer(self, app):
        packet, fds = app.send(Request(Service.ATTACH, lun=b"flash0").pack())
        for fd in fds:
            os.close(fd)
        assert wire.ANSWER.unpack(packet)[7:9] == (BLOCK, wire.TRANSFER_BLOCKS)

    def test_the_wwid_names_the_lun_too(self, app, host):
        context = app.attach(lun=lun_row(host)["wwid"].encode())
        assert context.answer.last_lba == BLOCKS - 1

    @pytest.mark.parametrize("name", [b"", b"flash9", b"0" * 32, b"\xff\xfe", b"x" * 64])
    def test_a_lun_that_is_not_there(self, app, name):
        assert "no LUN" in app.refused(errno.ENODEV, Service.ATTACH, lun=name)

    @pytest.mark.parametrize("depth", [1, 3, 65, 512, 1 << 31])
    def test_a_depth_that_is_not_possible(self, app, depth):
        app.refused(errno.EINVAL, Service.ATTACH, lun=b"flash0", depth=depth)

    @pytest.mark.parametrize("depth", [2, 8, 256])
    def test_the_depth_is_what_was_asked_for(self, app, depth):
        assert app.direct(depth=depth).read(0)

    def test_a_new_context_has_no_number_yet(self, app):
        app.refused(errno.EINVAL, Service.ATTACH, lun=b"flash0", context=7)

    def test_contexts_of_one_process_are_different(self, app):
        first, second = app.attach(), app.attach()
        assert first.token != second.token
        assert first.bell != second.bell

    def test_reuse_tells_about_the_context_and_gives_no_descriptor(self, app):
        context = app.attach(depth=8)
        again = context.ask(Service.ATTACH, flags=wire.ATTACH_REUSE, lun=b"flash0")
        assert (again.context, again.depth, again.last_lba) == (context.token, 8, BLOCKS - 1)
        assert (again.descriptors, again.return_flags) == ([], 0)

    def test_reuse_of_a_context_that_is_not_there(self, app):
        app.refused(errno.EINVAL, Service.ATTACH, flags=wire.ATTACH_REUSE, lun=b"flash0", context=1)

    def test_reuse_on_another_lun(self, app):
        app.attach().refused(errno.EINVAL, Service.ATTACH, flags=wire.ATTACH_REUSE, lun=b"flash1")

    def test_reuse_does_not_change_the_context(self, app):
        context = app.attach()
        both = wire.ATTACH_REUSE | wire.ATTACH_READ_ONLY
        context.refused(errno.EINVAL, Service.ATTACH, flags=both, lun=b"flash0")
        context.refused(errno.EINVAL, Service.ATTACH, flags=wire.ATTACH_REUSE, lun=b"flash0", depth=8)

    def test_a_read_only_context_reads(self, app):
        context = app.direct(flags=wire.ATTACH_READ_ONLY)
        assert context.io(READ, 0, 1) == 0
        assert context.io(SYNC, 0, 0) == 0
        assert context.write(0, bytes(BLOCK)) == -errno.EROFS
        assert context.io(UNMAP, 0, 1) == -errno.EROFS

    def test_a_process_has_a_limit(self, app, host):
        host.call("lun.set", lun="flash0", client_contexts=2)
        try:
            first = app.attach()
            app.attach()
            assert "may have 2" in app.refused(errno.ENOSPC, Service.ATTACH, lun=b"flash0")
            assert in_child(lambda: App(host).attach().depth) == 64, "another process has its own"
            first.ask(Service.DETACH)
            app.attach()
        finally:
            host.call("lun.set", lun="flash0", client_contexts=64)

    def test_the_user_has_to_be_in_the_access_list(self, app, host):
        host.call("lun.set", lun="flash0", users=["nobody"])
        try:
            app.attach()  # root always may
            stranger = _as_user(12345, host)
            assert stranger.startswith("13: ")
            assert "access list" in stranger
            assert _as_user(65534, host) == "ok"
        finally:
            host.call("lun.set", lun="flash0", users=[])


def _as_user(uid: int, host: Host) -> str:
    if os.geteuid():
        pytest.skip("needs root to become somebody else")

    def attach() -> str:
        app = App(host)
        become(uid)
        try:
            app.attach()
        except Refused as refusal:
            return f"{refusal.errno}: {refusal.text}"
        return "ok"

    return in_child(attach)


def _calls(context, token=None):
    """Every service that takes a token, with it."""
    token = context.token if token is None else token
    return [
        (Service.ATTACH, {"flags": wire.ATTACH_REUSE, "lun": b"flash0", "context": token}),
        (Service.USER_DIRECT, {"context": token}),
        (Service.USER_VIRTUAL, {"context": token, "size": 1}),
        (Service.VLUN_RESIZE, {"context": token, "size": 1}),
        (Service.RELEASE, {"context": token}),
        (Service.VLUN_CLONE, {"context": token, "source": token}),
        (Service.VERIFY, {"context": token}),
        (Service.RECOVER_AFU, {"context": token}),
        (Service.DETACH, {"context": token}),
    ]


class TestTokens:
    @pytest.mark.parametrize("token", [1, (1 << 64) - 1])
    def test_a_token_that_was_never_given(self, app, token):
        for service, fields in _calls(None, token):
            app.refused(errno.EINVAL, service, **fields)

    def test_a_token_of_a_context_that_has_ended(self, app):
        context = app.attach()
        context.ask(Service.DETACH)
        for service, fields in _calls(context):
            app.refused(errno.EINVAL, service, **fields)

    def test_the_token_of_another_process(self, app, host):
        context = app.virtual(10)

        def steal():
            thief = App(host)
            for service, fields in _calls(context):
                thief.refused(errno.EINVAL, service, **fields)

        in_child(steal)
        assert context.read(0)

    def test_a_child_on_the_connection_of_its_parent_is_not_its_parent(self, app):
        context = app.virtual(10)

        def steal():
            for service, fields in _calls(context):
                app.refused(errno.EINVAL, service, **fields)

        in_child(steal)
        assert context.read(0)

    def test_the_token_works_over_every_connection_of_its_process(self, app, other):
        context = app.attach()
        other.ask(Service.USER_DIRECT, context=context.token)
        assert context.read(0)

    def test_the_end_of_a_connection_ends_no_context(self, host, app):
        first = App(host)
        context = first.direct()
        first._socket.close()
        assert context.read(0)
        app.ask(Service.DETACH, context=context.token)
        context.close()
