# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are full and disks that fail: the caller is told, nothing else is harmed, and it works again when it can."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hosts import Host, wait_until
from lab import MEMORY, MIB, Lab, needs_nbd, socket_of, stopped
from mishaps import disk_that_hangs, filled, loop_device, small_disk
from nbd_client import Command, NbdClient, Refused

from cxl_datapath.errors import Code, DatapathError

pytestmark = [needs_nbd, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

T = {"transport": "pool0"}
BLOCK = 4096


def _error(client: NbdClient, command: Command, offset: int, length: int = 0, data: bytes = b"") -> int:
    with pytest.raises(Refused) as caught:
        client.call(command, offset, length, data)
    return int(caught.value.errno or 0)


def _restarts(host: Host, kind: str) -> list[int]:
    return [row["worker"]["restarts"] for row in host.call(f"cbd.{kind}.list", **T)]


def _running(host: Host) -> list[int]:
    return [row["id"] for row in host.call("cbd.backend.list", **T) if row.get("worker", {}).get("state") == "running"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", 4 * MIB) as folder:
        yield folder


def test_a_full_disk_costs_the_writes_that_need_room(lab: Lab, small: Path) -> None:
    disk = small / "disk"
    disk.touch()
    os.truncate(disk, 16 * MIB)  # four times what there is
    other, other_device = lab.mapped()
    lab.node1.call("cbd.backend.start", **T, path=str(disk))
    device = lab.node2.call("cbd.blkdev.start", **T, backend=1, frontend="nbdkit")["device"]
    with NbdClient(socket_of(device)) as client, NbdClient(socket_of(other_device)) as neighbour:
        client.call(Command.WRITE, 0, data=b"a" * MIB)
        with filled(small):
            for offset in range(8 * MIB, 9 * MIB, 65536):
                assert _error(client, Command.WRITE, offset, data=b"b" * 65536) == errno.ENOSPC
            client.call(Command.WRITE, 0, data=b"c" * BLOCK)  # these bytes have their place
            assert client.call(Command.READ, 0, 2 * BLOCK) == b"c" * BLOCK + b"a" * BLOCK
            assert client.call(Command.READ, 8 * MIB, BLOCK) == bytes(BLOCK)
            client.call(Command.FLUSH)
            neighbour.call(Command.WRITE, 0, data=b"n" * MIB)
        client.call(Command.WRITE, 8 * MIB, data=b"b" * BLOCK)
        client.call(Command.FLUSH)
        assert client.call(Command.READ, 8 * MIB, BLOCK) == b"b" * BLOCK
        assert (client.connections, neighbour.connections) == (1, 1)
    assert disk.read_bytes()[8 * MIB : 8 * MIB + BLOCK] == b"b" * BLOCK
    assert other.read_bytes()[:MIB] == b"n" * MIB
    assert (_restarts(lab.node1, "backend"), _restarts(lab.node2, "blkdev")) == ([0, 0], [0, 0])


def test_a_device_that_fails_costs_its_requests(lab: Lab) -> None:
    medium = lab.disk("medium")
    with loop_device(medium) as path:
        lab.node1.call("cbd.backend.start", **T, path=path)
        device = lab.node2.call("cbd.blkdev.start", **T, backend=0, frontend="nbdkit")["device"]
        with NbdClient(socket_of(device)) as client:
            client.call(Command.WRITE, 0, data=b"1" * MIB)
            client.call(Command.WRITE, 12 * MIB, data=b"2" * MIB)
            client.call(Command.FLUSH)
            os.truncate(medium, 8 * MIB)
            for offset in range(12 * MIB, 13 * MIB, 65536):
                assert _error(client, Command.READ, offset, 65536) == errno.EIO
                assert client.call(Command.READ, 0, BLOCK) == b"1" * BLOCK
            os.truncate(medium, 16 * MIB)
            client.call(Command.WRITE, 12 * MIB, data=b"3" * MIB)
            assert client.call(Command.READ, 12 * MIB, MIB) == b"3" * MIB
            assert client.connections == 1
        assert (_restarts(lab.node1, "backend"), _restarts(lab.node2, "blkdev")) == ([0], [0])
        wait_until(lambda: stopped(lab.node2), "the device is stopped")
        lab.node1.call("cbd.backend.stop", **T, id=0)
    assert medium.read_bytes()[12 * MIB : 13 * MIB] == b"3" * MIB


def test_a_device_that_hangs_keeps_nobody_from_stopping_its_backend(lab: Lab, tmp_path: Path) -> None:
    with disk_that_hangs(tmp_path / "hangs") as hanging, ThreadPoolExecutor() as pool:
        disk = tmp_path / "hangs" / "disk"
        disk.touch()
        os.truncate(disk, MIB)
        lab.node1.call("cbd.backend.start", **T, path=str(disk))
        device = lab.node2.call("cbd.blkdev.start", **T, backend=0, frontend="nbdkit", io_timeout=3)["device"]
        with hanging():
            with NbdClient(socket_of(device)) as client:
                assert _error(client, Command.WRITE, 0, data=b"x" * BLOCK) == errno.EIO
            wait_until(lambda: stopped(lab.node2), "the device is stopped")
            stopping = pool.submit(lab.node1.call, "cbd.backend.stop", **T, id=0)
            wait_until(stopping.done, "the backend is stopped while its disk hangs")
            assert stopping.result()["state"] == "stopped"
            assert lab.node2.call("cbd.backend.list", **T) == []
        wait_until(lambda: _started(lab.node1, disk), "it can be started again")


def _started(host: Host, disk: Path) -> bool:
    """False while the process that hung still has the disk."""
    try:
        return bool(host.call("cbd.backend.start", **T, path=str(disk))["state"] == "running")
    except DatapathError as error:
        assert error.code == Code.BUSY
        return False


def test_a_daemon_that_cannot_save_its_state_changes_nothing(
    small: Path, shared_file: Callable[[int], Path], tmp_path: Path
) -> None:
    """Its state folder is full: what runs goes on, what is asked for is refused, and later it works."""
    host = Host(small, "node1")
    memory, disk, second = str(shared_file(MEMORY)), tmp_path / "disk", tmp_path / "second"
    for path in (disk, second):
        path.write_bytes(bytes(MIB))
    host.start()
    try:
        host.call("cbd.transport.format", memory=memory, name="pool0", ring_depth=16)
        host.call("cbd.transport.register", memory=memory)
        host.call("cbd.backend.start", **T, path=str(disk))
        device = host.call("cbd.blkdev.start", **T, backend=0, frontend="nbdkit")["device"]
        saved = (host.state / "state.json").read_bytes()
        with NbdClient(socket_of(device)) as client:
            with filled(small):
                for method, params in (
                    ("cbd.backend.start", {"path": str(second)}),
                    ("cbd.blkdev.start", {"backend": 0, "frontend": "nbdkit", "name": "more", "read_only": True}),
                ):
                    error = host.refuse(Code.FULL, method, **T, **params)
                    assert error.object.endswith("state.json")
                client.call(Command.WRITE, 0, data=b"x" * BLOCK)
                assert client.call(Command.READ, 0, BLOCK) == b"x" * BLOCK
                assert [row["id"] for row in host.call("cbd.backend.list", **T)] == [0]
                assert [row["id"] for row in host.call("cbd.blkdev.list", **T)] == [0]
                assert (host.state / "state.json").read_bytes() == saved
                assert not (host.state / "state.new").exists()
            assert host.call("cbd.backend.start", **T, path=str(second))["id"] == 1
            assert client.connections == 1
        host.stop()
        host.start()
        wait_until(lambda: _running(host) == [0, 1], "both are rebuilt")
    finally:
        host.stop()
