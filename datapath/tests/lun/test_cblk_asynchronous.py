# SPDX-License-Identifier: GPL-3.0-or-later
"""Conformance of the block library: tags, results and poll."""

from __future__ import annotations

import errno
import select
import threading

import pytest
from cblk_app import BLOCK, failing, pattern

from cxl_datapath import cblk
from cxl_datapath.cblk import (
    ARESULT_BLOCKING,
    ARESULT_NEXT_TAG,
    ARESULT_USER_TAG,
    cblk_aread,
    cblk_aresult,
    cblk_awrite,
    cblk_get_fd,
    cblk_get_stats,
    cblk_read,
    cblk_sync,
    cblk_write,
)


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
