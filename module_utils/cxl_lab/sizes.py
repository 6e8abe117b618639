# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes as people write them ("512M"), parsed in one place."""

from __future__ import annotations

import re

from .errors import LabError, shown

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PATTERN = re.compile(r"(\d{1,15})\s*([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)


def parse_size(value: object, subject: str = "size") -> int:
    """Bytes of "512M", "4 GiB", "4096" or 4096; units are powers of 1024.

    :raises LabError: when it is no size, or not above zero.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise LabError(subject, f"{shown(value)} is no size", 'write it as "512M" or "4G"')
    match = _PATTERN.fullmatch(value.strip() if isinstance(value, str) else f"{max(-1, min(value, 10**15))}")
    size = int(match.group(1)) * _UNITS[match.group(2).upper()] if match else 0
    if size <= 0:
        raise LabError(subject, f"{shown(value)} is no size", 'write it as "512M" or "4G"')
    return size


def format_size(size: int) -> str:
    """The shortest exact form: 536870912 -> "512M", 1000 -> "1000"."""
    for unit in ("T", "G", "M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)
