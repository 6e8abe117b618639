# SPDX-License-Identifier: GPL-3.0-or-later
"""Conformance of the ten services, one rule per case: a real daemon, a file as LUN, applications made by hand."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, wait_until
from lun_app import MIB, READ, SYNC, UNMAP, WRITE, App, Refused, in_child, living, lun_row, make_lun, needs_file, wait_unused

from cxl_datapath.cxlflash import wire
from cxl_datapath.cxlflash.wire import BLOCK, Request, Service

BLOCKS = 64 * MIB // BLOCK
CHUNK = 256  # blocks
CHUNKS = BLOCKS // CHUNK


@pytest.fixture(scope="module")
def host(node: Host) -> Host:
    make_lun(node)
    make_lun(node, "flash1", 8 * MIB)
    return node


@pytest.fixture
def app(host: Host) -> Iterator[App]:
    made = App(host)
    yield made
    made.close()
    wait_unused(host)
    wait_unused(host, "flash1")
    assert lun_row(host)["free"] == 64 * MIB, "nothing is lost"


@pytest.fixture
def other(host: Host, app: App) -> Iterator[App]:
    """Another connection of this process."""
    made = App(host)
    yield made
    made.close()


def descriptors(pid: int) -> int:
    """How many the process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


# ---- packets -------------------------------------------------------------------------------------------------------------


class TestPackets:
    @pytest.mark.parametrize("version", [0, 2, 65535])
    def test_an_unknown_version_is_invalid(self, app, version):
        assert f"version {version}" in app.refused(errno.EINVAL, Service.ATTACH, lun=b"flash0", version=version)

    @pytest.mark.parametrize("service", [0, 11, 65535])
    def test_an_unknown_service_is_invalid(self, app, service):
        packet, fds = app.send(Request(service).pack())
        assert (wire.Answer.unpack(packet).error, fds) == (errno.EINVAL, [])

    @pytest.mark.parametrize("service", list(Service), ids=lambda service: service.name)
    def test_an_unknown_flag_is_invalid(self, app, service):
        assert "flags 0x80000000" in app.refused(errno.EINVAL, service, flags=1 << 31)

    @pytest.mark.parametrize(
        ("service", "field", "value"),
        [
            (Service.ATTACH, "size", 1),
            (Service.USER_DIRECT, "size", 1),
            (Service.USER_VIRTUAL, "handle", 1),
            (Service.VLUN_RESIZE, "lun", b"flash0"),
            (Service.RELEASE, "size", 1),
            (Service.DETACH, "handle", 1),
            (Service.VLUN_CLONE, "depth", 4),
            (Service.VERIFY, "source", 1),
            (Service.RECOVER_AFU, "sense", b"\x70"),
            (Service.MANAGE_LUN, "context", 1),
        ],
        ids=lambda value: value.name if isinstance(value, Service) else None,
    )
    def test_a_field_that_the_service_does_not_use_has_to_be_zero(self, app, service, field, value):
        assert field in app.refused(errno.EINVAL, service, **{field: value})

    @pytest.mark.parametrize("length", [1, 135, 137, 4000])
    def test_a_packet_of_another_length_is_invalid(self, app, length):
        packet, _ = app.send(b"\1" * length)
        assert wire.Answer.unpack(packet).error == errno.EINVAL
        app.attach()

    def test_descriptors_that_a_client_sends_are_closed(self, app, host):
        before = descriptors(host.pid)
        for _ in range(20):
            socket.send_fds(app._socket, [Request(99).pack()], [0, 1, 2])
            app._socket.recv(4096)
        assert descriptors(host.pid) == before

    def test_the_socket_is_for_its_owner(self, host):
        assert (host.runtime / "lun.sock").stat().st_mode & 0o777 == 0o600

    def test_a_client_that_never_reads_its_answers_holds_nobody_up(self, app, host):
        silent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        silent.connect(str(host.runtime / "lun.sock"))
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            for _ in range(100000):
                silent.send(Request(99).pack())
        app.attach()
        silent.close()


