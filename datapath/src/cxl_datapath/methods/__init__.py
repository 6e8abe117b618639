# SPDX-License-Identifier: GPL-3.0-or-later
"""The control protocol's methods, by name."""

from __future__ import annotations

from . import backend, blkdev, dcd, host, system, transport
from .base import Handed, Method

METHODS: dict[str, Method] = {
    **system.METHODS,
    **transport.METHODS,
    **host.METHODS,
    **backend.METHODS,
    **blkdev.METHODS,
    **dcd.METHODS,
}

__all__ = ["METHODS", "Handed", "Method"]
