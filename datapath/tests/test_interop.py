# SPDX-License-Identifier: GPL-3.0-or-later
"""Real NBD tools and odd requests through the plugin: what they read is what was written, on both sides of the transport."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from lab import DISK, MIB, Lab, needs_nbd, socket_of
from nbd_client import FUA, Command, Flag, NbdClient, Refused

pytestmark = needs_nbd

SLOT = 65536  # bytes of a ring slot, the default of a format


def run(*command: object) -> str:
    """The tool's output; its words when it failed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=[1, 4], ids=["1 queue", "4 queues"])
def queues(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A raw image as people have them: data, holes, zeroes, and data again up to the end."""
    path = tmp_path / "image"
    noise = random.Random(5)
    with path.open("wb") as file:
        file.truncate(DISK)
        for offset, length in ((0, 3 * MIB + 512), (6 * MIB, 4096), (9 * MIB + 1024, MIB), (DISK - 512, 512)):
            file.seek(offset)
            file.write(noise.randbytes(length))
        file.seek(12 * MIB)
        file.write(bytes(MIB))
    return path


def test_nbdinfo_is_told_the_truth(lab: Lab, queues: int) -> None:
    _, device = lab.mapped(queues=queues)
    (export,) = json.loads(run("nbdinfo", "--json", device))["exports"]
    assert export["export-size"] == DISK
    assert not export["is_read_only"]
    assert not export["is_rotational"]
    for ability in ("can_flush", "can_trim", "can_zero", "can_fua", "can_multi_conn"):
        assert export[ability], ability
    (backend,) = lab.node1.call("cbd.backend.list", transport="pool0")
    sizes = [export[f"block_size_{name}"] for name in ("minimum", "preferred", "maximum")]
    assert sizes == [backend["logical_block_size"], SLOT, 32 * MIB]


def test_nbdinfo_of_a_read_only_backend(lab: Lab) -> None:
    lab.node1.call("cbd.backend.start", transport="pool0", path=str(lab.disk()), read_only=True)
    device = lab.node2.call("cbd.blkdev.start", transport="pool0", backend=0, frontend="nbdkit")["device"]
    (export,) = json.loads(run("nbdinfo", "--json", device))["exports"]
    assert export["is_read_only"]
    assert not export["can_trim"]


def test_nbdcopy_in_both_directions(lab: Lab, queues: int, image: Path, tmp_path: Path) -> None:
    disk, device = lab.mapped(queues=queues)
    disk.write_bytes(b"\xee" * DISK)  # zeroes must be written, too
    run("nbdcopy", "--flush", image, device)
    assert disk.read_bytes() == image.read_bytes()
    run("nbdcopy", "--connections=4", device, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == image.read_bytes()


def test_qemu_img_in_both_directions(lab: Lab, queues: int, image: Path, tmp_path: Path) -> None:
    disk, device = lab.mapped(queues=queues)
    disk.write_bytes(b"\xee" * DISK)
    first, second = tmp_path / "first.qcow2", tmp_path / "second.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, first)
    run("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", first, device)
    assert disk.read_bytes() == image.read_bytes()
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", first, device)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", device, second)
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", second, image)
    disk.write_bytes(image.read_bytes()[:-1] + b"?")
    done = subprocess.run(
        ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(first), device], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr


def test_a_qcow2_file_inside_the_device(lab: Lab, image: Path, tmp_path: Path) -> None:
    """The device is the medium of another format, with its own small and unordered writes."""
    _, device = lab.mapped(queues=4)
    run("qemu-img", "create", "-f", "qcow2", device, str(DISK // 2))
    run("qemu-io", "-f", "qcow2", "-c", "write -P 0x5c 1M 3M", "-c", "discard 2M 64k", "-c", "flush", device)
    run("qemu-img", "check", "-f", "qcow2", device)
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", device, tmp_path / "raw")
    raw = (tmp_path / "raw").read_bytes()
    assert len(raw) == DISK // 2
    assert raw[MIB : 2 * MIB] == b"\x5c" * MIB
    assert raw[4 * MIB :] == bytes(DISK // 2 - 4 * MIB)


@pytest.mark.parametrize("length", [512, 4096, SLOT, SLOT + 512, MIB, 4 * MIB, DISK], ids=str)
def test_requests_of_every_size(lab: Lab, queues: int, length: int) -> None:
    disk, device = lab.mapped(queues=queues)
    data = random.Random(length).randbytes(length)
    with NbdClient(socket_of(device)) as client:
        for offset in (0, DISK - length, (DISK - length) // 2 // 512 * 512):
            client.call(Command.WRITE, offset, data=data, flags=FUA)
            assert disk.read_bytes()[offset : offset + length] == data
            assert client.call(Command.READ, offset, length) == data
        client.call(Command.WRITE_ZEROES, 0, length)
        client.call(Command.TRIM, 0, length)
        client.call(Command.FLUSH)
        assert client.call(Command.READ, 0, length) == bytes(length)


_BAD = {
    "a read of part of a block": (Command.READ, 0, 100, errno.EINVAL),
    "a read between blocks": (Command.READ, 256, 512, errno.EINVAL),
    "a write of part of a block": (Command.WRITE, 0, 100, errno.EINVAL),
    "a write between blocks": (Command.WRITE, 511, 1024, errno.EINVAL),
    "zeroes of part of a block": (Command.WRITE_ZEROES, 0, 100, errno.EINVAL),
    "a trim between blocks": (Command.TRIM, 1, 512, errno.EINVAL),
    "a read behind the end": (Command.READ, DISK, 512, errno.EINVAL),
    "a read over the end": (Command.READ, DISK - 512, 1024, errno.EINVAL),
    "a write behind the end": (Command.WRITE, DISK, 512, errno.ENOSPC),
    "a write over the end": (Command.WRITE, DISK - 512, 1024, errno.ENOSPC),
    "zeroes over the end": (Command.WRITE_ZEROES, DISK - 512, 1024, errno.ENOSPC),
    "a trim over the end": (Command.TRIM, DISK - 512, 1024, errno.EINVAL),
    "an offset that wraps round": (Command.READ, 2**64 - 512, 1024, errno.EINVAL),
}


@pytest.mark.parametrize("bad", _BAD)
def test_a_bad_request_is_an_error_and_nothing_else(lab: Lab, bad: str) -> None:
    """As NBD says: EINVAL, or ENOSPC for what would write outside; the connection and every byte stay."""
    disk, device = lab.mapped()
    disk.write_bytes(before := os.urandom(DISK))
    command, offset, length, expected = _BAD[bad]
    with NbdClient(socket_of(device)) as client:
        data = bytes(length) if command == Command.WRITE else b""
        with pytest.raises(Refused) as caught:
            client.call(command, offset, length, data)
        assert caught.value.errno == expected
        assert client.call(Command.READ, 0, DISK) == before
        assert client.connections == 1
    assert disk.read_bytes() == before


def test_flags_of_a_second_connection_are_the_same(lab: Lab) -> None:
    """Multi-conn means that a flush of one connection covers what another one wrote, and that it is seen there at once."""
    disk, device = lab.mapped(queues=4)
    with NbdClient(socket_of(device)) as first, NbdClient(socket_of(device)) as second:
        assert first.export == second.export
        assert Flag.MULTI_CONN in first.export.flags
        first.call(Command.WRITE, 0, data=b"1" * 4096)
        second.call(Command.FLUSH)
        assert second.call(Command.READ, 0, 4096) == b"1" * 4096
    assert disk.read_bytes()[:4096] == b"1" * 4096


def test_several_blkdevs_at_once(lab: Lab, tmp_path: Path) -> None:
    """Three backends of one host, each a device of the other with queues of its own; copies run at the same time."""
    images, devices, disks = [], [], []
    for number in range(3):
        disks.append(lab.disk(f"disk{number}"))
        lab.node1.call("cbd.backend.start", transport="pool0", path=str(disks[-1]))
        started = lab.node2.call("cbd.blkdev.start", transport="pool0", backend=number, frontend="nbdkit", queues=number + 1)
        devices.append(started["device"])
        images.append(tmp_path / f"image{number}")
        images[-1].write_bytes(random.Random(number).randbytes(DISK))
    assert len(set(devices)) == 3
    copies = [subprocess.Popen(["nbdcopy", str(image), device]) for image, device in zip(images, devices, strict=True)]
    assert [copy.wait(120) for copy in copies] == [0, 0, 0]
    for image, disk, device in zip(images, disks, devices, strict=True):
        assert disk.read_bytes() == image.read_bytes()
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, device)
