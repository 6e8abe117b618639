# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 in a loop under a verifying writer: nothing may be lost, nothing corrupt; the writer may only have to wait.

    python3 datapath/tests/soak/kill_loop.py --victim backend-worker --kills 100 --seed 1

Two daemons share a file in /dev/shm; a file of node1 is a device of node2, which the writer uses. One process dies at random
moments, its daemon starts it again (a daemon is started again by this program). At the end everything is read back through the
device, and the backend's file is compared with what the writer was told.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent / "src"), str(TESTS)]

from hosts import Host, wait_until
from lab import MEMORY, Lab, children, running, socket_of
from nbd_client import Unanswered
from verifying_writer import Background, Corrupt, Gap

from cxl_datapath.errors import DatapathError

DEPTH = 8
QUEUES = 2
MOMENT_S = 0.5  # a victim dies within this time after the writer went on


def _worker(host: Host, kind: str) -> int | None:
    rows = host.call(f"cbd.{kind}.list", transport="pool0")
    return next((row["worker"]["pid"] for row in rows if row.get("worker")), None)


def _nbdkit(host: Host) -> int | None:
    try:
        return int((host.runtime / "cbd0.pid").read_text())
    except (OSError, ValueError):
        return None  # between two servers


# Where each victim lives, and how to find its process there.
VICTIMS: dict[str, tuple[str, Callable[[Host], int | None]]] = {
    "blkdev-worker": ("node2", lambda host: _worker(host, "blkdev")),
    "backend-worker": ("node1", lambda host: _worker(host, "backend")),
    "blkdev-daemon": ("node2", lambda host: host.pid),
    "backend-daemon": ("node1", lambda host: host.pid),
    "nbdkit": ("node2", _nbdkit),
}


def living(host: Host, find: Callable[[Host], int | None], but: int | None = None) -> int:
    """The victim's process, once it is there, and not `but`. Of this host, and no other: nothing else is ever killed."""
    pid = None
    while pid in (None, but) or not running(pid) or pid not in {host.pid, *children(host.pid)}:
        time.sleep(0.01)
        pid = find(host)
    return pid


def kill(host: Host, pid: int) -> None:
    """SIGKILL; a daemon is started again."""
    if pid == host.pid:
        host.kill()
        host.start()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def pauses(kills: list[float], gaps: list[Gap]) -> list[float]:
    """The longest silence, in seconds, from each kill to the next one; kills within one silence count once."""
    ends = [*kills[1:], float("inf")]
    found = set()
    for begin, end in zip(kills, ends, strict=True):
        if near := [gap for gap in gaps if gap.end > begin and gap.begin < end]:
            found.add(max(near, key=lambda gap: gap.seconds))
    return sorted(gap.seconds for gap in found) or [0.0]


def strike(lab: Lab, writer: Background, victim: str, kills: int, seed: int) -> list[float]:
    """Kills so often; returns when. About one kill of four does not wait until the writer goes on: it hits what is starting."""
    place, find = VICTIMS[victim]
    host = lab.node1 if place == "node1" else lab.node2
    chance = random.Random(seed)
    moments: list[float] = []
    last = None
    for _ in range(kills):
        pid = living(host, find, but=last)
        if last is None or chance.random() < 0.75:
            before = writer.requests
            while writer.requests == before:
                time.sleep(0.01)
        time.sleep(chance.uniform(0, MOMENT_S))
        moments.append(time.monotonic())
        kill(host, pid)
        last = pid
    return moments


@dataclass(frozen=True)
class Outcome:
    victim: str
    kills: int
    pauses: list[float]  # seconds
    connections: int  # of the writer; 1: it saw nothing but pauses
    writer: str  # its own figures

    def __str__(self) -> str:
        longest, median = max(self.pauses), statistics.median(self.pauses)
        return f"{self.victim}: {self.kills} kills, pause longest {longest:.2f} s, median {median:.2f} s; {self.writer}"


def run(lab: Lab, victim: str, kills: int, seed: int) -> Outcome:
    """One soak on a fresh pair of hosts. Raises `Corrupt`, `Unanswered`."""
    disk, device = lab.mapped(queues=QUEUES)
    with Background(socket_of(device), DEPTH, seed) as writer:
        moments = strike(lab, writer, victim, kills, seed)
        writer.finish()
    wait_until(lambda: _stopped(lab), "the device is stopped")
    lab.node1.call("cbd.backend.stop", transport="pool0", id=0)
    writer.writer.check_file(disk)
    return Outcome(victim, kills, pauses(moments, writer.writer.gaps), writer.connections, writer.writer.figures())


def _stopped(lab: Lab) -> bool:
    """The server may need a moment to see that the writer has gone, and the worker one to come back."""
    with contextlib.suppress(DatapathError):
        lab.node2.call("cbd.blkdev.stop", transport="pool0", id=0)
        return True
    return False


L = TypeVar("L", bound=Lab)


@contextlib.contextmanager
def stage(kind: type[L] = Lab) -> Iterator[L]:  # type: ignore[assignment]
    """A pair of hosts, or another kind of lab, and nothing of it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cxls-"))
    fd, memory = tempfile.mkstemp(prefix="cxl-soak-", dir="/dev/shm")
    os.ftruncate(fd, MEMORY)
    os.close(fd)
    hosts: list[Host] = []

    def make(name: str) -> Host:
        (folder / name).mkdir()
        hosts.append(Host(folder / name, name))
        hosts[-1].start()
        return hosts[-1]

    try:
        yield kind(Path(memory), folder, make)
    except BaseException:
        for host in hosts:
            print(f"-- the end of {host.name}'s log:", *host.log.read_text().splitlines()[-40:], sep="\n", file=sys.stderr)
        raise
    finally:
        for host in reversed(hosts):
            host.kill()
        shutil.rmtree(folder, ignore_errors=True)
        Path(memory).unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description="kill -9 in a loop under a verifying writer")
    parser.add_argument("--victim", choices=[*VICTIMS, "all"], default="all")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    from core_build import build_library

    os.environ.setdefault("CXL_CORE_LIBRARY", str(build_library()))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    for victim in VICTIMS if options.victim == "all" else [options.victim]:
        try:
            with stage() as lab:
                print(run(lab, victim, options.kills, options.seed), flush=True)
        except (Corrupt, Unanswered) as error:
            print(f"{victim}, seed {options.seed}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
