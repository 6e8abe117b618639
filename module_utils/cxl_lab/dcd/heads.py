# SPDX-License-Identifier: GPL-3.0-or-later
"""What the heads of a multi-headed device hold, for the comparison with their claims."""

from __future__ import annotations

import os
from typing import Any, Mapping

from ..errors import LabError
from ..sizes import format_size
from .device import Range
from .manager import Manager


def held_by(fabric: Manager, host: str, device: str) -> list[Range]:
    """What is accepted or pending on the device of a host, as ranges of the whole memory."""
    geometry, asked = fabric.geometry(host, device), fabric.device(host, device)
    return [
        (region * geometry.region_size + offset, size)
        for region in range(geometry.regions)
        for offset, size in asked.held(region, geometry.region_size)
    ]


def missing(path: str) -> bool:
    """:raises LabError: when that cannot be told."""
    try:
        os.lstat(path)
        return False
    except FileNotFoundError:
        return True
    except OSError as error:
        raise LabError(f"state file {path}", f"cannot be looked at: {error.strerror}", "run as root") from error


def summary(finding: Mapping[str, Any]) -> str:
    """A finding in a line."""
    return f"{finding['kind']} {format_size(finding['length'])} at {finding['offset']:#x} of {finding['head']}"
