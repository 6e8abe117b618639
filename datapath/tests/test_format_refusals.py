# SPDX-License-Identifier: GPL-3.0-or-later
"""What real daemons refuse to format, and what becomes of them when their memory goes away under them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hosts import Host, wait_until
from lab import MEMORY, MIB, Lab, running
from mishaps import small_disk

from cxl_datapath.errors import Code, DatapathError


def damage_info(memory: str) -> None:
    """Both copies."""
    with Path(memory).open("r+b") as file:
        for offset in (100, 4196):
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))


def test_a_host_that_registers_while_a_format_waits_is_not_formatted_away(lab: Lab, make_host: Callable[..., Host]) -> None:
    other, late = make_host("node3"), make_host("node4")
    lab.node1.kill()
    lab.node2.kill()
    with ThreadPoolExecutor() as pool:
        # Nobody knows yet that the two are dead: the format waits for a lease, in which a registration is done.
        formatting = pool.submit(other.call, "cbd.transport.format", memory=lab.memory, name="pool1", force=True)
        late.call("cbd.transport.register", memory=lab.memory)
        try:
            held = formatting.result()["info"]["name"]
        except DatapathError as error:
            assert (error.code, "node4" in error.message) == (Code.BUSY, True), error
            held = "pool0"
    assert other.call("cbd.transport.probe", memory=lab.memory)["info"]["name"] == held
    assert late.call("cbd.host.list", transport=held), "the host is in the transport that the memory holds"


@pytest.mark.parametrize("read_only", [False, True])
def test_the_file_of_another_daemons_backend_is_not_formatted(lab: Lab, read_only: bool) -> None:
    disk = lab.disk()
    lab.node1.call("cbd.backend.start", transport="pool0", path=str(disk), read_only=read_only)
    for force in (False, True):
        error = lab.node2.refuse(Code.BUSY, "cbd.transport.format", memory=str(disk), name="pool1", force=force)
        assert "another daemon" in error.hint
    assert disk.read_bytes().count(0) == disk.stat().st_size


def test_unknown_data_is_not_formatted(lab: Lab) -> None:
    disk = lab.disk()
    with disk.open("r+b") as file:
        file.seek(100_000)
        file.write(b"precious")
    error = lab.node1.refuse(Code.EXISTS, "cbd.transport.format", memory=str(disk), name="pool1", ring_depth=16)
    assert ("unknown" in error.message, "force" in error.hint) == (True, True)
    assert b"precious" in disk.read_bytes()
    assert lab.node1.call("cbd.transport.format", memory=str(disk), name="pool1", ring_depth=16, force=True)["formatted"]


def test_living_hosts_are_found_without_the_transport_info(lab: Lab, make_host: Callable[..., Host]) -> None:
    other = make_host("node3")
    damage_info(lab.memory)
    error = other.refuse(Code.CORRUPT, "cbd.transport.register", memory=lab.memory)
    assert "own host" not in error.hint
    assert "with force" in error.hint
    error = other.refuse(Code.BUSY, "cbd.transport.format", memory=lab.memory, name="pool1", force=True)
    assert "node1, node2" in error.message
    for node in (lab.node1, lab.node2):
        node.call("cbd.transport.unregister", transport="pool0")
    assert other.call("cbd.transport.format", memory=lab.memory, name="pool1", force=True)["info"]["name"] == "pool1"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_file_without_room_is_refused_and_nobody_dies(lab: Lab, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 4 * MIB) as folder:
        memory = folder / "memory"
        memory.touch()
        os.truncate(memory, MEMORY)
        assert lab.node1.call("cbd.transport.probe", memory=str(memory))["formatted"] is False
        error = lab.node1.refuse(Code.FULL, "cbd.transport.format", memory=str(memory), name="pool1")
        assert "room" in error.hint
        assert memory.stat().st_blocks * 512 < MIB, "nothing of it was taken"
        lab.node1.refuse(Code.NOT_FOUND, "cbd.transport.register", memory=str(memory))
        os.truncate(memory, 2 * MIB)
        room = {"hosts": 2, "backends": 2, "blkdevs": 2, "ring_depth": 2, "slot_bytes": 4096}
        assert lab.node1.call("cbd.transport.format", memory=str(memory), name="pool1", **room)["formatted"]
        assert memory.stat().st_blocks * 512 >= 2 * MIB, "a transport has all of its bytes"


def test_a_memory_that_is_cut_short_is_an_error_and_not_the_end_of_the_daemon(lab: Lab) -> None:
    lab.mapped()
    pids = lab.node1.pid, lab.node2.pid
    os.truncate(lab.memory, MIB)
    for node in (lab.node1, lab.node2):
        (row,) = wait_until(lambda n=node: [t for t in n.call("cbd.transport.list") if t["state"] == "pending"], "it notices")
        assert str(MIB) in row["reason"]["message"]
        assert row["reason"]["hint"]
    assert all(map(running, pids))
    assert lab.node2.call("cbd.blkdev.stop", transport="pool0", id=0)["state"] == "stopped"
    assert lab.node1.call("cbd.backend.stop", transport="pool0", id=0)["state"] == "stopped"
    for node in (lab.node1, lab.node2):
        assert node.call("cbd.transport.unregister", transport="pool0")["state"] == "unregistered"


# ---- as memory of a pool ------------------------------------------------------------------------------------------------


def with_pool(host: Host, memory: Path) -> None:
    host.call("kmem_blk.pool.format", memory=str(memory), name="pages")
    host.call("kmem_blk.pool.start", memories=[str(memory)])


@pytest.mark.parametrize("damaged", [False, True])
def test_a_pool_takes_no_memory_in_which_hosts_live(lab: Lab, make_host: Callable[..., Host], shared_file, damaged: bool) -> None:
    other = make_host("node3")
    with_pool(other, shared_file(2 * MIB))
    if damaged:
        damage_info(lab.memory)
    before = Path(lab.memory).read_bytes()[: 2 * 4096]
    for method, params in (("format", {"name": "pool1"}), ("grow", {"pool": "pages"})):
        error = other.refuse(Code.BUSY, f"kmem_blk.pool.{method}", memory=lab.memory, force=True, **params)
        assert "node1, node2" in error.message
    assert Path(lab.memory).read_bytes()[: 2 * 4096] == before
    assert other.call("kmem_blk.pool.list")[0]["memories"] != [lab.memory]
    for node in (lab.node1, lab.node2):
        node.call("cbd.transport.unregister", transport="pool0")
    other.refuse(Code.EXISTS, "kmem_blk.pool.format", memory=lab.memory, name="pool1")
    assert other.call("kmem_blk.pool.format", memory=lab.memory, name="pool1", force=True)["info"]["name"] == "pool1"


def test_the_file_of_another_daemons_backend_is_no_pool(lab: Lab, shared_file) -> None:
    disk = lab.disk()
    lab.node1.call("cbd.backend.start", transport="pool0", path=str(disk))
    with_pool(lab.node2, shared_file(2 * MIB))
    for method, params in (("format", {"name": "pool1"}), ("grow", {"pool": "pages"})):
        lab.node2.refuse(Code.BUSY, f"kmem_blk.pool.{method}", memory=str(disk), force=True, **params)
    assert disk.read_bytes().count(0) == disk.stat().st_size


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_pool_without_room_for_its_pages_is_refused(make_host: Callable[..., Host], shared_file, tmp_path) -> None:
    host = make_host("node1")
    with_pool(host, shared_file(2 * MIB))
    with small_disk(tmp_path / "small", 4 * MIB) as folder:
        memory = folder / "memory"
        memory.touch()
        os.truncate(memory, MEMORY)
        assert host.call("kmem_blk.pool.probe", memory=str(memory))["formatted"] is False
        for method, params in (("format", {"name": "pool1"}), ("grow", {"pool": "pages"})):
            error = host.refuse(Code.FULL, f"kmem_blk.pool.{method}", memory=str(memory), **params)
            assert "room" in error.hint
        assert memory.stat().st_blocks * 512 < MIB, "nothing of it was taken"
        assert host.call("kmem_blk.pool.list")[0]["state"] == "running"
        os.truncate(memory, 2 * MIB)
        assert host.call("kmem_blk.pool.grow", pool="pages", memory=str(memory))["state"] == "running"
        assert memory.stat().st_blocks * 512 >= 2 * MIB, "each page of a pool is there"
        host.call("kmem_blk.pool.stop", pool="pages")
