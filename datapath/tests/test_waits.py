# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting that may take minutes: it ends with its caller, and can be told."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hosts import PATIENCE_S, wait_until

from cxl_datapath.cbd.liveness import claim_patience_s
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.waits import Waits, in_thread


def test_words_stand_as_long_as_the_wait():
    waits = Waits()
    with waits.on("one"), waits.on("one"):
        with pytest.raises(KeyError), waits.on("two"):
            raise KeyError
        assert waits.now() == ["one", "one"]
    assert waits.now() == []


def test_a_thread_gives_its_result_or_its_error():
    def fail(_sleep: object) -> None:
        raise DatapathError(Code.BUSY, "host node1", "is alive")

    async def scenario() -> None:
        assert await in_thread(lambda sleep: sleep(0.0) or 7) == 7
        with pytest.raises(DatapathError, match="is alive"):
            await in_thread(fail)

    asyncio.run(scenario())


def test_a_caller_that_is_cancelled_takes_the_sleeping_thread_along():
    ended = threading.Event()

    def work(sleep: object) -> None:
        try:
            sleep(3600)
        finally:
            ended.set()

    async def scenario() -> None:
        waiting = asyncio.create_task(in_thread(work))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()

    asyncio.run(scenario())
    assert ended.wait(PATIENCE_S)


def test_what_comes_too_late_is_undone():
    go = threading.Event()

    async def scenario() -> None:
        undone = asyncio.Event()
        seen: list[int] = []

        def undo(late: int) -> None:
            seen.append(late)
            undone.set()

        waiting = asyncio.create_task(in_thread(lambda _: go.wait(PATIENCE_S) and 7, undo))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        go.set()
        async with asyncio.timeout(PATIENCE_S):
            await undone.wait()
        assert seen == [7]

    asyncio.run(scenario())


@pytest.mark.parametrize("lease_s", [1, 60, 120, 600])
def test_who_wants_the_claim_outlasts_a_takeover_and_the_death_of_its_host(lease_s):
    assert claim_patience_s(lease_s) > 2 * lease_s


def test_a_daemon_ends_at_once_though_it_waits_for_a_lease_of_minutes(make_host, shared_file):
    host, memory = make_host("node1"), str(shared_file(1 << 20))
    geometry = {"hosts": 2, "backends": 1, "blkdevs": 1, "channels": 1, "ring_depth": 2, "slot_bytes": 4096}
    host.call("cbd.transport.format", memory=memory, name="pool0", lease_ms=600_000, **geometry)
    host.call("cbd.transport.register", memory=memory)
    host.kill()
    host.start()
    words = "an earlier life of host node1 in transport pool0 to be silent for 600 s"
    wait_until(lambda: host.call("hello")["waits_for"] == [words], "it waits for its earlier life")
    assert f"waiting for {words}" in host.cli("status").stdout
    host.stop()
