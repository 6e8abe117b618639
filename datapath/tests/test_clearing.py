# SPDX-License-Identifier: GPL-3.0-or-later
"""What a dead host leaves: cleared away or taken over, and its channels are used again."""

from __future__ import annotations

import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from claimants import Claimant
from hosts import wait_until
from lab import io_works, needs_nbd, socket_of
from mishaps import die
from nbd_client import Command, NbdClient, Refused
from trio import MANY, ONE, START, T, Trio, progress, sees
from verifying_writer import Background

from cxl_datapath.cbd.registry import Registry
from cxl_datapath.cbd.transport import attach
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import resolve

pytestmark = needs_nbd


def test_nothing_of_a_live_host_is_cleared(trio: Trio) -> None:
    _, device = trio.mapped()
    for method, number, owner in (
        ("cbd.host.clear", trio.host_id("node1"), "node1"),
        ("cbd.host.clear", trio.host_id("node2"), "node2"),
        ("cbd.blkdev.clear", 0, "node2"),
    ):
        error = trio.node3.refuse(Code.BUSY, method, **T, id=number)
        assert owner in error.message
    trio.node3.refuse(Code.BUSY, "cbd.backend.clear", **ONE)
    trio.node3.refuse(Code.BUSY, "cbd.backend.clear", **ONE, force=True)
    trio.node1.refuse(Code.INVALID, "cbd.host.clear", **T, id=trio.host_id("node1"))
    trio.node3.refuse(Code.NOT_FOUND, "cbd.host.clear", **T, id=9)
    trio.node3.refuse(Code.NOT_FOUND, "cbd.blkdev.clear", **T, id=9)
    trio.node3.refuse(Code.NOT_FOUND, "cbd.backend.clear", **T, id=9)
    for kind in ("host", "backend", "blkdev"):
        trio.node3.refuse(Code.RANGE, f"cbd.{kind}.clear", **T, id=16)
    assert io_works(device, 0x21)


def test_a_dead_hosts_blkdev_is_cleared_and_its_backend_is_free(trio: Trio) -> None:
    trio.mapped(queues=2)
    die(trio.node2, trio.node3)
    error = trio.node3.refuse(Code.BUSY, "cbd.blkdev.start", **START)
    assert "node2" in error.message
    assert trio.node3.call("cbd.blkdev.clear", **ONE)["state"] == "cleared"
    assert trio.node1.call("cbd.blkdev.list", **T) == []
    device = trio.node3.call("cbd.blkdev.start", **START)["device"]
    assert io_works(device, 0x22)
    trio.node2.start()
    row = wait_until(
        lambda: next((row for row in trio.node2.call("cbd.blkdev.list", **T) if (row.get("worker") or {}).get("error")), None),
        "node2 says what became of its blkdev",
    )
    assert row["worker"]["state"] != "running"
    theirs, lost = trio.node2.call("cbd.blkdev.list", **T)
    assert (theirs["host"], theirs["state"], theirs.get("worker"), theirs.get("name")) == ("node3", "running", None, None)
    assert (lost["id"], lost["host"], lost["state"], lost["name"]) == (theirs["id"], "node2", "lost", "cbd0")
    shown = trio.node2.cli("status").stdout
    assert len([line for line in shown.splitlines() if line.startswith("0") and " lost " in line and "cbd0" in line]) == 1, shown
    assert trio.node2.call("cbd.blkdev.stop", **ONE)["host"] == "node2"
    assert [row["host"] for row in trio.node2.call("cbd.blkdev.list", **T)] == ["node3"]
    assert io_works(device, 0x23)


def test_a_dead_host_is_cleared_and_comes_back_as_a_new_one(trio: Trio) -> None:
    _, device = trio.mapped()
    number = trio.host_id("node2")
    die(trio.node2, trio.node3)
    row = trio.node3.call("cbd.host.clear", **T, id=number)
    assert (row["state"], row["alive"], row["fenced"]) == ("cleared", False, True)
    assert {row["name"] for row in trio.node1.call("cbd.host.list", **T)} == {"node1", "node3"}
    assert trio.node1.call("cbd.blkdev.list", **T) == []
    trio.node3.refuse(Code.NOT_FOUND, "cbd.host.clear", **T, id=number)
    trio.node2.start()
    wait_until(lambda: sees(trio.node1, "node2"), "node2 is back")
    (back,) = [row for row in trio.node1.call("cbd.host.list", **T) if row["name"] == "node2"]
    assert (back["fenced"], back["epoch"] > row["epoch"] or back["id"] != number) == (False, True)
    trio.node2.call("cbd.blkdev.stop", **ONE)
    assert io_works(trio.node2.call("cbd.blkdev.start", **START)["device"], 0x24)
    assert not device.startswith("/dev")


