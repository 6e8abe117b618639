# SPDX-License-Identifier: GPL-3.0-or-later
"""Conformance of the block library: chunks, sizes, fork and statistics."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from cblk_app import BLOCK, BLOCKS, blocks_at, failing, pattern
from lun_app import in_child

from cxl_datapath.cblk import (
    ARESULT_BLOCKING,
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
    cblk_open,
    cblk_read,
    cblk_set_size,
    cblk_sync,
    cblk_unmap,
    cblk_write,
)


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
