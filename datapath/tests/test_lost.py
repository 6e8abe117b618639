# SPDX-License-Identifier: GPL-3.0-or-later
"""A host comes back and finds that what it had is not in the transport any more: it keeps the number, and nothing else."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

from claimants import Claimant
from hosts import Host, wait_until
from lab import alive, io_works, needs_nbd
from mishaps import die, murder
from trio import ONE, START, T, Trio, sees

from cxl_datapath.cbd.registry import Registry
from cxl_datapath.cbd.transport import attach
from cxl_datapath.errors import Code
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import resolve

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


# ---- media


def test_a_backend_that_was_taken_over_and_stopped_does_not_come_back_with_its_old_disk(trio: Trio) -> None:
    disk, copy = trio.disk(), trio.disk("copy")
    trio.node1.call("cbd.backend.start", **T, path=str(disk))
    die(trio.node1, trio.node3)
    trio.node3.call("cbd.backend.recover", **ONE, path=str(copy))
    trio.node3.call("cbd.backend.stop", **ONE)
    come_back(trio.node1, trio.node3)
    error = wait_until(lambda: trio.node1.worker("backend", "pool0", 0)["error"], "node1 says what became of its backend")
    assert "was removed" in error["message"]
    assert shown(trio.node1, "backend") == [(0, "lost")]
    assert trio.node3.call("cbd.backend.list", **T) == []
    trio.node1.refuse(Code.EXISTS, "cbd.backend.start", **T, path=str(disk))
    trio.node1.call("cbd.backend.stop", **ONE)
    assert trio.node1.call("cbd.backend.start", **T, path=str(disk))["state"] == "running"


def test_a_host_that_was_cleared_does_not_serve_its_old_disk(trio: Trio) -> None:
    trio.node1.call("cbd.backend.start", **T, path=str(trio.disk()))
    die(trio.node1, trio.node3)
    trio.node3.call("cbd.host.clear", **T, id=trio.host_id("node1"))
    come_back(trio.node1, trio.node3)
    wait_until(lambda: shown(trio.node1, "backend") == [(0, "lost")], "node1 lost its backend")
    trio.node3.call("cbd.backend.start", **T, path=str(trio.disk("other")))
    assert shown(trio.node1, "backend") == [(0, "running"), (0, "lost")]
    trio.node3.call("cbd.backend.stop", **ONE)
    trio.node1.refuse(Code.NOT_FOUND, "cbd.backend.recover", **ONE)
    assert trio.node3.call("cbd.backend.list", **T) == []


def test_a_state_file_without_lives_is_still_served(trio: Trio) -> None:
    _, device = trio.mapped()
    trio.node1.stop()
    file = trio.node1.state / "state.json"
    state = json.loads(file.read_text())
    assert state["transports"][0]["backends"][0].pop("life") > 0
    file.write_text(json.dumps(state))
    trio.node1.start()
    wait_until(lambda: trio.path_state() == "serving", "the path is back")
    assert io_works(device, 0x42)


def test_a_backend_of_a_host_that_comes_back_waits_for_the_claim(trio: Trio) -> None:
    """Whoever has the claim may be about to take the backend over, or to clear it."""
    trio.node1.call("cbd.backend.start", **T, path=str(trio.disk()))
    number = trio.host_id("node1")
    die(trio.node1, trio.node3)
    mapping = Mapping(resolve(trio.memory))
    registry = Registry(mapping, attach(mapping, trio.memory))
    before = registry.backends.read(0)
    holder = Claimant(Path(trio.memory), "holder")
    try:
        holder.ask("register")
        holder.ask("hold")
        trio.node1.start()
        wait_until(lambda: (claim := registry.claim(number)) and claim.number, "node1 waits for the claim")
        assert trio.node1.worker("backend", "pool0", 0)["state"] == "starting"
        assert registry.backends.read(0) == before
    finally:
        holder.kill()
        mapping.close()
    wait_until(lambda: trio.node1.worker("backend", "pool0", 0)["state"] == "running", "it is served again")


def test_a_device_whose_backend_was_removed_is_not_said_to_run(trio: Trio) -> None:
    """As when the backend's host comes back without its state, and gives it up: the blkdev would fail its requests for ever."""
    disk, _ = trio.mapped()
    murder(trio.node1)
    (trio.node1.state / "state.json").unlink()
    trio.node1.start()
    trio.node1.call("cbd.transport.register", memory=trio.memory)
    trio.node1.call("cbd.backend.clear", **ONE, force=True)
    wait_until(lambda: shown(trio.node2, "blkdev") == [(0, "lost")], "node2 says that its device lost its backend")
    trio.node1.call("cbd.backend.start", **T, path=str(disk))
    error = trio.node2.refuse(Code.NOT_FOUND, "cbd.blkdev.start", **START)
    assert "was removed" in error.message
    assert "stop it here" in error.hint
    assert trio.node2.call("cbd.blkdev.stop", **ONE)["state"] == "stopped"
    assert io_works(trio.node2.call("cbd.blkdev.start", **START)["device"], 0x61)


