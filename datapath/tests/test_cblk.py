# SPDX-License-Identifier: GPL-3.0-or-later
"""Conformance of the block library, one rule per case: `libcblk` by way of its Python names, against a real daemon."""

from __future__ import annotations

import array
import errno
import mmap
import os
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts import Host
from lun_app import MIB, in_child, lun_row, make_lun, wait_unused

from cxl_datapath import cblk
from cxl_datapath.cblk import (
    ARESULT_BLOCKING,
    ARESULT_NEXT_TAG,
    ARESULT_USER_TAG,
    Io,
    Status,
    Type,
    cblk_aread,
    cblk_aresult,
    cblk_awrite,
    cblk_clone_after_fork,
    cblk_close,
    cblk_get_attrs,
    cblk_get_fd,
    cblk_get_lun_size,
    cblk_get_size,
    cblk_get_stats,
    cblk_listio,
    cblk_open,
    cblk_read,
    cblk_set_size,
    cblk_sync,
    cblk_unmap,
    cblk_write,
)

BLOCK = cblk.BLOCK_SIZE
BLOCKS = 64 * MIB // BLOCK


@pytest.fixture(scope="module")
def host(node: Host) -> Host:
    make_lun(node)
    return node


@pytest.fixture
def open_chunk(host: Host) -> Iterator[Callable[..., int]]:
    """Opens chunks; those that a test leaves open are closed, and then nothing may be left."""
    made: list[int] = []

    def opened(blocks: int | None = None, requests: int = 0, mode: int = os.O_RDWR) -> int:
        flags = 0 if blocks is None else cblk.OPN_VIRT_LUN
        made.append(cblk_open(f"{host.runtime}/lun.sock/flash0", requests, mode, flags))
        if blocks:
            cblk_set_size(made[-1], blocks)
        return made[-1]

    yield opened
    for chunk in made:
        try:
            cblk_close(chunk)
        except OSError as error:
            assert error.errno == errno.EINVAL, error
    wait_unused(host)
    assert lun_row(host)["free"] == 64 * MIB


def failing(number: int, call: Callable[..., object], *arguments: object, **named: object) -> str:
    with pytest.raises(OSError) as caught:
        call(*arguments, **named)
    assert caught.value.errno == number, caught.value
    return str(caught.value)


def pattern(value: int, blocks: int = 1) -> bytes:
    return bytes([value]) * (BLOCK * blocks)


def blocks_at(chunk: int, lba: int, count: int = 1) -> bytearray:
    buffer = bytearray(BLOCK * count)
    assert cblk_read(chunk, buffer, lba) == count
    return buffer


