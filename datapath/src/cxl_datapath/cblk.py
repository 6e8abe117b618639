# SPDX-License-Identifier: GPL-3.0-or-later
"""`libcblk` for Python: blocks of a LUN of this host without a system call per request (docs/cxlflash.md).

The functions have the names and the meaning of `cblk.h`; an error is an `OSError` with its errno. Buffers are whatever has the
buffer protocol (`bytes` to write; `bytearray`, `mmap`, numpy arrays to read into) and a length that is a multiple of 4096;
nothing is copied but once, between the buffer and the memory that is shared with the engine. Calls let other threads run.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_int64, c_ssize_t, c_uint32, c_uint64, c_void_p
from enum import IntEnum
from pathlib import Path
from typing import Any

from .core import library_path

BLOCK_SIZE = 4096
OPN_VIRT_LUN = 1
SCRUB_DATA_FLG = 1
ARW_WAIT_CMD_FLAG, ARW_USER_TAG_FLAG = 1, 2
ARESULT_BLOCKING, ARESULT_NEXT_TAG, ARESULT_USER_TAG = 1, 2, 4
_PYBUF_SIMPLE, _PYBUF_WRITABLE = 0, 1


class Status(IntEnum):
    PENDING = 0
    SUCCESS = 1
    INVALID = 2
    FAIL = 3


class Type(IntEnum):
    """Of a request in a list."""

    READ = 1
    WRITE = 2
    UNMAP = 3
    SYNC = 4


class ArwStatus(Structure):
    _fields_ = [("status", c_int), ("fail_errno", c_int), ("blocks_transferred", c_uint64)]


class Stats(Structure):
    _fields_ = [
        (name, c_uint64)
        for name in (
            "reads",
            "writes",
            "unmaps",
            "syncs",
            "blocks_read",
            "blocks_written",
            "errors",
            "recoveries",
            "sleeps",
            "in_flight",
            "most_in_flight",
        )
    ]


class Attrs(Structure):
    _fields_ = [("context", c_uint64)] + [
        (name, c_uint32) for name in ("handle", "flags", "block_size", "max_transfer", "max_requests", "chunk_blocks")
    ]


class _Io(Structure):
    _fields_ = [
        ("request_type", c_int),
        ("tag", c_int),
        ("buf", c_void_p),
        ("lba", c_uint64),
        ("nblocks", c_uint64),
        ("stat", ArwStatus),
    ]


class _PyBuffer(Structure):
    _fields_ = [
        ("buf", c_void_p),
        ("obj", c_void_p),
        ("len", c_ssize_t),
        ("itemsize", c_ssize_t),
        ("readonly", c_int),
        ("ndim", c_int),
        ("format", c_char_p),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("suboffsets", c_void_p),
        ("internal", c_void_p),
    ]


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, POINTER(_PyBuffer), c_int]
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes, _release_buffer.restype = [POINTER(_PyBuffer)], None

_STATUS, _TAG, _LIST = POINTER(ArwStatus), POINTER(c_int), POINTER(POINTER(_Io))
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "cblk_open": (c_int, [c_char_p, c_int, c_int, c_int]),
    "cblk_close": (c_int, [c_int, c_int]),
    "cblk_get_lun_size": (c_int, [c_int, POINTER(c_uint64), c_int]),
    "cblk_get_size": (c_int, [c_int, POINTER(c_uint64), c_int]),
    "cblk_set_size": (c_int, [c_int, c_uint64, c_int]),
    "cblk_read": (c_int64, [c_int, c_void_p, c_uint64, c_uint64, c_int]),
    "cblk_write": (c_int64, [c_int, c_void_p, c_uint64, c_uint64, c_int]),
    "cblk_unmap": (c_int64, [c_int, c_uint64, c_uint64, c_int]),
    "cblk_sync": (c_int, [c_int, c_int]),
    "cblk_aread": (c_int, [c_int, c_void_p, c_uint64, c_uint64, _TAG, _STATUS, c_int]),
    "cblk_awrite": (c_int, [c_int, c_void_p, c_uint64, c_uint64, _TAG, _STATUS, c_int]),
    "cblk_aresult": (c_int64, [c_int, _TAG, POINTER(c_uint64), c_int]),
    "cblk_listio": (c_int, [c_int, _LIST, c_int, _LIST, c_int, _LIST, c_int, _LIST, _TAG, c_uint64, c_int]),
    "cblk_clone_after_fork": (c_int, [c_int, c_int, c_int]),
    "cblk_get_stats": (c_int, [c_int, POINTER(Stats), c_int]),
    "cblk_get_attrs": (c_int, [c_int, POINTER(Attrs), c_int]),
    "cblk_get_fd": (c_int, [c_int]),
    "cblk_last_error": (c_char_p, []),
}
# Buffers of requests in flight, by chunk and tag: memory that the library writes to must not go away.
_held: dict[tuple[int, int, bool], _PyBuffer] = {}


def cblk_library() -> Path:
    return library_path().parent / "libcblk.so"


@functools.cache
def _library() -> ctypes.CDLL:
    lib = ctypes.CDLL(str(cblk_library()), use_errno=True)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def _call(name: str, *arguments: Any) -> int:
    ctypes.set_errno(0)
    result = int(getattr(_library(), name)(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        said = _library().cblk_last_error().decode(errors="replace")
        raise OSError(number, f"{name}: {os.strerror(number)}" + (f" ({said})" if said else ""))
    return result


def _pin(buffer: Any, writable: bool) -> _PyBuffer:
    view = _PyBuffer()
    _get_buffer(buffer, byref(view), _PYBUF_WRITABLE if writable else _PYBUF_SIMPLE)
    if not view.len or view.len % BLOCK_SIZE:
        length = view.len
        _release_buffer(byref(view))
        raise ValueError(f"the buffer has {length} bytes, no multiple of {BLOCK_SIZE}")
    return view


@contextmanager
def _pinned(buffer: Any, writable: bool) -> Iterator[_PyBuffer]:
    view = _pin(buffer, writable)
    try:
        yield view
    finally:
        _release_buffer(byref(view))


# ---- chunks ------------------------------------------------------------------------------------------------------------


def cblk_open(lun: str, max_requests: int = 0, mode: int = os.O_RDWR, flags: int = 0) -> int:
    """The number of the chunk."""
    return _call("cblk_open", os.fsencode(lun), max_requests, mode, flags)


def cblk_close(chunk: int, flags: int = 0) -> None:
    _call("cblk_close", chunk, flags)
    for key in [key for key in _held if key[0] == chunk]:
        _release_buffer(byref(_held.pop(key)))


def _number(name: str, chunk: int, flags: int) -> int:
    out = c_uint64()
    _call(name, chunk, byref(out), flags)
    return out.value


def cblk_get_lun_size(chunk: int, flags: int = 0) -> int:
    """Blocks of the whole LUN."""
    return _number("cblk_get_lun_size", chunk, flags)


def cblk_get_size(chunk: int, flags: int = 0) -> int:
    """Blocks of the chunk."""
    return _number("cblk_get_size", chunk, flags)


def cblk_set_size(chunk: int, nblocks: int, flags: int = 0) -> None:
    _call("cblk_set_size", chunk, nblocks, flags)


def cblk_clone_after_fork(chunk: int, mode: int = os.O_RDWR, flags: int = 0) -> None:
    """Buffers of requests that the parent has in flight are the parent's."""
    _call("cblk_clone_after_fork", chunk, mode, flags)
    for key in [key for key in _held if key[0] == chunk]:
        _release_buffer(byref(_held.pop(key)))


