# SPDX-License-Identifier: GPL-3.0-or-later
"""Two hosts over one memory, and the real clients of their devices."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hosts import Host

from cxl_datapath.errors import Code, DatapathError

MIB = 1 << 20
MEMORY = 64 * MIB
DISK = 16 * MIB
LEASE_MS = 2500

needs_nbd = pytest.mark.skipif(
    not all(map(shutil.which, ("nbdkit", "nbdcopy", "qemu-io"))), reason="needs nbdkit, nbdcopy and qemu-io"
)


class Lab:
    """node1 and node2 registered in transport pool0."""

    def __init__(self, memory: Path, folder: Path, make_host: Callable[..., Host]) -> None:
        self.memory = str(memory)
        self.folder = folder
        self.node1, self.node2 = make_host("node1"), make_host("node2")
        self.node1.call("cbd.transport.format", memory=self.memory, name="pool0", ring_depth=16, lease_ms=LEASE_MS)
        for node in (self.node1, self.node2):
            node.call("cbd.transport.register", memory=self.memory)

    def disk(self, name: str = "disk", size: int = DISK) -> Path:
        path = self.folder / name
        path.touch()
        os.truncate(path, size)
        return path

    def mapped(self, **blkdev: object) -> tuple[Path, str]:
        """A disk of node1 as a device of node2: its path and the NBD URI."""
        disk = self.disk()
        self.node1.call("cbd.backend.start", transport="pool0", path=str(disk))
        started = self.node2.call("cbd.blkdev.start", **{"transport": "pool0", "backend": 0, "frontend": "nbdkit", **blkdev})
        return disk, started["device"]


def qemu_io(device: str, *commands: str) -> subprocess.CompletedProcess[str]:
    arguments = [part for command in commands for part in ("-c", command)]
    return subprocess.run(["qemu-io", "-f", "raw", *arguments, device], capture_output=True, text=True, timeout=60, check=False)


def io_works(device: str, pattern: int) -> bool:
    """Writes and reads back; False when the device does not do it (now)."""
    done = qemu_io(device, f"write -P {pattern:#x} 1M 64k", f"read -P {pattern:#x} 1M 64k")
    return done.returncode == 0 and "rror" not in done.stdout + done.stderr and "failed" not in done.stdout + done.stderr


def children(pid: int) -> set[int]:
    """Process ids of all descendants."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return {int(child) for child in found} | {deep for child in found for deep in children(int(child))}


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def alive(observer: Host, name: str) -> object:
    """What one host says of another: true, false or "unknown"."""
    return next(host["alive"] for host in observer.call("cbd.host.list", transport="pool0") if host["name"] == name)


def was_looked_for(transport: dict[str, Any]) -> bool:
    """Whether the host has a reason why a transport is pending, beside that it begins to open it."""
    return transport["reason"] is not None and transport["reason"]["message"] != "is being opened"


def socket_of(device: str) -> Path:
    """The socket in an NBD URI of ours."""
    return Path(device.partition("socket=")[2])


def stopped(host: Host, blkdev_id: int = 0) -> bool:
    """Stops a blkdev of pool0; False while a client is still about to leave it."""
    try:
        return bool(host.call("cbd.blkdev.stop", transport="pool0", id=blkdev_id)["state"] == "stopped")
    except DatapathError as error:
        assert error.code == Code.BUSY
        return False
