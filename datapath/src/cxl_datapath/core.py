# SPDX-License-Identifier: GPL-3.0-or-later
"""The C core (`cxl_core.h`) as Python objects.

The library is `lib/libcxl_core.so` of this package; `CXL_CORE_LIBRARY` names another one (a developer's build). Numbers that
reach it were validated by the callers; a negated errno comes back as `DatapathError`.
"""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import POINTER, Structure, byref, c_int, c_int32, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

from .errors import Code, DatapathError, from_errno

ABI = 3
COHERENCE_HARDWARE, COHERENCE_SOFTWARE = 0, 1
CHANNEL_READ_ONLY = 1  # ChannelConf.flags
ENGINE_AUTO, ENGINE_SYNC, ENGINE_URING, ENGINE_INLINE = 0, 1, 2, 3
ENGINE_NAMES = {ENGINE_SYNC: "sync", ENGINE_URING: "io_uring", ENGINE_INLINE: "inline"}


class CxlMem(Structure):
    _fields_ = [("base", POINTER(c_uint8)), ("len", c_uint64), ("coherence", c_uint32), ("reserved", c_uint32)]


class ChannelConf(Structure):
    _fields_ = [
        ("channel_off", c_uint64),
        ("ring_depth", c_uint32),
        ("slot_bytes", c_uint32),
        ("epoch", c_uint32),
        ("features", c_uint32),
        ("flags", c_uint32),
        ("host_epoch", c_uint32),
        ("fence_off", c_uint64),
    ]


class IdleConf(Structure):
    _fields_ = [("spin_us", c_uint32), ("idle_cap_us", c_uint32)]


class Stats(Structure):
    _fields_ = [
        (name, c_uint64)
        for name in ("submitted", "requests", "bytes_read", "bytes_written", "errors", "bad_slots", "crc_retries")
    ]

    def to_json(self) -> dict[str, int]:
        return {name: int(getattr(self, name)) for name, *_ in self._fields_}


class BackendConf(Structure):
    _fields_ = [
        ("fd", c_int32),
        ("is_block", c_uint32),
        ("read_only", c_uint32),
        ("logical_block_size", c_uint32),
        ("capacity", c_uint64),
        ("fence_off", c_uint64),
        ("host_epoch", c_uint32),
        ("engine", c_uint32),
        ("idle", IdleConf),
    ]


class UblkConf(Structure):
    _fields_ = [
        ("dev_id", c_int32),
        ("queues", c_uint32),
        ("capacity", c_uint64),
        ("logical_block_size", c_uint32),
        ("read_only", c_uint32),
        ("discard", c_uint32),
        ("write_zeroes", c_uint32),
        ("physical_block_size", c_uint32),
        ("discard_granularity", c_uint32),
        ("idle", IdleConf),
    ]


class MhsldMap(Structure):
    _fields_ = [
        ("base", POINTER(c_uint8)),
        ("len", c_uint64),
        ("exclusive_off", c_uint64),
        ("shared_off", c_uint64),
        ("blocks", c_uint64),
        ("word_bytes", c_uint32),
        ("reserved", c_uint32),
    ]


class MhsldConflict(Structure):
    _fields_ = [("block", c_uint64), ("holders", c_uint64)]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "cxl_core_abi": (c_uint32, []),
    "cxl_mem_read": (c_int, [POINTER(CxlMem), c_uint64, c_void_p, c_uint64]),
    "cxl_mem_write": (c_int, [POINTER(CxlMem), c_uint64, c_void_p, c_uint64]),
    "cxl_crc32c": (c_uint32, [c_uint32, c_void_p, c_size_t]),
    "cbd_backend_new": (c_int, [POINTER(CxlMem), POINTER(BackendConf), POINTER(c_void_p)]),
    "cbd_backend_add": (c_int, [c_void_p, POINTER(ChannelConf)]),
    "cbd_backend_engine": (c_uint32, [c_void_p]),
    "cbd_backend_fenced": (c_int, [c_void_p]),
    "cbd_backend_remove": (c_int, [c_void_p, c_uint64]),
    "cbd_backend_stats": (None, [c_void_p, POINTER(Stats)]),
    "cbd_backend_free": (None, [c_void_p]),
    "cbd_ublk_start": (c_int, [POINTER(CxlMem), POINTER(ChannelConf), POINTER(UblkConf), POINTER(c_void_p)]),
    "cbd_ublk_dev_id": (c_int, [c_void_p]),
    "cbd_ublk_rebind": (c_int, [c_void_p, POINTER(ChannelConf)]),
    "cbd_ublk_set_offline": (c_int, [c_void_p, c_int32]),
    "cbd_ublk_stats": (None, [c_void_p, c_uint32, POINTER(Stats)]),
    "cbd_ublk_stop": (c_int, [c_void_p]),
    "mhsld_claim": (c_int, [POINTER(MhsldMap), c_uint32, c_uint64, c_uint64, c_uint32, POINTER(MhsldConflict)]),
    "mhsld_release": (c_int, [POINTER(MhsldMap), c_uint32, c_uint64, c_uint64, POINTER(c_uint64)]),
    "mhsld_read": (c_int, [POINTER(MhsldMap), c_uint64, c_uint64, POINTER(c_uint64), POINTER(c_uint64)]),
}


