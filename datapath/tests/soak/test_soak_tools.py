# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools of the soak themselves: a writer that misses a lie, or a client that loses a request, would prove nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts import wait_until
from kill_loop import pauses
from lab import needs_nbd
from mishaps import paused
from nbd_client import Command, Export, Flag, NbdClient, ProtocolError, Refused, Reply, Unanswered
from verifying_writer import BLOCK, Background, Corrupt, Gap, Ledger, Pattern, Writer

BLOCKS = 64
SIZE = 4 << 20


# ---- the writer, against a device in this process that can lie


class Device:
    """Answers at once, and correctly unless `lie` changes what a write does."""

    def __init__(self) -> None:
        self.export = Export(BLOCKS * BLOCK, Flag.HAS_FLAGS)
        self.data = bytearray(BLOCKS * BLOCK)
        self.connections, self.resent = 1, 0
        self.error = 0
        self.lie: Callable[[int, bytes], None] = self.write
        self._replies: list[Reply] = []
        self._cookie = 0

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data

    def submit(self, command: Command, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> int:
        self._cookie += 1
        error = self.error if command == Command.WRITE else 0
        if command == Command.WRITE:
            self.lie(offset, data)
        found = bytes(self.data[offset : offset + length]) if command == Command.READ else b""
        self._replies.append(Reply(self._cookie, error, found))
        return self._cookie

    def wait(self, _: float) -> list[Reply]:
        replies, self._replies = self._replies, []
        return replies


def rounds(count: int) -> Callable[[], bool]:
    left = iter([False] * count)
    return lambda: next(left, True)


def judged(device: Device, tolerated: frozenset[int] = frozenset()) -> Writer:
    """100 rounds, then everything is read."""
    writer = Writer(device, 4, 1, tolerated)  # type: ignore[arg-type]
    writer.run(rounds(100))
    writer.verify()
    return writer


def test_an_honest_device_passes(tmp_path: Path) -> None:
    device = Device()
    writer = judged(device)
    assert writer.requests > 300
    assert writer.checked > BLOCKS
    (tmp_path / "file").write_bytes(device.data)
    writer.check_file(tmp_path / "file")
    (tmp_path / "file").write_bytes(bytes(BLOCK) + device.data[BLOCK:])
    with pytest.raises(Corrupt, match="block 0 holds version 0"):
        writer.check_file(tmp_path / "file")


def lie_from(device: Device, first: int, lie: Callable[[int, bytes], None]) -> None:
    """From the write number `first` on, `lie` is done after each one."""
    count = 0

    def write(offset: int, data: bytes) -> None:
        nonlocal count
        count += 1
        device.write(offset, data)
        if count >= first:
            lie(offset, data)

    device.lie = write


def test_a_lost_write_is_found() -> None:
    device = Device()
    lie_from(device, 30, lambda offset, data: setattr(device, "lie", lambda *_: None))
    with pytest.raises(Corrupt, match="lost"):
        judged(device)


def test_a_write_that_comes_late_is_found() -> None:
    """As if an old owner had woken up: a write is done again after a later one to the same place was acknowledged."""
    device = Device()
    seen: dict[int, bytes] = {}
    late = False

    def write(offset: int, data: bytes) -> None:
        nonlocal late
        device.write(offset, data)
        before = seen.setdefault(offset, data[:BLOCK])
        if before != data[:BLOCK] and not late:
            late = True
            device.write(offset, before)

    device.lie = write
    with pytest.raises(Corrupt, match="lost"):
        judged(device)
    assert late


@pytest.mark.parametrize(
    ("lie", "complaint"),
    [
        (lambda offset, data: ((offset + BLOCK) % (BLOCKS * BLOCK), data[:BLOCK]), "holds block"),
        (lambda offset, data: (offset + BLOCK // 2, bytes(BLOCK // 2)), "torn or foreign"),
        (lambda offset, data: (offset + 100, bytes([data[100] ^ 1])), "torn or foreign"),
        (lambda offset, data: (offset, Pattern(2).block(offset // BLOCK, 1)), "written by another run"),
        (lambda offset, data: (offset, Pattern(1).block(offset // BLOCK, 10**6)), "never acknowledged"),
    ],
    ids=["misplaced", "torn", "bit", "foreign", "future"],
)
def test_a_wrong_write_is_found(lie: Callable[[int, bytes], tuple[int, bytes]], complaint: str) -> None:
    """What the device writes besides, and where."""
    device = Device()
    lie_from(device, 30, lambda offset, data: device.write(*lie(offset, data)))
    with pytest.raises(Corrupt, match=complaint):
        judged(device)


@pytest.mark.parametrize("done", [True, False])
def test_a_failed_write_may_have_happened_or_not(done: bool) -> None:
    device = Device()
    device.error = errno.EIO
    if not done:
        device.lie = lambda offset, data: None
    with pytest.raises(Corrupt, match="EIO"):
        judged(device)
    device.data[:] = bytes(len(device.data))
    writer = judged(device, frozenset({errno.EIO}))
    assert writer.errors > 100


def test_what_a_failed_write_left_is_settled_by_the_next_one() -> None:
    ledger = Ledger(1)
    first = ledger.begin([0])
    for version in (0, first):
        ledger.check(0, version)
    second = ledger.begin([0])
    ledger.acknowledge([0], second)
    ledger.check(0, second)
    with pytest.raises(Corrupt, match="lost"):
        ledger.check(0, first)


def test_kills_within_one_silence_count_once() -> None:
    gaps = [Gap(0.5, 0.6), Gap(1.0, 3.0), Gap(3.2, 3.3), Gap(5.0, 5.5)]
    assert pauses([1.1, 2.0, 4.9], gaps) == [0.5, 2.0]
    assert pauses([9.0], gaps) == [0.0]


# ---- the client, against nbdkit and against servers that break off


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s") / "s"


@contextlib.contextmanager
def nbdkit(place: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    place.unlink(missing_ok=True)
    with subprocess.Popen(["nbdkit", "-f", "-U", str(place), *arguments]) as server:
        try:
            wait_until(place.exists, "nbdkit listens")
            yield server
        finally:
            server.kill()


@needs_nbd
def test_every_command(place: Path) -> None:
    with nbdkit(place, "memory", str(SIZE)), NbdClient(place) as client:
        assert client.export.size == SIZE
        assert client.export.flags & Flag.FLUSH
        client.call(Command.WRITE, 4096, data=b"x" * 8192)
        assert client.call(Command.READ, 0, 16384) == bytes(4096) + b"x" * 8192 + bytes(4096)
        client.call(Command.TRIM, 4096, 4096)
        client.call(Command.WRITE_ZEROES, 8192, 4096)
        client.call(Command.FLUSH)
        assert client.call(Command.READ, 0, 16384) == bytes(16384)
        with pytest.raises(Refused) as caught:
            client.call(Command.WRITE, SIZE, data=b"x" * 512)
        assert caught.value.errno == errno.ENOSPC
        cookies = [client.submit(Command.WRITE, n * 4096, data=bytes([n]) * 4096) for n in range(200)]
        replies: list[Reply] = []
        while client.in_flight:
            replies += client.wait(1.0)
        assert sorted(reply.cookie for reply in replies) == cookies
        assert client.call(Command.READ, 0, 200 * 4096) == b"".join(bytes([n]) * 4096 for n in range(200))


@needs_nbd
def test_a_writer_outlives_its_server(place: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    os.truncate(disk, SIZE)
    slow = ("--filter=delay", "file", str(disk), "delay-write=5ms")
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(nbdkit(place, *slow))]
        writer = stack.enter_context(Background(place, 8, 1))
        for _ in range(3):
            before = writer.requests
            wait_until(lambda seen=before: writer.requests > seen + 20, "it goes on")
            servers[-1].kill()
            servers[-1].wait()
            servers.append(stack.enter_context(nbdkit(place, *slow)))
        writer.finish()
        assert (writer.writer.errors, writer.connections) == (0, 4)
    writer.writer.check_file(disk)


@needs_nbd
def test_the_program(place: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent.parent / "verifying_writer.py"), str(place), "--seconds", "0.5"]
    with nbdkit(place, "memory", str(SIZE)):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "blocks checked, 0 errors, 1 connections" in done.stdout
    with nbdkit(place, "--filter=error", "memory", str(SIZE), "error-pread=EIO", "error-pread-rate=10%"):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert "EIO" in done.stderr


class Broken:
    """A server that says `greeting` to each client, and hangs up."""

    def __init__(self, place: Path, greeting: bytes) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(place))
        self._socket.listen()
        self._greeting = greeting
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                with client:
                    client.sendall(self._greeting)

    def __enter__(self) -> Broken:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def test_a_server_that_hangs_up_is_tried_until_patience_ends(place: Path) -> None:
    with Broken(place, b"NBDMAGIC"), pytest.raises(Unanswered, match="hung up in the handshake"):
        NbdClient(place, patience_s=0.2)
    with pytest.raises(Unanswered, match="no connection"):
        NbdClient(place.with_name("none"), patience_s=0.1)


def test_what_is_no_nbd_server_is_named(place: Path) -> None:
    with Broken(place, b"HTTP/1.1 400 Bad Request"), pytest.raises(ProtocolError, match="newstyle"):
        NbdClient(place)


@needs_nbd
def test_a_request_without_an_answer_ends_the_patience(place: Path) -> None:
    with nbdkit(place, "memory", str(SIZE)) as server:
        client = NbdClient(place, patience_s=0.3)
        with paused({server.pid}):
            client.submit(Command.READ, 0, 512)
            with pytest.raises(Unanswered, match="is connected"):
                client.wait(30)
        client.close()
