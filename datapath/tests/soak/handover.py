# SPDX-License-Identifier: GPL-3.0-or-later
"""Owners that change under load, and a history of it that must be linearizable for each block.

    python3 datapath/tests/soak/handover.py --handovers 20 --seed 1

node1 and node3 serve one disk in turns: the owner loses power, the other one takes over, the dead one comes back. node2 and
node4 each have a device of it, and each client reads every block and writes every block. A block has one write under way at
most, and any number of reads: a write is sent again when its owner died, so two of one block that meet might each happen twice,
and who shares a disk agrees who writes what. In between a device goes: it is stopped, and the other host has the disk for
itself meanwhile.
"""

from __future__ import annotations

import argparse
import os
import random
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent / "src"), str(TESTS), str(TESTS / "soak")]

from hosts import Host, wait_until
from kill_loop import stage
from lab import Lab, socket_of, stopped
from linearizable import Kind, NotLinearizable, Operation, check
from mishaps import die
from nbd_client import Command, NbdClient, Unanswered

BLOCKS = 8
BLOCK = 512  # bytes that every disk moves at once
DEPTH = 4
PAUSE_S = 0.001  # between two looks of a client, so that a history stays short
T = {"transport": "pool0"}
ONE = T | {"id": 0}


class Torn(Exception):
    """A block with parts of two writes."""


