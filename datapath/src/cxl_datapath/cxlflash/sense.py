# SPDX-License-Identifier: GPL-3.0-or-later
"""Sense data as an application got it (SPC-4, section 4.5): does it say that the LUN has to be looked at again?"""

from __future__ import annotations

import errno

from .refusal import Refusal, invalid

_FIXED, _DESCRIPTOR = (0x70, 0x71), (0x72, 0x73)
_NO_SENSE, _RECOVERED, _NOT_READY, _UNIT_ATTENTION = 0, 1, 2, 6
_POWER_ON, _PARAMETERS_CHANGED, _TARGET_CHANGED = 0x29, 0x2A, 0x3F


def asks_for_a_look(raw: bytes) -> bool:
    """Raises `Refusal`: EINVAL for what is no sense data, EIO for what says that the device is broken."""
    kind = raw[0] & 0x7F if raw else 0
    padded = raw.ljust(14, b"\0")
    if kind in _FIXED:
        key, code = padded[2] & 0xF, padded[12]
    elif kind in _DESCRIPTOR:
        key, code = padded[1] & 0xF, padded[2]
    else:
        raise invalid("sense data begin with 70, 71, 72 or 73 (hexadecimal)")
    if key in (_NO_SENSE, _RECOVERED, _NOT_READY):
        return False
    if key == _UNIT_ATTENTION and code in (_POWER_ON, _PARAMETERS_CHANGED, _TARGET_CHANGED):
        return True
    raise Refusal(errno.EIO, f"sense key {key:x}, code {code:02x}: the device reports an error that no look can mend")
