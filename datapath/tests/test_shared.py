# SPDX-License-Identifier: GPL-3.0-or-later
"""Several blkdevs of one backend: who may write beside whom, and what one that only reads can do."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts import Host, wait_until
from lab import DISK, Lab, io_works, needs_nbd, socket_of
from nbd_client import Command, Flag, NbdClient, Refused
from verifying_writer import Background

from cxl_datapath.errors import Code

pytestmark = needs_nbd

T = {"transport": "pool0"}
START = T | {"backend": 0, "frontend": "nbdkit"}


@pytest.fixture
def node3(lab: Lab, make_host: Callable[..., Host]) -> Host:
    host = make_host("node3")
    host.call("cbd.transport.register", memory=lab.memory)
    return host


def _writes(device: str, place: int, byte: bytes) -> None:
    with NbdClient(socket_of(device)) as client:
        client.call(Command.WRITE, place, data=byte * 4096)


def _reads(device: str, place: int) -> bytes:
    with NbdClient(socket_of(device)) as client:
        return client.call(Command.READ, place, 4096)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_writers_only_beside_each_other_when_all_are_shared(lab: Lab, node3: Host, first: bool, second: bool) -> None:
    disk, device = lab.mapped(shared=first)
    assert io_works(device, 0x11)
    if not (first and second):
        error = node3.refuse(Code.BUSY, "cbd.blkdev.start", **START, shared=second)
        assert "blkdev 0 of host node2" in error.message
        assert [row["id"] for row in lab.node1.call("cbd.blkdev.list", **T)] == [0]
        wait_until(lambda: _stop(lab.node2, 0), "the first one is stopped")
        assert io_works(node3.call("cbd.blkdev.start", **START, shared=second)["device"], 0x12)
        return
    other = node3.call("cbd.blkdev.start", **START, shared=True)
    assert {row["shared"] for row in lab.node1.call("cbd.blkdev.list", **T)} == {True}
    _writes(device, 0, b"2")
    _writes(other["device"], 4096, b"3")
    assert (_reads(device, 4096), _reads(other["device"], 0)) == (b"3" * 4096, b"2" * 4096)
    assert disk.read_bytes()[:8192] == b"2" * 4096 + b"3" * 4096
    lab.node1.refuse(Code.BUSY, "cbd.backend.stop", **T, id=0)


def test_two_shared_writers_at_full_speed_keep_apart(lab: Lab, node3: Host) -> None:
    """Each has half of the disk, through a device of its own that shows all of it."""
    disk, first = lab.mapped(shared=True, queues=2)
    second = node3.call("cbd.blkdev.start", **START, shared=True, queues=2)["device"]
    middle = DISK // 2
    with NbdClient(socket_of(first)) as one, NbdClient(socket_of(second)) as two:
        for step in range(0, middle, 65536):
            one.submit(Command.WRITE, step, data=b"1" * 65536)
            two.submit(Command.WRITE, middle + step, data=b"2" * 65536)
            for client in (one, two):
                while client.in_flight > 4:
                    assert not any(reply.error for reply in client.wait(1.0))
        for client in (one, two):
            while client.in_flight:
                assert not any(reply.error for reply in client.wait(1.0))
    assert disk.read_bytes() == b"1" * middle + b"2" * middle


def test_readers_beside_a_writer(lab: Lab, node3: Host) -> None:
    disk, device = lab.mapped(queues=2)
    readers = [
        node3.call("cbd.blkdev.start", **START, read_only=True),
        lab.node2.call("cbd.blkdev.start", **START, read_only=True, name="look"),
        lab.node1.call("cbd.blkdev.start", **START, read_only=True, queues=2),
    ]
    assert all(row["read_only"] and not row["shared"] for row in readers)
    with Background(socket_of(device), 8, 1) as writer:
        for row in readers:
            with NbdClient(socket_of(row["device"])) as client:
                for _ in range(100):
                    assert len(client.call(Command.READ, 0, 65536)) == 65536
        writer.finish()
    for row in readers:
        with NbdClient(socket_of(row["device"])) as client:
            assert client.call(Command.READ, 0, DISK) == disk.read_bytes()
    assert len(lab.node1.call("cbd.backend.list", **T)[0]["blkdevs"]) == 4
    # Readers do not keep a writer away, and a writer that goes does not disturb them.
    wait_until(lambda: _stop(lab.node2, 0), "the writer's device is stopped")
    lab.node2.call("cbd.blkdev.start", **START, name="again")
    for row in readers:
        assert _reads(row["device"], 0) == disk.read_bytes()[:4096]


def test_the_name_says_which_blkdev_is_meant(lab: Lab) -> None:
    _, device = lab.mapped(name="data")
    second = lab.node2.call("cbd.blkdev.start", **START, read_only=True, name="look")
    assert second["device"] != device
    assert lab.node2.call("cbd.blkdev.start", **START, read_only=True, name="look")["id"] == second["id"]
    lab.node2.refuse(Code.EXISTS, "cbd.blkdev.start", **START, read_only=False, name="look")
    lab.node2.refuse(Code.EXISTS, "cbd.blkdev.start", **START, read_only=True, name="data")
    lab.node2.refuse(Code.BUSY, "cbd.blkdev.start", **START, name="more")
    assert _stop(lab.node2, second["id"])
    assert io_works(device, 0x13)


def test_the_rule_holds_while_the_writers_host_is_away(lab: Lab, node3: Host) -> None:
    """A dead writer may come back: its place is free when it is cleared, not before."""
    _, device = lab.mapped()
    lab.node2.kill()
    error = node3.refuse(Code.BUSY, "cbd.blkdev.start", **START)
    assert "clear" in error.hint
    assert node3.call("cbd.blkdev.start", **START, read_only=True)["read_only"]
    lab.node2.start()
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["state"] == "running", "it is back")
    assert io_works(device, 0x14)


# ---- read-only


def _refused(client: NbdClient, command: Command, expected: int = errno.EPERM) -> None:
    with pytest.raises(Refused) as caught:
        client.call(command, 0, 4096, b"x" * 4096 if command == Command.WRITE else b"")
    assert caught.value.errno == expected


def test_a_read_only_blkdev_of_a_writable_backend(lab: Lab) -> None:
    disk, device = lab.mapped(read_only=True)
    disk.write_bytes(before := os.urandom(DISK))
    (export,) = json.loads(subprocess.check_output(["nbdinfo", "--json", device], text=True))["exports"]
    assert export["is_read_only"]
    with NbdClient(socket_of(device)) as client:
        assert Flag.READ_ONLY in client.export.flags
        for command in (Command.WRITE, Command.WRITE_ZEROES, Command.TRIM):
            _refused(client, command)
        assert client.call(Command.READ, 0, DISK) == before
        assert client.connections == 1
    assert disk.read_bytes() == before


@contextlib.contextmanager
def _rogue(host: Host, place: Path) -> Iterator[Path]:
    """Another server on the channels of this host's blkdev 0, which claims that they can be written."""
    server = int((host.runtime / "cbd0.pid").read_text())
    words = Path(f"/proc/{server}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
    plugin = next(index for index, word in enumerate(words) if word.endswith("-plugin.so"))
    dropped = ("control=", "read_only=")
    parameters = [word for word in words[plugin:] if not word.startswith(dropped)]
    command = ["nbdkit", "-f", "-U", str(place), *parameters, "read_only=0"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(place.exists, "the rogue server listens")
            yield place
        finally:
            process.kill()


def test_the_backend_itself_refuses_what_a_reader_writes(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing depends on the reader's good manners: its server is replaced by one that sends writes."""
    disk, _ = lab.mapped(read_only=True)
    disk.write_bytes(before := os.urandom(DISK))
    with _rogue(lab.node2, tmp_path_factory.mktemp("r") / "s") as place, NbdClient(place) as client:
        assert Flag.READ_ONLY not in client.export.flags
        for command in (Command.WRITE, Command.WRITE_ZEROES, Command.TRIM):
            _refused(client, command)
        assert client.call(Command.READ, 0, 4096) == before[:4096]
    assert disk.read_bytes() == before


def _stop(host: Host, number: int) -> bool:
    return host.cli("cbd", "blkdev", "stop", "pool0", str(number)).returncode == 0
