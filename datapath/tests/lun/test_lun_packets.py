# SPDX-License-Identifier: GPL-3.0-or-later
"""Conformance of the service socket: what packets may hold, what is mapped, and how many contexts there are."""

from __future__ import annotations

import errno
import mmap
import os
import random
import socket
import struct

import pytest
from hosts import wait_until
from lun_app import App, Ctx, Refused, become, descriptors, in_child, living

from cxl_datapath.cxlflash import wire
from cxl_datapath.cxlflash.master import USER_CONTEXTS
from cxl_datapath.cxlflash.wire import BLOCK, Request, Service


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


def test_one_user_leaves_room_for_others(app, host):
    """A limit for each process alone is none: one starts more of them."""
    if os.geteuid():
        pytest.skip("needs root to become somebody else")

    def attach(uid: int, count: int) -> list[Ctx]:
        mine = App(host)
        become(uid)
        return [mine.attach(depth=2) for _ in range(count)]

    def one_more(uid: int) -> str:
        try:
            return f"{len(attach(uid, 1))}"
        except Refused as refusal:
            return f"{errno.errorcode[refusal.errno]}: {refusal.text}"

    host.call("lun.set", lun="flash0", client_contexts=512)
    try:
        with living(lambda: attach(12345, USER_CONTEXTS)):
            assert f"ENOSPC: a user may have {USER_CONTEXTS} contexts" in in_child(lambda: one_more(12345))
            assert in_child(lambda: one_more(12346)) == "1"
            app.attach()
        wait_until(lambda: not [row for row in host.call("lun.contexts", lun="flash0") if row["uid"] == 12345], "they are gone")
        assert in_child(lambda: one_more(12345)) == "1"
    finally:
        host.call("lun.set", lun="flash0", client_contexts=64)


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