# ---- attach --------------------------------------------------------------------------------------------------------------


class TestAttach:
    def test_it_gives_a_context_and_what_is_known_about_the_lun(self, app):
        answer = app.ask(Service.ATTACH, lun=b"flash0")
        assert answer.context
        assert (answer.last_lba, answer.depth, answer.chunk_blocks) == (BLOCKS - 1, 64, CHUNK)
        assert answer.return_flags == wire.APP_CLOSE_ADAP_FD
        assert len(answer.descriptors) == 3
        for fd in answer.descriptors:
            os.close(fd)

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
        app = App(host)  # the socket is root's alone: its access is another test
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        try:
            app.attach()
        except Refused as refusal:
            return f"{refusal.errno}: {refusal.text}"
        return "ok"

    return in_child(attach)


# ---- tokens --------------------------------------------------------------------------------------------------------------


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


# ---- what is mapped ------------------------------------------------------------------------------------------------------


class TestAreas:
    @pytest.fixture
    def given(self, app):
        answer = app.ask(Service.ATTACH, lun=b"flash0", depth=8)
        yield answer
        for fd in answer.descriptors:
            os.close(fd)

    def test_the_user_area_can_be_written(self, given):
        with mmap.mmap(given.descriptors[1], wire.area_bytes(8)) as area:
            area[100] = 1

    def test_the_master_area_cannot_be_mapped_writable(self, given):
        with pytest.raises(PermissionError):
            mmap.mmap(given.descriptors[2], wire.area_bytes(8))
        with mmap.mmap(given.descriptors[2], wire.area_bytes(8), prot=mmap.PROT_READ) as area:
            assert area[:8] == bytes(8)

    def test_not_even_by_opening_it_again(self, given):
        fd = os.open(f"/proc/self/fd/{given.descriptors[2]}", os.O_RDWR)
        try:
            with pytest.raises(PermissionError):
                mmap.mmap(fd, wire.area_bytes(8))
            with pytest.raises(PermissionError):
                os.pwrite(fd, b"x", 0)
        finally:
            os.close(fd)

    @pytest.mark.parametrize("which", [1, 2])
    @pytest.mark.parametrize("size", [0, 4096, wire.area_bytes(16)])
    def test_nobody_can_change_the_size_of_an_area(self, given, which, size):
        with pytest.raises(PermissionError):
            os.ftruncate(given.descriptors[which], size)


# ---- direct --------------------------------------------------------------------------------------------------------------


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


# ---- virtual -------------------------------------------------------------------------------------------------------------


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

    def test_no_path_but_one_leads_to_it(self, app):
        assert not app.attach().ask(Service.USER_VIRTUAL, size=1).return_flags & wire.ALL_PORTS_ACTIVE


# ---- modes ---------------------------------------------------------------------------------------------------------------


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


# ---- resize --------------------------------------------------------------------------------------------------------------


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


# ---- release and detach --------------------------------------------------------------------------------------------------


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


# ---- the end of applications ---------------------------------------------------------------------------------------------


