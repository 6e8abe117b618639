# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes to an NBD server and knows at any moment what must be there. For tests only.

    python3 verifying_writer.py SOCKET --seconds 10 --depth 8 --seed 1

Every block of 4 KiB says its own number, the version of the write that it came with, and a CRC of itself. A block must hold the
version that was acknowledged last, or one that was in flight since: in flight now, or failed with an error that the caller
tolerates (it may have happened or not). Anything else was lost, came late, went to a wrong place, or was torn.

No block has two requests at a time, as in a file system: what a device does with those is not defined.
"""

from __future__ import annotations

import argparse
import errno
import random
import signal
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from nbd_client import FUA, Command, NbdClient, ProtocolError, Reply, Unanswered

BLOCK = 4096
RUN_MAX = 16  # blocks per request: 4 KiB to 64 KiB
GAP_S = 0.02  # shorter silences are not remembered
_POLL_S = 0.05
_MAGIC = b"CXLBLOCK"
_HEAD, _CRC = struct.Struct("<8sQQ"), struct.Struct("<I")
_BODY = BLOCK - _HEAD.size - _CRC.size


class Corrupt(Exception):
    """A block that does not hold what it must, or an answer that the device must not give."""


class Pattern:
    """Blocks of one writer; the seed makes them, so that the remains of another run do not pass for ours."""

    def __init__(self, seed: int) -> None:
        self._noise = random.Random(seed).randbytes(2 * _BODY)

    def block(self, number: int, version: int) -> bytes:
        head = _HEAD.pack(_MAGIC, number, version) + self._body(version)
        return head + _CRC.pack(zlib.crc32(head))

    def version(self, number: int, raw: bytes) -> int:
        """The version in a block, 0 for one that was never written. Raises `Corrupt`."""
        if not any(raw):
            return 0
        magic, said, version = _HEAD.unpack_from(raw)
        if magic != _MAGIC or _CRC.unpack_from(raw, BLOCK - _CRC.size)[0] != zlib.crc32(raw[: -_CRC.size]):
            raise Corrupt(f"block {number} is torn or foreign: it begins with {raw[:24].hex()}")
        if said != number:
            raise Corrupt(f"block {number} holds block {said} (version {version})")
        if raw[_HEAD.size : -_CRC.size] != self._body(version):
            raise Corrupt(f"block {number} was written by another run")
        return int(version)

    def _body(self, version: int) -> bytes:
        start = version % _BODY
        return self._noise[start : start + _BODY]


class Ledger:
    """What each block may hold."""

    def __init__(self, blocks: int) -> None:
        self._acknowledged = [0] * blocks
        self._possible: list[set[int]] = [set() for _ in range(blocks)]
        self._version = 0

    def begin(self, blocks: Iterable[int]) -> int:
        """A write of these blocks is sent; returns its version."""
        self._version += 1
        for block in blocks:
            self._possible[block].add(self._version)
        return self._version

    def acknowledge(self, blocks: Iterable[int], version: int) -> None:
        for block in blocks:
            self._acknowledged[block] = version
            self._possible[block].clear()

    def check(self, block: int, version: int) -> None:
        """Raises `Corrupt` unless the block may hold this version."""
        last, possible = self._acknowledged[block], self._possible[block]
        if version != last and version not in possible:
            what = "lost" if version < last else "never acknowledged nor in flight"
            also = f", possible were {sorted(possible)}" if possible else ""
            raise Corrupt(f"block {block} holds version {version}, acknowledged was {last}{also}: {what}")


@dataclass(frozen=True)
class Gap:
    """A time without a completion, on the monotonic clock."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class _Flying:
    command: Command
    blocks: range
    version: int


