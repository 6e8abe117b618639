# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens to hosts and their media: they lose power, stand still, and their disks fill up or fail."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
from hosts import Host, wait_until
from lab import alive, children, running

from cxl_datapath.cbd.registry import ENTRY_COPY, Registry
from cxl_datapath.cbd.transport import attach
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import resolve


def murder(host: Host) -> None:
    """SIGKILL for the daemon and all that it started, at one moment, as when a machine loses power: none sees another die."""
    victims = {host.pid, *children(host.pid)}
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in victims:
            with_pid(pid, number)
    host.kill()
    wait_until(lambda: not any(map(running, victims)), f"all of {host.name} is gone")


def die(host: Host, observer: Host) -> None:
    """The same, and another host has seen it: before that, it might only be slow."""
    murder(host)
    wait_until(lambda: alive(observer, host.name) is False, f"{observer.name} sees {host.name} dead")


def damage(memory: str, *kinds: str) -> None:
    """Both copies of the entries 0 of these tables."""
    with Mapping(resolve(memory)) as mapping:
        registry = Registry(mapping, attach(mapping, memory))
        for kind in kinds:
            mapping.write(getattr(registry, kind).page(0), b"\xaa" * 2 * ENTRY_COPY)


def with_pid(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def halt(*pids: int) -> None:
    """SIGSTOP, and all of them have stopped: the signal alone returns while they still run."""
    for pid in pids:
        with_pid(pid, signal.SIGSTOP)
    wait_until(lambda: all(map(_stands_still, pids)), f"processes {pids} stand still")


@contextmanager
def paused(pids: Collection[int]) -> Iterator[None]:
    """These processes stand still; in the end they go on."""
    try:
        halt(*pids)
        yield
    finally:
        for pid in pids:
            with_pid(pid, signal.SIGCONT)


def _stands_still(pid: int) -> bool:
    """The signal returns before the last thread has stopped."""
    try:
        states = [stat.read_text().rpartition(") ")[2][0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return False  # a thread ended under our eyes: look again
    return all(state in "TtZX" for state in states)


def asleep(host: Host) -> AbstractContextManager[None]:
    """The daemon and its workers stand still, as when a virtual machine is paused; in the end they go on."""
    return paused({host.pid, *children(host.pid)})


def unlock(path: Path, pid: int) -> None:
    """Takes the locks of a file away from a process: hosts on different machines do not see each other's locks."""
    libc = ctypes.CDLL(None, use_errno=True)
    inode = path.stat().st_ino
    opened = [int(link.name) for link in Path(f"/proc/{pid}/fd").iterdir() if _inode(link) == inode]
    assert opened, f"process {pid} has not opened {path}"
    process = os.pidfd_open(pid)
    for fd in opened:
        mine = libc.syscall(438, process, fd, 0)  # pidfd_getfd: the same open file, for a lock belongs to that
        assert mine >= 0, os.strerror(ctypes.get_errno())
        fcntl.flock(mine, fcntl.LOCK_UN)
        os.close(mine)
    os.close(process)


def _inode(link: Path) -> int:
    try:
        return link.stat().st_ino
    except OSError:
        return 0


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of its own with so many bytes. Skips where none can be mounted."""
    folder.mkdir()
    options = f"size={size},mode=755"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot mount: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def disk_that_hangs(folder: Path) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """A file system of its own; within what it gives, calls that write there wait in the kernel. Skips where none can be made."""
    image = folder.with_suffix(".img")
    image.touch()
    os.truncate(image, 64 << 20)
    folder.mkdir()
    for command in (["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, folder]):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"cannot make a file system: {made.stderr.strip()}")

    @contextmanager
    def hanging() -> Iterator[None]:
        subprocess.run(["fsfreeze", "--freeze", folder], check=True)
        try:
            yield
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", folder], check=True)

    try:
        yield hanging
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def loop_device(file: Path) -> Iterator[str]:
    """A block device over a file. Where the file ends early the device fails: reads there are I/O errors."""
    made = subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    try:
        yield made.stdout.strip()
    finally:
        subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Takes every free byte of a file system, until the end."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def silent_server(folder: Path) -> Iterator[None]:
    """Whoever looks into the folder waits in the kernel, as for a file server that is gone: nobody answers this file system. In
    the end all get an error, and the folder is what it was. Skips where none can be mounted."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"no FUSE: {error}")
    try:
        options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"silent", os.fsencode(folder), b"fuse", 0, options):
            pytest.skip(f"cannot mount: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            libc.umount2(os.fsencode(folder), 2)  # MNT_DETACH
    finally:
        os.close(server)
