# SPDX-License-Identifier: GPL-3.0-or-later
"""The entry of a host, damaged in both copies: what the host has stays its own, whether it runs or comes back."""

from __future__ import annotations

import json

from hosts import wait_until
from lab import Lab, io_works, needs_nbd
from mishaps import damage
from trio import T

pytestmark = needs_nbd


def hosts(lab: Lab) -> list[tuple[int, str, object]]:
    return [(row["id"], row.get("name", "?"), row["state"]) for row in lab.node2.call("cbd.host.list", **T)]


WHOLE = [(0, "node1", "running"), (1, "node2", "running")]


def test_a_host_that_runs_writes_it_again_and_nobody_notices(lab: Lab) -> None:
    _, device = lab.mapped()
    damage(lab.memory, "hosts")
    wait_until(lambda: hosts(lab) == WHOLE, "the entry is what it was")
    (row,) = lab.node1.call("cbd.transport.list")
    assert (row["state"], row["host_id"], row["host_epoch"]) == ("running", 0, 1)
    assert lab.node1.worker("backend", "pool0", 0)["restarts"] == 0
    assert io_works(device, 0x61)


def test_a_host_that_comes_back_keeps_its_number_and_its_backend(lab: Lab) -> None:
    _, device = lab.mapped(io_timeout=3600)
    lab.node1.stop()
    damage(lab.memory, "hosts")
    lab.node1.start()
    wait_until(lambda: hosts(lab) == WHOLE, "node1 is back in its entry")
    wait_until(lambda: lab.node1.worker("backend", "pool0", 0)["state"] == "running", "its backend is served again")
    assert [row["state"] for row in lab.node1.call("cbd.backend.list", **T)] == ["running"]
    assert io_works(device, 0x62)
    state = json.loads((lab.node1.state / "state.json").read_text())
    (row,) = lab.node1.call("cbd.transport.list")
    assert state["transports"][0]["seat"] == {"id": 0, "epoch": row["host_epoch"]}
