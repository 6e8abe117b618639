# SPDX-License-Identifier: GPL-3.0-or-later
"""A pool grows by an accepted extent of dynamic capacity, and gives it back: a real daemon, a model of the device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dcd_model import MIB
from hosts import wait_until
from test_dcd_daemon import E0, SERIAL, model, start  # noqa: F401  (fixtures)
from test_dcd_host import WINDOW

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.kmem_blk.format import plan_format, write_format
from cxl_datapath.kmem_blk.pool import Pool
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import Memory

EXTENT = f"dcd:{SERIAL:#x}/more"
PAGES = E0[1] // 4096


@pytest.fixture
def memory(tmp_path: Path, shared_file) -> str:
    """The pool's first memory; and the file of host addresses, sparse, in which the window leads to the device."""
    with (tmp_path / "mem").open("wb") as file:
        os.truncate(file.fileno(), WINDOW.base + sum(E0))
    return str(shared_file(8 * MIB))


def pool(daemon) -> dict:
    (row,) = daemon.call("kmem_blk.pool.list")
    return row


def refused(daemon, method: str, **params) -> DatapathError:
    with pytest.raises(DatapathError) as caught:
        daemon.call(method, **params)
    return caught.value


def start_pool(daemon, memory: str) -> dict:
    daemon.call("kmem_blk.pool.format", memory=memory, name="pool0")
    return daemon.call("kmem_blk.pool.start", memories=[memory], lease_limit=4096)["pages"]


def give_extent(daemon, device) -> None:
    daemon.call("dcd.region.create", serial=SERIAL, remember=True)
    device.offer(E0)
    wait_until(lambda: daemon.call("dcd.extent.list"), "the extent is accepted")
    daemon.call("dcd.mapping.create", serial=SERIAL, name="more", dpa=E0[0], size=E0[1])


def test_a_pool_grows_by_an_extent_and_gives_it_back(start, model, memory):  # noqa: F811
    daemon = start()
    before = start_pool(daemon, memory)
    assert refused(daemon, "kmem_blk.pool.grow", pool="pool0", memory=EXTENT).code == Code.NOT_FOUND
    give_extent(daemon, model)
    grown = daemon.call("kmem_blk.pool.grow", pool="pool0", memory=EXTENT)
    # Blocks stay where a power cut leaves them: the extent is for swap.
    assert grown["pages"]["free"] == before["free"] + PAGES - 1 and grown["pages"]["available"] == before["available"]
    assert [(each["memory"], each["volatile"]) for each in grown["ranges"]] == [(memory, False), (EXTENT, True)]
    # Nobody takes it away: not the operator, and not the fabric, whose wish is remembered.
    assert "memory of pool pool0" in str(refused(daemon, "dcd.mapping.remove", serial=SERIAL, name="more"))
    assert refused(daemon, "dcd.region.destroy", serial=SERIAL).code == Code.BUSY
    model.ask_back(E0)
    wait_until(lambda: daemon.call("dcd.extent.list")[0]["asked_back"], "the request is remembered")
    shrunk = daemon.call("kmem_blk.pool.shrink", pool="pool0", memory=EXTENT, move=True)
    assert shrunk["pages"] == before
    daemon.call("dcd.mapping.remove", serial=SERIAL, name="more")
    assert model.held() == []
    daemon.call("kmem_blk.pool.stop", pool="pool0")


def test_a_pool_with_an_extent_comes_back_with_it(start, model, memory):  # noqa: F811
    daemon = start()
    before = start_pool(daemon, memory)
    give_extent(daemon, model)
    daemon.call("kmem_blk.pool.grow", pool="pool0", memory=EXTENT)
    daemon.stop()
    again = start()
    wait_until(lambda: pool(again)["state"] == "running", "the pool runs once its extent is there")
    assert pool(again)["pages"]["pages"] == before["pages"] + PAGES
    again.call("kmem_blk.pool.shrink", pool="pool0", memory=EXTENT)
    again.call("kmem_blk.pool.stop", pool="pool0")


