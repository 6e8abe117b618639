# SPDX-License-Identifier: GPL-3.0-or-later
"""The heartbeats of one daemon in several transports: what happens in one of them does not cost the others theirs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from hosts import PATIENCE_S

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.service import Datapath
from cxl_datapath.session import Opened, Session, Settings
from cxl_datapath.state import TransportState

BEATS = 5


class Beating(Session):
    """Of a transport that is not there."""

    period_s = 0.01

    def __init__(self, name: str, settings: Settings) -> None:
        super().__init__(TransportState("/dev/shm/none", name, name), settings)
        self.opened = cast(Opened, object())
        self.ticks = 0
        self.enough = asyncio.Event()

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks == BEATS:
            self.enough.set()


class Lost(Beating):
    """Its workers do not end."""

    def tick(self) -> None:
        self.ticks += 1
        raise DatapathError(Code.BUSY, "host node1", "was declared dead by another host")

    async def close(self, error: DatapathError | None = None, patience: float = 0.0) -> None:
        self.reason = error
        await asyncio.Event().wait()


def test_a_transport_that_was_lost_does_not_stop_the_heartbeats_of_the_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = Settings(tmp_path, tmp_path, "node1")
        datapath = Datapath(settings)
        lost, other = Lost("pool0", settings), Beating("pool1", settings)
        datapath.sessions = {"pool0": lost, "pool1": other}
        beating = asyncio.create_task(datapath._beat())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await other.enough.wait()
            assert lost.ticks == 1
        finally:
            for task in (beating, *datapath._restoring.values()):
                task.cancel()
            await asyncio.gather(beating, *datapath._restoring.values(), return_exceptions=True)

    asyncio.run(scenario())
