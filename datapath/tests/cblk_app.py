# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of the block library share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lun_app import MIB

from cxl_datapath import cblk
from cxl_datapath.cblk import cblk_read

BLOCK = cblk.BLOCK_SIZE
BLOCKS = 64 * MIB // BLOCK


def failing(number: int, call: Callable[..., object], *arguments: object, **named: object) -> str:
    with pytest.raises(OSError) as caught:
        call(*arguments, **named)
    assert caught.value.errno == number, caught.value
    return str(caught.value)


def pattern(value: int, blocks: int = 1) -> bytes:
    return bytes([value]) * (BLOCK * blocks)


def blocks_at(chunk: int, lba: int, count: int = 1) -> bytearray:
    buffer = bytearray(BLOCK * count)
    assert cblk_read(chunk, buffer, lba) == count
    return buffer
