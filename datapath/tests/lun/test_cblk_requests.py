# SPDX-License-Identifier: GPL-3.0-or-later
"""Conformance of the block library: requests, one at a time and in lists, and their buffers."""

from __future__ import annotations

import array
import errno
import mmap
import os

import pytest
from cblk_app import BLOCK, blocks_at, failing, pattern
from lun_app import lun_row
from mishaps import paused

from cxl_datapath.cblk import (
    ARESULT_BLOCKING,
    Io,
    Status,
    Type,
    cblk_aread,
    cblk_aresult,
    cblk_listio,
    cblk_read,
    cblk_sync,
    cblk_unmap,
    cblk_write,
)


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

    def test_the_time_to_wait_is_limited(self, open_chunk, host):
        chunk = open_chunk(100)
        write = Io(Type.WRITE, 0, pattern(5))
        engine = lun_row(host)["worker"]["pid"]
        with paused([engine]):
            failing(errno.ETIMEDOUT, cblk_listio, chunk, issue=[write], wait=[write], timeout_us=1000)
            assert write.status == Status.PENDING
        assert cblk_listio(chunk, wait=[write]) == [write]
        assert write.status == Status.SUCCESS

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