class Writer:
    """One connection with `depth` requests in flight. `tolerated`: errnos that a request may fail with."""

    def __init__(self, client: NbdClient, depth: int, seed: int, tolerated: frozenset[int] = frozenset()) -> None:
        self._client = client
        self._depth = depth
        self._random = random.Random(seed)
        self._tolerated = tolerated
        self._blocks = client.export.size // BLOCK
        self._flying: dict[int, _Flying] = {}
        self._taken: set[int] = set()  # blocks of the requests in flight
        self._last = time.monotonic()
        self.pattern = Pattern(seed)
        self.ledger = Ledger(self._blocks)
        self.gaps: list[Gap] = []
        self.requests = 0
        self.errors = 0
        self.checked = 0  # blocks read and found right

    def run(self, ended: Callable[[], bool]) -> None:
        """Writes, and reads back at random, until `ended`; returns with nothing in flight. Raises `Corrupt`, `Unanswered`."""
        self._last = time.monotonic()
        while not ended():
            while len(self._flying) < self._depth:
                self._submit_random()
            self._collect()
        self._drain()

    def verify(self) -> None:
        """Reads everything."""
        self._last = time.monotonic()
        for first in range(0, self._blocks, RUN_MAX):
            while len(self._flying) >= self._depth:
                self._collect()
            self._submit(Command.READ, range(first, min(first + RUN_MAX, self._blocks)))
        self._drain()

    def check_file(self, path: Path) -> None:
        """The same for the backend's own file."""
        with path.open("rb") as file:
            for number in range(self._blocks):
                self._check(number, file.read(BLOCK))

    def figures(self) -> str:
        longest = max((gap.seconds for gap in self.gaps), default=0.0)
        client = self._client
        return (
            f"{self.requests} requests, {self.checked} blocks checked, {self.errors} errors, {client.connections} connections, "
            f"{client.resent} requests sent again, longest pause {longest:.2f} s"
        )

    def _submit_random(self) -> None:
        choice = self._random.random()
        if choice < 0.02:
            self._submit(Command.FLUSH, range(0))
            return
        length = self._random.randint(1, RUN_MAX)
        first = self._random.randrange(self._blocks - length + 1)
        blocks = range(first, first + length)
        if self._taken.isdisjoint(blocks):
            self._submit(Command.READ if choice < 0.3 else Command.WRITE, blocks, FUA if choice > 0.95 else 0)

    def _submit(self, command: Command, blocks: range, flags: int = 0) -> None:
        version, data = 0, b""
        if command == Command.WRITE:
            version = self.ledger.begin(blocks)
            data = b"".join(self.pattern.block(number, version) for number in blocks)
        offset, length = (blocks.start * BLOCK, len(blocks) * BLOCK) if blocks else (0, 0)
        self._flying[self._client.submit(command, offset, length, data, flags)] = _Flying(command, blocks, version)
        self._taken.update(blocks)

    def _drain(self) -> None:
        while self._flying:
            self._collect()

    def _collect(self) -> None:
        replies = self._client.wait(_POLL_S)
        now = time.monotonic()
        if replies:
            if now - self._last > GAP_S:
                self.gaps.append(Gap(self._last, now))
            self._last = now
        for reply in replies:
            self._complete(reply)

    def _complete(self, reply: Reply) -> None:
        request = self._flying.pop(reply.cookie)
        self._taken.difference_update(request.blocks)
        self.requests += 1
        if reply.error:
            self.errors += 1
            if reply.error not in self._tolerated:
                name = errno.errorcode.get(reply.error, str(reply.error))
                raise Corrupt(f"{request.command.name} of blocks {request.blocks}: {name}")
        elif request.command == Command.WRITE:
            self.ledger.acknowledge(request.blocks, request.version)
        for place, number in enumerate(request.blocks if reply.data else ()):
            self._check(number, reply.data[place * BLOCK : (place + 1) * BLOCK])

    def _check(self, number: int, raw: bytes) -> None:
        self.ledger.check(number, self.pattern.version(number, raw))
        self.checked += 1


class Background:
    """A writer in a thread of its own, with a connection of its own."""

    def __init__(self, socket: Path, depth: int, seed: int, tolerated: frozenset[int] = frozenset()) -> None:
        self._client = NbdClient(socket)
        self.writer = Writer(self._client, depth, seed, tolerated)
        self._quiet = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    @property
    def connections(self) -> int:
        return self._client.connections

    @property
    def requests(self) -> int:
        """Completed so far. Raises what ended the writer."""
        if self._failure is not None:
            raise self._failure
        return self.writer.requests

    def resume(self) -> None:
        self._quiet.clear()
        self._thread = threading.Thread(target=self._run, name="verifying writer", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Returns with nothing in flight. Raises what ended the writer."""
        self._quiet.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Stops, and reads everything back through the device."""
        self.pause()
        self.writer.verify()
        self._client.close()

    def _run(self) -> None:
        try:
            self.writer.run(self._quiet.is_set)
        except BaseException as error:
            self._failure = error

    def __enter__(self) -> Background:
        self.resume()
        return self

    def __exit__(self, *_: object) -> None:
        self._quiet.set()
        if self._thread is not None:
            self._thread.join()
        self._client.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes to an NBD server and verifies; SIGTERM ends the writing early.")
    parser.add_argument("socket", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--depth", type=int, default=8, help="requests in flight (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    deadline = time.monotonic() + options.seconds
    try:
        with NbdClient(options.socket) as client:
            writer = Writer(client, options.depth, options.seed)
            writer.run(lambda: ended.is_set() or time.monotonic() >= deadline)
            writer.verify()
            print(writer.figures())
    except (Corrupt, Unanswered, ProtocolError) as error:
        print(f"verifying_writer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
