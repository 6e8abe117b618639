# SPDX-License-Identifier: GPL-3.0-or-later
"""A host whose state file is gone: what it had in the transport, and others still use, waits for what its user decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hosts import wait_until
from lab import DISK, io_works, needs_nbd, stopped
from trio import ONE, START, T, Trio

from cxl_datapath.errors import Code

pytestmark = needs_nbd


def lose_state(trio: Trio) -> None:
    """node1 is started again without its state file, and registered again by its user."""
    trio.node1.stop()
    (trio.node1.state / "state.json").unlink()
    trio.node1.start()
    trio.node1.call("cbd.transport.register", memory=trio.memory)


def shown(trio: Trio) -> list[tuple[int, str]]:
    return [(row["id"], row["state"]) for row in trio.node1.call("cbd.backend.list", **T)]


@pytest.fixture
def forgotten(trio: Trio) -> tuple[Trio, Path, str]:
    """With the disk of node1 and the device of node2 that is on it."""
    disk, device = trio.mapped(io_timeout=3600)
    assert io_works(device, 0x21)
    lose_state(trio)
    return trio, disk, device


def test_a_backend_that_is_used_is_shown_and_served_again_with_its_path(forgotten: tuple[Trio, Path, str]) -> None:
    trio, disk, device = forgotten
    assert shown(trio) == [(0, "forgotten")]
    assert "forgotten" in trio.node1.cli("status").stdout
    assert "backend 0" in trio.node1.log.read_text().rpartition("forgotten")[0].rpartition("\n")[2]
    wait_until(lambda: trio.path_state() == "paused", "the device waits")
    row = trio.node1.call("cbd.backend.start", **T, path=str(disk))
    assert (row["id"], row["state"], row["local"]) == (0, "running", True)
    wait_until(lambda: trio.path_state() == "serving", "the device goes on")
    assert io_works(device, 0x22)
    trio.node1.stop()
    trio.node1.start()
    wait_until(lambda: trio.path_state() == "serving", "it is remembered again")


def test_no_other_backend_gets_its_number_and_nothing_of_it_goes_by_accident(forgotten: tuple[Trio, Path, str]) -> None:
    trio, disk, _ = forgotten
    trio.node1.refuse(Code.EXISTS, "cbd.backend.start", **ONE, path=str(trio.disk("other")))
    assert "read-write" in trio.node1.refuse(Code.EXISTS, "cbd.backend.start", **T, path=str(disk), read_only=True).message
    for method in ("cbd.backend.stop", "cbd.backend.clear"):
        assert "blkdev 0 of host node2" in trio.node1.refuse(Code.BUSY, method, **ONE).message
    assert "backend 0" in trio.node1.refuse(Code.BUSY, "cbd.transport.unregister", **T).message
    assert shown(trio) == [(0, "forgotten")]
    trio.node3.refuse(Code.BUSY, "cbd.backend.recover", **ONE)


def test_a_start_that_fails_leaves_it_as_it_was(forgotten: tuple[Trio, Path, str]) -> None:
    trio, disk, device = forgotten
    hidden = disk.rename(disk.with_suffix(".hidden"))
    trio.node1.refuse(Code.NOT_FOUND, "cbd.backend.start", **T, path=str(disk))
    assert shown(trio) == [(0, "forgotten")]
    assert json.loads((trio.node1.state / "state.json").read_text())["transports"][0]["backends"] == []
    # A disk that is elsewhere now: the user says that it has the data.
    row = trio.node1.call("cbd.backend.recover", **ONE, path=str(hidden))
    assert (row["state"], row["path"], row["capacity"]) == ("running", str(hidden), DISK)
    wait_until(lambda: trio.path_state() == "serving", "the device goes on")
    assert io_works(device, 0x23)


def test_its_users_stop_and_then_it_can_be_stopped(forgotten: tuple[Trio, Path, str]) -> None:
    trio, _, _ = forgotten
    wait_until(lambda: stopped(trio.node2), "node2 stops its device")
    assert trio.node1.call("cbd.backend.stop", **ONE)["state"] == "stopped"
    assert shown(trio) == []


def test_it_is_cleared_by_force(forgotten: tuple[Trio, Path, str]) -> None:
    trio, disk, _ = forgotten
    assert trio.node1.call("cbd.backend.clear", **ONE, force=True)["state"] == "cleared"
    assert shown(trio) == []
    rows = trio.node2.call("cbd.blkdev.list", **T)
    wait_until(lambda: trio.node2.call("cbd.blkdev.list", **T)[0]["state"] == "lost", f"its user is told: {rows}")
    listed = lambda: trio.node2.cli("cbd", "blkdev", "list", "pool0").stdout  # noqa: E731
    wait_until(lambda: "offline (backend 0 was stopped or cleared; stop this blkdev" in listed(), "with the next step")
    assert trio.node1.call("cbd.backend.start", **T, path=str(disk))["id"] == 0


def test_what_has_no_users_is_taken_back_and_that_is_said(trio: Trio) -> None:
    """A blkdev of this host is no user: it went with the same file."""
    disk = trio.disk()
    trio.node1.call("cbd.backend.start", **T, path=str(disk))
    trio.node1.call("cbd.blkdev.start", **START)
    lose_state(trio)
    assert shown(trio) == []
    assert f"cleared blkdev 0 (on backend 0), backend 0 ({disk}): left by an earlier life" in trio.node1.log.read_text()


def test_a_state_file_of_an_earlier_day_does_not_clear_the_backend_that_has_the_number_now(trio: Trio) -> None:
    old = trio.disk("old")
    trio.node1.call("cbd.backend.start", **T, path=str(old))
    file = trio.node1.state / "state.json"
    before = file.read_bytes()
    trio.node1.call("cbd.backend.stop", **ONE)
    disk, device = trio.mapped(io_timeout=3600)
    trio.node1.stop()
    file.write_bytes(before)
    trio.node1.start()
    wait_until(lambda: sorted(shown(trio)) == [(0, "forgotten"), (0, "lost")], "node1 shows both")
    assert trio.node1.call("cbd.backend.stop", **ONE)["path"] == str(old)
    assert shown(trio) == [(0, "forgotten")]
    trio.node1.call("cbd.backend.start", **T, path=str(disk))
    wait_until(lambda: trio.path_state() == "serving", "the device goes on")
    assert io_works(device, 0x24)
