# SPDX-License-Identifier: GPL-3.0-or-later
"""The file or device behind a memory: looked at without mapping it, held against others, and filled."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from enum import IntEnum

from .errors import Code, DatapathError, from_errno
from .lock_holder import lock_holder
from .mapping import Bytes, Mapping, open_memory
from .memory import Memory

_LOOKS, _LOOK_S = 10, 0.1


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
    """Its descriptor, while nobody else has it who locks what he has: backends their files, pools and transports their memory.

    Raises `busy`.
    """
    fd = open_memory(memory, writable=True)
    try:
        try:
            take_lock(memory, fd)
        except BlockingIOError:
            raise _locked(memory, fd, "a transport, a backend or a pool") from None
        yield fd
    finally:
        os.close(fd)


def share(memory: Memory, sleep: Callable[[float], None] = time.sleep) -> int:
    """A descriptor that says of a memory that hosts of this machine have a transport in it. Raises `busy`."""
    fd = open_memory(memory, writable=False)
    try:
        for last in looks(sleep):
            try:
                _share(memory, fd)
                break
            except BlockingIOError:
                if last:
                    raise _locked(memory, fd, "a backend or a pool") from None
        return fd
    except BaseException:
        os.close(fd)
        raise


def looks(sleep: Callable[[float], None]) -> Iterator[bool]:
    """At a lock that somebody may have for a moment, only to see that he could. True for the last one."""
    for left in reversed(range(_LOOKS)):
        yield not left
        sleep(_LOOK_S)


def _share(memory: Memory, fd: int) -> None:
    if memory.dynamic:
        _lock_range(fd, fcntl.F_RDLCK, memory.offset, memory.size)
    else:
        share_file(fd, Use.MEMORY)


def take_lock(memory: Memory, fd: int) -> None:
    """Locks a file as a whole; of host addresses, which many memories share, only those of this one. Raises BlockingIOError."""
    if memory.dynamic:
        _lock_range(fd, fcntl.F_WRLCK, memory.offset, memory.size)
    else:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Use(IntEnum):
    """For what several processes may have one file, and which byte of it they lock to say so (its content is not touched)."""

    MEMORY = 0  # of a transport
    MEDIUM = 1  # of backends that only read


def share_file(fd: int, use: Use) -> None:
    """Locks a file together with others of the same use. Raises BlockingIOError.

    Who comes says so before it looks: of two that come at once with different uses at least one hears of the other.
    """
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    _lock_range(fd, fcntl.F_RDLCK, use, 1)
    for other in set(Use) - {use}:
        if _is_locked(fd, other):
            fcntl.flock(fd, fcntl.LOCK_UN)  # who is asked next for the holder must not hear of this one
            raise BlockingIOError


_FLOCK = "hhqqi4x"  # struct flock


def _lock_range(fd: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))


def _is_locked(fd: int, start: int) -> bool:
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
    found: tuple[int, ...] = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, wanted))
    return found[0] != fcntl.F_UNLCK


def _locked(memory: Memory, fd: int, by: str) -> DatapathError:
    hint = f"stop what uses it there, for example {by} of another daemon, or choose another memory"
    return DatapathError(Code.BUSY, memory.spec, f"is locked by {lock_holder(fd)}", hint)


def allocate(memory: Memory, fd: int) -> None:
    """Gives a file all of its bytes now: a hole that cannot be filled later is SIGBUS for whoever touches it. Raises `full`."""
    if memory.kind == "file":
        try:
            os.posix_fallocate(fd, 0, memory.size)
        except OSError as error:
            hint = "make room on its file system, or give the file a smaller size"
            raise from_errno(error.errno or 0, memory.spec, f"reserve its {memory.size} bytes", hint) from None
