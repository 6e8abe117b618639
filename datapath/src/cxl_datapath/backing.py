# SPDX-License-Identifier: GPL-3.0-or-later
"""The file or device behind a memory: looked at without mapping it, held against others, and filled."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator

from .errors import Code, DatapathError, from_errno
from .lock_holder import lock_holder
from .mapping import Bytes, Mapping, open_memory
from .memory import Memory


class FileBytes:
    """A file read without mapping it, which is never SIGBUS: a hole in a file on a full file system cannot be touched."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.size = memory.size
        self._fd = open_memory(memory, writable=False)

    def read(self, offset: int, length: int) -> bytes:
        try:
            found = os.pread(self._fd, length, offset)
        except OSError as error:
            raise from_errno(error.errno or 0, self._memory.spec, f"read {length} bytes at {offset:#x}") from None
        if len(found) < length:
            raise DatapathError(Code.CORRUPT, self._memory.spec, f"ends at {offset + len(found)} bytes, it had {self.size}")
        return found

    def write(self, offset: int, data: bytes) -> None:
        raise DatapathError(Code.FAILED, self._memory.spec, f"is only looked at, not written ({len(data)} bytes at {offset:#x})")

    def close(self) -> None:
        os.close(self._fd)


@contextlib.contextmanager
def looked_at(memory: Memory) -> Iterator[Bytes]:
    """The bytes of a memory that may hold anything, to read them."""
    with contextlib.closing(FileBytes(memory) if memory.kind == "file" else Mapping(memory, writable=False)) as seen:
        yield seen


@contextlib.contextmanager
def held(memory: Memory) -> Iterator[int]:
    """Its descriptor, while nobody else has it who locks what he has: backends lock their files, pools their memory.

    Raises `busy`.
    """
    fd = open_memory(memory, writable=True)
    try:
        try:
            take_lock(memory, fd)
        except BlockingIOError:
            hint = "stop what uses it there, for example a backend or a pool of another daemon, or choose another memory"
            raise DatapathError(Code.BUSY, memory.spec, f"is locked by {lock_holder(fd)}", hint) from None
        yield fd
    finally:
        os.close(fd)


def take_lock(memory: Memory, fd: int) -> None:
    """Locks a file as a whole; of host addresses, which many memories share, only those of this one. Raises BlockingIOError."""
    if memory.dynamic:
        wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, memory.offset, memory.size, 0)  # struct flock
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
    else:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def allocate(memory: Memory, fd: int) -> None:
    """Gives a file all of its bytes now: a hole that cannot be filled later is SIGBUS for whoever touches it. Raises `full`."""
    if memory.kind == "file":
        try:
            os.posix_fallocate(fd, 0, memory.size)
        except OSError as error:
            hint = "make room on its file system, or give the file a smaller size"
            raise from_errno(error.errno or 0, memory.spec, f"reserve its {memory.size} bytes", hint) from None
