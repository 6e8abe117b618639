# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody cleans up the runtime folder of a daemon that runs: it says so, ends, and comes back with all that it had."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
from hosts import Host, wait_until
from lab import Lab, running

T = {"transport": "pool0"}


def ended(host: Host) -> bool:
    return not running(host.pid)


@pytest.mark.parametrize("name", ["", "control.sock", "lun.sock", "lock"])
def test_what_cannot_be_reached_ends_with_words_and_comes_back(lab: Lab, name: str) -> None:
    lab.node1.call("cbd.backend.start", **T, path=str(lab.disk()))
    victim = lab.node1.runtime / name
    if name:
        victim.unlink()
    else:
        shutil.rmtree(victim)
    wait_until(lambda: ended(lab.node1), "the daemon ends")
    said = lab.node1.log.read_text()
    assert "cxl-datapathd: " + str(victim) in said, said
    assert "is not at its path any more" in said and "start it again" in said
    lab.node1.kill()
    lab.node1.start()
    wait_until(lambda: lab.node1.worker("backend", "pool0", 0)["state"] == "running", "its backend is served again")


def test_what_has_the_place_of_its_socket_is_left_alone(make_host: Callable[..., Host]) -> None:
    host = make_host("node1")
    host.socket.rename(host.socket.with_suffix(".old"))
    host.socket.write_text("mine")
    wait_until(lambda: ended(host), "the daemon ends")
    assert "another file is at its path now" in host.log.read_text()
    assert host.socket.read_text() == "mine"
    host.kill()
