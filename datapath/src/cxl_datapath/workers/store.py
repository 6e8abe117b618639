# SPDX-License-Identifier: GPL-3.0-or-later
"""The local end of a backend: a block device or a file, opened so that nobody else writes it by accident."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from ..backing import Use, share_file
from ..cbd.layout import (
    BACKEND_DISCARD,
    BACKEND_READ_ONLY,
    BACKEND_WRITE_ZEROES,
    BLOCK_SIZES,
    PHYSICAL_BLOCK_MAX,
    BackendEntry,
)
from ..errors import Code, DatapathError, from_errno
from ..lock_holder import lock_holder
from .in_memory import block_device_in_memory, file_in_memory
from .loops import loop_of

_BLKSSZGET, _BLKPBSZGET, _BLKGETSIZE64, _BLKROGET = 0x1268, 0x127B, 0x80081272, 0x125E
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


@dataclass(frozen=True)
class Store:
    fd: int
    is_block: bool
    read_only: bool
    direct: bool  # O_DIRECT
    block_size: int  # bytes, 512 or 4096
    capacity: int  # bytes
    discard: bool
    write_zeroes: bool
    physical_block_size: int  # bytes
    discard_granularity: int  # bytes, 0 without discard
    in_memory: bool  # requests never wait

    @property
    def flags(self) -> int:
        pairs = ((self.read_only, BACKEND_READ_ONLY), (self.discard, BACKEND_DISCARD), (self.write_zeroes, BACKEND_WRITE_ZEROES))
        return sum(flag for on, flag in pairs if on)


def open_store(path: str, read_only: bool) -> Store:
    """Opens exclusively: O_EXCL on a block device (refused while mounted), a lock on a file. Raises what the user can act on."""
    fd, is_block, direct = _open(path, read_only)
    try:
        if is_block:
            return _block_store(path, fd, read_only, direct)
        return _file_store(path, fd, read_only, direct)
    except BaseException:
        os.close(fd)
        raise


def same_device(path: str, store: Store, before: BackendEntry) -> tuple[int, int]:
    """Capacity and block size of a running backend do not change under its blkdevs. Raises `range` for another medium."""
    if store.capacity < before.capacity:
        what = f"has {store.capacity} bytes, backend {before.id} was given away with {before.capacity}"
        raise DatapathError(Code.RANGE, path, what, "give the medium or a whole copy of it, or stop the backend first")
    if before.logical_block_size % store.block_size:
        what = f"has blocks of {store.block_size} bytes, backend {before.id} was given away with {before.logical_block_size}"
        raise DatapathError(Code.RANGE, path, what, "give a medium with smaller blocks")
    return before.capacity, before.logical_block_size


def check_store(path: str, read_only: bool, before: BackendEntry) -> None:
    """Raises what `open_store` and `same_device` would say of a medium that is to take the place of a backend's."""
    store = open_store(path, read_only)
    try:
        same_device(path, store, before)
    finally:
        os.close(store.fd)


def _open(path: str, read_only: bool) -> tuple[int, bool, bool]:
    mode = _mode(path)
    is_block = stat.S_ISBLK(mode)
    if not is_block and not stat.S_ISREG(mode):
        raise DatapathError(Code.INVALID, path, "is neither a block device nor a regular file", "a backend needs one of them")
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | (os.O_EXCL if is_block else 0)
    for direct in (True, False):
        try:
            return os.open(path, flags | (os.O_DIRECT if direct else 0)), is_block, direct
        except OSError as error:
            if direct and error.errno == errno.EINVAL:
                continue  # a file system without O_DIRECT
            hint = "it is mounted or held by another device: release it first" if error.errno == errno.EBUSY else ""
            raise from_errno(error.errno or 0, path, "open it", hint) from None
    raise AssertionError("unreachable")


def _mode(path: str) -> int:
    try:
        return Path(path).stat().st_mode
    except OSError as error:
        raise from_errno(error.errno or 0, path, "look at it", "name an existing block device or file") from None


