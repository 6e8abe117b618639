# SPDX-License-Identifier: GPL-3.0-or-later
"""An entry that nobody can read: cleared when its host is certainly dead, or when somebody says that no living host has it."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from hosts import Host, wait_until
from lab import io_works, needs_nbd
from mishaps import damage, die, paused
from trio import ONE, START, T, Trio

from cxl_datapath.cbd.registry import Registry
from cxl_datapath.cbd.transport import attach
from cxl_datapath.errors import Code
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import resolve


def shown(host: Host, kind: str) -> list[str]:
    return [row["state"] for row in host.call(f"cbd.{kind}.list", **T)]


def claimed(memory: str) -> bool:
    with Mapping(resolve(memory)) as mapping:
        registry = Registry(mapping, attach(mapping, memory))
        return any((line := registry.claim(host)) and line.number for host in registry.hosts.used())


@needs_nbd
@pytest.mark.parametrize(("kind", "owner"), [("backend", "node1"), ("blkdev", "node2")])
@pytest.mark.parametrize("force", [False, True])
def test_that_of_a_living_host_whose_worker_only_waits_is_not_cleared(trio: Trio, kind: str, owner: str, force: bool) -> None:
    _, device = trio.mapped(io_timeout=3600)
    workers = [node.worker(noun, "pool0", 0)["pid"] for node, noun in ((trio.node1, "backend"), (trio.node2, "blkdev"))]
    with paused(workers):
        damage(trio.memory, f"{kind}s")
        error = trio.node3.refuse(Code.BUSY, f"cbd.{kind}.clear", **ONE, force=force)
        named = error.message + error.hint
        assert owner in named or (kind == "backend" and not force and "blkdev 0 of host node2" in named), error
        assert shown(trio.node3, kind) == ["corrupt"]
    wait_until(lambda: shown(trio.node3, kind) == ["running"], "its host writes it again")
    wait_until(lambda: io_works(device, 0x31), "the device works")


def test_that_of_a_backend_without_users_may_be_any_living_hosts(trio: Trio) -> None:
    trio.node1.call("cbd.backend.start", **T, path=str(trio.disk()))
    with paused([trio.node1.worker("backend", "pool0", 0)["pid"]]):
        damage(trio.memory, "backends")
        error = trio.node3.refuse(Code.BUSY, "cbd.backend.clear", **ONE)
        assert "node1, node2" in error.message
        assert "cbd backend list on each" in error.hint
        assert "cbd backend stop pool0 0" in trio.node1.refuse(Code.INVALID, "cbd.backend.clear", **ONE, force=True).hint
        assert shown(trio.node3, "backend") == ["corrupt"]
    wait_until(lambda: shown(trio.node3, "backend") == ["running"], "its host writes it again")


def test_who_says_that_no_living_host_has_it_is_believed_for_a_lease(trio: Trio) -> None:
    trio.node1.call("cbd.backend.start", **T, path=str(trio.disk()))
    with paused([trio.node1.worker("backend", "pool0", 0)["pid"]]):
        damage(trio.memory, "backends")
        with ThreadPoolExecutor() as pool:
            clearing = pool.submit(trio.node3.refuse, Code.BUSY, "cbd.backend.clear", **ONE, force=True)
            wait_until(lambda: claimed(trio.memory), "node3 is about to clear it")
            os.kill(trio.node1.worker("backend", "pool0", 0)["pid"], signal.SIGCONT)
            assert "written again" in clearing.result().message
    assert shown(trio.node3, "backend") == ["running"]


def test_what_no_living_host_has_is_cleared_by_force(trio: Trio) -> None:
    damage(trio.memory, "backends", "blkdevs")
    for kind in ("backend", "blkdev"):
        trio.node3.refuse(Code.BUSY, f"cbd.{kind}.clear", **ONE)
        done = trio.node3.cli("cbd", kind, "clear", "pool0", "0", "--force")
        assert (done.returncode, shown(trio.node3, kind)) == (0, []), done.stderr


@needs_nbd
def test_that_of_a_dead_host_is_cleared_beside_living_ones(trio: Trio) -> None:
    trio.mapped()
    die(trio.node2, trio.node3)
    damage(trio.memory, "blkdevs")
    assert trio.node3.call("cbd.blkdev.clear", **ONE)["state"] == "cleared"
    (row,) = [row for row in trio.node3.call("cbd.host.list", **T) if row["name"] == "node2"]
    assert row["fenced"] is True
    started = trio.node3.call("cbd.blkdev.start", **START)
    assert io_works(started["device"], 0x32)
    die(trio.node1, trio.node3)
    damage(trio.memory, "backends")
    assert trio.node3.call("cbd.backend.clear", **ONE, force=True)["state"] == "cleared"
    assert shown(trio.node3, "backend") == []
