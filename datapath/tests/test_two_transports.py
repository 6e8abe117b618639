# SPDX-License-Identifier: GPL-3.0-or-later
"""One daemon in two transports: what takes long in one of them keeps nobody waiting who wants something of the other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import Host, wait_until
from lab import LEASE_MS

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.methods.in_use import check_name_free
from cxl_datapath.service import Datapath
from cxl_datapath.session import Session, Settings
from cxl_datapath.state import BackendState, BlkdevState, TransportState

SIZE = 1 << 20
GEOMETRY = {"hosts": 2, "backends": 2, "blkdevs": 1, "channels": 1, "ring_depth": 2, "slot_bytes": 4096}


def test_a_lease_of_minutes_keeps_no_other_transport_waiting(
    make_host: Callable[..., Host], shared_file: Callable[[int], Path], tmp_path: Path
) -> None:
    host, memories = make_host("node1"), [str(shared_file(SIZE)) for _ in range(3)]
    for number, memory in enumerate(memories):
        lease_ms = 600_000 if number == 0 else LEASE_MS
        host.call("cbd.transport.format", memory=memory, name=f"pool{number}", lease_ms=lease_ms, **GEOMETRY)
    for memory in memories[:2]:
        host.call("cbd.transport.register", memory=memory)
    disk = tmp_path / "disk"
    disk.touch()
    os.truncate(disk, SIZE)
    host.kill()
    host.start()
    words = "an earlier life of host node1 in transport pool0 to be silent for 600 s"
    wait_until(lambda: words in host.call("hello")["waits_for"], "pool0 waits for the earlier life of this host")
    states = wait_until(lambda: (now := shown(host))["pool1"] == "running" and now, "pool1 is there again")
    assert states["pool0"] == "pending"
    assert host.call("cbd.backend.start", transport="pool1", path=str(disk))["worker"]["state"] == "running"
    assert host.call("cbd.transport.register", memory=memories[2])["state"] == "running"
    assert host.cli("status").returncode == 0
    assert host.call("cbd.backend.stop", transport="pool1", id=0)["state"] == "stopped"
    assert shown(host) == {"pool0": "pending", "pool1": "running", "pool2": "running"}


def shown(host: Host) -> dict[str, str]:
    return {row["name"]: row["state"] for row in host.call("cbd.transport.list")}


@pytest.fixture
def datapath(tmp_path: Path) -> Datapath:
    made = Datapath(Settings(tmp_path, tmp_path, "node1"))
    for name in ("pool0", "pool1"):
        made.sessions[name] = Session(TransportState(f"/dev/shm/{name}", name, name), made.settings)
    return made


def test_what_is_only_being_started_is_not_saved_by_another_change(datapath: Datapath) -> None:
    session, state = datapath.sessions["pool0"], BackendState(0, "/srv/disk", False)
    session.desired.backends.append(state)

    async def scenario() -> None:
        with session.unsaved(state):
            await datapath.save()
            assert [each.backends for each in datapath._file.load()] == [[], []]
        await datapath.save()
        assert [each.backends for each in datapath._file.load()] == [[state], []]
        session.leaving = True
        await datapath.save()
        assert [each.name for each in datapath._file.load()] == ["pool1"]

    asyncio.run(scenario())


def test_a_name_that_another_transport_took_meanwhile_is_refused(datapath: Datapath) -> None:
    mine, theirs = (BlkdevState(0, 0, 1, "auto", "data", False, False, 120, 1) for _ in range(2))
    datapath.sessions["pool0"].desired.blkdevs.append(mine)
    check_name_free(datapath, "data", but=mine)
    datapath.sessions["pool1"].desired.blkdevs.append(theirs)
    with pytest.raises(DatapathError) as caught:
        check_name_free(datapath, "data", but=mine)
    assert (caught.value.code, "pool1" in caught.value.message) == (Code.EXISTS, True)


def test_changes_of_one_transport_wait_for_each_other_and_for_no_other(datapath: Datapath) -> None:
    async def scenario() -> None:
        order: list[str] = []

        async def change(transport: str | None, word: str, begun: asyncio.Event, go: asyncio.Event) -> None:
            async with datapath.changing(transport):
                begun.set()
                await go.wait()
                order.append(word)

        first, second, go, free = (asyncio.Event() for _ in range(4))
        free.set()
        slow = asyncio.create_task(change("pool0", "slow", first, go))
        await first.wait()
        behind = asyncio.create_task(change("pool0", "behind", second, free))
        await asyncio.sleep(0)  # it waits now
        for transport in ("pool1", None, "no such transport"):
            await change(transport, "other", asyncio.Event(), free)
        assert (order, second.is_set()) == (["other"] * 3, False)
        datapath.sessions["pool0"] = Session(datapath.sessions["pool0"].desired, datapath.settings)  # registered anew
        third, stop = asyncio.Event(), asyncio.Event()
        newer = asyncio.create_task(change("pool0", "newer", third, stop))
        await third.wait()
        go.set()
        await slow
        await asyncio.sleep(0)
        assert not second.is_set(), "who waited for the old one waits for the new one, too"
        stop.set()
        await asyncio.gather(newer, behind)
        assert order[3:] == ["slow", "newer", "behind"]

    asyncio.run(scenario())
