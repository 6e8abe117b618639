# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user may miss in a memory: no format without force over that."""

from __future__ import annotations

from ..mapping import Bytes

# what, offset in bytes, magic
_SIGNS = (
    ("a damaged CBD transport", 0, b"CXTI"),
    ("a damaged CBD transport", 4096, b"CXTI"),
    ("a kmem_blk pool", 0, b"KMEB"),
    ("a range of a kmem_blk pool", 0, b"KMER"),
    ("an XFS file system", 0, b"XFSB"),
    ("an ext2/3/4 file system", 1080, b"\x53\xef"),
    ("a btrfs file system", 65600, b"_BHRfS_M"),
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("a partition table", 512, b"EFI PART"),
    ("swap space", 4086, b"SWAPSPACE2"),
)


LOOK = 1 << 20  # the first MiB: partition tables, superblocks, and where data begins


def foreign(memory: Bytes, look: int = LOOK) -> str:
    """What is in the way of a format, in words; empty: nothing. That is known content, or any byte that is not zero in the first
    `look` bytes."""
    known = signature(memory)
    if known is not None:
        return known
    first = memory.read(0, min(look, memory.size))
    return "data of something unknown" if first != bytes(len(first)) else ""


def signature(memory: Bytes) -> str | None:
    """What known content the memory begins with, or None. Reads at most 64 KiB + one page."""
    for what, offset, magic in _SIGNS:
        if offset + len(magic) <= memory.size and memory.read(offset, len(magic)) == magic:
            return what
    return None
