# SPDX-License-Identifier: GPL-3.0-or-later
"""Mapped shared memory: bytes in and out through the core, which flushes and invalidates cache lines."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from types import TracebackType
from typing import Protocol

from . import core
from .errors import Code, DatapathError, from_errno
from .memory import Memory

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FAILED = ctypes.c_void_p(-1).value


class Bytes(Protocol):
    """What the format code needs of a memory."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...


class Mapping:
    """A shared mapping of a whole memory. Starts with `coherence: software`, which is right for any memory, only slower."""

    def __init__(self, memory: Memory, writable: bool = True) -> None:
        self.memory = memory
        self.size = memory.size
        core.library()
        address, self._file = _map(memory, writable)
        base = ctypes.cast(ctypes.c_void_p(address), ctypes.POINTER(ctypes.c_uint8))
        self.mem = core.CxlMem(base, memory.size, core.COHERENCE_SOFTWARE, 0)
        self._address: int | None = address
        self._lock = threading.Lock()  # a thread may wait for the claim of a transport that is being closed

    def use_coherence(self, coherence: int) -> None:
        """Sets what the transport info says of the memory."""
        self.mem.coherence = coherence

    def read(self, offset: int, length: int) -> bytes:
        buffer = ctypes.create_string_buffer(length)
        with self._lock:
            self._check_open()
            result = core.library().cxl_mem_read(ctypes.byref(self.mem), offset, buffer, length)
        core.check(result, self.memory.spec, f"read {length} bytes at {offset:#x}")
        return buffer.raw

    def write(self, offset: int, data: bytes) -> None:
        with self._lock:
            self._check_open()
            result = core.library().cxl_mem_write(ctypes.byref(self.mem), offset, data, len(data))
        core.check(result, self.memory.spec, f"write {len(data)} bytes at {offset:#x}")

    def close(self) -> None:
        with self._lock:
            address, self._address = self._address, None
            if address is not None:
                _libc.munmap(address, self.size)
                if self._file is not None:
                    os.close(self._file)

    def _check_open(self) -> None:
        """A touch behind the end of a file would be SIGBUS."""
        if self._address is None:
            raise DatapathError(Code.FAILED, self.memory.spec, "the memory is not mapped any more")
        if self._file is not None and (size := os.fstat(self._file).st_size) < self.size:
            what = f"was cut to {size} bytes, {self.size} are mapped"
            hint = "give the file its size again; what was cut off is lost"
            raise DatapathError(Code.CORRUPT, self.memory.spec, what, hint)

    def __enter__(self) -> Mapping:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_memory(memory: Memory, writable: bool) -> int:
    """A descriptor of its file or device."""
    hint = "" if memory.kind == "file" else "run as root or change the owner of the device"
    try:
        return os.open(memory.path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        raise from_errno(error.errno or 0, memory.spec, f"open {memory.path}", hint) from None


def _map(memory: Memory, writable: bool) -> tuple[int, int | None]:
    """The address; and the descriptor of a file, which tells whether it still has its size."""
    fd = open_memory(memory, writable)
    keep = False
    try:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        address = _libc.mmap(None, memory.size, protection, mmap.MAP_SHARED, fd, memory.offset)
        if address is None or address == _MAP_FAILED:
            raise from_errno(ctypes.get_errno(), memory.spec, f"map {memory.size} bytes of {memory.path}")
        keep = memory.kind == "file"
        return int(address), fd if keep else None
    finally:
        if not keep:
            os.close(fd)
