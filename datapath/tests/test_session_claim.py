# SPDX-License-Identifier: GPL-3.0-or-later
"""The claim as one daemon takes it: for many workers at a time, some of which are stopped while they wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from cxl_datapath.cbd.geometry import FormatOptions
from cxl_datapath.cbd.transport import attach, plan_format, write_format
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import resolve
from cxl_datapath.session import Session, Settings
from cxl_datapath.state import TransportState

SIZE = 1 << 20
OPTIONS = FormatOptions(hosts=2, backends=1, blkdevs=1, channels=1, ring_depth=2, slot_bytes=4096)
MANY = 40  # more than there are threads


def session(memory: Path, folder: Path) -> Session:
    with Mapping(resolve(str(memory))) as mapping:
        write_format(mapping, plan_format(SIZE, "pool0", OPTIONS, "software", True))
        uuid = str(attach(mapping, str(memory)).uuid)
    return Session(TransportState(str(memory), "pool0", uuid), Settings(folder, folder, "node1"))


async def use(one: Session) -> None:
    async with one.claim() as opened:
        opened.lock.check()


def test_many_take_turns(shared_file: Callable[[int], Path], tmp_path: Path) -> None:
    async def scenario() -> None:
        one = session(shared_file(SIZE), tmp_path)
        await one.open()
        async with asyncio.timeout(30):
            await asyncio.gather(*(use(one) for _ in range(MANY)))
        await one.close()

    asyncio.run(scenario())


def test_who_is_cancelled_while_waiting_leaves_no_claim_behind(shared_file: Callable[[int], Path], tmp_path: Path) -> None:
    async def scenario() -> None:
        one = session(shared_file(SIZE), tmp_path)
        await one.open()
        opened = one.need()
        await asyncio.to_thread(opened.lock.acquire, 1.0)  # by somebody else
        waiting = asyncio.create_task(use(one))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        await asyncio.to_thread(opened.lock.release)
        async with asyncio.timeout(30):
            await use(one)
        await one.close()

    asyncio.run(scenario())
