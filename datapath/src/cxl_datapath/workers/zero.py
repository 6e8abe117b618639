# SPDX-License-Identifier: GPL-3.0-or-later
"""Zeroes on a medium, as cheaply as it can."""

from __future__ import annotations

import ctypes
import mmap
import os

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
_WRITE = 1 << 20  # bytes of one write where the medium cannot do it by itself


def zero(fd: int, is_block: bool, offset: int, length: int) -> None:
    """The bytes read as zero on return. Raises OSError. `offset` and `length` are multiples of 4096."""
    # A hole in a file is zero and costs nothing; a block device is asked for zeroes, since discarding promises none.
    how = (_ZERO_RANGE if is_block else _PUNCH_HOLE) | _KEEP_SIZE
    if _libc.fallocate(fd, how, offset, length) == 0:
        return
    with mmap.mmap(-1, min(_WRITE, length)) as page:  # aligned, as O_DIRECT wants it
        done = 0
        while done < length:
            done += os.pwrite(fd, memoryview(page)[: min(len(page), length - done)], offset + done)
