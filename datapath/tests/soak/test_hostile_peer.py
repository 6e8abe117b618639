# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole hosts beside a peer that writes whatever it likes into the shared memory.

The core's own tests have every field of a slot; these show that workers and daemons outlive it, that nothing of it reaches a
medium, and that honest hosts do not notice.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hosts import wait_until
from lab import DISK, Lab, io_works, needs_nbd, socket_of
from mishaps import halt
from nbd_client import Command, NbdClient
from verifying_writer import Background

from cxl_datapath.cbd.geometry import CHANNEL_RINGS, SLOT
from cxl_datapath.cbd.layout import BLKDEV_SHARED, BlkdevEntry, HostEntry, State
from cxl_datapath.cbd.lines import BACKEND_LINE_OFF, BLKDEV_LINE_OFF, Bell, ControlLine, Heartbeat
from cxl_datapath.cbd.metadata import seal
from cxl_datapath.cbd.registry import ENTRY_COPY, Registry, Table
from cxl_datapath.cbd.transport import attach
from cxl_datapath.core import crc32c
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import resolve

pytestmark = needs_nbd

T = {"transport": "pool0"}
_SLOT = struct.Struct("<QIBBHQQIIIiIII")
WRITE, READ, DISCARD, ZEROES, FLUSH = 1, 2, 3, 4, 5
DATA_CRC = 2
HOST, BLKDEV = 9, 9  # entries that no honest host of these tests takes


@dataclass(frozen=True)
class Slot:
    """A submission or completion entry, as docs/cbd-format.md has it."""

    op: int
    offset: int = 0
    len: int = 0
    flags: int = 0
    tag: int = 0
    data_off: int = 0
    data_len: int = 0
    result: int = 0
    data_crc: int = 0
    credit: int | None = None  # None: the right one
    reserved: int = 0
    tid: int | None = None
    epoch: int | None = None

    def pack(self, seq: int, epoch: int, credit: int) -> bytes:
        head = (seq, epoch if self.epoch is None else self.epoch, self.op, self.flags, self.tag)
        where = (seq if self.tid is None else self.tid, self.offset, self.len, self.data_off, self.data_len, self.result)
        body = _SLOT.pack(*head, *where, self.data_crc, credit if self.credit is None else self.credit, self.reserved)
        return body + struct.pack("<I", crc32c(body))


