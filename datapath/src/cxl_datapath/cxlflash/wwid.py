# SPDX-License-Identifier: GPL-3.0-or-later
"""World-wide identifiers of LUNs: 32 hexadecimal digits, as a name of format NAA 6 has."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from ..errors import Code, DatapathError
from ..names import pool_of

_WWID = re.compile(r"[0-9a-f]{32}")
_LOCAL = "3"  # as in NAA 3, "assigned locally"; no vendor's name of this length begins with it


def check_wwid(field: str, value: object) -> str:
    """`value` when it is 32 lower-case hexadecimal digits."""
    if not isinstance(value, str) or not _WWID.fullmatch(value):
        raise DatapathError(Code.INVALID, field, f"{value!r:.60} is no WWID", "write 32 hexadecimal digits, in lower case")
    return value


def is_wwid(text: str) -> bool:
    return bool(_WWID.fullmatch(text))


def wwid_of(path: str) -> str:
    """The device's own where it has one in 128 bits, else one made of the path: it is the same after every restart."""
    real = path if pool_of(path) else os.path.realpath(path)
    found = re.search(r"naa\.(6[0-9a-f]{31})", _device_wwid(real))
    return found[1] if found else _LOCAL + hashlib.sha256(os.fsencode(real)).hexdigest()[:31]


def _device_wwid(path: str) -> str:
    try:
        number = Path(path).stat().st_rdev
        folder = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/device/wwid")
        return folder.read_text().strip().lower()
    except OSError:
        return ""