def cblk_get_stats(chunk: int, flags: int = 0) -> dict[str, int]:
    out = Stats()
    _call("cblk_get_stats", chunk, byref(out), flags)
    return {name: int(getattr(out, name)) for name, *_ in Stats._fields_}


def cblk_get_attrs(chunk: int, flags: int = 0) -> dict[str, int]:
    out = Attrs()
    _call("cblk_get_attrs", chunk, byref(out), flags)
    return {str(name): int(getattr(out, str(name))) for name, *_ in Attrs._fields_}


def cblk_get_fd(chunk: int) -> int:
    """For select() and asyncio; see cblk.h."""
    return _call("cblk_get_fd", chunk)


# ---- synchronous requests ----------------------------------------------------------------------------------------------


def cblk_read(chunk: int, buffer: Any, lba: int, flags: int = 0) -> int:
    """Fills the buffer; returns its blocks."""
    with _pinned(buffer, writable=True) as view:
        return _call("cblk_read", chunk, view.buf, lba, view.len // BLOCK_SIZE, flags)


def cblk_write(chunk: int, buffer: Any, lba: int, flags: int = 0) -> int:
    with _pinned(buffer, writable=False) as view:
        return _call("cblk_write", chunk, view.buf, lba, view.len // BLOCK_SIZE, flags)


def cblk_unmap(chunk: int, lba: int, nblocks: int, flags: int = 0) -> int:
    return _call("cblk_unmap", chunk, lba, nblocks, flags)


def cblk_sync(chunk: int, flags: int = 0) -> None:
    _call("cblk_sync", chunk, flags)


# ---- asynchronous requests ---------------------------------------------------------------------------------------------


def _begin(name: str, chunk: int, view: _PyBuffer, lba: int, *, tag: int | None, flags: int) -> int:
    named = tag is not None
    number = c_int(tag or 0)
    all_flags = flags | (ARW_USER_TAG_FLAG if named else 0)
    _call(name, chunk, view.buf, lba, view.len // BLOCK_SIZE, byref(number), None, all_flags)
    return number.value


def cblk_aread(chunk: int, buffer: Any, lba: int, tag: int | None = None, flags: int = 0) -> int:
    """Begins a read; returns its tag, which is the caller's where one is given. The buffer is held until it is fetched."""
    view = _pin(buffer, writable=True)
    try:
        number = _begin("cblk_aread", chunk, view, lba, tag=tag, flags=flags)
    except BaseException:
        _release_buffer(byref(view))
        raise
    _held[chunk, number, tag is not None] = view
    return number


def cblk_awrite(chunk: int, buffer: Any, lba: int, tag: int | None = None, flags: int = 0) -> int:
    """Begins a write; the buffer is free again on return."""
    with _pinned(buffer, writable=False) as view:
        return _begin("cblk_awrite", chunk, view, lba, tag=tag, flags=flags)


def cblk_aresult(chunk: int, tag: int = 0, flags: int = 0) -> tuple[int, int]:
    """(blocks, tag) of a request that ended well; 0 blocks while none has. Raises the error of one that failed."""
    number, status = c_int(tag), c_uint64(Status.PENDING)
    try:
        return _call("cblk_aresult", chunk, byref(number), byref(status), flags), number.value
    finally:
        view = None if status.value == Status.PENDING else _held.pop((chunk, number.value, bool(flags & ARESULT_USER_TAG)), None)
        if view is not None:
            _release_buffer(byref(view))


class Io:
    """One request of a list. `status`, `errno` and `blocks` are kept up to date by `cblk_listio`."""

    def __init__(self, type: Type, lba: int = 0, buffer: Any = None, nblocks: int = 0) -> None:
        self._view = None if buffer is None else _pin(buffer, writable=type == Type.READ)
        if self._view is not None:
            nblocks = self._view.len // BLOCK_SIZE
        self.raw = _Io(type, -1, self._view.buf if self._view else None, lba, nblocks)

    @property
    def status(self) -> Status:
        return Status(self.raw.stat.status)

    @property
    def errno(self) -> int:
        return int(self.raw.stat.fail_errno)

    @property
    def blocks(self) -> int:
        return int(self.raw.stat.blocks_transferred)

    def __del__(self) -> None:
        view = getattr(self, "_view", None)
        if view is not None:
            _release_buffer(byref(view))


def cblk_listio(
    chunk: int, *, issue: Sequence[Io] = (), pending: Sequence[Io] = (), wait: Sequence[Io] = (), timeout_us: int = 0
) -> list[Io]:
    """Those that ended. Keep every `Io` until it has. Raises `TimeoutError` when not all of `wait` end in time."""
    every = {ctypes.addressof(io.raw): io for io in [*issue, *pending, *wait]}
    completion = (POINTER(_Io) * max(1, len(every)))()
    completed = c_int(len(every))
    arrays = [_pointers(ios) for ios in (issue, pending, wait)]
    lists = [part for ios, array in zip((issue, pending, wait), arrays, strict=True) for part in (array, len(ios))]
    _call("cblk_listio", chunk, *lists, completion, byref(completed), timeout_us, 0)
    return [every[ctypes.addressof(completion[index].contents)] for index in range(completed.value)]


def _pointers(ios: Sequence[Io]) -> Any:
    return (POINTER(_Io) * max(1, len(ios)))(*(ctypes.pointer(io.raw) for io in ios))


__all__ = [name for name in globals() if name.startswith("cblk_")] + ["Io", "Status", "Type"]