def test_a_host_that_comes_back_while_its_clearing_waits_is_left_alone(trio: Trio) -> None:
    """The clearing waits for the claim, and a lease after that: for minutes, where a lease is long."""
    trio.mapped(io_timeout=3600)
    number, mine = trio.host_id("node1"), trio.host_id("node3")
    die(trio.node1, trio.node3)
    holder = Claimant(Path(trio.memory), "holder")
    with Mapping(resolve(trio.memory)) as mapping, ThreadPoolExecutor() as pool:
        registry = Registry(mapping, attach(mapping, trio.memory))
        try:
            holder.ask("register")
            holder.ask("hold")
            refused = pool.submit(trio.node3.refuse, Code.BUSY, "cbd.host.clear", **T, id=number, force=True)
            wait_until(lambda: (claim := registry.claim(mine)) and claim.number, "node3 waits for the claim")
            trio.node1.start()
            wait_until(lambda: sees(trio.node3, "node1"), "node1 is back")
        finally:
            holder.kill()
        assert "alive again" in refused.result().message
    wait_until(lambda: trio.path_state() == "serving", "node1 serves what it had")


@pytest.mark.parametrize("kind", ["host", "backend"])
def test_what_live_blkdevs_use_is_cleared_by_force_only(trio: Trio, kind: str) -> None:
    _, device = trio.mapped(io_timeout=3600)
    number = {"host": trio.host_id("node1"), "backend": 0}[kind]
    die(trio.node1, trio.node3)
    error = trio.node3.refuse(Code.BUSY, f"cbd.{kind}.clear", **T, id=number)
    assert "node2" in error.message
    trio.node3.call(f"cbd.{kind}.clear", **T, id=number, force=True)
    with NbdClient(socket_of(device)) as client:
        with pytest.raises(Refused) as caught:  # a backend that was cleared does not come back: nobody has to wait
            client.call(Command.READ, 0, 4096)
        assert caught.value.errno == errno.EIO
    assert trio.node3.call("cbd.backend.list", **T) == []
    wait_until(lambda: _stopped(trio), "the device can be stopped")
    assert trio.node3.call("cbd.blkdev.list", **T) == []


def _stopped(trio: Trio) -> bool:
    try:
        return bool(trio.node2.call("cbd.blkdev.stop", **ONE)["state"] == "stopped")
    except DatapathError as error:
        assert error.code == Code.BUSY  # the server has not yet seen that its client is gone
        return False


# ---- channels


def test_channels_of_a_dead_blkdev_are_used_again(make_trio: Callable[..., Trio]) -> None:
    trio = make_trio(channels=2)
    trio.mapped(queues=2, read_only=True)
    wish = START | {"queues": 2, "read_only": True}
    trio.node3.refuse(Code.FULL, "cbd.blkdev.start", **wish)
    for round_number in range(3):
        used, other = (trio.node2, trio.node3) if round_number % 2 == 0 else (trio.node3, trio.node2)
        die(used, trio.node1)
        number = next(row["id"] for row in trio.node1.call("cbd.blkdev.list", **T))
        trio.node1.call("cbd.blkdev.clear", **T, id=number)
        started = other.call("cbd.blkdev.start", **wish)
        assert sorted(started["channels"]) == [0, 1]
        used.start()
        wait_until(lambda back=used: sees(trio.node1, back.name), "it is back")
        used.call("cbd.blkdev.stop", **T, id=number)  # it still wants what was cleared


def test_a_takeover_takes_fresh_channels(make_trio: Callable[..., Trio]) -> None:
    """A dead host that only slept could still answer in its old ones; back again, it gives them back."""
    trio = make_trio(channels=4)
    disk, device = trio.mapped(queues=2)
    with Background(socket_of(device), 8, 6) as writer:
        for dead, heir, channels in ((trio.node1, trio.node3, {2, 3}), (trio.node3, trio.node1, {0, 1})):
            progress(writer, 100)
            if heir is trio.node1:
                heir.start()
                wait_until(lambda: sees(trio.node3, "node1"), "the heir is registered")
            die(dead, heir)
            heir.call("cbd.backend.recover", **ONE)
            progress(writer, MANY)
            assert set(trio.node2.call("cbd.blkdev.list", **T)[0]["channels"]) == channels
        writer.finish()
        assert (writer.writer.errors, writer.connections) == (0, 1)
    writer.writer.check_file(disk)


def test_a_takeover_without_free_channels_waits_for_the_clearing_of_the_dead(make_trio: Callable[..., Trio]) -> None:
    trio = make_trio(channels=2)
    disk, device = trio.mapped(queues=2)
    with Background(socket_of(device), 8, 7) as writer:
        progress(writer, 100)
        die(trio.node1, trio.node3)
        trio.node3.call("cbd.backend.recover", **ONE)
        wait_until(lambda: "cbd host clear" in trio.node2.log.read_text(), "node2 says what to do")
        assert trio.path_state() == "paused"
        trio.node3.call("cbd.host.clear", **T, id=trio.host_id("node1"))
        progress(writer, MANY)
        writer.finish()
        assert (writer.writer.errors, writer.connections) == (0, 1)
    writer.writer.check_file(disk)