class TestOpen:
    def test_a_direct_chunk_is_the_lun(self, open_chunk):
        chunk = open_chunk()
        assert cblk_get_size(chunk) == cblk_get_lun_size(chunk) == BLOCKS

    def test_a_virtual_chunk_is_empty(self, open_chunk):
        chunk = open_chunk(0)
        assert (cblk_get_size(chunk), cblk_get_lun_size(chunk)) == (0, BLOCKS)

    def test_chunks_have_numbers_of_their_own(self, open_chunk):
        assert len({open_chunk(), open_chunk(), open_chunk()}) == 3

    def test_a_lun_that_is_not_there(self, host):
        assert "flash7" in failing(errno.ENODEV, cblk_open, f"{host.runtime}/lun.sock/flash7")

    @pytest.mark.parametrize("path", ["/nowhere/lun.sock/flash0", "/nowhere/flash0"])
    def test_a_daemon_that_is_not_there(self, path):
        failing(errno.ENOENT, cblk_open, path)

    @pytest.mark.parametrize("path", ["", "/run/", "x" * 64, "/" + "y" * 120 + "/flash0"])
    def test_a_path_that_names_nothing(self, path):
        failing(errno.EINVAL, cblk_open, path)

    @pytest.mark.parametrize(
        ("requests", "mode", "flags"), [(-1, os.O_RDWR, 0), (257, os.O_RDWR, 0), (0, os.O_WRONLY, 0), (0, os.O_RDWR, 2)]
    )
    def test_arguments_that_are_not_possible(self, host, requests, mode, flags):
        failing(errno.EINVAL, cblk_open, f"{host.runtime}/lun.sock/flash0", requests, mode, flags)

    @pytest.mark.parametrize(("asked", "given"), [(0, 64), (1, 2), (5, 8), (256, 256)])
    def test_the_requests_in_flight(self, open_chunk, asked, given):
        assert cblk_get_attrs(open_chunk(requests=asked))["max_requests"] == given

    def test_attributes(self, open_chunk):
        direct = cblk_get_attrs(open_chunk(mode=os.O_RDONLY))
        assert (direct["flags"], direct["block_size"], direct["max_transfer"], direct["chunk_blocks"]) == (2, BLOCK, 32, 0)

    def test_attributes_of_a_virtual_chunk(self, open_chunk):
        attributes = cblk_get_attrs(open_chunk(1))
        assert (attributes["flags"], attributes["chunk_blocks"]) == (1, 256)

    def test_close_ends_it(self, open_chunk):
        chunk = open_chunk()
        cblk_close(chunk)
        for call in (cblk_close, cblk_get_size, cblk_get_lun_size, cblk_get_attrs, cblk_get_stats, cblk_sync, cblk_get_fd):
            failing(errno.EINVAL, call, chunk)
        failing(errno.EINVAL, cblk_read, chunk, bytearray(BLOCK), 0)
        failing(errno.EINVAL, cblk_awrite, chunk, pattern(1), 0)

    @pytest.mark.parametrize("chunk", [-1, 1023, 1024, 1 << 30])
    def test_a_number_that_is_no_chunk(self, chunk):
        failing(errno.EINVAL, cblk_get_size, chunk)

    def test_close_waits_for_what_is_in_flight(self, open_chunk):
        chunk = open_chunk(requests=64)
        buffers = [bytearray(BLOCK * 32) for _ in range(64)]
        for lba, buffer in enumerate(buffers):
            cblk_aread(chunk, buffer, lba)
        cblk_close(chunk)
        buffers[0].append(1)  # nobody holds it any more

    def test_again_and_again(self, open_chunk, host):
        for _ in range(30):
            cblk_close(open_chunk(1))
        fds = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(10):
            cblk_close(open_chunk(1))
        assert len(list(Path("/proc/self/fd").iterdir())) == fds


class TestSize:
    def test_grow_and_shrink(self, open_chunk):
        chunk = open_chunk(0)
        for blocks in (1, 300, 1000, 299, 0, 5):
            cblk_set_size(chunk, blocks)
            assert cblk_get_size(chunk) == blocks

    def test_a_direct_chunk_cannot(self, open_chunk):
        failing(errno.EINVAL, cblk_set_size, open_chunk(), 5)

    def test_more_than_there_is_changes_nothing(self, open_chunk):
        chunk = open_chunk(7)
        failing(errno.ENOSPC, cblk_set_size, chunk, BLOCKS + 1)
        assert cblk_get_size(chunk) == 7
        cblk_write(chunk, pattern(1), 6)

    def test_an_unknown_flag(self, open_chunk):
        failing(errno.EINVAL, cblk_set_size, open_chunk(1), 2, 2)

    def test_modes_exclude_each_other(self, open_chunk):
        open_chunk(1)
        failing(errno.EBUSY, open_chunk)