class TestEnds:
    def test_closing_the_descriptor_ends_the_context(self, app, host):
        app.virtual(CHUNK).close()
        wait_unused(host)
        assert lun_row(host)["free"] == CHUNKS * MIB

    def test_closing_one_of_two_ends_that_one(self, app, host):
        first, second = app.virtual(1), app.virtual(1)
        first.close()
        wait_until(lambda: lun_row(host)["contexts"] == 1, "the first ends")
        assert second.read(0)

    def test_exit_without_cleaning_up(self, app, host):
        in_child(lambda: App(host).virtual(CHUNK).token)
        wait_unused(host)

    def test_kill_without_cleaning_up(self, app, host):
        with living(lambda: [App(host).virtual(CHUNK) for _ in range(3)]) as child:
            assert lun_row(host)["contexts"] == 3
            child.kill()
            wait_unused(host)

    def test_kill_while_commands_are_in_flight(self, app, host):
        def flood():
            context = App(host).virtual(CHUNK, depth=64)
            for tag in range(64):
                context.send(WRITE, tag, 1, tag=tag)
            return context

        for _ in range(5):
            with living(flood) as child:
                child.kill()
        wait_unused(host)
        assert app.virtual(CHUNKS * CHUNK).read(0)

    def test_a_child_that_keeps_the_descriptors_keeps_no_context_alive(self, app, host):
        def with_child():
            context = App(host).virtual(CHUNK)
            pid = os.fork()
            if pid == 0:
                os.closerange(0, context.bell)
                signal.pause()
            return pid, context.token

        pid, _ = in_child(with_child)
        try:
            wait_unused(host)
        finally:
            os.kill(pid, 9)

    def test_the_next_context_gets_the_slot(self, app, host):
        with living(lambda: App(host).attach()) as child:
            slot = host.call("lun.contexts", lun="flash0")[0]["slot"]
            child.kill()
            wait_unused(host)
        app.attach()
        assert host.call("lun.contexts", lun="flash0")[0]["slot"] == slot

    def test_nothing_is_left_open_in_the_daemon(self, app, host):
        app.attach().ask(Service.DETACH)
        before = descriptors(host.pid)
        for _ in range(20):
            app.virtual(1).ask(Service.DETACH)
        assert descriptors(host.pid) == before


# ---- clone ---------------------------------------------------------------------------------------------------------------


class TestClone:
    def test_a_child_gets_handles_and_contents(self, app, host):
        parent = app.virtual(2 * CHUNK)
        parent.ask(Service.USER_VIRTUAL, size=5)
        parent.write(CHUNK, b"\x71" * BLOCK)

        def child():
            mine = App(host).attach()
            answer = mine.ask(Service.VLUN_CLONE, source=parent.token)
            last = [mine.ask(Service.VERIFY, handle=number).last_lba for number in (0, 1)]
            return answer.return_flags, last, mine.read(CHUNK)

        assert in_child(child) == (wire.APP_CLOSE_ADAP_FD, [2 * CHUNK - 1, 4], b"\x71" * BLOCK)

    def test_what_the_child_writes_the_parent_reads(self, app, host):
        parent = app.virtual(1)

        def child():
            mine = App(host).attach()
            mine.ask(Service.VLUN_CLONE, source=parent.token)
            assert mine.write(0, b"\x72" * BLOCK) == 0

        in_child(child)
        assert parent.read(0) == b"\x72" * BLOCK

    def test_the_end_of_the_child_takes_nothing_from_the_parent(self, app, host):
        parent = app.virtual(CHUNK)
        parent.write(0, b"\x73" * BLOCK)

        def child():
            mine = App(host).attach()
            mine.ask(Service.VLUN_CLONE, source=parent.token)
            mine.ask(Service.DETACH, flags=wire.SCRUB)

        in_child(child)
        assert parent.read(0) == b"\x73" * BLOCK
        assert lun_row(host)["free"] == (CHUNKS - 1) * MIB

    def test_the_child_keeps_what_the_parent_gives_back(self, app, host):
        parent = app.virtual(CHUNK)
        parent.write(0, b"\x74" * BLOCK)

        def clone():
            mine = App(host).attach()
            mine.ask(Service.VLUN_CLONE, source=parent.token)
            return mine

        with living(clone):
            parent.ask(Service.DETACH)
            assert lun_row(host)["free"] == (CHUNKS - 1) * MIB
        wait_until(lambda: lun_row(host)["free"] == CHUNKS * MIB, "the child's share is given back")

    def test_each_has_a_size_of_its_own_afterwards(self, app, host):
        parent = app.virtual(CHUNK)

        def child():
            mine = App(host).attach()
            mine.ask(Service.VLUN_CLONE, source=parent.token)
            return mine.ask(Service.VLUN_RESIZE, size=3 * CHUNK).last_lba

        assert in_child(child) == 3 * CHUNK - 1
        assert parent.ask(Service.VERIFY).last_lba == CHUNK - 1

    def test_a_stranger_may_not(self, app, host):
        with living(lambda: None):
            parent = app.virtual(1)

            def grandchild():
                return in_child(lambda: App(host).attach().refused(errno.EPERM, Service.VLUN_CLONE, source=parent.token))

            assert "child" in in_child(grandchild)

    def test_from_a_context_that_is_not_there(self, app):
        app.attach().refused(errno.EINVAL, Service.VLUN_CLONE, source=12345)

    def test_from_itself(self, app):
        context = app.virtual(1)
        context.refused(errno.EINVAL, Service.VLUN_CLONE, source=context.token)

    def test_a_direct_handle_is_not_cloned(self, app, host):
        parent = app.direct()
        in_child(lambda: App(host).attach().refused(errno.EINVAL, Service.VLUN_CLONE, source=parent.token))

    def test_a_context_without_handles_has_nothing_to_clone(self, app, host):
        parent = app.attach()
        in_child(lambda: App(host).attach().refused(errno.EINVAL, Service.VLUN_CLONE, source=parent.token))

    def test_into_a_context_that_has_handles(self, app, host):
        parent = app.virtual(1)
        in_child(lambda: App(host).virtual(1).refused(errno.EINVAL, Service.VLUN_CLONE, source=parent.token))

    def test_on_another_lun(self, app, host):
        parent = app.virtual(1)
        in_child(lambda: App(host).attach(lun=b"flash1").refused(errno.EINVAL, Service.VLUN_CLONE, source=parent.token))


