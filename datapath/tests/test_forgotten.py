# SPDX-License-Identifier: GPL-3.0-or-later
"""A host whose state file is gone: what it had in the transport, and others still use, waits for what its user decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hosts import wait_until
from lab import DISK, io_works, needs_nbd, stopped
from trio import ONE, START, T, Trio, sees

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


def test_other_hosts_are_told_what_to_do_and_it_works(forgotten: tuple[Trio, Path, str]) -> None:
    """To stop it on its host is refused while it has users: nobody is sent there for that."""
    trio, disk, device = forgotten
    wait_until(lambda: trio.path_state() == "paused", "the device waits")
    reason = lambda: trio.node2.worker("blkdev", "pool0", 0)["info"]["path_reason"]  # noqa: E731
    wait_until(lambda: "node1 is back and does not serve it; see why, on node1" in (reason() or ""), "node2 says why")
    again = f"serve it again, on node1: cxl-datapath cbd backend start pool0 {disk}"
    refused = [
        trio.node3.refuse(Code.BUSY, "cbd.backend.recover", **ONE),
        trio.node3.refuse(Code.BUSY, "cbd.backend.clear", **ONE, force=True),
        trio.node3.refuse(Code.DENIED, "cbd.backend.stop", **ONE),
        trio.node3.refuse(Code.NOT_READY, "cbd.blkdev.start", **START, read_only=True),
    ]
    for error in refused:
        assert again in error.hint, error
        assert "stop cxl-datapathd on node1, wait 1 s, then take it over here" in error.hint
        assert "not serve it" in error.message
    # The host cannot serve it any more: the other way that the hint names.
    trio.node1.stop()
    wait_until(lambda: not sees(trio.node3, "node1"), "node3 sees it dead")
    assert trio.node3.call("cbd.backend.recover", **ONE)["host"] == "node3"
    wait_until(lambda: trio.path_state() == "serving", "the device goes on")
    assert io_works(device, 0x25)
    trio.node1.start()
    wait_until(lambda: sees(trio.node3, "node1"), "node1 is back")
    assert [row["host"] for row in trio.node1.call("cbd.backend.list", **T)] == ["node3"]


def test_who_registers_or_starts_another_disk_hears_of_it(trio: Trio) -> None:
    disk = trio.disk("disk one")
    trio.node1.call("cbd.backend.start", **T, path=str(disk))
    trio.node2.call("cbd.blkdev.start", **START)
    trio.node1.stop()
    (trio.node1.state / "state.json").unlink()
    trio.node1.start()
    registered = trio.node1.cli("cbd", "transport", "register", trio.memory)
    other = trio.disk("other")
    started = trio.node1.cli("cbd", "backend", "start", "pool0", str(other))
    for done in (registered, started):
        assert done.returncode == 0, done.stderr
        assert f"beware: backend 0 ({disk}) was forgotten" in done.stderr
        assert f"serve it again: cxl-datapath cbd backend start pool0 '{disk}'" in done.stderr
    error = trio.node1.refuse(Code.EXISTS, "cbd.backend.start", **ONE, path=str(trio.disk("third")))
    assert "was forgotten" in error.message and "serve it again" in error.hint
    assert shown(trio) == [(0, "forgotten"), (1, "running")]
    link = trio.folder / "link"
    link.symlink_to(disk)
    served = trio.node1.call("cbd.backend.start", **T, path=str(link))
    assert (served["id"], served["state"]) == (0, "running")
    assert trio.node1.call("cbd.backend.start", **T, path=str(other)).get("warnings", []) == []
    assert trio.node1.cli("cbd", "transport", "register", trio.memory).stderr == ""


def test_a_link_names_what_it_leads_to(trio: Trio) -> None:
    disk, link, hard = trio.disk(), trio.folder / "link", trio.folder / "hard"
    link.symlink_to(disk)
    hard.hardlink_to(disk)
    trio.node1.call("cbd.backend.start", **T, path=str(disk))
    trio.node1.refuse(Code.NOT_FOUND, "cbd.backend.stop", **T, id=str(trio.disk("other")))
    assert trio.node1.call("cbd.backend.recover", **T, id=str(link))["id"] == 0
    assert trio.node1.call("cbd.blkdev.start", **START | {"backend": str(hard)})["backend"] == 0
    wait_until(lambda: stopped(trio.node1), "the device is stopped")
    trio.node2.refuse(Code.NOT_FOUND, "cbd.backend.stop", **T, id=str(link))  # only the host itself knows where a link leads
    assert trio.node1.call("cbd.backend.stop", **T, id=str(link))["state"] == "stopped"
    assert shown(trio) == []
    trio.node1.call("cbd.backend.start", **T, path=str(link))
    assert trio.node1.call("cbd.backend.stop", **T, id=str(disk))["state"] == "stopped"
