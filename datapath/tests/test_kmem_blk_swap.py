# SPDX-License-Identifier: GPL-3.0-or-later
"""Swap when the pool's process or the swap's worker is away at the wrong moment; the kernel's part is played by flags."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from mishaps import small_disk
from test_kmem_blk_server import Served as ServedPool
from test_kmem_blk_server import memory, runtime, served  # noqa: F401  (fixtures)

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.kmem_blk.layout import PAGE
from cxl_datapath.kmem_blk.volatile import SwapIndex
from cxl_datapath.methods import pool_memory
from cxl_datapath.methods import volume as methods
from cxl_datapath.pool_state import SwapState
from cxl_datapath.supervisor import Phase
from cxl_datapath.waits import Waits
from cxl_datapath.workers import volume as worker

AWAY = DatapathError(Code.NOT_FOUND, "pool0.pool", "cannot reach the pool")


# ---- recall: the worker of the swap ---------------------------------------------------------------------------------------


class Pool:
    """The pool as the worker sees it. `away`: how often it does not answer."""

    capacity = 1 << 20

    def __init__(self) -> None:
        self.away = 0
        self.available = 1 << 20
        self.ranges = [{"pages": 1 << 20, "volatile": False}]
        self.calls: list[str] = []
        self.said: list[dict[str, Any]] = []

    def call(self, op: str) -> Any:
        if self.away:
            self.away -= 1
            raise AWAY
        self.calls.append(op)
        return {"pages": {"available": self.available, "reserve": 16}, "ranges": self.ranges}

    def events(self) -> list[dict[str, Any]]:
        said, self.said = self.said, []
        return said


class Kernel:
    def __init__(self) -> None:
        self.on = True

    def switch(self, on: bool) -> Any:
        return lambda *_: setattr(self, "on", on)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(worker, "switch_on", made.switch(True))
    monkeypatch.setattr(worker, "switch_off", made.switch(False))
    monkeypatch.setattr(worker, "RETURN_S", 0.0)
    return made


def swap_on(pool: Pool, tmp_path: Path, told: dict[str, Any] | None = None) -> worker.Served:
    config = worker.Config("pool0", "pool0-swap", "ublk", 1, 64, 5, tmp_path, tmp_path)
    emit = lambda _, info: None if told is None else told.update(info)  # noqa: E731
    link = SimpleNamespace(emit=emit)
    return worker.Served(link, config, pool, SimpleNamespace(), device="/dev/pool0-swap", kind="ublk")  # type: ignore[arg-type]


@pytest.mark.parametrize("away", [0, 1, 2])
def test_recalled_swap_comes_back_also_when_the_pool_was_away_meanwhile(kernel, tmp_path, away):
    pool = Pool()
    swap = swap_on(pool, tmp_path)
    pool.said, pool.away = [{"event": "recall", "volume": "swap"}], away
    swap._follow_pool()
    assert not kernel.on
    for _ in range(away + 1):
        swap._follow_pool()
    assert kernel.on and pool.calls.count("swap_clear") == 1


@pytest.mark.parametrize(("available", "comes"), [(16 + 20 - 1, False), (16 + 20, True)])
def test_swap_that_is_larger_than_its_pool_comes_back_to_half_of_it(kernel, tmp_path, available, comes):
    """What left the pool may be most of it. Half of its own size will never be free there."""
    pool = Pool()
    pool.available, pool.ranges = available, [{"pages": 56, "volatile": False}, {"pages": 999, "volatile": True}]
    swap = swap_on(pool, tmp_path)
    pool.said = [{"event": "recall", "volume": "swap"}]
    swap._follow_pool()
    swap._follow_pool()
    assert kernel.on == comes


def test_swap_that_does_not_fit_into_memory_says_so(kernel, tmp_path, monkeypatch):
    def refuse(_: Path) -> None:
        raise DatapathError(Code.BUSY, "/dev/pool0-swap", "swapoff: Cannot allocate memory")

    monkeypatch.setattr(worker, "switch_off", refuse)
    pool, told = Pool(), dict[str, Any]()
    swap = swap_on(pool, tmp_path, told)
    for _ in range(2):
        pool.said = [{"event": "recall", "volume": "swap"}]
        swap._follow_pool()
    assert kernel.on and pool.calls == []
    assert (told["asked"], told["swap"]) == (2, "on") and "Cannot allocate memory" in told["swap_reason"]


# ---- shrink: the daemon -----------------------------------------------------------------------------------------------------


class Shrinking:
    """A pool whose extent holds more than there is room for elsewhere, until its swap is off."""

    name = "pool0"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.calls: list[str] = []
        self.desired = SimpleNamespace(memories=["/dev/dax0.0", "dcd:1/more"])
        self.swap: Any = SimpleNamespace(info={})

    async def call(self, op: str, **_: Any) -> Any:
        self.calls.append(op)
        if op == "status":
            return {"ranges": [{"memory": each} for each in self.desired.memories]}
        if op == "swap_recall":
            told = {"asked": 1, "swap": "on" if self.reason else "recalled", "swap_reason": self.reason}
            asyncio.get_running_loop().call_later(0.3, self.swap.info.update, told)
        elif not self.swap or self.swap.info.get("swap") != "recalled":
            raise DatapathError(Code.FULL, "range at page 64", "cannot empty it: No space left on device", "free pages first")
        return None

    async def view(self) -> dict[str, Any]:
        return {"memories": self.desired.memories}

    def need_running(self) -> None:
        pass


def shrink(session: Shrinking, *, move: bool) -> Any:
    made = SimpleNamespace(pools={"pool0": session}, waits=Waits(), save_pools=AsyncMock())
    params = {"pool": "pool0", "memory": "dcd:1/more", "move": move}
    return asyncio.run(pool_memory.shrink_pool(made, params))  # type: ignore[arg-type]


def test_swap_goes_into_memory_where_an_extent_that_leaves_has_no_room_elsewhere():
    session = Shrinking("")
    assert shrink(session, move=True)["memories"] == ["/dev/dax0.0"]
    assert session.calls == ["status", "shrink", "swap_recall", "shrink"]


@pytest.mark.parametrize("how", ["no room in memory", "off already", "without --move", "no swap"])
def test_a_shrink_without_room_anywhere_says_why(how):
    session = Shrinking("swapoff: Cannot allocate memory" if how == "no room in memory" else "")
    if how == "no swap":
        session.swap = None
    with pytest.raises(DatapathError) as caught:
        if how == "off already":  # and other pages than those of swap have no room
            session.swap.info = {"swap": "recalled"}
            session.call = refuse_all(session)  # type: ignore[method-assign]
        shrink(session, move=how != "without --move")
    assert caught.value.code == Code.FULL and "No space left" in caught.value.message
    assert ("swap stays on: swapoff" in caught.value.message) == (how == "no room in memory")
    assert ("swap_recall" in session.calls) == (how == "no room in memory")
    assert session.desired.memories == ["/dev/dax0.0", "dcd:1/more"]


def refuse_all(session: Shrinking) -> Any:
    async def call(op: str, **_: Any) -> Any:
        if op == "status":
            return {"ranges": [{"memory": each} for each in session.desired.memories]}
        raise DatapathError(Code.FULL, "range at page 64", "cannot empty it: No space left on device", "free pages first")

    return call


# ---- stop: the daemon -------------------------------------------------------------------------------------------------------


class Worker:
    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self.ended = False

    async def start(self) -> None:
        self.phase = Phase.RUNNING

    async def stop(self) -> None:
        self.ended = True

    async def end(self, patience: float) -> None:
        self.ended = True


class Session:
    name = "pool0"

    def __init__(self, phase: Phase) -> None:
        self.swap: Worker | None = Worker(phase)
        self.desired = SimpleNamespace(swap=SwapState("pool0-swap", 64, 5), volume=None)
        self.away = False
        self.calls: list[str] = []

    async def call(self, op: str) -> None:
        if self.away:
            raise AWAY
        self.calls.append(op)

    async def view(self) -> dict[str, Any]:
        return {}

    def need_running(self) -> None:
        pass

    def device_worker(self, swap: bool) -> Worker:
        return Worker(Phase.STOPPED)


def daemon(session: Session, folder: Path) -> Any:
    saved: list[Any] = []
    settings = SimpleNamespace(dev=folder)

    async def save() -> None:
        saved.append(session.desired.swap)

    return SimpleNamespace(pools={"pool0": session}, sessions={}, settings=settings, save_pools=save, saved=saved)


def test_swap_that_nobody_could_switch_off_is_not_dropped(monkeypatch, tmp_path):
    """Its worker is away: what the kernel has in it would be gone."""
    session = Session(Phase.WAITING)
    monkeypatch.setattr(methods, "is_on", lambda device: device == tmp_path / "pool0-swap")
    with pytest.raises(DatapathError) as caught:
        asyncio.run(methods.stop_swap(daemon(session, tmp_path), {"pool": "pool0"}))
    assert caught.value.code == Code.BUSY and "swapoff" in caught.value.hint
    assert session.swap and not session.swap.ended and session.calls == [] and session.desired.swap
    monkeypatch.setattr(methods, "is_on", lambda device: False)
    asyncio.run(methods.stop_swap(daemon(session, tmp_path), {"pool": "pool0"}))
    assert session.swap is None and session.calls == ["swap_drop"]


def test_a_stop_without_the_pool_is_kept_and_what_it_left_goes_with_the_next_start(monkeypatch, tmp_path):
    session = Session(Phase.RUNNING)
    session.away = True
    made = daemon(session, tmp_path)
    with pytest.raises(DatapathError):
        asyncio.run(methods.stop_swap(made, {"pool": "pool0"}))
    assert session.desired.swap is None and made.saved == [None]
    session.away = False
    asyncio.run(methods.start_swap(made, {"pool": "pool0", "size": 32 * PAGE, "priority": 5}))
    assert session.calls == ["swap_drop"] and made.saved[-1] == SwapState("pool0-swap", 32, 5)


def test_a_pool_whose_name_leaves_no_room_for_that_of_its_swap(tmp_path):
    session = Session(Phase.STOPPED)
    session.name, session.desired.swap, session.swap = "p" * 60, None, None
    made = daemon(session, tmp_path)
    made.pools = {session.name: session}
    with pytest.raises(DatapathError) as caught:
        asyncio.run(methods.start_swap(made, {"pool": session.name, "size": 1 << 20, "priority": 5}))
    assert caught.value.code == Code.INVALID


# ---- the index --------------------------------------------------------------------------------------------------------------


def test_a_damaged_index_of_swap_does_not_keep_blocks_away(memory, runtime):  # noqa: F811
    with ExitStack() as stack:
        first = ServedPool(memory, runtime, stack)
        first.pool.blocks.write(0, b"\x44" * PAGE)
        with first.client() as client:
            client.call("swap_make", blocks=128)
        first.stop()
        with (runtime / "pool0.swap-index").open("r+b") as file:
            file.seek(PAGE)
            file.write((1 << 40).to_bytes(8, "little"))
        again = ServedPool(memory, runtime, stack)
        assert again.pool.blocks.read(0, PAGE) == b"\x44" * PAGE
        assert "swap cannot be served" in again.pool.notes[0]
        with again.client() as client:
            with pytest.raises(DatapathError) as caught:
                client.call("swap_make", blocks=128)
            assert caught.value.code == Code.CORRUPT
            client.call("swap_drop")
            client.call("swap_make", blocks=256)
            assert again.pool.swap and again.pool.swap.blocks == 256


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_an_index_without_room_is_refused(served: ServedPool, tmp_path):  # noqa: F811
    """It was made sparse, and the pool's process died of its first touch, again and again."""
    uuid = served.pool.superblock.uuid
    with small_disk(tmp_path / "small", 1 << 20) as folder:
        with pytest.raises(DatapathError) as caught:
            SwapIndex.make(folder, "pool0", uuid, 1 << 30)
        assert caught.value.code == Code.FULL and not list(folder.iterdir())
        SwapIndex.make(folder, "pool0", uuid, 64).remove()
