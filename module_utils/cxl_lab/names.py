# SPDX-License-Identifier: GPL-3.0-or-later
"""Which names may reach a command line, a file name, XML or QMP."""

from __future__ import annotations

import re

from .errors import LabError, shown

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def check_name(value: object, subject: str) -> str:
    """A name of a lab, host or device: a lower-case letter, then at most 31 letters, digits, "_" or "-".

    :raises LabError: for anything else.
    """
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise LabError(
        subject, f"{shown(value)} is no valid name", 'use a lower-case letter, then letters, digits, "-" or "_", at most 32'
    )