# ---- verify --------------------------------------------------------------------------------------------------------------

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


# ---- superpipe and legacy ------------------------------------------------------------------------------------------------


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

    def test_to_what_it_is_already(self, app):
        app.attach(lun=b"flash1")
        app.ask(Service.MANAGE_LUN, flags=wire.ENABLE_SUPERPIPE, lun=b"flash1")

    def test_it_is_for_root(self, app, host):
        if os.geteuid():
            pytest.skip("needs root to become somebody else")

        def switch():
            mine = App(host)
            os.setresuid(12345, 12345, 12345)
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


# ---- limits --------------------------------------------------------------------------------------------------------------


def test_five_hundred_and_twelve_contexts_and_no_more(app, host):
    host.call("lun.set", lun="flash0", client_contexts=512)
    try:
        contexts = [app.attach(depth=2) for _ in range(wire.CONTEXTS_MAX)]
        assert "all 512" in app.refused(errno.ENOSPC, Service.ATTACH, lun=b"flash1")
        contexts[200].ask(Service.DETACH)
        app.attach()
    finally:
        host.call("lun.set", lun="flash0", client_contexts=64)
    used = [contexts[index] for index in (0, 1, 199, 201, 510, 511)]
    for context in used:
        context.ask(Service.USER_DIRECT)
    assert all(context.write(index, bytes([index + 1]) * BLOCK) == 0 for index, context in enumerate(used))
    assert [context.read(index)[0] for index, context in enumerate(used)] == [1, 2, 3, 4, 5, 6]


def test_random_packets_never_reach_anything(app, host):
    context = app.virtual(10)
    context.write(0, b"\x09" * BLOCK)
    chance = random.Random(4711)
    for _ in range(500):
        packet = bytearray(chance.randbytes(wire.REQUEST.size))
        struct.pack_into("<HH", packet, 0, 1, chance.randrange(0, 12))
        if chance.random() < 0.5:
            struct.pack_into("<Q", packet, 8, context.token)
        if chance.random() < 0.5:
            packet[4:8] = bytes(4)
        answer, fds = app.send(bytes(packet))
        assert wire.Answer.unpack(answer).error in (errno.EINVAL, errno.ENODEV), wire.Answer.unpack(answer)
        assert fds == []
    assert context.read(0) == b"\x09" * BLOCK
