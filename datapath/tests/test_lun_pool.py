# SPDX-License-Identifier: GPL-3.0-or-later
"""The blocks of a pool as a LUN: `kmem_blk:pool0` in place of a path."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts import Host, wait_until
from lun_app import CHUNK, MIB, UNMAP, App, kill_engine, lun_row, wait_unused

from cxl_datapath.cxlflash.wire import BLOCK, Service
from cxl_datapath.errors import Code

SIZE = 16 * MIB
MEDIUM = "kmem_blk:pool0"


@pytest.fixture
def host(make_host: Callable[..., Host], shared_file: Callable[[int], Path]) -> Host:
    """A host whose pool is a LUN."""
    made = make_host("node1")
    memory = str(shared_file(SIZE))
    made.call("kmem_blk.pool.format", memory=memory, name="pool0")
    made.call("kmem_blk.pool.start", memories=[memory], recall_ms=1000)
    made.call("lun.create", path=MEDIUM, name="flash0")
    return made


@pytest.fixture
def app(host: Host) -> Iterator[App]:
    made = App(host)
    yield made
    made.close()
    wait_unused(host)


def used(host: Host) -> int:
    """Pages of the pool that hold blocks."""

    def counted() -> dict[str, int] | None:
        (row,) = host.call("kmem_blk.pool.list")
        return row.get("pages")

    return int(wait_until(counted, "the pool answers")["blocks"])


def pool_process(host: Host) -> int:
    children = Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().split()
    (found,) = (int(pid) for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0pool\0"))
    return found


def test_virtual_luns(host: Host, app: App):
    context = app.virtual(2 * CHUNK)
    assert context.read(0) == bytes(BLOCK)
    for lba in (0, CHUNK - 1, CHUNK, 2 * CHUNK - 1):
        assert context.write(lba, bytes([lba % 250 + 1]) * BLOCK) == 0
    assert [context.read(lba)[0] for lba in (0, CHUNK - 1, CHUNK)] == [1, (CHUNK - 1) % 250 + 1, CHUNK % 250 + 1]
    assert used(host) == 4
    assert context.io(UNMAP, 0, CHUNK) == 0
    assert (context.read(0), used(host)) == (bytes(BLOCK), 2)
    context.ask(Service.VLUN_RESIZE, size=CHUNK)
    context.ask(Service.VLUN_RESIZE, size=2 * CHUNK)
    assert context.read(2 * CHUNK - 1) == bytes(BLOCK), "nobody reads what was there before"


def test_the_process_of_the_pool_dies(host: Host, app: App):
    context = app.direct()
    assert context.write(9, b"\x71" * BLOCK) == 0
    os.kill(pool_process(host), signal.SIGKILL)
    assert context.read(9) == b"\x71" * BLOCK, "requests wait for its successor"
    assert context.write(10, b"\x72" * BLOCK) == 0


def test_the_engine_dies(host: Host, app: App):
    context = app.virtual(CHUNK)
    assert context.write(9, b"\x73" * BLOCK) == 0
    kill_engine(host)
    wait_until(context.in_error, "all ones")
    context.recover()
    assert context.read(9) == b"\x73" * BLOCK


def test_it_comes_back_with_the_daemon(host: Host):
    row = lun_row(host)
    host.stop()
    host.start()
    wait_until(lambda: lun_row(host)["state"] == "running", "the LUN runs")
    assert lun_row(host)["wwid"] == row["wwid"]


def test_it_has_the_blocks_alone(host: Host, shared_file: Callable[[int], Path]):
    shared = str(shared_file(64 * MIB))
    host.call("cbd.transport.format", memory=shared, name="t0", ring_depth=16, lease_ms=2500)
    host.call("cbd.transport.register", memory=shared)
    assert "in use" in str(host.refuse(Code.BUSY, "cbd.backend.start", transport="t0", path=MEDIUM))
    assert "LUN flash0" in str(host.refuse(Code.BUSY, "kmem_blk.pool.stop", pool="pool0"))
    host.call("lun.set", lun="flash0", mode="legacy")
    host.call("cbd.backend.start", transport="t0", path=MEDIUM)
    assert "in use" in str(host.refuse(Code.BUSY, "lun.set", lun="flash0", mode="superpipe"))
    host.call("cbd.backend.stop", transport="t0", id=0)
    host.call("lun.set", lun="flash0", mode="superpipe")
    host.call("lun.remove", lun="flash0")
    host.call("kmem_blk.pool.stop", pool="pool0")


def test_a_pool_that_is_not_there(make_host: Callable[..., Host]):
    host = make_host("node1")
    host.refuse(Code.NOT_FOUND, "lun.create", path="kmem_blk:none", name="flash0")
    host.refuse(Code.INVALID, "lun.create", path="kmem_blk:../x", name="flash0")
    assert host.call("lun.list") == []
