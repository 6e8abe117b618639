# SPDX-License-Identifier: GPL-3.0-or-later
"""One process per object at a time: a worker, and whatever it starts, holds a lock file of its backend or blkdev.

A channel has one writer. A worker whose daemon was killed may still be ending when the next daemon starts its successor, and an
NBD server may outlive its worker for a moment: the successor waits until the lock says that all of them are gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from pathlib import Path

from ..errors import Code, DatapathError, from_errno
from .link import Link

PATIENCE_S = 5.0
EVICT_S = 20.0  # above the grace of a blkdev worker whose device is in use
_STEP_S = 0.05


def hold(link: Link, path: Path, what: str, server: Path | None = None) -> int:
    """The descriptor that holds the lock; children that inherit it hold it, too.

    `server` is the pid file of an NBD server that may hang on requests which nobody answers: it is killed after `PATIENCE_S`, and
    at once when its worker is gone: asked to end, it would wait for its clients, and they for their requests.
    Raises `busy` when an earlier process is still there after `EVICT_S`.
    """
    fd = _open(path)
    waited = 0.0
    while not _try_lock(fd):
        if waited >= EVICT_S or link.wait(_STEP_S) is not None:
            os.close(fd)
            raise DatapathError(Code.BUSY, what, "an earlier process of it is still ending", "the daemon tries again")
        waited += _STEP_S
        if server is not None:
            _evict(server, only_orphan=waited < PATIENCE_S)
    if not _is_at(fd, path):  # a stop removed the file after we opened it
        os.close(fd)
        return hold(link, path, what, server)
    return fd


def lock_file(runtime: Path, kind: str, uuid: str, number: int) -> Path:
    """That of a backend or blkdev of a transport."""
    return runtime / f"{kind}-{uuid}-{number}.lock"


def remove_lock_file(path: Path) -> None:
    """Removes the lock file of what was stopped; never raises. It stays while a process is still ending."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            # With the lock held, and only what is still there: who waits for the lock looks whether its file is the one there.
            if _try_lock(fd) and _is_at(fd, path):
                path.unlink()
        finally:
            os.close(fd)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise from_errno(error.errno or 0, str(path), "open the lock file") from None


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _evict(pid_file: Path, only_orphan: bool) -> None:
    """Kills the server that the pid file names, if it is one: the held lock proves that some process is left."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        ours = Path(os.fsdecode(command[0])).name == "nbdkit" and os.fsencode(pid_file) in command
        if ours and (_is_orphan(pid) or not only_orphan):
            os.kill(pid, signal.SIGKILL)


def _is_orphan(pid: int) -> bool:
    """Whether the parent is no worker of ours any more. Raises OSError, ValueError when the process is gone."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return b"cxl_datapath.worker" not in Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