def library_path() -> Path:
    """Where the core is; the nbdkit plugin is in the same folder."""
    override = os.environ.get("CXL_CORE_LIBRARY")
    return Path(override) if override else Path(__file__).parent / "lib" / "libcxl_core.so"


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded core, its ABI checked."""
    path = library_path()
    try:
        lib = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        hint = "install the wheel, or set CXL_CORE_LIBRARY to a built libcxl_core.so"
        raise DatapathError(Code.UNSUPPORTED, str(path), f"cannot load the C core: {error}", hint) from None
    if (found := lib.cxl_core_abi()) != ABI:
        raise DatapathError(
            Code.UNSUPPORTED, str(path), f"the C core has ABI {found}, wanted {ABI}", "install both halves from one wheel"
        )
    return lib


def check(result: int, object: str, doing: str, hint: str = "") -> None:
    """Raises for a negated errno."""
    if result < 0:
        raise from_errno(-result, object, doing, hint)


def crc32c(data: bytes, seed: int = 0) -> int:
    return int(library().cxl_crc32c(seed, data, len(data)))


class Backend:
    """The handlers of one backend; each is a thread of the core. `fd` stays the caller's and must outlive this object."""

    def __init__(self, mem: CxlMem, conf: BackendConf) -> None:
        self._mem = mem
        self._handle = c_void_p()
        check(library().cbd_backend_new(byref(mem), byref(conf), byref(self._handle)), "backend", "start the request engine")

    def add(self, channel: ChannelConf) -> None:
        check(
            library().cbd_backend_add(self._handle, byref(channel)), f"channel at {channel.channel_off:#x}", "start its handler"
        )

    def remove(self, channel_off: int) -> None:
        check(library().cbd_backend_remove(self._handle, channel_off), f"channel at {channel_off:#x}", "stop its handler")

    def engine(self) -> str:
        """How requests reach the device: "sync" or "io_uring"."""
        return ENGINE_NAMES[int(library().cbd_backend_engine(self._handle))]

    def fenced(self) -> bool:
        """Whether a handler found this host fenced: nothing is performed or answered any more."""
        return bool(library().cbd_backend_fenced(self._handle))

    def stats(self) -> Stats:
        out = Stats()
        library().cbd_backend_stats(self._handle, byref(out))
        return out

    def close(self) -> None:
        """Stops every handler; safe to repeat."""
        handle, self._handle = self._handle, c_void_p()
        if handle:
            library().cbd_backend_free(handle)


class Ublk:
    """A /dev/ublkbN whose queues are `channels`."""

    def __init__(self, mem: CxlMem, channels: list[ChannelConf], conf: UblkConf) -> None:
        self._mem = mem
        self._handle = c_void_p()
        self._queues = len(channels)
        array = (ChannelConf * len(channels))(*channels)
        result = library().cbd_ublk_start(byref(mem), array, byref(conf), byref(self._handle))
        check(result, "ublk", "create the block device", "look at the kernel log")

    def dev_id(self) -> int:
        return int(library().cbd_ublk_dev_id(self._handle))

    def rebind(self, channels: list[ChannelConf]) -> None:
        """Moves every queue to its new channel, as many as at the start; what is in flight is sent again there. All or none."""
        if len(channels) != self._queues:
            raise DatapathError(Code.INVALID, "ublk", f"got {len(channels)} channels for {self._queues} queues")
        array = (ChannelConf * len(channels))(*channels)
        check(library().cbd_ublk_rebind(self._handle, array), "ublk", "move to other channels")

    def set_offline(self, error: int) -> None:
        """Ends what is in flight, and all that comes until the next rebind, with this errno (positive)."""
        check(library().cbd_ublk_set_offline(self._handle, -error), "ublk", "take the device offline")

    def stats(self) -> list[Stats]:
        """Of each queue."""
        found = [Stats() for _ in range(self._queues)]
        for queue, out in enumerate(found):
            library().cbd_ublk_stats(self._handle, queue, byref(out))
        return found

    def stop(self, name: str) -> None:
        """Removes the device; raises `busy` and leaves it alone while somebody has it open."""
        if self._handle:
            check(library().cbd_ublk_stop(self._handle), name, "remove the block device", "unmount it and close it first")
            self._handle = c_void_p()