class TestSynchronous:
    @pytest.mark.parametrize("count", [1, 31, 32, 33, 64, 1000])
    def test_any_length(self, open_chunk, count):
        chunk = open_chunk(1200)
        data = os.urandom(BLOCK * count)
        assert cblk_write(chunk, data, 100) == count
        assert blocks_at(chunk, 100, count) == data
        assert blocks_at(chunk, 99) == blocks_at(chunk, 100 + count) == bytes(BLOCK)

    def test_longer_than_all_commands_together(self, open_chunk):
        chunk = open_chunk(1000, requests=2)
        data = os.urandom(BLOCK * 1000)
        assert cblk_write(chunk, data, 0) == 1000
        assert blocks_at(chunk, 0, 1000) == data

    @pytest.mark.parametrize(("lba", "count"), [(10, 1), (9, 2), (0, 11), (1 << 40, 1), ((1 << 64) - 2, 1)])
    def test_beyond_the_end(self, open_chunk, lba, count):
        chunk = open_chunk(10)
        failing(errno.ERANGE, cblk_read, chunk, bytearray(BLOCK * count), lba)
        failing(errno.ERANGE, cblk_write, chunk, pattern(1, count), lba)
        failing(errno.ERANGE, cblk_unmap, chunk, lba, count)

    def test_an_end_that_wraps(self, open_chunk):
        failing(errno.EINVAL, cblk_read, open_chunk(10), bytearray(2 * BLOCK), (1 << 64) - 1)

    def test_a_long_request_that_fails_leaves_the_chunk_usable(self, open_chunk):
        chunk = open_chunk(100)
        failing(errno.ERANGE, cblk_write, chunk, pattern(3, 200), 0)
        assert cblk_write(chunk, pattern(4, 100), 0) == 100
        assert blocks_at(chunk, 99) == pattern(4)

    def test_unmap(self, open_chunk):
        chunk = open_chunk(1000)
        cblk_write(chunk, pattern(5, 1000), 0)
        assert cblk_unmap(chunk, 1, 998) == 998
        assert blocks_at(chunk, 0) == blocks_at(chunk, 999) == pattern(5)
        assert blocks_at(chunk, 1, 998) == bytes(998 * BLOCK)

    def test_nothing_to_unmap(self, open_chunk):
        failing(errno.EINVAL, cblk_unmap, open_chunk(10), 0, 0)

    def test_sync(self, open_chunk, host):
        chunk = open_chunk()
        cblk_write(chunk, pattern(6), 50)
        cblk_sync(chunk)
        with (host.folder / "flash0.disk").open("rb") as file:
            file.seek(50 * BLOCK)
            assert file.read(BLOCK) == pattern(6)

    def test_a_read_only_chunk(self, open_chunk):
        chunk = open_chunk(mode=os.O_RDONLY)
        assert len(blocks_at(chunk, 0)) == BLOCK
        failing(errno.EROFS, cblk_write, chunk, pattern(1), 0)
        failing(errno.EROFS, cblk_unmap, chunk, 0, 1)


class TestBuffers:
    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda raw: array.array("Q", raw)])
    def test_to_write(self, open_chunk, kind):
        chunk = open_chunk(2)
        assert cblk_write(chunk, kind(pattern(8, 2)), 0) == 2
        assert blocks_at(chunk, 1) == pattern(8)

    def test_to_read_into(self, open_chunk):
        chunk = open_chunk(2)
        cblk_write(chunk, pattern(9, 2), 0)
        with mmap.mmap(-1, 2 * BLOCK) as area:
            cblk_read(chunk, area, 0)
            assert area[:] == pattern(9, 2)
        numbers = array.array("I", bytes(BLOCK))
        cblk_read(chunk, numbers, 1)
        assert set(numbers) == {0x09090909}
        some = bytearray(3 * BLOCK)
        cblk_read(chunk, memoryview(some)[BLOCK : 2 * BLOCK], 0)
        assert some == bytes(BLOCK) + pattern(9) + bytes(BLOCK)

    def test_what_cannot_be_written_to(self, open_chunk):
        with pytest.raises(BufferError):
            cblk_read(open_chunk(1), bytes(BLOCK), 0)

    @pytest.mark.parametrize("length", [0, 1, BLOCK - 1, BLOCK + 1])
    def test_a_length_that_is_no_block(self, open_chunk, length):
        with pytest.raises(ValueError, match="multiple"):
            cblk_write(open_chunk(1), bytes(length), 0)

    def test_a_buffer_is_held_while_it_is_read_into(self, open_chunk):
        chunk = open_chunk(1)
        buffer = bytearray(BLOCK)
        tag = cblk_aread(chunk, buffer, 0)
        with pytest.raises(BufferError):
            buffer.append(1)
        cblk_aresult(chunk, tag, ARESULT_BLOCKING)
        buffer.append(1)