class Turns:
    """Which blocks have a write under way, and the number of the next one. For all clients."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writing: set[int] = set()
        self._version = 0

    def begin(self, block: int) -> int | None:
        """The value to write; None while somebody else is writing this block."""
        with self._lock:
            if block in self._writing:
                return None
            self._writing.add(block)
            self._version += 1
            return self._version

    def end(self, block: int) -> None:
        with self._lock:
            self._writing.discard(block)


class Client:
    """Reads and writes at random in a thread of its own, and remembers what it saw."""

    def __init__(self, name: str, device: str, turns: Turns, seed: int) -> None:
        self.name = name
        self.history: list[list[Operation]] = [[] for _ in range(BLOCKS)]
        self.answers = 0
        self.failure: BaseException | None = None
        self._device = device
        self._turns = turns
        self._random = random.Random(f"{seed} {name}")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns with nothing under way. Raises what ended the client."""
        self._ended.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        flying: dict[int, tuple[Kind, int, int, float]] = {}
        try:
            with NbdClient(socket_of(self._device)) as client:
                while flying or not self._ended.is_set():
                    while len(flying) < DEPTH and not self._ended.is_set():
                        self._submit(client, flying)
                    for reply in client.wait(0.05):
                        self._complete(flying.pop(reply.cookie), reply.error, reply.data)
                    time.sleep(PAUSE_S)
        except BaseException as error:
            self.failure = error

    def _submit(self, client: NbdClient, flying: dict[int, tuple[Kind, int, int, float]]) -> None:
        block = self._random.randrange(BLOCKS)
        version = self._turns.begin(block) if self._random.random() < 0.5 else None
        begin = time.monotonic()
        if version is None:
            flying[client.submit(Command.READ, block * BLOCK, BLOCK)] = (Kind.READ, block, 0, begin)
        else:
            data = struct.pack("<Q", version) * (BLOCK // 8)
            flying[client.submit(Command.WRITE, block * BLOCK, data=data)] = (Kind.WRITE, block, version, begin)

    def _complete(self, request: tuple[Kind, int, int, float], error: int, data: bytes) -> None:
        kind, block, value, begin = request
        if kind is Kind.READ and not error:
            value = value_of(data)
        if kind is Kind.WRITE:
            self._turns.end(block)
        if kind is Kind.WRITE or not error:
            self.history[block].append(Operation(self.name, kind, value, begin, None if error else time.monotonic()))
        self.answers += not error


def value_of(data: bytes) -> int:
    """What a block holds. Raises `Torn`."""
    values = set(struct.unpack(f"<{BLOCK // 8}Q", data))
    if len(values) > 1:
        raise Torn(f"a block holds parts of {sorted(values)}")
    return int(values.pop())


class Relay(Lab):
    """node1 and node3 serve; node2 and node4 use."""

    def __init__(self, memory: Path, folder: Path, make_host: Callable[..., Host]) -> None:
        super().__init__(memory, folder, make_host)
        self.node3, self.node4 = make_host("node3"), make_host("node4")
        for node in (self.node3, self.node4):
            node.call("cbd.transport.register", memory=self.memory)

    def device(self, host: Host) -> str:
        started = host.call("cbd.blkdev.start", **T, backend=0, frontend="nbdkit", shared=True, queues=2)
        return str(started["device"])


class Play:
    """The clients of a relay, and what can be done to them."""

    def __init__(self, relay: Relay, seed: int) -> None:
        self.relay = relay
        self._seed = seed
        self._turns = Turns()
        self._owner, self._heir = relay.node1, relay.node3
        self._past: list[Client] = []
        self.disk = relay.disk()
        self._owner.call("cbd.backend.start", **T, path=str(self.disk))
        self._clients = {host.name: self._client(host) for host in (relay.node2, relay.node4)}

    def _client(self, host: Host) -> Client:
        return Client(f"{host.name} #{len(self._past)}", self.relay.device(host), self._turns, self._seed)

    def goes_on(self, answers: int = 20) -> None:
        """Each client gets so many answers."""
        for client in self._clients.values():
            wanted = client.answers + answers
            wait_until(lambda c=client, w=wanted: c.answers >= w or c.failure, f"{client.name} goes on")
            if client.failure:
                raise client.failure

    def hand_over_backend(self) -> None:
        """The owner loses power, the heir takes over, and the dead one comes back as the next heir."""
        die(self._owner, self._heir)
        self._heir.call("cbd.backend.recover", **ONE, path=str(self.disk))
        self._owner.start()
        wait_until(lambda: self._knows(self._owner), f"{self._owner.name} knows who has its backend")
        self._owner.call("cbd.backend.stop", **ONE)  # what is left there is a wish
        self._owner, self._heir = self._heir, self._owner

    def _knows(self, host: Host) -> bool:
        rows = host.call("cbd.backend.list", **T)
        return [(row["host"], row["state"]) for row in rows] == [(self._heir.name, "running"), (host.name, "lost")]

    def move_blkdev(self, name: str) -> None:
        """A client ends, its device goes, and both come back; the other client goes on alone meanwhile."""
        host = {"node2": self.relay.node2, "node4": self.relay.node4}[name]
        client = self._clients.pop(name)
        client.stop()
        self._past.append(client)
        number = next(row["id"] for row in host.call("cbd.blkdev.list", **T) if row["host"] == name)
        wait_until(lambda: stopped(host, number), f"the device of {name} is stopped")
        self.goes_on()
        self._clients[name] = self._client(host)

    def end(self) -> list[list[Operation]]:
        """The history of each block, with the content of the disk as the last read."""
        for client in self._clients.values():
            client.stop()
        clients = [*self._past, *self._clients.values()]
        now = time.monotonic()
        content = self.disk.read_bytes()
        last = [value_of(content[block * BLOCK : (block + 1) * BLOCK]) for block in range(BLOCKS)]
        disk = [Operation("disk", Kind.READ, value, now, now + 1) for value in last]
        return [[*(each for client in clients for each in client.history[block]), disk[block]] for block in range(BLOCKS)]


def run(relay: Relay, handovers: int, seed: int) -> str:
    """So many changes of owners; returns figures. Raises `NotLinearizable`, `Torn`, `Unanswered`."""
    chance = random.Random(seed)
    play = Play(relay, seed)
    for number in range(handovers):
        play.goes_on()
        if number % 2 == 0:
            play.hand_over_backend()
        else:
            play.move_blkdev(chance.choice(["node2", "node4"]))
        play.goes_on()
    histories = play.end()
    for block, history in enumerate(histories):
        try:
            check(history)
        except NotLinearizable as error:
            raise NotLinearizable(f"seed {seed}, block {block}: {error}") from None
    total = [each for history in histories for each in history]
    unknown = sum(each.end is None for each in total)
    return f"{handovers} handovers, {len(total)} operations on {BLOCKS} blocks, {unknown} of unknown end: linearizable"


def main() -> int:
    parser = argparse.ArgumentParser(description="owners that change under load; the history must be linearizable")
    parser.add_argument("--handovers", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    from core_build import build_library

    os.environ.setdefault("CXL_CORE_LIBRARY", str(build_library()))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        with stage(Relay) as relay:
            print(run(relay, options.handovers, options.seed), flush=True)
    except (NotLinearizable, Torn, Unanswered, AssertionError) as error:
        print(f"handover, seed {options.seed}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
