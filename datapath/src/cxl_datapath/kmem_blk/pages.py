# SPDX-License-Identifier: GPL-3.0-or-later
"""`core/kmem_blk.h` as Python objects: the pool of pages, its volumes, and backends on them."""

from __future__ import annotations

import ctypes
import errno
import functools
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_int, c_int32, c_uint32, c_uint64, c_void_p
from typing import Any

from ..core import Backend, BackendConf, ChannelConf, CxlMem, check, library
from ..errors import Code, DatapathError

USERS = ("blocks", "swap", "leases")
BLOCKS, SWAP = 0, 1


class PoolConf(Structure):
    _fields_ = [("spare", c_uint64), ("reserve", c_uint64), ("recall_ms", c_uint32), ("event_fd", c_int32)]


class RangeConf(Structure):
    _fields_ = [("first", c_uint64), ("pages", c_uint64), ("fixed", c_uint64), ("is_volatile", c_uint64)]


class Counts(Structure):
    _fields_ = [
        ("pages", c_uint64),
        ("fixed", c_uint64),
        ("free", c_uint64),
        ("available", c_uint64),
        ("reserve", c_uint64),
        ("used", c_uint64 * len(USERS)),
        ("wanted", c_uint64),
    ]

    def to_json(self) -> dict[str, int]:
        numbers = {name: int(getattr(self, name)) for name, *_ in self._fields_ if name != "used"}
        return numbers | {name: int(self.used[index]) for index, name in enumerate(USERS)}


class VolumeConf(Structure):
    _fields_ = [
        ("index", CxlMem),
        ("index_off", c_uint64),
        ("blocks", c_uint64),
        ("user", c_uint32),
        ("durable", c_uint32),
    ]


_POINTER = POINTER(c_void_p)
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "kmb_pool_new": (c_int, [POINTER(PoolConf), _POINTER]),
    "kmb_pool_set_reserve": (None, [c_void_p, c_uint64]),
    "kmb_pool_counts": (None, [c_void_p, POINTER(Counts)]),
    "kmb_pool_free": (None, [c_void_p]),
    "kmb_range_add": (c_int, [c_void_p, POINTER(CxlMem), POINTER(RangeConf)]),
    "kmb_range_leave": (c_int, [c_void_p, c_uint64]),
    "kmb_range_stay": (c_int, [c_void_p, c_uint64]),
    "kmb_range_used": (c_uint64, [c_void_p, c_uint64]),
    "kmb_range_remove": (c_int, [c_void_p, c_uint64]),
    "kmb_take": (c_int, [c_void_p, c_uint64, c_uint64, POINTER(c_uint64)]),
    "kmb_claim": (c_int, [c_void_p, POINTER(c_uint64), c_uint64]),
    "kmb_give": (None, [c_void_p, POINTER(c_uint64), c_uint64]),
    "kmb_volume_new": (c_int, [c_void_p, POINTER(VolumeConf), POINTER(c_uint64), _POINTER]),
    "kmb_volume_read": (c_int, [c_void_p, c_uint64, c_uint32, c_void_p]),
    "kmb_volume_write": (c_int, [c_void_p, c_uint64, c_uint32, c_void_p]),
    "kmb_volume_discard": (c_int, [c_void_p, c_uint64, c_uint32]),
    "kmb_volume_evacuate": (c_int, [c_void_p, c_uint64]),
    "kmb_volume_mapped": (c_uint64, [c_void_p]),
    "kmb_volume_free": (None, [c_void_p]),
    "kmb_backend_new": (c_int, [POINTER(CxlMem), POINTER(BackendConf), c_void_p, _POINTER]),
    "kmb_relay_new": (c_int, [POINTER(CxlMem), POINTER(ChannelConf), c_uint32, _POINTER]),
    "kmb_relay_rebind": (c_int, [c_void_p, POINTER(ChannelConf), c_uint32]),
    "kmb_relay_backend_new": (c_int, [POINTER(CxlMem), POINTER(BackendConf), c_void_p, _POINTER]),
    "kmb_relay_lun_new": (c_int, [c_void_p, c_void_p, _POINTER]),
    "kmb_relay_zero": (c_int, [c_void_p, c_uint64, c_uint64]),
    "kmb_relay_free": (None, [c_void_p]),
}


@functools.cache
def kmb() -> ctypes.CDLL:
    """The loaded core with these functions."""
    lib = library()
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


