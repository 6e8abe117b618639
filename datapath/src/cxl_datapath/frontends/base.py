# SPDX-License-Identifier: GPL-3.0-or-later
"""What every front end offers to the blkdev worker."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..cbd.layout import COHERENCES
from ..core import ChannelConf
from ..errors import Code, DatapathError, from_errno
from ..mapping import Mapping

_PROBES, _PROBE_S = 10, 0.1


@dataclass(frozen=True)
class Target:
    """The started channels of a device and what serves them can do."""

    name: str  # of the blkdev on this host
    mapping: Mapping
    queues: tuple[ChannelConf, ...]  # our ends of the channels
    capacity: int  # bytes
    block_size: int  # bytes, logical
    physical_block_size: int  # bytes
    read_only: bool
    discard: bool
    discard_granularity: int  # bytes
    write_zeroes: bool
    runtime: Path  # folder for sockets
    lock: int  # descriptor that every process of this blkdev holds open
    dev: Path  # normally /dev


class FrontEnd(ABC):
    """One started front end."""

    @staticmethod
    @abstractmethod
    def missing() -> str:
        """What this host lacks for it; empty when it works. May load a kernel module."""

    @abstractmethod
    def __init__(self, target: Target) -> None: ...

    @abstractmethod
    def start(self) -> str:
        """Starts and returns the device: a path or an NBD URI. After a failure nothing is left."""

    @abstractmethod
    def kept(self) -> bool:
        """Whether users of an earlier run may be waiting for this start."""

    @abstractmethod
    def rebind(self, channels: list[ChannelConf]) -> None:
        """Moves every queue to another channel; requests in flight are sent again there. Ends an offline state."""

    @abstractmethod
    def set_offline(self, error: int) -> None:
        """Fails what is in flight, and what comes, with this errno, until the next `rebind`."""

    @abstractmethod
    def progress(self) -> list[tuple[int, int]]:
        """Requests that went to the backend so far, and those that came back, for each part that can stand still alone."""

    @abstractmethod
    def check(self) -> None:
        """Raises when the front end died."""

    @abstractmethod
    def stop(self) -> None:
        """Removes the device. Raises `busy`, and changes nothing, while somebody uses it."""

    @abstractmethod
    def abort(self) -> None:
        """Ends our part, users or not: they see I/O errors, or wait where the kernel can keep the device. Never raises."""


def run_tool(*command: str) -> str:
    """Runs a program to its end; empty when it succeeded, else its last words."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=30, check=False
        )
    except FileNotFoundError:
        return f"{command[0]} is not installed"
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not end within 30 s"
    if done.returncode == 0:
        return ""
    return (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[-1]


def missing_module(module: str, sign: Path) -> str:
    """Empty when the kernel has `module`, loaded now if it was not; `sign` exists when it is loaded."""
    if sign.exists():
        return ""
    reason = run_tool("modprobe", module)
    if sign.exists():
        return ""
    return f"the kernel has no {module} ({reason})" if reason else f"{module} is loaded, but there is no {sign}"


def check_unused(device: Path, name: str) -> None:
    """Raises `busy` while a process has the block device open or something holds it (a mount, a volume manager)."""
    try:
        number = device.stat().st_rdev
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DatapathError(Code.BUSY, name, f"{device} is mounted or held by another device", "unmount it first") from None
        if error.errno in (errno.ENOENT, errno.ENXIO):
            return  # gone already
        raise from_errno(error.errno or 0, name, f"open {device}") from None
    for _ in range(_PROBES):
        if not (users := openers(number, stat.S_ISBLK)):
            return
        time.sleep(_PROBE_S)  # udev looks into a device for a moment
    raise DatapathError(Code.BUSY, name, f"{device} is open in {', '.join(users)}", "close it there first")


def openers(number: int, is_kind: Callable[[int], bool]) -> list[str]:
    """Processes other than this one that have a device node of this kind open, as "name (pid)", as far as we may look."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        pid = link.parent.parent.name
        with contextlib.suppress(OSError):
            seen = link.stat()
            if is_kind(seen.st_mode) and seen.st_rdev == number and pid != str(os.getpid()):
                found.add(f"{(link.parent.parent / 'comm').read_text().strip()} ({pid})")
    return sorted(found)


def missing_program(program: str, package: str) -> str:
    return "" if shutil.which(program) else f"{program} is not installed (package {package})"


def plugin_arguments(target: Target) -> list[str]:
    """Parameters of the nbdkit plugin."""
    first = target.queues[0]
    settings: dict[str, object] = {
        "memory": target.mapping.memory.path,
        "memory_len": target.mapping.size,
        "coherence": COHERENCES[target.mapping.mem.coherence],
        "features": first.features,
        "capacity": target.capacity,
        "block_size": target.block_size,
        "physical_block_size": target.physical_block_size,
        "read_only": int(target.read_only),
        "discard": int(target.discard),
        "write_zeroes": int(target.write_zeroes),
        "ring_depth": first.ring_depth,
        "slot_bytes": first.slot_bytes,
    }
    if first.host_epoch:
        settings["fence"] = f"{first.fence_off}:{first.host_epoch}"
    channels = [f"channel={queue.channel_off}:{queue.epoch}" for queue in target.queues]
    return [f"{key}={value}" for key, value in settings.items()] + channels
