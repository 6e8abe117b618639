# SPDX-License-Identifier: GPL-3.0-or-later
"""The control protocol's methods, by name."""

from __future__ import annotations

from . import backend, blkdev, host, lun, system, transport
from .base import Method

METHODS: dict[str, Method] = {
    **system.METHODS,
    **transport.METHODS,
    **host.METHODS,
    **backend.METHODS,
    **blkdev.METHODS,
    **lun.METHODS,
}

__all__ = ["METHODS", "Method"]