class Pages:
    """The pool of pages. Mappings that are added must outlive it."""

    def __init__(self, spare: int, reserve: int, recall_ms: int, event_fd: int) -> None:
        self.handle = c_void_p()
        conf = PoolConf(spare, reserve, recall_ms, event_fd)
        check(kmb().kmb_pool_new(byref(conf), byref(self.handle)), "pool", "make it")

    def add(self, mem: CxlMem, first: int, pages: int, *, fixed: int, volatile: bool = False) -> None:
        """Pages of a volatile range are for swap only."""
        conf = RangeConf(first, pages, fixed, volatile)
        check(kmb().kmb_range_add(self.handle, byref(mem), byref(conf)), "pool", "add a range")

    def leave(self, first: int) -> None:
        """Nothing new goes there. Raises `full` when what is used there has no room elsewhere."""
        check(kmb().kmb_range_leave(self.handle, first), f"range at page {first}", "empty it", "free pages first")

    def stay(self, first: int) -> None:
        check(kmb().kmb_range_stay(self.handle, first), f"range at page {first}", "keep it")

    def used_in(self, first: int) -> int:
        return int(kmb().kmb_range_used(self.handle, first))

    def remove(self, first: int) -> None:
        """Raises `busy` while a page is used."""
        check(kmb().kmb_range_remove(self.handle, first), f"range at page {first}", "remove it", "leases are still in it")

    def set_reserve(self, pages: int) -> None:
        kmb().kmb_pool_set_reserve(self.handle, pages)

    def counts(self) -> dict[str, int]:
        out = Counts()
        kmb().kmb_pool_counts(self.handle, byref(out))
        return out.to_json()

    def take(self, count: int, run: int) -> list[int]:
        """Pages for a lease. Raises `full`."""
        out = (c_uint64 * count)()
        check(kmb().kmb_take(self.handle, count, run, out), "pool", f"lease {count} pages", "release leases or ask for fewer")
        return list(out)

    def claim(self, pages: Sequence[int]) -> None:
        check(kmb().kmb_claim(self.handle, (c_uint64 * len(pages))(*pages), len(pages)), "pool", "claim leased pages")

    def give(self, pages: Sequence[int]) -> None:
        kmb().kmb_give(self.handle, (c_uint64 * len(pages))(*pages), len(pages))

    def close(self) -> None:
        handle, self.handle = self.handle, c_void_p()
        kmb().kmb_pool_free(handle)


class Volume:
    """Blocks of 4096 bytes. Raises `corrupt` with the first entry that names a page wrongly."""

    def __init__(self, pages: Pages, index: CxlMem, index_off: int, blocks: int, *, user: int, durable: bool) -> None:
        self.handle = c_void_p()
        self.blocks = blocks
        bad = c_uint64()
        conf = VolumeConf(index, index_off, blocks, user, durable)
        result = kmb().kmb_volume_new(pages.handle, byref(conf), byref(bad), byref(self.handle))
        if result == -errno.EUCLEAN:
            what = f"entry {bad.value} of the index names a page that is not there or is used already"
            raise DatapathError(Code.CORRUPT, f"volume of {USERS[user]}", what, "see: cxl-datapath kmem-blk check")
        check(result, f"volume of {USERS[user]}", "open it")

    def read(self, offset: int, length: int) -> bytes:
        buffer = ctypes.create_string_buffer(length)
        check(kmb().kmb_volume_read(self.handle, offset, length, buffer), "volume", f"read {length} bytes at {offset}")
        return buffer.raw

    def write(self, offset: int, data: bytes) -> None:
        check(kmb().kmb_volume_write(self.handle, offset, len(data), data), "volume", f"write {len(data)} bytes at {offset}")

    def discard(self, offset: int, length: int) -> None:
        check(kmb().kmb_volume_discard(self.handle, offset, length), "volume", f"discard {length} bytes at {offset}")

    def evacuate(self, first: int) -> None:
        check(kmb().kmb_volume_evacuate(self.handle, first), "volume", f"move blocks out of the range at page {first}")

    def mapped(self) -> int:
        return int(kmb().kmb_volume_mapped(self.handle))

    def close(self) -> None:
        handle, self.handle = self.handle, c_void_p()
        kmb().kmb_volume_free(handle)


class Relay:
    """Channels to a volume in another process."""

    def __init__(self, mem: CxlMem, channels: Sequence[ChannelConf]) -> None:
        self._mem = mem
        self.handle = c_void_p()
        array = (ChannelConf * len(channels))(*channels)
        check(kmb().kmb_relay_new(byref(mem), array, len(channels), byref(self.handle)), "relay", "open its channels")

    def rebind(self, channels: Sequence[ChannelConf]) -> None:
        """What is under way is sent again on the new channels."""
        array = (ChannelConf * len(channels))(*channels)
        check(kmb().kmb_relay_rebind(self.handle, array, len(channels)), "relay", "move to other channels")

    def zero(self, offset: int, length: int) -> None:
        """These bytes, multiples of a page, read as zero on return."""
        check(kmb().kmb_relay_zero(self.handle, offset, length), "relay", "write zeroes")


class VolumeBackend(Backend):
    """A backend over a volume of this process, or over a relay."""

    def __init__(self, mem: CxlMem, conf: BackendConf, device: Volume | Relay) -> None:
        self._mem = mem
        self._device = device
        self._handle = c_void_p()
        make = kmb().kmb_backend_new if isinstance(device, Volume) else kmb().kmb_relay_backend_new
        check(make(byref(mem), byref(conf), device.handle, byref(self._handle)), "backend", "start the request engine")
