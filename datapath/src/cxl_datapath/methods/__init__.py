# SPDX-License-Identifier: GPL-3.0-or-later
"""The control protocol's methods, by name."""

from __future__ import annotations

from . import backend, blkdev, dcd, host, lun, pool, pool_memory, system, transport, volume
from .base import Handed, Method

_MODULES = (system, transport, host, backend, blkdev, dcd, lun, pool, pool_memory, volume)
METHODS: dict[str, Method] = {name: method for module in _MODULES for name, method in module.METHODS.items()}

__all__ = ["METHODS", "Handed", "Method"]
