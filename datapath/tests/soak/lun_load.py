# SPDX-License-Identifier: GPL-3.0-or-later
"""Many processes with many virtual LUNs each write, read back and resize them, while engine and daemon are killed in turn.

    lun_load.py --processes 64 --handles 8 --seconds 60 --kills 3 --sanitize

Every block that is read is compared with what this process wrote last: zeroes, or a stamp of process, handle, block and count.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "src")]

from core_build import build, build_library
from hosts import Host, wait_until
from lun_app import MIB, Child, kill_engine, lun_row, make_lun

from cxl_datapath import cblk

BLOCK = cblk.BLOCK_SIZE
LARGEST = 600  # blocks of one virtual LUN: up to three translation chunks
LUN = 1024 * MIB
OPEN_S = 600.0  # until all processes have their handles, on a busy machine


class Volume:
    """One handle with a model of its content."""

    def __init__(self, lun: str, name: bytes, chance: random.Random) -> None:
        self._name = name
        self._chance = chance
        self._written: dict[int, int] = {}
        self._count = 0
        self.chunk = cblk.cblk_open(lun, 16, flags=cblk.OPN_VIRT_LUN)
        self.resize()

    def _stamp(self, lba: int, count: int) -> bytes:
        return (b"%s %d %d|" % (self._name, lba, count)).ljust(64, b".") * (BLOCK // 64)

    def _expected(self, lba: int) -> bytes:
        return self._stamp(lba, self._written[lba]) if lba in self._written else bytes(BLOCK)

    def resize(self) -> None:
        blocks = self._chance.randrange(1, LARGEST)
        try:
            cblk.cblk_set_size(self.chunk, blocks)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return
        self._written = {lba: count for lba, count in self._written.items() if lba < blocks}

    def step(self) -> None:
        blocks = cblk.cblk_get_size(self.chunk)
        if not blocks:
            self.resize()
            return
        lba = self._chance.randrange(blocks)
        many = min(self._chance.choice((1, 1, 1, 8, 40)), blocks - lba)
        if self._chance.random() < 0.5:
            self._count += 1
            for each in range(lba, lba + many):
                self._written[each] = self._count
            cblk.cblk_write(self.chunk, b"".join(self._stamp(each, self._count) for each in range(lba, lba + many)), lba)
            return
        buffer = bytearray(BLOCK * many)
        cblk.cblk_read(self.chunk, buffer, lba)
        for each in range(many):
            found, wanted = buffer[each * BLOCK : (each + 1) * BLOCK], self._expected(lba + each)
            assert found == wanted, f"{self._name!r} block {lba + each}: {bytes(found[:64])!r}, not {wanted[:64]!r}"


def work(lun: str, number: int, handles: int, *, seconds: float, chance: random.Random, all_open: Barrier) -> dict[str, int]:
    """One process; returns what it did once every process had its handles."""
    volumes = [Volume(lun, b"p%d h%d" % (number, handle), chance) for handle in range(handles)]
    all_open.wait(OPEN_S)
    deadline = time.monotonic() + seconds
    steps = resizes = 0
    while time.monotonic() < deadline:
        volume = chance.choice(volumes)
        if chance.random() < 0.05:
            volume.resize()
            resizes += 1
        else:
            volume.step()
            steps += 1
    recoveries = sum(cblk.cblk_get_stats(volume.chunk)["recoveries"] for volume in volumes)
    for volume in volumes[: handles // 2]:  # the rest is left to the end of the process
        cblk.cblk_close(volume.chunk)
    return {"steps": steps, "resizes": resizes, "recoveries": recoveries}


def run(host: Host, *, processes: int, handles: int, seconds: float, kills: int, seed: int) -> dict[str, int]:
    """The sum of what all did. Raises what the first one that failed raised."""
    make_lun(host, "load", LUN, client_contexts=512)
    lun, all_open = f"{host.runtime}/lun.sock/load", get_context("fork").Barrier(processes + 1)
    chances = [random.Random(seed * 1000 + number) for number in range(processes)]
    children = [
        Child(lambda n=n: work(lun, n, handles, seconds=seconds, chance=chances[n], all_open=all_open)) for n in range(processes)
    ]
    all_open.wait(OPEN_S)
    deadline = time.monotonic() + seconds
    for kill in range(kills):
        time.sleep(max(0.0, (deadline - time.monotonic()) / (kills - kill + 1)))
        wait_until(lambda: lun_row(host, "load")["state"] == "running", "the engine runs")
        if kill % 2:
            host.kill()
            host.start()
        else:
            kill_engine(host, "load")
    try:
        outcomes = [child.result() for child in children]
    except BaseException:
        for child in children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                child.kill()
        raise
    wait_until(lambda: lun_row(host, "load")["contexts"] == 0, "every context ends")
    row = lun_row(host, "load")
    assert row["free"] == row["size"], "nothing is lost"
    return {key: sum(outcome[key] for outcome in outcomes) for key in outcomes[0]} | {"kills": kills}


def sanitized_environment() -> dict[str, str]:
    """Of processes that load the core under AddressSanitizer and UBSan into a Python without them."""
    folder = build("address,undefined")
    runtime = subprocess.run(["cc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True).stdout.strip()
    options = "detect_leaks=0:abort_on_error=1:verify_asan_link_order=0"
    return {"CXL_CORE_LIBRARY": str(folder / "libcxl_core.so"), "LD_PRELOAD": runtime, "ASAN_OPTIONS": options}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("processes", 64), ("handles", 8), ("seconds", 60), ("kills", 3), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default, help="(%(default)s)")
    parser.add_argument("--sanitize", action="store_true", help="engine and library under AddressSanitizer and UBSan")
    options = vars(parser.parse_args())
    if options.pop("sanitize") and "LD_PRELOAD" not in os.environ:
        os.environ.update(sanitized_environment())
        os.execv(sys.executable, [sys.executable, *sys.argv])
    if "CXL_CORE_LIBRARY" not in os.environ:
        os.environ["CXL_CORE_LIBRARY"] = str(build_library())
    os.environ["CBLK_PATIENCE_S"] = "120"  # a daemon under sanitizers on a busy machine takes its time
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2] / "src")
    with tempfile.TemporaryDirectory(prefix="cxll-") as folder:
        host = Host(Path(folder), "node1")
        host.start()
        try:
            print(run(host, **options))
            host.stop()
        finally:
            host.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