def _ioctl_number(fd: int, request: int, layout: str) -> int:
    raw = fcntl.ioctl(fd, request, bytes(struct.calcsize(layout)))
    return int(struct.unpack(layout, raw)[0])


def _block_store(path: str, fd: int, read_only: bool, direct: bool) -> Store:
    block, capacity = _ioctl_number(fd, _BLKSSZGET, "i"), _ioctl_number(fd, _BLKGETSIZE64, "Q")
    if block not in BLOCK_SIZES:
        raise DatapathError(Code.UNSUPPORTED, path, f"has logical blocks of {block} bytes", "512 and 4096 are possible")
    if not read_only and _ioctl_number(fd, _BLKROGET, "i"):
        raise DatapathError(Code.DENIED, path, "is read-only", "start the backend read-only")
    _check_capacity(path, capacity, block)
    number = os.fstat(fd).st_rdev
    discard = not read_only and _queue_limit(number, "discard_max_bytes") > 0
    physical = _physical(_ioctl_number(fd, _BLKPBSZGET, "I"), block)
    granularity = max(_queue_limit(number, "discard_granularity"), block) // block * block if discard else 0
    memory = block_device_in_memory(number)
    return Store(fd, True, read_only, direct, block, capacity, discard, not read_only, physical, granularity, memory)


def _physical(reported: int, block: int) -> int:
    """What the format takes as a physical block: a power of two, not below the logical one."""
    sound = reported & (reported - 1) == 0 and reported > block
    return min(reported, PHYSICAL_BLOCK_MAX) if sound else block


def _queue_limit(device: int, name: str) -> int:
    """A limit of the request queue; a partition has its disk's."""
    folder = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for queue in (folder / "queue", folder.resolve().parent / "queue"):
        try:
            return int((queue / name).read_text())
        except (OSError, ValueError):
            continue
    return 0


def _file_store(path: str, fd: int, read_only: bool, direct: bool) -> Store:
    try:
        if read_only:
            share_file(fd, Use.MEDIUM)
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        hint = "stop what uses it there, for example a backend, a pool or a transport of another daemon, or choose another file"
        raise DatapathError(Code.BUSY, path, f"is locked by {lock_holder(fd)}", hint) from None
    if not read_only and (loop := loop_of(fd)) is not None:
        hint = f"unmount and detach that one (losetup --detach /dev/{loop}), or start the backend on it"
        raise DatapathError(Code.BUSY, path, f"is shown by /dev/{loop}, whose users may write it, too", hint)
    capacity = os.fstat(fd).st_size
    block = _direct_block(fd, capacity) if direct else None
    if direct and block is None:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT)
        direct = False
    _check_capacity(path, capacity, block or BLOCK_SIZES[0])
    block = block or BLOCK_SIZES[0]
    holes = not read_only and _punches_holes(fd, capacity)
    physical = _physical(os.fstat(fd).st_blksize, block)
    memory = file_in_memory(os.fstat(fd).st_dev)
    return Store(fd, False, read_only, direct, block, capacity, holes, not read_only, physical, physical if holes else 0, memory)


def _direct_block(fd: int, capacity: int) -> int | None:
    """The smallest block that the file system takes with O_DIRECT and that divides the file; None: none does."""
    with mmap.mmap(-1, BLOCK_SIZES[-1]) as page:
        for block in BLOCK_SIZES:
            try:
                os.preadv(fd, [memoryview(page)[:block]], 0)
            except OSError:
                continue
            return block if capacity % block == 0 else None
    return None


def _punches_holes(fd: int, capacity: int) -> bool:
    """Tried behind the end of the file, where it changes nothing."""
    behind = -(-capacity // 4096) * 4096
    return int(_libc.fallocate(fd, _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE, behind, 4096)) == 0


def _check_capacity(path: str, capacity: int, block: int) -> None:
    if capacity <= 0 or capacity % block:
        hint = f"give it a size that is a multiple of {block}" if capacity else "give it a size"
        raise DatapathError(Code.INVALID, path, f"has {capacity} bytes", hint)