class Peer:
    """Somebody who maps the memory, and keeps to the rules only where it suits him."""

    def __init__(self, lab: Lab) -> None:
        self.mapping = Mapping(resolve(lab.memory))
        self.registry = Registry(self.mapping, attach(self.mapping, lab.memory))
        self.geometry = self.registry.info.geometry
        self.depth = self.geometry.ring_depth
        self.channel = self.geometry.channel_count - 1
        self._beats = 0
        self.seq = 0

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.mapping.close()

    def join(self, flags: int = 0) -> None:
        """Becomes host and blkdev, with one queue on the last channel, as an honest one would."""
        self.registry.hosts.write(HostEntry(State.RUNNING, HOST, 1, "mallory", bytes(16)))
        self.beat()
        backend = self.registry.backends.used()[0]
        epoch = self.registry.next_channel_epoch(self.channel)
        line = ControlLine(State.RUNNING, epoch, BLKDEV, 0, 0, HOST, 1)
        self.registry.write_blkdev_line(self.channel, line)
        ids = (State.RUNNING, BLKDEV, 1, HOST, 0, backend.epoch, flags)
        self.registry.blkdevs.write(BlkdevEntry(*ids, (self.channel,), (epoch,), 1))
        self.registry.ring(HOST, Bell(1))
        wait_until(lambda: self._answered(epoch), "the backend serves the peer's channel")
        self.epoch, self.seq = epoch, 0

    def _answered(self, epoch: int) -> bool:
        self.beat()
        line = self.registry.lines(self.channel).backend
        return line is not None and (line.state, line.epoch) == (State.RUNNING, epoch)

    def beat(self) -> None:
        self._beats += 1
        self.registry.beat(HOST, Heartbeat(self._beats, 1))

    def ask(self, slot: Slot, raw: bytes | None = None) -> int:
        """The result of a request; `raw` instead of its bytes."""
        self.beat()
        self.seq += 1
        place = (self.seq - 1) % self.depth * SLOT
        start = self.geometry.channel_off(self.channel) + CHANNEL_RINGS
        self.mapping.write(start + place, raw or slot.pack(self.seq, self.epoch, self.seq - 1))
        done = start + self._ring_bytes() + place
        wait_until(lambda: struct.unpack_from("<QI", self.mapping.read(done, 12)) == (self.seq, self.epoch), "an answer")
        return int(_SLOT.unpack_from(self.mapping.read(done, SLOT))[10])

    def put(self, data: bytes) -> Slot:
        """A right write of 4 KiB at 0, for a wrong one to be made of."""
        start = self.geometry.channel_off(self.channel) + CHANNEL_RINGS + 2 * self._ring_bytes()
        self.mapping.write(start, data)
        return Slot(WRITE, 0, len(data), DATA_CRC, 0, 0, len(data), data_crc=crc32c(data))

    def _ring_bytes(self) -> int:
        return -(-self.depth * SLOT // 4096) * 4096


@pytest.fixture
def peer(lab: Lab) -> Iterator[Peer]:
    with Peer(lab) as made:
        yield made


def _nothing_happened(lab: Lab) -> None:
    """Every daemon answers, no worker was restarted, and nobody met what he had not thought of."""
    for node in (lab.node1, lab.node2):
        (transport,) = node.call("status")["transports"]
        for row in transport["backend_list"] + transport["blkdev_list"]:
            worker = row.get("worker", {"state": "running", "restarts": 0, "error": None})
            assert (worker["state"], worker["restarts"], worker["error"]) == ("running", 0, None)
        assert "Traceback" not in node.log.read_text()
        assert node.cli("status").returncode == 0


def test_bad_requests_cost_an_error_each(lab: Lab, peer: Peer) -> None:
    disk = lab.disk()
    disk.write_bytes(before := os.urandom(DISK))
    lab.node1.call("cbd.backend.start", **T, path=str(disk))
    peer.join()
    good = peer.put(b"\xbb" * 4096)
    read = Slot(READ, 0, 4096)
    slot_bytes = peer.geometry.slot_bytes
    assert peer.ask(read) == 0
    bad = [
        *(replace(good, op=op) for op in (0, 6, 255)),
        *(replace(good, flags=flags) for flags in (0, 4 | DATA_CRC, 255)),
        *(replace(good, tag=tag) for tag in (peer.depth, 0x7FFF, 0xFFFF)),
        *(replace(good, offset=offset) for offset in (1, 511, DISK, DISK - 512, 1 << 63, (1 << 64) - 512)),
        *(replace(good, len=length) for length in (0, 1, 511, slot_bytes + 512, 0xFFFFFFFF)),
        *(replace(good, data_off=off) for off in (peer.depth * slot_bytes, 0xFFFFFFFF, 0xFFFFF000)),
        *(replace(good, data_len=length) for length in (0, 512, 0xFFFFFFFF)),
        replace(good, result=-1),
        replace(good, reserved=1),
        replace(good, data_crc=good.data_crc ^ 1),
        *(replace(read, offset=offset) for offset in (256, DISK, (1 << 64) - 4096)),
        *(replace(read, len=length) for length in (0, 100, slot_bytes + 512, 0xFFFFFE00)),
        *(
            Slot(op, offset, length)
            for op in (DISCARD, ZEROES)
            for offset, length in ((1, 512), (DISK, 512), (0, 0), (512, DISK))
        ),
        Slot(FLUSH, 512, 0),
        Slot(FLUSH, 0, 512),
    ]
    for slot in bad:
        assert peer.ask(slot) < 0, slot
        assert peer.ask(read) == 0, f"after {slot}"
    noise = random.Random(1)
    for _ in range(50):
        head = struct.pack("<QI", peer.seq + 1, peer.epoch)  # what makes the backend look at all
        assert peer.ask(good, head + noise.randbytes(SLOT - len(head))) < 0
    assert peer.ask(Slot(FLUSH)) == 0
    wait_until(lambda: "that no honest blkdev makes" in lab.node1.log.read_text(), "the log says so")
    assert disk.read_bytes() == before
    _nothing_happened(lab)
    device = lab.node2.call("cbd.blkdev.start", **T, backend=0, frontend="nbdkit", read_only=True)["device"]
    with NbdClient(socket_of(device)) as client:
        assert client.call(Command.READ, 0, DISK) == before


def test_completions_that_nobody_may_write_cost_an_error_each(lab: Lab, peer: Peer) -> None:
    """The backend's worker stands still; somebody else answers in its place."""
    disk, device = lab.mapped()
    entry = peer.registry.blkdevs.used()[0]
    (peer.channel,), (epoch,) = entry.channels, entry.channel_epochs
    worker = lab.node1.worker("backend", "pool0", 0)["pid"]
    with NbdClient(socket_of(device)) as client:
        client.call(Command.WRITE, 0, data=b"1" * 4096)
        halt(worker)
        try:
            ring = peer.geometry.channel_off(peer.channel) + CHANNEL_RINGS + peer._ring_bytes()
            right = Slot(READ, 0, 4096, DATA_CRC, 0, 0, 4096, data_crc=crc32c(bytes(4096)))
            wrong = [
                replace(right, data_off=peer.depth * peer.geometry.slot_bytes),
                replace(right, data_off=0xFFFFFFFF),
                replace(right, data_len=0xFFFFFFFF),
                replace(right, len=8192),
                replace(right, op=WRITE),
                replace(right, result=5),
                replace(right, result=-(1 << 31)),
                replace(right, data_crc=right.data_crc ^ 1),
                replace(right, reserved=7),
            ]
            for number, slot in enumerate(wrong, start=2):
                client.submit(Command.READ, 0, 4096)
                assert not client.wait(0.1)
                submitted = peer.geometry.channel_off(peer.channel) + CHANNEL_RINGS + (number - 1) % peer.depth * SLOT
                fields = _SLOT.unpack_from(peer.mapping.read(submitted, SLOT))
                assert fields[:2] == (number, epoch)
                raw = replace(slot, tag=fields[4], tid=number).pack(number, epoch, number)
                peer.mapping.write(ring + (number - 1) % peer.depth * SLOT, raw)
                (reply,) = client.wait(10)
                assert reply.error == errno.EIO, slot
        finally:
            os.kill(worker, signal.SIGKILL)
    wait_until(lambda: lab.node1.worker("backend", "pool0", 0)["restarts"] == 1, "the worker is started again")
    wait_until(lambda: io_works(device, 0x51), "the device works again")
    assert "Traceback" not in lab.node2.log.read_text()
    assert disk.read_bytes()[:4096] == b"1" * 4096


def _scribble(peer: Peer, noise: random.Random) -> None:
    """Something wrong in an entry or a line that no honest host uses: random bytes, or whole records with random numbers."""
    tables: list[Table] = [peer.registry.hosts, peer.registry.backends, peer.registry.blkdevs]  # type: ignore[type-arg]
    table = noise.choice(tables)
    number = noise.randrange(4, table.count)
    page = table.page(number)
    word = noise.choice([noise.randrange(4), noise.randrange(20), 0xFFFFFFFF, noise.getrandbits(32)])
    kind = noise.randrange(5)
    if kind == 0:
        peer.mapping.write(page, noise.randbytes(2 * ENTRY_COPY))
    elif kind == 1:
        length = noise.choice([0, 4, 96, 168, 304, ENTRY_COPY - 32])
        payload = bytearray(noise.randbytes(length))
        struct.pack_into("<II", payload, 0, noise.randrange(4), number) if length >= 8 else None
        peer.mapping.write(page, seal(table.kind.MAGIC, noise.getrandbits(64) or 1, bytes(payload), ENTRY_COPY))
    elif kind == 2:
        peer.mapping.write(page + 2048, noise.randbytes(2 * SLOT))  # heartbeat and bell
    elif kind == 3:
        fixed = (State.RUNNING, noise.randrange(4, 16), word, noise.choice([0, 1, word]), noise.choice([0, word]), word)
        queues = noise.randrange(1, 17)
        channels = tuple(noise.sample([*range(16), 0xFFFFFFFF, 1 << 31, peer.geometry.channel_count], queues))
        entry = BlkdevEntry(*fixed, noise.choice([0, BLKDEV_SHARED, 2, 3]), channels, (word,) * queues, word)
        peer.registry.blkdevs.write(entry)
    else:
        channel = noise.randrange(8, peer.geometry.channel_count)
        line = ControlLine(State(noise.randrange(3)), word, word, noise.choice([0, word]), word, noise.choice([0, 1, word]), word)
        start = peer.geometry.channel_off(channel)
        raw = noise.choice([line.pack(), noise.randbytes(SLOT)])
        peer.mapping.write(start + noise.choice([BLKDEV_LINE_OFF, BACKEND_LINE_OFF]), raw)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_wrong_entries_and_lines_disturb_nobody(lab: Lab, peer: Peer, seed: int) -> None:
    disk, device = lab.mapped(queues=2)
    noise = random.Random(seed)
    with Background(socket_of(device), 8, seed) as writer:
        for _ in range(600):
            _scribble(peer, noise)
            peer.registry.ring(0xF % peer.geometry.host_count, Bell(noise.getrandbits(60)))
            time.sleep(0.005)
        before = writer.requests
        wait_until(lambda: writer.requests > before + 100, "the writer goes on")
        _nothing_happened(lab)
        writer.finish()
        assert (writer.writer.errors, writer.connections) == (0, 1)
    writer.writer.check_file(disk)