def test_two_pools_have_two_extents_of_one_device(start, model, memory, shared_file):  # noqa: F811
    """Both lie in one file of host addresses; of one range of it there is one owner."""
    daemon = start()
    start_pool(daemon, memory)
    other = str(shared_file(8 * MIB))
    daemon.call("kmem_blk.pool.format", memory=other, name="pool1")
    daemon.call("kmem_blk.pool.start", memories=[other])
    daemon.call("dcd.region.create", serial=SERIAL)
    model.offer(E0)
    wait_until(lambda: daemon.call("dcd.extent.list"), "the extent is accepted")
    half = E0[1] // 2
    for name, dpa in (("low", E0[0]), ("high", E0[0] + half), ("again", E0[0])):
        daemon.call("dcd.mapping.create", serial=SERIAL, name=name, dpa=dpa, size=half)
    daemon.call("kmem_blk.pool.grow", pool="pool0", memory=f"dcd:{SERIAL}/low")
    daemon.call("kmem_blk.pool.grow", pool="pool1", memory=f"dcd:{SERIAL}/high")
    assert refused(daemon, "kmem_blk.pool.grow", pool="pool1", memory=f"dcd:{SERIAL}/again").code == Code.BUSY
    for name in ("pool0", "pool1"):
        daemon.call("kmem_blk.pool.stop", pool=name)


@pytest.fixture
def extended(memory, shared_file, tmp_path) -> Iterator[Pool]:
    """A pool in this process, on a file and a part of another one as its extent."""
    first = Memory(memory, memory, 8 * MIB, "file")
    with Mapping(first) as mapping:
        write_format(mapping, plan_format(first.size, "pool0"))
    made = Pool([first], 0, 0, -1, tmp_path)
    made.grow(Memory(EXTENT, str(shared_file(4 * MIB)), MIB, "window", offset=2 * MIB), force=False)
    yield made
    for each in made.ranges:
        each.close()


def used(pool: Pool) -> list[int]:
    return [each["used"] for each in pool.to_json()["ranges"]]


def test_swap_comes_first_to_an_extent_and_moves_out_of_it(extended):
    swap = extended.make_swap(512)
    for block in range(64):
        swap.write(block * 4096, bytes([block]) * 4096)
    extended.blocks.write(0, b"b" * 8192)
    leased = extended.pages.take(16, 1)
    assert used(extended) == [18, 64], "blocks and leases are where they can be"
    for block in range(64, 300):
        swap.write(block * 4096, bytes([block % 251]) * 4096)
    assert used(extended) == [18 + 300 - 255, 255], "what the extent does not hold goes elsewhere"
    extended.shrink(EXTENT, move=True)
    assert used(extended) == [18 + 300]
    assert all(swap.read(block * 4096, 4096) == bytes([block % 251]) * 4096 for block in range(300))
    extended.pages.give(leased)


def test_what_swap_has_in_an_extent_needs_room_elsewhere_when_it_leaves(extended):
    swap = extended.make_swap(512)
    for block in range(255):
        swap.write(block * 4096, bytes(4096))
    for block in range(extended.pages.counts()["available"] - 254):
        extended.blocks.write(block * 4096, bytes(4096))
    with pytest.raises(DatapathError) as caught:
        extended.shrink(EXTENT, move=True)
    assert caught.value.code == Code.FULL
    assert used(extended)[1] == 255


def test_an_extent_that_a_power_cut_took_is_forgotten(start, model, memory, tmp_path):  # noqa: F811
    daemon = start()
    before = start_pool(daemon, memory)
    give_extent(daemon, model)
    daemon.call("kmem_blk.pool.grow", pool="pool0", memory=EXTENT)
    daemon.stop()
    with (tmp_path / "mem").open("r+b") as file:
        file.seek(WINDOW.base + E0[0])
        file.write(bytes(4096))
    again = start()
    wait_until(lambda: pool(again)["state"] == "running", "the pool runs without it")
    assert pool(again)["pages"] == before and any("are gone" in note for note in pool(again)["notes"])
    assert again.call("kmem_blk.pool.grow", pool="pool0", memory=EXTENT)["pages"]["pages"] == before["pages"] + PAGES
    daemon.call("kmem_blk.pool.stop", pool="pool0")


@pytest.mark.parametrize("spec", ["dcd:", "dcd:0x91", "dcd:zero/more", "dcd:0x91/", "dcd:0x91/../x"])
def test_names_of_extents_that_cannot_be(start, memory, spec):  # noqa: F811
    assert refused(start(), "kmem_blk.pool.probe", memory=spec).code == Code.INVALID
