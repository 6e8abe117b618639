# SPDX-License-Identifier: GPL-3.0-or-later
"""A host comes back and finds that what it had is not in the transport any more: it keeps the number, and nothing else."""

from __future__ import annotations

from pathlib import Path

from hosts import Host, wait_until
from lab import io_works, needs_nbd
from mishaps import die
from trio import ONE, START, T, Trio, sees

from cxl_datapath.errors import Code

pytestmark = needs_nbd


def hide(path: Path) -> Path:
    """The disk is not there."""
    return path.rename(path.with_suffix(".hidden"))


def come_back(host: Host, observer: Host) -> None:
    host.start()
    wait_until(lambda: sees(observer, host.name), f"{host.name} is back")


def shown(host: Host, kind: str) -> list[tuple[int, str]]:
    return [(row["id"], row["state"]) for row in host.call(f"cbd.{kind}.list", **T)]


# ---- numbers


def test_the_id_of_a_backend_without_an_entry_is_not_given_away(trio: Trio) -> None:
    disk, other = trio.disk(), trio.disk("other")
    trio.node1.call("cbd.backend.start", **T, path=str(disk))
    die(trio.node1, trio.node3)
    trio.node3.call("cbd.host.clear", **T, id=trio.host_id("node1"))
    hide(disk)
    come_back(trio.node1, trio.node3)
    trio.node1.refuse(Code.EXISTS, "cbd.backend.start", **ONE, path=str(other))
    started = trio.node1.call("cbd.backend.start", **T, path=str(other))
    assert (started["id"], started["path"]) == (1, str(other))
    assert [row["id"] for row in trio.node1.call("cbd.backend.list", **T)] == [0, 1]
    trio.node1.call("cbd.backend.stop", **ONE)
    assert shown(trio.node1, "backend") == [(1, "running")]


def test_the_id_of_a_lost_blkdev_is_not_given_away(trio: Trio) -> None:
    trio.mapped()
    die(trio.node2, trio.node3)
    trio.node3.call("cbd.blkdev.clear", **ONE)
    come_back(trio.node2, trio.node3)
    wait_until(lambda: shown(trio.node2, "blkdev") == [(0, "lost")], "node2 knows that it lost its blkdev")
    started = trio.node2.call("cbd.blkdev.start", **START, name="other")
    assert started["id"] == 1
    assert shown(trio.node2, "blkdev") == [(0, "lost"), (1, "running")]
    assert trio.node2.cli("status").returncode == 0
    trio.node2.stop()
    trio.node2.start()
    wait_until(lambda: shown(trio.node2, "blkdev") == [(0, "lost"), (1, "running")], "everything is rebuilt")
    wait_until(lambda: trio.node2.worker("blkdev", "pool0", 1)["state"] == "running", "the device is there again")
    assert io_works(started["device"], 0x41)
