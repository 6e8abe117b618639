# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults in a loop under a verifying writer: processes that stand still, bits that turn over. Nothing wrong may ever be accepted.

    python3 datapath/tests/soak/fault_loop.py --fault all --count 50 --seed 1

Two daemons share a file in /dev/shm; a file of node1 is a device of node2, which the writer uses. What was told to have worked
must be there in the end; what failed may have happened or not; a block that is neither is the end of the program, with the
seed.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent / "src"), str(TESTS), str(TESTS / "soak")]

from bit_flips import Flips, SlotView
from hosts import Host, wait_until
from kill_loop import DEPTH, VICTIMS, living, stage
from lab import LEASE_MS, Lab, children, socket_of, stopped
from mishaps import paused
from nbd_client import Unanswered
from verifying_writer import Background, Corrupt

from cxl_datapath.errors import DatapathError

QUEUES = 2
IO_TIMEOUT_S = 3  # a slot whose number turned over is never seen: after half of this its requests go to fresh channels
PILE_UP_S = 0.1  # until requests wait for whoever stands still

Fault = Callable[[Lab, Flips, random.Random], object]


# ---- processes that stand still for longer than a lease


def _host(lab: Lab, name: str) -> Host:
    return lab.node1 if name == "node1" else lab.node2


def _process(victim: str) -> Fault:
    place, find = VICTIMS[victim]

    def fault(lab: Lab, _: Flips, chance: random.Random) -> None:
        with paused([living(_host(lab, place), find)]):
            time.sleep(chance.uniform(1.2, 2.0) * LEASE_MS / 1000)

    return fault


def _whole_host(place: str) -> Fault:
    def fault(lab: Lab, _: Flips, chance: random.Random) -> None:
        host = _host(lab, place)
        with paused({host.pid, *children(host.pid)}):
            time.sleep(chance.uniform(1.2, 2.0) * LEASE_MS / 1000)

    return fault


# ---- bits that turn over on their way


def _in_waiting(victim: str, find: Callable[[Flips], list[SlotView]], payload: bool) -> Fault:
    """While `victim` stands still, a bit of something that waits for it."""
    place, process = VICTIMS[victim]

    def fault(lab: Lab, flips: Flips, chance: random.Random) -> str:
        with paused([living(_host(lab, place), process)]):
            time.sleep(PILE_UP_S)
            slots = [slot for slot in find(flips) if slot.data_len or not payload]
            if not slots:
                return "nothing waited"
            slot = chance.choice(slots)
            offset, bits = (flips.payload_of(slot), slot.data_len * 8) if payload else (slot.place, 64 * 8)
            bit = chance.randrange(bits)
            flips.flip(offset, bit)
        return f"bit {bit} of {slot}"

    return fault


def _submissions(flips: Flips) -> list[SlotView]:
    return flips.unanswered()


def _completions(flips: Flips) -> list[SlotView]:
    return flips.newest_answers(DEPTH // QUEUES)


FAULTS: dict[str, Fault] = {
    **{f"stop-{victim}": _process(victim) for victim in VICTIMS},
    "stop-backend-host": _whole_host("node1"),
    "stop-blkdev-host": _whole_host("node2"),
    "flip-submission": _in_waiting("backend-worker", _submissions, payload=False),
    "flip-request-data": _in_waiting("backend-worker", _submissions, payload=True),
    "flip-completion": _in_waiting("nbdkit", _completions, payload=False),
    "flip-response-data": _in_waiting("nbdkit", _completions, payload=True),
    "flip-metadata": lambda _, flips, chance: flips.flip_metadata(chance),
}


def goes_on(writer: Background) -> None:
    """It got successes again, not only errors."""
    before = writer.requests - writer.writer.errors
    wait_until(lambda: writer.requests - writer.writer.errors > before + DEPTH, f"the writer goes on: {writer.writer.figures()}")


def run(lab: Lab, fault: str, count: int, seed: int) -> Background:
    """So many faults on a fresh pair of hosts; returns the writer. Raises `Corrupt`, `Unanswered`."""
    chance = random.Random(seed)
    disk, device = lab.mapped(queues=QUEUES, io_timeout=IO_TIMEOUT_S)
    writer = Background(socket_of(device), DEPTH, seed, frozenset({errno.EIO}))
    with Flips(lab.memory) as flips, writer:
        for number in range(count):
            goes_on(writer)
            what = FAULTS[fault](lab, flips, chance)
            try:
                goes_on(writer)
            except AssertionError as error:
                raise AssertionError(f"{fault}, seed {seed}, number {number} ({what}): {error}") from None
            flips.take_back()
        writer.finish()
    wait_until(lambda: _stopped(lab), "the device is stopped")
    lab.node1.call("cbd.backend.stop", transport="pool0", id=0)
    writer.writer.check_file(disk)
    return writer


def _stopped(lab: Lab) -> bool:
    """What was hit by the last fault may still be coming back."""
    with suppress(DatapathError, AssertionError):
        return stopped(lab.node2)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description="faults in a loop under a verifying writer")
    parser.add_argument("--fault", choices=[*FAULTS, "all"], default="all")
    parser.add_argument("--count", type=int, default=20, help="of each fault (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    from core_build import build_library

    os.environ.setdefault("CXL_CORE_LIBRARY", str(build_library()))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    for fault in FAULTS if options.fault == "all" else [options.fault]:
        try:
            with stage() as lab:
                print(
                    f"{fault}: {options.count} times, {run(lab, fault, options.count, options.seed).writer.figures()}", flush=True
                )
        except (Corrupt, Unanswered, AssertionError) as error:
            print(f"{fault}, seed {options.seed}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
