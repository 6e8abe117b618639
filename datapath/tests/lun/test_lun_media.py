# SPDX-License-Identifier: GPL-3.0-or-later
"""Media that are large, read-only, or not what they were when the engine of their LUN was started before."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import Host, wait_until
from lun_app import CHUNK, MIB, App, Refused, kill_engine, lun_row, make_lun, wait_unused

from cxl_datapath.cxlflash.wire import BLOCK, Service, last_lba

Make = Callable[..., Path]


@pytest.fixture
def medium(node: Host) -> Iterator[Make]:
    """Makes the LUN `odd` on a file of this size."""

    def make(size: int, **params: Any) -> Path:
        return make_lun(node, "odd", size, **params)

    yield make
    wait_unused(node, "odd")
    node.call("lun.remove", lun="odd")
    (node.folder / "odd.disk").unlink()


@pytest.fixture
def user(node: Host) -> Iterator[App]:
    made = App(node, "odd")
    yield made
    made.close()


def test_a_virtual_lun_of_as_many_chunks_as_there_can_be(medium: Make, user: App, node: Host):
    """What has to be zeroed first does not fit into one order to the engine unless neighbours are joined."""
    blocks = 8192 * CHUNK
    medium(blocks * BLOCK)
    assert lun_row(node, "odd")["chunk_size"] == CHUNK * BLOCK
    context = user.virtual(blocks)
    assert context.read(blocks - 1) == bytes(BLOCK)
    context.ask(Service.VLUN_RESIZE, size=0, flags=1)


class TestReadOnly:
    def test_no_virtual_lun_on_it(self, medium: Make, user: App):
        medium(8 * MIB, read_only=True)
        assert "read-only" in user.attach().refused(errno.EROFS, Service.USER_VIRTUAL, size=1)

    def test_it_is_read_directly(self, medium: Make, user: App):
        medium(8 * MIB, read_only=True)
        context = user.direct()
        assert context.read(0) == bytes(BLOCK)
        assert context.write(0, bytes(BLOCK)) == -errno.EROFS


class TestAnotherSize:
    def test_a_direct_handle_has_what_is_left(self, medium: Make, user: App, node: Host):
        path = medium(16 * MIB)
        context = user.direct()
        _resize(node, path, 8 * MIB)
        wait_until(context.in_error, "all ones")
        context.recover()
        assert context.ask(Service.VERIFY).last_lba == last_lba(8 * MIB // BLOCK)
        assert context.read(8 * MIB // BLOCK - 1) == bytes(BLOCK)

    def test_who_comes_after_it_sees_the_new_one(self, medium: Make, user: App, node: Host):
        path = medium(16 * MIB)
        user.attach().ask(Service.USER_DIRECT)
        _resize(node, path, 32 * MIB)
        assert user.attach().answer.last_lba == last_lba(32 * MIB // BLOCK)

    def test_what_cannot_be_recovered_is_in_nobodys_way(self, medium: Make, user: App, node: Host):
        path = medium(16 * MIB)
        context = user.virtual(16 * MIB // BLOCK)
        _resize(node, path, 8 * MIB)
        wait_until(context.in_error, "all ones")
        with pytest.raises(Refused):
            context.recover()
        context.close()
        wait_unused(node, "odd")
        again = user.attach()  # in the same slot of the engine
        again.refused(errno.ENOSPC, Service.USER_VIRTUAL, size=8 * MIB // BLOCK + 1)
        again.ask(Service.USER_VIRTUAL, size=8 * MIB // BLOCK)


def _resize(host: Host, path: Path, size: int) -> None:
    """While there is no engine."""
    kill_engine(host, "odd")
    os.truncate(path, size)
    wait_until(lambda: lun_row(host, "odd")["size"] == size, "the LUN runs again")


class TestAnotherMedium:
    def test_it_is_waited_for(self, medium: Make, user: App, node: Host):
        """Of what another file holds nobody has asked for anything."""
        path = medium(8 * MIB)
        context = user.virtual(CHUNK)
        context.write(1, b"\x61" * BLOCK)
        aside = path.with_suffix(".aside")
        path.rename(aside)
        path.write_bytes(b"\x62" * (8 * MIB))
        kill_engine(node, "odd")
        wait_until(lambda: "not the medium" in str(lun_row(node, "odd")["worker"]["error"]), "it is told why")
        aside.rename(path)
        context.recover()
        assert context.read(1) == b"\x61" * BLOCK

    def test_it_is_the_lun_once_nobody_uses_it(self, medium: Make, user: App, node: Host):
        path = medium(8 * MIB)
        user.virtual(CHUNK)
        path.unlink()
        path.write_bytes(b"\x63" * (8 * MIB))
        kill_engine(node, "odd")
        user.close()
        wait_until(lambda: lun_row(node, "odd")["state"] == "running", "the LUN runs again")
        again = App(node, "odd")
        try:
            assert again.direct().read(0) == b"\x63" * BLOCK
        finally:
            again.close()
