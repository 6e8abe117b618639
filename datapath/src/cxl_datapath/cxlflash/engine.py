# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine of a LUN (`core/cxl_lun.h`) as a Python object."""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, Structure, byref, c_int, c_int32, c_uint32, c_uint64, c_void_p
from typing import Any

from ..core import IdleConf, check, library


class LunConf(Structure):
    _fields_ = [
        ("fd", c_int32),
        ("is_block", c_uint32),
        ("read_only", c_uint32),
        ("logical_block_size", c_uint32),
        ("blocks", c_uint64),
        ("chunk_blocks", c_uint64),
        ("engine", c_uint32),
        ("idle", IdleConf),
    ]


class ContextConf(Structure):
    _fields_ = [
        ("user_fd", c_int32),
        ("master_fd", c_int32),
        ("bell_fd", c_int32),
        ("depth", c_uint32),
        ("read_only", c_uint32),
    ]


class LunStats(Structure):
    _fields_ = [(name, c_uint64) for name in ("commands", "blocks_read", "blocks_written", "errors", "refused", "sleeps")]

    def to_json(self) -> dict[str, int]:
        return {name: int(getattr(self, name)) for name, *_ in self._fields_}


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "cxl_lun_new": (c_int, [POINTER(LunConf), POINTER(c_void_p)]),
    "cxl_lun_add": (c_int, [c_void_p, c_uint32, POINTER(ContextConf)]),
    "cxl_lun_remove": (c_int, [c_void_p, c_uint32]),
    "cxl_lun_set": (c_int, [c_void_p, c_uint32, c_uint32, c_uint64, POINTER(c_uint32), c_uint32]),
    "cxl_lun_clear": (c_int, [c_void_p, c_uint32, c_uint32]),
    "cxl_lun_set_blocks": (c_int, [c_void_p, c_uint64]),
    "cxl_lun_fail": (None, [c_void_p]),
    "cxl_lun_stats": (None, [c_void_p, POINTER(LunStats)]),
    "cxl_lun_free": (None, [c_void_p]),
}


@functools.cache
def _library() -> ctypes.CDLL:
    lib = library()
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


class LunEngine:
    """`conf.fd` stays the caller's and must outlive this object."""

    def __init__(self, conf: LunConf) -> None:
        self._handle = c_void_p()
        check(_library().cxl_lun_new(byref(conf), byref(self._handle)), "LUN", "start its engine")

    def add(self, slot: int, conf: ContextConf) -> None:
        check(_library().cxl_lun_add(self._handle, slot, byref(conf)), f"context {slot}", "open it")

    def remove(self, slot: int) -> None:
        check(_library().cxl_lun_remove(self._handle, slot), f"context {slot}", "close it")

    def set(self, slot: int, handle: int, blocks: int, table: list[int] | None) -> None:
        """`table`: the chunks of a virtual LUN, None for a direct handle."""
        array = None if table is None else (c_uint32 * (len(table) or 1))(*table)
        result = _library().cxl_lun_set(self._handle, slot, handle, blocks, array, len(table or ()))
        check(result, f"handle {handle} of context {slot}", "change it")

    def clear(self, slot: int, handle: int) -> None:
        check(_library().cxl_lun_clear(self._handle, slot, handle), f"handle {handle} of context {slot}", "close it")

    def set_blocks(self, blocks: int) -> None:
        check(_library().cxl_lun_set_blocks(self._handle, blocks), "LUN", f"take it for {blocks} blocks")

    def fail(self) -> None:
        """Every context reads all ones from now on."""
        _library().cxl_lun_fail(self._handle)

    def stats(self) -> LunStats:
        out = LunStats()
        _library().cxl_lun_stats(self._handle, byref(out))
        return out

    def close(self) -> None:
        """Lets what is in flight end. Safe to repeat."""
        handle, self._handle = self._handle, c_void_p()
        if handle:
            _library().cxl_lun_free(handle)