# ---- names


def test_the_name_of_what_was_lost_does_not_mean_what_another_host_has_under_its_number(trio: Trio) -> None:
    disk, copy = trio.disk(), trio.disk("copy")
    trio.node1.call("cbd.backend.start", **T, path=str(disk))
    trio.node1.call("cbd.blkdev.start", **START, name="mine")
    die(trio.node1, trio.node3)
    trio.node3.call("cbd.backend.recover", **ONE, path=str(copy))
    trio.node3.call("cbd.blkdev.clear", **ONE)
    trio.node3.call("cbd.blkdev.start", **START, name="theirs")
    come_back(trio.node1, trio.node3)
    wait_until(lambda: shown(trio.node1, "blkdev") == [(0, "running"), (0, "lost")], "node1 lost both")
    die(trio.node3, trio.node2)
    wait_until(lambda: alive(trio.node1, "node3") is False, "node1 sees that, too")
    for method, named in (
        ("cbd.backend.clear", {"id": str(disk), "force": True}),
        ("cbd.backend.recover", {"id": str(disk)}),
        ("cbd.blkdev.clear", {"id": "mine"}),
        ("cbd.blkdev.start", {"backend": str(disk), "frontend": "nbdkit", "name": "new"}),
    ):
        error = trio.node1.refuse(Code.NOT_FOUND, method, **T, **named)
        assert "node3" in error.message, error
        assert "stop pool0" in error.hint, error
    assert shown(trio.node2, "backend") == shown(trio.node2, "blkdev") == [(0, "running")]
    assert trio.node1.call("cbd.blkdev.stop", **T, id="mine")["state"] == "stopped"
    assert trio.node1.call("cbd.backend.stop", **T, id=str(disk))["state"] == "stopped"


# ---- leaving


def test_who_leaves_a_transport_forgets_what_it_lost_there(trio: Trio) -> None:
    disk, other = trio.disk(), trio.disk("other")
    trio.node1.call("cbd.backend.start", **T, path=str(disk))
    trio.node1.call("cbd.blkdev.start", **START, name="mine")
    die(trio.node1, trio.node3)
    trio.node3.call("cbd.backend.recover", **ONE)
    trio.node3.call("cbd.blkdev.clear", **ONE)
    come_back(trio.node1, trio.node3)
    wait_until(lambda: shown(trio.node1, "blkdev") == [(0, "lost")], "node1 lost both")
    listed = trio.node1.cli("cbd", "backend", "list", "pool0").stdout
    assert "given up (backend 0: was taken over by host node3" in listed
    assert "waiting" not in listed

    trio.node1.call("cbd.backend.start", **T, path=str(other))
    trio.node1.call("cbd.blkdev.start", **START | {"backend": 1}, name="own")
    refused = trio.node1.refuse(Code.BUSY, "cbd.transport.unregister", **T)
    assert "blkdev 1, backend 1 in it" in refused.message
    trio.node1.call("cbd.blkdev.stop", **T, id="own")
    trio.node1.call("cbd.backend.stop", **T, id=str(other))

    assert trio.node1.call("cbd.transport.unregister", **T)["state"] == "unregistered"
    assert shown(trio.node3, "backend") == [(0, "running")]
    trio.node1.call("cbd.transport.register", memory=trio.memory)
    assert shown(trio.node1, "blkdev") == []


# ---- a takeover that fails


def test_a_takeover_with_a_wrong_medium_fences_nobody(trio: Trio) -> None:
    trio.node1.call("cbd.backend.start", **T, path=str(trio.disk()))
    die(trio.node1, trio.node3)
    small, locked = trio.disk("small", 1 << 20), trio.disk("locked")
    with locked.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        trio.node3.refuse(Code.BUSY, "cbd.backend.recover", **ONE, path=str(locked))
    trio.node3.refuse(Code.RANGE, "cbd.backend.recover", **ONE, path=str(small))
    trio.node3.refuse(Code.NOT_FOUND, "cbd.backend.recover", **ONE, path=str(trio.folder / "missing"))
    assert [row["fenced"] for row in trio.node3.call("cbd.host.list", **T)] == [False] * 3


def test_a_takeover_that_fails_keeps_what_was_lost_in_view(trio: Trio) -> None:
    disk, copy, pool = trio.disk(), trio.disk("copy"), "kmem_blk:missing"
    trio.node1.call("cbd.backend.start", **T, path=str(disk))
    die(trio.node1, trio.node3)
    trio.node3.call("cbd.backend.recover", **ONE, path=str(copy))
    come_back(trio.node1, trio.node3)
    die(trio.node3, trio.node1)
    for path in (trio.folder / "missing", pool):
        trio.node1.refuse(Code.NOT_FOUND, "cbd.backend.recover", **ONE, path=str(path))
        assert shown(trio.node1, "backend") == [(0, "running"), (0, "lost")]
    assert trio.node1.call("cbd.backend.recover", **ONE, path=str(copy))["worker"]["state"] == "running"
    assert shown(trio.node1, "backend") == [(0, "running")]
