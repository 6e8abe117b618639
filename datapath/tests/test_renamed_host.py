# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that is started under another name goes on as what it was; one with the state of another host does not."""

from __future__ import annotations

import shutil

import pytest
from hosts import wait_until
from lab import io_works, needs_nbd
from trio import T, Trio

pytestmark = needs_nbd


def names(trio: Trio) -> list[str]:
    return [row["name"] for row in trio.node3.call("cbd.host.list", **T)]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_renamed_host_has_its_place_its_backends_and_its_blkdevs(trio: Trio, end: str) -> None:
    _, device = trio.mapped(io_timeout=3600)
    own = trio.node1.call("cbd.blkdev.start", **T, backend=0, frontend="nbdkit", name="own", read_only=True)
    number = trio.host_id("node1")
    assert io_works(device, 0x31)
    getattr(trio.node1, end)()
    trio.node1.name = "storage"
    trio.node1.start()
    wait_until(lambda: "storage" in names(trio), "it is registered under its new name")
    assert names(trio).count("node1") == 0 and trio.host_id("storage") == number
    wait_until(lambda: trio.path_state() == "serving", "the device of the other host goes on")
    assert io_works(device, 0x32)
    (backend,) = trio.node1.call("cbd.backend.list", **T)
    assert (backend["host"], backend["state"], backend["local"]) == ("storage", "running", True)
    wait_until(lambda: trio.node1.worker("blkdev", "pool0", own["id"])["state"] == "running", "its own device goes on")


def test_a_copy_of_the_state_of_a_living_host_takes_nothing_from_it(trio: Trio) -> None:
    """As on a machine that was cloned: it gets a place of its own, and what the other one has is lost to it."""
    _, device = trio.mapped(io_timeout=3600)
    trio.node3.stop()
    shutil.copy(trio.node1.state / "state.json", trio.node3.state)
    trio.node3.start()
    wait_until(lambda: trio.node3.call("cbd.transport.list")[0]["state"] == "running", "it is registered")
    assert set(names(trio)) == {"node1", "node2", "node3"}
    lost = next(row for row in trio.node3.call("cbd.backend.list", **T) if row["state"] == "lost")
    assert "node1" in lost["worker"]["error"]["message"]
    assert io_works(device, 0x33)