class TestAsynchronous:
    def test_many_at_once(self, open_chunk):
        chunk = open_chunk(256, requests=64)
        tags = [cblk_awrite(chunk, pattern(lba), lba) for lba in range(64)]
        assert sorted(tags) == list(range(64))
        assert [cblk_aresult(chunk, tag, ARESULT_BLOCKING) for tag in tags] == [(1, tag) for tag in tags]
        buffers = [bytearray(BLOCK) for _ in range(64)]
        reads = {cblk_aread(chunk, buffer, lba): lba for lba, buffer in enumerate(buffers)}
        while reads:
            blocks, tag = cblk_aresult(chunk, flags=ARESULT_BLOCKING | ARESULT_NEXT_TAG)
            lba = reads.pop(tag)
            assert (blocks, buffers[lba]) == (1, pattern(lba))

    def test_when_all_commands_are_taken(self, open_chunk):
        chunk = open_chunk(10, requests=2)
        tags = [cblk_awrite(chunk, pattern(1), lba) for lba in range(2)]
        failing(errno.EAGAIN, cblk_awrite, chunk, pattern(1), 2)
        failing(errno.EAGAIN, cblk_awrite, chunk, pattern(1), 2, flags=cblk.ARW_WAIT_CMD_FLAG)
        for tag in tags:
            cblk_aresult(chunk, tag, ARESULT_BLOCKING)
        cblk_aresult(chunk, cblk_awrite(chunk, pattern(1), 2), ARESULT_BLOCKING)

    def test_a_synchronous_call_beside_commands_that_nobody_fetches(self, open_chunk):
        chunk = open_chunk(10, requests=2)
        first = cblk_awrite(chunk, pattern(1), 0)
        assert cblk_write(chunk, pattern(2, 5), 1) == 5
        second = cblk_awrite(chunk, pattern(1), 0)
        failing(errno.EAGAIN, cblk_write, chunk, pattern(2), 1)
        for tag in (first, second):
            cblk_aresult(chunk, tag, ARESULT_BLOCKING)

    def test_not_ended_yet_is_no_error(self, open_chunk):
        chunk = open_chunk(10)
        tag = cblk_awrite(chunk, pattern(1), 0)
        while (found := cblk_aresult(chunk, tag)) == (0, tag):
            pass
        assert found == (1, tag)

    def test_a_tag_is_fetched_once(self, open_chunk):
        chunk = open_chunk(10)
        tag = cblk_awrite(chunk, pattern(1), 0)
        cblk_aresult(chunk, tag, ARESULT_BLOCKING)
        failing(errno.ENOENT, cblk_aresult, chunk, tag)
        failing(errno.ENOENT, cblk_aresult, chunk, tag, ARESULT_BLOCKING)

    @pytest.mark.parametrize("tag", [-1, 5, 1000])
    def test_a_tag_that_is_not_open(self, open_chunk, tag):
        failing(errno.ENOENT, cblk_aresult, open_chunk(1), tag)

    def test_next_tag_with_nothing_in_flight(self, open_chunk):
        failing(errno.ENOENT, cblk_aresult, open_chunk(1), flags=ARESULT_NEXT_TAG | ARESULT_BLOCKING)

    def test_user_tags(self, open_chunk):
        chunk = open_chunk(10)
        assert cblk_awrite(chunk, pattern(1), 0, tag=4711) == 4711
        assert cblk_awrite(chunk, pattern(2), 1, tag=-3) == -3
        failing(errno.EEXIST, cblk_awrite, chunk, pattern(2), 1, tag=4711)
        assert cblk_aresult(chunk, -3, ARESULT_BLOCKING | ARESULT_USER_TAG) == (1, -3)
        assert cblk_aresult(chunk, flags=ARESULT_BLOCKING | ARESULT_NEXT_TAG | ARESULT_USER_TAG) == (1, 4711)
        failing(errno.ENOENT, cblk_aresult, chunk, 4711, ARESULT_USER_TAG)

    def test_user_tags_and_others_do_not_meet(self, open_chunk):
        chunk = open_chunk(10)
        buffers = [bytearray(BLOCK), bytearray(BLOCK)]
        automatic = cblk_aread(chunk, buffers[0], 0)
        cblk_aread(chunk, buffers[1], 0, tag=automatic)
        assert cblk_aresult(chunk, automatic, ARESULT_BLOCKING) == (1, automatic)
        buffers[0].append(1)
        with pytest.raises(BufferError):
            buffers[1].append(1)
        assert cblk_aresult(chunk, automatic, ARESULT_BLOCKING | ARESULT_USER_TAG) == (1, automatic)

    def test_an_error_comes_with_the_result(self, open_chunk):
        chunk = open_chunk(10)
        tag = cblk_awrite(chunk, pattern(1), 10)
        failing(errno.ERANGE, cblk_aresult, chunk, tag, ARESULT_BLOCKING)
        failing(errno.ENOENT, cblk_aresult, chunk, tag)

    def test_at_most_the_longest_transfer(self, open_chunk):
        failing(errno.EINVAL, cblk_awrite, open_chunk(100), pattern(1, 33), 0)

    @pytest.mark.parametrize("flags", [4, 8, 1 << 30])
    def test_unknown_flags(self, open_chunk, flags):
        failing(errno.EINVAL, cblk_awrite, open_chunk(1), pattern(1), 0, flags=flags)
        failing(errno.EINVAL, cblk_aresult, open_chunk(1), 0, flags << 1)

    def test_poll(self, open_chunk):
        chunk = open_chunk(10)
        tag = cblk_awrite(chunk, pattern(1), 0)
        try:
            ready, _, _ = select.select([cblk_get_fd(chunk)], [], [], 30)
            assert ready
        except OSError as error:
            assert error.errno == errno.EALREADY
        assert cblk_aresult(chunk, tag, ARESULT_BLOCKING) == (1, tag)

    def test_poll_says_when_a_request_had_ended_before(self, open_chunk):
        chunk = open_chunk(10)
        tag = cblk_awrite(chunk, pattern(1), 0)
        while cblk_get_stats(chunk)["in_flight"]:
            cblk_sync(chunk)  # takes what has ended along
        failing(errno.EALREADY, cblk_get_fd, chunk)
        assert cblk_aresult(chunk, tag) == (1, tag)

    def test_threads_on_one_chunk(self, open_chunk):
        chunk = open_chunk(64, requests=4)
        wrong: list[int] = []

        def work(lba: int) -> None:
            buffer = bytearray(BLOCK)
            for value in range(60):
                cblk_write(chunk, pattern(value), lba)
                cblk_read(chunk, buffer, lba)
                if buffer != pattern(value):
                    wrong.append(lba)

        threads = [threading.Thread(target=work, args=(lba,)) for lba in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


class TestLists:
    def test_issue_and_wait(self, open_chunk):
        chunk = open_chunk(100)
        writes = [Io(Type.WRITE, lba, pattern(lba + 1)) for lba in range(20)]
        ended = cblk_listio(chunk, issue=writes, wait=writes)
        assert {id(io) for io in ended} == {id(io) for io in writes}
        assert {(io.status, io.blocks, io.errno) for io in writes} == {(Status.SUCCESS, 1, 0)}
        buffers = [bytearray(BLOCK) for _ in range(20)]
        reads = [Io(Type.READ, lba, buffer) for lba, buffer in enumerate(buffers)]
        cblk_listio(chunk, issue=reads, wait=reads)
        assert [buffer[0] for buffer in buffers] == list(range(1, 21))

    def test_more_than_there_are_commands(self, open_chunk):
        chunk = open_chunk(100, requests=8)
        writes = [Io(Type.WRITE, lba, pattern(7)) for lba in range(8)]
        assert len(cblk_listio(chunk, issue=writes, wait=writes)) == 8

    def test_every_kind(self, open_chunk):
        chunk = open_chunk(100)
        every = [
            Io(Type.WRITE, 0, pattern(1)),
            Io(Type.READ, 50, bytearray(BLOCK)),
            Io(Type.UNMAP, 60, nblocks=10),
            Io(Type.SYNC),
        ]
        assert len(cblk_listio(chunk, issue=every, wait=every)) == 4
        assert {io.status for io in every} == {Status.SUCCESS}

    def test_pending_ones_are_collected_later(self, open_chunk):
        chunk = open_chunk(100)
        writes = [Io(Type.WRITE, lba, pattern(3)) for lba in range(10)]
        ended = cblk_listio(chunk, issue=writes)
        while len(ended) < 10:
            ended += cblk_listio(chunk, pending=writes)
        assert {id(io) for io in ended} == {id(io) for io in writes}
        assert cblk_listio(chunk, pending=writes) == []

    def test_one_that_fails(self, open_chunk):
        chunk = open_chunk(10)
        good, bad = Io(Type.WRITE, 0, pattern(1)), Io(Type.WRITE, 10, pattern(1))
        assert len(cblk_listio(chunk, issue=[good, bad], wait=[good, bad])) == 2
        assert (good.status, bad.status, bad.errno) == (Status.SUCCESS, Status.FAIL, errno.ERANGE)

    def test_one_that_cannot_be_sent(self, open_chunk):
        chunk = open_chunk(100)
        bad = [Io(Type.WRITE, 0, pattern(1, 33)), Io(Type.UNMAP, 0), Io(Type.READ, 0, nblocks=1)]
        assert cblk_listio(chunk, issue=bad, wait=bad) == []
        assert {(io.status, io.errno) for io in bad} == {(Status.INVALID, errno.EINVAL)}


class TestFork:
    def test_a_child_cannot_use_what_it_inherits(self, open_chunk):
        chunk = open_chunk(10)

        def child():
            for call in (cblk_get_size, cblk_get_lun_size, cblk_get_attrs, cblk_get_stats, cblk_sync):
                failing(errno.EPERM, call, chunk)
            failing(errno.EPERM, cblk_read, chunk, bytearray(BLOCK), 0)
            failing(errno.EPERM, cblk_set_size, chunk, 1)

        in_child(child)
        assert cblk_write(chunk, pattern(1), 9) == 1

    def test_closing_it_takes_nothing_from_the_parent(self, open_chunk):
        chunk = open_chunk(10)
        in_child(lambda: cblk_close(chunk))
        assert cblk_write(chunk, pattern(1), 9) == 1

    @pytest.mark.parametrize("blocks", [None, 10])
    def test_a_clone_shares_the_blocks(self, open_chunk, blocks):
        chunk = open_chunk(blocks)
        cblk_write(chunk, pattern(2), 5)

        def child():
            cblk_clone_after_fork(chunk)
            assert blocks_at(chunk, 5) == pattern(2)
            cblk_write(chunk, pattern(3), 6)
            size = cblk_get_size(chunk)
            cblk_close(chunk)
            return size

        assert in_child(child) == (blocks or BLOCKS)
        assert blocks_at(chunk, 6) == pattern(3)

    def test_a_read_only_clone(self, open_chunk):
        chunk = open_chunk(10)

        def child():
            cblk_clone_after_fork(chunk, os.O_RDONLY)
            blocks_at(chunk, 0)
            return failing(errno.EROFS, cblk_write, chunk, pattern(1), 0)

        in_child(child)

    def test_the_parent_has_no_need_of_it(self, open_chunk):
        failing(errno.EINVAL, cblk_clone_after_fork, open_chunk(1))

    def test_the_parent_goes_on_meanwhile(self, open_chunk):
        chunk = open_chunk(64)
        tags = [cblk_awrite(chunk, pattern(lba), lba) for lba in range(32)]

        def child():
            cblk_clone_after_fork(chunk)
            failing(errno.ENOENT, cblk_aresult, chunk, tags[0])
            for lba in range(32, 64):
                cblk_write(chunk, pattern(lba), lba)

        in_child(child)
        assert [cblk_aresult(chunk, tag, ARESULT_BLOCKING)[0] for tag in tags] == [1] * 32
        assert [blocks_at(chunk, lba)[0] for lba in range(64)] == list(range(64))

    def test_a_parent_that_is_gone(self, open_chunk, host):
        chunk = open_chunk(10)
        cblk_close(chunk)
        in_child(lambda: failing(errno.EINVAL, cblk_clone_after_fork, chunk))

    def test_a_child_of_a_child(self, open_chunk):
        chunk = open_chunk(10)

        def child():
            cblk_clone_after_fork(chunk)
            cblk_write(chunk, pattern(4), 1)

            def grandchild():
                cblk_clone_after_fork(chunk)
                return blocks_at(chunk, 1)[0]

            return in_child(grandchild)

        assert in_child(child) == 4


def test_statistics(open_chunk):
    chunk = open_chunk(100)
    cblk_write(chunk, pattern(1, 40), 0)
    blocks_at(chunk, 0, 3)
    cblk_unmap(chunk, 0, 1)
    cblk_sync(chunk)
    failing(errno.ERANGE, cblk_read, chunk, bytearray(BLOCK), 100)
    stats = cblk_get_stats(chunk)
    assert {name: stats[name] for name in ("reads", "writes", "unmaps", "syncs", "blocks_read", "blocks_written", "errors")} == {
        "reads": 2,
        "writes": 2,
        "unmaps": 1,
        "syncs": 1,
        "blocks_read": 3,
        "blocks_written": 40,
        "errors": 1,
    }
    assert (stats["in_flight"], stats["most_in_flight"], stats["recoveries"]) == (0, 2, 0)
